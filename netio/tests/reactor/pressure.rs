//! Limits hold, and nothing is lost at them.

use bytes::Bytes;
use netio::{Event, Features, ReactorConfig, RecvBuf, SendError};

use crate::{Linked, Node, feature_masks, linked, pattern, pump, small};

#[test]
fn a_paused_reader_slows_its_writer_until_it_resumes() {
    for mask in feature_masks() {
        let config = || ReactorConfig { features_mask: mask, ..small() };
        let Linked { mut caller, mut called, out, inn } = linked(config(), config());
        called.reactor.pause(inn);
        let piece = Bytes::from(pattern(64 << 10));
        let mut sent = 0;
        let mut idle_turns = 0;
        let mut received = Vec::new();
        // Until the writer's queue is full and neither side moves any more.
        pump(&mut [&mut caller, &mut called], |nodes| {
            let [caller, called] = nodes else { unreachable!() };
            idle_turns += 1;
            loop {
                match caller.reactor.send(out, piece.clone()) {
                    Ok(()) => (sent, idle_turns) = (sent + piece.len(), 0),
                    Err(error) => break assert_eq!(error, SendError::Full),
                }
            }
            received.extend_from_slice(&called.take_data(inn));
            idle_turns > 50
        });
        assert!(caller.reactor.queued(out) > 0, "back-pressure reached the writer");
        assert!(received.len() < sent, "most was not delivered");

        called.reactor.resume(inn);
        pump(&mut [&mut caller, &mut called], |nodes| {
            received.extend_from_slice(&nodes[1].take_data(inn));
            received.len() == sent
        });
        assert!(received.chunks(piece.len()).all(|chunk| chunk == piece), "with {mask}");
    }
}

#[test]
fn pausing_and_resuming_quickly_loses_nothing() {
    for mask in feature_masks() {
        let config = || ReactorConfig { features_mask: mask, ..small() };
        let Linked { mut caller, mut called, out, inn } = linked(config(), config());
        let sent = pattern(900_000);
        caller.reactor.send(out, sent.clone().into()).unwrap();
        let mut received = Vec::new();
        let mut turn = 0;
        pump(&mut [&mut caller, &mut called], |nodes| {
            turn += 1;
            let called = &mut *nodes[1];
            match turn % 4 {
                0 => called.reactor.pause(inn),
                1 => called.reactor.resume(inn),
                2 => {
                    called.reactor.pause(inn);
                    called.reactor.resume(inn);
                }
                _ => {}
            }
            received.extend_from_slice(&called.take_data(inn));
            received.len() == sent.len()
        });
        assert!(received == sent, "with {mask}");
    }
}

/// With every buffer held by the caller, receives end for want of buffers; they go on when buffers come back.
#[test]
fn connections_starved_of_buffers_recover() {
    const SENT: usize = 40_000;
    for mask in feature_masks() {
        let tiny = ReactorConfig {
            recv_buffers: 2,
            recv_buffer_size: 512,
            max_connections: 3,
            features_mask: mask,
            ..small()
        };
        let mut called = Node::new(tiny);
        let mut caller = Node::new(small());
        let addr = called.listen();
        let sent = pattern(SENT);
        for tag in 0..3 {
            caller.reactor.connect(addr, tag).unwrap();
            let out = caller.wait_for(|event| match event {
                Event::Connected { conn, .. } => Some(*conn),
                _ => None,
            });
            caller.reactor.send(out, sent.clone().into()).unwrap();
        }
        let mut received = std::collections::HashMap::<_, Vec<u8>>::new();
        let mut held: Vec<(_, RecvBuf)> = Vec::new();
        let mut idle_turns = 0;
        pump(&mut [&mut caller, &mut called], |nodes| {
            let called = &mut *nodes[1];
            idle_turns += 1;
            for event in called.events.drain(..) {
                if let Event::Data { conn, data } = event {
                    held.push((conn, data));
                    idle_turns = 0;
                }
            }
            // Give back only when nothing has come for a while: all buffers are out then.
            if idle_turns > 3 {
                for (conn, data) in held.drain(..) {
                    received.entry(conn).or_default().extend_from_slice(&data);
                }
            }
            received.values().map(Vec::len).sum::<usize>() == 3 * SENT
        });
        assert!(received.values().all(|bytes| *bytes == sent), "with {mask}");
        if called.reactor.features().contains(Features::BUFFER_RING) {
            assert!(called.reactor.counters().recv_starved > 0);
        }
    }
}

#[test]
fn a_starved_connection_can_be_closed() {
    let tiny = ReactorConfig { recv_buffers: 1, recv_buffer_size: 512, ..small() };
    let Linked { mut caller, mut called, out, inn } = linked(small(), tiny);
    caller.reactor.send(out, vec![1; 100_000].into()).unwrap();
    pump(&mut [&mut caller, &mut called], |nodes| nodes[1].reactor.counters().recv_starved > 0);
    called.reactor.close(inn);
    called.wait_closed(inn);
    called.events.clear();
    called.turn();
    assert_eq!(called.reactor.connections(), 0);
}
