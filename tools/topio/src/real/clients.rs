//! The clients: each on a thread of its own, at one validator at a time. They submit, wait, ask, and go elsewhere with the same
//! bytes when an answer does not come or the connection breaks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::Sender,
    },
    thread,
    time::{Duration, Instant},
};

use dag::{
    Address, ChainId, Hash,
    client::{AccountState, Code, Reply},
    keys::KeyPair,
};
use engine::rpc::code;
use perf::client::{Client as Connection, ClientError};
use serde::Deserialize;
use serde_json::Value;
use sim::{
    model::{Account, Heard, hear},
    random::Random,
};

use crate::{
    devnet::Ports,
    rpc::{Rpc, RpcError},
};

/// A silence of so long makes a client go elsewhere.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest pause of a client between two things that it does, in ms.
const PAUSE: u64 = 200;

/// What a client has heard from a validator.
#[derive(Clone, Debug)]
pub enum News {
    /// Its transaction stands in a block.
    Acknowledged(Hash, Reply),
    /// Its transaction's sequence is used.
    Stale(Hash),
    /// Its good transaction is refused.
    Refused(usize, Hash, Code),
    /// The state of its account.
    Account(Address, Option<AccountState>),
    /// Something that is no answer.
    Foreign(String),
}

/// What all threads of a run share.
#[derive(Debug)]
pub struct Shared {
    began: Instant,
    /// The clients want nothing new any more.
    pub healed: AtomicBool,
    /// All have to end.
    pub stop: AtomicBool,
    /// Transactions that were wanted.
    pub submitted: AtomicU64,
    /// Transactions that stand in blocks, as clients were told.
    pub acknowledged: AtomicU64,
    /// Times that a transaction was submitted again.
    pub retried: AtomicU64,
    /// When the last acknowledgement came, ns from the beginning.
    last: AtomicU64,
    /// Longest time between two of them, ns.
    gap: AtomicU64,
}

impl Shared {
    /// At the beginning of the load.
    pub fn new() -> Shared {
        Shared {
            began: Instant::now(),
            healed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            submitted: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            last: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        }
    }

    /// ns since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn acknowledge(&self) {
        self.acknowledged.fetch_add(1, Relaxed);
        let now = self.now();
        let last = self.last.fetch_max(now, Relaxed);
        self.gap.fetch_max(now.saturating_sub(last), Relaxed);
    }

    /// Longest time without an acknowledgement so far.
    pub fn longest_gap(&self) -> Duration {
        let open = if self.is_settled() { 0 } else { self.now().saturating_sub(self.last.load(Relaxed)) };
        Duration::from_nanos(self.gap.load(Relaxed).max(open))
    }

    /// Whether all that was wanted is decided: nothing more is to come.
    pub fn is_settled(&self) -> bool {
        self.healed.load(Relaxed) && self.acknowledged.load(Relaxed) >= self.submitted.load(Relaxed)
    }
}

/// A client.
pub struct Client {
    accounts: Vec<Account>,
    known: Arc<[Address]>,
    chain: ChainId,
    nodes: Arc<[Ports]>,
    dice: Random,
    session: Option<(usize, Connection)>,
    next_tag: u64,
    news: Sender<News>,
    shared: Arc<Shared>,
}

/// Where clients are, and whom they know.
pub struct Setting {
    /// The chain to sign for.
    pub chain: ChainId,
    /// The validators.
    pub nodes: Arc<[Ports]>,
    /// All clients' accounts.
    pub known: Arc<[Address]>,
    /// Where news go.
    pub news: Sender<News>,
    /// What all share.
    pub shared: Arc<Shared>,
}

impl Client {
    /// One that owns the accounts of these keys, which nobody has used.
    pub fn new(setting: &Setting, keys: Vec<KeyPair>, dice: Random) -> Client {
        Client {
            accounts: keys.into_iter().map(Account::new).collect(),
            known: Arc::clone(&setting.known),
            chain: setting.chain,
            nodes: Arc::clone(&setting.nodes),
            dice,
            session: None,
            next_tag: 0,
            news: setting.news.clone(),
            shared: Arc::clone(&setting.shared),
        }
    }

    /// Goes on until it is told to stop, or has heard of everything after the faults.
    pub fn run(mut self) {
        while !self.shared.stop.load(Relaxed) {
            if self.shared.healed.load(Relaxed) && self.is_content() {
                break;
            }
            match self.dice.below(10) {
                0 => self.submit_by_rpc(),
                1 | 2 => self.ask(),
                _ => self.submit(),
            }
            thread::sleep(Duration::from_millis(self.dice.between(PAUSE / 8, PAUSE)));
        }
    }

    fn is_content(&self) -> bool {
        self.accounts.iter().all(|account| account.outstanding().is_empty())
    }

    /// Wants more, where it may.
    fn want_more(&mut self) {
        if self.shared.healed.load(Relaxed) {
            return;
        }
        for _ in 0..self.dice.between(1, 4) {
            let index = self.dice.index(self.accounts.len());
            let wanted = self.accounts[index].want(&mut self.dice, &self.known, self.chain, self.next_tag, 0);
            if wanted.is_some() {
                self.next_tag += 1;
                self.shared.submitted.fetch_add(1, Relaxed);
            }
        }
    }

    /// Takes the tags and bytes of what is to be submitted: of all, or of one.
    fn take(&mut self, most: usize) -> Vec<(u64, Vec<u8>)> {
        let now = self.shared.now();
        let mut taken = Vec::new();
        for wanted in self.accounts.iter_mut().flat_map(Account::outstanding_mut).take(most) {
            if wanted.sent > 0 {
                self.shared.retried.fetch_add(1, Relaxed);
            }
            wanted.sent = now;
            taken.push((wanted.tag, wanted.record.clone()));
        }
        taken
    }

