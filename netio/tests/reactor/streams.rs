//! Bytes arrive complete and in order, under every set of features.

use bytes::Bytes;
use netio::{Event, Features, Reactor, ReactorConfig, SendError};

use crate::{Linked, Node, feature_masks, linked, loopback, pattern, pump, small};

#[test]
fn megabytes_echo_through_two_reactors() {
    const TOTAL: usize = 8 << 20;
    for mask in feature_masks() {
        let config = || ReactorConfig { features_mask: mask, ..small() };
        let Linked { mut caller, mut called, out, inn } = linked(config(), config());
        let sent = Bytes::from(pattern(TOTAL));
        let mut unsent = sent.clone();
        let mut unechoed = Bytes::new();
        let mut echoed = Vec::with_capacity(TOTAL);
        pump(&mut [&mut caller, &mut called], |nodes| {
            let [caller, called] = nodes else { unreachable!() };
            // Pieces of odd size, as many as fit.
            while !unsent.is_empty() {
                let piece = unsent.slice(..unsent.len().min(100_003));
                match caller.reactor.send(out, piece.clone()) {
                    Ok(()) => unsent = unsent.slice(piece.len()..),
                    Err(SendError::Full) => break,
                    Err(SendError::Closed) => panic!("the connection is open"),
                }
            }
            if unechoed.is_empty() {
                unechoed = called.take_data(inn).into();
            }
            if called.reactor.send(inn, unechoed.clone()).is_ok() {
                unechoed = Bytes::new();
            }
            echoed.extend_from_slice(&caller.take_data(out));
            echoed.len() >= TOTAL
        });
        assert!(echoed == sent, "with {mask}");
        let counters = caller.reactor.counters();
        assert_eq!((counters.bytes_in, counters.bytes_out), (TOTAL as u64, TOTAL as u64));
        assert!(counters.partial_sends > 0, "a queue larger than the socket's buffer is taken in parts");
        assert_eq!(caller.reactor.queued(out), 0);
    }
}

#[test]
fn what_is_queued_in_one_turn_leaves_together() {
    let Linked { mut caller, mut called, out, inn } = linked(small(), small());
    let before = caller.reactor.counters().sends;
    let words: Vec<Bytes> = (0..1000u32).map(|i| Bytes::from(format!("{i} "))).collect();
    let expected = words.concat();
    words.into_iter().for_each(|word| caller.reactor.send(out, word).unwrap());
    let mut received = Vec::new();
    pump(&mut [&mut caller, &mut called], |nodes| {
        received.extend_from_slice(&nodes[1].take_data(inn));
        received.len() == expected.len()
    });
    assert_eq!(received, expected);
    pump(&mut [&mut caller], |nodes| nodes[0].reactor.queued(out) == 0);
    let sends = caller.reactor.counters().sends - before;
    assert!(sends <= 1000u64.div_ceil(64) + 1, "{sends} sends for 1000 strings");
    assert!(caller.events.iter().any(|event| matches!(event, Event::Drained { conn } if *conn == out)));
}

#[test]
fn multishot_receives_are_armed_once() {
    if !Features::of_running_kernel().unwrap().contains(Features::MULTISHOT_RECV) {
        return;
    }
    let Linked { mut caller, mut called, out, inn } = linked(small(), small());
    for round in 0..50u8 {
        caller.reactor.send(out, vec![round].into()).unwrap();
        pump(&mut [&mut caller, &mut called], |nodes| nodes[1].take_data(inn) == [round]);
    }
    let counters = called.reactor.counters();
    assert_eq!((counters.receives, counters.recv_arms), (50, 1));
}

#[test]
fn several_reactors_listen_on_one_port() {
    let mut nodes = [Node::new(small()), Node::new(small())];
    let addr = nodes[0].reactor.listen(loopback(), true, 1).unwrap();
    assert_eq!(nodes[1].reactor.listen(addr, true, 2).unwrap(), addr);
    let mut stranger = Reactor::new(small()).unwrap();
    let taken = stranger.listen(addr, false, 3).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn masked_features_are_not_used() {
    for mask in feature_masks() {
        let node = Node::with_features(mask);
        assert!((*node.reactor.features() - mask).is_empty());
    }
}
