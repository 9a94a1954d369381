//! Garbage on every port, and records that have to be refused.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use dag::{
    client::{Code, MAX_FRAME, Response, encode_submit},
    transaction::{MAX_SIZE, Terms},
};
use netio::channel::{Channel, ChannelConfig, ChannelLimits, Identity};
use perf::client::FrameBuffer;
use rustix::process::Signal;
use topio::devnet::Ports;

use crate::network::{Network, SIZES, configure, eventually};

const CLOSED_WITHIN: Duration = Duration::from_secs(20);

/// Sends bytes to a port, and asserts that the other side hangs up.
fn is_hung_up_on(address: SocketAddr, garbage: &[u8]) {
    let mut socket = TcpStream::connect(address).expect("the port is open");
    socket.set_read_timeout(Some(CLOSED_WITHIN)).expect("a time that is not zero");
    // The other side may hang up while we still write.
    let _ = socket.write_all(garbage);
    let mut rest = [0; 4096];
    loop {
        match socket.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("{address} keeps listening")
            }
            Err(_) => return,
        }
    }
}

#[test]
fn garbage_is_hung_up_on_counted_and_harms_no_one() {
    let network = Network::start();
    let Ports { submission, peers, .. } = *network.devnet.nodes()[0].ports();
    let (clients, peers) =
        (SocketAddr::from(([127, 0, 0, 1], submission)), SocketAddr::from(([127, 0, 0, 1], peers)));
    let too_long = u32::try_from(MAX_FRAME + 1).expect("a small number").to_le_bytes();
    let unknown_kind = [1, 0, 0, 0, 99];
    let http = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let noise: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for garbage in [&[0; 8][..], &too_long, &unknown_kind, http, &noise] {
        is_hung_up_on(clients, garbage);
        is_hung_up_on(peers, garbage);
    }
    // Connections that say nothing hold no one up.
    let _silent: Vec<TcpStream> = [clients, peers]
        .iter()
        .flat_map(|&port| (0..50).filter_map(move |_| TcpStream::connect(port).ok()))
        .collect();
    let refused = network.counter(0, "peer_connections_refused_total");
    let stranger = Identity::from_seed([7; 32]);
    is_let_in_by_nobody(&network, stranger);
    eventually("a stranger's key is counted", || {
        network.counter(0, "peer_connections_refused_total") > refused
    });
    eventually("malformed client frames are counted", || {
        network.counter(0, "client_frames_malformed_total") >= 5
    });
    eventually("malformed peer connections are counted", || {
        network.counter(0, "peer_connections_malformed_total")
            + network.counter(0, "peer_connections_refused_total")
            >= 5
    });
    (0..4).for_each(|node| network.commits_in_every_table(node));
}

/// Asserts that a validator hangs up on whoever proves a key that is not in the committee.
fn is_let_in_by_nobody(network: &Network, identity: Identity) {
    let key = network.genesis.validators()[0].key.0;
    let config = ChannelConfig::new(identity, [key], ChannelLimits::default());
    let mut channel = Channel::client(&config, key);
    let peers = network.devnet.nodes()[0].ports().peers;
    let mut socket = TcpStream::connect(("127.0.0.1", peers)).expect("the port is open");
    socket.set_read_timeout(Some(CLOSED_WITHIN)).expect("a time that is not zero");
    channel.write_frame(&[b"let me in"]).expect("a short frame");
    let mut bytes = [0; 4096];
    loop {
        if let Some(out) = channel.take_tls()
            && socket.write_all(&out).is_err()
        {
            return;
        }
        match socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                let mut heard = 0;
                // The alert that refuses the key comes as an error here.
                let read = channel.read_tls(&bytes[..length], &mut |_| heard += 1);
                assert_eq!(heard, 0, "a validator spoke with a stranger");
                if read.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("a stranger is not hung up on"),
            Err(_) => return,
        }
    }
}

/// Writes valid frames of worthless records for as long as the validator reads. Returns whether it was held back meanwhile.
fn flood(address: SocketAddr, record: &[u8], stop: &AtomicBool) -> bool {
    let mut socket = TcpStream::connect(address).expect("the port is open");
    socket.set_nonblocking(true).expect("a socket");
    let mut frame = Vec::new();
    encode_submit(0, std::iter::repeat_n(record, 1000), &mut frame);
    let (mut sent, mut held_back) = (0, false);
    let mut replies = vec![0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        match socket.write(&frame[sent..]) {
            Ok(length) => sent = (sent + length) % frame.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                held_back = true;
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("a flood of well-formed frames is no reason to hang up: {error}"),
        }
        while socket.read(&mut replies).is_ok_and(|length| length > 0) {}
    }
    held_back
}

/// Ends floods when dropped.
struct Ebb<'a>(&'a AtomicBool);

