//! Which channels take a shortcut past us, in the driver: see [`netio::xdp::Shortcut`].
//!
//! What a channel's datagrams that did come here show to be possible is opened, or renewed, for as long as the server lets them pass.
//! Each way of a channel has its own.

use std::{net::SocketAddr, time::Duration};

use netio::xdp::{Carried, Channel, Renewed, Shortcut, ShortcutId, XdpSocket};
use relay_dp::turn::{ChannelPath, Direction, RelayId};

/// Longest lease. A process that is stopped, or stuck, relays for so long what it would have relayed then.
const LEASE: Duration = Duration::from_secs(2);
/// How often what was carried is counted, ns.
const COUNT: u64 = 250_000_000;
/// A shortcut that nothing took for so long is closed, ns.
const IDLE: u64 = 10_000_000_000;
/// Channels of a relayed address that take shortcuts; a call has one or two. So nobody has all of them.
const CHANNELS: usize = 8;

/// What carries datagrams past us.
pub trait Driver {
    /// Names an open shortcut.
    type Id;
    /// [`XdpSocket::shorten`].
    fn shorten(&mut self, shortcut: &Shortcut, most: Duration) -> Option<(Self::Id, Duration)>;
    /// [`XdpSocket::renew_shortcut`].
    fn renew(&mut self, id: &Self::Id, most: Duration) -> Renewed;
    /// [`XdpSocket::suspend_shortcut`].
    fn suspend(&mut self, id: &Self::Id);
    /// [`XdpSocket::take_carried`].
    fn take_carried(&mut self, id: &Self::Id) -> Carried;
    /// [`XdpSocket::close_shortcut`].
    fn close(&mut self, id: Self::Id) -> Carried;
}

impl Driver for XdpSocket {
    type Id = ShortcutId;

    fn shorten(&mut self, shortcut: &Shortcut, most: Duration) -> Option<(Self::Id, Duration)> {
        XdpSocket::shorten(self, shortcut, most)
    }

    fn renew(&mut self, id: &Self::Id, most: Duration) -> Renewed {
        self.renew_shortcut(id, most)
    }

    fn suspend(&mut self, id: &Self::Id) {
        self.suspend_shortcut(id);
    }

    fn take_carried(&mut self, id: &Self::Id) -> Carried {
        XdpSocket::take_carried(self, id)
    }

    fn close(&mut self, id: Self::Id) -> Carried {
        self.close_shortcut(id)
    }
}

/// Where a datagram went: which way, by which relayed address, and the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    pub direction: Direction,
    pub relay: RelayId,
    pub peer: SocketAddr,
}

/// A channel's path, with our ports on it.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub path: ChannelPath,
    /// The relayed address.
    pub relayed: SocketAddr,
    /// The one that the client talks to.
    pub listener: SocketAddr,
}

/// One way of a channel.
struct Way<Id> {
    id: Id,
    shortcut: Shortcut,
    /// End of the lease, ns.
    until: u64,
    /// When something took it last, as far as known, ns.
    used: u64,
}

/// A channel.
struct Open<Id> {
    peer: SocketAddr,
    /// By [`Direction`].
    ways: [Option<Way<Id>>; 2],
}

/// What was carried each way, by [`Direction`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BothWays(pub [Carried; 2]);

impl BothWays {
    fn add(&mut self, direction: usize, carried: Carried) {
        self.0[direction].packets += carried.packets;
        self.0[direction].bytes += carried.bytes;
    }
}

/// All of a core's.
pub struct Shortcuts<Id> {
    /// By slot of the relayed address.
    by_relay: Vec<Vec<Open<Id>>>,
    /// When to count, ns.
    count_at: Option<u64>,
}

impl<Id> Default for Shortcuts<Id> {
    fn default() -> Shortcuts<Id> {
        Shortcuts { by_relay: Vec::new(), count_at: None }
    }
}

impl<Id> Shortcuts<Id> {
    /// When to call [`count`](Self::count), ns.
    pub fn count_at(&self) -> Option<u64> {
        self.count_at
    }

