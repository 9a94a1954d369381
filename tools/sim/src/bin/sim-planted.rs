//! Runs the simulator against planted defects and says which it finds. Built only with the feature `planted`; `topio sim
//! --planted` builds and runs it.
#![forbid(unsafe_code)]

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use dag::planted::{self, Defect};
use serde::Serialize;
use sim::{
    run,
    scenario::{Atlas, Scenario},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Usage: sim-planted [--json] [--seeds N] [--first SEED] [--threads N] [NAME…]

Plants each defect, or each that is named, and runs seeds until an invariant is violated: at most N (1000) of them.
The name `none` stands for no defect: nothing may be found then.";

/// The control: no defect.
const NONE: Known = (None, "none", "Nothing is wrong.");

/// What became of a defect.
#[derive(Serialize)]
struct Found {
    name: &'static str,
    what: &'static str,
    found: bool,
    seeds: u64,
    seed: u64,
    invariant: String,
    violation: String,
    seconds: f64,
}

#[derive(Serialize)]
struct Report {
    commit: &'static str,
    defects: Vec<Found>,
    planted: usize,
    found: usize,
}

struct Arguments {
    json: bool,
    seeds: u64,
    first: u64,
    threads: usize,
    names: Vec<String>,
}

fn arguments() -> Result<Arguments, String> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut parsed = Arguments { json: false, seeds: 1000, first: 1, threads: cores, names: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut number = || {
            let text = given.next().ok_or(format!("{argument} needs a number"))?;
            text.parse::<u64>().map_err(|error| format!("{argument} {text}: {error}"))
        };
        match argument.as_str() {
            "--json" => parsed.json = true,
            "--seeds" => parsed.seeds = number()?,
            "--first" => parsed.first = number()?,
            "--threads" => parsed.threads = usize::try_from(number()?).map_err(|error| error.to_string())?,
            name if known().any(|(_, known, _)| known == name) => parsed.names.push(argument),
            _ => return Err(format!("{argument} is no defect and no option\n\n{HELP}")),
        }
    }
    Ok(parsed)
}

type Known = (Option<Defect>, &'static str, &'static str);

/// All that can be named.
fn known() -> impl Iterator<Item = Known> {
    Defect::ALL.iter().map(|&(defect, name, what)| (Some(defect), name, what)).chain([NONE])
}

/// Runs seeds with a defect until one shows it.
fn hunt(arguments: &Arguments, (defect, name, what): Known) -> Found {
    planted::plant(defect);
    let began = Instant::now();
    let mut found = Found {
        name,
        what,
        found: false,
        seeds: 0,
        seed: 0,
        invariant: String::new(),
        violation: String::new(),
        seconds: 0.0,
    };
    for seed in arguments.first..arguments.first + arguments.seeds {
        found.seeds += 1;
        let outcome = run(&Scenario::draw(seed, Atlas::Within));
        if let Some(violation) = outcome.violation {
            found.found = true;
            found.seed = seed;
            found.invariant = format!("{:?}", violation.invariant);
            found.violation = violation.to_string();
            break;
        }
    }
    planted::plant(None);
    found.seconds = began.elapsed().as_secs_f64();
    found
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let is_wanted = |(defect, name, _): &Known| match arguments.names.is_empty() {
        true => defect.is_some(),
        false => arguments.names.iter().any(|wanted| wanted == name),
    };
    let wanted: Vec<Known> = known().filter(is_wanted).collect();
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                while let Some(&known) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = hunt(&arguments, known);
                    eprintln!(
                        "{}: {} after {} seeds, {:.1} s {}",
                        found.name,
                        if found.found { "found" } else { "NOT FOUND" },
                        found.seeds,
                        found.seconds,
                        found.violation.chars().take(200).collect::<String>()
                    );
                    all.lock().expect("no thread panics with it").push(found);
                }
            });
        }
    });
    let mut defects = all.into_inner().expect("no thread panics with it");
    let place = |found: &Found| known().position(|(_, name, _)| name == found.name);
    defects.sort_by_key(place);
    let found = defects.iter().filter(|defect| defect.found).count();
    let report = Report { commit: sim::COMMIT, planted: defects.len(), found, defects };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("facts are plain data"));
    } else {
        for defect in &report.defects {
            let how =
                if defect.found { format!("seed {}, {}", defect.seed, defect.invariant) } else { "-".into() };
            println!("| {} | {} | {} | {how} |", defect.name, defect.what, defect.seeds);
        }
        println!("{} of {} planted defects found", report.found, report.planted);
    }
    if report.found == report.planted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
