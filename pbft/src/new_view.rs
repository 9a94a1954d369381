//! The new-view message (section 4.4), and what follows from it.
//!
//! ```text
//! view (8), view changes (2), view changes, signature of the view's primary (64)
//! ```
//!
//! It carries no re-proposals: everyone derives them from the quorum of view changes, so they can't be wrong.

use dag::{
    Certificate, Committee, Hash, Height, TableId, View,
    committee::MAX_VALIDATORS,
    keys::{KeyPair, Signature, Verify},
    planted::{self, Defect},
    wire::{Put, Reader, WireError},
};

use crate::view_change::{PreparedEntry, ViewChange, ViewChangeError, signed_digest};

/// The new primary's proof that the view may begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewView {
    /// The view.
    pub view: View,
    /// A quorum of view changes for it, by ascending replica.
    pub changes: Vec<ViewChange>,
    /// The primary's. Without it anyone could assemble another quorum and split the view (safe, but not
    /// live).
    pub signature: Signature,
}

/// Why a new-view message does not begin its view.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NewViewError {
    /// Fewer view changes than a quorum.
    #[error("{0} view changes are no quorum")]
    Quorum(usize),
    /// A view change for another view.
    #[error("a view change is for view {0}")]
    View(View),
    /// The view's primary did not sign it.
    #[error("the primary did not sign the new view")]
    Signature,
    /// A view change proves nothing.
    #[error(transparent)]
    Change(#[from] ViewChangeError),
}

/// What a view begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The commit certificate of the highest committed height that the quorum proves; none for the genesis.
    pub base: Option<Certificate>,
    /// What must be proposed again, without a gap; each the child of the one before. Begins with what is
    /// reported of the base and its ancestors, in one piece: their commit certificate may be known to a
    /// faulty replica alone, which then keeps it.
    pub entries: Vec<PreparedEntry>,
}

impl Plan {
    /// Height of the base; zero for the genesis.
    pub fn base_height(&self) -> Height {
        self.base.as_ref().map_or(0, |certificate| certificate.vote.height)
    }

    /// The height below the first that is proposed again; that of the base where none is. Nothing up to it
    /// is voted on in the view.
    pub fn floor(&self) -> Height {
        self.entries.first().map_or(self.base_height(), |entry| entry.height() - 1)
    }

    /// The last height that is proposed again; that of the base where none is.
    pub fn top(&self) -> Height {
        self.entries.last().map_or(self.base_height(), PreparedEntry::height)
    }

    /// The entry of a height.
    pub fn entry(&self, height: Height) -> Option<&PreparedEntry> {
        let index = height.checked_sub(self.floor() + 1)?;
        self.entries.get(usize::try_from(index).ok()?)
    }
}

impl NewView {
    /// Signs a new view as its primary. The view changes ascend by replica.
    pub fn sign(
        key: &KeyPair,
        committee: &Committee,
        table: TableId,
        view: View,
        changes: Vec<ViewChange>,
    ) -> NewView {
        let mut new_view = NewView { view, changes, signature: [0; 64] };
        new_view.signature = key.sign(&new_view.digest(committee, table));
        new_view
    }

    /// What is signed.
    pub fn digest(&self, committee: &Committee, table: TableId) -> Hash {
        let mut content = Vec::new();
        self.encode_content(&mut content);
        signed_digest(2, committee, table, &content)
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_content(out);
        out.put(&self.signature);
    }

    fn encode_content(&self, out: &mut Vec<u8>) {
        out.put_u64(self.view);
        out.put_u16(u16::try_from(self.changes.len()).expect("at most MAX_VALIDATORS"));
        for change in &self.changes {
            change.encode(out);
        }
    }

    /// Reads one new view. Replicas must ascend, so that none counts twice.
    pub fn decode(reader: &mut Reader<'_>) -> Result<NewView, WireError> {
        let view = reader.u64()?;
        let count = usize::from(reader.u16()?);
        if count > MAX_VALIDATORS {
            return Err(WireError::Field("view changes"));
        }
        let mut changes: Vec<ViewChange> = Vec::with_capacity(count);
        for _ in 0..count {
            let change = ViewChange::decode(reader)?;
            if changes.last().is_some_and(|last| last.replica >= change.replica) {
                return Err(WireError::Field("order of view changes"));
            }
            changes.push(change);
        }
        Ok(NewView { view, changes, signature: reader.array()? })
    }

    /// Checks every signature and certificate of it, cheapest first.
    pub fn check(&self, committee: &Committee, table: TableId, verify: &Verify) -> Result<(), NewViewError> {
        if self.changes.len() < committee.quorum() {
            return Err(NewViewError::Quorum(self.changes.len()));
        }
        if let Some(change) = self.changes.iter().find(|change| change.view != self.view) {
            return Err(NewViewError::View(change.view));
        }
        let primary =
            committee.key(committee.primary(table, self.view)).expect("the primary is of the committee");
        if !verify(primary, self.digest(committee, table).as_bytes(), &self.signature) {
            return Err(NewViewError::Signature);
        }
        for change in &self.changes {
            change.check(committee, table, verify)?;
        }
        Ok(())
    }

    /// Derives what the view begins with. The base is the highest proven commit. Above it, height by height,
    /// the block that was prepared in the highest view among those whose parent is the block picked before;
    /// the first height without one ends it. Below, the base and its ancestors as far as they are reported.
    ///
    /// Nothing committed is lost by stopping or by that choice: see the README's safety argument.
    pub fn plan(&self) -> Plan {
        let base = self.changes.iter().filter_map(|change| change.committed.as_ref());
        let base = base.max_by_key(|certificate| certificate.vote.height).cloned();
        let entries = self.reported_ancestors(base.as_ref());
        let mut plan = Plan { base, entries };
        let mut parent = plan.base.as_ref().map(|certificate| certificate.vote.digest);
        loop {
            let height = plan.top() + 1;
            let candidates = self.changes.iter().flat_map(|change| &change.prepared);
            // At the genesis the parent's hash is in no certificate. A quorum prepared the block, so an
            // honest replica has compared it.
            let fitting = candidates.filter(|entry| {
                entry.height() == height && parent.is_none_or(|parent| entry.parent() == parent)
            });
            let lowest = planted::is(Defect::WrongCertificate);
            let by_view = |entry: &&PreparedEntry| {
                let view = entry.certificate.vote.view;
                if lowest { View::MAX - view } else { view }
            };
            let Some(entry) = fitting.max_by_key(by_view) else { return plan };
            parent = Some(entry.digest());
            plan.entries.push(entry.clone());
        }
    }

    /// The block of the base and, downwards, each parent that a view change reports; ascending. The hashes
    /// leave no choice, so the entries' views don't matter.
    fn reported_ancestors(&self, base: Option<&Certificate>) -> Vec<PreparedEntry> {
        let mut ancestors: Vec<PreparedEntry> = Vec::new();
        let mut next = base.map(|certificate| (certificate.vote.height, certificate.vote.digest));
        while let Some((height, digest)) = next {
            let mut entries = self.changes.iter().flat_map(|change| &change.prepared);
            let reported = entries.find(|entry| (entry.height(), entry.digest()) == (height, digest));
            next = reported.map(|entry| (height - 1, entry.parent()));
            ancestors.extend(reported.cloned());
        }
        ancestors.reverse();
        ancestors
    }
}
