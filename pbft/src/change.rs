//! View changes (section 4.4): leaving a primary that makes no progress, and beginning with the next one.
//!
//! One step goes before the paper's. A replica whose timer runs out only complains ([`Message::Suspect`]) and
//! keeps voting. It leaves its view, with a signed [`ViewChange`], when f + 1 replicas complain or have left,
//! so that an honest one among them has reason to. In the paper a lone slow replica leaves at once and is
//! lost to its view; here it stays useful. Nothing is lost: where the primary is faulty every honest replica
//! that waits complains, and f + 1 of those make all others follow.

use dag::{
    Hash, Height, ReplicaId, View,
    planted::{self, Defect},
};

use crate::{
    message::Message,
    new_view::{NewView, Plan},
    output::Output,
    record::Record,
    replica::Replica,
    view_change::{PreparedEntry, ViewChange},
    votes::Early,
};

/// What is known of one replica's views.
#[derive(Default, Debug)]
struct Peer {
    /// The newest view that it complained about, and when that was heard.
    suspects: Option<(View, u64)>,
    /// Its newest view change.
    change: Option<ViewChange>,
    /// Whether that is proven to the last signature. Checked only where it is needed: a view change is dear
    /// to verify.
    proven: bool,
    /// The newest view that it sent an unproven view change for: no more are taken up to there.
    refused: Option<View>,
    /// Whether it sent a new view that proves nothing: no more are taken of it. A new view is the dearest
    /// message to verify.
    forges: bool,
    /// The newest view that it has shown to be active in.
    active: View,
    /// When it was last helped with its view, or told the own status. Bounds what a peer can make this
    /// replica send.
    helped: Option<u64>,
    told: Option<u64>,
}

/// Views: where this replica is, how that began, and what the others want.
#[derive(Debug)]
pub(crate) struct Views {
    /// The view that this replica is in, or wants to enter.
    pub(crate) view: View,
    /// Whether it has begun.
    pub(crate) active: bool,
    /// The last view that has begun: the one that ballots count. Equal to `view` while that is active.
    pub(crate) tally: View,
    /// What it began with.
    pub(crate) plan: Plan,
    /// The message behind it; none in view 0.
    pub(crate) new_view: Option<NewView>,
    /// The own view change, while the view has not begun.
    pub(crate) own: Option<ViewChange>,
    /// Views left since the last commit.
    pub(crate) failed: u32,
    /// Votes for views that have not begun here.
    pub(crate) early: Early,
    peers: Vec<Peer>,
    /// When a new-view message was last asked for, and of whom.
    asked: Option<u64>,
    next: usize,
}

impl Views {
    pub(crate) fn new(size: usize) -> Views {
        Views {
            view: 0,
            active: true,
            tally: 0,
            plan: Plan { base: None, entries: Vec::new() },
            new_view: None,
            own: None,
            failed: 0,
            early: Early::new(size),
            peers: (0..size).map(|_| Peer::default()).collect(),
            asked: None,
            next: 0,
        }
    }

    fn peer(&mut self, replica: ReplicaId) -> &mut Peer {
        &mut self.peers[usize::from(replica)]
    }

    /// Something committed: `me` complains no more, and timeouts start small again (section 4.5.2).
    pub(crate) fn progressed(&mut self, me: ReplicaId) {
        self.failed = 0;
        self.peer(me).suspects = None;
    }

    /// Whether `me` complains about the current view.
    pub(crate) fn is_suspected_by(&self, me: ReplicaId) -> bool {
        self.peers[usize::from(me)].suspects.is_some_and(|(view, _)| view == self.view)
    }

    /// Who reported a block prepared in the quorum behind the current view.
    pub(crate) fn reporters(&self, height: Height, digest: &Hash) -> Vec<ReplicaId> {
        let changes = self.new_view.iter().flat_map(|new_view| &new_view.changes);
        let reports = |change: &&ViewChange| {
            change.prepared.iter().any(|entry| entry.height() == height && entry.digest() == *digest)
        };
        changes.filter(reports).map(|change| change.replica).collect()
    }

