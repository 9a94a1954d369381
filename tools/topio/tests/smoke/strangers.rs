//! Garbage on every port, and records that have to be refused.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use dag::{
    client::{Code, MAX_FRAME, Response, encode_submit},
    transaction::{MAX_SIZE, Terms},
};
use perf::client::FrameBuffer;
use topio::devnet::Ports;

use crate::network::Network;

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
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("{address} keeps listening")
            }
            Err(_) => return,
        }
    }
}

fn eventually(what: &str, such: impl Fn() -> bool) {
    let deadline = Instant::now() + CLOSED_WITHIN;
    while !such() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(50));
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
        (vec![1; 20], Code::Length),
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
