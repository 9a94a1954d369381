//! Real validators under faults at their own speed: `topio sim --real`.
//!
//! | file | holds |
//! | --- | --- |
//! | `plan` | the kinds of faults, and when they strike under a seed |
//! | `place` | the network: namespaces, a bridge, and the rules that cut links |
//! | `processes` | the validators, as faults kill, freeze and start them |
//! | `clients` | who submits, waits, asks and goes elsewhere |
//! | `audit`, `settle` | what is read from the validators, and judged by the model ledger of [`sim::model`] |
//! | `report` | what is told |

mod audit;
mod clients;
mod place;
mod plan;
mod processes;
mod report;
mod settle;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use dag::Address;
use engine::genesis::Genesis;
use sim::{model::Violation, random::Random};

pub use self::place::check_tools;
use self::{
    audit::Auditor,
    clients::{Client, Setting, Shared},
    place::Place,
    plan::{Episode, draw},
    processes::Processes,
    report::{Facts, faults},
};
use crate::{
    devnet::{Devnet, Instructions, Ports, READY_WITHIN, Sizes},
    exit::{Failure, Outcome},
    output::Format,
    signals::Interrupt,
};

/// Clients; each has a thread and [`ACCOUNTS`].
const CLIENTS: u64 = 8;
/// Accounts of each client.
const ACCOUNTS: u64 = 8;
/// Micro-TOP of each account: more than it can ever pay.
const BALANCE: u64 = 1_000_000_000;
/// Tables: enough for payments between tables, few enough that reading every block of every validator is cheap.
const TABLES: u16 = 4;
/// Pause between two looks at the processes.
const TICK: Duration = Duration::from_millis(20);
/// Pause between two lines of progress.
const TELL: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the plan and the clients' dice.
    pub seed: u64,
    /// How long faults strike.
    pub time: Duration,
    /// Processes.
    pub validators: u16,
    /// Where their files are; removed when all is well.
    pub data_dir: Option<PathBuf>,
}

impl Options {
    fn sizes(&self) -> Sizes {
        Sizes {
            validators: self.validators,
            tables: TABLES,
            lanes: 1,
            cores: 1,
            accounts: CLIENTS * ACCOUNTS,
            balance: BALANCE,
            check_all: false,
            pin: false,
            instructions: Instructions::Auto,
        }
    }

    fn folder(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| format!("topio-real-{}", self.seed).into())
    }

    /// The command that runs it again.
    fn command(&self) -> String {
        let time = humantime::format_duration(self.time).to_string().replace(' ', "");
        format!("topio sim --real --seed {} --time {time} --validators {}", self.seed, self.validators)
    }
}

/// Runs a network of processes under faults and prints what came of it. Only a violation leaves files behind.
///
/// # Errors
/// The network can't be made, the user interrupts, or an invariant is violated.
pub fn run(options: &Options, format: Format) -> Outcome {
    let interrupt = Interrupt::from_signals()?;
    check_tools()?;
    let folder = options.folder();
    let outcome = watch(options, &folder, &interrupt);
    let is_well = outcome.as_ref().is_ok_and(|facts| facts.violations.is_empty());
    // Other errors may be about the folder, or say where in it to look.
    if is_well || matches!(outcome, Err(Failure::Interrupted)) {
        fs::remove_dir_all(&folder)
            .map_err(|error| Failure::Failed(format!("{} can't be removed: {error}", folder.display())))?;
    }
    format.print(&outcome?)?;
    if is_well {
        Ok(())
    } else {
        Err(Failure::Failed(format!("seed {} violates an invariant", options.seed)))
    }
}

/// Makes the network, has the faults strike, and judges. All processes and namespaces are gone when it returns.
fn watch(options: &Options, folder: &Path, interrupt: &Interrupt) -> Outcome<Facts> {
    let program = env::current_exe()
        .map_err(|error| Failure::Failed(format!("this program's own file is not to be found: {error}")))?;
    let place = Place::new(options.validators.into())?;
    let mut devnet = Devnet::create_in(&program, folder, options.sizes(), &place.homes())?;
    // The validators are children of this very thread, which the kernel ties their lives to; the clients' threads follow it.
    place.enter()?;
    eprintln!("seed {}: {} validators in network namespaces", options.seed, options.validators);
    devnet.start()?;
    devnet.wait_ready(READY_WITHIN, interrupt)?;
    let genesis = Genesis::load(&devnet.layout().genesis()).map_err(Failure::failed)?;
    let mut run = Run::begin(options, genesis, Processes::new(devnet, place));
    let outcome = run.go_on(interrupt);
    let facts = run.end(folder);
    outcome?;
    if let Some(violation) = facts.violations.first() {
        tell_violation(options, violation, &run.processes, folder);
    }
    Ok(facts)
}

