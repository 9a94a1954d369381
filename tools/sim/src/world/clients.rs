//! The clients: they submit, ask, wait, and try again elsewhere, over the frames of the submission port. Some frames are
//! hostile.

use std::collections::VecDeque;

use bytes::Bytes;
use dag::{
    Address, Hash,
    client::{self, Code, Response},
    transaction::{self, Payee, Terms},
};
use engine::node::clients::{ClientId, Flow};
use netio::FrameReader;

use super::{Event, MS, World, key};
use crate::{
    fault::HostId,
    model::{Account, Heard, Invariant, Wanted, hear},
    random::Random,
    scenario::Scenario,
    trace::{CLIENTS, Kind},
};

/// An answer that takes so long is asked of another validator, ns.
const PATIENCE: u64 = 1_500 * MS;
/// Tags from here on are of records that can't be committed.
const HOSTILE: u64 = 1 << 40;

/// A connection to a validator.
struct Session {
    host: HostId,
    core: usize,
    life: u64,
    id: ClientId,
    paused: VecDeque<Bytes>,
    is_paused: bool,
}

/// A client.
pub struct Client {
    accounts: Vec<Account>,
    session: Option<Session>,
    /// Counts connections.
    sessions: u64,
    next_tag: u64,
    pub acknowledged: u64,
}

impl Client {
    pub fn new(_: usize, scenario: &Scenario, secrets: &mut Random) -> Client {
        let account = |_| Account::new(key(scenario.real_signatures, &secrets.bytes()));
        Client {
            accounts: (0..scenario.accounts).map(account).collect(),
            session: None,
            sessions: 0,
            next_tag: 0,
            acknowledged: 0,
        }
    }

    pub fn addresses(&self) -> impl Iterator<Item = Address> {
        self.accounts.iter().map(Account::address)
    }

    /// Whether it has heard of everything that it wanted.
    pub fn is_content(&self) -> bool {
        self.accounts.iter().all(|account| account.outstanding().is_empty())
    }

    /// What it waits for, for a report.
    pub fn waits_for(&self) -> Vec<Hash> {
        self.accounts
            .iter()
            .flat_map(|account| account.outstanding().iter().map(|wanted| wanted.id))
            .collect()
    }
}

impl World {
    pub(super) fn on_tick(&mut self, number: usize) {
        let pause = match self.healed {
            true => 150 * MS,
            false => {
                let mean = 1_000 * MS * self.clients.len() as u64 / self.scenario.rate.max(1);
                self.dice.client.between(mean / 4, mean * 7 / 4)
            }
        };
        self.at(pause, Event::Tick(number));
        self.end_stale_session(number);
        if self.clients[number].session.is_none() && !self.open_session(number) {
            return;
        }
        if self.healed {
            return;
        }
        let dice = &mut self.dice.client;
        match dice.below(10) {
            0 => self.be_hostile(number),
            1 | 2 => {
                let account = dice.index(self.clients[number].accounts.len());
                let address = self.clients[number].accounts[account].address();
                let mut out = Vec::new();
                client::encode_account(account as u64, &address, &mut out);
                self.submit_frame(number, &out);
            }
            _ => self.want_more(number),
        }
    }

    /// Gives up a validator that is gone or does not answer.
    fn end_stale_session(&mut self, number: usize) {
        let now = self.now;
        let client = &mut self.clients[number];
        let Some(session) = &client.session else { return };
        let waits = |wanted: &Wanted| now > wanted.sent + PATIENCE;
        let impatient = client.accounts.iter().flat_map(Account::outstanding).any(waits);
        let host = &mut self.hosts[session.host];
        let dead = host.life != session.life || !host.is_up();
        if dead || impatient {
            if !dead {
                host.cores[session.core].core.on_client_closed(session.id);
            }
            client.session = None;
        }
    }

