//! Who pays whom, and over which connection.

use dag::Address;

use super::{Routing, Target, Workload};

/// One transaction before it is signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Its number in the run, which says when it is due.
    pub number: u32,
    /// The account that pays.
    pub sender: u32,
    /// How many transactions of this sender come before it in the run.
    pub nth: u32,
}

/// The transactions of one connection, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedStream {
    /// The validator (its place among the submission addresses) that they are sent to.
    pub home: usize,
    /// What to send.
    pub transactions: Vec<Planned>,
}

/// All transactions of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Those that have any transaction.
    pub streams: Vec<PlannedStream>,
    /// The accounts that pay, each once.
    pub senders: Vec<u32>,
}

impl Plan {
    /// Draws the senders of a checked workload, and gives each of them its one stream.
    pub fn draw(workload: &Workload, target: &Target) -> Plan {
        let count = u32::try_from(workload.schedule().total()).expect("checked");
        let accounts = u32::try_from(workload.accounts.len()).expect("checked");
        let per_validator = usize::from(workload.connections);
        let mut streams: Vec<PlannedStream> = (0..target.submission.len() * per_validator)
            .map(|i| PlannedStream { home: i / per_validator, transactions: Vec::new() })
            .collect();
        let mut random = seeded(&workload.seed, "senders", 0);
        let mut senders = Vec::new();
        let mut seats = vec![Seat::default(); workload.accounts.len()];
        for number in 0..count {
            let sender = random.u32(..accounts);
            let index = usize::try_from(sender).expect("an index");
            if seats[index].taken == 0 {
                let home = home(&workload.accounts[index].address(), workload, target, &mut random);
                seats[index].stream = home * per_validator + random.usize(..per_validator);
                senders.push(sender);
            }
            streams[seats[index].stream].transactions.push(Planned {
                number,
                sender,
                nth: seats[index].taken,
            });
            seats[index].taken += 1;
        }
        streams.retain(|stream| !stream.transactions.is_empty());
        Plan { streams, senders }
    }
}

/// A sender's place: the stream of all its transactions, and how many it has there.
#[derive(Clone, Copy, Default)]
struct Seat {
    stream: usize,
    taken: u32,
}

fn home(sender: &Address, workload: &Workload, target: &Target, random: &mut fastrand::Rng) -> usize {
    let known = target.submission.len();
    match workload.routing {
        // The primary of view 0 of table t is validator t mod n.
        Routing::Primary => usize::from(sender.table(target.tables) % target.validators) % known,
        Routing::Any => random.usize(..known),
    }
}

/// The random numbers of one purpose: the same in every run with this seed.
pub fn seeded(seed: &[u8; 32], purpose: &str, number: u64) -> fastrand::Rng {
    let mut hasher = blake3::Hasher::new_keyed(seed);
    hasher.update(purpose.as_bytes()).update(&number.to_le_bytes());
    let mut start = [0; 8];
    hasher.finalize_xof().fill(&mut start);
    fastrand::Rng::with_seed(u64::from_le_bytes(start))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use super::*;
    use crate::loadgen::accounts::account_keys;

    fn target(known: u16) -> Target {
        let submission = (1..=known).map(|port| ([127, 0, 0, 1], port).into()).collect();
        Target { submission, chain: 1, epoch: 0, tables: 16, validators: 4 }
    }

    fn workload(routing: Routing) -> Workload {
        let accounts = account_keys(&[1; 32], 50);
        Workload { connections: 2, routing, ..Workload::transfers(accounts, 1_000, Duration::from_secs(1)) }
    }

    /// Checks what holds for every plan; returns the streams of each validator.
    fn check(workload: &Workload, target: &Target) -> HashMap<usize, usize> {
        let plan = Plan::draw(workload, target);
        assert_eq!(plan, Plan::draw(workload, target));
        let mut numbers = Vec::new();
        let mut seats: HashMap<u32, (usize, u32)> = HashMap::new();
        let mut homes = HashMap::new();
        for (index, stream) in plan.streams.iter().enumerate() {
            *homes.entry(stream.home).or_default() += 1;
            assert!(stream.transactions.is_sorted_by_key(|planned| planned.number));
            for planned in &stream.transactions {
                numbers.push(planned.number);
                let seat = seats.entry(planned.sender).or_insert((index, 0));
                assert_eq!((index, planned.nth), *seat, "one stream, counted in order");
                seat.1 += 1;
                if workload.routing == Routing::Primary {
                    let address = workload.accounts[planned.sender as usize].address();
                    assert_eq!(stream.home, usize::from(address.table(16) % 4) % target.submission.len());
                }
            }
        }
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..2_000), "each transaction once");
        let mut senders = plan.senders.clone();
        senders.sort_unstable();
        assert!(senders.into_iter().eq(0..50), "each account pays among so many transactions");
        homes
    }

    #[test]
    fn senders_keep_to_their_stream() {
        let all = HashMap::from([(0, 2), (1, 2), (2, 2), (3, 2)]);
        assert_eq!(check(&workload(Routing::Primary), &target(4)), all);
        assert_eq!(check(&workload(Routing::Any), &target(4)), all);
        assert_eq!(check(&workload(Routing::Primary), &target(1)), HashMap::from([(0, 2)]));
    }

    #[test]
    fn another_seed_is_another_plan() {
        let one = workload(Routing::Any);
        let other = Workload { seed: [9; 32], ..one.clone() };
        assert_ne!(Plan::draw(&one, &target(4)), Plan::draw(&other, &target(4)));
    }
}
