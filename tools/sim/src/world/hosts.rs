//! The validators: how a process takes its turns, writes its log, and dies; `boot` says how it starts.

use std::path::PathBuf;

use dag::{Height, ReplicaId, TableId, Vote, VoteKind};
use engine::{
    log::{LogConfig, Write, segment},
    node::{Core, Cross, Effect, SnapshotJob},
    snapshot::{self, SnapshotId},
    topology::Shard,
};
use futures_lite::future::block_on;

use super::{Event, GENESIS_TIME, Invariant, MS, SECOND, World, memory::Promised};
use crate::{
    disk::SimDisk,
    fault::{Behaviour, HostId},
    scenario::Scenario,
    trace::{Kind, What},
};

/// Small segments and groups, so that a short history goes through many.
pub(super) const LOG: LogConfig = LogConfig { segment_bytes: 2 << 20, group_bytes: (1 << 20) + (256 << 10) };
/// What a turn takes at least, ns.
const TURN: u64 = 40_000;
/// A segment that could not be made is tried again after so long, as in `core_loop::log_file`.
const SEGMENT_RETRY: u64 = SECOND;

/// What a vote is about: kind, table, view, height.
pub type Ballot = (VoteKind, TableId, u64, Height);

/// What a vote is about.
pub fn ballot(vote: &Vote) -> Ballot {
    (vote.kind, vote.table, vote.view, vote.height)
}

/// A validator's clocks, as they are wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// The monotonic clock is ahead by so much, ns.
    pub leap: u64,
    /// The wall clock is wrong by so much, µs.
    pub skew: i64,
    /// Both stand still since then, in world time.
    pub frozen: Option<u64>,
}

/// A core of a running validator.
pub struct CoreHost {
    pub core: Core,
    /// When its loop turns again; never where `u64::MAX`.
    pub turn_at: u64,
    pub(super) busy_until: u64,
    /// A segment to ask for, and when.
    pub(super) wanted: Option<(u32, u64)>,
    pub(super) writing: Option<Write>,
    pub(super) side: std::collections::VecDeque<Side>,
}

/// A job of the side executor.
pub enum Side {
    Prepare(u32),
    Trim(u32),
    Snapshot(SnapshotJob),
}

/// A validator, running or not.
pub struct Host {
    pub replica: ReplicaId,
    /// Whether all that is promised of validators is promised of this one.
    pub honest: bool,
    /// Whether it is the second of twins.
    pub twin: bool,
    pub disk: SimDisk,
    pub life: u64,
    pub cores: Vec<CoreHost>,
    pub(super) boot: u64,
    pub clock: Clock,
    /// The process dies after so many effects.
    pub fuse: Option<u32>,
    /// How long it is down then, and whether the machine loses power.
    pub death: (u64, bool),
    pub paused_until: u64,
    /// What a turn takes more, ns.
    pub slow: u64,
    /// What a write takes more, ns.
    pub slow_disk: u64,
    /// The next write fails; whether in its sync.
    pub failing: Option<bool>,
    /// The next write is lost, and nobody is told.
    pub losing: bool,
    pub behaviours: Vec<Behaviour>,
    /// It will not start any more.
    pub gone: bool,
    pub next_session: u64,
    /// What its log holds for certain.
    pub promised: Promised,
    /// By table: heights that were seen committed and executed.
    pub seen: Vec<(Height, Height)>,
    /// Frames that it sent, of which a liar repeats some.
    pub said: Vec<(dag::LaneId, bytes::Bytes)>,
}

impl Host {
    /// All hosts of a scenario: the committee, and the twins behind it.
    pub fn all(scenario: &Scenario) -> Vec<Host> {
        let mut hosts: Vec<Host> =
            (0..scenario.validators).map(|replica| Host::new(replica, false, scenario)).collect();
        let mut twins: Vec<HostId> = Vec::new();
        for (host, behaviour) in scenario.byzantine() {
            hosts[host].honest = false;
            hosts[host].behaviours.push(behaviour);
            if behaviour == Behaviour::Twins && !twins.contains(&host) {
                twins.push(host);
            }
        }
        for host in twins {
            let mut twin = Host::new(host, true, scenario);
            twin.honest = false;
            hosts.push(twin);
        }
        hosts
    }

