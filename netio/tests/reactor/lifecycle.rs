//! Connections begin and end as documented, whoever ends them and whenever.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use netio::{CloseReason, Event, Features, ReactorConfig, SendError, Wait};

use crate::{Linked, Node, feature_masks, linked, pattern, pump, small};

#[test]
fn a_stale_id_never_touches_the_next_connection() {
    let config = || ReactorConfig { max_connections: 1, ..small() };
    let Linked { mut caller, mut called, out: old, .. } = linked(config(), config());
    caller.reactor.close(old);
    assert!(matches!(caller.wait_closed(old), CloseReason::Local));
    pump(&mut [&mut called], |nodes| nodes[0].reactor.connections() == 0);

    let addr = called.listen();
    let new = caller.reactor.connect(addr, 8).unwrap();
    caller.turn();
    let inn = called.wait_accepted();
    assert_ne!(old, new);
    assert_eq!(old.slot(), new.slot(), "the table has one slot");
    caller.wait_for(|event| matches!(event, Event::Connected { conn, .. } if *conn == new).then_some(()));

    assert_eq!(caller.reactor.send(old, Bytes::from_static(b"ghost")), Err(SendError::Closed));
    assert_eq!(caller.reactor.queued(old), 0);
    caller.reactor.pause(old);
    caller.reactor.resume(old);
    caller.reactor.close_after_flush(old);
    caller.reactor.close(old);
    caller.reactor.send(new, Bytes::from_static(b"alive")).unwrap();
    pump(&mut [&mut caller, &mut called], |nodes| nodes[1].take_data(inn) == b"alive");
    assert!(!caller.events.iter().any(|event| matches!(event, Event::Closed { .. })));
}

#[test]
fn the_other_end_hears_of_a_close() {
    for mask in feature_masks() {
        let config = || ReactorConfig { features_mask: mask, ..small() };
        let Linked { mut caller, mut called, out, inn } = linked(config(), config());
        caller.reactor.close(out);
        caller.reactor.close(out);
        assert!(matches!(called.wait_closed(inn), CloseReason::Peer));
        assert!(matches!(caller.wait_closed(out), CloseReason::Local));
        caller.turn();
        assert!(caller.events.is_empty(), "exactly one Closed: {:?}", caller.events);
        assert_eq!(caller.reactor.connections() + called.reactor.connections(), 0);
    }
}

#[test]
fn a_close_in_the_middle_of_a_send_ends_it() {
    let Linked { mut caller, mut called, out, inn } = linked(small(), small());
    called.reactor.pause(inn);
    called.turn();
    let piece = Bytes::from(vec![1; 64 << 10]);
    pump(&mut [&mut caller], |nodes| {
        while nodes[0].reactor.send(out, piece.clone()).is_ok() {}
        nodes[0].reactor.counters().bytes_out > 0
    });
    assert!(caller.reactor.queued(out) > 0);
    caller.reactor.close(out);
    assert!(matches!(caller.wait_closed(out), CloseReason::Local));
}

#[test]
fn nothing_but_closed_follows_a_close() {
    let Linked { mut caller, mut called, out, inn } = linked(small(), small());
    called.reactor.send(inn, Bytes::from_static(b"crossing")).unwrap();
    called.turn();
    caller.reactor.close(out);
    assert!(matches!(caller.wait_closed(out), CloseReason::Local));
    assert!(caller.events.is_empty(), "{:?}", caller.events);
}

#[test]
fn a_refused_connect_fails_with_its_tag() {
    for mask in feature_masks() {
        // Bound and not listening: no one else can take the port meanwhile.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&crate::loopback().into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let mut node = Node::with_features(mask);
        let id = node.reactor.connect(addr, 42).unwrap();
        let kind = node.wait_for(|event| match event {
            Event::ConnectFailed { conn, tag: 42, error } if *conn == id => Some(error.kind()),
            _ => None,
        });
        assert_eq!(kind, ErrorKind::ConnectionRefused);
        assert_eq!(node.reactor.connections(), 0);
        assert_eq!(node.reactor.counters().connect_failed, 1);
    }
}

#[test]
fn an_attempt_closed_before_it_stands_ends_as_closed() {
    let listener = TcpListener::bind(crate::loopback()).unwrap();
    let mut node = Node::new(small());
    let id = node.reactor.connect(listener.local_addr().unwrap(), 1).unwrap();
    assert_eq!(node.reactor.send(id, Bytes::from_static(b"early")), Err(SendError::Closed));
    node.reactor.close(id);
    assert!(matches!(node.wait_closed(id), CloseReason::Local));
    assert!(node.events.is_empty(), "{:?}", node.events);
}

