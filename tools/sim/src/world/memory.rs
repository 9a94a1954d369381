//! What a validator must remember over a restart, and whether it would: also where none happens.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher},
};

use dag::{Hash, Height, TableId, View, Vote, VoteKind, vote::VOTE_SIZE};
use engine::{
    log::{
        SECTOR, Scanner, Write,
        frame::{GROUP_HEADER, GroupHeader, RECORD_HEADER},
        segment,
    },
    node::AGREEMENT,
    recovery::{Recovered, RecoveryError},
    snapshot,
};
use netio::AlignedBuf;
use pbft::{Record, Replica};

use super::{
    Invariant, World,
    hosts::{Ballot, ballot, core_number, directory},
};
use crate::{disk::SimDisk, fault::HostId};

/// Kind of a record that holds a vote; see `pbft::record`.
const VOTE: u8 = 2;
/// Bytes of a record of the log before what it says: the table (2), the record's version and its kind.
const RECORD_START: usize = 4;

/// What the log of a host holds: for certain, but for what is said to be possible only.
#[derive(Default)]
pub struct Promised {
    /// Votes that were on the disk at some time, or may have been.
    durable: HashMap<Ballot, Hash>,
    /// By kind, table and height: the newest vote.
    votes: BTreeMap<(VoteKind, TableId, Height), (View, Hash)>,
    /// The highest height that is committed.
    committed: BTreeMap<TableId, Height>,
    /// The view that was left for another one, or begun, last.
    views: BTreeMap<TableId, View>,
    /// Hashes of all records that were written, or may have been.
    written: HashSet<u64>,
}

fn record_hash(kind: u8, payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (kind, payload).hash(&mut hasher);
    hasher.finish()
}

impl Promised {
    /// Whether a vote was on the disk at some time, or may have been.
    pub fn has(&self, vote: &Vote) -> bool {
        self.durable.get(&ballot(vote)) == Some(&vote.digest)
    }

    /// A group of the log may be on the disk from now on.
    pub fn may_add(&mut self, write: &Write) {
        for_each_record(write, |kind, payload| {
            self.written.insert(record_hash(kind, payload));
        });
    }

    /// A crash has come over a group: all of it may be there, and then a restart speaks of it.
    pub fn may_survive(&mut self, write: &Write) {
        for_each_agreement(write, |_, kind, content| {
            if kind == VOTE {
                let vote = first_vote(content);
                self.durable.insert(ballot(&vote), vote.digest);
            }
        });
    }

    /// A group of the log is on the disk.
    pub fn add(&mut self, write: &Write) {
        for_each_agreement(write, |table, kind, content| self.add_record(table, kind, content));
    }

    /// See `pbft::record` for the kinds.
    fn add_record(&mut self, table: TableId, kind: u8, content: &[u8]) {
        match kind {
            VOTE => {
                let vote = first_vote(content);
                self.durable.insert(ballot(&vote), vote.digest);
                self.votes.insert((vote.kind, table, vote.height), (vote.view, vote.digest));
            }
            4 => {
                let committed = self.committed.entry(table).or_default();
                *committed = first_vote(content).height.max(*committed);
            }
            5 => {
                let mut record = vec![1, kind];
                record.extend_from_slice(content);
                if let Ok(Record::ViewChange(change)) = Record::decode(&record.into()) {
                    self.views.insert(table, change.view);
                }
            }
            _ => {}
        }
    }

    /// What was promised and is not there any more after a restart.
    pub fn forgotten_by(&self, recovered: &Recovered) -> Option<String> {
        if let Some(note) = recovered.notes.first() {
            // Snapshots get their names when they are whole.
            return Some(format!("finds its disk damaged: {note}"));
        }
        recovered.tables.iter().find_map(|table| self.forgotten_of(table.state.config().id, &table.replica))
    }

    fn forgotten_of(&self, table: TableId, replica: &Replica) -> Option<String> {
        let head = replica.committed_height();
        let committed = self.committed.get(&table).copied().unwrap_or_default();
        if head < committed {
            return Some(format!("forgets that height {committed} of table {table} is committed"));
        }
        if let Some(&view) = self.views.get(&table).filter(|&&view| view > replica.view()) {
            return Some(format!("forgets that it left for view {view} of table {table}"));
        }
        let records = replica.records();
        [VoteKind::Prepare, VoteKind::Commit].into_iter().find_map(|kind| {
            let cast = self.votes.range((kind, table, head + 1)..=(kind, table, Height::MAX));
            cast.into_iter().find_map(|(&(_, _, height), &(view, digest))| {
                let known = records.iter().any(|record| match record {
                    Record::Vote(vote) if (vote.kind, vote.height) == (kind, height) => {
                        vote.view > view || (vote.view, vote.digest) == (view, digest)
                    }
                    _ => false,
                });
                let what = format!(
                    "forgets that it signed {kind:?} in view {view} at height {height} of table {table}"
                );
                (!known).then_some(what)
            })
        })
    }
}

