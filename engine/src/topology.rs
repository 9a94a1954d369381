//! Which table lives where: tables on lanes, lanes on cores.
//!
//! `lane = table mod lanes` belongs to the genesis, so all validators agree on it and talk lane to lane.
//! `core = lane mod cores` belongs to the machine. A message for a lane arrives on the core that owns it.

use std::{ops::Range, rc::Rc, thread::available_parallelism};

use dag::{ChainId, Committee, Epoch, Hash, LaneId, ReplicaId, TableId, keys::VerifyFn};
use shard_core::sigbatch::{self, KnownKeys};

use crate::config::Setup;

/// Keeps the calling thread on one of the processors that the process may use, where the system allows; numbers beyond the last
/// one begin anew.
pub fn pin_to(number: u16) {
    let processors = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(&processor) = processors.get(usize::from(number) % processors.len().max(1)) {
        core_affinity::set_for_current(processor);
    }
}

/// Where one of `nodes` that share a machine begins to pin its `cores` loops ([`Cores::first`]): after those before it. `None`
/// where their loops don't fill all `processors` evenly; the system had better place them then.
///
/// [`Cores::first`]: crate::config::Cores::first
pub fn first_processor(node: u16, nodes: u16, cores: u16, processors: usize) -> Option<u16> {
    let [node, nodes, cores] = [node, nodes, cores].map(usize::from);
    let loops = nodes * cores;
    let is_even = loops > 0 && loops.checked_rem(processors) == Some(0);
    is_even.then(|| u16::try_from(node * cores % processors).ok())?
}

/// Processors that the process may use, where all of their time is its own: zero where a quota grants it less, as a container's.
pub fn whole_processors() -> usize {
    let count = core_affinity::get_core_ids().unwrap_or_default().len();
    if available_parallelism().is_ok_and(|parallelism| parallelism.get() == count) { count } else { 0 }
}

/// What the genesis fixes for every node of a shard, and which of its validators this one is.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Hash of the genesis.
    pub genesis: Hash,
    /// The validators.
    pub committee: Rc<Committee>,
    /// This validator's place among them.
    pub me: ReplicaId,
    /// Number of tables, a power of two.
    pub tables: u16,
    /// Number of lanes, at most the number of tables.
    pub lanes: u16,
    /// How signatures are judged.
    pub signatures: Signatures,
    /// Tables of the committee's keys, for what validators sign; empty where signatures are simulated.
    pub known: Rc<KnownKeys>,
}

/// How signatures are judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signatures {
    /// ZIP-215, in batches.
    Ed25519,
    /// The simulator's stand-ins (`dag::keys::simulated`). A process that listens on a socket never says this: see
    /// [`process`](crate::process).
    #[cfg(feature = "simulation")]
    Simulated,
}

impl Signatures {
    /// The rule for one signature.
    pub fn verify(self) -> VerifyFn {
        match self {
            Signatures::Ed25519 => sigbatch::verify,
            #[cfg(feature = "simulation")]
            Signatures::Simulated => dag::keys::simulated::verify,
        }
    }
}

impl Shard {
    /// As a node's genesis and key say.
    pub fn of(setup: &Setup) -> Shard {
        let committee = setup.genesis.committee();
        let keys = committee.replicas().filter_map(|replica| committee.key(replica).copied());
        let known = KnownKeys::with_backend(setup.config.cores.instructions, &keys.collect::<Vec<_>>());
        Shard {
            genesis: setup.genesis.hash(),
            committee: Rc::new(committee.clone()),
            me: setup.replica,
            tables: setup.genesis.tables(),
            lanes: setup.genesis.lanes(),
            signatures: Signatures::Ed25519,
            known: Rc::new(known),
        }
    }

    /// The network.
    pub fn chain(&self) -> ChainId {
        self.committee.chain()
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.committee.epoch()
    }

    /// The lane of a table.
    pub fn lane(&self, table: TableId) -> LaneId {
        table % self.lanes
    }

    /// All other validators.
    pub fn peers(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        self.committee.replicas().filter(move |&replica| replica != me)
    }

    /// Their keys.
    pub fn peer_keys(&self) -> impl Iterator<Item = [u8; 32]> {
        self.peers().map(|peer| *self.committee.key(peer).expect("a peer is of the committee"))
    }
}

/// The machine's side: how many cores share the lanes, and which of them this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Number of cores, at most the number of lanes.
    pub cores: u16,
    /// This core.
    pub core: u16,
}

impl Placement {
    /// The core of a lane.
    pub fn core_of_lane(&self, lane: LaneId) -> u16 {
        lane % self.cores
    }

    /// The core of a table.
    pub fn core_of_table(&self, shard: &Shard, table: TableId) -> u16 {
        self.core_of_lane(shard.lane(table))
    }

    /// The lanes of this core.
    pub fn lanes(&self, shard: &Shard) -> impl Iterator<Item = LaneId> + use<> {
        (self.core..shard.lanes).step_by(usize::from(self.cores))
    }

    /// The tables of this core, ascending.
    pub fn tables(&self, shard: &Shard) -> Vec<TableId> {
        let all: Range<TableId> = 0..shard.tables;
        all.filter(|&table| self.core_of_table(shard, table) == self.core).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_machine_share_its_processors_out_or_not_at_all() {
        let firsts = |nodes, cores, processors| -> Option<Vec<u16>> {
            (0..nodes).map(|node| first_processor(node, nodes, cores, processors)).collect()
        };
        assert_eq!(firsts(4, 1, 2), Some(vec![0, 1, 0, 1]));
        assert_eq!(firsts(4, 3, 4), Some(vec![0, 3, 2, 1]));
        assert_eq!(firsts(4, 2, 8), Some(vec![0, 2, 4, 6]));
        for (nodes, cores, processors) in [(4, 1, 3), (4, 1, 6), (4, 1, 0), (4, 0, 0), (4, 0, 2)] {
            assert_eq!(firsts(nodes, cores, processors), None);
        }
    }

    #[test]
    fn every_table_has_one_core() {
        let keys = (0..4).map(|i| [i; 32]).collect();
        let committee = Rc::new(Committee::new(1, 0, keys).unwrap());
        for (tables, lanes, cores) in [(16, 1, 1), (16, 4, 2), (64, 6, 4), (1, 1, 1)] {
            let shard = Shard {
                genesis: Hash::ZERO,
                committee: committee.clone(),
                me: 0,
                tables,
                lanes,
                signatures: Signatures::Ed25519,
                known: Rc::new(KnownKeys::with_backend(sigbatch::Backend::PORTABLE, &[])),
            };
            let mut seen = vec![0; usize::from(tables)];
            for core in 0..cores {
                let placement = Placement { cores, core };
                for table in placement.tables(&shard) {
                    seen[usize::from(table)] += 1;
                    assert!(placement.lanes(&shard).any(|lane| lane == shard.lane(table)));
                }
            }
            assert!(seen.iter().all(|&count| count == 1));
        }
    }
}
