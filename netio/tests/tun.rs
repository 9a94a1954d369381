//! A TUN device in a network namespace of its own: packets come out of the queue that is said, whole or in fragments as is said. Takes
//! root; skipped loudly without.

use std::collections::VecDeque;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use netio::udp::{self, Datagram, UdpConfig};
use netio::{PacketPool, Tun, TunSteering};

/// Bytes of a vnet header.
const VNET: usize = 10;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Moves this thread, and what it starts, into a network namespace of its own.
fn in_a_namespace() -> bool {
    // SAFETY: only numbers.
    let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
    let can = moved && std::path::Path::new("/dev/net/tun").exists();
    if !can {
        eprintln!("SKIPPED: no network namespaces, or no TUN devices (root makes them)");
    }
    can
}

/// The queue that a datagram to `to` comes out of.
fn queue_of(queues: &mut [Tun], pool: &PacketPool, to: &str) -> usize {
    let to: IpAddr = to.parse().expect("the system does it");
    let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(from)
        .expect("the system does it")
        .send_to(b"hello", (to, 9))
        .expect("the system does it");
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut packet = pool.take().expect("the system does it");
    while Instant::now() < deadline {
        for (number, queue) in queues.iter_mut().enumerate() {
            while queue.read(&mut packet).expect("the system does it") {
                let destination: Option<IpAddr> = match packet[VNET] >> 4 {
                    4 => packet[VNET + 16..].first_chunk::<4>().map(|octets| (*octets).into()),
                    _ => packet[VNET + 24..].first_chunk::<16>().map(|octets| (*octets).into()),
                };
                // The kernel says things of its own, such as router solicitations.
                if destination == Some(to) {
                    return number;
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("no packet to {to} came");
}

#[test]
fn packets_come_out_of_the_queue_of_their_destination() {
    if !in_a_namespace() {
        return;
    }
    let pool = PacketPool::new(4).unwrap();
    let mut queues = Tun::open_queues("many%d", 3).unwrap();
    assert!(queues.iter().all(|queue| queue.name() == "many0"));
    let steering = TunSteering::attach(&queues[0]).unwrap();
    for network in ["10.1.0.1/8", "fd01::1/16"] {
        ip(&format!("address add {network} dev many0"));
    }
    ip("link set many0 up");
    let set = |address: &str, length, queue| steering.set(address.parse().unwrap(), length, queue).unwrap();
    let remove = |address: &str, length| steering.remove(address.parse().unwrap(), length).unwrap();
    set("10.2.0.0", 16, 1);
    set("10.2.3.4", 32, 2);
    set("fd01:2::", 32, 2);
    set("fd01:2::77", 128, 1);
    for (to, queue) in [
        ("10.2.0.1", 1),
        ("10.2.3.4", 2),
        ("10.2.3.5", 1),
        ("10.3.0.1", 0),
        ("fd01:2::1", 2),
        ("fd01:2::77", 1),
        ("fd01:3::1", 0),
    ] {
        assert_eq!(queue_of(&mut queues, &pool, to), queue, "{to}");
    }
    remove("10.2.3.4", 32);
    remove("10.2.3.4", 32);
    set("fd01:2::77", 128, 0);
    assert_eq!(queue_of(&mut queues, &pool, "10.2.3.4"), 1);
    assert_eq!(queue_of(&mut queues, &pool, "fd01:2::77"), 0);
}

/// Sizes of the IP packets with UDP that the device has, and whether each is a fragment.
fn packets(device: &mut Tun, pool: &PacketPool) -> Vec<(usize, bool)> {
    const UDP: u8 = 17;
    const FRAGMENT: u8 = 44;
    let (mut packet, mut seen) = (pool.take().expect("there are some"), Vec::new());
    while device.read(&mut packet).expect("the device is there") {
        let ip = &packet[VNET..];
        match (ip[0] >> 4, ip[6] & 0x3f | ip[7], if ip[0] >> 4 == 4 { ip[9] } else { ip[6] }) {
            (4, fragment, UDP) => seen.push((ip.len(), fragment != 0)),
            (6, _, UDP | FRAGMENT) => seen.push((ip.len(), ip[6] == FRAGMENT)),
            _ => {}
        }
    }
    seen
}

#[test]
fn what_must_not_be_fragmented_is_sent_whole_or_refused() {
    if !in_a_namespace() {
        return;
    }
    let pool = PacketPool::new(8).unwrap();
    let mut device = Tun::open("narrow").unwrap();
    for arguments in [
        "address add 10.1.0.1/8 dev narrow",
        "address add fd01::1/16 dev narrow nodad",
        "link set narrow mtu 1280 up",
    ] {
        ip(arguments);
    }
    // The datagrams' headers: those of IP, and UDP's.
    for (from, to, headers) in [
        ("0.0.0.0:0", "10.2.0.1:9", 28),
        ("[::]:0", "10.2.0.1:9", 28),
        ("[::]:0", "[fd01:2::1]:9", 48),
        ("[fd01::1]:0", "[fd01:2::1]:9", 48),
    ] {
        let mut socket = udp::UdpSocket::bind(from.parse().unwrap(), &UdpConfig::default()).unwrap();
        let datagram = |len: usize, dont_fragment| {
            let mut packet = pool.take().unwrap();
            packet.fill(&vec![1; len]);
            Datagram { dont_fragment, ..Datagram::single(packet, to.parse().unwrap(), None) }
        };
        let wishes = [(100, true), (1400, false), (1400, true), (101, true), (1401, false), (102, false)];
        let mut queue: VecDeque<Datagram> =
            wishes.iter().map(|&(len, dont_fragment)| datagram(len, dont_fragment)).collect();
        while !queue.is_empty() {
            socket.send_burst(&mut queue).unwrap();
        }
        let seen = packets(&mut device, &pool);
        let whole: Vec<usize> = seen.iter().filter(|(_, part)| !part).map(|(len, _)| len - headers).collect();
        assert_eq!(whole, [100, 101, 102], "{from} to {to}: {seen:?}");
        assert_eq!(seen.len() - whole.len(), 4, "two in two parts each, {from} to {to}: {seen:?}");
        assert_eq!(socket.counters().refused, 1, "one that may not be in parts");
    }
}