impl World {
    /// A validator writes its log: now and then its death is imagined before that is done.
    pub(super) fn maybe_imagine_death(&mut self, id: HostId) {
        if !self.healed && self.dice.imagined.below(self.scenario.imagined) == 0 {
            self.imagine_death(id);
        }
    }

    /// What the log of a host holds that was never written: damage may cost a validator its log, but is never believed.
    pub(super) fn strange_record(&self, id: HostId, disk: &SimDisk) -> Option<String> {
        (0..self.scenario.cores).find_map(|core| {
            let chain = self.genesis.chain();
            let mut log = Scanner::open_from(disk.fork(), &directory(), chain, core, 0).ok()??;
            loop {
                // What can't be read at all is recovery's business.
                let record = log.next_record().ok()??;
                if !self.hosts[id].promised.written.contains(&record_hash(record.kind, record.payload)) {
                    return Some(format!(
                        "believes a record of its log that was never written: {:?}",
                        record.position
                    ));
                }
            }
        })
    }

    /// Lets a validator die with the power, in a world of its own, and looks at what it would come back with. Nothing of this world
    /// changes.
    pub(super) fn imagine_death(&mut self, id: HostId) {
        if !self.hosts[id].honest {
            return;
        }
        let disk = self.hosts[id].disk.fork();
        let dice = &mut self.dice.imagined;
        for (number, core) in self.hosts[id].cores.iter().enumerate() {
            let Some(write) = &core.writing else { continue };
            let path = segment::path(&directory(), core_number(number), write.segment);
            if disk.paths().contains(&path) {
                disk.write_torn(&path, write.offset.into(), &write.buf, dice);
            }
        }
        disk.crash(dice);
        let what = match self.imagine_restart(id, &disk) {
            Ok(None) => return,
            Ok(Some(what)) => what,
            Err(error) => format!("can't go on: {error}"),
        };
        self.judge.ledger.fail(self.now, Invariant::Recovery, format!("had host {id} died now, it {what}"));
    }

    fn imagine_restart(&mut self, id: HostId, disk: &SimDisk) -> Result<Option<String>, RecoveryError> {
        snapshot::remove_leftovers(disk, &directory())?;
        if let Some(what) = self.strange_record(id, disk) {
            return Ok(Some(what));
        }
        for core in 0..self.scenario.cores {
            let random = (self.dice.imagined.any(), self.dice.imagined.bytes());
            let recovered = self.recover_core(id, disk, core, random)?;
            if let Some(what) = self.hosts[id].promised.forgotten_by(&recovered) {
                return Ok(Some(what));
            }
        }
        Ok(None)
    }
}

fn first_vote(content: &[u8]) -> Vote {
    let bytes = content.first_chunk::<VOTE_SIZE>().expect("it begins with a whole vote");
    Vote::parse(bytes).expect("the log holds whole votes")
}

/// Hands out the table, the kind and the content of each of agreement's records in a group.
fn for_each_agreement(write: &Write, mut each: impl FnMut(TableId, u8, &[u8])) {
    for_each_record(write, |kind, payload| {
        if kind == AGREEMENT && payload.len() > RECORD_START {
            let table = TableId::from_le_bytes([payload[0], payload[1]]);
            each(table, payload[3], &payload[RECORD_START..]);
        }
    });
}

fn for_each_record(write: &Write, mut each: impl FnMut(u8, &[u8])) {
    let start = if write.offset == 0 { SECTOR as usize } else { 0 };
    let buf: &AlignedBuf = &write.buf;
    let header = GroupHeader::peek(&buf[start..]).expect("a group was written");
    let mut records = &buf[start + GROUP_HEADER..start + GROUP_HEADER + header.payload_bytes as usize];
    while let Some((head, rest)) = records.split_first_chunk::<RECORD_HEADER>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        each(head[4], &rest[..length]);
        records = &rest[length..];
    }
}
