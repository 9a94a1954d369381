//! `topio sim`: whole networks of the real validator code, simulated under a seed.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Serialize;
use sim::{
    Outcome as Run,
    coverage::Coverage,
    drawing::{Window, svg},
    fault::Episode,
    model::Violation,
    run_traced,
    scenario::{Atlas, Scenario},
    search::{Failure as Found, Plan, Tally, run_seed, search},
    shrink::shrink,
    trace::{Line, text},
};

use crate::{
    exit::{Failure, Outcome},
    output::Format,
    real,
    signals::Interrupt,
    values::duration,
};

/// How long real processes are under faults.
const REAL_TIME: Duration = Duration::from_secs(180);

const EXAMPLES: &str = "\
Examples:
  topio sim                          random seeds until Ctrl-C
  topio sim --time 5m --json         for five minutes; the facts as JSON
  topio sim --seed 7 --trace t.txt   one seed again, and what happened: a line an event, with the flow between the validators
  topio sim --seed 7 --draw t.svg --from 900 --to 1200
                                     the same as a picture of 300 simulated ms, for a browser
  topio sim --seeds 300 --first 1 --twice
                                     these seeds, each twice, and every byte compared
  sudo topio sim --real              three minutes of real processes in network namespaces, under faults
  sudo topio sim --real --time 10m --seed 7 --json
                                     the same faults again that seed 7 had, for ten minutes

Faults strike networks, processes, clocks and disks, and up to f validators are Byzantine. The
clients' promises, agreement, money and liveness are checked after every event. A seed that fails
is printed with the command that replays it, and its plan of faults is made as small as it gets.
With --real the validators are processes, and no byte comes again: links are cut by nftables,
processes killed, frozen and restarted, and the same model ledger judges. tools/sim/README.md says
what is injected and what is checked.";

/// Arguments of `topio sim`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Replay this seed; with --real: its faults
    #[arg(long, conflicts_with_all = ["seeds", "first", "threads"])]
    seed: Option<u64>,
    /// With a seed: write what happened into this file
    #[arg(long, requires = "seed", value_name = "FILE")]
    trace: Option<PathBuf>,
    /// With a seed: draw what happened into this SVG file, as arrows between the validators' lifelines: the last second before the
    /// violation, or the end
    #[arg(long, requires = "seed", value_name = "FILE.svg")]
    draw: Option<PathBuf>,
    /// Draw from this simulated millisecond on
    #[arg(long, requires = "draw", value_name = "MS")]
    from: Option<u64>,
    /// Draw up to this simulated millisecond
    #[arg(long, requires = "draw", value_name = "MS")]
    to: Option<u64>,
    /// With a seed: without these episodes of its plan, counted from 0, as a shrunk failure names them
    #[arg(long, requires = "seed", value_name = "N,N…", value_delimiter = ',')]
    without: Vec<usize>,
    /// Stop after this time, in seconds or with a unit; with --real: how long faults strike [default there: 3m]
    #[arg(long, value_parser = duration)]
    time: Option<Duration>,
    /// Stop after so many seeds
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; random without this
    #[arg(long)]
    first: Option<u64>,
    /// Threads; one for each core without this
    #[arg(long)]
    threads: Option<usize>,
    /// Run each seed twice and compare every byte
    #[arg(long)]
    twice: bool,
    /// Damage the disks of more than f validators: nobody can promise anything then, and nobody may lie
    #[arg(long)]
    beyond: bool,
    /// 4 validators, 16 tables, a light load, all faults: what the speed is measured with
    #[arg(long)]
    light: bool,
    /// Ed25519 in place of the simulator's cheap signatures; some times slower
    #[arg(long)]
    real_signatures: bool,
    /// Print the table of faults and protocol states
    #[arg(long)]
    coverage: bool,
    /// Plant known defects, one at a time, and show which are found: in a build of their own, which cargo makes first
    #[arg(long, conflicts_with_all = ["seed", "time", "twice", "beyond", "light", "coverage"])]
    planted: bool,
    /// Go on after a failure, and do not shrink it
    #[arg(long)]
    keep_going: bool,
    /// Real processes in network namespaces at their own speed; takes root, `ip` and `nft`
    #[arg(long, conflicts_with_all = ["seeds", "first", "threads", "trace", "without", "twice", "beyond", "light",
        "real_signatures", "coverage", "planted", "keep_going"])]
    real: bool,
    /// With --real: how many
    #[arg(long, requires = "real", default_value_t = 4, value_parser = clap::value_parser!(u16).range(4..=52))]
    validators: u16,
    /// With --real: where the validators' files are; removed when all is well [default: topio-real-SEED]
    #[arg(long, requires = "real", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Runs `topio sim`.
