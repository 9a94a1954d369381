//! What a core counts and times, without locks or atomics: plain numbers of its own, copied when somebody asks.

use dag::client::Code;

use crate::metrics::{CoreMetrics, CoreUse, Sample, Stage, Stages};

macro_rules! counts {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Count {
            $(#[doc = $help] $variant,)*
        }

        const COUNTS: &[(&str, &str)] = &[$(($name, $help),)*];
    };
}

counts! {
    TransactionsCommitted "transactions_committed_total" "Transactions committed and executed with success.",
    TransactionsFailed "transactions_failed_total" "Transactions committed that failed in execution.",
    BlocksProposed "blocks_proposed_total" "Blocks that this validator built.",
    BlocksCommitted "blocks_committed_total" "Blocks committed.",
    BlocksUnindexed "blocks_not_indexed_total" "Blocks left out of the block index: it was too slow, or a fetched state came first.",
    Checkpoints "checkpoints_total" "Checkpoints voted on.",
    StableCheckpoints "checkpoints_stable_total" "Checkpoints that became stable.",
    Snapshots "snapshots_total" "Snapshots written.",
    SnapshotsFailed "snapshots_failed_total" "Snapshots that could not be written.",
    StateTransfers "state_transfers_total" "Tables whose state was fetched from a peer.",
    Signatures "signatures_total" "Transactions' signatures verified.",
    SignatureBatches "signature_batches_total" "Batches that transactions' signatures were verified in.",
    Bundles "vote_bundles_total" "Vote bundles signed.",
    Votes "votes_total" "Votes cast.",
    PromisesWithheld "promises_withheld_total" "Votes and view changes not made, since this validator has forgotten earlier ones.",
    ViewChanges "view_changes_total" "Views that a table of this validator left.",
    ProposalsRefused "proposals_refused_total" "Proposals judged invalid.",
    ChecksTakenOver "checks_taken_over_total" "Blocks checked here as their checkers were silent.",
    VotesForged "votes_forged_total" "Vote bundles with a bad signature.",
    VotesDropped "votes_dropped_total" "Vote bundles dropped as too many waited.",
    AgreementDropped "agreement_dropped_total" "Agreement's messages dropped as the disk was full or execution too far behind.",
    Equivocations "equivocations_total" "Proofs that a validator signed two conflicting votes.",
    FramesOutOfPlace "peer_frames_out_of_place_total" "Validators' frames for a table or lane that is not theirs.",
    ClientFramesMalformed "client_frames_malformed_total" "Connections closed for a malformed client frame.",
    ClientsOverflowed "clients_overflowed_total" "Connections closed as the client did not read its replies.",
    ClientsRefused "clients_refused_total" "Connections refused as there were as many as may be.",
    ForwardedDropped "forwarded_dropped_total" "Forwarded transactions dropped as the verifier was full.",
    ForwardedMalformed "forwarded_malformed_total" "Forwarded transactions that are malformed or of another core.",
    PeerConnectionsMalformed "peer_connections_malformed_total" "Validators' connections closed for a malformed frame or record.",
    PeerConnectionsRefused "peer_connections_refused_total" "Connections refused: unknown key, other network, other lane.",
    PeerFramesUnsent "peer_frames_unsent_total" "Frames dropped as their peer's link was down.",
    PeerLinksOverflowed "peer_links_overflowed_total" "Links closed as their peer did not read.",
    LogCommits "log_commits_total" "Log groups made durable.",
    LogBytes "log_bytes_total" "Bytes written to the log.",
}

/// One core's counters, histograms and use of time.
#[derive(Debug)]
pub struct Meters {
    counts: [u64; COUNTS.len()],
    replies: [u64; Code::ALL.len()],
    stages: Stages,
    /// How the core's time was spent.
    pub core_use: CoreUse,
    /// What the core's relay services have counted.
    pub relay: Vec<Sample>,
}

impl Meters {
    /// All zero.
    pub fn new(core: u16) -> Meters {
        Meters {
            counts: [0; COUNTS.len()],
            replies: [0; Code::ALL.len()],
            stages: Stages::new(),
            core_use: CoreUse::new(core),
            relay: Vec::new(),
        }
    }

    /// Adds to a counter.
    pub fn count(&mut self, what: Count, by: u64) {
        self.counts[what as usize] += by;
    }

    /// Sets a counter that is kept elsewhere.
    pub fn set(&mut self, what: Count, to: u64) {
        self.counts[what as usize] = to;
    }

    /// Counts a reply to a client.
    pub fn count_reply(&mut self, code: Code) {
        self.replies[code as usize] += 1;
    }

    /// Records that `transactions` passed a stage between two times in ns.
    pub fn stage(&mut self, stage: Stage, from: u64, to: u64, transactions: u64) {
        if from > 0 && transactions > 0 {
            self.stages.record_n(stage, to.saturating_sub(from) / 1000, transactions);
        }
    }

    /// A copy for whoever asks.
    pub fn snapshot(&self) -> CoreMetrics {
        let mut metrics = CoreMetrics::new(self.core_use, self.stages.clone());
        for ((name, help), &value) in COUNTS.iter().zip(&self.counts) {
            metrics.counter(name, help, value);
        }
        for (code, &value) in Code::ALL.iter().zip(&self.replies) {
            let help = "Replies to clients, by code.";
            metrics.labelled_counter("replies_total", ("code", code_name(*code)), help, value);
        }
        self.relay.iter().for_each(|sample| metrics.add(sample.clone()));
        metrics
    }
}

/// A code's name as a label.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Committed => "committed",
        Code::Length => "length",
        Code::Oversize => "oversize",
        Code::Version => "version",
        Code::Kind => "kind",
        Code::NonCanonical => "non_canonical",
        Code::ZeroAmount => "zero_amount",
        Code::SelfTransfer => "self_transfer",
        Code::Overflow => "overflow",
        Code::WrongChain => "wrong_chain",
        Code::WrongEpoch => "wrong_epoch",
        Code::BadSignature => "bad_signature",
        Code::StaleSequence => "stale_sequence",
        Code::GappedSequence => "gapped_sequence",
        Code::Overdraft => "overdraft",
        Code::TooManyPending => "too_many_pending",
        Code::MempoolFull => "mempool_full",
        Code::Underpriced => "underpriced",
        Code::Replaced => "replaced",
        Code::UnknownTable => "unknown_table",
        Code::Unavailable => "unavailable",
    }
}
