//! The XDP program on single frames, run by the kernel (`BPF_PROG_TEST_RUN`). Takes root; skipped loudly without.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::frame::{Mac, headers_len, parse, write};
use super::program::{self, Flow, Maps, Own, PORTS};
use super::route::Way;
use super::shortcut::{Carried, Channel, Shortcut, ShortcutId, Shortcuts, Table, monotonic_ns};
use crate::bpf;
use crate::checksum::Sum;

const OWN: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT: Mac = [2, 0, 0, 0, 0, 2];
const NEXT: Way = Way { to: [2, 0, 0, 0, 0, 3], mtu: None };
const MTU: usize = 1500;
const MINUTE: u64 = 60_000_000_000;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const NUMBER: u16 = 0x4abc;

/// The program with its maps, on no interface. Frames that it steers to sockets pass here, as there are none.
struct Bench {
    program: OwnedFd,
    shortcuts: Shortcuts,
    table: Arc<Table>,
    maps: [OwnedFd; 2],
}

fn address(v6: bool, last: u8, port: u16) -> SocketAddr {
    let ip = if v6 { format!("2001:db8::{last}") } else { format!("192.0.2.{last}") };
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A client's datagrams to port 3478, and a peer's to port 40,000, of host 1.
fn shortcut(v6: bool, channel: Channel) -> Shortcut {
    let (client, peer) = (address(v6, 2, 5000), address(v6, 3, 6000));
    let (listener, relay) = (address(v6, 1, 3478), address(v6, 1, 40_000));
    match channel {
        Channel::Off(_) => Shortcut { from: client, at: listener, out: relay, to: peer, channel },
        Channel::On(_) => Shortcut { from: peer, at: relay, out: listener, to: client, channel },
    }
}

impl Bench {
    fn new() -> Option<Bench> {
        Bench::of_families(&[false, true])
    }

    fn of_families(families: &[bool]) -> Option<Bench> {
        let table = match Table::new(1) {
            Ok(table) => Arc::new(table),
            Err(error) => {
                eprintln!("SKIPPED: no BPF here: {error}");
                return None;
            }
        };
        let maps = [bpf::socket_map(1).unwrap(), bpf::array(PORTS).unwrap()];
        let flow = |v6, ports, channels: bool| Flow {
            address: address(v6, 1, 0).ip(),
            ports,
            core: None,
            opened_only: !channels,
            channels,
        };
        let both = |v6| [flow(v6, 3478..=3478, true), flow(v6, 40_000..=50_000, false)];
        let flows: Vec<Flow> = families.iter().flat_map(|v6| both(*v6)).collect();
        let names = Maps { sockets: maps[0].as_fd(), open: maps[1].as_fd(), shortcuts: Some(table.maps()) };
        let program = bpf::load(
            bpf::Kind::Xdp,
            &program::assemble(&flows, 1, Own { index: 1, mac: OWN, is_veth: false }, names),
        )
        .unwrap();
        Some(Bench { program, shortcuts: Shortcuts::new(table.clone(), 0).unwrap(), table, maps })
    }

    fn open(&mut self, shortcut: &Shortcut) -> ShortcutId {
        let id = self.shortcuts.open(shortcut, OWN, (NEXT, MTU), Instant::now()).unwrap();
        self.shortcuts.lease(&id, monotonic_ns() + MINUTE);
        id
    }

    /// What comes out, if the program passes it on itself. What it does not must be as it came.
    fn run(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = frame.to_vec();
        match bpf::run_once(self.program.as_fd(), &mut out).unwrap() {
            XDP_TX => Some(out),
            XDP_PASS => {
                assert_eq!(out, frame, "changed and left to others");
                None
            }
            verdict => panic!("verdict {verdict}"),
        }
    }
}

/// A datagram on its way to the program.
fn comes(shortcut: &Shortcut, payload: &[u8]) -> Vec<u8> {
    let header = match shortcut.channel {
        Channel::Off(number) => [number.to_be_bytes(), len(payload)].concat(),
        Channel::On(_) => Vec::new(),
    };
    framed((CLIENT, OWN), shortcut.from, shortcut.at, &[&header, payload].concat())
}

/// The same as it is to leave.
fn goes(shortcut: &Shortcut, payload: &[u8]) -> Vec<u8> {
    let header = match shortcut.channel {
        Channel::Off(_) => Vec::new(),
        Channel::On(number) => [number.to_be_bytes(), len(payload)].concat(),
    };
    framed((OWN, NEXT.to), shortcut.out, shortcut.to, &[&header, payload].concat())
}

fn len(payload: &[u8]) -> [u8; 2] {
    u16::try_from(payload.len()).unwrap().to_be_bytes()
}

fn framed(macs: (Mac, Mac), from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&vec![0; headers_len(&to.ip())][..], payload].concat();
    write(&mut frame, macs, from, to);
    frame
}

