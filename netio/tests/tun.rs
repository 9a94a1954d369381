//! A TUN device of several queues in a network namespace of its own: packets come out of the queue that is said. Takes root;
//! skipped loudly without.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use netio::{PacketPool, Tun, TunSteering};

/// Bytes of a vnet header.
const VNET: usize = 10;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
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
    // SAFETY: only numbers. This thread alone moves, and what it starts.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 || !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("SKIPPED: no network namespaces, or no TUN devices (root makes them)");
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
