//! After the faults: everything that was asked for is decided, all stand at the same place, and what they hold is what the model holds.

use std::{
    collections::HashSet,
    sync::atomic::Ordering::Relaxed,
    thread::sleep,
    time::{Duration, Instant},
};

use dag::{
    Address, Certificate, Hash, TableId, View,
    client::{AccountState, Reply},
    state_tree::{AccountProof, CheckpointPreimage},
    wire::Reader,
};
use engine::topology::Signatures;
use perf::client::{Client, ClientError};
use serde::Deserialize;
use serde_json::{Value, json};
use sim::model::{Invariant, SETTLED_VIEWS, SETTLED_WITHIN};

use super::audit::Auditor;
use crate::rpc::{Fate, RpcError, Status};

/// Pause between two looks at everybody.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long one answer may take when everybody is well.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

impl Auditor {
    /// Looks at everybody until the faults end, then judges all that was promised. Ends at the first violation.
    pub fn run(mut self) -> Auditor {
        while !self.has_ended() && !self.shared.healed.load(Relaxed) {
            self.look();
            sleep(LOOK_AGAIN);
        }
        if !self.has_ended() && self.settle() {
            self.judge_end();
        }
        self
    }

    fn has_ended(&self) -> bool {
        self.violation().is_some() || self.shared.stop.load(Relaxed)
    }

    /// Waits until everything is decided and all stand at the same place. Returns whether they do.
    fn settle(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_nanos(SETTLED_WITHIN);
        let mut first: Option<Vec<View>> = None;
        loop {
            let states = self.look();
            if self.has_ended() {
                return false;
            }
            let views = views(&states, self.genesis.tables());
            let before = first.get_or_insert_with(|| views.clone());
            let needed =
                views.iter().zip(before.iter()).map(|(now, before)| now.saturating_sub(*before)).max();
            if needed.is_some_and(|needed| needed > SETTLED_VIEWS) {
                self.fail(Invariant::Liveness, format!("after the faults a table needed {needed:?} views"));
                return false;
            }
            let open = match unrest(&states) {
                None if !self.shared.is_settled() => Some("clients wait for answers".to_owned()),
                None => self.difference(),
                unrest => unrest,
            };
            let Some(open) = open else { return true };
            if Instant::now() >= deadline {
                let (submitted, known) =
                    (self.shared.submitted.load(Relaxed), self.shared.acknowledged.load(Relaxed));
                let seconds = Duration::from_nanos(SETTLED_WITHIN).as_secs();
                let what = format!(
                    "{seconds} s after the faults {known} of {submitted} transactions are decided, and {open}"
                );
                self.fail(Invariant::Liveness, what);
                return false;
            }
            sleep(LOOK_AGAIN);
        }
    }

    /// What keeps the balances from being those of the model: receipts may still be on their way between tables.
    fn difference(&mut self) -> Option<String> {
        for host in 0..self.nodes.len() {
            match self.balances(host) {
                Err(error) => return Some(error.to_string()),
                Ok(told) => {
                    let missing = self.missing(&told);
                    if missing > 0 {
                        return Some(format!("{missing} micro-TOP are in no account of v{host}"));
                    }
                }
            }
        }
        None
    }

    /// What these balances and all fees lack of the supply, in micro-TOP.
    fn missing(&self, told: &[(Address, u64)]) -> i128 {
        let held: i128 = told.iter().map(|(_, balance)| i128::from(*balance)).sum();
        i128::from(self.genesis.supply()) - self.ledger.fees() - held
    }

    /// What a validator says that all accounts hold.
    fn balances(&self, host: usize) -> Result<Vec<(Address, u64)>, ClientError> {
        let addresses = self.addresses();
        let mut client = Client::connect(self.nodes[host].submission_address(), ANSWER_WITHIN)?;
        let states = client.accounts(&addresses)?;
        let balance = |state: Option<AccountState>| state.map_or(0, |state| state.balance);
        Ok(addresses.into_iter().zip(states.into_iter().map(balance)).collect())
    }

