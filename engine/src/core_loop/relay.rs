//! The relay services' turn in the core's loop.

use std::io;

use netio::{Reactor, WatchId};

use crate::{metrics::CoreMetrics, node::Meters, relay::turn::TurnCore};

/// How often the services' numbers are copied to the core's, ns.
const REPORT: u64 = 500_000_000;

/// The services of a core. Their sockets stand behind one descriptor that the reactor watches.
pub struct Relay {
    turn: TurnCore,
    watch: WatchId,
    /// A socket may have something.
    ready: bool,
    next_report: u64,
}

impl Relay {
    /// Has the reactor watch the service's sockets.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(turn: TurnCore, reactor: &mut Reactor) -> io::Result<Relay> {
        let watch = reactor.watch(turn.descriptor().try_clone_to_owned()?);
        Ok(Relay { turn, watch, ready: true, next_report: 0 })
    }

    /// A watched descriptor can be read.
    pub fn on_readable(&mut self, watch: WatchId) {
        self.ready |= watch == self.watch;
    }

    /// When [`turn`](Self::turn) has something to do though nothing comes in.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.turn.poll_timeout()
    }

    /// A bounded number of packets. Returns whether more may wait.
    ///
    /// # Errors
    /// The service can't go on.
    pub fn turn(&mut self, reactor: &mut Reactor, meters: &mut Meters, now: u64) -> io::Result<bool> {
        if now >= self.next_report {
            self.next_report = now + REPORT;
            let mut metrics = CoreMetrics::default();
            self.turn.meters().report(&mut metrics);
            meters.relay = metrics.into_samples();
        }
        if !self.ready && self.poll_timeout().is_none_or(|at| at > now) {
            return Ok(false);
        }
        self.ready = self.turn.turn()?;
        if !self.ready {
            reactor.watch_again(self.watch);
        }
        Ok(self.ready)
    }
}
