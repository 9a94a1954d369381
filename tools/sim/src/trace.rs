//! What happened: as one hash, so that two runs can be compared, and as lines for people.

use std::fmt::Write as _;

use bytes::Bytes;
use dag::{Hash, VoteKind, client};
use engine::node::frame::Frame;
use pbft::Message;

/// Bytes that are gathered before they are hashed.
const CHUNK: usize = 16 << 10;
/// Clients have numbers from here on.
pub const CLIENTS: usize = 1_000;

/// A kind of event that is only counted into the hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An event waits for a host that does not run.
    Wait,
    /// A process starts.
    Boot,
    /// A process dies.
    Crash,
    /// A connection stands.
    Connect,
    /// A client connects.
    Session,
    /// A fault begins.
    Fault,
    /// A frame is lost.
    Lost,
}

/// What a frame is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// A block is proposed.
    Proposal,
    /// Votes, the furthest of which is to prepare.
    Prepare,
    /// Votes, one of them to commit.
    Commit,
    /// Votes on checkpoints.
    Checkpoint,
    /// Complaints, view changes, new views.
    ViewChange,
    /// Blocks and states for those who are behind.
    Transfer,
    /// Where somebody stands.
    Status,
    /// Transactions and answers.
    Client,
}

/// A frame on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrow {
    /// Who sends it; clients from [`CLIENTS`] on.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// When it arrives, ns; never where it is lost.
    pub arrives: Option<u64>,
    /// What it is about.
    pub topic: Topic,
}

/// What a line is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// A frame.
    Frame(Arrow),
    /// A process starts.
    Starts(usize),
    /// A process dies.
    Dies(usize),
    /// Something else.
    Note,
}

/// A line of the trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When, ns.
    pub at: u64,
    /// What it is about.
    pub what: What,
    /// The words.
    pub text: String,
}

impl Line {
    /// The frame, where it is one.
    pub fn arrow(&self) -> Option<&Arrow> {
        match &self.what {
            What::Frame(arrow) => Some(arrow),
            _ => None,
        }
    }
}

/// What happened so far.
pub struct Trace {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    lines: Option<Vec<Line>>,
}

impl Trace {
    /// Nothing yet. Lines are kept only where they are asked for.
    pub fn new(lines: bool) -> Trace {
        Trace {
            hasher: blake3::Hasher::new(),
            buffer: Vec::with_capacity(2 * CHUNK),
            lines: lines.then(Vec::new),
        }
    }

    fn push(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        if self.buffer.len() >= CHUNK {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    /// Something happened to `number`.
    pub fn mark(&mut self, now: u64, kind: Kind, number: usize) {
        self.push(&[&now.to_le_bytes(), &[kind as u8], &(number as u64).to_le_bytes()]);
    }

    /// A frame is put on the wires.
    pub fn frame(&mut self, now: u64, from: usize, to: usize, bytes: &Bytes) {
        let ends = ((from as u64) << 32 | to as u64).to_le_bytes();
        self.push(&[&now.to_le_bytes(), &ends, bytes]);
        if let Some(lines) = &mut self.lines {
            let (topic, text) = match from >= CLIENTS || to >= CLIENTS {
                true => (Topic::Client, client_frame(from, bytes)),
                false => describe(bytes),
            };
            lines.push(Line { at: now, what: What::Frame(Arrow { from, to, arrives: None, topic }), text });
        }
    }

    /// The last frame arrives then: the first of its copies counts.
    pub fn arrives(&mut self, at: u64) {
        let last = self.lines.as_mut().and_then(|lines| lines.last_mut());
        if let Some(Line { what: What::Frame(arrow), .. }) = last {
            arrow.arrives.get_or_insert(at);
        }
    }

    /// A line for people.
    pub fn line(&mut self, now: u64, text: impl FnOnce() -> String) {
        self.happens(now, What::Note, text);
    }

    /// A line for people about this.
    pub fn happens(&mut self, now: u64, what: What, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at: now, what, text: text() });
        }
    }

    /// The hash of all that happened.
    pub fn hash(&self) -> Hash {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.buffer);
        Hash(hasher.finalize().into())
    }

    /// The lines, where they were kept.
    pub fn lines(&self) -> &[Line] {
        self.lines.as_deref().unwrap_or_default()
    }
}

fn short(hash: &Hash) -> String {
    hash.to_string().chars().take(6).collect()
}

fn client_frame(from: usize, bytes: &Bytes) -> String {
    if from < CLIENTS {
        return format!("answer, {} bytes", bytes.len());
    }
    match client::Request::parse(bytes) {
        Ok(client::Request::Submit { first_tag, records }) => {
            format!("submit {} records from tag {first_tag}", records.count())
        }
        Ok(client::Request::Account { address, .. }) => format!("account {address}"),
        Err(error) => format!("garbage: {error}"),
    }
}

