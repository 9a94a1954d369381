//! `devnet.json`: what a devnet is.

use serde::{Deserialize, Serialize};

use super::{DevnetError, Home, Ports, ports};
use crate::values::Amount;

/// How large a devnet is, and how it checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Validators.
    pub validators: u16,
    /// Tables of the shard.
    pub tables: u16,
    /// Lanes that the tables are spread over.
    pub lanes: u16,
    /// Core loops of each validator.
    pub cores: u16,
    /// Funded accounts.
    pub accounts: u64,
    /// Micro-TOP of each.
    pub balance: u64,
    /// Whether each validator checks the signatures of every block, instead of its share.
    #[serde(default)]
    pub check_all: bool,
    /// Whether the validators' loops share out the processors among them, where they fill them evenly and none of them relays. The
    /// kernel moves a thread from a full processor to another one late: for tens of ms, all loops may share one.
    #[serde(default)]
    pub pin: bool,
    /// What signatures are verified with.
    #[serde(default)]
    pub instructions: Instructions,
}

/// Vector instructions, as `node.toml` names them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Instructions {
    /// The fastest of the machine.
    #[default]
    Auto,
    /// AVX-512 with 52-bit multiplication.
    Avx512ifma,
    /// AVX2.
    Avx2,
    /// None.
    Portable,
}

impl Sizes {
    /// What all accounts have together, as far as 64 bits count.
    pub fn supply(&self) -> Amount {
        Amount(self.accounts.saturating_mul(self.balance))
    }
}

/// What a devnet is, as its folder says it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1.
    version: u16,
    /// How large.
    pub sizes: Sizes,
    /// The validators' ports, in the committee's order.
    pub nodes: Vec<Ports>,
}

impl Record {
    /// A network of these sizes on ports that are free now.
    pub(super) fn new(sizes: Sizes) -> Result<Record, DevnetError> {
        let Sizes { validators, lanes, .. } = sizes;
        let nodes = ports::find(validators, lanes)
            .ok_or_else(|| DevnetError::Ports(ports::needed(validators, lanes)))?;
        Ok(Record { version: 1, sizes, nodes })
    }

    /// A network of these sizes whose validators have hosts for themselves.
    pub(super) fn on_hosts(sizes: Sizes, homes: &[Home]) -> Record {
        Record { version: 1, sizes, nodes: homes.iter().map(|home| Ports::alone_on(home.address)).collect() }
    }

    /// Reads one; `None` where it is damaged or of another version.
    pub(super) fn parse(text: &str) -> Option<Record> {
        serde_json::from_str(text).ok().filter(|record: &Record| {
            record.version == 1 && record.nodes.len() == usize::from(record.sizes.validators)
        })
    }

    /// Its text.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }
}
