//! Transactions on their way in: from clients and peers into the mempools, over the batch verifier.

use bytes::Bytes;
use dag::{
    Address, ReplicaId, Transaction,
    client::{AccountState, Code, Reply, Response},
    planted::{self, Defect},
    wire::WireError,
};
use shard_core::mempool::{Admission, Answer, Origin, Settled, Ticket};

use crate::metrics::Stage;

use super::{
    Core, Cross, Effect, Subject,
    clients::{ClientId, Flow},
    frame::{Frame, MAX_FORWARD},
    meters::Count,
    table::Deferred,
    verify,
};

/// Records that are admitted in one turn, at most.
const ADMIT_SLICE: usize = 1024;
/// Transactions of a table that go to all validators when it is stuck: enough to make them wait, and to complain, too.
const SPREAD: usize = 64;
/// A table that stays stuck is spread again after so long, ns.
const SPREAD_AGAIN: u64 = 1_000_000_000;
/// Transactions of one core that wait at once. Past it the core stops reading from clients: they wait in their own queues, and
/// what is admitted is decided soon.
const MAX_WAITING: usize = 4 * 1024;
/// Forwarded transactions may fill the queue of signatures further than clients: their validator holds them already.
const MAX_FORWARDED: usize = 4 * verify::MAX_WAITING;
/// All that may wait for its verdict or be in work, should it be of one table: more than the admission lets in, so that
/// it holds clients back and never refuses them.
pub(super) const MAX_CANDIDATES: usize = MAX_FORWARDED + verify::BATCH + ADMIT_SLICE;

impl Core {
    /// A client has connected.
    pub fn on_client_open(&mut self, client: ClientId) {
        self.clients.open(client);
    }

    /// A client is gone.
    pub fn on_client_closed(&mut self, client: ClientId) {
        self.clients.close(client);
    }

    /// A client's frame. An error closes its connection.
    pub fn on_client_frame(&mut self, client: ClientId, frame: &Bytes, now: u64) -> Result<Flow, WireError> {
        let (flow, question) = self.clients.on_frame(client, frame, now)?;
        if let Some(question) = question {
            let core = self.placement.core_of_table(&self.shard, question.address.table(self.shard.tables));
            if core == self.placement.core {
                let answer = self.account_answer(question.tag, &question.address);
                self.effects.push_back(Effect::ToClient(client, answer));
            } else {
                let cross = Cross::Account { client, tag: question.tag, address: question.address };
                self.effects.push_back(Effect::ToCore(core, cross));
            }
        }
        Ok(flow)
    }

    /// The answer to a client's question for an account of this core.
    pub(super) fn account_answer(&self, tag: u64, address: &Address) -> Bytes {
        let mut out = Vec::new();
        Response::Account { tag, state: self.account_state(address) }.encode_frame(&mut out);
        out.into()
    }

    /// An account of this core; none where it was never paid.
    pub(super) fn account_state(&self, address: &Address) -> Option<AccountState> {
        let table = &self.tables[self.slots[usize::from(address.table(self.shard.tables))]?];
        let leaf = table.state.accounts().get(address)?;
        Some(AccountState {
            balance: leaf.balance,
            sequence: leaf.sequence,
            pending: table.mempool.pending_sequence(table.state.accounts(), address),
            unit_height: leaf.unit_height,
            unit_head: leaf.unit_head,
        })
    }

    /// Whether clients' records have to wait outside.
    pub(super) fn is_full(&self) -> bool {
        self.verifier.is_full() || self.waiting() >= MAX_WAITING
    }

    fn waiting(&self) -> usize {
        self.tables.iter().map(|table| table.mempool.len()).sum()
    }

    /// Takes clients' records in, as long as there is room.
    pub(super) fn admit(&mut self, now: u64) {
        let mut clients = std::mem::take(&mut self.clients);
        let room = MAX_WAITING.saturating_sub(self.waiting()).min(ADMIT_SLICE);
        let mut admitted = 0;
        while admitted < room && clients.has_backlog() && !self.verifier.is_full() {
            let mut refused = Vec::new();
            let resume = clients.admit_next(|client, tag, record, arrived| {
                admitted += 1;
                self.meters.stage(Stage::Ingress, arrived, now, 1);
                if let Err(code) = self.route(client, tag, record, now) {
                    refused.push((client, Reply::refused(tag, code)));
                }
            });
            for (client, reply) in refused {
                clients.reply(client, reply);
            }
            self.effects.extend(resume.map(Effect::Resume));
        }
        // Replies that came up meanwhile were kept aside.
        let meanwhile = std::mem::replace(&mut self.clients, clients);
        debug_assert!(meanwhile.is_empty());
        self.answer_settled(now);
    }

