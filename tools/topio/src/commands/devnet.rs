//! `topio devnet`: a whole network on this machine, under load.

use std::{
    env, fmt, iter,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::Value;

use crate::{
    devnet::{Devnet, Instructions, Layout, READY_WITHIN, Sizes, tied},
    exit::{Failure, Outcome},
    output::Format,
    signals::Interrupt,
    values::{Amount, duration},
};

/// Transactions per second that two cores carry without strain, load generator included.
const DEFAULT_RATE: u64 = 5_000;
/// What each account has.
const DEFAULT_BALANCE: &str = "1000";
/// Pause between two looks at the children.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Examples:
  topio devnet                                       four validators, ten seconds of load, a report
  topio devnet --rate 20000 --duration 30
  topio devnet --payees 255 --rate 500               multi-transfers
  topio devnet --keep                                leave it up until Ctrl-C
  topio devnet --duration 0 --keep --resume          take up the former one, without load
  topio devnet --relay relay.toml --keep             one validator is a VPN or TURN server, too

A relay.toml: [relay.vpn] and public_address = \"192.0.2.1:51820\" (takes root), or [relay.turn] and
its keys.
A client of that VPN: topio vpn add-client phone --config topio-data/v0/node.toml

Validators are processes of their own, on loopback; they end with this command. Their files stay in
the data directory.";

/// Arguments of `topio devnet`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Validators: 4 to 52
    #[arg(long, default_value_t = 4, conflicts_with = "resume")]
    validators: u16,
    /// Tables of the shard: a power of two
    #[arg(long, default_value_t = 16, conflicts_with = "resume")]
    tables: u16,
    /// Lanes that the tables are spread over [default: as many as cores]
    #[arg(long, conflicts_with = "resume")]
    lanes: Option<u16>,
    /// Core loops of each validator [default: the machine's cores, shared out]
    #[arg(long, conflicts_with = "resume")]
    cores: Option<u16>,
    /// Funded accounts
    #[arg(long, default_value_t = 10_000, conflicts_with = "resume")]
    accounts: u64,
    /// What each account has, in TOP
    #[arg(long, default_value = DEFAULT_BALANCE, conflicts_with = "resume")]
    balance: Amount,
    /// Each validator checks the signatures of every block, instead of f + 1 of them for all
    #[arg(long, conflicts_with = "resume")]
    check_all: bool,
    /// Let the system place the validators' loops, instead of sharing the processors out among them
    #[arg(long, conflicts_with = "resume")]
    no_pin: bool,
    /// Vector instructions that signatures are verified with
    #[arg(long, value_name = "NAME", value_enum, default_value_t, conflicts_with = "resume")]
    instructions: Instructions,
    /// The first validator relays people's packets, too: a file with [relay.turn] or [relay.vpn] of a node.toml, or both
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    relay: Option<PathBuf>,
    /// Transactions per second
    #[arg(long, default_value_t = DEFAULT_RATE)]
    rate: u64,
    /// How long to offer load, in seconds or with a unit; 0 for none
    #[arg(long, default_value = "10", value_parser = duration)]
    duration: Duration,
    /// Payees of each transaction: 1 for transfers, up to 255 for multi-transfers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    payees: u8,
    /// Connections of the load to each validator
    #[arg(long, default_value_t = 1)]
    connections: u16,
    /// Keys, genesis, data and logs go here; a former devnet there is replaced
    #[arg(long, value_name = "DIR", default_value = "topio-data")]
    data_dir: PathBuf,
    /// The report folder
    #[arg(long, value_name = "DIR", default_value = "topio-report")]
    report: PathBuf,
    /// Leave the network up until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Take up the devnet of the data directory, with its ledger, instead of making a new one
    #[arg(long)]
    resume: bool,
}

/// What was run.
#[derive(Debug, Serialize)]
struct Facts {
    /// The figures of the run, where there was a load.
    #[serde(flatten)]
    run: Option<serde_json::Map<String, Value>>,
    data_dir: PathBuf,
    genesis: PathBuf,
    dev_seed: PathBuf,
    /// Key file of a funded account, to pay from by hand.
    payer: PathBuf,
    /// An account to pay to.
    payee: String,
    nodes: Vec<NodeFacts>,
}

