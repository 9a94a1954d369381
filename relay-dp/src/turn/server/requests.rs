//! Requests: Binding, Allocate, Refresh, CreatePermission, ChannelBind.

use std::net::SocketAddr;

use super::{
    Server, Timer, User,
    sockets::Pending,
    wish::{FAMILIES, Wish, requested_family},
};
use crate::turn::{
    CHANNELS, Now, Outbox, SECOND,
    allocation::{Allocation, Refused, family},
    auth::{Authenticated, Refusal, Seal},
    counters::Drop,
    limits,
    outbox::Client,
    ports::Want,
    stun::{self, Class, ErrorCode, Message, Writer, attribute, method},
};

/// A good answer.
enum Answer {
    /// With nothing to say.
    Done,
    /// For so many seconds.
    Lifetime(u32),
    /// This allocation stands.
    Allocated(u32),
    /// The request had been heard before.
    Repeated,
}

impl Server {
    /// Handles a message that carries no data.
    pub(super) fn handle_message(
        &mut self,
        client: Client,
        message: &Message<'_>,
        now: Now,
        out: &mut Outbox,
    ) {
        match (message.class(), message.method()) {
            (Class::Request, method::BINDING) => self.binding(client, message, now, out),
            (Class::Request, _) => self.request(client, message, now, out),
            // A keepalive (RFC 8489 section 12).
            (Class::Indication, method::BINDING) => {}
            _ => self.counters.drop(Drop::Unexpected, 1),
        }
    }

    fn binding(&mut self, client: Client, message: &Message<'_>, now: Now, out: &mut Outbox) {
        if self.unknown(message).next().is_some() {
            let refusal = Refusal { error: ErrorCode::UnknownAttribute, challenge: false };
            return self.refuse(client, message, refusal, now, out);
        }
        let start = out.replies.len();
        let mut writer =
            Writer::new(&mut out.replies, Class::Success, method::BINDING, message.transaction());
        writer.xor_address(attribute::XOR_MAPPED_ADDRESS, &client.address());
        if message.has_fingerprint() {
            writer.fingerprint();
        }
        self.reply_to_stranger(client, start, now, out);
    }

    /// Refuses a request of someone unknown.
    fn refuse(
        &mut self,
        client: Client,
        message: &Message<'_>,
        refusal: Refusal,
        now: Now,
        out: &mut Outbox,
    ) {
        let start = out.replies.len();
        let mut writer = Writer::new(&mut out.replies, Class::Error, message.method(), message.transaction());
        writer.error(refusal.error);
        if refusal.error == ErrorCode::UnknownAttribute {
            self.write_unknown(&mut writer, message);
        }
        if refusal.challenge {
            self.auth.challenge(&mut writer, client.address(), now);
        }
        if message.has_fingerprint() {
            writer.fingerprint();
        }
        self.counters.error(refusal.error);
        self.reply_to_stranger(client, start, now, out);
    }

    /// Sends a reply if so much may go there. A client with an allocation has shown that it receives at its address.
    fn reply_to_stranger(&mut self, client: Client, start: usize, now: Now, out: &mut Outbox) {
        let known = client.is_stream() || self.by_client.contains_key(&client);
        let bytes = out.replies.len() - start;
        if known || self.strangers.may_send(client.address().ip(), bytes, now.ns) {
            self.counters.requests += 1;
            out.reply(client, start);
        } else {
            self.counters.drop(Drop::Strangers, 1);
            out.replies.truncate(start);
        }
    }

    fn request(&mut self, client: Client, message: &Message<'_>, now: Now, out: &mut Outbox) {
        let Authenticated { user, seal } = match self.auth.check(message, client.address(), now) {
            Ok(authenticated) => authenticated,
            Err(refusal) => return self.refuse(client, message, refusal, now, out),
        };
        let answer = if self.unknown(message).next().is_some() {
            Err(ErrorCode::UnknownAttribute)
        } else {
            match message.method() {
                method::ALLOCATE => return self.allocate(client, message, user, seal, now, out),
                method::REFRESH | method::CREATE_PERMISSION | method::CHANNEL_BIND => {
                    self.own(client, user, now).and_then(|index| self.change(index, message, now, out))
                }
                _ => Err(ErrorCode::BadRequest),
            }
        };
        self.answer(client, message, &seal, answer, now, out);
    }