pub fn run(arguments: &Arguments, format: Format) -> Outcome {
    if arguments.planted {
        return planted(arguments, format);
    }
    if arguments.real {
        return real::run(&arguments.real()?, format);
    }
    match arguments.seed {
        Some(_) if arguments.time.is_some() => {
            Err(Failure::Usage("--seed runs to its own end: leave --time out, or add --real".into()))
        }
        Some(seed) => replay(arguments, seed, format),
        None => explore(arguments, format),
    }
}

/// Has cargo build the simulator with the defects in it, and runs that: this binary holds none.
fn planted(arguments: &Arguments, format: Format) -> Outcome {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    if !Path::new(workspace).join("tools/sim/Cargo.toml").exists() {
        let why = "the planted defects are no part of this binary, and its source is not at {workspace}: in a checkout, run \
                   cargo run --release -p sim --features planted --bin sim-planted";
        return Err(Failure::Usage(why.replace("{workspace}", workspace)));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.current_dir(workspace);
    command.args([
        "run",
        "--release",
        "--quiet",
        "-p",
        "sim",
        "--features",
        "planted",
        "--bin",
        "sim-planted",
        "--",
    ]);
    if format == Format::Json {
        command.arg("--json");
    }
    let numbers = [("--seeds", arguments.seeds), ("--first", arguments.first)];
    for (flag, number) in numbers {
        command.args(number.into_iter().flat_map(|number| [flag.into(), number.to_string()]));
    }
    let status = command.status().map_err(|error| Failure::Failed(format!("cargo can't be run: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::Failed("not every planted defect was found".into())) }
}

impl Arguments {
    fn plan(&self) -> Outcome<Plan> {
        let first = self.first.map_or_else(random_seed, Ok)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Plan {
            first,
            seeds: self.seeds,
            time: self.time,
            threads: self.threads.unwrap_or(cores),
            atlas: if self.beyond { Atlas::Beyond } else { Atlas::Within },
            light: self.light,
            twice: self.twice,
            real_signatures: self.real_signatures,
            stop_at_first: !self.keep_going,
        })
    }

    fn real(&self) -> Outcome<real::Options> {
        Ok(real::Options {
            seed: self.seed.map_or_else(random_seed, Ok)?,
            time: self.time.unwrap_or(REAL_TIME),
            validators: self.validators,
            data_dir: self.data_dir.clone(),
        })
    }

    /// The command that replays a seed.
    fn replay_command(&self, seed: u64) -> String {
        let mut command = format!("topio sim --seed {seed}");
        for (flag, given) in [
            (" --beyond", self.beyond),
            (" --light", self.light),
            (" --real-signatures", self.real_signatures),
        ] {
            command += if given { flag } else { "" };
        }
        command
    }
}

/// Short enough to be typed.
fn random_seed() -> Outcome<u64> {
    getrandom::u32().map(u64::from).map_err(Failure::failed)
}

/// What a replayed seed gave.
#[derive(Serialize)]
struct Replayed {
    seed: u64,
    commit: &'static str,
    trace_hash: String,
    state_root: String,
    events: u64,
    simulated_seconds: f64,
    sim_seconds_per_second: f64,
    what_happened: String,
    plan: Vec<Episode>,
    violation: Option<Violation>,
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} at commit {}", self.seed, self.commit)?;
        for (number, episode) in self.plan.iter().enumerate() {
            writeln!(f, "  fault {number}: {episode}")?;
        }
        writeln!(f, "{}", self.what_happened)?;
        writeln!(
            f,
            "{} events, {:.1} simulated seconds, {:.0} for each real second",
            self.events, self.simulated_seconds, self.sim_seconds_per_second
        )?;
        writeln!(f, "trace {}\nstate {}", self.trace_hash, self.state_root)?;
        match &self.violation {
            Some(violation) => write!(f, "VIOLATED {violation}"),
            None => write!(f, "all invariants held"),
        }
    }
}

fn replay(arguments: &Arguments, seed: u64, format: Format) -> Outcome {
    let plan = Plan { first: seed, ..arguments.plan()? };
    let mut scenario = plan.scenario(seed);
    let mut number = 0;
    scenario.plan.retain(|_| {
        number += 1;
        !arguments.without.contains(&(number - 1))
    });
    let outcome = if arguments.trace.is_some() || arguments.draw.is_some() {
        let (outcome, lines) = run_traced(&scenario);
        show(arguments, &scenario, &outcome, &lines)?;
        outcome
    } else if arguments.twice {
        run_seed(&plan, seed)
    } else {
        sim::run(&scenario)
    };
    let violated = outcome.violation.is_some();
    format.print(&replayed(&scenario, outcome))?;
    if violated { Err(Failure::Failed(format!("seed {seed} violates an invariant"))) } else { Ok(()) }
}

/// Writes what happened, as lines and as a picture, where that is asked for.
fn show(arguments: &Arguments, scenario: &Scenario, outcome: &Run, lines: &[Line]) -> Outcome {
    let write = |path: &Path, content: String| {
        std::fs::write(path, content)
            .map_err(|error| Failure::Failed(format!("{} can't be written: {error}", path.display())))
    };
    if let Some(path) = &arguments.trace {
        let twins = scenario.byzantine().len();
        write(path, text(lines, scenario.validators + twins))?;
    }
    if let Some(path) = &arguments.draw {
        let violation = outcome.violation.as_ref();
        let end = violation.map_or(outcome.simulated, |violation| violation.at);
        let window = Window::new(arguments.from, arguments.to, end);
        write(path, svg(scenario, lines, violation, window))?;
    }
    Ok(())
}

fn replayed(scenario: &Scenario, outcome: Run) -> Replayed {
    Replayed {
        seed: outcome.seed,
        commit: sim::COMMIT,
        trace_hash: outcome.trace.to_string(),
        state_root: outcome.root.to_string(),
        events: outcome.events,
        simulated_seconds: outcome.simulated as f64 / 1e9,
        sim_seconds_per_second: outcome.simulated as f64 / outcome.took.max(1) as f64,
        what_happened: outcome.facts,
        plan: scenario.plan.clone(),
        violation: outcome.violation,
    }
}

/// What a search gave.
#[derive(Serialize)]
struct Explored {
    commit: &'static str,
    first_seed: u64,
    events: u64,
    simulated_seconds: f64,
    never_hit: Vec<String>,
    failures: Vec<Found>,
    seeds: u64,
    violations: usize,
    sim_seconds_per_second: f64,
    cells_hit: usize,
    cells_total: usize,
    #[serde(skip)]
    table: Option<String>,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(table) = &self.table {
            writeln!(f, "{table}")?;
        }
        if !self.never_hit.is_empty() {
            writeln!(f, "never hit: {}", self.never_hit.join(", "))?;
        }
        write!(
            f,
            "{} seeds from {}, {} violations, {} events, {:.0} simulated seconds, {:.0} for each second of a core, \
             {} of {} cells of faults × states hit",
            self.seeds,
            self.first_seed,
            self.violations,
            self.events,
            self.simulated_seconds,
            self.sim_seconds_per_second,
            self.cells_hit,
            self.cells_total
        )
    }
}

