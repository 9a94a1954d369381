//! The plan's episodes, as they begin and end.

use super::{Event, MS, World};
use crate::{
    coverage::State,
    fault::{Episode, Fault, HostId},
    trace::Kind,
};

impl World {
    pub(super) fn begin_episode(&mut self, index: usize) {
        let episode = self.scenario.plan[index];
        self.trace.mark(self.now, Kind::Fault, index);
        self.trace.line(self.now, || format!("fault begins: {:?}", episode.fault));
        if matches!(episode.fault, Fault::Byzantine(..)) && self.now + 1_000 * MS < self.scenario.horizon * MS
        {
            // It lies from the start: counted each second, as there is always something to lie about.
            self.at(1_000 * MS, Event::Begin(index));
        }
        self.cover(&episode);
        self.strike(&episode);
        self.retune();
    }

    fn strike(&mut self, episode: &Episode) {
        let (now, lasts) = (self.now, episode.lasts * MS);
        match episode.fault {
            Fault::Loss(_) | Fault::PrepareLoss(_) | Fault::CommitLoss(_) => {}
            Fault::Duplicate(_) | Fault::Reorder(_) | Fault::Delay(_) => {}
            Fault::Byzantine(..) => {}
            Fault::Cut(from, to) => self.network.wire(from, to).cuts += 1,
            Fault::Partition(set) => self.partition(set, |cuts| *cuts += 1),
            Fault::Reset(a, b) => self.lose_link(a, b),
            Fault::Clog(from, to) => self.network.wire(from, to).clogged_until = now + lasts,
            Fault::Slow(host, ms) => self.hosts[host].slow = u64::from(ms) * MS,
            Fault::Pause(host) => self.hosts[host].paused_until = now + lasts,
            Fault::Crash(host, effects) => {
                let power = self.dice.host.percent(50);
                self.let_die(host, u32::from(effects), lasts, power);
            }
            Fault::Blackout => {
                for host in 0..self.hosts.len() {
                    if self.hosts[host].is_up() {
                        let down = lasts + self.dice.host.below(500 * MS);
                        self.crash(host, down, true);
                    }
                }
            }
            Fault::Skew(host, ms) => self.hosts[host].clock.skew = i64::from(ms) * 1_000,
            Fault::Leap(host, ms) => {
                self.hosts[host].clock.leap += u64::from(ms) * MS;
                self.wake_all(host);
            }
            Fault::Freeze(host) => self.hosts[host].clock.frozen = Some(now),
            Fault::SlowDisk(host, ms) => self.hosts[host].slow_disk = u64::from(ms) * MS,
            Fault::FullDisk(host) => self.hosts[host].disk.set_full(true),
            Fault::WriteError(host) | Fault::SyncError(host) => {
                let in_sync = matches!(episode.fault, Fault::SyncError(_));
                self.hosts[host].failing = Some(in_sync);
                self.hosts[host].death = (lasts, false);
            }
            Fault::ReadError(host) => {
                self.hosts[host].disk.set_unreadable(true);
                self.let_die(host, 0, lasts / 2, false);
            }
            Fault::BitFlip(host) => {
                self.hosts[host].honest = false;
                let found = self.hosts[host].disk.any_sector(self.dice.disk.percent(70), &mut self.dice.disk);
                if let Some((path, sector)) = found {
                    self.hosts[host].disk.flip(&path, sector, &mut self.dice.disk);
                }
                self.let_die(host, 0, lasts, true);
            }
            Fault::LostWrite(host) => {
                self.hosts[host].honest = false;
                self.hosts[host].losing = true;
                self.hosts[host].death = (lasts, true);
            }
            Fault::Misdirect(host) | Fault::Misread(host) => {
                self.hosts[host].honest = false;
                let disk = &self.hosts[host].disk;
                if let Some((path, one)) = disk.any_sector(true, &mut self.dice.disk)
                    && let Some((_, other)) = disk.any_sector(true, &mut self.dice.disk)
                {
                    match episode.fault {
                        Fault::Misread(_) => disk.misread(&path, one, other),
                        _ => disk.misdirect(&path, one, other),
                    }
                }
                self.let_die(host, 0, lasts, true);
            }
        }
    }

    pub(super) fn end_episode(&mut self, index: usize) {
        let episode = self.scenario.plan[index];
        self.trace.line(self.now, || format!("fault ends: {:?}", episode.fault));
        if self.healed {
            return;
        }
        match episode.fault {
            Fault::Cut(from, to) => {
                let wire = self.network.wire(from, to);
                wire.cuts = wire.cuts.saturating_sub(1);
            }
            Fault::Partition(set) => self.partition(set, |cuts| *cuts = cuts.saturating_sub(1)),
            Fault::Slow(host, _) => self.hosts[host].slow = 0,
            Fault::Skew(host, _) => self.hosts[host].clock.skew = 0,
            Fault::Freeze(host) => self.thaw(host),
            Fault::SlowDisk(host, _) => self.hosts[host].slow_disk = 0,
            Fault::FullDisk(host) => self.hosts[host].disk.set_full(false),
            Fault::ReadError(host) => self.hosts[host].disk.set_unreadable(false),
            _ => {}
        }
        self.retune();
    }

    /// A stopped clock goes on where the world is.
    fn thaw(&mut self, host: HostId) {
        self.hosts[host].clock.frozen = None;
        self.wake_all(host);
    }

    fn wake_all(&mut self, host: HostId) {
        for core in 0..self.hosts[host].cores.len() {
            self.wake(host, core);
        }
    }

