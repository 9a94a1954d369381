//! Relayed addresses: from a free port to an open socket, and back.

use std::net::SocketAddr;

use super::{Effect, Server, Timer};
use crate::turn::{
    Now, Outbox, RelayId,
    allocation::{Relay, family},
    auth::Seal,
    limits,
    outbox::Client,
    ports::Want,
    stun::{ErrorCode, TransactionId},
};

/// The socket of a relayed address.
pub(super) struct RelaySlot {
    generation: u32,
    /// `None` while the slot is free.
    state: Option<RelayState>,
}

#[derive(Clone, Copy)]
struct RelayState {
    /// The allocation that it belongs to; `None` for a port that is kept aside.
    owner: Option<u32>,
    /// The allocation that waits until it is open.
    awaited_by: Option<u32>,
    bind: SocketAddr,
    public: SocketAddr,
}

/// An Allocate request that waits for its sockets.
pub(super) struct Pending {
    pub client: Client,
    pub transaction: TransactionId,
    pub seal: Seal,
    pub fingerprint: bool,
    pub lifetime: u32,
    /// Sockets that are being opened: the relayed address and, of a pair, the one kept aside. Of IPv4 and IPv6.
    opening: [Option<Opening>; 2],
    /// The token of the one kept aside.
    pub token: Option<u64>,
    /// The family without an address, and why, though one was asked for.
    pub without: Option<(usize, ErrorCode)>,
}

struct Opening {
    want: Want,
    tries: u8,
    relay: RelayId,
    relay_open: bool,
    /// The second of a pair.
    second: Option<(RelayId, bool)>,
}

impl Pending {
    pub fn new(
        client: Client,
        transaction: TransactionId,
        seal: Seal,
        fingerprint: bool,
        lifetime: u32,
    ) -> Self {
        let (opening, token, without) = ([None, None], None, None);
        Pending { client, transaction, seal, fingerprint, lifetime, opening, token, without }
    }

    pub fn is_complete(&self) -> bool {
        self.opening.iter().all(Option::is_none)
    }
}

impl Server {
    /// The allocation that a relayed address belongs to.
    pub(super) fn owner(&self, relay: RelayId) -> Option<u32> {
        self.relay_state(relay)?.owner
    }

    fn relay_state(&self, relay: RelayId) -> Option<&RelayState> {
        let slot = self.relays.get(relay.slot as usize)?;
        if slot.generation == relay.generation { slot.state.as_ref() } else { None }
    }

    fn relay_state_mut(&mut self, relay: RelayId) -> Option<&mut RelayState> {
        let slot = self.relays.get_mut(relay.slot as usize)?;
        if slot.generation == relay.generation { slot.state.as_mut() } else { None }
    }

    /// Whether relays of a family are on offer.
    pub(super) fn offers(&self, family: usize) -> bool {
        [self.config.ipv4, self.config.ipv6][family].is_some()
    }

    /// Begins to open a relayed address for an allocation.
    pub(super) fn begin_opening(
        &mut self,
        index: u32,
        family: usize,
        want: Want,
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        self.try_port(index, family, want, 1, out)
    }

    fn try_port(
        &mut self,
        index: u32,
        family: usize,
        want: Want,
        tries: u8,
        out: &mut Outbox,
    ) -> Result<(), ErrorCode> {
        let random = self.random();
        let port = self.ports[family].take(want, random).ok_or(ErrorCode::InsufficientCapacity)?;
        let relay = self.open(family, port, index, out);
        let second = (want == Want::Pair).then(|| (self.open(family, port + 1, index, out), false));
        let pending = self.pending.get_mut(&index).expect("an allocation in the making");
        pending.opening[family] = Some(Opening { want, tries, relay, relay_open: false, second });
        Ok(())
    }

    /// Names a socket and has it opened.
    fn open(&mut self, family: usize, port: u16, awaited_by: u32, out: &mut Outbox) -> RelayId {
        let ip = [self.config.ipv4, self.config.ipv6][family].expect("of an offered family");
        let (bind, public) = (SocketAddr::new(ip.bind, port), SocketAddr::new(ip.public, port));
        let state = Some(RelayState { owner: None, awaited_by: Some(awaited_by), bind, public });
        let slot = self.free_relays.pop().unwrap_or_else(|| {
            self.relays.push(RelaySlot { generation: 0, state: None });
            u32::try_from(self.relays.len() - 1).expect("no more relays than ports")
        });
        let entry = &mut self.relays[slot as usize];
        entry.state = state;
        let relay = RelayId { slot, generation: entry.generation };
        out.effects.push(Effect::Open { relay, bind });
        relay
    }

