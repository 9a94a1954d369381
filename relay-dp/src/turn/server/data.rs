//! The data path: headers off on the way to peers, headers on on the way to clients.

use std::{net::SocketAddr, ops::Range};

use super::Server;
use crate::turn::{
    Now, Outbox, RelayId,
    allocation::{Allocation, family},
    bucket::Bucket,
    channel::{self, CHANNEL_HEADER},
    counters::Drop,
    outbox::{Client, Send, To, Where},
    stun::{
        self, ATTRIBUTE_HEADER, Class, HEADER, MAGIC_COOKIE, Message, attribute, encode_xor_address, method,
        xor_address_len,
    },
};

/// Longest UDP payload (over IPv4).
const MAX_DATAGRAM: usize = 65_507;

/// Datagrams of one sender in the buffer that they came in. The bytes around them are free for headers and padding.
#[derive(Debug)]
pub struct Train<'a> {
    /// All of the buffer.
    pub room: &'a mut [u8],
    /// First byte of the first datagram.
    pub start: usize,
    /// Bytes of all datagrams.
    pub len: usize,
    /// Bytes of each but the last, which may be shorter. At least 1.
    pub segment: usize,
}

impl Train<'_> {
    /// How many datagrams. An empty one is one.
    pub fn count(&self) -> usize {
        self.len.div_ceil(self.segment).max(1)
    }
}

/// Payloads for one peer that have been closed up.
struct Run {
    relay: RelayId,
    peer: SocketAddr,
    dont_fragment: bool,
    start: usize,
    len: usize,
    segment: usize,
    /// A shorter one came: nothing can follow.
    full: bool,
}

/// A payload on its way to a peer.
struct Payload {
    at: Range<usize>,
    relay: RelayId,
    peer: SocketAddr,
    dont_fragment: bool,
}

impl Run {
    fn begin(payload: &Payload) -> Run {
        let Payload { at, relay, peer, dont_fragment } = payload;
        Run {
            relay: *relay,
            peer: *peer,
            dont_fragment: *dont_fragment,
            start: at.start,
            len: at.len(),
            segment: at.len(),
            full: at.is_empty(),
        }
    }

    /// Moves a payload up behind the others, if it fits there.
    fn append(&mut self, payload: &Payload, room: &mut [u8]) -> bool {
        let Payload { at, relay, peer, dont_fragment } = payload;
        let same = self.relay == *relay && self.peer == *peer && self.dont_fragment == *dont_fragment;
        if !same || self.full || at.is_empty() || at.len() > self.segment {
            return false;
        }
        debug_assert!(self.start + self.len <= at.start, "headers lie between");
        room.copy_within(at.clone(), self.start + self.len);
        self.len += at.len();
        self.full = at.len() < self.segment;
        true
    }

    fn finish(self, out: &mut Outbox) {
        let Run { relay, peer, dont_fragment, start, len, segment, .. } = self;
        let to = To::Peer { relay, address: peer };
        out.sends.push(Send { to, place: Where::Room, start, len, segment, dont_fragment });
    }
}

impl Server {
    /// Handles datagrams of a client, or a single frame of its connection, with or without padding.
    ///
    /// # Panics
    /// When the train reaches beyond its room.
    pub fn handle_client(&mut self, client: Client, train: Train<'_>, now: Now, out: &mut Outbox) {
        let Train { room, start, len, segment } = train;
        assert!(segment > 0 && start + len <= room.len(), "a train lies in its room");
        let mut allocation = self.by_client.get(&client).copied();
        let mut run: Option<Run> = None;
        let end = start + len;
        let mut at = start;
        while at < end {
            let datagram = at..end.min(at + segment);
            at = datagram.end;
            let first = room[datagram.start];
            let payload = if channel::is_channel_data(first) {
                self.channel_data(allocation, room, datagram, now)
            } else if first & 0xc0 == 0 {
                match Message::parse(&room[datagram.clone()]) {
                    Ok(message) if is_send(&message) => {
                        self.send_indication(allocation, &message, datagram.start, now)
                    }
                    Ok(message) => {
                        self.handle_message(client, &message, now, out);
                        allocation = self.by_client.get(&client).copied();
                        continue;
                    }
                    Err(_) => Err(Drop::Malformed),
                }
            } else {
                Err(Drop::Unknown)
            };
            match payload {
                Ok(payload) => {
                    self.counters.to_peers += 1;
                    self.counters.to_peers_bytes += payload.at.len() as u64;
                    if !run.as_mut().is_some_and(|run| run.append(&payload, room))
                        && let Some(run) = run.replace(Run::begin(&payload))
                    {
                        run.finish(out);
                    }
                }
                Err(cause) => self.counters.drop(cause, 1),
            }
        }
        if let Some(run) = run {
            run.finish(out);
        }
    }