    fn let_die(&mut self, host: HostId, effects: u32, down: u64, power: bool) {
        if !self.hosts[host].is_up() {
            return;
        }
        self.hosts[host].fuse = Some(effects);
        self.hosts[host].death = (down, power);
        let life = self.hosts[host].life;
        let patience = self.dice.host.below(300 * MS);
        self.at(patience, Event::Die { host, life });
    }

    fn partition(&mut self, set: u32, change: impl Fn(&mut u32)) {
        let inside = |host: HostId| set >> host.min(31) & 1 == 1;
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                if inside(from) != inside(to) {
                    change(&mut self.network.wire(from, to).cuts);
                }
            }
        }
    }

    /// Sets the network's weather to the worst of the episodes that go on.
    fn retune(&mut self) {
        let now = self.now / MS;
        let (mut loss, mut duplicate, mut reorder, mut delay) = (0, 0, 0, 0);
        let (mut prepare_loss, mut commit_loss) = (0, 0);
        if !self.healed {
            let on = |episode: &&Episode| episode.at <= now && now < episode.at + episode.lasts;
            for episode in self.scenario.plan.iter().filter(on) {
                match episode.fault {
                    Fault::Loss(percent) => loss = loss.max(percent.into()),
                    Fault::PrepareLoss(percent) => prepare_loss = prepare_loss.max(percent.into()),
                    Fault::CommitLoss(percent) => commit_loss = commit_loss.max(percent.into()),
                    Fault::Duplicate(percent) => duplicate = duplicate.max(percent.into()),
                    Fault::Reorder(ms) => reorder = reorder.max(ms.into()),
                    Fault::Delay(ms) => delay = delay.max(ms.into()),
                    _ => {}
                }
            }
        }
        self.network.loss = loss;
        self.network.prepare_loss = prepare_loss;
        self.network.commit_loss = commit_loss;
        self.network.duplicate = duplicate;
        self.network.reorder = reorder;
        self.network.delay = delay;
    }

    /// Notes in which states of the protocol a fault has struck.
    fn cover(&mut self, episode: &Episode) {
        let hosts: Vec<HostId> = match episode.fault.host() {
            Some(host) => vec![host],
            None => (0..self.hosts.len()).collect(),
        };
        for host in hosts {
            for state in self.states(host) {
                self.coverage.hit(&episode.fault, state);
            }
        }
    }

    /// What a host's tables are doing.
    fn states(&self, host: HostId) -> Vec<State> {
        let host = &self.hosts[host];
        let mut states = Vec::new();
        if !host.is_up() {
            states.push(State::Down);
        }
        if self.now.saturating_sub(host.started()) < 200 * MS && host.is_up() && self.now > 200 * MS {
            states.push(State::Restarted);
        }
        for view in host.cores.iter().flat_map(|core| core.core.views()) {
            let summary = view.replica().summary();
            if summary.open == 0 && summary.active {
                states.push(State::Idle);
            }
            if summary.open > 0 {
                states.push(State::Agreeing);
            }
            if !summary.active {
                states.push(State::ChangingView);
            }
            if summary.active && summary.view > 0 {
                states.push(State::LaterView);
            }
            if view.state().height() < summary.committed {
                states.push(State::Executing);
            }
            if summary.stable < view.state().checkpoint().height {
                states.push(State::Checkpoint);
            }
            if view.is_fetching() {
                states.push(State::Fetching);
            }
            if view.is_saving() {
                states.push(State::Saving);
            }
            if view.waiting() > 0 {
                states.push(State::Waiting);
            }
        }
        if host.cores.iter().any(super::hosts::CoreHost::is_writing) {
            states.push(State::Writing);
        }
        states.sort_unstable();
        states.dedup();
        states
    }

    /// The faults are over: everybody, or a random quorum, is whole again. Who was corrupted stays so.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.trace.line(self.now, || "the faults are over".into());
        self.choose_left_behind();
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                let wire = self.network.wire(from, to);
                wire.cuts = 0;
                wire.clogged_until = 0;
            }
        }
        self.retune();
        for host in 0..self.hosts.len() {
            let one = &mut self.hosts[host];
            (one.slow, one.slow_disk, one.paused_until) = (0, 0, one.paused_until.min(self.now));
            (one.failing, one.fuse, one.losing) = (None, None, false);
            one.clock.skew = 0;
            one.disk.set_full(false);
            one.disk.set_unreadable(false);
            if one.clock.frozen.is_some() {
                self.thaw(host);
            }
        }
        for host in self.left_behind.clone() {
            if self.hosts[host].is_up() {
                self.crash(host, 0, true);
            }
        }
        for host in 0..self.hosts.len() {
            let one = &self.hosts[host];
            if !one.is_up() && !one.gone && !self.left_behind.contains(&host) {
                let life = one.life;
                self.at(MS, Event::Boot { host, life });
            }
        }
        // What is lost without a word would be lost for ever otherwise: connections break in real networks.
        for a in 0..self.hosts.len() {
            for b in 0..a {
                self.lose_link(a, b);
            }
        }
    }

    fn choose_left_behind(&mut self) {
        let corrupt = (0..self.scenario.validators).filter(|&host| !self.hosts[host].honest).count();
        let spare = self.scenario.faulty().saturating_sub(corrupt);
        if self.scenario.heal_quorum_only && spare > 0 {
            let honest: Vec<HostId> =
                (0..self.scenario.validators).filter(|&host| self.hosts[host].honest).collect();
            let chosen = self.dice.host.some(spare, honest.len());
            self.left_behind = chosen.into_iter().map(|index| honest[index]).collect();
        }
    }
}
