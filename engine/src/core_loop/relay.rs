//! The relay services' turn in the core's loop.

use std::{error::Error, io, os::fd::BorrowedFd};

use netio::{Reactor, WatchId};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

use super::Clock;
use crate::{
    metrics::CoreMetrics,
    node::Meters,
    relay::{turn::TurnCore, vpn::VpnServer},
};

/// How often the services' numbers are copied to the core's, ns.
const REPORT: u64 = 500_000_000;
/// Packets wait for no longer than this, and one step of what the loop does besides, before somebody looks for them, ns.
const GLANCE: u64 = 100_000;
/// What a VPN moves in a turn, in each direction. Consensus waits for no more than this, some 200 µs.
const VPN_TURN_BYTES: usize = 128 << 10;

/// A service that moves people's packets. All of its sockets stand behind one descriptor, which the reactor watches.
pub trait Service {
    /// What people call it.
    fn name(&self) -> &'static str;
    /// Readable when there is something to do.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// When [`turn`](Self::turn) has something to do though nothing comes in, ns.
    fn poll_timeout(&self) -> Option<u64>;
    /// Moves a bounded number of packets. Returns whether more may wait.
    ///
    /// # Errors
    /// The service can't go on.
    fn turn(&mut self, now: u64) -> Result<bool, Box<dyn Error>>;
    /// Adds its numbers to a core's.
    fn report(&mut self, metrics: &mut CoreMetrics);
}

impl Service for TurnCore {
    fn name(&self) -> &'static str {
        "TURN server"
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor()
    }

    fn poll_timeout(&self) -> Option<u64> {
        self.poll_timeout()
    }

    fn turn(&mut self, _now: u64) -> Result<bool, Box<dyn Error>> {
        Ok(self.turn()?)
    }

    fn report(&mut self, metrics: &mut CoreMetrics) {
        self.meters().report(metrics);
    }
}

impl Service for VpnServer {
    fn name(&self) -> &'static str {
        "VPN"
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor()
    }

    fn poll_timeout(&self) -> Option<u64> {
        Some(self.poll_timeout())
    }

    fn turn(&mut self, now: u64) -> Result<bool, Box<dyn Error>> {
        Ok(self.turn(now, VPN_TURN_BYTES)?)
    }

    fn report(&mut self, metrics: &mut CoreMetrics) {
        VpnServer::report(self, metrics);
    }
}

/// A service and what the reactor says of it.
struct Watched {
    service: Box<dyn Service>,
    watch: WatchId,
    /// A socket may have something.
    ready: bool,
}

impl Watched {
    fn is_due(&self, now: u64) -> bool {
        self.ready || self.service.poll_timeout().is_some_and(|at| at <= now)
    }
}

/// The services of a core.
#[derive(Default)]
pub struct Relay {
    services: Vec<Watched>,
    next_report: u64,
    next_glance: u64,
}

impl Relay {
    /// Adds a service, and has the reactor watch it.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn add(&mut self, service: impl Service + 'static, reactor: &mut Reactor) -> io::Result<()> {
        let watch = reactor.watch(service.descriptor().try_clone_to_owned()?);
        self.services.push(Watched { service: Box::new(service), watch, ready: true });
        Ok(())
    }

    /// A watched descriptor can be read.
    pub fn on_readable(&mut self, watch: WatchId) {
        self.services.iter_mut().for_each(|watched| watched.ready |= watched.watch == watch);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// Whether packets wait that the last turn had no time for.
    pub fn has_more(&self) -> bool {
        self.services.iter().any(|watched| watched.ready)
    }

    /// Whether packets that have come since should be looked for, in the midst of a turn of the loop.
    pub fn wants_glance(&self, now: u64) -> bool {
        now >= self.next_glance
    }

    /// Asks the kernel which services have something, without waiting for the reactor.
    pub fn glance(&mut self) {
        for watched in &mut self.services {
            let mut fds = [PollFd::from_borrowed_fd(watched.service.descriptor(), PollFlags::IN)];
            let ready =
                poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0);
            watched.ready |= ready;
        }
    }

    /// When [`turn`](Self::turn) has something to do though nothing comes in.
    pub fn poll_timeout(&self) -> Option<u64> {
        self.services.iter().filter_map(|watched| watched.service.poll_timeout()).min()
    }

    /// A bounded number of packets of each service. Returns whether more may wait. A service that can't go on is closed, and
    /// said so: the validator does go on.
    pub fn turn(&mut self, reactor: &mut Reactor, meters: &mut Meters, clock: Clock) -> bool {
        let (now, mut more) = (clock.now(), false);
        self.services.retain_mut(|watched| {
            if !watched.is_due(now) {
                return true;
            }
            match watched.service.turn(now) {
                Ok(ready) => watched.ready = ready,
                Err(error) => {
                    eprintln!(
                        "{error}: the {} is closed; start the node again for it",
                        watched.service.name()
                    );
                    return false;
                }
            }
            if !watched.ready {
                reactor.watch_again(watched.watch);
            }
            more |= watched.ready;
            true
        });
        if now >= self.next_report {
            self.next_report = now + REPORT;
            self.report(meters);
        }
        // As much time for the loop's other work as packets took: a flood of them gets half of the core, and not more.
        let ended = clock.now();
        self.next_glance = ended + GLANCE.max(ended - now);
        more
    }

    fn report(&mut self, meters: &mut Meters) {
        let mut metrics = CoreMetrics::default();
        for watched in &mut self.services {
            watched.service.report(&mut metrics);
        }
        metrics.gauge("relay_services", "Relay services that run.", self.services.len() as u64);
        meters.relay = metrics.into_samples();
    }
}