    fn channel_data(
        &mut self,
        allocation: Option<u32>,
        room: &[u8],
        datagram: Range<usize>,
        now: Now,
    ) -> Result<Payload, Drop> {
        let (number, len) = channel::parse(&room[datagram.clone()]).ok_or(Drop::Malformed)?;
        let allocation = self.live(allocation, now)?;
        let channel = allocation.channel(number, now.ns).ok_or(Drop::NoChannel)?;
        if now.ns >= channel.permitted_until {
            return Err(Drop::NoPermission);
        }
        let (peer, user) = (channel.peer, allocation.user);
        let relay = allocation.relays[family(peer.ip())].ok_or(Drop::WrongFamily)?.id;
        self.spend(user, len, now)?;
        let start = datagram.start + CHANNEL_HEADER;
        Ok(Payload { at: start..start + len, relay, peer, dont_fragment: false })
    }

    /// RFC 8656 section 11.2.
    fn send_indication(
        &mut self,
        allocation: Option<u32>,
        message: &Message<'_>,
        start: usize,
        now: Now,
    ) -> Result<Payload, Drop> {
        let (mut peer, mut data, mut dont_fragment) = (None, None, false);
        for stun::Attribute { kind, value, offset } in message.attributes() {
            match kind {
                attribute::XOR_PEER_ADDRESS if peer.is_none() => {
                    let address = stun::decode_xor_address(value, message.transaction());
                    peer = Some(address.ok_or(Drop::Malformed)?);
                }
                attribute::DATA if data.is_none() => data = Some(offset..offset + value.len()),
                attribute::DONT_FRAGMENT if self.config.dont_fragment => dont_fragment = true,
                attribute::XOR_PEER_ADDRESS | attribute::DATA | 0x8000.. => {}
                _ => return Err(Drop::Malformed),
            }
        }
        let (Some(peer), Some(data)) = (peer, data) else { return Err(Drop::Malformed) };
        let allocation = self.live(allocation, now)?;
        let relay = allocation.relays[family(peer.ip())].ok_or(Drop::WrongFamily)?.id;
        if !allocation.permits(peer.ip(), now.ns) {
            return Err(Drop::NoPermission);
        }
        let user = allocation.user;
        self.spend(user, data.len(), now)?;
        Ok(Payload { at: start + data.start..start + data.end, relay, peer, dont_fragment })
    }

    fn live(&self, allocation: Option<u32>, now: Now) -> Result<&Allocation, Drop> {
        let allocation = allocation.map(|index| &self.allocations[index as usize]);
        allocation.filter(|allocation| now.ns < allocation.until).ok_or(Drop::NoAllocation)
    }

    /// Charges bytes to a user.
    fn spend(&mut self, user: u32, bytes: usize, now: Now) -> Result<(), Drop> {
        let Some(rate) = self.config.user_rate else { return Ok(()) };
        let bucket = &mut self.users[user as usize].bucket;
        let bucket = bucket.get_or_insert_with(|| Bucket::full(rate, now.ns));
        if bucket.take(rate, bytes, now.ns) { Ok(()) } else { Err(Drop::Rate) }
    }

    /// Handles datagrams that came from a peer to a relayed address.
    ///
    /// # Panics
    /// When the train reaches beyond its room.
    pub fn handle_peer(
        &mut self,
        relay: RelayId,
        from: SocketAddr,
        train: Train<'_>,
        now: Now,
        out: &mut Outbox,
    ) {
        assert!(train.segment > 0 && train.start + train.len <= train.room.len(), "a train lies in its room");
        let (count, bytes) = (train.count(), train.len);
        match self.deliver(relay, from, train, now) {
            Ok(send) => {
                self.counters.to_clients += count as u64;
                self.counters.to_clients_bytes += bytes as u64;
                out.sends.push(send);
            }
            Err(cause) => self.counters.drop(cause, count),
        }
    }

