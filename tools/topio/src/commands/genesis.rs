//! `topio genesis`: a new network.

use std::{
    fmt, fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use engine::genesis::{
    ALLOCATIONS_FILE, Allocation, GENESIS_FILE, Genesis, GenesisError, GenesisValidator, Parameters,
    dev::dev_allocations,
};
use serde::Serialize;

use crate::{
    exit::{Failure, Outcome},
    output::Format,
    values::{Amount, DevSeed, Funding, read_accounts, validator},
};

const EXAMPLES: &str = "\
Examples:
  Four validators; each key comes from `topio keys new` on the validator's own machine:
    topio genesis --name testnet --out testnet \\
      --validator v0=top1… --validator v1=top1… --validator v2=top1… --validator v3=top1… \\
      --account top1…=1000000 --accounts-file founders.csv
  A network to be measured, with a million accounts that `topio bench` can sign for:
    topio genesis --name measured … --dev-accounts 1000000 --dev-seed $(openssl rand -hex 32)

All validators need both files, and the same ones.";

/// Arguments of `topio genesis`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Name of the network: lower-case letters, digits and hyphens
    #[arg(long)]
    name: String,
    /// A validator's name and public key, in the committee's order; at least four
    #[arg(long = "validator", value_name = "NAME=KEY", required = true, value_parser = validator)]
    validators: Vec<GenesisValidator>,
    /// Tables of the shard: a power of two
    #[arg(long, default_value_t = 64)]
    tables: u16,
    /// Lanes that the tables are spread over: the most cores that a validator can use
    #[arg(long, default_value_t = 8)]
    lanes: u16,
    /// An account and what it has from the start, in TOP
    #[arg(long = "account", value_name = "ADDRESS=AMOUNT")]
    accounts: Vec<Funding>,
    /// A file of lines «address,amount»
    #[arg(long, value_name = "CSV")]
    accounts_file: Option<PathBuf>,
    /// So many accounts for measurements; who knows their seed owns them
    #[arg(long, value_name = "N", requires = "dev_seed")]
    dev_accounts: Option<u64>,
    /// The seed of these accounts: 64 hexadecimal digits, or a file that holds them
    #[arg(long, value_name = "HEX|FILE", requires = "dev_accounts")]
    dev_seed: Option<DevSeed>,
    /// What each of these accounts has from the start, in TOP
    #[arg(long, value_name = "AMOUNT", default_value = "1000")]
    dev_balance: Amount,
    /// The folder that genesis.toml and allocations.bin are written to
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    name: String,
    genesis: String,
    chain: String,
    validators: usize,
    tables: u16,
    lanes: u16,
    accounts: usize,
    supply: Amount,
    files: [PathBuf; 2],
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Made { name, genesis, validators, tables, lanes, accounts, supply, .. } = self;
        writeln!(f, "network  {name}: {validators} validators, {tables} tables on {lanes} lanes")?;
        writeln!(f, "money    {supply} TOP in {accounts} accounts")?;
        writeln!(f, "genesis  {genesis}")?;
        self.files.iter().try_for_each(|file| writeln!(f, "written  {}", file.display()))
    }
}

/// Runs `topio genesis`.
pub fn run(arguments: Arguments, format: Format) -> Outcome {
    let out = arguments.out.clone();
    let genesis = make(arguments)?;
    fs::create_dir_all(&out).map_err(|error| Failure::failed(format!("{}: {error}", out.display())))?;
    genesis.write(&out).map_err(|error| match error {
        GenesisError::Io { .. } => Failure::failed(error),
        _ => Failure::usage(error),
    })?;
    format.print(&Made {
        name: genesis.name().into(),
        genesis: genesis.hash().to_string(),
        chain: genesis.chain().to_string(),
        validators: genesis.validators().len(),
        tables: genesis.tables(),
        lanes: genesis.lanes(),
        accounts: genesis.allocations().len(),
        supply: Amount(genesis.supply()),
        files: [out.join(GENESIS_FILE), out.join(ALLOCATIONS_FILE)],
    })
}

fn make(arguments: Arguments) -> Outcome<Genesis> {
    let mut funded = arguments.accounts;
    if let Some(file) = &arguments.accounts_file {
        funded.extend(read_accounts(file).map_err(Failure::Usage)?);
    }
    let mut allocations: Vec<Allocation> = funded
        .into_iter()
        .map(|Funding { address, amount }| Allocation { address, balance: amount.0 })
        .collect();
    if let (Some(count), Some(seed)) = (arguments.dev_accounts, &arguments.dev_seed) {
        allocations.extend(dev_allocations(&seed.0, count, arguments.dev_balance.0));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let parameters = Parameters {
        name: arguments.name,
        tables: arguments.tables,
        lanes: arguments.lanes,
        time: u64::try_from(now.as_micros()).expect("before the year 500,000"),
        validators: arguments.validators,
    };
    Genesis::create(parameters, allocations).map_err(Failure::usage)
}