    /// Checks a client's record as far as any node can, and brings it to the core of its table.
    fn route(&mut self, client: ClientId, tag: u64, record: &[u8], now: u64) -> Result<(), Code> {
        if record.len() > dag::transaction::MAX_SIZE {
            return Err(Code::Oversize);
        }
        let transaction = Transaction::parse(record)?;
        let table = transaction.sender().table(self.shard.tables);
        // A copy, so that one waiting record does not keep a whole frame in memory.
        let record = Bytes::copy_from_slice(record);
        match self.slots[usize::from(table)] {
            Some(slot) => self.submit(slot, Origin::Client { handle: client.to_u64(), tag }, record, now),
            None => {
                let core = self.placement.core_of_table(&self.shard, table);
                self.effects.push_back(Effect::ToCore(core, Cross::Submit { client, tag, record }));
            }
        }
        Ok(())
    }

    /// Offers a record to a table's mempool, and its signature to the verifier.
    pub(super) fn submit(&mut self, slot: usize, origin: Origin, record: Bytes, now: u64) {
        let table = &mut self.tables[slot];
        if table.state.is_busy() {
            table.deferred.push(Deferred::Record(origin, record));
            return;
        }
        let client = match origin {
            Origin::Client { handle, .. } => Some(ClientId::from_u64(handle)),
            Origin::Peer(_) => None,
        };
        match table.mempool.admit(table.state.accounts(), self.shard.epoch(), record, origin, now) {
            Ok(Admission::Verify(ticket)) => {
                let (record, id) = table.mempool.candidate(&ticket);
                let transaction = Transaction::parse(record).expect("admission has checked the format");
                let (key, signature) = (transaction.sender().as_bytes(), transaction.signature());
                let id = *id;
                let subject = Subject::Submitted { slot, ticket, client, since: now };
                let ours = table.replica.primary() == self.shard.me;
                self.verifier.push(key, id, signature, subject, ours);
            }
            Ok(Admission::Known) => self.calls.accepted(client),
            Err(answer) => {
                let answer = table.as_far_as_known(answer, now);
                self.settled.push(Settled { origin, answer });
            }
        }
    }

    /// A client's record from the core that holds its connection.
    pub(super) fn submit_from_core(&mut self, client: ClientId, tag: u64, record: Bytes, now: u64) {
        let transaction = Transaction::parse(&record).expect("the other core has checked the format");
        let table = transaction.sender().table(self.shard.tables);
        let slot = self.slots[usize::from(table)].expect("cores know the placement");
        self.submit(slot, Origin::Client { handle: client.to_u64(), tag }, record, now);
        self.answer_settled(now);
    }

    /// Transactions that another validator forwards to the primary.
    pub(super) fn on_forwarded(&mut self, from: ReplicaId, records: Vec<Bytes>, now: u64) {
        for record in records {
            if self.verifier.len() >= MAX_FORWARDED {
                self.meters.count(Count::ForwardedDropped, 1);
                continue;
            }
            let Ok(transaction) = Transaction::parse(&record) else {
                self.meters.count(Count::ForwardedMalformed, 1);
                continue;
            };
            let Some(slot) = self.slots[usize::from(transaction.sender().table(self.shard.tables))] else {
                self.meters.count(Count::ForwardedMalformed, 1);
                continue;
            };
            self.submit(slot, Origin::Peer(from), Bytes::copy_from_slice(&record), now);
        }
    }

    /// One slice of signatures.
    pub(super) fn verify(&mut self, now: u64) -> bool {
        let more = self.verifier.step(now, self.propose_at, &mut self.verdicts);
        let (batches, signatures) = self.verifier.verified();
        self.meters.set(Count::SignatureBatches, batches);
        self.meters.set(Count::Signatures, signatures);
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for (subject, valid) in verdicts.drain(..) {
            match subject {
                Subject::Submitted { slot, ticket, client, since } => {
                    self.verified.push(since);
                    if self.tables[slot].state.is_busy() {
                        self.tables[slot].deferred.push(Deferred::Verdict(ticket, valid, client));
                    } else {
                        self.on_submitted_verdict(slot, ticket, valid, client, now);
                    }
                }
                Subject::Proposed { slot, proposal } => self.on_proposed_verdict(slot, proposal, valid, now),
                Subject::Bundle { from, bundle } => self.on_bundle_verdict(from, &bundle, valid, now),
            }
        }
        self.verdicts = verdicts;
        self.answer_settled(now);
        more
    }

