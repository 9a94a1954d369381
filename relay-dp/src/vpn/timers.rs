//! When a peer needs attention (section 6), without touching anything shared per packet.
//!
//! A peer has five deadlines. The endpoint's heap holds for each peer at least one entry that is not later than its first
//! deadline; when an entry comes up, the deadlines are looked at and the next entry is made. So a packet that moves a deadline
//! back costs a store, and only one that brings it forward costs a push.

use super::Nanos;
use super::{MILLISECOND, SECOND};

/// Time between two initiations to one peer.
pub(super) const REKEY_TIMEOUT: Nanos = 5 * SECOND;
/// Added to it at random, so that two peers that begin at once don't do so forever.
pub(super) const JITTER: Nanos = 334 * MILLISECOND;
/// Silence after received data that a keepalive breaks.
pub(super) const KEEPALIVE_TIMEOUT: Nanos = 10 * SECOND;
/// Attempts until we give up: 90 s of them.
pub(super) const MAX_ATTEMPTS: u32 = 18;
/// When keys without use are wiped.
pub(super) const FORGET_AFTER: Nanos = 3 * super::session::REJECT_AFTER_TIME;

const NEVER: Nanos = Nanos::MAX;

/// The deadlines of one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    /// Begin the handshake again: no answer came.
    pub(super) retry: Nanos,
    /// Send a keepalive: we were sent data and said nothing since.
    pub(super) keepalive: Nanos,
    /// Begin a handshake: we sent data and nothing came back.
    pub(super) unanswered: Nanos,
    /// Wipe all keys.
    pub(super) forget: Nanos,
    /// Send a keepalive because the configuration asks for one now and then.
    pub(super) persistent: Nanos,
    /// More data came while a keepalive was due already.
    pub(super) another_keepalive: bool,
    /// The earliest entry of this peer in the heap.
    registered: Nanos,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self {
            retry: NEVER,
            keepalive: NEVER,
            unanswered: NEVER,
            forget: NEVER,
            persistent: NEVER,
            another_keepalive: false,
            registered: NEVER,
        }
    }

    /// The earliest deadline that needs a new entry in the heap.
    pub(super) fn entry_needed(&mut self) -> Option<Nanos> {
        let first = self.retry.min(self.keepalive).min(self.unanswered).min(self.forget).min(self.persistent);
        if first >= self.registered {
            return None;
        }
        self.registered = first;
        Some(first)
    }

    /// An entry came up. False when a newer one has replaced it.
    pub(super) fn entry_came_up(&mut self, at: Nanos) -> bool {
        let current = at == self.registered;
        if current {
            self.registered = NEVER;
        }
        current
    }

    pub(super) fn data_sent(&mut self, now: Nanos, jitter: Nanos) {
        if self.unanswered == NEVER {
            self.unanswered = now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter;
        }
    }

    pub(super) fn data_received(&mut self, now: Nanos) {
        if self.keepalive == NEVER {
            self.keepalive = now + KEEPALIVE_TIMEOUT;
        } else {
            self.another_keepalive = true;
        }
    }

    /// Anything authentic left: `interval` is that of persistent keepalives.
    pub(super) fn anything_sent(&mut self, now: Nanos, interval: Option<Nanos>) {
        self.keepalive = NEVER;
        self.anything_passed(now, interval);
    }

    pub(super) fn anything_received(&mut self, now: Nanos, interval: Option<Nanos>) {
        self.unanswered = NEVER;
        self.anything_passed(now, interval);
    }

    fn anything_passed(&mut self, now: Nanos, interval: Option<Nanos>) {
        if let Some(interval) = interval {
            self.persistent = now + interval;
        }
    }

    /// Takes a deadline that has come.
    pub(super) fn take(deadline: &mut Nanos, now: Nanos) -> bool {
        let due = *deadline <= now;
        if due {
            *deadline = NEVER;
        }
        due
    }

    pub(super) fn stop(deadline: &mut Nanos) {
        *deadline = NEVER;
    }
}