fn explore(arguments: &Arguments, format: Format) -> Outcome {
    let plan = arguments.plan()?;
    let interrupt = Interrupt::from_signals()?;
    let mut shown = Instant::now();
    let tally = search(
        &plan,
        || !interrupt.is_set(),
        |tally| {
            if shown.elapsed() >= Duration::from_secs(2) {
                shown = Instant::now();
                eprintln!("{}", progress(tally));
            }
        },
    );
    for failure in &tally.failures {
        report(arguments, failure);
    }
    if let (Some(failure), false) = (tally.failures.first(), arguments.keep_going) {
        make_small(arguments, &plan, failure);
    }
    let violations = tally.failures.len();
    format.print(&explored(arguments, &plan, tally))?;
    if violations > 0 {
        return Err(Failure::Failed(format!("{violations} seeds violate an invariant")));
    }
    Ok(())
}

fn progress(tally: &Tally) -> String {
    format!(
        "{} seeds, {} events, {:.0} simulated seconds ({:.0} for each second of a core), {} kinds of faults hit, {} failures",
        tally.seeds,
        tally.events,
        tally.simulated as f64 / 1e9,
        tally.speed(),
        tally.coverage.kinds_hit(),
        tally.failures.len()
    )
}

fn report(arguments: &Arguments, failure: &Found) {
    eprintln!("seed {} at commit {}: {}", failure.seed, failure.commit, failure.violation);
    eprintln!("  replay: {}", arguments.replay_command(failure.seed));
}

fn make_small(arguments: &Arguments, plan: &Plan, failure: &Found) {
    let scenario = plan.scenario(failure.seed);
    eprintln!("making the plan of seed {} small, {} faults so far …", failure.seed, scenario.plan.len());
    let small = shrink(&scenario, failure.violation.invariant, |_, _| {});
    let mut kept = small.plan.iter().peekable();
    let mut without = Vec::new();
    for (number, episode) in scenario.plan.iter().enumerate() {
        match kept.next_if(|next| *next == episode) {
            Some(_) => eprintln!("  fault {number}: {episode}"),
            None => without.push(number.to_string()),
        }
    }
    let without =
        if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
    eprintln!("  replay: {}{without} --trace trace.txt", arguments.replay_command(failure.seed));
}

fn explored(arguments: &Arguments, plan: &Plan, tally: Tally) -> Explored {
    let speed = tally.speed();
    Explored {
        commit: sim::COMMIT,
        first_seed: plan.first,
        events: tally.events,
        simulated_seconds: tally.simulated as f64 / 1e9,
        never_hit: tally.coverage.never_hit(),
        seeds: tally.seeds,
        violations: tally.failures.len(),
        sim_seconds_per_second: speed,
        cells_hit: tally.coverage.cells_hit(),
        cells_total: Coverage::cells_total(),
        table: arguments.coverage.then(|| tally.coverage.table()),
        failures: tally.failures,
    }
}
