//! What is relayed, and what is not.

use super::*;
use crate::turn::{Direction, Drop, Rate};

const PEER: &str = "203.0.113.9:4000";

/// Ann with a channel to PEER; her relayed address.
fn with_channel(world: &mut World, client: Client) -> SocketAddr {
    let mut user = ann();
    let relayed = world.allocate(&mut user, client);
    assert_eq!(world.ask_as(&mut user, client, method::CHANNEL_BIND, channel(0x4001, at(PEER))).0, 0);
    relayed
}

#[test]
fn a_train_of_channel_data_closes_up_and_one_to_a_client_spreads() {
    let mut world = World::new(config());
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    let payloads: Vec<Vec<u8>> =
        (0..40u8).map(|byte| vec![byte; if byte == 39 { 60 } else { 200 }]).collect();
    let frames: Vec<u8> = payloads.iter().flat_map(|payload| channel_data(0x4001, payload)).collect();
    let plain = payloads.concat();

    let sent = world.client_sends(client(1), &frames, 204);
    assert_eq!(sent, [(To::Peer { relay, address: at(PEER) }, plain.clone(), 200)]);
    let sent = world.peer_sends(relay, at(PEER), &plain, 200);
    assert_eq!(sent, [(To::Client(client(1)), frames, 204)]);
    let counters = world.server.counters();
    assert_eq!((counters.to_peers, counters.to_clients), (40, 40));
    assert_eq!((counters.to_peers_bytes, counters.to_clients_bytes), (39 * 200 + 60, 39 * 200 + 60));
}

#[test]
fn a_train_to_two_peers_becomes_two_and_keeps_its_order() {
    let mut world = World::new(config());
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    let mut user = ann();
    let other = at("203.0.113.10:1");
    world.ask_as(&mut user, client(1), method::CHANNEL_BIND, channel(0x4002, other));
    let frames: Vec<u8> = [(0x4001, 1), (0x4001, 2), (0x4002, 3), (0x4001, 4)]
        .into_iter()
        .flat_map(|(number, byte)| channel_data(number, &[byte; 8]))
        .collect();
    let sent = world.client_sends(client(1), &frames, 12);
    let to = |address, bytes: &[u8]| (To::Peer { relay, address }, bytes.to_vec(), 8);
    assert_eq!(sent, [to(at(PEER), &[[1; 8], [2; 8]].concat()), to(other, &[3; 8]), to(at(PEER), &[4; 8])]);
}

#[test]
fn without_a_channel_data_comes_in_indications() {
    let mut world = World::new(config());
    let mut user = ann();
    let relayed = world.allocate(&mut user, client(1));
    let relay = world.relay(relayed);
    world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, peer(PEER));
    let sent = world.client_sends(client(1), &send_indication(at(PEER), b"hello"), 100);
    assert_eq!(sent, [(To::Peer { relay, address: at(PEER) }, b"hello".to_vec(), 5)]);

    // Another port of the same address is permitted too.
    let from = at("203.0.113.9:5");
    let (count, size) = (30, 101);
    let plain: Vec<u8> = (0..count * size).map(|index| (index / size) as u8).collect();
    let sent = world.peer_sends(relay, from, &plain, size);
    let [(to, bytes, segment)] = &sent[..] else { panic!("{} sends", sent.len()) };
    assert_eq!((*to, *segment), (To::Client(client(1)), 36 + 104));
    for (index, datagram) in bytes.chunks(*segment).enumerate() {
        let message = Message::parse(datagram).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, method::DATA));
        assert_eq!(address(&message, attribute::XOR_PEER_ADDRESS), Some(from));
        assert_eq!(message.find(attribute::DATA).unwrap(), &plain[index * size..(index + 1) * size]);
    }
    assert_eq!(bytes.len(), count * segment);
}

#[test]
fn streams_are_padded() {
    let mut world = World::new(config());
    let client = Client::Tcp { connection: 3, address: at("198.51.100.7:9") };
    let relayed = with_channel(&mut world, client);
    let relay = world.relay(relayed);
    let mut frame = channel_data(0x4001, b"12345");
    frame.extend([0; 3]);
    let sent = world.client_sends(client, &frame, frame.len());
    assert_eq!(sent, [(To::Peer { relay, address: at(PEER) }, b"12345".to_vec(), 5)]);
    let sent = world.peer_sends(relay, at(PEER), b"12345678901", 5);
    let expected: Vec<u8> = [
        channel_data(0x4001, b"12345"),
        vec![0; 3],
        channel_data(0x4001, b"67890"),
        vec![0; 3],
        channel_data(0x4001, b"1"),
        vec![0; 3],
    ]
    .concat();
    assert_eq!(sent, [(To::Client(client), expected, 12)]);
    let mut out = Outbox::default();
    world.server.on_client_closed(&client, &mut out);
    world.carry_out(&mut out);
    assert!(world.sockets.is_empty());
}

