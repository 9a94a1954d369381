//! Votes, and the bundles that carry them.
//!
//! All votes of a validator on one lane that became durable together leave in one bundle, under one signature over the
//! Merkle root of the votes. The cost of voting falls with load instead of rising.
//!
//! ```text
//! bundle: version 1 (1), reserved 0 (1), lane (2), replica (2), count (2), epoch (4), chain (8),
//!         signature (64), count × vote
//! vote:   kind (1), flags (1), table (2), view (8), height (8), digest (32)
//! ```

use bytes::Bytes;
use rkyv::{
    Portable,
    bytecheck::CheckBytes,
    rancor,
    rend::unaligned::{u16_ule, u64_ule},
};

use crate::{
    ChainId, Committee, Epoch, Hash, Height, LaneId, ReplicaId, TableId, View,
    hash::Domain,
    keys::{KeyPair, Signature, Verify},
    merkle,
    wire::{Put, Reader, WireError},
};

/// Bytes of a vote.
pub const VOTE_SIZE: usize = 52;
/// Bytes of a bundle before its signature.
pub const BUNDLE_HEADER_SIZE: usize = 20;
/// Most votes of one bundle.
pub const MAX_VOTES: usize = 1024;

/// What a vote says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum VoteKind {
    /// «This is the block of this height in this view.»
    Prepare = 1,
    /// «A quorum has prepared it; I hold the certificate.»
    Commit = 2,
    /// «After this height my state has this digest.» The view is zero.
    Checkpoint = 3,
}

/// One validator's word on one block or checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vote {
    /// What it says.
    pub kind: VoteKind,
    /// With a prepare: the voter has itself checked every transaction's signature.
    pub checked: bool,
    /// The table.
    pub table: TableId,
    /// The view; zero for checkpoints.
    pub view: View,
    /// The height.
    pub height: Height,
    /// Block hash, or checkpoint digest.
    pub digest: Hash,
}

#[derive(Clone, Copy, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
struct VoteRecord {
    kind: u8,
    flags: u8,
    table: u16_ule,
    view: u64_ule,
    height: u64_ule,
    digest: Hash,
}

const _: () = assert!(size_of::<VoteRecord>() == VOTE_SIZE && align_of::<VoteRecord>() == 1);

impl Vote {
    /// The fixed layout.
    pub fn to_bytes(&self) -> [u8; VOTE_SIZE] {
        let mut bytes = [0; VOTE_SIZE];
        bytes[0] = self.kind as u8;
        bytes[1] = u8::from(self.checked);
        bytes[2..4].copy_from_slice(&self.table.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.view.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.height.to_le_bytes());
        bytes[20..].copy_from_slice(&self.digest.0);
        bytes
    }

    /// Reads the fixed layout.
    pub fn parse(bytes: &[u8; VOTE_SIZE]) -> Result<Vote, WireError> {
        let record = rkyv::access::<VoteRecord, rancor::Failure>(bytes).map_err(|_| WireError::Truncated)?;
        let kind = match record.kind {
            1 => VoteKind::Prepare,
            2 => VoteKind::Commit,
            3 => VoteKind::Checkpoint,
            _ => return Err(WireError::Field("vote kind")),
        };
        let view = record.view.to_native();
        match (record.flags, kind, view) {
            (0, VoteKind::Prepare | VoteKind::Commit, _) | (1, VoteKind::Prepare, _) => {}
            (0, VoteKind::Checkpoint, 0) => {}
            _ => return Err(WireError::Field("vote flags")),
        }
        Ok(Vote {
            kind,
            checked: record.flags == 1,
            table: record.table.to_native(),
            view,
            height: record.height.to_native(),
            digest: record.digest,
        })
    }

    /// Leaf of the bundle's tree.
    pub fn leaf(&self) -> Hash {
        Domain::VOTE.hash(&self.to_bytes())
    }
}

/// What the signature of a bundle is bound to, besides the votes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BundleHeader {
    /// The lane that all the votes belong to.
    pub lane: LaneId,
    /// The voter.
    pub replica: ReplicaId,
    /// Number of votes.
    pub count: u16,
    /// The epoch.
    pub epoch: Epoch,
    /// The network.
    pub chain: ChainId,
}

impl BundleHeader {
    /// The fixed layout.
    pub fn to_bytes(&self) -> [u8; BUNDLE_HEADER_SIZE] {
        let mut bytes = [0; BUNDLE_HEADER_SIZE];
        bytes[0] = 1;
        bytes[2..4].copy_from_slice(&self.lane.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.replica.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.count.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[12..].copy_from_slice(&self.chain.to_le_bytes());
        bytes
    }

    /// Reads the fixed layout.
    pub fn decode(reader: &mut Reader<'_>) -> Result<BundleHeader, WireError> {
        if reader.u16()? != 1 {
            return Err(WireError::Field("bundle version"));
        }
        Ok(BundleHeader {
            lane: reader.u16()?,
            replica: reader.u16()?,
            count: reader.u16()?,
            epoch: reader.u32()?,
            chain: reader.u64()?,
        })
    }

    /// What the voter signs.
    pub fn digest(&self, root: &Hash) -> Hash {
        Domain::BUNDLE.hash_parts(&[&self.to_bytes(), &root.0])
    }
}

/// Votes under one signature. Decoded: the format is checked. The signature is checked by whoever receives the bundle,
/// through [`digest`](Self::digest) and [`signature`](Self::signature), before anyone counts a vote of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoteBundle {
    header: BundleHeader,
    signature: Signature,
    votes: Vec<Vote>,
    leaves: Vec<Hash>,
    root: Hash,
}

