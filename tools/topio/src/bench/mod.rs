//! A measured run against a network: load, what validators say about it, and the report.

mod accounts;
mod observe;
mod progress;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::genesis::Genesis;
use indicatif::HumanCount;
use perf::{
    loadgen::{self, LoadError, LoadResult, Phase, Preparation, Routing, Target, Workload},
    report::{Machine, RunData, Summary},
};
use serde::Serialize;

use self::{
    observe::{Observed, Observers},
    progress::ProgressLine,
};
use crate::{
    exit::{Failure, Outcome},
    rpc::{Rpc, RpcError},
    signals::Interrupt,
    values::{DevSeed, NodeAddress},
};

/// What to do to which network.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The network's `genesis.toml`.
    pub genesis: PathBuf,
    /// What the senders' keys follow from.
    pub seed: DevSeed,
    /// Validators, in the committee's order.
    pub nodes: Vec<NodeAddress>,
    /// Transactions per second.
    pub rate: u64,
    /// The measured time.
    pub duration: Duration,
    /// Load before it.
    pub warm_up: Duration,
    /// Payees of each transaction.
    pub payees: u8,
    /// Micro-TOP for each payee.
    pub amount: u64,
    /// Micro-TOP offered to the network by each transaction.
    pub fee: u64,
    /// Connections to each validator.
    pub connections: u16,
    /// Which validator a transaction goes to.
    pub routing: Routing,
    /// Where acknowledgements are listed.
    pub acks: Option<PathBuf>,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The report's figures.
    #[serde(flatten)]
    pub summary: Summary,
    /// Transactions without an answer when the run ended.
    pub unanswered: u64,
    /// Of the whole run, those that never left: all sockets were full, or no validator was there.
    pub unsent: u64,
    /// Connections that stood and were lost.
    pub lost_connections: u64,
    /// Transactions sent again because their connection was lost, or their validator was left.
    pub resubmitted: u64,
    /// Transactions sent again because the answer was "later".
    pub retried: u64,
    /// The report folder.
    pub report: Option<PathBuf>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.summary)?;
        for (count, what) in [
            (self.unanswered, "transactions without an answer"),
            (self.unsent, "transactions never sent: the validators could not take more"),
            (self.lost_connections, "connections lost"),
            (self.resubmitted, "transactions sent again over another connection"),
            (self.retried, "transactions sent again after «later»"),
        ] {
            if count > 0 {
                writeln!(f, "{count} {what}")?;
            }
        }
        match &self.report {
            Some(report) => writeln!(f, "\nreport: {}", report.join("report.html").display()),
            None => Ok(()),
        }
    }
}

/// Runs the load, shows progress, and writes the report folder where one is wanted. An interrupted run is reported as far as it came.
///
/// # Errors
/// The plan does not fit the network, no validator is there, or the report can't be written.
pub fn run(plan: &Plan, report: Option<&Path>, interrupt: &Interrupt) -> Outcome<Findings> {
    let genesis = Genesis::load(&plan.genesis).map_err(Failure::usage)?;
    let validators = name_validators(&genesis, &plan.nodes)?;
    let progress = ProgressLine::new(plan.warm_up + plan.duration);
    let (load, observed) = run_load(plan, &genesis, validators, &progress, interrupt)?;
    drop(progress);
    let data = run_data(plan, &genesis, &load, observed);
    if let Some(folder) = report {
        perf::report::write(&data, folder).map_err(Failure::failed)?;
    }
    Ok(Findings {
        summary: data.summary(),
        unanswered: load.unanswered,
        unsent: load.unsent,
        lost_connections: load.lost_connections,
        resubmitted: load.resubmitted,
        retried: load.retried,
        report: report.map(Path::to_path_buf),
    })
}

/// Asks each node who it is. Those that are down keep their place: a load has to work without them.
fn name_validators(genesis: &Genesis, nodes: &[NodeAddress]) -> Outcome<Vec<(String, Rpc)>> {
    let ask = |node: &NodeAddress| -> Result<(String, String), RpcError> {
        let rpc = Rpc::new(&node.rpc);
        let name = rpc.status()?.view.validator.name;
        Ok((rpc.chain()?.genesis, name.unwrap_or_else(|| node.rpc.to_string())))
    };
    let (mut validators, mut silent) = (Vec::new(), None);
    for node in nodes {
        let name = match ask(node) {
            Ok((chain, _)) if chain != genesis.hash().to_string() => {
                return Err(Failure::Usage(format!(
                    "{} is of another network (genesis {chain}): give that one's --genesis",
                    node.rpc
                )));
            }
            Ok((_, name)) => name,
            Err(error) => {
                silent = Some(error);
                node.rpc.to_string()
            }
        };
        validators.push((name, Rpc::new(&node.rpc)));
    }
    let down = validators.iter().zip(nodes).all(|((name, _), node)| *name == node.rpc.to_string());
    match silent {
        Some(error) if down => Err(error.into()),
        _ => Ok(validators),
    }
}

