//! What can be done about a damaged log or lost snapshots, and what that costs.
//!
//! A validator's log is its memory of what it has promised: votes, prepared blocks, views left. What damage takes from it
//! decides what may follow.
//!
//! 1. **Nothing that counts.** Each snapshot carries all promises in force when it was taken, with the place of the log's
//!    newest record then. Where every table of the core has a whole snapshot that was taken in a later segment than the damaged
//!    one, the log's beginning up to and with that segment is put aside. Old blocks are lost; peers and the block index
//!    have them. The validator votes on.
//! 2. **Perhaps promises.** Then it must never vote again in this epoch ([`DataDir::silence`]): it follows, executes, serves
//!    blocks, states and RPC, and counts as one of the f faulty ones.
//!
//! # Why a silent validator does not come back by itself
//!
//! To wait for a stable checkpoint above every height where it can have voted would settle its prepare and commit votes. It does
//! not settle view changes. Suppose it has sent a view change for view v′ and forgotten that. The message lives on with
//! others, and says that nothing above its checkpoint was prepared here. If the validator now helps to commit a block at a new
//! height in a view v < v′, a new-view message for v′ may still be built on the old message and leave that block out: its quorum
//! and the commit quorum need only have this one honest validator in common. So it would have to know the
//! highest view that it has ever asked for, which no one but its lost log can tell: f faulty peers may keep the message to
//! themselves. A committee of a later epoch knows neither its key's old views nor its tables' old heights: there it votes again.
//!
//! For the same reason a data directory must never be restored from a copy: an older one has forgotten votes, too.

use std::{path::PathBuf, rc::Rc};

use dag::Height;

use crate::{
    config::{DataDir, DataDirError, Setup},
    log::{Damage, DamageReason, ScanError, frame::HeaderError, repair, segment},
    process,
    recovery::{RecoveryError, Sources, promised_before, recover},
    side::disk::StdDisk,
    topology::{Placement, Shard},
};

/// What the disk of a validator is like.
#[derive(Debug)]
pub struct Report {
    /// By core.
    pub cores: Vec<Finding>,
    /// Whether the validator is silent already.
    pub silent: bool,
}

/// What the log and the snapshots of one core are like.
#[derive(Debug)]
pub enum Finding {
    /// There is no log: a first start.
    Empty,
    /// All is there.
    Whole {
        /// Records of the log.
        records: u64,
    },
    /// The validator does not start.
    Damaged {
        /// What is wrong, in one line.
        fault: String,
        /// What can be done.
        remedy: Remedy,
    },
}

/// What can be done about damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// Put the log's segments below this one aside: no promise is lost.
    Forget {
        /// The first segment that stays.
        before: u32,
    },
    /// Put aside what can't be read, and never vote again.
    Silence {
        /// Where the log is cut; none where all of it goes.
        cut: Option<Damage>,
    },
}

/// Why nothing can be said or done.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is none.
    #[error("{0} is no data directory yet: the validator has not been started with this configuration")]
    Missing(PathBuf),
    /// Not damage, but a wrong directory, program or core count; or a failing disk.
    #[error("core {core}: {error}")]
    Recovery {
        /// The core.
        core: u16,
        /// Why.
        error: RecoveryError,
    },
    /// The operator has not agreed to what it costs.
    #[error(
        "votes may be lost, so the validator must not vote any more: with --silent the damaged part is put aside, and it follows \
         its network without a vote. Nothing was changed"
    )]
    WouldSilence,
    /// The repair did not help.
    #[error("core {core} can't be repaired: {fault}")]
    Failed {
        /// The core.
        core: u16,
        /// What is still wrong.
        fault: String,
    },
    /// The disk.
    #[error("{0}")]
    Disk(#[from] std::io::Error),
}

/// Looks at a stopped validator's disk, and changes nothing.
///
/// # Errors
/// The directory can't be used, or is of another network, validator or core count.
pub fn check(setup: &Setup) -> Result<Report, RepairError> {
    let directory = open(setup)?;
    Ok(Report { cores: examine_all(setup, directory.is_silent())?, silent: directory.is_silent() })
}

/// Repairs a stopped validator's disk. Returns the files that were put aside.
///
/// # Errors
/// As [`check`]; it costs the validator's votes and `may_silence` is false; the disk.
pub fn run(setup: &Setup, may_silence: bool) -> Result<Vec<PathBuf>, RepairError> {
    let directory = open(setup)?;
    let findings = examine_all(setup, directory.is_silent())?;
    let silences =
        |finding: &Finding| matches!(finding, Finding::Damaged { remedy: Remedy::Silence { .. }, .. });
    if findings.iter().any(silences) && !directory.is_silent() {
        if !may_silence {
            return Err(RepairError::WouldSilence);
        }
        // Before the log is touched: a validator that has lost votes must not start as one that votes.
        directory.silence()?;
    }
    let mut put_aside = Vec::new();
    for (core, finding) in (0..).zip(findings) {
        let Finding::Damaged { remedy, .. } = finding else { continue };
        let path = &setup.config.data_dir;
        match remedy {
            Remedy::Forget { before } => put_aside.extend(repair::forget(path, core, before)?),
            Remedy::Silence { cut } => {
                if let Some(damage) = cut {
                    put_aside.extend(repair::cut(path, core, damage)?.put_aside);
                }
                if let Finding::Damaged { .. } = examine(setup, core, true)? {
                    put_aside.extend(set_aside_all(setup, core)?);
                }
            }
        }
        if let Finding::Damaged { fault, .. } = examine(setup, core, directory.is_silent())? {
            return Err(RepairError::Failed { core, fault });
        }
    }
    Ok(put_aside)
}

