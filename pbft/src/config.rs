//! What a replica is told when it is made.

use std::{fmt, rc::Rc};

use dag::{
    Certificate, Committee, Hash, Height, ReplicaId, TableId, VoteKind,
    keys::{KeyPair, Verify},
};

use crate::view_change::MAX_PREPARED;

/// The fixed parameters of one table's replica.
#[derive(Clone)]
pub struct Config {
    /// The table that it agrees on.
    pub table: TableId,
    /// This replica's position in the committee.
    pub me: ReplicaId,
    /// The validators, their keys, and what votes are bound to.
    pub committee: Rc<Committee>,
    /// Signs view-change and new-view messages. Votes are signed by the host, in bundles.
    pub key: Rc<KeyPair>,
    /// W: how many heights above its last committed one a primary may propose; 1 to 32, by default 8.
    pub window: u64,
    /// How many heights above the last stable checkpoint anything may be proposed (H − h in the paper,
    /// section 4.2); more than two checkpoint intervals, by default 512.
    pub watermark: u64,
    /// How long a replica that waits sees nothing commit before it suspects the primary, in ns; by default
    /// 600 ms.
    pub base_timeout: u64,
    /// Largest value that the doubling timeout reaches, in ns.
    pub max_timeout: u64,
    /// How long nothing moves before messages are sent again, in ns. Doubles up to 16 times that while
    /// nothing moves.
    pub resend_every: u64,
    /// Whether this replica checks the signatures of every block, whoever else does. By default it shares that work
    /// with the others.
    pub check_all: bool,
    /// How long a block that has a quorum of votes waits for its checkers before everyone checks it, in ns; by default
    /// 150 ms. Shorter than this, a burst of load would make all do the work of few.
    pub check_after: u64,
    /// The signature rule, for certificates and view changes. Bundles of votes are checked by the host.
    pub verify: Rc<Verify>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("table", &self.table).field("me", &self.me).finish_non_exhaustive()
    }
}

impl Config {
    /// How many blocks a primary has in flight at most, unless it is set otherwise.
    pub const WINDOW: u64 = 8;

    /// W = 8, watermark 512, timeouts of 600 ms to 20 s, resending after 150 ms, shared verification.
    pub fn new(
        table: TableId,
        me: ReplicaId,
        committee: Rc<Committee>,
        key: Rc<KeyPair>,
        verify: Rc<Verify>,
    ) -> Config {
        const MS: u64 = 1_000_000;
        Config {
            table,
            me,
            committee,
            key,
            window: Config::WINDOW,
            watermark: 512,
            base_timeout: 600 * MS,
            max_timeout: 20_000 * MS,
            resend_every: 150 * MS,
            check_all: false,
            check_after: 150 * MS,
            verify,
        }
    }

    /// How many heights above its last committed one a replica takes part in: twice W, because it may lag
    /// behind the primary by as much again before it has to fetch.
    pub(crate) fn reach(&self) -> u64 {
        2 * self.window
    }

    pub(crate) fn check(&self) {
        assert!(usize::from(self.me) < self.committee.size(), "replica {} is not of the committee", self.me);
        assert_eq!(
            self.committee.key(self.me),
            Some(&self.key.public()),
            "the key is not that of replica {}",
            self.me
        );
        assert!(self.window >= 1 && self.reach() <= MAX_PREPARED as u64, "a window of 1 to 32");
        assert!(self.watermark >= self.window, "the watermark leaves room for the window");
        assert!(self.base_timeout > 0 && self.max_timeout >= self.base_timeout && self.resend_every > 0);
    }
}

/// Where a replica starts from: the genesis, a snapshot at a stable checkpoint, or a state transfer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// Height of the last block that the state contains; zero for the genesis.
    pub height: Height,
    /// Hash of that block; of the table's genesis at height zero.
    pub digest: Hash,
    /// Time of that block's header (µs since 1970); of the genesis at height zero.
    pub time: u64,
    /// The commit certificate of that block; none exactly at height zero. A view change proves the height
    /// with it.
    pub commit: Option<Certificate>,
    /// The newest stable checkpoint's certificate; none where there is none yet.
    pub stable: Option<Certificate>,
}

impl Base {
    /// The genesis of a table.
    pub fn genesis(digest: Hash, time: u64) -> Base {
        Base { height: 0, digest, time, commit: None, stable: None }
    }

    pub(crate) fn check(&self, table: TableId) {
        assert_eq!(
            self.commit.is_some(),
            self.height > 0,
            "every height above the genesis has its commit certificate"
        );
        if let Some(commit) = &self.commit {
            let vote = &commit.vote;
            let place = (vote.kind, vote.table, vote.height, vote.digest);
            assert_eq!(
                place,
                (VoteKind::Commit, table, self.height, self.digest),
                "the certificate is the base's"
            );
        }
        if let Some(stable) = &self.stable {
            assert_eq!((stable.vote.kind, stable.vote.table), (VoteKind::Checkpoint, table));
        }
    }
}