    /// A datagram was here that may take a shortcut from now on, if `ends` says so. Returns what was carried by one that ends with this.
    pub fn passed(
        &mut self,
        driver: &mut impl Driver<Id = Id>,
        passed: Passed,
        now: u64,
        ends: impl FnOnce() -> Option<Ends>,
    ) -> BothWays {
        let mut carried = BothWays::default();
        let direction = passed.direction as usize;
        if self.way(&passed).is_some_and(|way| now < way.until) {
            return carried;
        }
        let Some(ends) = ends() else { return carried };
        let shortcut = ends.shortcut(&passed);
        let most = LEASE.min(Duration::from_nanos(ends.path.until - now));
        if let Some(way) = self.way(&passed).filter(|way| way.shortcut == shortcut) {
            match driver.renew(&way.id, most) {
                Renewed::For(length) => {
                    (way.until, way.used) = (now + nanos(length), now);
                    return carried;
                }
                Renewed::NotNow => return carried,
                Renewed::Never => {}
            }
        }
        for id in self.take_outdated(&passed, &shortcut) {
            carried.add(direction, driver.close(id));
        }
        let slot = passed.relay.slot as usize;
        self.by_relay.resize_with(self.by_relay.len().max(slot + 1), Vec::new);
        let channels = &mut self.by_relay[slot];
        let known = channels.iter().position(|open| open.peer == passed.peer);
        if known.is_none() && channels.len() >= CHANNELS {
            return carried;
        }
        if let Some((id, length)) = driver.shorten(&shortcut, most) {
            let place = known.unwrap_or_else(|| {
                channels.push(Open { peer: passed.peer, ways: [None, None] });
                channels.len() - 1
            });
            channels[place].ways[direction] =
                Some(Way { id, shortcut, until: now + nanos(length), used: now });
            self.count_at.get_or_insert(now + COUNT);
        }
        carried
    }

    /// A channel's way, if it has a shortcut.
    fn way(&mut self, passed: &Passed) -> Option<&mut Way<Id>> {
        let channels = self.by_relay.get_mut(passed.relay.slot as usize)?;
        let open = channels.iter_mut().find(|open| open.peer == passed.peer)?;
        open.ways[passed.direction as usize].as_mut()
    }

    /// What is in the way of a new shortcut: the channel's old one, and one for the same datagrams to another peer, from when the number was
    /// that one's.
    fn take_outdated(&mut self, passed: &Passed, new: &Shortcut) -> impl Iterator<Item = Id> {
        let channels = self.by_relay.get_mut(passed.relay.slot as usize).into_iter().flatten();
        channels.filter_map(|open| {
            let is_own = open.peer == passed.peer;
            let way =
                open.ways[passed.direction as usize].take_if(|way| is_own || way.shortcut.takes_same(new));
            way.map(|way| way.id)
        })
    }

    /// Counts what was carried since, stops what has run out, and closes what nothing takes.
    pub fn count(&mut self, driver: &mut impl Driver<Id = Id>, now: u64) -> BothWays {
        let mut carried = BothWays::default();
        for channels in &mut self.by_relay {
            for (direction, place) in channels.iter_mut().flat_map(|open| open.ways.iter_mut().enumerate()) {
                let Some(way) = place else { continue };
                let new = driver.take_carried(&way.id);
                if new.packets > 0 {
                    way.used = now;
                }
                carried.add(direction, new);
                if now >= way.until {
                    // It should have, unless the driver's clock differs (time_namespaces(7)).
                    driver.suspend(&way.id);
                }
                if let Some(way) = place.take_if(|way| now > way.used + IDLE) {
                    carried.add(direction, driver.close(way.id));
                }
            }
            channels.retain(|open| open.ways.iter().any(Option::is_some));
        }
        self.count_at = self.by_relay.iter().any(|channels| !channels.is_empty()).then_some(now + COUNT);
        carried
    }

    /// Closes all of a relayed address' shortcuts.
    pub fn close(&mut self, driver: &mut impl Driver<Id = Id>, relay: RelayId) -> BothWays {
        let mut carried = BothWays::default();
        let channels = self.by_relay.get_mut(relay.slot as usize).map(std::mem::take).unwrap_or_default();
        for (direction, way) in channels.into_iter().flat_map(|open| open.ways.into_iter().enumerate()) {
            if let Some(way) = way {
                carried.add(direction, driver.close(way.id));
            }
        }
        carried
    }
}

