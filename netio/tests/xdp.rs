//! AF_XDP over a veth pair between two network namespaces: frames come, change hands in place, and go. Takes root; skipped loudly
//! without.

use std::collections::VecDeque;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use netio::xdp::{Carried, Channel, Flow, Renewed, Shortcut, Steering, XdpDatagram, XdpSocket};

const RELAY: &str = "10.77.0.1";
const PEER: &str = "10.77.0.2";
const RELAY_V6: &str = "fd77::1";
const PEER_V6: &str = "fd77::2";

/// Two linked namespaces, removed when dropped.
struct Place {
    names: [String; 2],
}

fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}

impl Place {
    /// `None` where namespaces can't be made.
    fn new(queues: u32) -> Option<Place> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let names = ["relay", "peer"].map(|role| format!("xdp-{role}-{}-{number}", std::process::id()));
        let place = Place { names };
        let [relay, peer] = &place.names;
        let made = ip(&format!("netns add {relay}"))
            && ip(&format!("netns add {peer}"))
            && ip(&format!(
                "link add name veth netns {relay} numrxqueues {queues} numtxqueues {queues} type veth peer name veth netns {peer} numrxqueues {queues} numtxqueues {queues}"
            ));
        for (name, v4, v6) in [(relay, RELAY, RELAY_V6), (peer, PEER, PEER_V6)] {
            ip(&format!("-n {name} address add {v4}/24 dev veth"));
            ip(&format!("-n {name} address add {v6}/64 dev veth nodad"));
            ip(&format!("-n {name} link set veth up"));
        }
        if !made {
            eprintln!("SKIPPED: no network namespaces (root and iproute2 make them)");
        }
        made.then_some(place)
    }

    /// Moves this thread into one of them.
    fn enter(&self, index: usize) {
        let file = File::open(format!("/run/netns/{}", self.names[index])).expect("the system does it");
        // SAFETY: only numbers.
        assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    }

    /// A socket of the peer's.
    fn peer(&self, address: &str) -> UdpSocket {
        std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                self.enter(1);
                UdpSocket::bind((address, 0)).expect("the system does it")
            });
            opened.join().expect("the system does it")
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

fn flows(ports: std::ops::RangeInclusive<u16>, core: Option<u16>) -> Vec<Flow> {
    let flow = |address: &str| Flow {
        address: address.parse().expect("the system does it"),
        ports: ports.clone(),
        core,
        opened_only: false,
        channels: false,
    };
    vec![flow(RELAY), flow(RELAY_V6)]
}

