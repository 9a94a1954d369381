//! Clients' sessions of one core: their frames wait here until the core has room for them, and their replies leave here,
//! gathered by turn.
//!
//! A session's backlog is bounded; past it the core stops reading from that client. Admission goes round over the sessions
//! that have something, a few records each, so a client that floods waits behind its own records and not before others'.

use std::collections::VecDeque;

use ahash::AHashMap;
use bytes::{Buf, Bytes};
use dag::{
    Address,
    client::{self, Reply, Request, Response},
    wire::WireError,
};

/// Bytes of a session's frames past which the core stops reading from it.
pub const MAX_BACKLOG: usize = 512 * 1024;
/// Records that a session may have admitted before the next session's turn.
const SHARE: usize = 64;
/// Most replies of one frame.
const MAX_REPLIES: usize = (client::MAX_FRAME - 1) / client::REPLY_SIZE;

/// A client's connection: unique for the life of the process, and names its core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(u64);

impl ClientId {
    /// The `number`-th session of a core.
    pub fn new(core: u16, number: u64) -> ClientId {
        assert!(number < 1 << 48, "a core never sees so many sessions");
        ClientId(u64::from(core) << 48 | number)
    }

    /// The core that holds the connection.
    pub fn core(self) -> u16 {
        u16::try_from(self.0 >> 48).expect("sixteen bits are left")
    }

    /// As an opaque number.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// The inverse of [`to_u64`](Self::to_u64).
    pub fn from_u64(number: u64) -> ClientId {
        ClientId(number)
    }
}

/// A submit frame that is partly admitted.
struct Pending {
    arrived: u64,
    next_tag: u64,
    /// The records left, each behind its length.
    records: Bytes,
}

#[derive(Default)]
struct Session {
    backlog: VecDeque<Pending>,
    backlog_bytes: usize,
    paused: bool,
    queued: bool,
    replies: Vec<Reply>,
}

/// What a client's frame asks for besides submission.
pub struct AccountQuestion {
    /// Comes back in the answer.
    pub tag: u64,
    /// The account.
    pub address: Address,
}

/// All sessions of a core.
#[derive(Default)]
pub struct Clients {
    sessions: AHashMap<ClientId, Session>,
    /// Sessions with a backlog, in the order of their turns.
    turns: VecDeque<ClientId>,
    /// Sessions that have replies to be sent.
    answered: Vec<ClientId>,
}

/// Whether to read on from a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Nothing changes.
    Same,
    /// Stop reading.
    Pause,
}

impl Clients {
    /// A new connection.
    pub fn open(&mut self, client: ClientId) {
        let fresh = self.sessions.insert(client, Session::default()).is_none();
        assert!(fresh, "a session's number is used once");
    }

    /// The connection is gone; what was admitted stays, its replies go nowhere.
    pub fn close(&mut self, client: ClientId) {
        self.sessions.remove(&client);
    }

    /// Whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Bytes of the longest backlog.
    pub fn longest_backlog(&self) -> usize {
        self.sessions.values().map(|session| session.backlog_bytes).max().unwrap_or(0)
    }

    /// Takes a frame. An error closes the connection.
    pub fn on_frame(
        &mut self,
        client: ClientId,
        frame: &Bytes,
        now: u64,
    ) -> Result<(Flow, Option<AccountQuestion>), WireError> {
        let Some(session) = self.sessions.get_mut(&client) else { return Ok((Flow::Same, None)) };
        match Request::parse(frame)? {
            Request::Account { tag, address } => Ok((Flow::Same, Some(AccountQuestion { tag, address }))),
            Request::Submit { first_tag, .. } => {
                // Behind the kind and the first tag.
                let records = frame.slice(9..);
                session.backlog_bytes += records.len();
                session.backlog.push_back(Pending { arrived: now, next_tag: first_tag, records });
                if !session.queued {
                    session.queued = true;
                    self.turns.push_back(client);
                }
                let pause = session.backlog_bytes > MAX_BACKLOG && !session.paused;
                session.paused |= pause;
                Ok((if pause { Flow::Pause } else { Flow::Same }, None))
            }
        }
    }