impl Ends {
    fn shortcut(&self, passed: &Passed) -> Shortcut {
        let Ends { path, relayed, listener } = *self;
        match passed.direction {
            Direction::ToPeer => Shortcut {
                from: path.client,
                at: listener,
                out: relayed,
                to: passed.peer,
                channel: Channel::Off(path.number),
            },
            Direction::ToClient => Shortcut {
                from: passed.peer,
                at: relayed,
                out: listener,
                to: path.client,
                channel: Channel::On(path.number),
            },
        }
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).expect("at most LEASE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const RELAY: RelayId = RelayId { slot: 3, generation: 0 };

    /// Says what it was told, and carries what it is told.
    struct Fake {
        open: Vec<Option<(Shortcut, Duration)>>,
        carries: Carried,
        renews: Renewed,
        full: bool,
    }

    impl Fake {
        fn new() -> Fake {
            let renews = Renewed::For(Duration::from_secs(1));
            Fake { open: Vec::new(), carries: Carried::default(), renews, full: false }
        }

        fn live(&self) -> Vec<Shortcut> {
            self.open.iter().flatten().map(|(shortcut, _)| *shortcut).collect()
        }
    }

    impl Driver for Fake {
        type Id = usize;

        fn shorten(&mut self, shortcut: &Shortcut, most: Duration) -> Option<(usize, Duration)> {
            if self.full {
                return None;
            }
            self.open.push(Some((*shortcut, most)));
            Some((self.open.len() - 1, most))
        }

        fn renew(&mut self, id: &usize, most: Duration) -> Renewed {
            let (_, length) = self.open[*id].as_mut().expect("open");
            match self.renews {
                Renewed::For(longest) => {
                    *length = most.min(longest);
                    Renewed::For(*length)
                }
                other => other,
            }
        }

        fn suspend(&mut self, id: &usize) {
            self.open[*id].as_mut().expect("open").1 = Duration::ZERO;
        }

        fn take_carried(&mut self, id: &usize) -> Carried {
            assert!(self.open[*id].is_some());
            std::mem::take(&mut self.carries)
        }

        fn close(&mut self, id: usize) -> Carried {
            assert!(self.open[id].take().is_some());
            std::mem::take(&mut self.carries)
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::new(at("203.0.113.9:1").ip(), port)
    }

    fn ends(number: u16, until: u64) -> Option<Ends> {
        let path = ChannelPath { socket: 0, client: at("198.51.100.1:5000"), number, until };
        Some(Ends { path, relayed: at("192.0.2.1:50000"), listener: at("192.0.2.1:3478") })
    }

    fn to_peer(port: u16) -> Passed {
        Passed { direction: Direction::ToPeer, relay: RELAY, peer: peer(port) }
    }

    #[test]
    fn a_lease_is_renewed_by_what_comes_here_after_it_and_ends_with_the_path() {
        let (mut driver, mut shortcuts) = (Fake::new(), Shortcuts::default());
        shortcuts.passed(&mut driver, to_peer(1), 0, || None);
        assert!(driver.open.is_empty(), "the server knows no path");
        shortcuts.passed(&mut driver, to_peer(1), 0, || ends(0x4000, 100 * SECOND));
        assert_eq!(driver.live().len(), 1);
        // Within its lease nobody asks.
        shortcuts.passed(&mut driver, to_peer(1), 2 * SECOND - 1, || unreachable!("leased"));
        shortcuts.passed(&mut driver, to_peer(1), 2 * SECOND, || ends(0x4000, 2 * SECOND + 5));
        assert_eq!(driver.open[0].unwrap().1, Duration::from_nanos(5), "no longer than the path");
        driver.renews = Renewed::NotNow;
        shortcuts.passed(&mut driver, to_peer(1), 3 * SECOND, || ends(0x4000, 100 * SECOND));
        assert_eq!((driver.live().len(), driver.open.len()), (1, 1));
        driver.renews = Renewed::Never;
        shortcuts.passed(&mut driver, to_peer(1), 3 * SECOND, || ends(0x4000, 100 * SECOND));
        assert_eq!((driver.live().len(), driver.open.len()), (1, 2), "another next hop, another shortcut");
    }

    #[test]
    fn a_number_that_is_bound_anew_leads_to_its_new_peer_alone() {
        let (mut driver, mut shortcuts) = (Fake::new(), Shortcuts::default());
        shortcuts.passed(&mut driver, to_peer(1), 0, || ends(0x4000, SECOND));
        // Peer 1 gets another number, and the number another peer.
        shortcuts.passed(&mut driver, to_peer(1), 2 * SECOND, || ends(0x4001, 100 * SECOND));
        let channels = |driver: &Fake| -> Vec<(Channel, u16)> {
            driver.live().iter().map(|shortcut| (shortcut.channel, shortcut.to.port())).collect()
        };
        assert_eq!(channels(&driver), [(Channel::Off(0x4001), 1)]);
        shortcuts.passed(&mut driver, to_peer(2), 2 * SECOND, || ends(0x4000, 100 * SECOND));
        assert_eq!(channels(&driver), [(Channel::Off(0x4001), 1), (Channel::Off(0x4000), 2)]);
        // The other way round: the new peer's comes first, while the old one's is idle.
        let (mut driver, mut shortcuts) = (Fake::new(), Shortcuts::default());
        shortcuts.passed(&mut driver, to_peer(1), 0, || ends(0x4000, SECOND));
        driver.carries = Carried { packets: 3, bytes: 30 };
        let carried = shortcuts.passed(&mut driver, to_peer(2), 2 * SECOND, || ends(0x4000, 100 * SECOND));
        assert_eq!(channels(&driver), [(Channel::Off(0x4000), 2)]);
        assert_eq!(carried.0[Direction::ToPeer as usize], Carried { packets: 3, bytes: 30 });
    }

    #[test]
    fn what_nothing_takes_is_closed_and_what_is_over_is_stopped() {
        let (mut driver, mut shortcuts) = (Fake::new(), Shortcuts::default());
        let back = Passed { direction: Direction::ToClient, ..to_peer(1) };
        shortcuts.passed(&mut driver, to_peer(1), 0, || ends(0x4000, SECOND));
        shortcuts.passed(&mut driver, back, 0, || ends(0x4000, SECOND));
        assert_eq!(shortcuts.count_at(), Some(COUNT));
        driver.carries = Carried { packets: 2, bytes: 9 };
        let carried = shortcuts.count(&mut driver, COUNT);
        assert_eq!(carried.0, [Carried { packets: 2, bytes: 9 }, Carried::default()]);
        assert_eq!(shortcuts.count(&mut driver, SECOND), BothWays::default());
        assert!(driver.open.iter().flatten().all(|(_, length)| length.is_zero()));
        shortcuts.count(&mut driver, IDLE + 1);
        assert_eq!(driver.live().len(), 1, "one was used later");
        shortcuts.count(&mut driver, COUNT + IDLE + 1);
        assert_eq!((driver.live().len(), shortcuts.count_at()), (0, None));
    }

    #[test]
    fn closing_a_relayed_address_closes_its_own() {
        let (mut driver, mut shortcuts) = (Fake::new(), Shortcuts::default());
        let other = Passed { relay: RelayId { slot: 0, generation: 0 }, ..to_peer(1) };
        shortcuts.passed(&mut driver, to_peer(1), 0, || ends(0x4000, SECOND));
        shortcuts.passed(&mut driver, to_peer(2), 0, || ends(0x4001, SECOND));
        shortcuts.passed(&mut driver, other, 0, || ends(0x4000, SECOND));
        driver.carries = Carried { packets: 1, bytes: 1 };
        let carried = shortcuts.close(&mut driver, RELAY);
        assert_eq!(carried.0[Direction::ToPeer as usize].packets, 1);
        assert_eq!(driver.live().len(), 1);
        shortcuts.close(&mut driver, RelayId { slot: 9, generation: 0 });
    }

    #[test]
    fn nobody_has_all_and_what_fails_leaves_nothing() {
        let (mut driver, mut shortcuts) = (Fake::new(), Shortcuts::default());
        driver.full = true;
        for port in 0..100 {
            shortcuts.passed(&mut driver, to_peer(port), 0, || ends(0x4000 + port, SECOND));
        }
        assert!(shortcuts.by_relay.iter().all(Vec::is_empty) && shortcuts.count_at().is_none());
        driver.full = false;
        for port in 0..100 {
            shortcuts.passed(&mut driver, to_peer(port), 0, || ends(0x4000 + port, SECOND));
        }
        assert_eq!(driver.live().len(), CHANNELS);
    }
}
