use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::*;
use crate::packet::PacketPool;

fn socket(address: &str) -> UdpSocket {
    UdpSocket::bind(address.parse().unwrap(), &UdpConfig::default()).unwrap()
}

fn datagram(pool: &PacketPool, bytes: &[u8], segment: usize, peer: SocketAddr) -> Datagram {
    let mut packet = pool.take().unwrap();
    packet.fill(bytes);
    Datagram { packet, segment, peer, local: None, dont_fragment: false }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

/// Receives until `segments` have come.
fn receive(socket: &mut UdpSocket, pool: &PacketPool, segments: usize) -> Vec<Datagram> {
    let mut received = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while received.iter().map(|datagram: &Datagram| datagram.segments().len()).sum::<usize>() < segments {
        assert!(Instant::now() < deadline, "only {received:?} came");
        if socket.recv_burst(pool, &mut received, BURST).unwrap() == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    received
}

fn bytes_of(received: &[Datagram]) -> Vec<u8> {
    received.iter().flat_map(|datagram| datagram.packet.to_vec()).collect()
}

#[test]
fn a_train_arrives_as_one_super_segment() {
    let pool = PacketPool::new(64).unwrap();
    let (mut here, mut there) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let train = pattern(1452 * 44 + 100);
    let mut queue = VecDeque::from([datagram(&pool, &train, 1452, there.local_addr().unwrap())]);
    assert_eq!(here.send_burst(&mut queue).unwrap(), 1);
    let received = receive(&mut there, &pool, 45);
    assert_eq!(received.len(), 1, "loopback keeps a super-segment whole");
    assert_eq!((received[0].segment, &received[0].packet[..]), (1452, &train[..]));
    assert_eq!(received[0].peer, here.local_addr().unwrap());
    assert_eq!(received[0].local, Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!((here.counters().segments_out, here.counters().send_calls), (45, 1));
    assert_eq!((there.counters().segments_in, there.counters().received), (45, 1));
}

#[test]
fn trains_longer_than_the_kernel_takes_are_cut_between_segments() {
    let pool = PacketPool::new(64).unwrap();
    let (mut here, mut there) = (socket("[::1]:0"), socket("[::1]:0"));
    let train = pattern(200 * 300 + 7);
    let mut queue = VecDeque::from([datagram(&pool, &train, 200, there.local_addr().unwrap())]);
    here.send_burst(&mut queue).unwrap();
    assert!(queue.is_empty());
    let received = receive(&mut there, &pool, 301);
    assert_eq!(bytes_of(&received), train);
    assert!(received.iter().all(|datagram| datagram.segment == 200 || datagram.packet.len() <= 200));
}

#[test]
fn neighbours_to_one_destination_leave_together_and_keep_their_borders() {
    let pool = PacketPool::new(200).unwrap();
    let mut here = socket("127.0.0.1:0");
    let mut ends = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let sizes = [300, 300, 300, 120, 120, 500, 0, 7, 7];
    let mut queue = VecDeque::new();
    for end in &ends {
        for size in sizes {
            queue.push_back(Datagram::single(
                {
                    let mut packet = pool.take().unwrap();
                    packet.fill(&pattern(size));
                    packet
                },
                end.local_addr().unwrap(),
                Some(Ipv4Addr::LOCALHOST.into()),
            ));
        }
    }
    assert_eq!(here.send_burst(&mut queue).unwrap(), 2 * sizes.len());
    assert_eq!(here.counters().send_calls, 1);
    for end in &mut ends {
        // An empty datagram counts as no segment of its iterator, and it has none to count here either.
        let received = receive(end, &pool, sizes.len() - 1);
        let lens: Vec<usize> = received
            .iter()
            .flat_map(|datagram| {
                if datagram.packet.is_empty() {
                    vec![0]
                } else {
                    datagram.segments().map(<[u8]>::len).collect()
                }
            })
            .collect();
        assert_eq!(lens, sizes);
    }
}

#[test]
fn a_dual_stack_socket_hides_mapped_addresses() {
    let pool = PacketPool::new(64).unwrap();
    let (mut here, mut there) = (socket("127.0.0.1:0"), socket("[::]:0"));
    let port = there.local_addr().unwrap().port();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    here.send_burst(&mut VecDeque::from([datagram(&pool, b"ping", 4, to)])).unwrap();
    let mut received = receive(&mut there, &pool, 1);
    assert_eq!(received[0].peer, here.local_addr().unwrap());
    assert_eq!(received[0].local, Some(Ipv4Addr::LOCALHOST.into()));
    let mut answer = VecDeque::from(vec![received.pop().unwrap()]);
    there.send_burst(&mut answer).unwrap();
    assert_eq!(bytes_of(&receive(&mut here, &pool, 1)), b"ping");
}

#[test]
fn what_the_kernel_refuses_is_counted_and_the_rest_goes_on() {
    let pool = PacketPool::new(64).unwrap();
    let (mut here, mut there) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let to = there.local_addr().unwrap();
    let mut queue = VecDeque::from([
        datagram(&pool, b"a", 1, to),
        datagram(&pool, b"no port", 7, "127.0.0.1:0".parse().unwrap()),
        datagram(&pool, b"not my family", 13, "[::1]:9".parse().unwrap()),
        datagram(&pool, &[9; PACKET_TOO_LONG], PACKET_TOO_LONG, to),
        datagram(&pool, b"z", 1, to),
    ]);
    assert_eq!(here.send_burst(&mut queue).unwrap(), 5);
    assert_eq!(here.counters().refused, 3);
    assert_eq!(bytes_of(&receive(&mut there, &pool, 2)), b"az");
}

/// One byte more than an IPv4 datagram can carry.
const PACKET_TOO_LONG: usize = MAX_SEND + 1;

#[test]
fn a_full_receive_buffer_is_counted() {
    let pool = PacketPool::new(64).unwrap();
    let config = UdpConfig { socket_buffer: 4096, ..UdpConfig::default() };
    let mut there = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &config).unwrap();
    let mut here = socket("127.0.0.1:0");
    let to = there.local_addr().unwrap();
    for _ in 0..100 {
        here.send_burst(&mut VecDeque::from([datagram(&pool, &[1; 1000], 1000, to)])).unwrap();
    }
    let first = receive(&mut there, &pool, 1);
    here.send_burst(&mut VecDeque::from([datagram(&pool, &[1; 10], 10, to)])).unwrap();
    let mut more = Vec::new();
    while there.recv_burst(&pool, &mut more, BURST).unwrap() > 0 {}
    let came = (first.len() + more.len()) as u64;
    assert_eq!(there.counters().dropped_full + came, 101);
}

#[test]
fn an_empty_pool_leaves_datagrams_waiting() {
    let pool = PacketPool::new(1).unwrap();
    let (mut here, mut there) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    let mut queue = VecDeque::from([datagram(&pool, b"x", 1, there.local_addr().unwrap())]);
    here.send_burst(&mut queue).unwrap();
    let held = pool.take().unwrap();
    let mut received = Vec::new();
    assert_eq!(there.recv_burst(&pool, &mut received, BURST).unwrap(), 0);
    drop(held);
    assert_eq!(receive(&mut there, &pool, 1).len(), 1);
}

#[test]
fn an_icmp_error_is_not_the_sockets() {
    let pool = PacketPool::new(64).unwrap();
    let mut here = socket("127.0.0.1:0");
    let gone = socket("127.0.0.1:0").local_addr().unwrap();
    for _ in 0..3 {
        here.send_burst(&mut VecDeque::from([datagram(&pool, b"anyone?", 7, gone)])).unwrap();
        assert_eq!(here.recv_burst(&pool, &mut Vec::new(), BURST).unwrap(), 0);
    }
}

#[test]
fn sockets_on_one_port_get_what_is_theirs() {
    const SOCKETS: u8 = 3;
    let pool = PacketPool::new(64).unwrap();
    let config = UdpConfig { reuse_port: true, ..UdpConfig::default() };
    let first = UdpSocket::bind("[::]:0".parse().unwrap(), &config).unwrap();
    let address = first.local_addr().unwrap();
    let bind = |_| UdpSocket::bind(address, &config).unwrap();
    let mut sockets: Vec<UdpSocket> = std::iter::once(first).chain((1..SOCKETS).map(bind)).collect();
    sockets[0].steer(&[(2, 11), (4, 7)], SOCKETS).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    for byte in 0..30u8 {
        for (kind, place) in [(2, 11), (4, 7)] {
            let mut message = [0; 32];
            (message[0], message[place]) = (kind, byte);
            // Each from an address of its own, so that no hash is right by chance.
            let mut sender = socket("127.0.0.1:0");
            let mut queue = VecDeque::from([datagram(&pool, &message, 32, to)]);
            assert_eq!(sender.send_burst(&mut queue).unwrap(), 1);
            let received = receive(&mut sockets[usize::from(byte % SOCKETS)], &pool, 1);
            assert_eq!(bytes_of(&received), message);
        }
    }
    // What is too short for its kind's byte comes to the first.
    let mut short = socket("127.0.0.1:0");
    short.send_burst(&mut VecDeque::from([datagram(&pool, &[2, 0, 0], 1_000, to)])).unwrap();
    assert_eq!(bytes_of(&receive(&mut sockets[0], &pool, 1)), [2, 0, 0]);
    // What says nothing stays together if it is of one sender.
    let mut sender = socket("127.0.0.1:0");
    for message in [&[1, 2, 3][..], &[9; 40], &[1; 148]] {
        let mut queue = VecDeque::from([datagram(&pool, message, 1_000, to)]);
        sender.send_burst(&mut queue).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut came = vec![0; sockets.len()];
    while came.iter().sum::<usize>() < 3 {
        assert!(Instant::now() < deadline, "only {came:?} came");
        for (socket, came) in sockets.iter_mut().zip(&mut came) {
            *came += socket.recv_burst(&pool, &mut Vec::new(), BURST).unwrap();
        }
    }
    assert!(came.contains(&3), "{came:?}");
}