    fn open_session(&mut self, number: usize) -> bool {
        let id = self.dice.client.index(self.scenario.validators);
        let core = self.dice.client.index(usize::from(self.scenario.cores));
        let host = &mut self.hosts[id];
        if !host.is_up() || host.paused_until > self.now {
            return false;
        }
        let session = ClientId::new(super::hosts::core_number(core), host.next_session);
        host.next_session += 1;
        host.cores[core].core.on_client_open(session);
        let life = host.life;
        self.trace.mark(self.now, Kind::Session, id);
        let client = &mut self.clients[number];
        client.sessions += 1;
        client.session =
            Some(Session { host: id, core, life, id: session, paused: VecDeque::new(), is_paused: false });
        // Whatever is not answered is submitted again: the same records.
        let now = self.now;
        let mut frames = Vec::new();
        for wanted in client.accounts.iter_mut().flat_map(Account::outstanding_mut) {
            wanted.sent = now;
            let mut out = Vec::new();
            client::encode_submit(wanted.tag, std::iter::once(&wanted.record[..]), &mut out);
            frames.push(out);
        }
        frames.iter().for_each(|frame| self.submit_frame(number, frame));
        true
    }

    /// Submits one or a few transactions more.
    fn want_more(&mut self, number: usize) {
        let all: Vec<Address> = self.clients.iter().flat_map(Client::addresses).collect();
        let (chain, now) = (self.chain(), self.now);
        let (client, dice) = (&mut self.clients[number], &mut self.dice.client);
        let index = dice.index(client.accounts.len());
        let account = &mut client.accounts[index];
        let (first_tag, mut records) = (client.next_tag, Vec::new());
        for _ in 0..dice.between(1, 2) {
            let Some(wanted) = account.want(dice, &all, chain, client.next_tag, now) else { break };
            records.push(wanted.record.clone());
            client.next_tag += 1;
        }
        if !records.is_empty() {
            let mut out = Vec::new();
            client::encode_submit(first_tag, records.iter().map(Vec::as_slice), &mut out);
            self.submit_frame(number, &out);
        }
    }

    /// Sends what no validator may accept.
    fn be_hostile(&mut self, number: usize) {
        let chain = self.chain();
        let (client, dice) = (&mut self.clients[number], &mut self.dice.client);
        let account = &client.accounts[dice.index(client.accounts.len())];
        let mut out = Vec::new();
        let payees = [Payee { to: Address(dice.bytes()), amount: 1 }];
        let terms = Terms { chain, epoch: 0, sequence: account.sequence() + 1, fee: 0 };
        match dice.below(4) {
            0 => {
                // Garbage: the connection is closed.
                let bytes: Vec<u8> = (0..dice.between(5, 60)).map(|_| dice.any().to_le_bytes()[0]).collect();
                out.extend_from_slice(&[0; 4]);
                out.extend_from_slice(&bytes);
                out[4] = 3 + out[4] % 200;
            }
            1 => {
                let mut record = transaction::sign(account.key(), &terms, &payees).expect("well formed");
                let last = record.len() - 1;
                record[last - dice.index(32)] ^= 1;
                client::encode_submit(HOSTILE + client.next_tag, std::iter::once(&record[..]), &mut out);
            }
            2 => {
                let terms = Terms { chain: chain ^ 1, ..terms };
                let record = transaction::sign(account.key(), &terms, &payees).expect("well formed");
                client::encode_submit(HOSTILE + client.next_tag, std::iter::once(&record[..]), &mut out);
            }
            _ => {
                // More than there is, by somebody who has nothing.
                let key = key(self.scenario.real_signatures, &dice.bytes());
                let terms = Terms { sequence: 1, ..terms };
                let record = transaction::sign(&key, &terms, &payees).expect("well formed");
                client::encode_submit(HOSTILE + client.next_tag, std::iter::once(&record[..]), &mut out);
            }
        }
        client.next_tag += 1;
        self.submit_frame(number, &out);
    }

    fn submit_frame(&mut self, number: usize, framed: &[u8]) {
        let delay = 100_000 + self.dice.client.below(200_000);
        let session = self.clients[number].sessions;
        self.at(
            delay,
            Event::ToNode { client: number, session, bytes: Bytes::copy_from_slice(&framed[4..]) },
        );
    }

