//! The log's files under the ring: one segment is written, the next one waits.

use std::{collections::VecDeque, fs::File, io, os::fd::OwnedFd};

use netio::{FileId, Reactor};

use super::side_work::SideWork;
use crate::{log::Write, node::Core, side::Job};

/// A segment that could not be made (a full disk) is tried again after so long, ns.
const RETRY: u64 = 1_000_000_000;

/// The log's files of one core.
pub struct LogFile {
    core_number: u16,
    current: u32,
    file: FileId,
    /// Segments that are made, ahead of the writer.
    ready: VecDeque<(u32, File)>,
    /// A segment to ask for, and when.
    wanted: Option<(u32, u64)>,
    /// Why there is no next segment, while there is none.
    fault: Option<String>,
}

impl LogFile {
    /// Begins with the segment where the log ended.
    pub fn new(core_number: u16, segment: u32, file: File, reactor: &mut Reactor) -> io::Result<LogFile> {
        let file = reactor.register_file(OwnedFd::from(file))?;
        Ok(LogFile { core_number, current: segment, file, ready: VecDeque::new(), wanted: None, fault: None })
    }

    /// When a segment is asked for again.
    pub fn next_try(&self) -> Option<u64> {
        self.wanted.map(|(_, at)| at)
    }

    /// What keeps the log from going on, if anything.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Asks for segments ahead, and begins the next write if none is in flight.
    pub fn commit(
        &mut self,
        core: &mut Core,
        reactor: &mut Reactor,
        side: &mut SideWork,
        now: u64,
    ) -> io::Result<()> {
        if let Some(segment) = core.journal().poll_segment() {
            self.wanted = Some((segment, now));
        }
        if let Some((segment, at)) = self.wanted
            && at <= now
        {
            let job = Job::PrepareSegment { core: self.core_number, segment, recycle: None };
            self.wanted = if side.submit(job) { None } else { Some((segment, now + RETRY)) };
        }
        let Some(Write { segment, offset, buf, sequence }) = core.journal().begin_commit() else {
            return Ok(());
        };
        if segment != self.current {
            let (ready, file) = self.ready.pop_front().expect("the writer waits for the segment's file");
            assert_eq!(ready, segment, "segments are made in order");
            let file = reactor.register_file(OwnedFd::from(file))?;
            reactor.unregister_file(std::mem::replace(&mut self.file, file));
            self.current = segment;
        }
        reactor.write_durable(self.file, offset.into(), buf, sequence).map_err(io::Error::from)
    }

    /// A segment's file is there, or could not be made: then nothing is voted for or acknowledged until it can.
    pub fn on_segment(&mut self, segment: u32, file: io::Result<File>, core: &mut Core, now: u64) {
        match file {
            Ok(file) => {
                if self.fault.take().is_some() {
                    eprintln!("core {}: the log goes on", self.core_number);
                }
                self.ready.push_back((segment, file));
                core.journal().segment_ready(segment);
            }
            Err(error) => {
                let fault = format!(
                    "no room for the log: {error}. This validator votes for nothing until there is: free some space \
                     on its disk, it goes on by itself"
                );
                if self.fault.is_none() {
                    eprintln!("core {}: {fault}", self.core_number);
                }
                self.fault = Some(fault);
                self.wanted = Some((segment, now + RETRY));
            }
        }
    }
}
