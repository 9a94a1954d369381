//! The validators as faults strike them: who is held down, who has to stop, and who ended without being asked.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sim::model::{Invariant, Violation};

use super::{
    place::Place,
    plan::{Endpoint, Episode, Fault, Kind},
};
use crate::{devnet::Devnet, exit::Outcome};

/// How long a validator may take from SIGTERM to its end.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// The processes, and the network between them.
pub struct Processes {
    // In this order: the processes end before their network does.
    devnet: Devnet,
    place: Place,
    active: Vec<Episode>,
    /// By validator: since when it is asked to stop.
    stopping: Vec<Option<Instant>>,
    counts: BTreeMap<Kind, u64>,
    violation: Option<Violation>,
}

impl Processes {
    /// All of them well.
    pub fn new(devnet: Devnet, place: Place) -> Processes {
        let stopping = vec![None; devnet.nodes().len()];
        Processes { devnet, place, active: Vec::new(), stopping, counts: BTreeMap::new(), violation: None }
    }

    /// The network's files and processes.
    pub fn devnet(&self) -> &Devnet {
        &self.devnet
    }

    /// Faults that have struck.
    pub fn counts(&self) -> &BTreeMap<Kind, u64> {
        &self.counts
    }

    /// What a process did that none may do.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Each validator's name and the end of its log.
    pub fn logs(&self) -> impl Iterator<Item = (&str, String)> {
        self.devnet.nodes().iter().map(|node| (node.name(), node.log_tail()))
    }

    /// A fault strikes.
    ///
    /// # Errors
    /// The rules can't be set.
    pub fn begin(&mut self, episode: Episode, now: u64) -> Outcome {
        // An end that came before this fault is no work of it.
        self.look(now);
        match episode.fault {
            Fault::Kill(host) => self.kill(&[host]),
            Fault::Blackout => self.kill(&(0..self.stopping.len()).collect::<Vec<_>>()),
            Fault::Restart(host) if self.devnet.node(host).is_running() => {
                self.devnet.node(host).terminate();
                self.stopping[host].get_or_insert_with(Instant::now);
            }
            // Who has to stop in time may not be held up.
            Fault::Freeze(host) if self.stopping[host].is_none() => {
                self.devnet.node(host).signal(Signal::STOP)
            }
            Fault::Restart(_) | Fault::Freeze(_) => return Ok(()),
            _ => {}
        }
        *self.counts.entry(episode.fault.kind()).or_default() += 1;
        self.active.push(episode);
        self.apply()
    }

    /// Kills these, at once.
    fn kill(&mut self, hosts: &[Endpoint]) {
        for &host in hosts {
            self.devnet.node(host).signal(Signal::KILL);
        }
        for &host in hosts {
            self.devnet.node(host).kill();
            self.stopping[host] = None;
        }
    }

    /// Ends the faults whose time is over.
    ///
    /// # Errors
    /// The rules can't be set.
    pub fn end_until(&mut self, now: Duration) -> Outcome {
        let before = self.active.len();
        self.active.retain(|episode| episode.until > now);
        if self.active.len() == before {
            return Ok(());
        }
        for host in 0..self.stopping.len() {
            if !self.active.iter().any(|episode| episode.fault == Fault::Freeze(host)) {
                self.devnet.node(host).signal(Signal::CONT);
            }
        }
        self.apply()
    }

    /// Ends all faults.
    ///
    /// # Errors
    /// The rules can't be set.
    pub fn heal(&mut self) -> Outcome {
        self.end_until(Duration::MAX)
    }

    fn apply(&mut self) -> Outcome {
        let faults: Vec<Fault> = self.active.iter().map(|episode| episode.fault).collect();
        self.place.apply(&faults)
    }

    /// Notices ends, and starts whom nothing holds down.
    ///
    /// # Errors
    /// A process can't be started.
    pub fn tick(&mut self, now: u64) -> Outcome {
        self.look(now);
        for host in 0..self.stopping.len() {
            if self.violation.is_none() && !self.is_held_down(host) && !self.devnet.node(host).is_running() {
                self.devnet.node(host).start()?;
            }
        }
        Ok(())
    }

    /// Whether a fault keeps a validator from being started.
    fn is_held_down(&self, host: Endpoint) -> bool {
        let holds = |episode: &Episode| match episode.fault {
            Fault::Kill(other) | Fault::Restart(other) => other == host,
            Fault::Blackout => true,
            _ => false,
        };
        self.stopping[host].is_some() || self.active.iter().any(holds)
    }

    /// Judges who has ended: only who was asked to may, and in time.
    fn look(&mut self, now: u64) {
        for host in 0..self.stopping.len() {
            let asked = self.stopping[host];
            let node = self.devnet.node(host);
            let what = match (node.ended(), asked) {
                (None, Some(since)) if since.elapsed() > STOPS_WITHIN => {
                    format!("v{host} does not end within {STOPS_WITHIN:?} of SIGTERM")
                }
                (None, _) => continue,
                (Some(status), Some(_)) if status.success() => {
                    node.reap_until(Instant::now());
                    self.stopping[host] = None;
                    continue;
                }
                (Some(status), Some(_)) => format!("v{host} ends with {status} when asked to stop"),
                (Some(status), None) => format!("v{host} ends by itself: {status}"),
            };
            self.violation.get_or_insert(Violation { invariant: Invariant::Halt, at: now, what });
        }
    }
}