fn run_load(
    plan: &Plan,
    genesis: &Genesis,
    validators: Vec<(String, Rpc)>,
    progress: &ProgressLine,
    interrupt: &Interrupt,
) -> Outcome<(LoadResult, Observed)> {
    let count = accounts::count(genesis, &plan.seed.0);
    if count < 2 {
        return Err(Failure::Usage(format!(
            "«{}» funds {count} accounts of this seed, and transfers need two: give the seed that its genesis was made with",
            genesis.name()
        )));
    }
    progress.note(&format!("signing the load of {} senders", HumanCount(count)));
    let target = target(plan, genesis)?;
    let workload = workload(plan, accounts::keys(&plan.seed.0, count));
    let mut signed =
        |done: Preparation| progress.step(|| format!("signed {} of {}", done.signed, done.total));
    let prepared = loadgen::prepare(&target, workload, &mut signed).map_err(load_failure)?;
    interrupt.check()?;

    let observers = Observers::start(validators);
    observers.begin();
    let mut tell = |news: &loadgen::Progress| {
        if news.phase == Phase::WarmUp {
            observers.begin()
        } else {
            observers.interval()
        }
        progress.show(news);
    };
    let load = prepared.run(plan.acks.as_deref(), interrupt.as_flag(), &mut tell).map_err(load_failure)?;
    let observed = observers.end(&load.samples);
    Ok((load, observed))
}

fn target(plan: &Plan, genesis: &Genesis) -> Outcome<Target> {
    let resolve = |node: &NodeAddress| {
        node.submission.resolve(0).map_err(|error| Failure::Usage(format!("{}: {error}", node.submission)))
    };
    Ok(Target {
        submission: plan.nodes.iter().map(resolve).collect::<Outcome<_>>()?,
        chain: genesis.chain(),
        epoch: genesis.epoch(),
        tables: genesis.tables(),
        validators: u16::try_from(genesis.committee().size()).expect("at most MAX_VALIDATORS"),
    })
}

fn workload(plan: &Plan, accounts: Vec<dag::keys::KeyPair>) -> Workload {
    Workload {
        payees: plan.payees,
        amount: plan.amount,
        fee: plan.fee,
        warm_up: plan.warm_up,
        connections: plan.connections,
        routing: plan.routing,
        ..Workload::transfers(accounts, plan.rate, plan.duration)
    }
}

fn load_failure(error: LoadError) -> Failure {
    match error {
        LoadError::Invalid(_) | LoadError::TooLong { .. } => Failure::usage(error),
        _ => Failure::failed(error),
    }
}

fn run_data(plan: &Plan, genesis: &Genesis, load: &LoadResult, observed: Observed) -> RunData {
    RunData {
        title: format!("{}, {} transactions per second offered", genesis.name(), HumanCount(plan.rate)),
        start_unix_us: load.start_unix_us,
        duration_s: load.duration_s,
        validators: u32::try_from(genesis.committee().size()).expect("at most MAX_VALIDATORS"),
        tables: genesis.tables().into(),
        accounts: load.accounts,
        offered_per_second: load.offered_per_second,
        offered: load.offered,
        committed: load.committed,
        committed_per_second: load.committed_per_second,
        payees_per_second: load.payees_per_second,
        rejected: load.rejected.clone(),
        latency: load.latency.clone(),
        samples: load.samples.clone(),
        stages: observed.stages.into_iter().collect(),
        validator_use: observed.validators,
        relays: observed.relays,
        machine: Machine::read(),
        configuration: plan.configuration(genesis),
    }
}

impl Plan {
    /// The settings to repeat the run with.
    fn configuration(&self, genesis: &Genesis) -> BTreeMap<String, String> {
        let routing = match self.routing {
            Routing::Primary => "to the table's first primary",
            Routing::Any => "to any validator",
        };
        let pairs = [
            ("rate", self.rate.to_string()),
            ("duration", humantime::format_duration(self.duration).to_string()),
            ("warm-up", humantime::format_duration(self.warm_up).to_string()),
            ("payees", self.payees.to_string()),
            ("amount", self.amount.to_string()),
            ("fee", self.fee.to_string()),
            ("connections per validator", self.connections.to_string()),
            ("routing", routing.to_owned()),
            ("lanes", genesis.lanes().to_string()),
            ("genesis", genesis.hash().to_string()),
            ("release", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}
