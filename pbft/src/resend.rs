//! Saying things again: channels lose what was in flight when they break.

use dag::{Height, ReplicaId, View};

use crate::{message::Message, output::Output, replica::Replica};

impl Replica {
    /// A channel to a peer is up (again): what it may have missed is sent again, and both sides learn where
    /// the other stands.
    pub fn on_connected(&mut self, peer: ReplicaId, now: u64) {
        if self.is_deaf() || peer == self.config.me || usize::from(peer) >= self.size() {
            return;
        }
        self.checkers.set_away(peer, false);
        let status = self.status();
        self.send(peer, status);
        self.resend_proposals_to(peer);
        if let Some(change) = self.views.own.clone() {
            self.send(peer, Message::ViewChange(Box::new(change)));
        }
        if self.views.is_suspected_by(self.config.me) {
            self.send(peer, Message::Suspect { view: self.views.view });
        }
        self.resend_votes();
        self.settle(now);
    }

    /// Nothing moved for a while, and something is open.
    pub(crate) fn resend(&mut self, now: u64) {
        self.counters.resends += 1;
        self.broadcast_status();
        if let Some(change) = self.views.own.clone() {
            self.broadcast(Message::ViewChange(Box::new(change)));
        }
        if self.views.is_suspected_by(self.config.me) {
            self.broadcast(Message::Suspect { view: self.views.view });
        }
        for peer in self.config.committee.replicas() {
            if peer != self.config.me {
                self.resend_proposals_to(peer);
            }
        }
        self.resend_votes();
        self.resend_body_requests();
        self.accept_ready(now);
    }

    /// Casts the own votes of the open heights, and for the newest checkpoint, once more.
    pub(crate) fn resend_votes(&mut self) {
        if self.views.active {
            for height in self.window.heights() {
                let instance = self.window.at(height);
                let votes = [instance.prepare_in(self.views.view), instance.commit_in(self.views.view)];
                for vote in votes.map(Option::<&_>::copied).into_iter().flatten() {
                    self.emit(Output::Vote(vote));
                }
            }
        }
        self.resend_checkpoint(Height::MAX);
    }

    /// As the primary: the proposals that `peer` has not voted for.
    fn resend_proposals_to(&mut self, peer: ReplicaId) {
        if !self.views.active || self.primary() != self.config.me {
            return;
        }
        let (view, top) = (self.views.view, self.views.plan.top());
        for height in self.window.heights().filter(|&height| height > top) {
            let instance = self.window.at(height);
            let Some(accepted) = &instance.accepted else { break };
            if let Some(block) = accepted.block.clone().filter(|_| !instance.prepares.has(peer)) {
                self.send(peer, Message::Proposal { view, block });
            }
        }
    }

    pub(crate) fn status(&self) -> Message {
        Message::Status {
            view: self.views.view,
            active: self.views.active,
            committed: self.head.height,
            stable: self.stable_height(),
        }
    }

    pub(crate) fn broadcast_status(&mut self) {
        let status = self.status();
        self.broadcast(status);
    }

    /// Where a peer stands. Who is behind in something is helped; who is ahead is asked.
    pub(crate) fn on_status(
        &mut self,
        from: ReplicaId,
        view: View,
        active: bool,
        committed: Height,
        stable: Height,
        now: u64,
    ) {
        self.catchup.claim(from, committed);
        if active {
            self.note_active(from, view, now);
        }
        if view < self.views.view || (view == self.views.view && !active) {
            self.help_view(from, now);
        }
        if committed < self.head.height {
            self.tell_status(from, now);
        }
        self.push_stable(from, committed, stable);
    }
}