    /// Takes a view as begun, with everything that its message says.
    pub(crate) fn begin(&mut self, new_view: NewView) {
        self.view = new_view.view;
        self.tally = new_view.view;
        self.active = true;
        self.plan = new_view.plan();
        self.own = None;
        let view = self.view;
        for peer in &mut self.peers {
            peer.suspects.take_if(|(suspected, _)| *suspected < view);
            if peer.change.take_if(|change| change.view <= view).is_some() {
                peer.proven = false;
            }
        }
        self.new_view = Some(new_view);
    }

    /// Takes the current view as left, with this message of `me`.
    pub(crate) fn leave(&mut self, change: ViewChange, me: ReplicaId) {
        self.view = change.view;
        self.active = false;
        self.own = Some(change.clone());
        let peer = self.peer(me);
        (peer.change, peer.proven, peer.suspects) = (Some(change), true, None);
    }

    fn changes_for(&self, view: View) -> usize {
        self.peers
            .iter()
            .filter(|peer| peer.change.as_ref().is_some_and(|change| change.view == view))
            .count()
    }

    /// Replicas that left for `view` or a later one, or have shown to be in such a view: all who have left
    /// what came before it.
    fn reached(&self, view: View) -> usize {
        let reached = |peer: &&Peer| {
            peer.active >= view
                || peer.change.as_ref().is_some_and(|change| change.view >= view)
                || peer.suspects.is_some_and(|(suspected, _)| suspected >= view)
        };
        self.peers.iter().filter(reached).count()
    }

    /// Whether a view that has not begun had its quorum of view changes: from then on it gets its time
    /// (section 4.5.2). Its message may have reached some only, so those in the view count as well.
    pub(crate) fn may_begin(&self, quorum: usize) -> bool {
        !self.active && self.reached(self.view) >= quorum
    }
}

impl Replica {
    /// The host knows that the primary sits on a request for too long: complain about it now. The view
    /// changes when f + 1 replicas do, so the host gives the request to its peers as well.
    pub fn suspect(&mut self, now: u64) {
        if !self.is_deaf() {
            self.complain(now);
            self.settle(now);
        }
    }

    /// The timer ran out (section 4.4; 4.5.2 for a view that does not begin).
    pub(crate) fn on_no_progress(&mut self, now: u64) {
        if self.views.active {
            self.complain(now);
        } else {
            self.leave_for(self.views.view.saturating_add(1), now);
        }
    }

    /// Tells all that the primary makes no progress.
    pub(crate) fn complain(&mut self, now: u64) {
        if !self.views.active {
            return;
        }
        let (me, view) = (self.config.me, self.views.view);
        let every = self.config.resend_every;
        let recent = |(suspected, at): (View, u64)| suspected == view && now < at.saturating_add(every);
        if self.views.peer(me).suspects.is_some_and(recent) {
            return;
        }
        self.views.peer(me).suspects = Some((view, now));
        self.counters.suspicions += 1;
        self.broadcast(Message::Suspect { view });
        self.join(now);
    }

    pub(crate) fn on_suspect(&mut self, from: ReplicaId, view: View, now: u64) {
        if view < self.views.view {
            return self.help_view(from, now);
        }
        let peer = self.views.peer(from);
        if peer.suspects.is_none_or(|(known, _)| known <= view) {
            peer.suspects = Some((view, now));
        }
        self.join(now);
    }

    /// Moves to the highest view that f + 1 replicas, so at least an honest one, want to reach or pass
    /// (section 4.5.2). Complaints grow old: single ones, each of another hour, are no reason.
    fn join(&mut self, now: u64) {
        let (view, fresh) = (self.views.view, self.config.max_timeout);
        let wants = |peer: &Peer| {
            let complaint = peer.suspects.filter(|(_, at)| now <= at.saturating_add(fresh));
            let after = complaint.map(|(suspected, _)| suspected.saturating_add(1));
            after.max(peer.change.as_ref().map(|change| change.view)).filter(|&wanted| wanted > view)
        };
        let mut wanted: Vec<View> = self.views.peers.iter().filter_map(wants).collect();
        if wanted.len() >= self.weak() {
            wanted.sort_unstable_by(|a, b| b.cmp(a));
            self.leave_for(wanted[self.weak() - 1], now);
        }
    }