    fn on_submitted_verdict(
        &mut self,
        slot: usize,
        ticket: Ticket,
        valid: bool,
        client: Option<ClientId>,
        now: u64,
    ) {
        let valid = valid || planted::is(Defect::SignatureUnchecked);
        let table = &mut self.tables[slot];
        let before = self.settled.len();
        table.mempool.verified(table.state.accounts(), ticket, valid, &mut self.settled);
        table.answer_as_far_as_known(&mut self.settled[before..], now);
        table.ready_since.get_or_insert(now);
        if self.settled.len() == before {
            self.calls.accepted(client);
        }
    }

    /// Takes up what came while a block was being executed.
    pub(super) fn take_deferred(&mut self, slot: usize, now: u64) {
        let mut deferred = std::mem::take(&mut self.tables[slot].deferred);
        for deferred in deferred.drain(..) {
            match deferred {
                Deferred::Record(origin, record) => self.submit(slot, origin, record, now),
                Deferred::Verdict(ticket, valid, client) => {
                    self.on_submitted_verdict(slot, ticket, valid, client, now);
                }
            }
        }
        self.tables[slot].deferred = deferred;
    }

    /// Sends the answers that have come up to whoever submitted.
    pub(super) fn answer_settled(&mut self, now: u64) {
        let mut settled = std::mem::take(&mut self.settled);
        if self.replies.0 == 0 {
            self.replies.1 = now;
        }
        self.replies.0 += settled.len() as u64;
        for Settled { origin, answer } in settled.drain(..) {
            if let Origin::Client { handle, tag } = origin {
                self.answer(ClientId::from_u64(handle), to_reply(tag, &answer));
            }
        }
        self.settled = settled;
    }

    /// Sends a reply to a client, over its core.
    pub(super) fn answer(&mut self, client: ClientId, reply: Reply) {
        self.meters.count_reply(reply.code);
        if client.core() == self.placement.core {
            if !self.calls.answer(client, &reply) {
                self.clients.reply(client, reply);
            }
        } else {
            self.effects.push_back(Effect::ToCore(client.core(), Cross::Reply(client, reply)));
        }
    }

    /// Sends clients' transactions on to the primaries of their tables; to all validators, where the primary can't be reached or
    /// nothing has been committed for long. Only who holds a transaction complains about a primary that does not propose it, and it takes
    /// f + 1 to leave a view (PBFT, section 4.4: the client would send to all).
    pub(super) fn forward(&mut self, now: u64) {
        for slot in 0..self.tables.len() {
            let table = &mut self.tables[slot];
            if !table.active {
                continue;
            }
            let primary = table.replica.primary();
            let stuck = table.stuck_at().is_some_and(|at| at <= now);
            if stuck {
                table.spread_until = now + SPREAD_AGAIN;
                table.mempool.forward_again();
            }
            let lost =
                primary != self.shard.me && !self.links_up[usize::from(table.lane)][usize::from(primary)];
            let (most, spread) = if stuck || lost { (SPREAD, true) } else { (usize::MAX, false) };
            let mut records = Vec::new();
            let mut bytes = 0;
            while records.len() < most && bytes < MAX_FORWARD - dag::transaction::MAX_SIZE {
                let Some(record) = table.mempool.next_to_forward() else { break };
                bytes += record.len() + 2;
                records.push(record);
            }
            if records.is_empty() || (primary == self.shard.me && !spread) {
                continue;
            }
            let frame = Frame::Transactions(records).encode();
            let lane = table.lane;
            self.effects.push_back(match spread {
                true => Effect::ToPeers(lane, frame),
                false => Effect::ToPeer(primary, lane, frame),
            });
        }
    }
}

/// The binary protocol's form of an answer.
fn to_reply(tag: u64, answer: &Answer) -> Reply {
    match answer.place {
        Some(place) => {
            Reply { tag, code: answer.code, table: place.table, height: place.height, index: place.index }
        }
        None => Reply::refused(tag, answer.code),
    }
}
