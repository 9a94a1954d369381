//! The view-change message (section 4.4): what its sender had prepared and committed when it left its view.
//!
//! ```text
//! replica (2), view (8), committed? (1), [commit certificate],
//! entries (2), entries × (block header (184), prepare certificate), signature (64)
//! ```

use dag::{
    Certificate, Committee, Hash, Height, ReplicaId, TableId, View, VoteKind,
    hash::Domain,
    keys::{KeyPair, Signature, Verify},
    table_block::HEADER_SIZE,
    wire::{Put, Reader, WireError},
};

use crate::message::flag;

/// Most prepared entries of one view change: twice the largest window.
pub const MAX_PREPARED: usize = 64;

/// An element of the paper's set P: a prepared block above the committed height.
///
/// It carries the block's header, not just its hash, so that the parent and time that the re-proposal depends
/// on are proven by the certified hash and can't be lied about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreparedEntry {
    /// The block's header as hashed.
    pub header: [u8; HEADER_SIZE],
    /// The quorum of prepare votes, of the highest view in which this replica saw this height prepared.
    pub certificate: Certificate,
}

impl PreparedEntry {
    /// The block's height.
    pub fn height(&self) -> Height {
        self.certificate.vote.height
    }

    /// The block's hash.
    pub fn digest(&self) -> Hash {
        self.certificate.vote.digest
    }

    /// Hash of the block before it (bytes 48 to 80 of the header, see `dag::table_block`).
    pub fn parent(&self) -> Hash {
        Hash(self.field(48))
    }

    /// The block's time (bytes 32 to 40 of the header).
    pub fn time(&self) -> u64 {
        u64::from_le_bytes(self.field(32))
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.header[at..].first_chunk().expect("inside the header")
    }

    fn header_fits(&self, table: TableId) -> bool {
        Domain::BLOCK.hash(&self.header) == self.digest()
            && u16::from_le_bytes(self.field(2)) == table
            && u64::from_le_bytes(self.field(16)) == self.height()
    }
}

/// «I leave my view for this one. This is what I had committed and prepared.»
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewChange {
    /// The sender.
    pub replica: ReplicaId,
    /// The view that it wants to enter.
    pub view: View,
    /// The commit certificate of its highest committed height; none at the genesis.
    pub committed: Option<Certificate>,
    /// What it had prepared above that height, ascending.
    pub prepared: Vec<PreparedEntry>,
    /// Over all of this, the table and the network.
    pub signature: Signature,
}

/// Why a view change proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViewChangeError {
    /// The sender is no validator or did not sign it.
    #[error("the view change of replica {0} is forged")]
    Signature(ReplicaId),
    /// The commit certificate proves nothing.
    #[error("replica {0} does not prove its committed height")]
    Committed(ReplicaId),
    /// An entry proves nothing.
    #[error("replica {0} does not prove height {1} prepared")]
    Prepared(ReplicaId, Height),
}

impl ViewChange {
    /// Signs a view change. The entries ascend in height.
    pub fn sign(
        key: &KeyPair,
        committee: &Committee,
        table: TableId,
        replica: ReplicaId,
        view: View,
        committed: Option<Certificate>,
        prepared: Vec<PreparedEntry>,
    ) -> ViewChange {
        let mut change = ViewChange { replica, view, committed, prepared, signature: [0; 64] };
        change.signature = key.sign(&change.digest(committee, table));
        change
    }

    /// What is signed.
    pub fn digest(&self, committee: &Committee, table: TableId) -> Hash {
        let mut content = Vec::new();
        self.encode_content(&mut content);
        signed_digest(1, committee, table, &content)
    }

    /// The highest height that it proves committed; zero for the genesis.
    pub fn committed_height(&self) -> Height {
        self.committed.as_ref().map_or(0, |certificate| certificate.vote.height)
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_content(out);
        out.put(&self.signature);
    }

    fn encode_content(&self, out: &mut Vec<u8>) {
        out.put_u16(self.replica);
        out.put_u64(self.view);
        out.put_u8(u8::from(self.committed.is_some()));
        if let Some(certificate) = &self.committed {
            certificate.encode(out);
        }
        out.put_u16(u16::try_from(self.prepared.len()).expect("at most MAX_PREPARED"));
        for entry in &self.prepared {
            out.put(&entry.header);
            entry.certificate.encode(out);
        }
    }

    /// Reads one view change. Heights must ascend.
    pub fn decode(reader: &mut Reader<'_>) -> Result<ViewChange, WireError> {
        let (replica, view) = (reader.u16()?, reader.u64()?);
        let committed = if flag(reader)? { Some(Certificate::decode(reader)?) } else { None };
        let count = usize::from(reader.u16()?);
        if count > MAX_PREPARED {
            return Err(WireError::Field("prepared entries"));
        }
        let mut prepared: Vec<PreparedEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = PreparedEntry { header: reader.array()?, certificate: Certificate::decode(reader)? };
            if prepared.last().is_some_and(|last| last.height() >= entry.height()) {
                return Err(WireError::Field("order of prepared entries"));
            }
            prepared.push(entry);
        }
        Ok(ViewChange { replica, view, committed, prepared, signature: reader.array()? })
    }

    /// Whether its sender is of the committee and signed it.
    pub fn is_signed(&self, committee: &Committee, table: TableId, verify: &Verify) -> bool {
        let digest = self.digest(committee, table);
        committee.key(self.replica).is_some_and(|key| verify(key, digest.as_bytes(), &self.signature))
    }

    /// Whether every word of it is proven. Certificates are of exactly a quorum, and entries at most
    /// [`MAX_PREPARED`] above the committed height: a faulty sender can't make it larger than an honest one.
    pub fn check(
        &self,
        committee: &Committee,
        table: TableId,
        verify: &Verify,
    ) -> Result<(), ViewChangeError> {
        if !self.is_signed(committee, table, verify) {
            return Err(ViewChangeError::Signature(self.replica));
        }
        let proves = |certificate: &Certificate| {
            certificate.proofs.len() == committee.quorum() && certificate.check(committee, verify).is_ok()
        };
        if let Some(certificate) = &self.committed {
            let vote = &certificate.vote;
            let fits = vote.kind == VoteKind::Commit && vote.table == table && vote.height > 0;
            if !fits || !proves(certificate) {
                return Err(ViewChangeError::Committed(self.replica));
            }
        }
        let above = self.committed_height() + 1..=self.committed_height().saturating_add(MAX_PREPARED as u64);
        for entry in &self.prepared {
            let vote = &entry.certificate.vote;
            let fits = vote.kind == VoteKind::Prepare
                && vote.table == table
                && vote.view < self.view
                && above.contains(&vote.height)
                && entry.header_fits(table);
            if !fits || !proves(&entry.certificate) {
                return Err(ViewChangeError::Prepared(self.replica, vote.height));
            }
        }
        Ok(())
    }
}

/// The digest of a signed message: kind 1 view change, 2 new view; bound to network, epoch and table.
pub(crate) fn signed_digest(kind: u8, committee: &Committee, table: TableId, content: &[u8]) -> Hash {
    let mut binding = Vec::with_capacity(15);
    binding.put_u8(kind);
    binding.put_u64(committee.chain());
    binding.put_u32(committee.epoch());
    binding.put_u16(table);
    Domain::VIEW_CHANGE.hash_parts(&[&binding, content])
}