/// Receives until `wanted` datagrams came or a second is over.
fn receive(socket: &mut XdpSocket, wanted: usize) -> Vec<XdpDatagram> {
    let (start, mut received) = (Instant::now(), Vec::new());
    while received.len() < wanted && start.elapsed() < Duration::from_secs(1) {
        if socket.recv_burst(&mut received, 64).expect("the system does it") == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    received
}

/// Sends everything back with a letter in front, and what only the kernel can send through `kernel`.
fn answer(socket: &mut XdpSocket, received: Vec<XdpDatagram>, kernel: &UdpSocket) -> usize {
    let mut queue: VecDeque<XdpDatagram> = received.into();
    for datagram in &mut queue {
        datagram.packet.grow_front(1);
        datagram.packet[0] = b'>';
    }
    let mut rest = Vec::new();
    socket.send_burst(&mut queue, &mut rest).expect("the system does it");
    for datagram in &rest {
        kernel.send_to(&datagram.packet, datagram.peer).expect("the system does it");
    }
    rest.len()
}

#[test]
fn steered_datagrams_come_and_go_in_their_frames() {
    let Some(place) = Place::new(1) else { return };
    place.enter(0);
    let steering = Steering::attach("veth", &flows(4000..=4001, None), 1).unwrap();
    let mut socket = XdpSocket::open(&steering, 0).unwrap().unwrap();
    for (relay, address) in [(RELAY, PEER), (RELAY_V6, PEER_V6)] {
        let kernel = UdpSocket::bind((relay, 4000)).unwrap();
        kernel.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let peer = place.peer(address);
        peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let to: SocketAddr =
            format!("{}:4000", if relay.contains(':') { format!("[{relay}]") } else { relay.into() })
                .parse()
                .unwrap();
        let mut left_to_kernel = 0;
        for round in 0..20u8 {
            for number in 0..50u8 {
                peer.send_to(&[round, number], to).unwrap();
            }
            let received = receive(&mut socket, 50);
            assert_eq!(received.len(), 50, "round {round} of {relay}");
            assert!(
                received
                    .iter()
                    .all(|datagram| datagram.local == to && datagram.peer == peer.local_addr().unwrap())
            );
            left_to_kernel += answer(&mut socket, received, &kernel);
            for _ in 0..50 {
                let mut bytes = [0; 16];
                let (len, from) = peer.recv_from(&mut bytes).unwrap();
                assert_eq!((len, from, bytes[0], bytes[1]), (3, to, b'>', round));
            }
        }
        assert!(left_to_kernel < 500, "{left_to_kernel} of 1000 by the kernel: neighbours are not found");
        // Nothing of it came by the kernel, and everything else does.
        assert!(kernel.recv_from(&mut [0; 16]).is_err());
        let other = UdpSocket::bind((relay, 4002)).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        peer.send_to(b"for the kernel", (relay, 4002)).unwrap();
        assert_eq!(other.recv_from(&mut [0; 16]).unwrap().0, 14);
        // A datagram in fragments is put together by the kernel.
        kernel.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        peer.send_to(&[7; 4000], to).unwrap();
        assert_eq!(kernel.recv_from(&mut [0; 8000]).unwrap().0, 4000);
    }
    let counters = socket.counters();
    assert_eq!((counters.malformed, counters.dropped_full, counters.send_full), (0, 0, 0), "{counters:?}");
    // The program goes with its last handle.
    drop(socket);
    drop(steering);
    let shown = Command::new("ip").args(["-n", &place.names[0], "link", "show", "veth"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("prog/xdp"));
}

#[test]
fn another_cores_port_is_left_to_the_kernel() {
    let Some(place) = Place::new(2) else { return };
    place.enter(0);
    let steering = Steering::attach("veth", &flows(4000..=4000, Some(1)), 2).unwrap();
    let mut sockets: Vec<XdpSocket> =
        (0..2).map(|core| XdpSocket::open(&steering, core).unwrap().unwrap()).collect();
    let kernel = UdpSocket::bind((RELAY, 4000)).unwrap();
    kernel.set_nonblocking(true).unwrap();
    let peers: Vec<UdpSocket> = (0..32).map(|_| place.peer(PEER)).collect();
    for peer in &peers {
        peer.send_to(b"x", (RELAY, 4000)).unwrap();
    }
    let steered = receive(&mut sockets[1], 32).len();
    assert_eq!(receive(&mut sockets[0], 1).len(), 0);
    let mut passed = 0;
    while kernel.recv(&mut [0; 4]).is_ok() {
        passed += 1;
    }
    assert_eq!(steered + passed, 32);
}

#[test]
fn closed_ports_are_the_kernel_s() {
    let Some(place) = Place::new(1) else { return };
    place.enter(0);
    let mut flows = flows(4000..=4001, None);
    flows.iter_mut().for_each(|flow| flow.opened_only = true);
    let steering = Steering::attach("veth", &flows, 1).unwrap();
    let mut socket = XdpSocket::open(&steering, 0).unwrap().unwrap();
    for (relay, other, address) in [(RELAY, RELAY_V6, PEER), (RELAY_V6, RELAY, PEER_V6)] {
        let kernel = UdpSocket::bind((relay, 4000)).unwrap();
        let peer = place.peer(address);
        let to = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        let arrives = |socket: &mut XdpSocket, steered: bool| {
            peer.send_to(b"x", to(relay, 4000)).unwrap();
            assert_eq!(receive(socket, usize::from(steered)).len(), usize::from(steered), "{relay}");
            kernel.set_read_timeout(Some(Duration::from_millis(if steered { 50 } else { 2000 }))).unwrap();
            assert_eq!(kernel.recv_from(&mut [0; 4]).is_ok(), !steered, "{relay}");
        };
        arrives(&mut socket, false);
        socket.set_open(to(relay, 4001), true).unwrap();
        socket.set_open(to(other, 4000), true).unwrap();
        arrives(&mut socket, false);
        socket.set_open(to(relay, 4000), true).unwrap();
        arrives(&mut socket, true);
        socket.set_open(to(relay, 4000), false).unwrap();
        socket.set_open(to(other, 4000), false).unwrap();
        arrives(&mut socket, false);
    }
}

#[test]
fn frames_for_another_mac_are_the_kernel_s() {
    let Some(place) = Place::new(1) else { return };
    place.enter(0);
    let steering = Steering::attach("veth", &flows(4000..=4000, None), 1).unwrap();
    let mut socket = XdpSocket::open(&steering, 0).unwrap().unwrap();
    let kernel = UdpSocket::bind((RELAY, 4000)).unwrap();
    kernel.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let peer = place.peer(PEER);
    let names = &place.names;
    let shown = Command::new("ip").args(["-n", &names[0], "link", "show", "veth"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let mac = shown.split("link/ether ").nth(1).and_then(|rest| rest.get(..17)).unwrap();
    // One that differs at the beginning, and one at the end.
    let end = if mac.ends_with('0') { '1' } else { '0' };
    for mac in [format!("06:11{}", &mac[5..]), format!("{}{end}", &mac[..16])] {
        // The program keeps the address that the interface had; the kernel takes the new one.
        assert!(ip(&format!("-n {} link set veth address {mac}", names[0])));
        assert!(ip(&format!("-n {} neigh replace {RELAY} lladdr {mac} dev veth", names[1])));
        peer.send_to(b"x", (RELAY, 4000)).unwrap();
        assert_eq!(kernel.recv_from(&mut [0; 4]).unwrap().0, 1);
    }
    assert_eq!(socket.recv_burst(&mut Vec::new(), 64).unwrap(), 0);
    assert_eq!(socket.counters().malformed, 0);
}

#[test]
fn an_interface_that_is_down_leaves_nothing_pending() {
    let Some(place) = Place::new(1) else { return };
    place.enter(0);
    let steering = Steering::attach("veth", &flows(4000..=4000, None), 1).unwrap();
    let mut socket = XdpSocket::open(&steering, 0).unwrap().unwrap();
    let kernel = UdpSocket::bind((RELAY, 4000)).unwrap();
    let peer = place.peer(PEER);
    peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // Until the neighbour is known, and the way past the kernel with it.
    let exchange = |socket: &mut XdpSocket| {
        peer.send_to(b"x", (RELAY, 4000)).unwrap();
        let received = receive(socket, 1);
        let left = answer(socket, received, &kernel);
        peer.recv_from(&mut [0; 4]).unwrap();
        left
    };
    assert!((0..50).any(|_| exchange(&mut socket) == 0), "never past the kernel");
    for _ in 0..3 {
        peer.send_to(b"x", (RELAY, 4000)).unwrap();
    }
    let mut received = receive(&mut socket, 3);
    let full = socket.counters().send_full;
    let link = |state: &str| assert!(ip(&format!("-n {} link set veth {state}", place.names[0])));
    link("down");
    let mut rest = Vec::new();
    let mut send = |socket: &mut XdpSocket, datagram| {
        socket.send_burst(&mut VecDeque::from([datagram]), &mut rest).unwrap();
        assert!(!socket.is_pending());
        rest.drain(..).count()
    };
    // The first finds out; from then on the kernel is asked.
    assert_eq!(send(&mut socket, received.pop().unwrap()), 0);
    assert_eq!(socket.counters().send_full, full + 1);
    assert_eq!(send(&mut socket, received.pop().unwrap()), 1);
    assert_eq!(socket.counters().send_full, full + 1);
    link("up");
    assert_eq!(send(&mut socket, received.pop().unwrap()), 1);
    // The one that was left leaves now.
    assert_eq!(peer.recv_from(&mut [0; 4]).unwrap().0, 1);
    assert!((0..50).any(|_| exchange(&mut socket) == 0), "never past the kernel again");
}

/// What the kernel sends to find a neighbour.
const QUESTION: &[u8] = b"who are you?";

/// Sends a datagram until it leaves past the kernel: once the kernel knows the neighbour.
fn send_past(socket: &mut XdpSocket, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
    let kernel = UdpSocket::bind(from).expect("the system does it");
    for _ in 0..50 {
        let mut packet = socket.take().expect("the system does it");
        packet.fill(bytes);
        let mut queue = VecDeque::from([XdpDatagram { packet, peer: to, local: from }]);
        let mut rest = Vec::new();
        socket.send_burst(&mut queue, &mut rest).expect("the system does it");
        if rest.is_empty() {
            return;
        }
        kernel.send_to(QUESTION, to).expect("the system does it");
        std::thread::sleep(Duration::from_millis(120));
    }
    panic!("never past the kernel");
}

#[test]
fn shortcuts_are_taken_in_the_driver() {
    let Some(place) = Place::new(1) else { return };
    let served = |addresses: [&str; 2], ports: std::ops::RangeInclusive<u16>, channels| {
        addresses.map(|address| Flow {
            address: address.parse().unwrap(),
            ports: ports.clone(),
            core: None,
            opened_only: false,
            channels,
        })
    };
    let relays = [RELAY, RELAY_V6];
    let flows = [served(relays, 3478..=3478, true), served(relays, 40_000..=40_000, false)].concat();
    place.enter(0);
    let steering = Steering::attach("veth", &flows, 1).unwrap();
    let mut socket = XdpSocket::open(&steering, 0).unwrap().unwrap();
    assert!(!socket.can_shorten(), "the other end takes no frames yet");
    place.enter(1);
    let far_end = Steering::attach("veth", &served([PEER, PEER_V6], 5000..=6000, false), 1).unwrap();
    let mut peers = XdpSocket::open(&far_end, 0).unwrap().unwrap();
    place.enter(0);
    std::thread::sleep(Duration::from_millis(1100)); // it asks once a second
    assert!(socket.can_shorten());

    for (relay, peer) in [(RELAY, PEER), (RELAY_V6, PEER_V6)] {
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        let (listener, relayed) = (at(relay, 3478), at(relay, 40_000));
        let (client, to) = (at(peer, 5000), at(peer, 6000));
        let channel = Channel::Off(0x4001);
        let there = Shortcut { from: client, at: listener, out: relayed, to, channel };
        let channel = Channel::On(0x4001);
        let back = Shortcut { from: to, at: relayed, out: listener, to: client, channel };
        let minute = Duration::from_secs(60);
        assert_eq!(socket.shorten(&there, minute), None, "a next hop that is not known");
        send_past(&mut socket, relayed, to, b"hello");
        let heard =
            (0..10).any(|_| receive(&mut peers, 1).iter().any(|datagram| &*datagram.packet == b"hello"));
        assert!(heard);
        let ids = [there, back].map(|shortcut| {
            let (id, length) = socket.shorten(&shortcut, minute).expect("the next hop is known");
            assert!(length <= Duration::from_secs(2), "{length:?}");
            id
        });

        place.enter(1);
        for (from, to, bytes, expected) in [
            (client, listener, &b"\x40\x01\0\x04ping"[..], (relayed, to, &b"ping"[..])),
            (to, relayed, b"pong", (listener, client, b"\x40\x01\0\x04pong")),
        ] {
            send_past(&mut peers, from, to, bytes);
            let received = receive(&mut peers, 1);
            let got: Vec<_> =
                received.iter().map(|datagram| (datagram.peer, datagram.local, &*datagram.packet)).collect();
            assert_eq!(got, [expected]);
        }
        place.enter(0);
        let mut here = Vec::new();
        socket.recv_burst(&mut here, 64).unwrap();
        assert!(here.iter().all(|datagram| &*datagram.packet == QUESTION), "what took the shortcut was here");
        for id in &ids {
            assert_eq!(socket.take_carried(id), Carried { packets: 1, bytes: 4 });
        }
        let (there, back) = ids.into();
        assert!(matches!(socket.renew_shortcut(&there, minute), Renewed::For(_)));
        // Nobody has asked for the next hop for longer than it is sure.
        std::thread::sleep(Duration::from_millis(2100));
        assert_eq!(socket.renew_shortcut(&there, minute), Renewed::NotNow);
        place.enter(1);
        send_past(&mut peers, client, listener, b"\x40\x01\0\x04ping");
        place.enter(0);
        let came = (0..10).any(|_| receive(&mut socket, 1).iter().any(|datagram| datagram.peer == client));
        assert!(came, "the lease is over");
        assert_eq!(socket.close_shortcut(there), Carried::default());
        assert_eq!(socket.close_shortcut(back), Carried::default());
    }
    assert_eq!(socket.counters().carried, 4);
}

#[test]
fn what_can_not_be_is_said() {
    let error = Steering::attach("no-such-device", &[], 1).unwrap_err().to_string();
    assert!(error.contains("no AF_XDP on no-such-device: finding the interface"), "{error}");
    let error = Steering::attach("lo", &[], 1).unwrap_err().to_string();
    assert!(error.contains("Ethernet"), "{error}");
}