#[test]
fn a_full_table_refuses_and_recovers() {
    for mask in feature_masks() {
        let mut node = Node::new(ReactorConfig { max_connections: 2, features_mask: mask, ..small() });
        let addr = node.listen();
        let first = TcpStream::connect(addr).unwrap();
        let _second = TcpStream::connect(addr).unwrap();
        let mut third = TcpStream::connect(addr).unwrap();
        pump(&mut [&mut node], |nodes| nodes[0].reactor.counters().refused == 1);
        assert_eq!(third.read(&mut [0; 1]).unwrap_or(0), 0, "the third is closed");
        let full = node.reactor.connect(addr, 0).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::QuotaExceeded);

        drop(first);
        pump(&mut [&mut node], |nodes| nodes[0].reactor.connections() == 1);
        node.events.clear();
        let _fourth = TcpStream::connect(addr).unwrap();
        node.wait_accepted();
        assert_eq!(node.reactor.counters().accepted, 3);
    }
}

#[test]
fn a_reset_is_an_error() {
    let mut node = Node::new(small());
    let addr = node.listen();
    let client = TcpStream::connect(addr).unwrap();
    let conn = node.wait_accepted();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    match node.wait_closed(conn) {
        CloseReason::Error(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_last_words_reach_a_peer_that_is_still_talking() {
    for mask in feature_masks() {
        let mut node = Node::with_features(mask);
        let addr = node.listen();
        let mut client = TcpStream::connect(addr).unwrap();
        let conn = node.wait_accepted();
        node.reactor.pause(conn);
        // Bytes that the node never asks for. Closing over them would reset the connection.
        client.write_all(&[9; 100_000]).unwrap();
        let words = pattern(500_000);
        node.reactor.send(conn, words.clone().into()).unwrap();
        node.reactor.close_after_flush(conn);
        assert_eq!(node.reactor.send(conn, Bytes::from_static(b"no more")), Err(SendError::Closed));
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).map(|_| heard)
        });
        assert!(matches!(node.wait_closed(conn), CloseReason::Flushed));
        assert!(reader.join().unwrap().unwrap() == words, "with {mask}");
    }
}

#[test]
fn lingering_ends_with_its_time() {
    let mut node = Node::new(ReactorConfig { linger: Duration::from_millis(20), ..small() });
    let addr = node.listen();
    let _client_that_never_closes = TcpStream::connect(addr).unwrap();
    let conn = node.wait_accepted();
    node.reactor.close_after_flush(conn);
    assert!(matches!(node.wait_closed(conn), CloseReason::Flushed));
}

#[test]
fn a_reactor_dropped_in_the_middle_leaves_its_buffers_readable() {
    for mask in feature_masks() {
        let config = || ReactorConfig { features_mask: mask, ..small() };
        let Linked { mut caller, mut called, out, inn } = linked(config(), config());
        caller.reactor.send(out, Bytes::from_static(b"survivor")).unwrap();
        caller.turn();
        let data = loop {
            called.turn();
            if let Some(at) = called.events.iter().position(|event| matches!(event, Event::Data { .. })) {
                break called.events.swap_remove(at);
            }
        };
        // A send in flight, too.
        called.reactor.send(inn, vec![0; 1 << 20].into()).unwrap();
        called.turn();
        drop(called);
        let Event::Data { data, .. } = data else { unreachable!() };
        assert_eq!(&*data, b"survivor");
        pump(&mut [&mut caller], |nodes| {
            // Events hold receive buffers: kept, they would starve the connection.
            nodes[0].take_data(out);
            nodes[0].reactor.connections() == 0
        });
    }
}

#[test]
fn more_accepts_than_completions_fit_are_all_seen() {
    const CLIENTS: u64 = 60;
    for mask in feature_masks() {
        // A completion queue of four.
        let tiny =
            ReactorConfig { entries: 1, recv_buffers: 1, max_connections: 1, features_mask: mask, ..small() };
        let mut node = Node::new(tiny);
        let addr = node.listen();
        node.reactor.poll(Wait::Spin, &mut node.events).unwrap();
        let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| TcpStream::connect(addr).unwrap()).collect();
        pump(&mut [&mut node], |nodes| {
            let counters = nodes[0].reactor.counters();
            counters.accepted + counters.refused == CLIENTS
        });
        if node.reactor.features().contains(Features::MULTISHOT_ACCEPT) {
            assert!(node.reactor.counters().cq_overflows > 0, "the queue was too small");
        }
        drop(clients);
    }
}