#[test]
fn empty_datagrams_pass() {
    let mut world = World::new(config());
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    let sent = world.client_sends(client(1), &channel_data(0x4001, b"").repeat(2), 4);
    assert_eq!(sent, vec![(To::Peer { relay, address: at(PEER) }, vec![], 0); 2]);
    let sent = world.peer_sends(relay, at(PEER), b"", 1);
    assert_eq!(sent, [(To::Client(client(1)), channel_data(0x4001, b""), 4)]);
}

/// Each row: what is sent, and the cause of the drop.
#[test]
fn everything_else_is_dropped_and_counted() {
    let mut world = World::new(config());
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    let mut truncated = channel_data(0x4001, b"12345");
    truncated.pop();
    let mut answer = send_indication(at(PEER), b"x");
    answer[0] = 1;
    let no_peer = {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes, Class::Indication, method::SEND, &[3; 12]).attribute(attribute::DATA, b"x");
        bytes
    };
    let rows: [(Client, Vec<u8>, Drop); 10] = [
        (client(1), b"\xffgarbage".to_vec(), Drop::Unknown),
        (client(1), b"\0\x01short".to_vec(), Drop::Malformed),
        (client(1), truncated, Drop::Malformed),
        (client(1), no_peer, Drop::Malformed),
        (client(1), answer, Drop::Unexpected),
        (client(2), channel_data(0x4001, b"x"), Drop::NoAllocation),
        (client(2), send_indication(at(PEER), b"x"), Drop::NoAllocation),
        (client(1), channel_data(0x4002, b"x"), Drop::NoChannel),
        (client(1), send_indication(at("203.0.113.200:1"), b"x"), Drop::NoPermission),
        (client(1), send_indication(at("[2001:db8::9]:1"), b"x"), Drop::WrongFamily),
    ];
    for (client, bytes, cause) in rows {
        let before = world.server.counters().dropped(cause);
        assert_eq!(world.client_sends(client, &bytes, bytes.len()), [], "{cause:?}");
        assert_eq!(world.server.counters().dropped(cause), before + 1, "{cause:?}");
    }
    assert_eq!(world.peer_sends(relay, at("203.0.113.200:1"), &[1; 30], 10), []);
    assert_eq!(world.server.counters().dropped(Drop::NoPermission), 4, "datagrams of a train count");
    let stale = RelayId { generation: relay.generation + 1, ..relay };
    assert_eq!(world.peer_sends(stale, at(PEER), b"x", 1), []);
    let most = vec![1; 65_507 - 3];
    assert_eq!(world.peer_sends(relay, at(PEER), &most, most.len()), []);
    assert_eq!(world.server.counters().dropped(Drop::TooLong), 1);
    assert_eq!(world.peer_sends(relay, at(PEER), &most[1..], most.len()).len(), 1, "the longest that fits");
}

#[test]
fn a_user_s_rate_counts_both_ways_and_all_allocations() {
    let rate = Rate { per_second: 1000, burst: 1000 };
    let mut world = World::new(Config { user_rate: Some(rate), ..config() });
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    with_channel(&mut world, client(2));
    let frame = channel_data(0x4001, &[1; 400]);
    assert_eq!(world.client_sends(client(1), &frame, 404).len(), 1);
    assert_eq!(world.client_sends(client(2), &frame, 404).len(), 1);
    assert_eq!(world.peer_sends(relay, at(PEER), &[1; 400], 400), []);
    assert_eq!(world.peer_sends(relay, at(PEER), &[1; 200], 200).len(), 1);
    assert_eq!(world.client_sends(client(1), &frame, 404), []);
    assert_eq!(world.server.counters().dropped(Drop::Rate), 2);
    world.pass(1);
    assert_eq!(world.client_sends(client(1), &frame, 404).len(), 1);
}