    /// What must be true when everything rests.
    fn judge_end(&mut self) {
        self.read_again(ANSWER_WITHIN);
        let states = self.look();
        self.close();
        for (host, state) in states.iter().enumerate() {
            let Some(state) = state else {
                return self.fail(Invariant::Liveness, format!("v{host} does not answer in peace"));
            };
            self.judge_state(host, state);
            let judged = self.judge_money(host).map_err(|error| error.to_string());
            let judged = judged.and_then(|()| {
                self.judge_roots(host, state)
                    .and_then(|()| self.judge_places(host))
                    .map_err(|error| error.to_string())
            });
            if let Err(error) = judged {
                self.fail(Invariant::Liveness, format!("v{host} does not answer in peace: {error}"));
            }
            if self.has_ended() {
                return;
            }
        }
    }

    fn judge_state(&mut self, host: usize, state: &Status) {
        for table in &state.tables {
            if self.seen(host, table.table) < table.executed {
                let what =
                    format!("no validator tells of all blocks of table {} that v{host} has", table.table);
                self.fail(Invariant::Execution, what);
            }
        }
        let height_of = |wanted: TableId| {
            state.tables.iter().find(|table| table.table == wanted).map_or(0, |table| table.executed)
        };
        self.ledger.check_promises(self.shared.now(), host, height_of);
    }

    fn judge_money(&mut self, host: usize) -> Result<(), ClientError> {
        let told = self.balances(host)?;
        let missing = self.missing(&told);
        self.ledger.check_balances(self.shared.now(), host, told.into_iter());
        if missing != 0 {
            let (fees, supply) = (self.ledger.fees(), self.genesis.supply());
            let what = format!("v{host} and {fees} of fees are {missing} micro-TOP short of {supply}");
            self.fail(Invariant::Supply, what);
        }
        Ok(())
    }

    /// The root of each table, by the proof of an account that a quorum has signed for.
    fn judge_roots(&mut self, host: usize, state: &Status) -> Result<(), RpcError> {
        let tables = self.genesis.tables();
        let addresses: Vec<Address> =
            self.genesis.allocations().iter().map(|allocation| allocation.address).collect();
        let mut open: HashSet<TableId> = (0..tables).collect();
        for address in addresses.into_iter().filter(|address| open.remove(&address.table(tables))) {
            let table = address.table(tables);
            let told: Option<ToldProof> =
                self.rpc(host).call("getProof", &json!({ "address": address.to_string() }))?;
            let executed = state.tables.iter().find(|known| known.table == table).map(|known| known.executed);
            match told.and_then(|told| told.check(self, &address)) {
                Some(checkpoint) if Some(checkpoint.height) == executed => {
                    let digest = checkpoint.digest();
                    self.ledger.on_checkpoint(self.shared.now(), host, table, checkpoint.height, digest);
                }
                _ => {
                    self.fail(Invariant::Execution, format!("v{host} can't prove the state of table {table}"))
                }
            }
        }
        Ok(())
    }

    /// Each promise is asked for once more, of one validator each.
    fn judge_places(&mut self, host: usize) -> Result<(), RpcError> {
        let hosts = self.nodes.len();
        let mine: Vec<(Hash, Reply)> = self.promises.iter().skip(host).step_by(hosts).copied().collect();
        let questions: Vec<Value> = mine.iter().map(|(id, _)| json!({ "id": id.to_string() })).collect();
        let fates: Vec<Option<Fate>> = self.rpc(host).call_each("getTransaction", &questions)?;
        for ((id, reply), fate) in mine.iter().zip(fates) {
            let place = fate.and_then(|fate| Some((fate.table?, fate.height?, fate.index?)));
            let absent = place.is_none() && self.absent.contains(&(host, reply.table, reply.height));
            if place != Some((reply.table, reply.height, reply.index)) && !absent {
                let what = format!("{id} was acknowledged and v{host} has it at {place:?}: {reply:?}");
                self.fail(Invariant::Acknowledged, what);
            }
        }
        Ok(())
    }
}

