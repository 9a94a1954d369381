//! A validator's state in its answers, and how people read it.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use dag::{Height, ReplicaId, TableId, View};
use serde::Deserialize;

use crate::output::columns;

/// A validator's state.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Which it is.
    pub validator: Validator,
    /// The epoch.
    pub epoch: u32,
    /// Its release.
    pub version: String,
    /// Since its start.
    pub uptime_seconds: u64,
    /// What keeps it from working.
    pub faults: Vec<String>,
    /// Whether it votes; one that has forgotten votes only follows.
    pub votes: bool,
    /// Its tables.
    pub tables: Vec<Table>,
    /// The others, as it sees them.
    pub peers: Vec<Peer>,
    /// Where its cores' time went.
    pub cores: Vec<Core>,
}

/// A validator's name.
#[derive(Clone, Debug, Deserialize)]
pub struct Validator {
    /// Its place in the committee.
    pub index: ReplicaId,
    /// What people call it.
    pub name: Option<String>,
}

/// A table, as one validator sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Which.
    pub table: TableId,
    /// Its view.
    pub view: View,
    /// That view's primary.
    pub primary: ReplicaId,
    /// Height of the last committed block.
    pub committed: Height,
    /// Height of the last executed block.
    pub executed: Height,
    /// Height of the last stable checkpoint.
    pub checkpoint: Height,
    /// Transactions in the mempool.
    pub pending: u64,
}

/// Another validator.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Which.
    #[serde(flatten)]
    pub validator: Validator,
    /// Lanes with a channel to it.
    pub lanes_connected: u32,
    /// All lanes.
    pub lanes: u32,
}

impl Peer {
    /// Whether all lanes have a channel.
    pub fn is_connected(&self) -> bool {
        self.lanes_connected >= self.lanes
    }
}

/// A core loop.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Core {
    /// Which.
    pub core: u16,
    /// Processor time of its thread.
    pub cpu_ns: u64,
    /// Working.
    pub busy_ns: u64,
    /// Held back by a full queue or the disk.
    pub blocked_ns: u64,
    /// Nothing to do.
    pub idle_ns: u64,
}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            |validator: &Validator| validator.name.clone().unwrap_or_else(|| validator.index.to_string());
        let uptime = humantime::format_duration(Duration::from_secs(self.uptime_seconds));
        let Status { validator, epoch, version, .. } = self;
        writeln!(f, "validator {}  epoch {epoch}  up {uptime}  version {version}", name(validator))?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "FAULT: {fault}"))?;
        if !self.votes {
            writeln!(
                f,
                "DOES NOT VOTE: its log was cut, so it may have forgotten votes; it follows and answers"
            )?;
        }
        let row = |cells: &[&dyn Display]| cells.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut rows =
            vec![row(&[&"table", &"view", &"primary", &"committed", &"executed", &"checkpoint", &"pending"])];
        rows.extend(self.tables.iter().map(|table| {
            let Table { table, view, primary, committed, executed, checkpoint, pending } = table;
            row(&[table, view, primary, committed, executed, checkpoint, pending])
        }));
        write!(f, "\n{}", columns(&rows))?;
        let mut rows = vec![row(&[&"peer", &"lanes connected"])];
        rows.extend(self.peers.iter().map(|peer| {
            row(&[&name(&peer.validator), &format_args!("{} of {}", peer.lanes_connected, peer.lanes)])
        }));
        write!(f, "\n{}", columns(&rows))?;
        let mut rows = vec![row(&[&"core", &"busy", &"blocked", &"idle", &"cpu"])];
        rows.extend(self.cores.iter().map(|core| {
            let total = (core.busy_ns + core.blocked_ns + core.idle_ns).max(1) as f64;
            let share = |ns: u64| format!("{:.1} %", ns as f64 / total * 100.0);
            let cpu = format!("{:.1} s", core.cpu_ns as f64 / 1e9);
            row(&[&core.core, &share(core.busy_ns), &share(core.blocked_ns), &share(core.idle_ns), &cpu])
        }));
        write!(f, "\n{}", columns(&rows))
    }
}