fn tell_violation(options: &Options, violation: &Violation, processes: &Processes, folder: &Path) {
    eprintln!("seed {} at commit {}: {violation}", options.seed, sim::COMMIT);
    for (name, tail) in processes.logs() {
        eprintln!("the end of {name}'s log:\n{tail}");
    }
    eprintln!("the validators' files: {}", folder.display());
    eprintln!("run it again: {}", options.command());
}

/// A run.
struct Run {
    options: Options,
    shared: Arc<Shared>,
    processes: Processes,
    plan: Vec<Episode>,
    /// Episodes of the plan that have begun.
    begun: usize,
    auditor: Option<JoinHandle<Auditor>>,
    clients: Vec<JoinHandle<()>>,
    began: Instant,
    healed: Option<Instant>,
    told: Instant,
}

impl Run {
    fn begin(options: &Options, genesis: Genesis, processes: Processes) -> Run {
        let shared = Arc::new(Shared::new());
        let (sender, news) = mpsc::channel();
        let nodes: Arc<[Ports]> = processes.devnet().nodes().iter().map(|node| *node.ports()).collect();
        let key = |index| processes.devnet().account_key(index);
        let known: Arc<[Address]> = (0..CLIENTS * ACCOUNTS).map(|index| key(index).address()).collect();
        let setting = Setting {
            chain: genesis.chain(),
            nodes: Arc::clone(&nodes),
            known,
            news: sender,
            shared: Arc::clone(&shared),
        };
        let client = |number: u64| {
            let keys = (number * ACCOUNTS..(number + 1) * ACCOUNTS).map(key).collect();
            let dice = Random::new(options.seed, &format!("real client {number}"));
            let client = Client::new(&setting, keys, dice);
            thread::spawn(move || client.run())
        };
        let clients = (0..CLIENTS).map(client).collect();
        let auditor = Auditor::new(genesis, nodes, news, Arc::clone(&shared));
        Run {
            plan: draw(options.seed, options.validators.into(), options.time),
            options: options.clone(),
            shared,
            processes,
            begun: 0,
            auditor: Some(thread::spawn(move || auditor.run())),
            clients,
            began: Instant::now(),
            healed: None,
            told: Instant::now(),
        }
    }

    /// Faults until the time is over, then health until all is judged.
    fn go_on(&mut self, interrupt: &Interrupt) -> Outcome {
        while self.auditor.as_ref().is_some_and(|auditor| !auditor.is_finished()) {
            interrupt.check()?;
            if self.processes.violation().is_some() {
                return Ok(());
            }
            let now = self.began.elapsed();
            if self.healed.is_none() {
                self.strike(now)?;
                if now >= self.options.time {
                    self.processes.heal()?;
                    self.healed = Some(Instant::now());
                    self.shared.healed.store(true, Relaxed);
                }
            }
            self.processes.tick(self.shared.now())?;
            self.tell(now);
            thread::sleep(TICK);
        }
        Ok(())
    }

    fn strike(&mut self, now: Duration) -> Outcome {
        self.processes.end_until(now)?;
        while let Some(episode) = self.plan.get(self.begun).filter(|episode| episode.at <= now) {
            self.processes.begin(*episode, self.shared.now())?;
            self.begun += 1;
        }
        Ok(())
    }

    fn tell(&mut self, now: Duration) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let left = match self.healed {
            Some(healed) => format!("healed for {:.0} s", healed.elapsed().as_secs_f64()),
            None => format!("{:.0} s left", self.options.time.saturating_sub(now).as_secs_f64()),
        };
        let (submitted, acknowledged) =
            (self.shared.submitted.load(Relaxed), self.shared.acknowledged.load(Relaxed));
        let faults = faults(self.processes.counts());
        eprintln!("{left}: {submitted} submitted, {acknowledged} acknowledged; faults: {faults}");
    }

    /// Has all threads end, and gathers what came of it.
    fn end(&mut self, folder: &Path) -> Facts {
        let gap = self.shared.longest_gap();
        self.shared.stop.store(true, Relaxed);
        let settled = self.healed.map_or(Duration::ZERO, |healed| healed.elapsed());
        let auditor = self.auditor.take().expect("it ends once").join().expect("judging does not panic");
        for client in self.clients.drain(..) {
            client.join().expect("clients do not panic");
        }
        let violation = self.processes.violation().or(auditor.violation()).cloned();
        Facts {
            seconds: self.began.elapsed().min(self.options.time).as_secs_f64(),
            seed: self.options.seed,
            commit: sim::COMMIT,
            validators: self.options.validators.into(),
            submitted: self.shared.submitted.load(Relaxed),
            acknowledged: self.shared.acknowledged.load(Relaxed),
            retried: self.shared.retried.load(Relaxed),
            blocks: auditor.ledger.blocks(),
            faults: self.processes.counts().clone(),
            longest_gap: gap.as_secs_f64(),
            settled: settled.as_secs_f64(),
            data_dir: violation.is_some().then(|| folder.to_path_buf()),
            violations: violation.into_iter().collect(),
        }
    }
}
