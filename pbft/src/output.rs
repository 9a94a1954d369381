//! What a replica asks of its host.

use dag::{Block, Certificate, Hash, Height, ReplicaId, View, Vote};

use crate::{evidence::Evidence, message::Message, record::Record};

/// An effect. Outputs come in order, and whatever stands behind a [`Persist`](Output::Persist) leaves the
/// node only once that record is durable.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write this to the log before anything emitted later leaves.
    Persist(Record),
    /// Cast this vote: put it into this turn's bundle, sign, send to all peers, and hand it back through
    /// [`on_vote`](crate::Replica::on_vote). The replica counts its own vote only then, because a certificate
    /// needs the signed proof.
    Vote(Vote),
    /// Send to every other replica.
    Broadcast(Message),
    /// Send to one replica.
    Send(ReplicaId, Message),
    /// Judge a fresh proposal and answer through [`on_validated`](crate::Replica::on_validated). Table,
    /// chain, epoch, proposer, parent and time are already checked; the host checks inbox references and, where
    /// `check` is set, signatures. Comes in ascending height within a view.
    Validate {
        /// The view of the proposal.
        view: View,
        /// Its height.
        height: Height,
        /// The block.
        block: Block,
        /// Whether it is this replica's turn to check the signatures of its transactions.
        check: bool,
    },
    /// Check the signatures of a proposal that was to be judged without them: its checkers are silent. The answer
    /// comes through [`on_validated`](crate::Replica::on_validated) again.
    Check {
        /// The view of the proposal.
        view: View,
        /// Its height.
        height: Height,
        /// The block.
        block: Block,
    },
    /// Final: execute it. In ascending height without a gap, once per height and process.
    Committed {
        /// The block.
        block: Block,
        /// The quorum of commit votes.
        certificate: Certificate,
    },
    /// The state after this height, which the host has executed, is a quorum's: it may take a snapshot and
    /// truncate its log.
    Stable {
        /// The quorum of checkpoint votes.
        certificate: Certificate,
    },
    /// A peer asks for committed blocks. Answer with [`Message::Blocks`], from `from_height` on without a gap
    /// and within the frame limit; or with [`Message::StableCheckpoint`] where the first of them is no longer
    /// kept.
    Serve {
        /// Who asks.
        to: ReplicaId,
        /// First height.
        from_height: Height,
        /// Last height, inclusive; never above the committed one.
        to_height: Height,
    },
    /// Peers no longer have the blocks that this replica lacks: fetch the state at this checkpoint, then call
    /// [`install`](crate::Replica::install). Comes again when a newer checkpoint is known, or when this takes
    /// long: then the replica looks for blocks meanwhile.
    Behind {
        /// The checkpoint's height.
        height: Height,
        /// Its certificate, verified.
        stable: Certificate,
    },
    /// A view began or was left. Where `active` is false, proposals in flight are undecided until the next
    /// one begins.
    View {
        /// The view.
        view: View,
        /// Its primary.
        primary: ReplicaId,
        /// Whether it has begun.
        active: bool,
    },
    /// Proof that a validator signed two conflicting votes.
    Evidence(Box<Evidence>),
    /// This replica's state or past contradicts a quorum's. The host must stop: going on would only spread
    /// it.
    Diverged(Divergence),
}

/// What contradicts what.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Divergence {
    /// A quorum has another state after this height.
    #[error("after height {height} this replica's state is {mine:?} and the quorum's is {theirs}")]
    State {
        /// The checkpoint's height.
        height: Height,
        /// This replica's digest; none where its execution made no checkpoint there.
        mine: Option<Hash>,
        /// The quorum's digest.
        theirs: Hash,
    },
    /// Execution after a restart gave another state than before it.
    #[error("after height {height} the state is {now}; before the restart it was {before}")]
    Replay {
        /// The checkpoint's height.
        height: Height,
        /// The digest voted for before.
        before: Hash,
        /// The digest now.
        now: Hash,
    },
    /// Two valid commit certificates for one height: more than f validators are faulty.
    #[error("height {height} is committed twice: {first} and {second}")]
    Commit {
        /// The height.
        height: Height,
        /// What this replica committed.
        first: Hash,
        /// What the other certificate says.
        second: Hash,
    },
}

/// The place of the block that the primary may propose next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// The view; the block's header names it.
    pub view: View,
    /// The height.
    pub height: Height,
    /// Hash of the block before.
    pub parent: Hash,
    /// Time of the block before, in µs since 1970: the block's own must not be lower.
    pub parent_time: u64,
}

/// The host's judgement on a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Vote for it.
    Valid {
        /// Whether this host has itself checked every transaction's signature.
        checked: bool,
    },
    /// Objectively wrong: the primary is faulty.
    Invalid,
}
