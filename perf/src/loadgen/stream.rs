//! One sequence of transactions and the connection that carries it.

use dag::client::{Code, MAX_FRAME, Reply, Response, SUBMIT};
use rustix::event::{PollFd, PollFlags};

use super::{
    acks::AckFile,
    backlog::Backlog,
    presign::Script,
    recorder::Recorder,
    session::{Role, Session},
};

/// Wait before a refusal that says "later" is tried again, nanoseconds.
const RETRY_AFTER: u64 = 100_000_000;
/// A validator that says [`Code::Unavailable`] of a transaction that was put off so often is left: what it lacks may come in a
/// moment.
const PUT_OFFS: u8 = 5;
/// Most frames that one call sends, so that no stream keeps the others waiting.
const FRAMES_AT_ONCE: usize = 16;
/// Bytes of a submit frame before the records, with its own length.
const HEAD: usize = 13;

/// Where a stream leaves what has happened.
pub struct Outcome<'a> {
    /// Counts and latencies.
    pub recorder: &'a mut Recorder,
    /// The list of acknowledgements, where one is wanted.
    pub acks: Option<&'a mut AckFile>,
}

/// One stream.
pub struct Stream {
    script: Script,
    backlog: Backlog,
    session: Session,
    /// How many are due.
    due: usize,
    retries: u8,
}

impl Stream {
    /// A stream that has sent nothing.
    pub fn new(script: Script, session: Session, retries: u8) -> Stream {
        Stream { backlog: Backlog::new(script.len()), script, session, due: 0, retries }
    }

    /// What to poll for.
    pub fn poll<'a>(&'a self, add: impl FnMut(Role, PollFd<'a>)) {
        self.session.poll(add);
    }

    /// Whether everything due is answered.
    pub fn is_settled(&self) -> bool {
        self.backlog.done() == self.due
    }

    /// Connections that were lost.
    pub fn lost(&self) -> u64 {
        self.session.lost()
    }

    /// How many were due and never sent.
    pub fn unsent(&self) -> usize {
        self.due - self.backlog.frontier().min(self.due)
    }

    /// Serves a connection that poll has reported.
    pub fn ready(&mut self, role: Role, events: PollFlags, now: u64, outcome: &mut Outcome<'_>) {
        self.session.ready(role, events, now);
        if self.session.take_fresh() {
            outcome.recorder.resubmitted(self.backlog.rewind());
        }
        while let Some(response) = self.session.take_response(now) {
            let Response::Replies(replies) = response else {
                // The answer to a question of the session; late, since the session has what it wanted.
                continue;
            };
            for reply in replies {
                if !self.settle(&reply, now, outcome) {
                    self.session.lose(now);
                    return;
                }
            }
        }
    }

    /// Sends what is due: the transactions with numbers below `due`.
    pub fn tick(&mut self, now: u64, due: u64) {
        self.session.tick(now, self.backlog.outstanding());
        while self.due < self.script.len() && self.script.number(self.due) < due {
            self.due += 1;
        }
        let most = (MAX_FRAME - HEAD) / self.script.slot();
        for _ in 0..FRAMES_AT_ONCE {
            let Some(link) = self.session.clear_link() else { return };
            let Some(range) = self.backlog.take(self.due, most, now) else { return };
            let body = self.script.records(range.clone());
            if link.send(&head(range.start, body.len()), body).is_err() {
                self.session.lose(now);
            }
        }
    }

    /// False where no answer to this tag is due.
    fn settle(&mut self, reply: &Reply, now: u64, outcome: &mut Outcome<'_>) -> bool {
        let Ok(index) = usize::try_from(reply.tag) else { return false };
        if says_later(reply.code) && self.backlog.put_off(index, now + RETRY_AFTER, self.retries) {
            outcome.recorder.retried();
            if reply.code == Code::Unavailable && self.backlog.put_offs(index) > PUT_OFFS {
                self.session.leave(now);
            }
            return true;
        }
        if !self.backlog.answered(index) {
            return false;
        }
        if !says_later(reply.code) {
            self.session.served(now);
        }
        let intended = outcome.recorder.schedule().intended(self.script.number(index));
        match reply.code {
            Code::Committed => {
                outcome.recorder.committed(intended, now);
                if let Some(acks) = &mut outcome.acks {
                    acks.append(&self.script.transaction(index), reply);
                }
            }
            code => outcome.recorder.refused(code, intended),
        }
        true
    }
}

/// Refusals that a later attempt may not meet. A gap is one of them: the transaction before it may have been refused with
/// one of the others, and goes again before this one.
fn says_later(code: Code) -> bool {
    matches!(code, Code::GappedSequence | Code::TooManyPending | Code::MempoolFull | Code::Unavailable)
}

/// The first bytes of a submit frame: length, kind, first tag.
fn head(first_tag: usize, body: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let length = u32::try_from(HEAD - 4 + body).expect("at most MAX_FRAME");
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4] = SUBMIT;
    head[5..].copy_from_slice(&u64::try_from(first_tag).expect("an index").to_le_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_that_of_the_protocol() {
        let mut frame = Vec::new();
        dag::client::encode_submit(77, [&[1u8; 40][..]].into_iter(), &mut frame);
        assert_eq!(head(77, frame.len() - HEAD), frame[..HEAD]);
    }
}
