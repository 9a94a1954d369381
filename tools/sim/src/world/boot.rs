//! How a process starts from its disk.

use std::rc::Rc;

use dag::Height;
use engine::{
    log::Writer,
    node::{Core, Settings},
    recovery::{Agreement, Recovered, RecoveryError, Sources, recover},
    snapshot,
    topology::Placement,
};

use super::{
    Event, Invariant, MS, SECOND, World,
    hosts::{CoreHost, LOG, directory},
};
use crate::{
    disk::SimDisk,
    fault::HostId,
    trace::{Kind, What},
};

/// Longest view-change timeout, ns.
const VIEW_TIMEOUT_MAX: u64 = 5 * SECOND;
/// How long the checkers of a block are waited for, ns.
const CHECK_AFTER: u64 = 50 * MS;

impl World {
    fn settings(&self, id: HostId) -> Settings {
        Settings {
            view_timeout: self.scenario.view_timeout * MS,
            view_timeout_max: VIEW_TIMEOUT_MAX,
            snapshot_interval: self.scenario.snapshot_interval,
            retained_segments: self.scenario.retained_segments,
            history_bytes: self.scenario.history_bytes,
            // As often as can be; or the validators at unlike paces, as idle and busy ones are.
            interval: if self.scenario.eager { 0 } else { [2_500, 20_000][id % 2] },
            batch_target: if self.scenario.eager { 1 } else { Settings::default().batch_target },
            ..Settings::default()
        }
    }

    /// Starts a process from its disk.
    pub(super) fn on_boot(&mut self, id: HostId, life: u64) {
        let host = &self.hosts[id];
        if host.life != life || host.is_up() || host.gone {
            return;
        }
        match self.recover(id) {
            Ok(cores) => {
                self.trace.mark(self.now, Kind::Boot, id);
                self.trace.happens(self.now, What::Starts(id), || format!("host {id} starts"));
                let host = &mut self.hosts[id];
                host.cores = cores;
                for core in &mut host.cores {
                    for view in core.core.views() {
                        let seen = (view.replica().committed_height(), view.state().height());
                        host.seen[usize::from(view.id())] = seen;
                    }
                    core.core.start(host.clock.leap);
                }
                for other in (0..self.hosts.len()).filter(|&other| other != id) {
                    self.reconnect(id, other);
                }
                if let Some(violation) = self.judge.supply(&self.hosts[id]) {
                    self.judge.ledger.fail(self.now, Invariant::Supply, violation);
                }
            }
            Err(error) => self.on_boot_failed(id, &error),
        }
    }

    fn on_boot_failed(&mut self, id: HostId, error: &RecoveryError) {
        let (now, host) = (self.now, &mut self.hosts[id]);
        self.trace.line(now, || format!("host {id} does not start: {error}"));
        if host.disk.is_burnt() || host.disk.is_failing() || matches!(error, RecoveryError::Disk(_)) {
            // The machine died once more on the way, or its disk can't be read now.
            host.disk.crash(&mut self.dice.disk);
            host.life += 1;
            let life = host.life;
            self.at(200 * MS, Event::Boot { host: id, life });
        } else if host.honest {
            let what = format!("host {id} can't go on from what a crash left: {error}");
            self.judge.ledger.fail(now, Invariant::Recovery, what);
        } else {
            host.gone = true;
            self.judge.refused += 1;
        }
    }

    fn recover(&mut self, id: HostId) -> Result<Vec<CoreHost>, RecoveryError> {
        let (shard, settings) = (self.shard(id), self.settings(id));
        let (now, host) = (self.now, &mut self.hosts[id]);
        host.boot = now;
        host.clock.leap = 0;
        let disk = host.disk.clone();
        snapshot::remove_leftovers(&disk, &directory())?;
        if self.hosts[id].behaviours.is_empty()
            && !self.hosts[id].twin
            && let Some(what) = self.strange_record(id, &disk)
        {
            self.judge.ledger.fail(now, Invariant::Recovery, format!("host {id} {what}"));
        }
        let mut cores = Vec::new();
        for core in 0..self.scenario.cores {
            let random = (self.dice.host.any(), self.dice.host.bytes());
            let recovered = self.recover_core(id, &disk, core, random)?;
            if self.hosts[id].honest
                && let Some(what) = self.hosts[id].promised.forgotten_by(&recovered)
            {
                self.judge.ledger.fail(now, Invariant::Recovery, format!("host {id} {what}"));
            }
            for note in recovered.notes {
                self.trace.line(now, || format!("host {id}: {note}"));
            }
            let writer = Writer::new(LOG, &recovered.tail);
            let log = (writer, recovered.end);
            let seed = self.dice.host.bytes();
            let placement = Placement { cores: self.scenario.cores, core };
            let key = Rc::clone(&self.keys[usize::from(self.hosts[id].replica)]);
            let mut core =
                Core::new(shard.clone(), placement, settings.clone(), key, seed, recovered.tables, log);
            for delivery in recovered.deliveries {
                core.deliver(delivery, 0);
            }
            cores.push(CoreHost {
                core,
                turn_at: now,
                busy_until: now,
                wanted: None,
                writing: None,
                side: std::collections::VecDeque::new(),
            });
        }
        Ok(cores)
    }

    /// What a core of a host would start with from a disk.
    pub(super) fn recover_core(
        &self,
        id: HostId,
        disk: &SimDisk,
        core: u16,
        (index_seed, log_salt): (u64, [u8; 32]),
    ) -> Result<Recovered, RecoveryError> {
        let settings = self.settings(id);
        let key = &self.keys[usize::from(self.hosts[id].replica)];
        let sources = Sources {
            disk: disk.clone(),
            directory: &directory(),
            genesis: &self.genesis,
            log: LOG,
            log_from: 0,
            silent: false,
            agreement: Agreement {
                view_timeout: settings.view_timeout,
                view_timeout_max: settings.view_timeout_max,
                check_all: false,
                check_after: CHECK_AFTER,
            },
            index_seed,
            log_salt,
            indexed: &|_| Height::MAX,
        };
        recover(&sources, &self.shard(id), Placement { cores: self.scenario.cores, core }, key)
    }
}