    fn new(replica: usize, twin: bool, scenario: &Scenario) -> Host {
        Host {
            replica: ReplicaId::try_from(replica).expect("few validators"),
            honest: true,
            twin,
            disk: SimDisk::new(),
            life: 0,
            cores: Vec::new(),
            boot: 0,
            clock: Clock::default(),
            fuse: None,
            death: (0, false),
            paused_until: 0,
            slow: 0,
            slow_disk: 0,
            failing: None,
            losing: false,
            behaviours: Vec::new(),
            gone: false,
            next_session: 0,
            promised: Promised::default(),
            seen: vec![(0, 0); usize::from(scenario.tables)],
            said: Vec::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        !self.cores.is_empty()
    }

    /// Its monotonic clock, ns since its start.
    pub fn local(&self, now: u64) -> u64 {
        self.clock.frozen.unwrap_or(now).saturating_sub(self.boot) + self.clock.leap
    }

    /// Its wall clock, µs since 1970.
    pub fn wall(&self, now: u64) -> u64 {
        let true_time = GENESIS_TIME + self.clock.frozen.unwrap_or(now) / 1_000;
        true_time.saturating_add_signed(self.clock.skew)
    }

    /// When its monotonic clock shows `local`, if it goes on as it does.
    fn world_time(&self, local: u64) -> u64 {
        local.saturating_sub(self.clock.leap).saturating_add(self.boot)
    }

    /// When the process started.
    pub fn started(&self) -> u64 {
        self.boot
    }

    /// One effect more; false where the process dies before it.
    pub fn burn(&mut self) -> bool {
        match &mut self.fuse {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

impl CoreHost {
    /// Whether a write of the log is on its way.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }
}

/// Where a host keeps its files.
pub fn directory() -> PathBuf {
    PathBuf::from("/node")
}

impl World {
    /// The next turn of any core.
    pub(super) fn next_turn(&self) -> Option<(u64, HostId, usize)> {
        let mut next: Option<(u64, HostId, usize)> = None;
        for (id, host) in self.hosts.iter().enumerate() {
            for (number, core) in host.cores.iter().enumerate() {
                if core.turn_at < next.map_or(u64::MAX, |(at, _, _)| at) {
                    next = Some((core.turn_at, id, number));
                }
            }
        }
        next
    }

    /// Something has come for a core: it takes a turn soon.
    pub(super) fn wake(&mut self, host: HostId, core: usize) {
        let now = self.now;
        let core = &mut self.hosts[host].cores[core];
        core.turn_at = core.turn_at.min((now + TURN / 4).max(core.busy_until));
    }

    pub(super) fn shard(&self, host: HostId) -> Shard {
        Shard {
            genesis: self.genesis.hash(),
            committee: self.committee.clone(),
            me: self.hosts[host].replica,
            tables: self.scenario.tables,
            lanes: self.scenario.lanes,
            signatures: super::rule(&self.scenario),
            known: self.known.clone(),
        }
    }

    /// One turn of a core's loop, as `core_loop` takes it.
    pub(super) fn turn(&mut self, id: HostId, number: usize) {
        let (now, host) = (self.now, &mut self.hosts[id]);
        let (local, wall) = (host.local(now), host.wall(now));
        let took = TURN + host.slow;
        let core = &mut host.cores[number];
        if host.paused_until > now {
            core.turn_at = host.paused_until;
            return;
        }
        let mut more = core.core.verify_stage(local);
        more |= core.core.execute_stage(local);
        more |= core.core.agree_stage(local, wall);
        core.busy_until = now + took;
        let lives = self.begin_write(id, number) && self.carry_out(id, number);
        // Also of one that dies in the midst of it: what it has told its clients by then is to be known.
        self.judge_core(id, number);
        if !lives {
            let (down, power) = self.hosts[id].death;
            self.crash(id, down, power);
            return;
        }
        let host = &mut self.hosts[id];
        let timeout = host.cores[number].core.poll_timeout().map(|at| host.world_time(at));
        let timeout = timeout.map(|at| if host.clock.frozen.is_some() { now + 10 * MS } else { at });
        let core = &mut host.cores[number];
        let retry = core.wanted.map(|(_, at)| at);
        let next = if more { Some(now) } else { timeout.into_iter().chain(retry).min() };
        core.turn_at = next.map_or(u64::MAX, |at| at.max(now + took));
    }

    /// Asks for segments ahead, and begins the next write. False where the process dies before.
    fn begin_write(&mut self, id: HostId, number: usize) -> bool {
        let now = self.now;
        let core = &mut self.hosts[id].cores[number];
        if let Some(segment) = core.core.journal().poll_segment() {
            core.wanted = Some((segment, now));
        }
        if let Some((segment, _)) = core.wanted.take_if(|(_, at)| *at <= now) {
            self.give_side(id, number, Side::Prepare(segment));
        }
        let host = &mut self.hosts[id];
        let Some(write) = host.cores[number].core.journal().begin_commit() else { return true };
        host.promised.may_add(&write);
        if !host.burn() {
            host.cores[number].writing = Some(write);
            return false;
        }
        let latency = 80_000 + self.dice.disk.below(400_000) + host.slow_disk;
        host.cores[number].writing = Some(write);
        let life = host.life;
        self.at(latency, Event::Written { host: id, core: number, life });
        self.maybe_imagine_death(id);
        true
    }

    pub(super) fn on_written(&mut self, id: HostId, number: usize, life: u64) {
        let now = self.now;
        let host = &mut self.hosts[id];
        if host.life != life || !host.is_up() {
            return;
        }
        let failing = host.failing.take();
        if let Some(in_sync) = failing {
            self.trace.line(now, || format!("host {id}: a write of the log fails, and the process ends"));
            if in_sync {
                let write = host.cores[number].writing.take().expect("it was begun");
                let path = segment::path(&directory(), core_number(number), write.segment);
                host.disk.write_durable(&path, write.offset.into(), &write.buf);
                host.promised.add(&write);
            }
            let (down, _) = host.death;
            return self.crash(id, down, false);
        }
        let write = host.cores[number].writing.take().expect("it was begun");
        let path = segment::path(&directory(), core_number(number), write.segment);
        if std::mem::take(&mut host.losing) {
            self.trace.line(now, || format!("host {id}: a write of the log is lost"));
            host.fuse = Some(host.fuse.unwrap_or(20));
        } else {
            host.disk.write_durable(&path, write.offset.into(), &write.buf);
        }
        host.promised.add(&write);
        let local = host.local(now);
        host.cores[number].core.on_durable(write.buf, local);
        self.wake(id, number);
    }

    /// Carries out what a core asks for. False where the process dies on the way.
    fn carry_out(&mut self, id: HostId, number: usize) -> bool {
        while let Some(effect) = self.hosts[id].cores[number].core.poll_effect() {
            if !self.hosts[id].burn() {
                return false;
            }
            match effect {
                Effect::ToPeer(peer, lane, bytes) => self.say(id, Some(peer), lane, bytes),
                Effect::ToPeers(lane, bytes) => self.say(id, None, lane, bytes),
                Effect::ToClient(client, bytes) => self.answer(id, client, bytes),
                Effect::Resume(client) => self.resume(id, client),
                Effect::ToCore(core, cross) => {
                    let life = self.hosts[id].life;
                    let cross = Box::new(cross);
                    self.at(5_000, Event::Cross { host: id, core: usize::from(core), life, cross });
                }
                Effect::Snapshot(job) => self.give_side(id, number, Side::Snapshot(job)),
                Effect::TrimLog(before) => self.give_side(id, number, Side::Trim(before)),
                Effect::Note(line) => self.trace.line(self.now, || format!("host {id}: {line}")),
                Effect::Halt(reason) => {
                    self.on_halt(id, &reason);
                    return true;
                }
            }
        }
        true
    }

    fn on_halt(&mut self, id: HostId, reason: &str) {
        self.trace.line(self.now, || format!("host {id} halts: {reason}"));
        if self.hosts[id].honest {
            self.judge.ledger.fail(self.now, Invariant::Halt, format!("host {id} halts: {reason}"));
        } else {
            self.judge.refused += 1;
            self.hosts[id].gone = true;
        }
    }

    fn give_side(&mut self, id: HostId, number: usize, job: Side) {
        let host = &mut self.hosts[id];
        let side = &mut host.cores[number].side;
        side.push_back(job);
        if side.len() == 1 {
            let (life, delay) = (host.life, 300_000 + self.dice.disk.below(5 * MS) + host.slow_disk);
            self.at(delay, Event::Side { host: id, core: number, life });
        }
    }

    pub(super) fn on_side(&mut self, id: HostId, number: usize, life: u64) {
        let (now, host) = (self.now, &mut self.hosts[id]);
        if host.life != life || !host.is_up() {
            return;
        }
        // The crash may come between any two operations.
        host.disk.set_fuse(host.fuse.filter(|left| *left < 12));
        let local = host.local(now);
        let core = &mut host.cores[number];
        let job = core.side.pop_front().expect("one was given");
        match job {
            Side::Prepare(segment) => {
                let bytes = LOG.segment_bytes;
                let disk = &host.disk;
                let made =
                    block_on(segment::prepare(disk, &directory(), core_number(number), segment, bytes, None));
                match made {
                    Ok(()) => core.core.journal().segment_ready(segment),
                    Err(_) => core.wanted = Some((segment, now + SEGMENT_RETRY)),
                }
            }
            Side::Trim(before) => {
                let removed =
                    block_on(segment::remove_before(&host.disk, &directory(), core_number(number), before));
                if removed.is_ok() {
                    self.trace.line(now, || format!("host {id}: the log begins at segment {before}"));
                }
            }
            Side::Snapshot(SnapshotJob { table, height, sections }) => {
                let snapshot = SnapshotId { chain: self.genesis.chain(), table, height };
                let sections = sections.iter().map(|(kind, bytes)| (*kind, &bytes[..]));
                let written = block_on(snapshot::write(host.disk.clone(), &directory(), snapshot, sections));
                self.trace.line(now, || {
                    let how = if written.is_ok() { "is on disk" } else { "could not be written" };
                    format!("host {id}: the snapshot of table {table} at height {height} {how}")
                });
                core.core.on_snapshot_written(table, height, written, local);
            }
        }
        let more = !core.side.is_empty();
        if host.disk.is_burnt() {
            let (down, _) = host.death;
            return self.crash(id, down, true);
        }
        host.disk.set_fuse(None);
        if more {
            let delay = 300_000 + self.dice.disk.below(5 * MS) + host.slow_disk;
            self.at(delay, Event::Side { host: id, core: number, life });
        }
        self.wake(id, number);
    }

    pub(super) fn on_cross(&mut self, id: HostId, number: usize, life: u64, cross: Cross) {
        let (now, host) = (self.now, &mut self.hosts[id]);
        if host.life != life || !host.is_up() {
            return;
        }
        let local = host.local(now);
        host.cores[number].core.on_cross(cross, local);
        self.wake(id, number);
    }

    /// The process is gone, and starts again after `down` ns. With the power goes what the disk had not synced.
    pub(super) fn crash(&mut self, id: HostId, down: u64, power: bool) {
        let now = self.now;
        self.trace.mark(now, Kind::Crash, id);
        self.trace.happens(now, What::Dies(id), || {
            format!("host {id} dies{}", if power { " with the power" } else { "" })
        });
        let host = &mut self.hosts[id];
        for (number, core) in host.cores.drain(..).enumerate() {
            let Some(write) = core.writing else { continue };
            let path = segment::path(&directory(), core_number(number), write.segment);
            if host.disk.paths().contains(&path) {
                host.disk.write_torn(&path, write.offset.into(), &write.buf, &mut self.dice.disk);
                host.promised.may_survive(&write);
            }
        }
        if power {
            host.disk.crash(&mut self.dice.disk);
        } else {
            host.disk.set_fuse(None);
        }
        host.fuse = None;
        host.life += 1;
        host.clock = Clock { frozen: None, leap: 0, ..host.clock };
        let life = host.life;
        if !host.gone && !self.left_behind.contains(&id) {
            self.at(down.max(MS), Event::Boot { host: id, life });
        }
        for other in (0..self.hosts.len()).filter(|&other| other != id) {
            self.lose_link(id, other);
        }
    }

    pub(super) fn on_die(&mut self, id: HostId, life: u64) {
        let host = &self.hosts[id];
        if host.life == life && host.is_up() && host.fuse.is_some() {
            let (down, power) = host.death;
            self.crash(id, down, power);
        }
    }
}

pub fn core_number(number: usize) -> u16 {
    u16::try_from(number).expect("few cores")
}
