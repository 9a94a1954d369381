//! Which transactions of a stream are due, on their way, put off, answered. Pure bookkeeping: no socket, no clock.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
};

/// Where a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Never sent.
    Ahead,
    /// Sent over the present connection; an answer is due.
    Sent,
    /// To be sent again, now or later.
    Again,
    /// Answered for good.
    Done,
}

/// The transactions of one stream, named by their place in it.
///
/// What is sent again goes before what is new, in the stream's order: so a sender's sequences stay in order.
#[derive(Debug)]
pub struct Backlog {
    places: Vec<Place>,
    /// How often each was put off.
    put_offs: Vec<u8>,
    /// All before it were sent at least once.
    frontier: usize,
    again: BTreeSet<usize>,
    /// Those put off, with the time at which they go again, which only grows.
    later: VecDeque<(u64, usize)>,
    sent: usize,
    done: usize,
}

impl Backlog {
    /// So many transactions, none sent.
    pub fn new(count: usize) -> Backlog {
        Backlog {
            places: vec![Place::Ahead; count],
            put_offs: vec![0; count],
            frontier: 0,
            again: BTreeSet::new(),
            later: VecDeque::new(),
            sent: 0,
            done: 0,
        }
    }

    /// How many wait for an answer over the present connection.
    pub fn outstanding(&self) -> usize {
        self.sent
    }

    /// How many were ever sent.
    pub fn frontier(&self) -> usize {
        self.frontier
    }

    /// How many are answered for good.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Takes the next transactions to send: consecutive ones, at most `most` (not zero), of those before `due`.
    pub fn take(&mut self, due: usize, most: usize, now: u64) -> Option<Range<usize>> {
        while let Some(&(at, index)) = self.later.front()
            && at <= now
        {
            self.later.pop_front();
            self.again.insert(index);
        }
        let range = match self.again.first() {
            Some(&first) => {
                let length = (first..first + most).take_while(|index| self.again.remove(index)).count();
                first..first + length
            }
            None if self.frontier < due => {
                let first = self.frontier;
                self.frontier = due.min(first + most);
                first..self.frontier
            }
            None => return None,
        };
        self.places[range.clone()].fill(Place::Sent);
        self.sent += range.len();
        Some(range)
    }

    /// How often this one was put off.
    pub fn put_offs(&self, index: usize) -> u8 {
        self.put_offs[index]
    }

    /// An answer for good has come. False where none was due: the other side breaks the protocol.
    #[must_use]
    pub fn answered(&mut self, index: usize) -> bool {
        let due = self.leave(index, Place::Done);
        self.done += usize::from(due);
        due
    }

    /// Puts off one whose answer was "later" until `at`, which never is before that of an earlier call. False, and
    /// nothing is done, where no answer was due or it was put off `limit` times before.
    #[must_use]
    pub fn put_off(&mut self, index: usize, at: u64, limit: u8) -> bool {
        if self.put_offs.get(index).is_none_or(|&before| before >= limit) || !self.leave(index, Place::Again)
        {
            return false;
        }
        self.put_offs[index] += 1;
        self.later.push_back((at, index));
        true
    }

    /// The connection is another one: all that was sent and is not answered goes again. Returns how many answers were due.
    pub fn rewind(&mut self) -> usize {
        let unanswered = (0..self.frontier).filter(|&index| self.places[index] != Place::Done);
        self.again = unanswered.collect();
        for &index in &self.again {
            self.places[index] = Place::Again;
        }
        self.later.clear();
        std::mem::take(&mut self.sent)
    }

    fn leave(&mut self, index: usize, to: Place) -> bool {
        match self.places.get_mut(index) {
            Some(place) if *place == Place::Sent => *place = to,
            _ => return false,
        }
        self.sent -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_goes_again_goes_first() {
        let mut backlog = Backlog::new(10);
        assert_eq!(backlog.take(0, 4, 0), None);
        assert_eq!(backlog.take(6, 4, 0), Some(0..4));
        assert_eq!(backlog.take(6, 4, 0), Some(4..6));
        assert_eq!(backlog.take(6, 4, 0), None);
        assert!(backlog.answered(2) && backlog.put_off(1, 50, 1) && backlog.put_off(4, 60, 1));
        assert_eq!((backlog.outstanding(), backlog.done()), (3, 1));
        assert_eq!(backlog.take(8, 4, 49), Some(6..8));
        assert_eq!(backlog.take(9, 4, 55), Some(1..2));
        assert!(!backlog.put_off(1, 70, 1), "only once");
        assert_eq!(backlog.rewind(), 6);
        assert_eq!(backlog.take(10, 9, 56), Some(0..2));
        assert_eq!(backlog.take(10, 4, 56), Some(3..7));
        assert_eq!(backlog.take(10, 4, 56), Some(7..8));
        assert_eq!(backlog.take(10, 4, 56), Some(8..10));
        assert_eq!((backlog.outstanding(), backlog.frontier()), (9, 10));
    }

    #[test]
    fn unexpected_answers_are_told() {
        let mut backlog = Backlog::new(3);
        assert!(!backlog.answered(0) && !backlog.answered(3) && !backlog.put_off(7, 0, 9));
        assert_eq!(backlog.take(1, 9, 0), Some(0..1));
        assert!(backlog.answered(0) && !backlog.answered(0) && !backlog.put_off(0, 0, 9));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(usize, usize),
        Answer(usize),
        PutOff(usize),
        Rewind,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..=COUNT, 1..9usize).prop_map(|(due, most)| Step::Take(due, most)),
            4 => (0..COUNT + 2).prop_map(Step::Answer),
            2 => (0..COUNT + 2).prop_map(Step::PutOff),
            1 => Just(Step::Rewind),
        ]
    }

    const COUNT: usize = 40;

    proptest! {
        #[test]
        fn each_is_on_its_way_at_most_once_and_answered_at_most_once(
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut backlog = Backlog::new(COUNT);
            let (mut on_way, mut done) = (BTreeSet::new(), BTreeSet::new());
            for (now, step) in (0..).zip(steps) {
                match step {
                    Step::Take(due, most) => {
                        let Some(range) = backlog.take(due, most, now) else { continue };
                        prop_assert!(!range.is_empty() && range.len() <= most);
                        for index in range {
                            prop_assert!(!done.contains(&index) && on_way.insert(index));
                        }
                    }
                    Step::Answer(index) => {
                        prop_assert_eq!(backlog.answered(index), on_way.remove(&index));
                        done = (0..COUNT).filter(|i| backlog.places[*i] == Place::Done).collect();
                    }
                    Step::PutOff(index) => {
                        let before = backlog.put_offs.get(index).copied();
                        let expected = on_way.contains(&index) && before < Some(2);
                        prop_assert_eq!(backlog.put_off(index, now + 5, 2), expected);
                        if expected {
                            on_way.remove(&index);
                        }
                    }
                    Step::Rewind => {
                        prop_assert_eq!(backlog.rewind(), on_way.len());
                        on_way.clear();
                    }
                }
                prop_assert_eq!((backlog.outstanding(), backlog.done()), (on_way.len(), done.len()));
            }
            // Nothing gets lost: in the end, all that was not answered is on its way.
            while let Some(range) = backlog.take(COUNT, 7, u64::MAX) {
                on_way.extend(range);
            }
            prop_assert_eq!(on_way.len() + done.len(), COUNT);
        }
    }
}
