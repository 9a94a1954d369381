//! Defects that the simulator has to find, to prove that it finds any.
//!
//! Each is a wrong answer at one place of `dag`, `pbft`, `shard-core` or `engine`, which asks [`is`] first. Without the feature
//! `planted` that is `false` at compile time and nothing is left of it; only the binary `sim-planted` is built with the feature.

macro_rules! defects {
    ($($variant:ident $name:literal $what:literal,)*) => {
        /// A defect.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Defect {
            $(#[doc = $what] $variant,)*
        }

        impl Defect {
            /// All of them: the defect, its name, and what is wrong.
            pub const ALL: &[(Defect, &str, &str)] = &[$((Defect::$variant, $name, $what),)*];
        }
    };
}

defects! {
    QuorumShort "quorum-short" "A quorum is one vote short.",
    VoteBeforeSync "vote-before-sync" "Votes leave before they are durable.",
    ChecksumIgnored "checksum-ignored" "A group of the log is believed whatever its checksum says.",
    OldViewAccepted "old-view-accepted" "Votes of earlier views count in the present one.",
    ReceiptNumberUnchecked "receipt-number-unchecked" "A delivery that was applied already is applied again.",
    CheckerRuleShort "checker-rule-short" "A block is prepared with one checker fewer than f + 1.",
    WatermarkIgnored "watermark-ignored" "A primary proposes beyond its window and the watermark.",
    WrongCertificate "wrong-certificate" "A new view proposes what was prepared in the lowest view again.",
    StateUnproven "state-unproven" "A fetched state is believed without its root.",
    SequenceReplayed "sequence-replayed" "A sequence that was used is executed again.",
    TailNotCut "tail-not-cut" "The log goes on behind a torn group.",
    DuplicateVote "duplicate-vote" "A vote that comes twice counts twice.",
    PromisesForgotten "promises-forgotten" "Recovery ignores the promises of the snapshot.",
    VotesForgotten "votes-forgotten" "Recovery ignores the votes of the log.",
    PreparedHidden "prepared-hidden" "A view change leaves out the highest prepared block.",
    TrimmedTooFar "trimmed-too-far" "The log forgets a segment that a restart needs.",
    SignatureUnchecked "signature-unchecked" "The signature of a client's transaction is not checked.",
    SnapshotUnsynced "snapshot-unsynced" "A snapshot gets its name before it is durable.",
    SecondProposal "second-proposal" "A primary's second block for one height takes the place of the first.",
    ClaimUnchecked "claim-unchecked" "A fetched state that no checkpoint certifies is believed for one peer's word.",
    ReceiptLost "receipt-lost" "A restart does not deliver again what is in flight between tables.",
}

#[cfg(feature = "planted")]
mod active {
    use std::cell::Cell;

    use super::Defect;

    thread_local! {
        static ACTIVE: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// Plants a defect in this thread, or none.
    pub fn plant(defect: Option<Defect>) {
        ACTIVE.with(|active| active.set(defect));
    }

    /// Whether this defect is planted.
    pub fn is(defect: Defect) -> bool {
        ACTIVE.with(|active| active.get() == Some(defect))
    }
}

#[cfg(feature = "planted")]
pub use active::{is, plant};

/// Whether this defect is planted: never.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_: Defect) -> bool {
    false
}