/// What `getProof` says.
#[derive(Deserialize)]
struct ToldProof {
    proof: String,
    checkpoint: String,
    certificate: ToldCertificate,
}

#[derive(Deserialize)]
struct ToldCertificate {
    bytes: String,
}

impl ToldProof {
    /// The checkpoint, where the steps of [`dag::state_tree`] hold for it and an account.
    fn check(&self, auditor: &Auditor, address: &Address) -> Option<CheckpointPreimage> {
        let [proof, checkpoint, certificate] =
            [&self.proof, &self.checkpoint, &self.certificate.bytes].map(|text| hex::decode(text).ok());
        let proof = AccountProof::decode(&mut Reader::new(&proof?)).ok()?;
        let checkpoint = CheckpointPreimage::decode(&mut Reader::new(&checkpoint?)).ok()?;
        let certificate = Certificate::decode(&mut Reader::new(&certificate?)).ok()?;
        certificate.check(auditor.genesis.committee(), &Signatures::Ed25519.verify()).ok()?;
        let proven = proof.leaf.address == *address
            && checkpoint.chain == auditor.genesis.chain()
            && checkpoint.table == address.table(auditor.genesis.tables())
            && certificate.vote.digest == checkpoint.digest()
            && proof.verify(&checkpoint);
        proven.then_some(checkpoint)
    }
}

/// The highest view of each table that anybody is in.
fn views(states: &[Option<Status>], tables: u16) -> Vec<View> {
    let mut views = vec![0; usize::from(tables)];
    for table in states.iter().flatten().flat_map(|state| &state.tables) {
        let known: &mut View = &mut views[usize::from(table.table)];
        *known = table.view.max(*known);
    }
    views
}

/// Why the validators do not rest at the same place, if they don't.
fn unrest(states: &[Option<Status>]) -> Option<String> {
    if let Some(host) = states.iter().position(Option::is_none) {
        return Some(format!("v{host} does not answer"));
    }
    let mut states = states.iter().flatten().enumerate();
    let (_, first) = states.next()?;
    for (host, state) in std::iter::once((0, first)).chain(states) {
        if let Some(peer) = state
            .peers
            .iter()
            .find(|peer| peer.validator.index != state.validator.index && !peer.is_connected())
        {
            return Some(format!("v{host} is not connected to v{}", peer.validator.index));
        }
        for (table, other) in state.tables.iter().zip(&first.tables) {
            let rests =
                table.committed == table.executed && table.checkpoint == table.executed && table.pending == 0;
            if !rests || table.executed != other.executed {
                return Some(format!("v{host} does not rest: {table:?}, v0 has executed {}", other.executed));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(host: u64, executed: u64, checkpoint: u64) -> Option<Status> {
        let table = json!({
            "table": 0, "view": 3, "primary": 0, "committed": executed, "executed": executed,
            "checkpoint": checkpoint, "pending": 0,
        });
        let state = json!({
            "validator": { "index": host, "name": null }, "epoch": 0, "version": "1", "uptimeSeconds": 1, "faults": [],
            "votes": true, "tables": [table], "peers": [], "cores": [],
        });
        Some(serde_json::from_value(state).unwrap())
    }

    #[test]
    fn rest_is_told_from_unrest() {
        assert_eq!(unrest(&[state(0, 5, 5), state(1, 5, 5)]), None);
        assert!(unrest(&[state(0, 5, 5), None]).unwrap().contains("v1 does not answer"));
        assert!(unrest(&[state(0, 5, 5), state(1, 4, 4)]).unwrap().contains("v0 has executed 5"));
        assert!(unrest(&[state(0, 5, 4)]).unwrap().contains("does not rest"));
        assert_eq!(views(&[state(0, 5, 5), None], 2), [3, 0]);
    }
}
