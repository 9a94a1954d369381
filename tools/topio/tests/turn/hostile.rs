//! Garbage at the ports: counted, and nothing else.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::server::Server;

/// A generator of bytes that look like nothing, or almost like something.
fn garbage(seed: &mut u64, out: &mut Vec<u8>) {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    };
    out.clear();
    let len = next() % 1400;
    out.extend((0..len).map(|_| next().to_le_bytes()[0]));
    if let (1, Some(head)) = (next() % 2, out.first_chunk_mut::<8>()) {
        // A STUN header with a length that fits.
        let [.., high, low] = len.saturating_sub(20).to_be_bytes();
        head[..4].copy_from_slice(&[0, 1 + next().to_le_bytes()[0] % 9, high, low]);
        head[4..].copy_from_slice(&0x2112_a442u32.to_be_bytes());
    }
}

#[test]
fn garbage_is_counted_and_does_no_harm() {
    let mut server = Server::start(false, 1);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (mut seed, mut bytes) = (7, Vec::new());
    for round in 0..20_000 {
        garbage(&mut seed, &mut bytes);
        socket.send_to(&bytes, server.address).unwrap();
        if round % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    for _ in 0..50 {
        garbage(&mut seed, &mut bytes);
        bytes.insert(0, 0xff);
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(&bytes);
        // It is hung up on.
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)));
    }
    assert!(server.metric("relay_turn_drops_total", "") > 10_000);
    assert_eq!(server.metric("relay_turn_allocations", ""), 0);
    assert!(server.is_alive());
}