/// Whether a checksum is what a sender on this host leaves to its card: by chance, that of one in 65,536 frames is.
fn is_unfinished(frame: &[u8]) -> bool {
    let (addresses, checksum) = if frame[14] >> 4 == 6 { (22..54, 60) } else { (26..34, 40) };
    let len = u16::from_be_bytes([frame[checksum - 2], frame[checksum - 1]]).into();
    let pseudo = Sum::default().with_pseudo_header(&frame[addresses], 17, len);
    frame[checksum..checksum + 2] == pseudo.folded()
}

fn shortcuts() -> [Shortcut; 4] {
    let one = |v6, channel| shortcut(v6, channel);
    [
        one(false, Channel::Off(NUMBER)),
        one(true, Channel::Off(NUMBER)),
        one(false, Channel::On(NUMBER)),
        one(true, Channel::On(NUMBER)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// It does to each frame what the slower way does, and counts it.
    #[test]
    fn the_program_writes_what_we_would_write(
        payload in prop::collection::vec(any::<u8>(), 0..1400),
    ) {
        let Some(mut bench) = Bench::new() else { return Ok(()) };
        for shortcut in shortcuts() {
            let id = bench.open(&shortcut);
            let frame = comes(&shortcut, &payload);
            let out = bench.run(&frame);
            if is_unfinished(&frame) {
                prop_assert_eq!(out, None);
                continue;
            }
            prop_assert_eq!(out, Some(goes(&shortcut, &payload)), "{:?}", shortcut);
            let one = Carried { packets: 1, bytes: payload.len() as u64 };
            prop_assert_eq!(bench.shortcuts.take_carried(&id), one);
        }
    }

    /// One byte that is wrong is never made right: the frame stays where it is, or the receiver sees it.
    #[test]
    fn damage_stays_damage(payload in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let Some(mut bench) = Bench::new() else { return Ok(()) };
        for shortcut in shortcuts() {
            bench.open(&shortcut);
            let mut frame = comes(&shortcut, &payload);
            let at = at.index(frame.len());
            frame[at] ^= flip;
            let Some(out) = bench.run(&frame) else { continue };
            // Nothing protects MAC addresses, nor IPv6's traffic class, flow label and hop limit: those are written anew.
            let v6 = shortcut.from.is_ipv6();
            let unprotected = (6..12).contains(&at) || (v6 && ((14..18).contains(&at) || at == 21));
            // A checksum of zero is none.
            let none = !v6 && frame[40..42] == [0, 0];
            prop_assert!(unprotected || none || is_unfinished(&out) || parse(&out).is_err(), "byte {} of {:?}", at, shortcut);
            prop_assert_eq!(out.len(), goes(&shortcut, &payload).len());
        }
    }
}

#[test]
fn a_checksum_of_zero_is_sent_as_ones() {
    let Some(mut bench) = Bench::new() else { return };
    for shortcut in shortcuts() {
        bench.open(&shortcut);
        let at = if shortcut.from.is_ipv6() { 60 } else { 40 };
        let payload = (0..=u16::MAX)
            .map(|number| [&b"some"[..], &number.to_be_bytes()].concat())
            .find(|payload| goes(&shortcut, payload)[at..at + 2] == [0xff; 2])
            .expect("one of all sums");
        let frame = comes(&shortcut, &payload);
        assert_eq!(bench.run(&frame), Some(goes(&shortcut, &payload)), "{shortcut:?}");
    }
}

#[test]
fn a_key_that_is_not_its_slot_s_leads_nowhere() {
    let Some(mut bench) = Bench::new() else { return };
    let old = shortcut(false, Channel::Off(NUMBER));
    let other = shortcut(false, Channel::Off(NUMBER + 1));
    let id = bench.open(&old);
    bench.shortcuts.move_key(&id, &other);
    assert_eq!(bench.run(&comes(&other, b"payload")), None);
    assert!(bench.run(&comes(&old, b"payload")).is_some());
    // Nothing stays open behind them.
    drop(bench.shortcuts);
    bench.shortcuts = Shortcuts::new(bench.table.clone(), 0).unwrap();
    assert_eq!(bench.run(&comes(&old, b"payload")), None);
}

#[test]
fn without_shortcuts_the_program_is_as_good() {
    let Some(bench) = Bench::new() else { return };
    let maps = Maps { sockets: bench.maps[0].as_fd(), open: bench.maps[1].as_fd(), shortcuts: None };
    let own = Own { index: 1, mac: OWN, is_veth: true };
    let flow = |opened_only| Flow {
        address: address(false, 1, 0).ip(),
        ports: 3478..=3478,
        core: Some(0),
        opened_only,
        channels: !opened_only,
    };
    for cores in [1, 3] {
        let code = program::assemble(&[flow(false), flow(true)], cores, own, maps);
        bpf::load(bpf::Kind::Xdp, &code).unwrap();
    }
}

#[test]
fn one_family_is_enough() {
    for families in [&[false], &[true]] {
        let Some(mut bench) = Bench::of_families(families) else { return };
        for shortcut in shortcuts() {
            bench.open(&shortcut);
            let is_served = families.contains(&shortcut.from.is_ipv6());
            assert_eq!(bench.run(&comes(&shortcut, b"payload")).is_some(), is_served, "{families:?}");
        }
    }
}

#[test]
fn what_is_not_plain_takes_the_slower_way() {
    let Some(mut bench) = Bench::new() else { return };
    for shortcut in shortcuts() {
        let frame = comes(&shortcut, b"payload!");
        assert_eq!(bench.run(&frame), None, "no shortcut yet");
        let id = bench.open(&shortcut);
        assert!(bench.run(&frame).is_some());

        let passes = |name: &str, frame: &[u8]| assert_eq!(bench.run(frame), None, "{name}: {shortcut:?}");
        for other in 0..3 {
            let (mut from, mut at) = (shortcut.from, shortcut.at);
            match other {
                0 => from = address(from.is_ipv6(), 9, from.port()),
                1 => from.set_port(9),
                _ => at.set_port(at.port() + 1),
            }
            passes("another flow", &comes(&Shortcut { from, at, ..shortcut }, b"payload!"));
        }
        passes("bytes behind it", &[&frame[..], &[0]].concat());
        passes("cut off", &frame[..frame.len() - 1]);
        let longest =
            MTU - (frame.len() - 8 - 14) - if matches!(shortcut.channel, Channel::On(_)) { 4 } else { 0 };
        let longest = longest + if matches!(shortcut.channel, Channel::Off(_)) { 4 } else { 0 };
        assert!(bench.run(&comes(&shortcut, &vec![1; longest])).is_some(), "{longest}");
        passes("too long for the path", &comes(&shortcut, &vec![1; longest + 1]));
        let mut unfinished = frame.clone();
        let v6 = shortcut.from.is_ipv6();
        let (addresses, checksum) = if v6 { (22..54, 60) } else { (26..34, 40) };
        let udp = frame.len() - (checksum - 6);
        let pseudo = Sum::default().with_pseudo_header(&frame[addresses], 17, udp);
        unfinished[checksum..checksum + 2].copy_from_slice(&pseudo.folded());
        passes("an unfinished checksum", &unfinished);
        let mut none = frame.clone();
        none[checksum..checksum + 2].fill(0);
        let out = bench.run(&none);
        if v6 {
            assert_eq!(out, None, "no checksum over IPv6");
        } else {
            assert_eq!(out.unwrap()[40..42], [0, 0], "none stays none");
        }
        if let Channel::Off(number) = shortcut.channel {
            let wrapped = |number: u16, says: u16, bytes: &[u8]| {
                let payload = [&number.to_be_bytes(), &says.to_be_bytes(), bytes].concat();
                framed((CLIENT, OWN), shortcut.from, shortcut.at, &payload)
            };
            assert!(bench.run(&wrapped(number, 4, b"1234")).is_some());
            passes("another channel", &wrapped(number + 1, 4, b"1234"));
            passes("padding", &wrapped(number, 3, b"1234"));
            passes("more than there is", &wrapped(number, 5, b"1234"));
            passes("a message", &wrapped(1, 4, b"1234"));
            passes(
                "half a header",
                &framed((CLIENT, OWN), shortcut.from, shortcut.at, &number.to_be_bytes()),
            );
        }
        passes("another MAC", &framed((CLIENT, CLIENT), shortcut.from, shortcut.at, &frame[checksum + 2..]));

        bench.shortcuts.lease(&id, monotonic_ns());
        assert_eq!(bench.run(&frame), None, "the lease is over");
        bench.shortcuts.lease(&id, monotonic_ns() + MINUTE);
        assert!(bench.run(&frame).is_some());
        bench.shortcuts.suspend(&id);
        assert_eq!(bench.run(&frame), None, "suspended");
        bench.shortcuts.lease(&id, monotonic_ns() + MINUTE);
        bench.shortcuts.close(id, Instant::now());
        assert_eq!(bench.run(&frame), None, "closed");
    }
}

#[test]
fn four_ends_of_two_families_are_no_shortcut() {
    let Some(mut bench) = Bench::new() else { return };
    let one = shortcut(false, Channel::On(NUMBER));
    let mixed = Shortcut { to: address(true, 2, 1), ..one };
    assert_eq!(bench.shortcuts.open(&mixed, OWN, (NEXT, MTU), Instant::now()), None);
    assert!(bench.shortcuts.open(&one, OWN, (NEXT, MTU), Instant::now()).is_some());
}

#[test]
fn who_renews_takes_its_flow_back() {
    let Some(mut bench) = Bench::new() else { return };
    let shortcut = shortcut(false, Channel::Off(NUMBER));
    let frame = comes(&shortcut, b"payload");
    let (old, new) = (bench.open(&shortcut), bench.open(&shortcut));
    assert!(bench.run(&frame).is_some());
    assert_eq!(bench.shortcuts.take_carried(&new).packets, 1, "the last one that was opened has it");
    bench.shortcuts.close(old, Instant::now());
    assert_eq!(bench.run(&frame), None, "its key is gone");
    bench.shortcuts.reclaim(&new).unwrap();
    assert!(bench.run(&frame).is_some());
}

#[test]
fn slots_are_used_again_after_a_rest() {
    let Some(mut bench) = Bench::new() else { return };
    let at = |port: u16| {
        let shortcut = shortcut(false, Channel::On(NUMBER));
        Shortcut { from: SocketAddr::new(shortcut.from.ip(), port), ..shortcut }
    };
    let now = Instant::now();
    let open = |bench: &mut Bench, port, later| {
        bench.shortcuts.open(&at(port), OWN, (NEXT, MTU), now + Duration::from_millis(later))
    };
    let mut ids: Vec<ShortcutId> = (1..).map_while(|port| open(&mut bench, port, 0)).collect();
    assert_eq!(ids.len(), 4096);
    bench.shortcuts.close(ids.pop().unwrap(), now);
    assert_eq!(open(&mut bench, 5000, 900), None);
    let again = open(&mut bench, 5000, 1000).unwrap();
    assert_eq!(bench.shortcuts.take_carried(&again), Carried::default());
    assert!(
        bench.shortcuts.open(&Shortcut { to: address(true, 2, 1), ..at(1) }, OWN, (NEXT, MTU), now).is_none()
    );
}