#[derive(Debug, Serialize)]
struct NodeFacts {
    name: String,
    rpc: String,
    submission: String,
    key: PathBuf,
    log: PathBuf,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for NodeFacts { name, rpc, submission, log, .. } in &self.nodes {
            writeln!(f, "{name}  rpc {rpc}  submission {submission}  log {}", log.display())?;
        }
        let NodeFacts { rpc, submission, .. } = self.nodes.first().expect("at least four");
        let Facts { genesis, dev_seed, payer, payee, .. } = self;
        let (genesis, seed, payer) = (genesis.display(), dev_seed.display(), payer.display());
        writeln!(f, "\nTry, in another terminal:")?;
        writeln!(f, "  topio status --rpc {rpc}")?;
        writeln!(f, "  topio transfer --rpc {rpc} --from {payer} --to {payee} --amount 12.5 --wait")?;
        writeln!(f, "  topio account --rpc {rpc} {payee}")?;
        writeln!(f, "  curl -s http://{rpc}/metrics")?;
        writeln!(
            f,
            "  topio bench tps --genesis {genesis} --dev-seed {seed} --rate 1000 --duration 5 --node {submission},{rpc}"
        )
    }
}

/// Runs `topio devnet`.
pub fn run(arguments: &Arguments, format: Format) -> Outcome {
    let interrupt = Interrupt::from_signals()?;
    let program = env::current_exe()
        .map_err(|error| Failure::Failed(format!("this program's own file is not to be found: {error}")))?;
    let mut devnet = if arguments.resume {
        Devnet::resume(&program, &arguments.data_dir)?
    } else {
        Devnet::create(&program, &arguments.data_dir, arguments.sizes(), arguments.relay.as_deref())?
    };
    let outcome = live(&mut devnet, &program, arguments, format, &interrupt);
    let killed = devnet.stop();
    if killed > 0 {
        eprintln!("{killed} validators did not stop in time and were killed: see their node.log");
    }
    outcome
}

fn live(
    devnet: &mut Devnet,
    program: &Path,
    arguments: &Arguments,
    format: Format,
    interrupt: &Interrupt,
) -> Outcome {
    let Sizes { validators, tables, accounts, cores, .. } = devnet.record().sizes;
    eprintln!(
        "starting {validators} validators: {tables} tables, {accounts} accounts, {cores} core loops each"
    );
    devnet.start()?;
    devnet.wait_ready(READY_WITHIN, interrupt)?;
    let run = if arguments.duration.is_zero() {
        None
    } else {
        load(devnet, program, arguments, format, interrupt)?
    };
    if format == Format::Json || arguments.keep {
        format.print(&facts(devnet, run))?;
    }
    if arguments.keep { keep(devnet, interrupt) } else { Ok(()) }
}

/// Runs `topio bench tps`. Its text goes where ours does; its JSON is returned.
fn load(
    devnet: &mut Devnet,
    program: &Path,
    arguments: &Arguments,
    format: Format,
    interrupt: &Interrupt,
) -> Outcome<Option<serde_json::Map<String, Value>>> {
    let mut command = bench_command(devnet, program, arguments);
    if format == Format::Json {
        command.arg("--json").stdout(Stdio::piped());
    }
    let cannot = |error| Failure::Failed(format!("the load can't be started: {error}"));
    let mut child = tied(&mut command).stdin(Stdio::null()).spawn().map_err(cannot)?;
    // Read by a thread of its own: the child must not wait for us while we wait for it.
    let output = child.stdout.take().map(|pipe| thread::spawn(move || std::io::read_to_string(pipe)));
    let status = wait_for_load(devnet, &mut child, interrupt)?;
    let text = output.map(|reader| reader.join().expect("reading does not panic").unwrap_or_default());
    interrupt.check()?;
    match status.code() {
        Some(0) => Ok(text.and_then(|text| serde_json::from_str(&text).ok())),
        Some(2) => Err(Failure::Usage("the load was not accepted, see above".into())),
        _ => Err(Failure::Failed(format!("the load failed ({status}), see above"))),
    }
}

