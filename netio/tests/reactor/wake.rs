//! Waking a reactor from other threads.

use std::sync::mpsc;
use std::thread;

use netio::{Event, Wait};

use crate::{Node, PATIENCE, feature_masks, small};

/// Polls until woken; a lost call would show as the timeout.
fn sleep_until_woken(node: &mut Node) {
    let started = std::time::Instant::now();
    while !node.events.iter().any(|event| matches!(event, Event::Woken)) {
        assert!(started.elapsed() < PATIENCE, "a call was lost");
        node.reactor.poll(Wait::For(PATIENCE), &mut node.events).expect("a working ring");
    }
    node.events.clear();
}

#[test]
fn no_call_is_lost_between_the_last_look_and_sleep() {
    const ROUNDS: u32 = 20_000;
    for mask in feature_masks() {
        let mut node = Node::with_features(mask);
        let waker = node.reactor.waker();
        let (to_reactor, inbox) = mpsc::channel();
        let (to_thread, turn) = mpsc::channel();
        let thread = thread::spawn(move || {
            for round in 0..ROUNDS {
                to_reactor.send(round).unwrap();
                waker.wake();
                // Every other round waits for the answer, so that the reactor sleeps in between.
                if round % 2 == 0 {
                    turn.recv().unwrap();
                }
            }
        });
        let mut expected = 0;
        while expected < ROUNDS {
            sleep_until_woken(&mut node);
            for round in inbox.try_iter() {
                assert_eq!(round, expected);
                expected += 1;
                if round % 2 == 0 {
                    to_thread.send(()).unwrap();
                }
            }
        }
        thread.join().unwrap();
    }
}

#[test]
fn a_call_before_the_poll_is_seen_by_it() {
    let mut node = Node::new(small());
    let waker = node.reactor.waker();
    for wait in [Wait::Spin, Wait::Forever] {
        waker.wake();
        waker.clone().wake();
        node.reactor.poll(wait, &mut node.events).unwrap();
        let woken = node.events.drain(..).filter(|event| matches!(event, Event::Woken)).count();
        assert_eq!(woken, 1);
    }
    assert_eq!(node.reactor.counters().wakeups, 2);
}

#[test]
fn a_waker_outlives_its_reactor() {
    let waker = Node::new(small()).reactor.waker();
    waker.wake();
}
