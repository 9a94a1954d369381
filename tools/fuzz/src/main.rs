//! `cargo run --release -p top-fuzz -- TARGET`: throws mutated bytes at a parser until one breaks a promise.

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use top_fuzz::{
    campaign::{Campaign, Finding, run_caught},
    corpus,
    targets::{TARGETS, Target, find},
};

/// Hostile bytes for every parser.
#[derive(Parser)]
struct Args {
    /// A target, or «all»; without one, the targets are listed.
    target: Option<String>,
    /// How long to run each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same seed and corpus give the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs these files instead, and says what the target says.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    replay: Vec<PathBuf>,
    /// Makes the target's corpus anew from its samples instead.
    #[arg(long, conflicts_with = "replay")]
    make_corpus: bool,
    /// Says how often the target said what.
    #[arg(long)]
    words: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let Some(name) = &args.target else {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return Ok(ExitCode::SUCCESS);
    };
    let targets: Vec<&'static Target> = match find(name) {
        Some(target) => vec![target],
        None if name == "all" => TARGETS.iter().collect(),
        None => bail!("there is no target «{name}»: without an argument, all are listed"),
    };
    let mut clean = true;
    for target in targets {
        if args.make_corpus {
            let files = corpus::make(target).with_context(|| format!("corpus of {}", target.name))?;
            println!("{:<18} {files} files", target.name);
        } else if args.replay.is_empty() {
            clean &= run(target, &args)?;
        } else {
            clean &= replay(target, &args.replay)?;
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(target: &Target, files: &[PathBuf]) -> Result<bool> {
    let mut clean = true;
    for file in files {
        let input = fs::read(file).with_context(|| file.display().to_string())?;
        let said = match run_caught(target, &input) {
            Ok(Ok(())) => "accepted".to_owned(),
            Ok(Err(words)) => format!("refused: {words}"),
            Err(finding) => format!("BROKEN: {}", finding.what),
        };
        clean &= !said.starts_with("BROKEN");
        println!("{}: {said}", file.display());
    }
    Ok(clean)
}

/// Runs a target for its time; false where something was found.
fn run(target: &'static Target, args: &Args) -> Result<bool> {
    let pool = corpus::load(target)?.into_iter().map(|(_, input)| input).collect();
    let (begun, limit) = (Instant::now(), Duration::from_secs(args.seconds));
    let mut campaign = match Campaign::new(target, args.seed, pool) {
        Ok(campaign) => campaign,
        Err(finding) => return report(target, args, 0, &finding),
    };
    let mut input = Vec::new();
    while begun.elapsed() < limit {
        // The clock is looked at now and then only.
        for _ in 0..64 {
            if let Err(finding) = campaign.step(&mut input) {
                return report(target, args, campaign.executions(), &finding);
            }
        }
    }
    let rate = campaign.executions() as f64 / begun.elapsed().as_secs_f64();
    let accepted = campaign.said().get("accepted").map_or(0, |said| said.count);
    println!(
        "{:<18} {:>10} inputs, {rate:>9.0}/s, {:>5.1} % accepted, {} different answers",
        target.name,
        campaign.executions(),
        100.0 * accepted as f64 / campaign.executions() as f64,
        campaign.said().len(),
    );
    if args.words {
        for (words, said) in campaign.said() {
            println!("  {:>10} {words}", said.count);
        }
    }
    Ok(true)
}

/// Keeps the input and says how to run it again.
fn report(target: &Target, args: &Args, executions: u64, finding: &Finding) -> Result<bool> {
    let name = format!("found-{}-{}", target.name, &blake3::hash(&finding.input).to_hex()[..8]);
    fs::write(&name, &finding.input).with_context(|| name.clone())?;
    println!("{}: {} (seed {}, input {executions})", target.name, finding.what, args.seed);
    println!("  cargo run --release -p top-fuzz -- {} --replay {name}", target.name);
    println!(
        "  once fixed, move it to tools/fuzz/corpus/{}/ and the tests will run it for ever",
        target.name
    );
    Ok(false)
}