fn open(setup: &Setup) -> Result<DataDir, RepairError> {
    let path = &setup.config.data_dir;
    if !path.is_dir() {
        return Err(RepairError::Missing(path.clone()));
    }
    Ok(DataDir::open(path, &setup.genesis.hash(), &setup.key.address())?)
}

fn set_aside_all(setup: &Setup, core: u16) -> Result<Vec<PathBuf>, RepairError> {
    let path = &setup.config.data_dir;
    let Some(&first) = segment::list(path, core)?.first() else { return Ok(Vec::new()) };
    let all = Damage { segment: first, offset: 0, reason: DamageReason::Header(HeaderError::Magic) };
    Ok(repair::cut(path, core, all)?.put_aside)
}

fn examine_all(setup: &Setup, silent: bool) -> Result<Vec<Finding>, RepairError> {
    (0..setup.cores).map(|core| examine(setup, core, silent)).collect()
}

/// Recovers a core on trial.
fn examine(setup: &Setup, core: u16, silent: bool) -> Result<Finding, RepairError> {
    let trial =
        Trial { setup, shard: Shard::of(setup), placement: Placement { cores: setup.cores, core }, silent };
    let empty = segment::list(&setup.config.data_dir, core)?.is_empty();
    if empty {
        // Not recovered on trial: that would begin a log.
        let snapshots = trial.promised_before()?.iter().any(Option::is_some);
        return Ok(match snapshots && !silent {
            true => trial.damaged(&RecoveryError::NoLog(core), Remedy::Silence { cut: None }),
            false => Finding::Empty,
        });
    }
    match trial.recover(0) {
        Ok(records) => Ok(Finding::Whole { records }),
        Err(error @ RecoveryError::Log(ScanError::Damage(damage))) => {
            let remedy = trial.remedy(damage)?;
            Ok(trial.damaged(&error, remedy))
        }
        Err(
            error @ (RecoveryError::State { .. }
            | RecoveryError::Record(_)
            | RecoveryError::Restore { .. }
            | RecoveryError::Gap(_)
            | RecoveryError::NoLog(_)),
        ) => Ok(trial.damaged(&error, Remedy::Silence { cut: None })),
        Err(error) => Err(trial.hopeless(error)),
    }
}

/// A core that is recovered on trial.
struct Trial<'a> {
    setup: &'a Setup,
    shard: Shard,
    placement: Placement,
    silent: bool,
}

impl Trial<'_> {
    /// Recovers it from a segment on; returns the number of records.
    fn recover(&self, log_from: u32) -> Result<u64, RecoveryError> {
        let sources = Sources { log_from, ..self.sources() };
        let key = Rc::new(self.setup.key.clone());
        recover(&sources, &self.shard, self.placement, &key).map(|recovered| recovered.records)
    }

    fn sources(&self) -> Sources<'_, StdDisk> {
        process::sources(self.setup, self.silent, &|_| Height::MAX)
    }

    fn promised_before(&self) -> Result<Vec<Option<u32>>, RepairError> {
        promised_before(&self.sources(), &self.shard, self.placement).map_err(|error| self.hopeless(error))
    }

    /// Finds out whether the log's beginning can be done without.
    fn remedy(&self, first: Damage) -> Result<Remedy, RepairError> {
        let mut damage = first;
        // A table without a snapshot may have promised anything in the log.
        let promised = self.promised_before()?.into_iter().map(|mark| mark.unwrap_or(0)).min().unwrap_or(0);
        while damage.segment < promised {
            let before = damage.segment + 1;
            match self.recover(before) {
                Ok(_) => return Ok(Remedy::Forget { before }),
                Err(RecoveryError::Log(ScanError::Damage(further))) => damage = further,
                Err(_) => break,
            }
        }
        Ok(Remedy::Silence { cut: Some(first) })
    }

    fn damaged(&self, error: &RecoveryError, remedy: Remedy) -> Finding {
        Finding::Damaged { fault: error.to_string(), remedy }
    }

    fn hopeless(&self, error: RecoveryError) -> RepairError {
        RepairError::Recovery { core: self.placement.core, error }
    }
}