#[test]
fn permissions_and_channels_end() {
    let mut world = World::new(config());
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    let frame = channel_data(0x4001, b"x");
    world.pass(299);
    assert_eq!(world.client_sends(client(1), &frame, 5).len(), 1);
    assert_eq!(world.peer_sends(relay, at(PEER), b"x", 1).len(), 1);
    world.pass(1);
    assert_eq!(world.client_sends(client(1), &frame, 5), [], "the permission has ended, the channel has not");
    assert_eq!(world.peer_sends(relay, at(PEER), b"x", 1), []);
    let mut user = ann();
    world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, peer("203.0.113.9:1"));
    assert_eq!(
        world.client_sends(client(1), &frame, 5).len(),
        1,
        "a permission of the address serves the channel"
    );
    world.ask_as(&mut user, client(1), method::REFRESH, |_| {});
    world.pass(299);
    world.ask_as(&mut user, client(1), method::CREATE_PERMISSION, peer(PEER));
    world.pass(1);
    assert_eq!(world.client_sends(client(1), &frame, 5), [], "the channel has ended");
    assert!(matches!(world.peer_sends(relay, at(PEER), b"x", 1)[..], [(_, ref bytes, _)] if bytes[0] == 0));
}

#[test]
fn a_channel_s_path_lasts_as_long_as_its_data_passes() {
    let mut world = World::new(config());
    let relayed = with_channel(&mut world, client(1));
    let relay = world.relay(relayed);
    let path = world.server.channel_path(relay, &at(PEER), world.now).unwrap();
    let Client::Udp { socket, address } = client(1) else { unreachable!("over UDP") };
    assert_eq!((path.socket, path.client, path.number), (socket, address, 0x4001));
    assert_eq!(world.server.channel_path(relay, &at("203.0.113.9:4001"), world.now), None, "no channel");
    for _ in 0..2 {
        // A permission ends before its channel; new requests make all of them last longer.
        world.ask_as(&mut ann(), client(1), method::REFRESH, |_| {});
        let path = world.server.channel_path(relay, &at(PEER), world.now).unwrap();
        let data = channel_data(0x4001, b"x");
        world.now.ns = path.until - 1;
        assert_eq!(world.client_sends(client(1), &data, 5).len(), 1);
        assert_eq!(world.server.channel_path(relay, &at(PEER), world.now), Some(path));
        world.now.ns = path.until;
        assert_eq!(world.client_sends(client(1), &data, 5).len(), 0);
        assert_eq!(world.peer_sends(relay, at(PEER), b"x", 1).len(), 0);
        assert_eq!(world.server.channel_path(relay, &at(PEER), world.now), None);
        let mut user = ann();
        assert_eq!(world.ask_as(&mut user, client(1), method::CHANNEL_BIND, channel(0x4001, at(PEER))).0, 0);
        assert!(world.server.channel_path(relay, &at(PEER), world.now).unwrap().until > path.until);
    }
    let before = world.server.counters().clone();
    world.server.count_carried(Direction::ToPeer, 2, 30);
    world.server.count_carried(Direction::ToClient, 3, 50);
    let counters = world.server.counters();
    assert_eq!(
        (counters.to_peers, counters.to_peers_bytes),
        (before.to_peers + 2, before.to_peers_bytes + 30)
    );
    assert_eq!(
        (counters.to_clients, counters.to_clients_bytes),
        (before.to_clients + 3, before.to_clients_bytes + 50)
    );
    let mut user = ann();
    world.ask_as(&mut user, client(1), method::REFRESH, |writer| {
        writer.attribute(attribute::LIFETIME, &[0; 4]);
    });
    assert_eq!(world.server.channel_path(relay, &at(PEER), world.now), None, "the allocation is gone");
}

#[test]
fn whose_bytes_are_limited_and_who_comes_by_tcp_has_no_path() {
    let rate = Rate { per_second: 1000, burst: 1000 };
    let mut world = World::new(Config { user_rate: Some(rate), ..config() });
    let relay = with_channel(&mut world, client(1));
    let relay = world.relay(relay);
    assert_eq!(world.server.channel_path(relay, &at(PEER), world.now), None);

    let mut world = World::new(config());
    let tcp = Client::Tcp { connection: 1, address: at("198.51.100.1:1") };
    let relay = with_channel(&mut world, tcp);
    let relay = world.relay(relay);
    assert_eq!(world.server.channel_path(relay, &at(PEER), world.now), None);
}