    fn submit(&mut self) {
        self.want_more();
        let Some((host, mut connection)) = self.connected() else { return };
        let taken = self.take(usize::MAX);
        let records: Vec<&[u8]> = taken.iter().map(|(_, record)| record.as_slice()).collect();
        match connection.submit_all(&records) {
            Ok(replies) => {
                self.session = Some((host, connection));
                for ((tag, _), reply) in taken.iter().zip(replies) {
                    self.on_reply(host, Reply { tag: *tag, ..reply });
                }
            }
            Err(error) => self.on_error(&error),
        }
    }

    /// Submits one over JSON-RPC and waits until it is executed.
    fn submit_by_rpc(&mut self) {
        let host = self.dice.index(self.nodes.len());
        let Some((tag, record)) = self.take(1).pop() else { return };
        let rpc = Rpc::new(&self.nodes[host].rpc_address()).with_timeout(PATIENCE);
        match rpc.send(&record, true) {
            Ok(fate) => {
                let fate = fate.view;
                if let (Some(table), Some(height), Some(index)) = (fate.table, fate.height, fate.index) {
                    self.on_reply(host, Reply { tag, code: Code::Committed, table, height, index });
                }
            }
            Err(RpcError::Refused { code: code::REFUSED, data: Some(data), .. }) => {
                match refusal(tag, data) {
                    Some(reply) => self.on_reply(host, reply),
                    None => self.tell(News::Foreign(format!("v{host} refuses {tag} without a reason"))),
                }
            }
            Err(error @ RpcError::Foreign { .. }) => self.tell(News::Foreign(error.to_string())),
            Err(_) => {}
        }
    }

    fn ask(&mut self) {
        let Some((host, mut connection)) = self.connected() else { return };
        let addresses: Vec<Address> = self.accounts.iter().map(Account::address).collect();
        match connection.accounts(&addresses) {
            Ok(states) => {
                self.session = Some((host, connection));
                for (address, state) in addresses.into_iter().zip(states) {
                    self.tell(News::Account(address, state));
                }
            }
            Err(error) => self.on_error(&error),
        }
    }

    /// The connection that it has, or one to any validator.
    fn connected(&mut self) -> Option<(usize, Connection)> {
        // Now and then it goes elsewhere without need, so that all validators have clients.
        let kept = self.session.take().filter(|_| !self.dice.percent(2));
        kept.or_else(|| {
            let host = self.dice.index(self.nodes.len());
            let connection = Connection::connect(self.nodes[host].submission_address(), PATIENCE).ok()?;
            Some((host, connection))
        })
    }

    fn on_error(&self, error: &ClientError) {
        if matches!(error, ClientError::Protocol { .. } | ClientError::Oversize(_)) {
            self.tell(News::Foreign(error.to_string()));
        }
    }

    fn on_reply(&mut self, host: usize, reply: Reply) {
        match hear(&mut self.accounts, &reply) {
            Some(Heard::Acknowledged(id)) => {
                // Told before it is counted: who finds all counted has heard of all.
                self.tell(News::Acknowledged(id, reply));
                // One that stood in a block too early is wanted still.
                if reply.code != Code::GappedSequence {
                    self.shared.acknowledge();
                }
            }
            Some(Heard::Stale(id)) => {
                self.tell(News::Stale(id));
                self.shared.acknowledge();
            }
            Some(Heard::Refused(id, code)) => self.tell(News::Refused(host, id, code)),
            Some(Heard::Later(_)) | None => {}
        }
    }

    fn tell(&self, news: News) {
        // Who judged has ended where nobody hears.
        let _ = self.news.send(news);
    }
}

/// What JSON-RPC says of a refused or failed transaction, as the submission port says it.
fn refusal(tag: u64, data: Value) -> Option<Reply> {
    #[derive(Deserialize)]
    struct Refusal {
        code: u8,
        #[serde(default)]
        table: u16,
        #[serde(default)]
        height: u64,
        #[serde(default)]
        index: u32,
    }
    let Refusal { code, table, height, index } = serde_json::from_value(data).ok()?;
    Some(Reply { tag, code: Code::from_byte(code)?, table, height, index })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_of_json_rpc_are_replies() {
        let stale = json!({ "id": "5e1f", "status": "refused", "code": 12, "reason": "stale" });
        assert_eq!(refusal(3, stale), Some(Reply::refused(3, Code::StaleSequence)));
        let failed = json!({ "status": "failed", "code": 14, "table": 2, "height": 9, "index": 1 });
        let reply = Reply { tag: 3, code: Code::Overdraft, table: 2, height: 9, index: 1 };
        assert_eq!(refusal(3, failed), Some(reply));
        assert_eq!(refusal(3, json!({ "code": 200 })), None);
        assert_eq!(refusal(3, json!("no")), None);
    }

    #[test]
    fn the_longest_gap_is_counted_while_it_lasts() {
        let shared = Shared::new();
        shared.submitted.store(1, Relaxed);
        thread::sleep(Duration::from_millis(20));
        assert!(shared.longest_gap() >= Duration::from_millis(20));
        shared.acknowledge();
        shared.healed.store(true, Relaxed);
        let gap = shared.longest_gap();
        thread::sleep(Duration::from_millis(20));
        assert!(shared.is_settled() && shared.longest_gap() == gap);
    }
}