    /// A request about an allocation that is the client's.
    fn change(
        &mut self,
        index: u32,
        message: &Message<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Answer, ErrorCode> {
        match message.method() {
            method::REFRESH => self.refresh(index, message, now, out),
            method::CREATE_PERMISSION => self.create_permission(index, message, now),
            _ => self.channel_bind(index, message, now),
        }
    }

    fn answer(
        &mut self,
        client: Client,
        message: &Message<'_>,
        seal: &Seal,
        answer: Result<Answer, ErrorCode>,
        now: Now,
        out: &mut Outbox,
    ) {
        let start = out.replies.len();
        let class = if answer.is_ok() { Class::Success } else { Class::Error };
        let mut writer = Writer::new(&mut out.replies, class, message.method(), message.transaction());
        match answer {
            Ok(Answer::Done) => {}
            Ok(Answer::Lifetime(seconds)) => {
                writer.attribute(attribute::LIFETIME, &seconds.to_be_bytes());
            }
            Ok(Answer::Allocated(index)) => {
                let left = self.allocations[index as usize].until.saturating_sub(now.ns) / SECOND;
                let left = u32::try_from(left).expect("no more than was granted");
                self.write_allocated(&mut writer, index, left);
            }
            Ok(Answer::Repeated) => {
                self.counters.drop(Drop::Repeated, 1);
                return out.replies.truncate(start);
            }
            Err(error) => {
                self.counters.error(error);
                writer.error(error);
                if error == ErrorCode::UnknownAttribute {
                    self.write_unknown(&mut writer, message);
                }
            }
        }
        seal.put(&mut writer);
        if message.has_fingerprint() {
            writer.fingerprint();
        }
        self.counters.requests += 1;
        out.reply(client, start);
    }

    fn write_allocated(&self, writer: &mut Writer<'_>, index: u32, lifetime: u32) {
        let allocation = &self.allocations[index as usize];
        for relay in allocation.relays.iter().flatten() {
            writer.xor_address(attribute::XOR_RELAYED_ADDRESS, &relay.public);
        }
        writer.attribute(attribute::LIFETIME, &lifetime.to_be_bytes());
        writer.xor_address(attribute::XOR_MAPPED_ADDRESS, &allocation.client.address());
    }

    /// Attributes that must be understood and are not (RFC 8489 section 6.3.1).
    fn unknown<'a>(&self, message: &Message<'a>) -> impl Iterator<Item = u16> + use<'a> {
        let dont_fragment = self.config.dont_fragment;
        let known = move |kind: u16| match kind {
            attribute::DONT_FRAGMENT => dont_fragment,
            attribute::USERNAME
            | attribute::ERROR_CODE
            | attribute::UNKNOWN_ATTRIBUTES
            | attribute::CHANNEL_NUMBER
            | attribute::LIFETIME
            | attribute::XOR_PEER_ADDRESS
            | attribute::DATA
            | attribute::REALM
            | attribute::NONCE
            | attribute::XOR_RELAYED_ADDRESS
            | attribute::REQUESTED_ADDRESS_FAMILY
            | attribute::EVEN_PORT
            | attribute::REQUESTED_TRANSPORT
            | attribute::PASSWORD_ALGORITHM
            | attribute::XOR_MAPPED_ADDRESS
            | attribute::RESERVATION_TOKEN => true,
            _ => kind >= 0x8000,
        };
        message.attributes().map(|attribute| attribute.kind).filter(move |kind| !known(*kind))
    }

    fn write_unknown(&self, writer: &mut Writer<'_>, message: &Message<'_>) {
        let mut value = [0; 2 * limits::UNKNOWN_ATTRIBUTES];
        let mut len = 0;
        for (kind, place) in self.unknown(message).zip(value.chunks_exact_mut(2)) {
            place.copy_from_slice(&kind.to_be_bytes());
            len += 2;
        }
        writer.attribute(attribute::UNKNOWN_ATTRIBUTES, &value[..len]);
    }

    /// RFC 8656 section 7.2.
    fn allocate(
        &mut self,
        client: Client,
        message: &Message<'_>,
        user: &str,
        seal: Seal,
        now: Now,
        out: &mut Outbox,
    ) {
        let wish = match self.by_client.get(&client) {
            Some(&index) => {
                let answer = self.allocate_again(index, message);
                return self.answer(client, message, &seal, answer, now, out);
            }
            None => Wish::read(message).and_then(|wish| self.may_allocate(user, &wish).map(|()| wish)),
        };
        let wish = match wish {
            Ok(wish) => wish,
            Err(error) => return self.answer(client, message, &seal, Err(error), now, out),
        };
        let lifetime = self.lifetime(message);
        let until = now.ns + u64::from(lifetime) * SECOND;
        let user = self.user(user);
        let index = Self::index(&self.allocations);
        self.allocations.insert(Allocation::new(client, user, *message.transaction(), until));
        self.by_client.insert(client, index);
        self.timers.insert((until, Timer::Allocation(index)));
        let pending = Pending::new(client, *message.transaction(), seal, message.has_fingerprint(), lifetime);
        self.pending.insert(index, pending);
        self.open_all(index, &wish, out);
        if self.pending[&index].is_complete() {
            self.complete(index, out);
        }
    }

    fn allocate_again(&self, index: u32, message: &Message<'_>) -> Result<Answer, ErrorCode> {
        if self.allocations[index as usize].transaction != *message.transaction() {
            Err(ErrorCode::AllocationMismatch)
        } else if self.pending.contains_key(&index) {
            Ok(Answer::Repeated)
        } else {
            Ok(Answer::Allocated(index))
        }
    }

    fn may_allocate(&self, user: &str, wish: &Wish) -> Result<(), ErrorCode> {
        if let Wish::Reserved(token) = wish
            && !self.reservations.contains_key(token)
        {
            return Err(ErrorCode::InsufficientCapacity);
        }
        if let Wish::New { family, .. } = wish
            && !self.offers(*family)
        {
            return Err(ErrorCode::AddressFamilyNotSupported);
        }
        let own = self.by_user.get(user).map_or(0, |user| self.users[*user as usize].allocations);
        if own >= self.config.max_allocations_per_user {
            return Err(ErrorCode::AllocationQuotaReached);
        }
        if self.allocations.len() >= self.config.max_allocations as usize {
            return Err(ErrorCode::InsufficientCapacity);
        }
        Ok(())
    }

    /// The user of a name, with one allocation more.
    fn user(&mut self, name: &str) -> u32 {
        let index = match self.by_user.get(name) {
            Some(&index) => index,
            None => {
                let index = Self::index(&self.users);
                self.users.insert(User { name: name.into(), allocations: 0, bucket: None });
                self.by_user.insert(name.into(), index);
                index
            }
        };
        self.users[index as usize].allocations += 1;
        index
    }

    fn open_all(&mut self, index: u32, wish: &Wish, out: &mut Outbox) {
        match *wish {
            Wish::Reserved(token) => self.claim(index, token),
            Wish::New { family, want, also_ipv6 } => {
                let mut open = |server: &mut Server, family: usize, want: Want| {
                    let result = if server.offers(family) {
                        server.begin_opening(index, family, want, out)
                    } else {
                        Err(ErrorCode::AddressFamilyNotSupported)
                    };
                    if let Err(error) = result {
                        let pending = server.pending.get_mut(&index).expect("just inserted");
                        pending.without = Some((family, error));
                    }
                };
                open(self, family, want);
                if also_ipv6 {
                    open(self, 1, Want::Any);
                }
            }
        }
    }

    /// Answers an Allocate request whose sockets are open, or can't be opened.
    pub(super) fn complete(&mut self, index: u32, out: &mut Outbox) {
        let pending = self.pending.remove(&index).expect("in the making");
        let client = pending.client;
        let nothing = self.allocations[index as usize].relays.iter().all(Option::is_none);
        let start = out.replies.len();
        let class = if nothing { Class::Error } else { Class::Success };
        let mut writer = Writer::new(&mut out.replies, class, method::ALLOCATE, &pending.transaction);
        if nothing {
            let error = pending.without.map_or(ErrorCode::InsufficientCapacity, |(_, error)| error);
            self.counters.error(error);
            writer.error(error);
        } else {
            self.counters.allocated += 1;
            self.write_allocated(&mut writer, index, pending.lifetime);
            if let Some(token) = pending.token {
                writer.attribute(attribute::RESERVATION_TOKEN, &token.to_be_bytes());
            }
            if let Some((family, error)) = pending.without {
                writer.address_error(FAMILIES[family], error);
            }
        }
        pending.seal.put(&mut writer);
        if pending.fingerprint {
            writer.fingerprint();
        }
        self.counters.requests += 1;
        out.reply(client, start);
        if nothing {
            self.delete(index, out);
        }
    }

    /// What is granted of what a request asks for (RFC 8656 section 7.2).
    fn lifetime(&self, message: &Message<'_>) -> u32 {
        let wished = message.find(attribute::LIFETIME).and_then(|value| value.try_into().ok());
        let wished = wished.map_or(0, u32::from_be_bytes);
        wished.clamp(self.config.default_lifetime, self.config.max_lifetime)
    }

    /// The client's allocation, if it is this user's.
    fn own(&self, client: Client, user: &str, now: Now) -> Result<u32, ErrorCode> {
        let index = *self.by_client.get(&client).ok_or(ErrorCode::AllocationMismatch)?;
        let allocation = &self.allocations[index as usize];
        if now.ns >= allocation.until || self.pending.contains_key(&index) {
            return Err(ErrorCode::AllocationMismatch);
        }
        if &*self.users[allocation.user as usize].name != user {
            return Err(ErrorCode::WrongCredentials);
        }
        Ok(index)
    }

    /// RFC 8656 section 8.2.
    fn refresh(
        &mut self,
        index: u32,
        message: &Message<'_>,
        now: Now,
        out: &mut Outbox,
    ) -> Result<Answer, ErrorCode> {
        let only = requested_family(message, attribute::REQUESTED_ADDRESS_FAMILY)?;
        let allocation = &mut self.allocations[index as usize];
        if only.is_some_and(|family| allocation.relays[family].is_none()) {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        if message.find(attribute::LIFETIME).is_some_and(|value| value == [0; 4]) {
            if let Some(family) = only
                && allocation.relays[1 - family].is_some()
            {
                let relay = allocation.relays[family].take().expect("checked above");
                self.close(relay.id, out);
            } else {
                self.delete(index, out);
            }
            return Ok(Answer::Lifetime(0));
        }
        let lifetime = self.lifetime(message);
        let until = now.ns + u64::from(lifetime) * SECOND;
        let before = std::mem::replace(&mut self.allocations[index as usize].until, until);
        self.timers.remove(&(before, Timer::Allocation(index)));
        self.timers.insert((until, Timer::Allocation(index)));
        Ok(Answer::Lifetime(lifetime))
    }

    /// RFC 8656 section 10.2: all addresses of a request, or none.
    fn create_permission(
        &mut self,
        index: u32,
        message: &Message<'_>,
        now: Now,
    ) -> Result<Answer, ErrorCode> {
        let mut peers = Vec::new();
        for attribute in message.attributes().filter(|found| found.kind == attribute::XOR_PEER_ADDRESS) {
            let peer = stun::decode_xor_address(attribute.value, message.transaction());
            peers.push(peer.ok_or(ErrorCode::BadRequest)?.ip());
        }
        if peers.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        for ip in &peers {
            self.may_reach(index, SocketAddr::new(*ip, 0))?;
        }
        let until = now.ns + u64::from(self.config.permission_lifetime) * SECOND;
        let allocation = &mut self.allocations[index as usize];
        if !allocation.has_room_for(peers.iter().copied(), now.ns) {
            return Err(ErrorCode::InsufficientCapacity);
        }
        for ip in peers {
            allocation.permit(ip, until, now.ns).expect("there is room");
        }
        Ok(Answer::Done)
    }

    fn may_reach(&self, index: u32, peer: SocketAddr) -> Result<(), ErrorCode> {
        if self.allocations[index as usize].relays[family(peer.ip())].is_none() {
            return Err(ErrorCode::PeerAddressFamilyMismatch);
        }
        if self.config.peers.permits(peer.ip()) { Ok(()) } else { Err(ErrorCode::Forbidden) }
    }

    /// RFC 8656 section 12.2.
    fn channel_bind(&mut self, index: u32, message: &Message<'_>, now: Now) -> Result<Answer, ErrorCode> {
        let number = message.find(attribute::CHANNEL_NUMBER).and_then(|value| value.first_chunk::<2>());
        let number =
            number.map(|bytes| u16::from_be_bytes(*bytes)).filter(|number| CHANNELS.contains(number));
        let peer = message.find(attribute::XOR_PEER_ADDRESS);
        let peer = peer.and_then(|value| stun::decode_xor_address(value, message.transaction()));
        let (Some(number), Some(peer)) = (number, peer) else { return Err(ErrorCode::BadRequest) };
        self.may_reach(index, peer)?;
        let until = now.ns + u64::from(self.config.channel_lifetime) * SECOND;
        let permitted_until = now.ns + u64::from(self.config.permission_lifetime) * SECOND;
        let allocation = &mut self.allocations[index as usize];
        match allocation.bind(number, peer, until, permitted_until, now.ns) {
            Ok(()) => Ok(Answer::Done),
            Err(Refused::Conflict) => Err(ErrorCode::BadRequest),
            Err(Refused::Full) => Err(ErrorCode::InsufficientCapacity),
        }
    }
}