impl Drop for Ebb<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn who_floods_is_held_back_and_the_others_are_not() {
    let network = Network::start();
    let address = network.devnet.nodes()[0].ports().submission_address();
    let mut forged = network.record(9, Terms { sequence: 1, ..network.terms() }, 1);
    forged[130] ^= 1;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // However this ends, the floods end with it.
        let ebb = Ebb(&stop);
        let floods: Vec<_> = (0..2).map(|_| scope.spawn(|| flood(address, &forged, &stop))).collect();
        // An honest client of the same validator, one transfer after the other.
        for _ in 0..20 {
            let record = network.next_record(0, 0);
            let reply = network.client(0).submit(&record).expect("the validator answers");
            assert_eq!(reply.code, Code::Committed);
        }
        drop(ebb);
        for flood in floods {
            assert!(flood.join().expect("no panic"), "the flood was taken in as fast as it came");
        }
    });
    assert!(network.counter(0, "replies_total") > 100, "the flood is answered, too");
    (0..4).for_each(|node| network.commits_in_every_table(node));
}

#[test]
fn too_many_pending_are_refused_until_some_are_committed() {
    let mut network =
        Network::start_with(SIZES, |devnet| configure(devnet, "[limits]\npending_per_account = 4\n"));
    // Without a quorum nothing is committed, so all that is submitted waits.
    (2..4).for_each(|node| network.devnet.node(node).signal(Signal::STOP));
    let record = |sequence| network.record(0, Terms { sequence, ..network.terms() }, 1);
    let records: Vec<Vec<u8>> = (1..=4).map(record).collect();
    let mut frame = Vec::new();
    encode_submit(1, records.iter().map(Vec::as_slice), &mut frame);
    let address = network.devnet.nodes()[0].ports().submission_address();
    let mut waiting = TcpStream::connect(address).expect("the port is open");
    waiting.write_all(&frame).expect("the validator reads");
    eventually("the four are taken in", || network.account(0, &network.key(0).address()).pending == 4);
    assert_eq!(fate_of(&network, &record(5)), Code::TooManyPending);
    let fifth = record(5);
    (2..4).for_each(|node| network.devnet.node(node).signal(Signal::CONT));
    eventually("the four are committed", || network.account(0, &network.key(0).address()).sequence == 4);
    assert_eq!(fate_of(&network, &fifth), Code::Committed);
}

/// The fate of one record that no client library would send.
fn fate_of(network: &Network, record: &[u8]) -> Code {
    let address = network.devnet.nodes()[0].ports().submission_address();
    let mut socket = TcpStream::connect(address).expect("the port is open");
    socket.set_read_timeout(Some(CLOSED_WITHIN)).expect("a time that is not zero");
    let mut frame = Vec::new();
    encode_submit(7, [record].into_iter(), &mut frame);
    socket.write_all(&frame).expect("the validator reads");
    let mut inbound = FrameBuffer::new();
    loop {
        if let Some(frame) = inbound.take().expect("the validator speaks the protocol") {
            let response = Response::parse(frame).expect("the validator speaks the protocol");
            let Response::Replies(replies) = response else { panic!("not asked: {response:?}") };
            assert_eq!((replies.len(), replies[0].tag), (1, 7));
            return replies[0].code;
        }
        inbound.fill(&mut socket).expect("each record gets a reply");
    }
}

#[test]
fn each_refusal_names_its_cause() {
    let network = Network::start();
    let first = network.next_record(0, 0);
    let committed = network.client(0).submit(&first).expect("the validator answers");
    assert_eq!(committed.code, Code::Committed);
    let again = network.client(2).submit(&first).expect("the validator answers");
    assert_eq!(
        (again.code, again.table, again.height, again.index),
        (Code::Committed, committed.table, committed.height, committed.index)
    );

    let good = Terms { sequence: 2, ..network.terms() };
    let signed = |terms: Terms, amount| network.record(0, terms, amount);
    // Format comes before the signature, so these need not be signed again.
    let edited = |at: usize, bytes: &[u8]| {
        let mut record = signed(good, 1);
        record[at..at + bytes.len()].copy_from_slice(bytes);
        record
    };
    let mut forged = signed(good, 1);
    forged[130] ^= 1;
    let sender = *network.key(0).address().as_bytes();
    for (record, cause) in [
        (forged, Code::BadSignature),
        (signed(Terms { chain: good.chain ^ 1, ..good }, 1), Code::WrongChain),
        (signed(Terms { epoch: 9, ..good }, 1), Code::WrongEpoch),
        (signed(Terms { sequence: 1, ..good }, 5), Code::StaleSequence),
        (signed(Terms { sequence: 9, ..good }, 1), Code::GappedSequence),
        (signed(good, network.genesis.supply()), Code::Overdraft),
        (edited(96, &[0; 8]), Code::ZeroAmount),
        (edited(64, &sender), Code::SelfTransfer),
        (edited(24, &[0xff; 8]), Code::Overflow),
        (edited(0, &[2]), Code::Version),
        (edited(1, &[9]), Code::Kind),
        (edited(3, &[1]), Code::NonCanonical),
        (edited(2, &[2]), Code::NonCanonical),
        (vec![1; 40], Code::Length),
        (vec![1; MAX_SIZE + 1], Code::Oversize),
    ] {
        assert_eq!(fate_of(&network, &record), cause, "{cause}");
    }
    assert_eq!(
        fate_of(&network, &signed(good, 1)),
        Code::Committed,
        "a good one goes through after all that"
    );
}