    /// Leaves the current view for a later one: from here on this replica signs nothing in any view before
    /// `target`.
    fn leave_for(&mut self, target: View, now: u64) {
        if target <= self.views.view {
            return; // Only at the end of all views.
        }
        let change = self.sign_view_change(target);
        self.persist(Record::ViewChange(Box::new(change.clone())));
        self.views.leave(change.clone(), self.config.me);
        self.views.failed = self.views.failed.saturating_add(1);
        self.counters.view_changes += 1;
        self.timers.progress = None;
        self.moved = true;
        self.broadcast(Message::ViewChange(Box::new(change)));
        self.announce_view();
        self.begin_as_primary(now);
    }

    /// C and P of section 4.4: the proof of the committed height, and what is prepared above it.
    fn sign_view_change(&self, view: View) -> ViewChange {
        let entry = |(_, instance): (Height, &crate::window::Instance)| {
            let prepared = instance.prepared.as_ref()?;
            let header = prepared.block.bytes().first_chunk().expect("a block has a header");
            Some(PreparedEntry { header: *header, certificate: prepared.certificate.clone() })
        };
        let mut prepared: Vec<PreparedEntry> = self.window.iter().filter_map(entry).collect();
        if planted::is(Defect::PreparedHidden) {
            prepared.pop();
        }
        let config = &self.config;
        let mut committed = self.head.commit.clone();
        if let Some(certificate) = &mut committed {
            // A peer may have given one of more.
            certificate.proofs.truncate(self.quorum());
        }
        ViewChange::sign(&config.key, &config.committee, config.table, config.me, view, committed, prepared)
    }

    pub(crate) fn announce_view(&mut self) {
        let (view, active, primary) = (self.view(), self.is_active(), self.primary());
        self.emit(Output::View { view, primary, active });
    }

    /// A view change. Bound: the newest of each replica. Only its signature is verified here: for joining, its
    /// authenticated sender's word is enough, and the primary verifies the rest when it has a quorum.
    pub(crate) fn on_view_change(&mut self, from: ReplicaId, change: ViewChange, now: u64) {
        if change.replica != from {
            self.counters.faulty += 1;
            return;
        }
        if change.view < self.views.view || (change.view == self.views.view && self.views.active) {
            return self.help_view(from, now);
        }
        let peer = self.views.peer(from);
        let newer = peer.change.as_ref().is_none_or(|known| known.view < change.view);
        if !newer || peer.refused >= Some(change.view) {
            return;
        }
        if !change.is_signed(&self.config.committee, self.config.table, &*self.config.verify) {
            self.counters.faulty += 1;
            return;
        }
        let peer = self.views.peer(from);
        peer.change = Some(change);
        peer.proven = false;
        self.join(now);
        self.begin_as_primary(now);
    }

    /// With a quorum of view changes the primary begins the view.
    fn begin_as_primary(&mut self, now: u64) {
        let quorum = self.quorum();
        let waits = !self.views.active && self.primary() == self.config.me;
        if !waits || self.views.changes_for(self.views.view) < quorum {
            return;
        }
        self.refuse_unproven();
        let view = self.views.view;
        if self.views.changes_for(view) < self.quorum() {
            return;
        }
        let changes = self.views.peers.iter().filter_map(|peer| peer.change.as_ref());
        let changes = changes.filter(|change| change.view == view).take(self.quorum()).cloned().collect();
        let config = &self.config;
        let new_view = NewView::sign(&config.key, &config.committee, config.table, view, changes);
        self.broadcast_new_view(new_view, now);
    }

    fn broadcast_new_view(&mut self, new_view: NewView, now: u64) {
        self.persist(Record::NewView(Box::new(new_view.clone())));
        self.broadcast(Message::NewView(Box::new(new_view.clone())));
        self.enter(new_view, now);
    }

    /// Verifies the view changes for the current view and drops those that prove nothing.
    fn refuse_unproven(&mut self) {
        let (view, config) = (self.views.view, &self.config);
        for peer in self.views.peers.iter_mut().filter(|peer| !peer.proven) {
            let Some(change) = peer.change.as_ref().filter(|change| change.view == view) else { continue };
            peer.proven = change.check(&config.committee, config.table, &*config.verify).is_ok();
            if !peer.proven {
                peer.change = None;
                peer.refused = Some(view);
                self.counters.faulty += 1;
            }
        }
    }

