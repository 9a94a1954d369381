//! A committee of four with real signatures, and one replica of it under the test's hands.

use std::rc::Rc;

use dag::{
    Block, Certificate, Committee, Hash, Height, ReplicaId, View, Vote, VoteBundle, VoteKind,
    hash::Domain,
    keys::{KeyPair, Signature},
    table_block::{BlockBuilder, BlockHeader},
};
use ed25519_dalek::VerifyingKey;
use pbft::{Base, Config, Message, NewView, Output, PreparedEntry, Record, Replica, ViewChange};

pub const CHAIN: u64 = 5;
pub const TABLE: u16 = 0;

pub fn verify(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

pub struct Kit {
    pub keys: Vec<Rc<KeyPair>>,
    pub committee: Rc<Committee>,
}

pub fn genesis() -> Hash {
    Domain::GENESIS.hash(b"rules")
}

impl Kit {
    pub fn new() -> Kit {
        let keys: Vec<_> = (1..5).map(|i| Rc::new(KeyPair::from_seed(&[i; 32]))).collect();
        let committee = Committee::new(CHAIN, 0, keys.iter().map(|key| key.public()).collect()).unwrap();
        Kit { keys, committee: Rc::new(committee) }
    }

    pub fn unstarted(&self, me: ReplicaId) -> Replica {
        let key = Rc::clone(&self.keys[usize::from(me)]);
        let config = Config::new(TABLE, me, Rc::clone(&self.committee), key, Rc::new(verify));
        Replica::new(config, Base::genesis(genesis(), 0))
    }

    /// A replica at the genesis, with the outputs of its start drained.
    pub fn replica(&self, me: ReplicaId) -> Replica {
        self.restarted(me, &[])
    }

    /// A replica that comes up with this log.
    pub fn restarted(&self, me: ReplicaId, log: &[Record]) -> Replica {
        let mut replica = self.unstarted(me);
        log.iter().for_each(|record| replica.restore(record.clone()).unwrap());
        replica.start(0);
        drain(&mut replica);
        replica
    }

    pub fn block(&self, view: View, height: Height, parent: Hash, salt: u8) -> Block {
        BlockBuilder::new().seal(BlockHeader {
            chain: CHAIN,
            table: TABLE,
            height,
            view,
            time: height,
            proposer: self.committee.primary(TABLE, view),
            parent,
            checkpoint: Hash([salt; 32]),
            ..BlockHeader::default()
        })
    }

    /// Children of each other from height 1 on.
    pub fn chain(&self, view: View, length: u64) -> Vec<Block> {
        let mut parent = genesis();
        (1..=length)
            .map(|height| {
                let block = self.block(view, height, parent, 0);
                parent = block.hash();
                block
            })
            .collect()
    }

    pub fn bundle(&self, replica: ReplicaId, vote: Vote) -> Rc<VoteBundle> {
        Rc::new(VoteBundle::sign(&self.keys[usize::from(replica)], &self.committee, replica, 0, vec![vote]))
    }

    pub fn cast(&self, to: &mut Replica, replica: ReplicaId, vote: Vote) {
        to.on_vote(&self.bundle(replica, vote), 0, 0);
    }

    pub fn certificate(&self, vote: Vote) -> Certificate {
        let proofs = (0..3).map(|replica| self.bundle(replica, vote).proof(0)).collect();
        Certificate { vote: Vote { checked: false, ..vote }, proofs }
    }

    pub fn entry(&self, view: View, block: &Block) -> PreparedEntry {
        let certificate = self.certificate(vote(VoteKind::Prepare, view, block.height(), block.hash()));
        PreparedEntry { header: *block.bytes().first_chunk().unwrap(), certificate }
    }

    pub fn change(
        &self,
        replica: ReplicaId,
        view: View,
        committed: Option<Certificate>,
        prepared: Vec<PreparedEntry>,
    ) -> ViewChange {
        let key = &self.keys[usize::from(replica)];
        ViewChange::sign(key, &self.committee, TABLE, replica, view, committed, prepared)
    }

    pub fn new_view(&self, view: View, changes: Vec<ViewChange>) -> NewView {
        let primary = self.committee.primary(TABLE, view);
        NewView::sign(&self.keys[usize::from(primary)], &self.committee, TABLE, view, changes)
    }
}

pub fn vote(kind: VoteKind, view: View, height: Height, digest: Hash) -> Vote {
    Vote { kind, checked: kind == VoteKind::Prepare, table: TABLE, view, height, digest }
}

pub fn drain(replica: &mut Replica) -> Vec<Output> {
    std::iter::from_fn(|| replica.poll_output()).collect()
}

pub fn votes(outputs: &[Output]) -> Vec<Vote> {
    outputs
        .iter()
        .filter_map(|output| if let Output::Vote(vote) = output { Some(*vote) } else { None })
        .collect()
}

pub fn records(outputs: &[Output]) -> Vec<Record> {
    outputs
        .iter()
        .filter_map(|output| if let Output::Persist(record) = output { Some(record.clone()) } else { None })
        .collect()
}

pub fn proposal(view: View, block: &Block) -> Message {
    Message::Proposal { view, block: block.clone() }
}
