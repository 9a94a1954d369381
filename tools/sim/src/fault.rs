//! What goes wrong: the kinds of faults, and when and where each of them strikes.

use std::fmt;

use serde::Serialize;

/// A validator of the simulated network; twins come behind the committee.
pub type HostId = usize;

/// How a Byzantine validator behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Behaviour {
    /// Two copies run under one key and see different parts of the network.
    Twins,
    /// Each frame goes to some of the peers only.
    Selective,
    /// Proposals for some, other blocks for others.
    Equivocate,
    /// Votes for what it was not asked: other digests, views and heights, all well signed.
    Mutate,
    /// View changes that hide what was prepared.
    Forget,
    /// Says again what it said long ago.
    Replay,
    /// Bytes without sense, and frames with bits turned.
    Garbage,
    /// Wrong state at checkpoints.
    WrongState,
    /// Says nothing at all.
    Silent,
    /// Claims in status, complaints and view changes that are not so.
    Lies,
    /// As primary and checker: blocks with forged signatures, said to be checked.
    Forge,
    /// As checker: never says that it checked.
    Idle,
    /// Wrong state for those who fetch it, and for nobody else: what others fetch it for goes on.
    FalseState,
}

impl Behaviour {
    /// What any plan may hold; the others belong to certain ones.
    pub const ANYWHERE: [Behaviour; 12] = [
        Behaviour::Twins,
        Behaviour::Selective,
        Behaviour::Equivocate,
        Behaviour::Mutate,
        Behaviour::Forget,
        Behaviour::Replay,
        Behaviour::Garbage,
        Behaviour::WrongState,
        Behaviour::Silent,
        Behaviour::Lies,
        Behaviour::Forge,
        Behaviour::Idle,
    ];
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Fault {
    /// So many percent of the frames are lost.
    Loss(u8),
    /// So many percent of the frames come twice.
    Duplicate(u8),
    /// So many percent of the frames with prepare votes are lost.
    PrepareLoss(u8),
    /// So many percent of the frames with commit votes are lost.
    CommitLoss(u8),
    /// Frames overtake each other by up to so many ms.
    Reorder(u16),
    /// Everything takes so many ms more.
    Delay(u16),
    /// Nothing goes from the first to the second.
    Cut(HostId, HostId),
    /// The hosts of this set and the others do not hear each other.
    Partition(u32),
    /// A connection breaks, and comes again.
    Reset(HostId, HostId),
    /// What goes from the first to the second waits until the end.
    Clog(HostId, HostId),
    /// Each turn takes so many ms.
    Slow(HostId, u8),
    /// Nothing runs, and no clock is read.
    Pause(HostId),
    /// The process dies after so many effects more.
    Crash(HostId, u8),
    /// Power is lost everywhere.
    Blackout,
    /// The wall clock goes wrong by so many ms.
    Skew(HostId, i32),
    /// The monotonic clock leaps by so many ms.
    Leap(HostId, u16),
    /// Both clocks stand still.
    Freeze(HostId),
    /// Each write takes so many ms.
    SlowDisk(HostId, u16),
    /// No room.
    FullDisk(HostId),
    /// The next write of the log fails; some of it may be there.
    WriteError(HostId),
    /// The next write of the log is all there, and its sync fails.
    SyncError(HostId),
    /// The disk can't be read at the next start.
    ReadError(HostId),
    /// A bit of what was written long ago turns, and the process dies.
    BitFlip(HostId),
    /// A write of the log is said to be durable and is not, and the process dies.
    LostWrite(HostId),
    /// A write lands in another place too, and the process dies.
    Misdirect(HostId),
    /// A read gives what stands elsewhere, once, at the next start.
    Misread(HostId),
    /// A validator is Byzantine.
    Byzantine(HostId, Behaviour),
}

impl Fault {
    /// The names of all kinds.
    pub const KINDS: [&str; 39] = [
        "loss",
        "prepare-loss",
        "commit-loss",
        "duplicate",
        "reorder",
        "delay",
        "cut",
        "partition",
        "reset",
        "clog",
        "slow",
        "pause",
        "crash",
        "blackout",
        "skew",
        "leap",
        "freeze",
        "slow-disk",
        "full-disk",
        "write-error",
        "sync-error",
        "read-error",
        "bit-flip",
        "lost-write",
        "misdirect",
        "misread",
        "twins",
        "selective",
        "equivocate",
        "mutate",
        "forget",
        "replay",
        "garbage",
        "wrong-state",
        "silent",
        "lies",
        "forge",
        "idle",
        "false-state",
    ];

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Loss(_) => "loss",
            Fault::PrepareLoss(_) => "prepare-loss",
            Fault::CommitLoss(_) => "commit-loss",
            Fault::Duplicate(_) => "duplicate",
            Fault::Reorder(_) => "reorder",
            Fault::Delay(_) => "delay",
            Fault::Cut(..) => "cut",
            Fault::Partition(_) => "partition",
            Fault::Reset(..) => "reset",
            Fault::Clog(..) => "clog",
            Fault::Slow(..) => "slow",
            Fault::Pause(_) => "pause",
            Fault::Crash(..) => "crash",
            Fault::Blackout => "blackout",
            Fault::Skew(..) => "skew",
            Fault::Leap(..) => "leap",
            Fault::Freeze(_) => "freeze",
            Fault::SlowDisk(..) => "slow-disk",
            Fault::FullDisk(_) => "full-disk",
            Fault::WriteError(_) => "write-error",
            Fault::SyncError(_) => "sync-error",
            Fault::ReadError(_) => "read-error",
            Fault::BitFlip(_) => "bit-flip",
            Fault::LostWrite(_) => "lost-write",
            Fault::Misdirect(_) => "misdirect",
            Fault::Misread(_) => "misread",
            Fault::Byzantine(_, behaviour) => match behaviour {
                Behaviour::Twins => "twins",
                Behaviour::Selective => "selective",
                Behaviour::Equivocate => "equivocate",
                Behaviour::Mutate => "mutate",
                Behaviour::Forget => "forget",
                Behaviour::Replay => "replay",
                Behaviour::Garbage => "garbage",
                Behaviour::WrongState => "wrong-state",
                Behaviour::Silent => "silent",
                Behaviour::Lies => "lies",
                Behaviour::Forge => "forge",
                Behaviour::Idle => "idle",
                Behaviour::FalseState => "false-state",
            },
        }
    }

    /// The host that it strikes, where it is one.
    pub fn host(&self) -> Option<HostId> {
        match *self {
            Fault::Cut(host, _) | Fault::Reset(host, _) | Fault::Clog(host, _) => Some(host),
            Fault::Slow(host, _) | Fault::Crash(host, _) | Fault::Skew(host, _) | Fault::Leap(host, _) => {
                Some(host)
            }
            Fault::SlowDisk(host, _) | Fault::Byzantine(host, _) => Some(host),
            Fault::Pause(host) | Fault::Freeze(host) | Fault::FullDisk(host) | Fault::WriteError(host) => {
                Some(host)
            }
            Fault::SyncError(host) | Fault::ReadError(host) | Fault::BitFlip(host) => Some(host),
            Fault::LostWrite(host) | Fault::Misdirect(host) | Fault::Misread(host) => Some(host),
            _ => None,
        }
    }

    /// Whether its host is no honest validator any more: such faults strike at most f of them.
    pub fn corrupts(&self) -> bool {
        matches!(
            self,
            Fault::BitFlip(_)
                | Fault::LostWrite(_)
                | Fault::Misdirect(_)
                | Fault::Misread(_)
                | Fault::Byzantine(..)
        )
    }
}

/// A fault with its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Episode {
    /// When it begins, in ms.
    pub at: u64,
    /// How long it lasts, in ms; how long a process that dies stays down.
    pub lasts: u64,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms for {} ms: {:?}", self.at, self.lasts, self.fault)
    }
}