    /// A new view, of whomever: its primary signed it, and a quorum's view changes prove it. Honest replicas
    /// pass on only what they verified.
    pub(crate) fn on_new_view(&mut self, from: ReplicaId, new_view: NewView, now: u64) {
        let later =
            new_view.view > self.views.view || (new_view.view == self.views.view && !self.views.active);
        if !later || self.views.peer(from).forges {
            return;
        }
        let config = &self.config;
        if new_view.check(&config.committee, config.table, &*config.verify).is_err() {
            self.views.peer(from).forges = true;
            self.counters.faulty += 1;
            return;
        }
        self.persist(Record::NewView(Box::new(new_view.clone())));
        self.enter(new_view, now);
    }

    /// Begins a view: re-proposes what its plan says, then counts the votes that came early.
    fn enter(&mut self, new_view: NewView, now: u64) {
        assert!(new_view.view > self.views.tally, "each view begins once");
        for change in &new_view.changes {
            self.catchup.claim(change.replica, change.committed_height());
        }
        self.views.begin(new_view);
        self.window.iter_mut().for_each(crate::window::Instance::enter_view);
        self.timers.progress = None;
        self.moved = true;
        self.announce_view();
        if let Some(base) = self.views.plan.base.clone() {
            self.check_fork(&base);
        }
        if self.head.height > self.views.plan.base_height() {
            // The others have to learn what the plan does not contain.
            self.broadcast_status();
        }
        self.accept_ready(now);
        for cast in self.views.early.take(self.views.view) {
            self.on_ballot(cast.bundle().header().replica, cast, now);
        }
    }

    /// `replica` has shown that it is active in `view`. When f + 1 are ahead, one of them has the message
    /// that this replica lacks. To one that waits for a view a single word is enough: the message may have
    /// reached nobody else, and it proves itself.
    pub(crate) fn note_active(&mut self, replica: ReplicaId, view: View, now: u64) {
        let peer = self.views.peer(replica);
        peer.active = peer.active.max(view);
        let ahead =
            |active: View| active > self.views.view || (active == self.views.view && !self.views.active);
        let leaders = (0..).zip(&self.views.peers).filter(|(_, peer)| ahead(peer.active));
        let leaders: Vec<ReplicaId> = leaders.map(|(replica, _)| replica).collect();
        let every = self.config.resend_every;
        let recent = self.views.asked.is_some_and(|at| now < at.saturating_add(every));
        let enough = if self.views.active { self.weak() } else { 1 };
        if leaders.len() < enough || recent {
            return;
        }
        let peer = leaders[self.views.next % leaders.len()];
        self.views.next += 1;
        self.views.asked = Some(now);
        self.send(peer, Message::FetchView { view: self.views.view });
    }

    /// `peer` waits for a view that has begun here, or is in an earlier one. The primary gives it the
    /// new-view message at once; anyone else says where it stands, and is asked for the message when the
    /// primary is gone.
    pub(crate) fn help_view(&mut self, peer: ReplicaId, now: u64) {
        if !self.views.active || self.views.new_view.is_none() {
            return;
        }
        if self.primary() == self.config.me {
            self.send_new_view(peer, now);
        } else {
            self.tell_status(peer, now);
        }
    }

    pub(crate) fn on_fetch_view(&mut self, from: ReplicaId, view: View, now: u64) {
        if self.views.active && self.views.view >= view {
            self.send_new_view(from, now);
        }
    }

    fn send_new_view(&mut self, peer: ReplicaId, now: u64) {
        let every = self.config.resend_every;
        let helped = &mut self.views.peer(peer).helped;
        if helped.is_some_and(|at| now < at.saturating_add(every / 2)) {
            return;
        }
        *helped = Some(now);
        if let Some(new_view) = self.views.new_view.clone() {
            self.send(peer, Message::NewView(Box::new(new_view)));
        }
    }

    /// Sends the own status, not more often than twice per resending interval: two replicas that are each
    /// behind the other in something must not answer each other for ever.
    pub(crate) fn tell_status(&mut self, peer: ReplicaId, now: u64) {
        let every = self.config.resend_every;
        let told = &mut self.views.peer(peer).told;
        if told.is_none_or(|at| now >= at.saturating_add(every / 2)) {
            *told = Some(now);
            let status = self.status();
            self.send(peer, status);
        }
    }
}