    fn deliver(
        &mut self,
        relay: RelayId,
        from: SocketAddr,
        train: Train<'_>,
        now: Now,
    ) -> Result<Send, Drop> {
        let allocation = self.live(self.owner(relay), now)?;
        let channel =
            allocation.channel_to(&from, now.ns).map(|channel| (channel.number, channel.permitted_until));
        let permitted = match channel {
            Some((_, until)) => now.ns < until,
            None => allocation.permits(from.ip(), now.ns),
        };
        if !permitted {
            return Err(Drop::NoPermission);
        }
        let (client, user) = (allocation.client, allocation.user);
        self.spend(user, train.len, now)?;
        let (start, len, segment) = match channel {
            Some((number, _)) => {
                let pad = if client.is_stream() { 4 } else { 1 };
                spread(train, CHANNEL_HEADER, pad, |header, len| {
                    header.copy_from_slice(&channel::header(number, len));
                })
            }
            None => {
                let header_len = HEADER + ATTRIBUTE_HEADER + xor_address_len(&from) + ATTRIBUTE_HEADER;
                self.randoms += 1;
                let id = self.randoms;
                spread(train, header_len, 4, |header, len| data_header(header, &from, len, id))
            }
        }?;
        let to = To::Client(client);
        Ok(Send { to, place: Where::Room, start, len, segment, dont_fragment: false })
    }
}

fn is_send(message: &Message<'_>) -> bool {
    message.class() == Class::Indication && message.method() == method::SEND
}

/// Puts a header of `header` bytes in front of each datagram, and zeros behind it up to a multiple of `pad`. Returns where
/// they lie now: start, bytes of all, bytes of each but the last.
///
/// The first one stays where it is; the others move towards the end, last one first, so that none is overwritten.
fn spread(
    train: Train<'_>,
    header: usize,
    pad: usize,
    mut write: impl FnMut(&mut [u8], u16),
) -> Result<(usize, usize, usize), Drop> {
    let count = train.count();
    let Train { room, start, len, segment } = train;
    let segment = if count == 1 { len } else { segment };
    let stride = header + segment.next_multiple_of(pad);
    let last = len - (count - 1) * segment;
    let total = (count - 1) * stride + header + last.next_multiple_of(pad);
    if stride > MAX_DATAGRAM || start < header || start - header + total > room.len() {
        return Err(Drop::TooLong);
    }
    let out = start - header;
    for index in (0..count).rev() {
        let bytes = if index == count - 1 { last } else { segment };
        let (from, to) = (start + index * segment, out + index * stride + header);
        room.copy_within(from..from + bytes, to);
        room[to + bytes..to + bytes.next_multiple_of(pad)].fill(0);
        write(&mut room[to - header..to], u16::try_from(bytes).map_err(|_| Drop::TooLong)?);
    }
    Ok((out, total, stride))
}

/// The header of a Data indication in front of `len` bytes (RFC 8656 section 11.4).
fn data_header(header: &mut [u8], from: &SocketAddr, len: u16, id: u64) {
    let address = xor_address_len(from);
    let mut transaction = [0; 12];
    transaction[4..].copy_from_slice(&id.to_be_bytes());
    let length = header.len() - HEADER + stun::padded(usize::from(len));
    let length = u16::try_from(length).expect("less than a datagram");
    header[..2].copy_from_slice(&Class::Indication.with(method::DATA).to_be_bytes());
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    header[8..20].copy_from_slice(&transaction);
    header[20..22].copy_from_slice(&attribute::XOR_PEER_ADDRESS.to_be_bytes());
    header[22..24].copy_from_slice(&u16::try_from(address).expect("8 or 20").to_be_bytes());
    encode_xor_address(&mut header[24..24 + address], from, &transaction);
    header[24 + address..26 + address].copy_from_slice(&attribute::DATA.to_be_bytes());
    header[26 + address..28 + address].copy_from_slice(&len.to_be_bytes());
}