/// A frame between validators in a few words.
fn describe(bytes: &Bytes) -> (Topic, String) {
    match Frame::decode(bytes) {
        Ok(Frame::Votes(bundle)) => {
            let mut text = String::from("votes");
            for vote in bundle.votes() {
                let checked = if vote.checked { "✓" } else { "" };
                let _ = write!(
                    text,
                    " {:?}{checked}(t{} v{} h{} {})",
                    vote.kind,
                    vote.table,
                    vote.view,
                    vote.height,
                    short(&vote.digest)
                );
            }
            let has = |kind| bundle.votes().iter().any(|vote| vote.kind == kind);
            let topic = match (has(VoteKind::Commit), has(VoteKind::Prepare)) {
                (true, _) => Topic::Commit,
                (false, true) => Topic::Prepare,
                (false, false) => Topic::Checkpoint,
            };
            (topic, text)
        }
        Ok(Frame::Agreement(table, message)) => {
            (message_topic(&message), format!("t{table} {}", message_words(&message)))
        }
        Ok(Frame::Transactions(records)) => (Topic::Client, format!("{} transactions", records.len())),
        Ok(Frame::Hello { .. }) => (Topic::Status, "hello".into()),
        Ok(frame) => (Topic::Transfer, transfer_words(&frame)),
        Err(error) => (Topic::Status, format!("garbage: {error}")),
    }
}

fn transfer_words(frame: &Frame) -> String {
    match frame {
        Frame::WantState { table, above, offset } => {
            format!("t{table} wants state above h{above} from {offset}")
        }
        Frame::State { table, height, offset, total, .. } => {
            format!("t{table} state h{height} {offset}/{total}")
        }
        Frame::NoState(table) => format!("t{table} no state"),
        Frame::WantClaim { table, above } => format!("t{table} wants a claim above h{above}"),
        Frame::Claim { table, height, digest } => format!("t{table} claims h{height} {}", short(digest)),
        Frame::Hello { .. } | Frame::Transactions(_) | Frame::Agreement(..) | Frame::Votes(_) => {
            unreachable!("these are no part of a transfer")
        }
    }
}

fn message_topic(message: &Message) -> Topic {
    match message {
        Message::Proposal { .. } => Topic::Proposal,
        Message::ViewChange(_) | Message::NewView(_) | Message::FetchView { .. } => Topic::ViewChange,
        Message::Suspect { .. } => Topic::ViewChange,
        Message::FetchBlocks { .. } | Message::Blocks(_) => Topic::Transfer,
        Message::FetchBody { .. } | Message::Body(_) => Topic::Transfer,
        Message::StableCheckpoint(_) => Topic::Checkpoint,
        Message::Status { .. } => Topic::Status,
    }
}

fn message_words(message: &Message) -> String {
    match message {
        Message::Proposal { view, block } => format!(
            "proposal v{view} h{} {} ({} transactions, {} inbox)",
            block.height(),
            short(&block.hash()),
            block.len(),
            block.inbox().len()
        ),
        Message::ViewChange(change) => format!(
            "view change to v{} (committed h{}, {} prepared)",
            change.view,
            change.committed_height(),
            change.prepared.len()
        ),
        Message::NewView(new_view) => {
            format!("new view v{} ({} changes)", new_view.view, new_view.changes.len())
        }
        Message::Status { view, active, committed, stable } => {
            let how = if *active { "in" } else { "wants" };
            format!("status {how} v{view}, committed h{committed}, stable h{stable}")
        }
        Message::FetchBlocks { from, to } => format!("fetch blocks h{from} to h{to}"),
        Message::Blocks(blocks) => {
            format!("{} blocks from h{:?}", blocks.len(), blocks.first().map(|b| b.1.height()))
        }
        Message::FetchBody { height, digest } => format!("fetch body h{height} {}", short(digest)),
        Message::Body(block) => format!("body h{} {}", block.height(), short(&block.hash())),
        Message::FetchView { view } => format!("fetch view v{view}"),
        Message::StableCheckpoint(certificate) => format!("stable checkpoint h{}", certificate.vote.height),
        Message::Suspect { view } => format!("suspects v{view}"),
    }
}

/// The lines as text: the time, the flow between the validators as arrows between columns, and the words.
///
/// ```text
///     12.345678  │    ├───────▶    │  votes Prepare✓(t3 v0 h5 ab12cd)
/// ```
pub fn text(lines: &[Line], hosts: usize) -> String {
    let mut text = String::new();
    let heads: String = (0..hosts).map(|host| format!("{host:<6}")).collect();
    let _ = writeln!(text, "{:>12}  {heads}", "ms");
    for line in lines {
        let _ =
            writeln!(text, "{:>12.6}  {}{}", line.at as f64 / 1e6, flow(line.arrow(), hosts), words(line));
    }
    text
}

fn words(line: &Line) -> String {
    match line.arrow() {
        Some(&Arrow { from, to, .. }) if from >= CLIENTS => {
            format!("client {} → {to}: {}", from - CLIENTS, line.text)
        }
        Some(&Arrow { from, to, .. }) if to >= CLIENTS => {
            format!("{from} → client {}: {}", to - CLIENTS, line.text)
        }
        _ => line.text.clone(),
    }
}

fn flow(arrow: Option<&Arrow>, hosts: usize) -> String {
    let mut cells: Vec<char> = (0..hosts * 6).map(|at| if at % 6 == 0 { '│' } else { ' ' }).collect();
    if let Some(&Arrow { from, to, .. }) = arrow.filter(|arrow| arrow.from < hosts && arrow.to < hosts) {
        let (low, high) = (from.min(to) * 6, from.max(to) * 6);
        cells[low + 1..high].fill('─');
        (cells[from * 6], cells[to * 6]) = ('●', if to > from { '▶' } else { '◀' });
    }
    cells.into_iter().collect()
}