    /// Closes a socket and frees its port and slot.
    pub(super) fn close(&mut self, relay: RelayId, out: &mut Outbox) {
        let slot = &mut self.relays[relay.slot as usize];
        assert_eq!(slot.generation, relay.generation, "a relay is closed once");
        let state = slot.state.take().expect("a relay is closed once");
        slot.generation = slot.generation.wrapping_add(1);
        self.free_relays.push(relay.slot);
        self.ports[family(state.bind.ip())].give_back(state.bind.port());
        out.effects.push(Effect::Close { relay });
    }

    /// The caller has opened a socket, or could not (the port may be another process's: another one is tried).
    /// Answers for sockets that have been closed meanwhile are passed over.
    pub fn on_opened(&mut self, relay: RelayId, opened: bool, now: Now, out: &mut Outbox) {
        let Some(state) = self.relay_state_mut(relay) else { return };
        let family = family(state.bind.ip());
        let Some(index) = state.awaited_by.take() else { return };
        if opened {
            self.on_open(index, family, relay, now);
        } else {
            self.on_not_opened(index, family, out);
        }
        if self.pending.get(&index).is_some_and(Pending::is_complete) {
            self.complete(index, out);
        }
    }

    fn on_open(&mut self, index: u32, family: usize, relay: RelayId, now: Now) {
        let pending = self.pending.get_mut(&index).expect("found above");
        let Some(opening) = &mut pending.opening[family] else { return };
        if opening.relay == relay {
            opening.relay_open = true;
        } else if let Some((second, open)) = &mut opening.second {
            *open |= *second == relay;
        }
        if !opening.relay_open || opening.second.is_some_and(|(_, open)| !open) {
            return;
        }
        let (first, second) = (opening.relay, opening.second);
        pending.opening[family] = None;
        self.attach(index, first);
        if let Some((second, _)) = second {
            let token = self.random();
            let until = now.ns + u64::from(self.config.reservation_lifetime) * crate::turn::SECOND;
            self.reservations.insert(token, (second, until));
            self.timers.insert((until, Timer::Reservation(token)));
            self.pending.get_mut(&index).expect("found above").token = Some(token);
        }
    }

    /// Gives an open socket to an allocation.
    fn attach(&mut self, index: u32, relay: RelayId) {
        let state = self.relay_state_mut(relay).expect("open");
        state.owner = Some(index);
        let public = state.public;
        let place = family(public.ip());
        self.allocations[index as usize].relays[place] = Some(Relay { id: relay, public });
    }

    /// Gives the allocation the socket that was kept aside under a token.
    pub(super) fn claim(&mut self, index: u32, token: u64) {
        let (relay, until) = self.reservations.remove(&token).expect("looked up before");
        self.timers.remove(&(until, Timer::Reservation(token)));
        self.attach(index, relay);
    }

    fn on_not_opened(&mut self, index: u32, family: usize, out: &mut Outbox) {
        let pending = self.pending.get_mut(&index).expect("found above");
        let Some(opening) = pending.opening[family].take() else { return };
        self.close(opening.relay, out);
        if let Some((second, _)) = opening.second {
            self.close(second, out);
        }
        let Opening { want, tries, .. } = opening;
        let again = tries < limits::PORT_TRIES && self.try_port(index, family, want, tries + 1, out).is_ok();
        if !again {
            let pending = self.pending.get_mut(&index).expect("found above");
            pending.without = Some((family, ErrorCode::InsufficientCapacity));
        }
    }

    /// Closes what an allocation has begun to open.
    pub(super) fn abandon(&mut self, pending: Pending, out: &mut Outbox) {
        for opening in pending.opening.into_iter().flatten() {
            self.close(opening.relay, out);
            if let Some((second, _)) = opening.second {
                self.close(second, out);
            }
        }
    }
}
