//! The core's journal: what goes into the log, and what must wait for it.
//!
//! Agreement says «durable before it leaves»: whatever is emitted behind a record must not leave before the record is
//! durable. So outgoing frames that promise something are held with the sequence of the newest log group that has a
//! record, and released when that group is on disk. What promises nothing (proposals, fetches, forwarded transactions)
//! leaves at once.

use std::collections::VecDeque;

use dag::{
    Hash, Height, TableId,
    client::Code,
    planted::{self, Defect},
    wire::{Put, Reader, WireError},
};

use shard_core::Failed;

use crate::log::{AppendError, LogPosition, Writer};

/// Log record: the table (2), then a `pbft::Record`.
pub const AGREEMENT: u8 = 1;
/// Log record: an [`OutcomeRecord`].
pub const OUTCOME: u8 = 2;

/// What must be known of an executed block, beside the block, to tell other tables of it once more after a restart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutcomeRecord {
    /// The table.
    pub table: TableId,
    /// The block's height.
    pub height: Height,
    /// The block's hash.
    pub hash: Hash,
    /// The transactions that failed.
    pub failed: Failed,
    /// Why, for each of them.
    pub causes: Vec<Code>,
}

impl OutcomeRecord {
    /// Appends the layout: table (2), height (8), hash (32), failed transactions, a code (1) for each of them.
    ///
    /// # Panics
    /// Where there are not as many codes as failed transactions.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert_eq!(self.failed.len(), self.causes.len(), "each failure has its cause");
        out.put_u16(self.table);
        out.put_u64(self.height);
        out.put(&self.hash.0);
        self.failed.encode(out);
        self.causes.iter().for_each(|cause| out.put_u8(*cause as u8));
    }

    /// Reads a record that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<OutcomeRecord, WireError> {
        let mut reader = Reader::new(bytes);
        let (table, height, hash) = (reader.u16()?, reader.u64()?, reader.hash()?);
        let failed = Failed::decode(&mut reader)?;
        let cause = |_| Code::from_byte(reader.u8()?).ok_or(WireError::Field("code"));
        let causes = (0..failed.len()).map(cause).collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        Ok(OutcomeRecord { table, height, hash, failed, causes })
    }
}

/// The log's writer and what waits for it. `T` is what is held.
pub struct Journal<T> {
    writer: Writer,
    held: VecDeque<(u64, T)>,
    /// The newest group that has a record.
    newest: u64,
    /// Where the newest record stands; the log's start where this process has written none.
    position: LogPosition,
    /// When each group that is not durable yet got its first record.
    opened: VecDeque<(u64, u64)>,
}

impl<T> Journal<T> {
    /// A journal over an opened log, whose newest record stands at `position`.
    pub fn new(writer: Writer, position: LogPosition) -> Self {
        let newest = writer.durable();
        Journal { writer, held: VecDeque::new(), newest, position, opened: VecDeque::new() }
    }

    /// Bytes of records that a caller may still append before the open group is committed.
    pub fn room(&self) -> usize {
        self.writer.max_record().saturating_sub(self.writer.pending_bytes())
    }

    /// Appends a record; `None` where the disk has failed: then nothing that is held is ever released.
    ///
    /// # Panics
    /// Where the record is larger than [`room`](Self::room): callers ask first.
    pub fn append(&mut self, kind: u8, parts: &[&[u8]], now: u64) -> Option<LogPosition> {
        match self.writer.append(kind, parts) {
            Ok(appended) => {
                if appended.sequence != self.newest {
                    self.newest = appended.sequence;
                    self.opened.push_back((appended.sequence, now));
                }
                self.position = appended.position;
                Some(appended.position)
            }
            Err(AppendError::Stopped) => None,
            Err(error) => panic!("the caller asked for room: {error}"),
        }
    }

    /// Holds `what` until all that was appended so far is durable.
    pub fn hold(&mut self, what: T) {
        self.held.push_back((self.newest, what));
    }

    /// The next thing that may leave now.
    pub fn release(&mut self) -> Option<T> {
        let (sequence, _) = self.held.front()?;
        if *sequence > self.writer.durable() && !planted::is(Defect::VoteBeforeSync) {
            return None;
        }
        self.held.pop_front().map(|(_, what)| what)
    }

    /// A write is durable. Returns when its first record was appended.
    pub fn commit_done(&mut self, buf: netio::AlignedBuf) -> u64 {
        let durable = self.writer.commit_done(buf);
        let (sequence, opened) = self.opened.pop_front().expect("a group has a first record");
        assert_eq!(sequence, durable, "groups become durable in order");
        opened
    }

    /// Where the newest record stands.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// The writer, for segments.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn outcomes_round_trip(table: u16, height: u64, hash: [u8; 32], codes in prop::collection::vec(0u8..21, 0..50)) {
            let codes: Vec<Code> = codes.into_iter().filter_map(Code::from_byte).collect();
            let causes = codes.iter().copied().filter(|code| *code != Code::Committed).collect();
            let record = OutcomeRecord { table, height, hash: Hash(hash), failed: Failed::of(&codes), causes };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(OutcomeRecord::decode(&bytes), Ok(record));
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = OutcomeRecord::decode(&bytes);
        }
    }
}