    /// Whether records wait to be admitted.
    pub fn has_backlog(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Hands the records of the next session in turn to `admit` (client, tag, record, when it arrived), at most `SHARE`. Returns the client to read from again.
    pub fn admit_next(&mut self, mut admit: impl FnMut(ClientId, u64, &[u8], u64)) -> Option<ClientId> {
        let client = self.turns.pop_front()?;
        let session = self.sessions.get_mut(&client)?;
        for _ in 0..SHARE {
            let Some(pending) = session.backlog.front_mut() else { break };
            let length = usize::from(pending.records.get_u16_le());
            admit(client, pending.next_tag, &pending.records[..length], pending.arrived);
            pending.records.advance(length);
            pending.next_tag = pending.next_tag.wrapping_add(1);
            session.backlog_bytes -= length + 2;
            if pending.records.is_empty() {
                session.backlog.pop_front();
            }
        }
        session.queued = !session.backlog.is_empty();
        if session.queued {
            self.turns.push_back(client);
        }
        let resume = session.paused && session.backlog_bytes <= MAX_BACKLOG / 2;
        session.paused &= !resume;
        resume.then_some(client)
    }

    /// Adds a reply to those of this turn.
    pub fn reply(&mut self, client: ClientId, reply: Reply) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if session.replies.is_empty() {
            self.answered.push(client);
        }
        session.replies.push(reply);
    }

    /// Encodes the replies gathered since the last call: bytes for each client.
    pub fn flush(&mut self, mut send: impl FnMut(ClientId, Bytes)) {
        for client in self.answered.drain(..) {
            let Some(session) = self.sessions.get_mut(&client) else { continue };
            let mut out = Vec::with_capacity(session.replies.len() * client::REPLY_SIZE + 5);
            for replies in session.replies.chunks(MAX_REPLIES) {
                Response::Replies(replies.to_vec()).encode_frame(&mut out);
            }
            session.replies.clear();
            send(client, out.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use dag::client::Code;

    use super::*;

    fn submit(first_tag: u64, count: usize, size: usize) -> Bytes {
        let record = vec![7; size];
        let mut out = Vec::new();
        client::encode_submit(first_tag, std::iter::repeat_n(&record[..], count), &mut out);
        Bytes::from(out).slice(4..)
    }

    #[test]
    fn a_flood_waits_behind_itself() {
        let mut clients = Clients::default();
        let (flood, other) = (ClientId::new(1, 1), ClientId::new(1, 2));
        clients.open(flood);
        clients.open(other);
        let mut paused = false;
        for i in 0..5 {
            paused |= clients.on_frame(flood, &submit(i * 1000, 1000, 160), 1).unwrap().0 == Flow::Pause;
        }
        assert!(paused);
        clients.on_frame(other, &submit(9, 3, 160), 1).unwrap();
        let mut order = Vec::new();
        clients.admit_next(|client, tag, record, _| order.push((client, tag, record.len())));
        clients.admit_next(|client, tag, record, _| order.push((client, tag, record.len())));
        assert_eq!(order.len(), SHARE + 3);
        assert_eq!(order[0], (flood, 0, 160));
        assert_eq!(order[SHARE..], [(other, 9, 160), (other, 10, 160), (other, 11, 160)]);
        let mut resumed = None;
        while clients.has_backlog() {
            resumed = resumed.or(clients.admit_next(|_, _, _, _| {}));
        }
        assert_eq!(resumed, Some(flood));
    }

    #[test]
    fn replies_are_gathered() {
        let mut clients = Clients::default();
        let client = ClientId::new(0, 1);
        clients.open(client);
        for tag in 0..20_000 {
            clients.reply(client, Reply::refused(tag, Code::Overdraft));
        }
        clients.reply(ClientId::new(0, 2), Reply::refused(1, Code::Overdraft));
        let mut sent = Vec::new();
        clients.flush(|client, bytes| sent.push((client, bytes)));
        let [(to, bytes)] = &sent[..] else { panic!() };
        assert_eq!(*to, client);
        let mut reader = netio::FrameReader::new(client::MAX_FRAME);
        let mut tags = 0;
        reader
            .push(bytes, &mut |frame: Bytes| {
                let Ok(Response::Replies(replies)) = Response::parse(&frame) else { panic!() };
                tags += replies.len();
            })
            .unwrap();
        assert_eq!(tags, 20_000);
        clients.flush(|_, _| panic!("nothing is left"));
    }
}