    pub(super) fn on_client_frame(&mut self, number: usize, session_number: u64, bytes: &Bytes) {
        let client = &mut self.clients[number];
        if client.sessions != session_number {
            return;
        }
        let Some(session) = &mut client.session else { return };
        let host = &mut self.hosts[session.host];
        if host.life != session.life || !host.is_up() {
            return;
        }
        if session.is_paused {
            return session.paused.push_back(bytes.clone());
        }
        let local = host.local(self.now);
        let core = &mut host.cores[session.core].core;
        self.trace.frame(self.now, CLIENTS + number, session.host, bytes);
        self.trace.arrives(self.now);
        let (id, number_of_core) = (session.host, session.core);
        match core.on_client_frame(session.id, bytes, local) {
            Ok(flow) => session.is_paused |= flow == Flow::Pause,
            Err(_) => {
                core.on_client_closed(session.id);
                client.session = None;
            }
        }
        self.wake(id, number_of_core);
    }

    pub(super) fn resume(&mut self, host: HostId, id: ClientId) {
        let life = self.hosts[host].life;
        let is_it = |session: &Session| (session.host, session.life, session.id) == (host, life, id);
        let found = self.clients.iter_mut().position(|client| client.session.as_ref().is_some_and(is_it));
        let Some(number) = found else { return };
        let client = &mut self.clients[number];
        let (sessions, session) = (client.sessions, client.session.as_mut().expect("just found"));
        session.is_paused = false;
        for bytes in std::mem::take(&mut session.paused) {
            self.at(10_000, Event::ToNode { client: number, session: sessions, bytes });
        }
    }

    /// A validator answers: the bytes travel.
    pub(super) fn answer(&mut self, host: HostId, id: ClientId, bytes: Bytes) {
        let life = self.hosts[host].life;
        let is_it = |session: &Session| (session.host, session.life, session.id) == (host, life, id);
        let found = self.clients.iter().position(|client| client.session.as_ref().is_some_and(is_it));
        let Some(number) = found else { return };
        let delay = 100_000 + self.dice.client.below(200_000);
        let session = self.clients[number].sessions;
        self.at(delay, Event::FromNode { client: number, session, bytes });
    }

    pub(super) fn on_replies(&mut self, number: usize, session: u64, bytes: &Bytes) {
        let client = &self.clients[number];
        let Some(open) = client.session.as_ref().filter(|_| client.sessions == session) else { return };
        let host = open.host;
        self.trace.frame(self.now, host, CLIENTS + number, bytes);
        self.trace.arrives(self.now);
        let mut frames = Vec::new();
        let mut reader = FrameReader::new(client::MAX_FRAME);
        reader.push(bytes, &mut |frame| frames.push(frame)).expect("validators frame their answers well");
        for frame in frames {
            match Response::parse(&frame).expect("validators answer well") {
                Response::Replies(replies) => {
                    replies.iter().for_each(|reply| self.on_reply(number, host, reply))
                }
                Response::Account { tag, state } => {
                    let Ok(account) = usize::try_from(tag) else { continue };
                    let address = self.clients[number].accounts[account].address();
                    if self.hosts[host].honest {
                        self.judge.ledger.on_account(self.now, &address, state.as_ref());
                    }
                }
            }
        }
    }

    fn on_reply(&mut self, number: usize, host: HostId, reply: &client::Reply) {
        let now = self.now;
        if !self.hosts[host].honest {
            // Who asks a liar learns nothing; the client goes on to another one.
            if self.dice.client.percent(50) {
                self.clients[number].session = None;
            }
            return;
        }
        if reply.tag >= HOSTILE {
            if reply.code == Code::Committed {
                self.judge.ledger.fail(
                    now,
                    Invariant::Admission,
                    format!("a forged record is acknowledged: {reply:?}"),
                );
            }
            return;
        }
        let client = &mut self.clients[number];
        // A late answer of an earlier connection is an answer too.
        let Some(heard) = hear(&mut client.accounts, reply) else { return };
        self.trace.line(now, || format!("client {number}: {heard:?} at height {}", reply.height));
        match heard {
            Heard::Acknowledged(id) => {
                client.acknowledged += 1;
                self.judge.ledger.on_acknowledged(now, &id, reply);
            }
            Heard::Stale(id) => self.judge.ledger.on_called_stale(now, &id),
            Heard::Later(_) => {}
            Heard::Refused(_, code) => {
                let what = format!("a good record is refused by host {host}: {code:?}");
                self.judge.ledger.fail(now, Invariant::Admission, what);
            }
        }
    }
}