/// Waits for the load; a signal for us is one for it, and it then ends early.
fn wait_for_load(
    devnet: &mut Devnet,
    child: &mut Child,
    interrupt: &Interrupt,
) -> Outcome<std::process::ExitStatus> {
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().map_err(Failure::failed)? {
            return Ok(status);
        }
        mourn(devnet);
        if interrupt.is_set() && !told {
            kill_process(Pid::from_child(child), Signal::INT).map_err(Failure::failed)?;
            told = true;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Tells of validators that have ended by themselves. The others go on, as in any network.
fn mourn(devnet: &mut Devnet) {
    devnet.take_died().iter().for_each(|died| eprintln!("{died}"));
}

fn bench_command(devnet: &Devnet, program: &Path, arguments: &Arguments) -> Command {
    let layout = devnet.layout();
    let mut command = Command::new(program);
    command.args(["bench", "tps", "--genesis"]).arg(layout.genesis());
    command.arg("--dev-seed").arg(layout.seed());
    command.args(["--rate", &arguments.rate.to_string()]);
    command.args(["--duration", &humantime::format_duration(arguments.duration).to_string()]);
    command.args(["--payees", &arguments.payees.to_string()]);
    command.args(["--connections", &arguments.connections.to_string()]);
    command.arg("--report").arg(&arguments.report);
    for node in devnet.nodes() {
        let ports = node.ports();
        command.args(["--node", &format!("{},{}", ports.submission_address(), ports.rpc_address())]);
    }
    command
}

fn keep(devnet: &mut Devnet, interrupt: &Interrupt) -> Outcome {
    eprintln!("\nThe network is up. Ctrl-C stops it.");
    while !interrupt.is_set() {
        mourn(devnet);
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn facts(devnet: &Devnet, run: Option<serde_json::Map<String, Value>>) -> Facts {
    let layout = devnet.layout();
    let node = |(index, node): (usize, &crate::devnet::Node)| NodeFacts {
        name: Layout::name(index),
        rpc: node.ports().rpc_address().to_string(),
        submission: node.ports().submission_address().to_string(),
        key: layout.key(index),
        log: layout.log(index),
    };
    Facts {
        run,
        data_dir: layout.folder().into(),
        genesis: layout.genesis(),
        dev_seed: layout.seed(),
        payer: layout.account(),
        payee: devnet.account_key(1).address().to_string(),
        nodes: iter::zip(0.., devnet.nodes()).map(node).collect(),
    }
}

impl Arguments {
    fn sizes(&self) -> Sizes {
        let machine = thread::available_parallelism().map_or(1, usize::from);
        let share = machine / usize::from(self.validators.max(1));
        let share = u16::try_from(share).unwrap_or(u16::MAX).clamp(1, self.tables.max(1));
        let cores = self.cores.unwrap_or_else(|| self.lanes.map_or(share, |lanes| share.min(lanes.max(1))));
        Sizes {
            validators: self.validators,
            tables: self.tables,
            lanes: self.lanes.unwrap_or(cores),
            cores,
            accounts: self.accounts,
            balance: self.balance.0,
            check_all: self.check_all,
            pin: !self.no_pin,
            instructions: self.instructions,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::commands::Cli;

    #[derive(Parser)]
    struct Just {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn sizes(line: &str) -> Sizes {
        Just::try_parse_from(line.split_whitespace()).unwrap().arguments.sizes()
    }

    #[test]
    fn lanes_and_cores_fit_each_other() {
        let machine = u16::try_from(thread::available_parallelism().unwrap().get()).unwrap();
        let default = sizes("devnet");
        assert_eq!((default.cores, default.lanes), ((machine / 4).clamp(1, 16), (machine / 4).clamp(1, 16)));
        let lanes = sizes("devnet --lanes 3 --cores 2");
        assert_eq!((lanes.cores, lanes.lanes), (2, 3));
        assert_eq!(sizes("devnet --validators 4 --cores 5").lanes, 5);
        assert!(sizes("devnet --lanes 1").cores == 1);
    }

    #[test]
    fn what_is_resumed_keeps_its_sizes() {
        assert!(Cli::try_parse_from(["topio", "devnet", "--resume", "--rate", "1"]).is_ok());
        assert!(Cli::try_parse_from(["topio", "devnet", "--resume", "--tables", "4"]).is_err());
    }
}