impl VoteBundle {
    /// Signs votes, all of one lane.
    ///
    /// # Panics
    /// Where there are no votes, or more than [`MAX_VOTES`].
    pub fn sign(
        key: &KeyPair,
        committee: &Committee,
        replica: ReplicaId,
        lane: LaneId,
        votes: Vec<Vote>,
    ) -> Self {
        assert!((1..=MAX_VOTES).contains(&votes.len()), "a bundle has 1 to {MAX_VOTES} votes");
        let count = u16::try_from(votes.len()).expect("at most MAX_VOTES");
        let header =
            BundleHeader { lane, replica, count, epoch: committee.epoch(), chain: committee.chain() };
        let leaves: Vec<Hash> = votes.iter().map(Vote::leaf).collect();
        let root = merkle::root(&leaves);
        let signature = key.sign(&header.digest(&root));
        VoteBundle { header, signature, votes, leaves, root }
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.header.to_bytes());
        out.put(&self.signature);
        for vote in &self.votes {
            out.put(&vote.to_bytes());
        }
    }

    /// The layout as shared bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(BUNDLE_HEADER_SIZE + 64 + VOTE_SIZE * self.votes.len());
        self.encode(&mut out);
        out.into()
    }

    /// Reads a bundle that fills `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<VoteBundle, WireError> {
        let mut reader = Reader::new(bytes);
        let header = BundleHeader::decode(&mut reader)?;
        let signature = reader.array()?;
        let count = usize::from(header.count);
        if !(1..=MAX_VOTES).contains(&count) {
            return Err(WireError::Field("vote count"));
        }
        if reader.remaining() != count * VOTE_SIZE {
            return Err(WireError::Truncated);
        }
        let mut votes = Vec::with_capacity(count);
        for _ in 0..count {
            votes.push(Vote::parse(&reader.array()?)?);
        }
        let leaves: Vec<Hash> = votes.iter().map(Vote::leaf).collect();
        let root = merkle::root(&leaves);
        Ok(VoteBundle { header, signature, votes, leaves, root })
    }

    /// Lane, voter, epoch and network.
    pub fn header(&self) -> &BundleHeader {
        &self.header
    }

    /// The votes.
    pub fn votes(&self) -> &[Vote] {
        &self.votes
    }

    /// The signature.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What is signed.
    pub fn digest(&self) -> Hash {
        self.header.digest(&self.root)
    }

    /// One vote with what proves it to a third party.
    ///
    /// # Panics
    /// Where there is no vote `index`.
    pub fn proof(&self, index: usize) -> VoteProof {
        VoteProof {
            replica: self.header.replica,
            checked: self.votes[index].checked,
            lane: self.header.lane,
            count: self.header.count,
            index: u16::try_from(index).expect("at most MAX_VOTES"),
            path: merkle::path(&self.leaves, index),
            signature: self.signature,
        }
    }
}

/// A single vote's evidence: the place of the vote in its bundle, and the bundle's signature. What was voted stands in the
/// certificate that holds the proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoteProof {
    /// The voter.
    pub replica: ReplicaId,
    /// The vote's flag.
    pub checked: bool,
    /// The bundle's lane.
    pub lane: LaneId,
    /// The bundle's number of votes.
    pub count: u16,
    /// The vote's place in it.
    pub index: u16,
    /// Siblings up to the bundle's root.
    pub path: Vec<Hash>,
    /// The bundle's signature.
    pub signature: Signature,
}

impl VoteProof {
    /// Most bytes of an encoded proof: that of a vote in the largest bundle.
    pub const MAX_SIZE: usize = 74 + 32 * MAX_VOTES.ilog2() as usize;

    /// Appends the layout: replica (2), flags (1), path length (1), lane (2), count (2), index (2), signature (64), path.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.replica);
        out.put_u8(u8::from(self.checked));
        out.put_u8(u8::try_from(self.path.len()).expect("at most log₂ MAX_VOTES"));
        out.put_u16(self.lane);
        out.put_u16(self.count);
        out.put_u16(self.index);
        out.put(&self.signature);
        for hash in &self.path {
            out.put(&hash.0);
        }
    }

    /// Reads one proof.
    pub fn decode(reader: &mut Reader<'_>) -> Result<VoteProof, WireError> {
        let replica = reader.u16()?;
        let checked = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(WireError::Field("vote flags")),
        };
        let length = usize::from(reader.u8()?);
        let (lane, count, index) = (reader.u16()?, reader.u16()?, reader.u16()?);
        let signature = reader.array()?;
        if usize::from(count) > MAX_VOTES || index >= count {
            return Err(WireError::Field("vote index"));
        }
        if length != merkle::path_length(usize::from(index), usize::from(count)) {
            return Err(WireError::Field("path length"));
        }
        let path = (0..length).map(|_| reader.hash()).collect::<Result<_, _>>()?;
        Ok(VoteProof { replica, checked, lane, count, index, path, signature })
    }

    /// Whether this proves that the committee's replica cast `vote`.
    pub fn proves(&self, vote: &Vote, committee: &Committee, verify: &Verify) -> bool {
        let vote = Vote { checked: self.checked, ..*vote };
        let Some(key) = committee.key(self.replica) else { return false };
        let (index, count) = (usize::from(self.index), usize::from(self.count));
        let Some(root) = merkle::root_of_path(vote.leaf(), index, count, &self.path) else { return false };
        let header = BundleHeader {
            lane: self.lane,
            replica: self.replica,
            count: self.count,
            epoch: committee.epoch(),
            chain: committee.chain(),
        };
        verify(key, header.digest(&root).as_bytes(), &self.signature)
    }
}
