//! Splitting and joining are each other's inverse, and survive any bytes.

use proptest::prelude::*;

use super::*;

/// A well-formed packet of `payload` with complete checksums.
fn packet(tcp: bool, v6: bool, sequence: u32, flags: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let transport_header = if tcp { TCP_HEADER + 12 } else { UDP_HEADER };
    let ip_header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
    let mut bytes = vec![0; ip_header + transport_header];
    bytes.extend_from_slice(payload);
    let len = u16::try_from(bytes.len()).unwrap();
    let protocol = if tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
    if v6 {
        bytes[0] = 0x60;
        put16(&mut bytes, 4, len - 40);
        bytes[6] = protocol;
        bytes[7] = 64;
        bytes[8..40].iter_mut().enumerate().for_each(|(i, byte)| *byte = u8::try_from(i).unwrap());
    } else {
        bytes[0] = 0x45;
        put16(&mut bytes, 2, len);
        put16(&mut bytes, 4, id);
        bytes[8] = 64;
        bytes[9] = protocol;
        bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = netio::checksum::Sum::default().with(&bytes[..20]).checksum();
        bytes[10..12].copy_from_slice(&sum);
    }
    let transport_len = bytes.len() - ip_header;
    let t = &mut bytes[ip_header..];
    t[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
    if tcp {
        put32(t, 4, sequence);
        put32(t, 8, 77);
        t[12] = u8::try_from(transport_header / 4 * 16).unwrap();
        t[13] = flags;
        put16(t, 14, 500);
        t[20..32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    } else {
        put16(t, 4, u16::try_from(transport_len).unwrap());
    }
    let addresses = if v6 { 8..40 } else { 12..20 };
    let sum = netio::checksum::Sum::default().with(&bytes[ip_header..]).with_pseudo_header(
        &bytes[addresses],
        protocol,
        transport_len,
    );
    let at = ip_header + if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let sum = if tcp { sum.checksum() } else { sum.udp_checksum() };
    bytes[at..at + 2].copy_from_slice(&sum);
    bytes
}

/// What the kernel would read: vnet header, headers, pieces.
fn assembled(joined: &Joined, buffers: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = joined.vnet().encode().to_vec();
    bytes.extend_from_slice(joined.headers());
    for piece in joined.pieces() {
        bytes.extend_from_slice(&buffers[piece.buffer][piece.start..piece.start + piece.len]);
    }
    bytes
}

/// Joins `packets`, then splits each result again.
fn there_and_back(packets: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
    let mut joiner = Joiner::new(true);
    for (index, packet) in packets.iter().enumerate() {
        joiner.add(packet, index, 0..packet.len());
    }
    let mut back = Vec::new();
    let groups = joiner.finish();
    for joined in groups {
        let bytes = assembled(joined, packets);
        let super_packet = SuperPacket::parse(&bytes).expect("what we make, we read");
        for index in 0..super_packet.count() {
            let mut out = vec![0; super_packet.packet_len(index)];
            super_packet.write(index, &mut out);
            back.push(out);
        }
    }
    (groups.len(), back)
}

fn train(tcp: bool, v6: bool, count: usize, size: usize, last: usize) -> Vec<Vec<u8>> {
    let mut sequence = u32::MAX - 3000;
    (0..count)
        .map(|index| {
            let len = if index + 1 == count { last } else { size };
            let flags = if index + 1 == count { 0x18 } else { 0x10 };
            let payload: Vec<u8> = (0..len).map(|at| u8::try_from((at * 7 + index) % 256).unwrap()).collect();
            let bytes = packet(tcp, v6, sequence, flags, u16::try_from(index).unwrap(), &payload);
            sequence = sequence.wrapping_add(u32::try_from(len).unwrap());
            bytes
        })
        .collect()
}

#[test]
fn a_train_becomes_one_super_packet_and_the_same_train_again() {
    for tcp in [true, false] {
        for v6 in [true, false] {
            let packets = train(tcp, v6, 40, 1380, 777);
            let (groups, back) = there_and_back(&packets);
            assert_eq!(groups, 1, "tcp {tcp} v6 {v6}");
            assert_eq!(back, packets, "tcp {tcp} v6 {v6}");
        }
    }
}

#[test]
fn a_gap_a_push_or_a_longer_packet_begins_a_new_group() {
    let mut packets = train(true, false, 6, 1000, 1000);
    packets.remove(3);
    assert_eq!(there_and_back(&packets), (2, packets));

    let mut packets = train(true, false, 3, 1000, 1000);
    packets.extend(train(true, false, 3, 1000, 1000));
    assert_eq!(there_and_back(&packets), (2, packets));

    let packets = [train(false, true, 2, 100, 100), train(false, true, 1, 0, 200)].concat();
    assert_eq!(there_and_back(&packets), (2, packets));
}

#[test]
fn a_bad_checksum_is_passed_on_as_it_is() {
    let mut packets = train(true, false, 4, 1000, 1000);
    let last = packets[2].len() - 1;
    packets[2][last] ^= 1;
    assert_eq!(there_and_back(&packets), (3, packets.clone()));
    packets[2][last] ^= 1;
    packets[2][10] ^= 1;
    assert_eq!(there_and_back(&packets).1, packets, "nor is a bad IP header mended");
}

#[test]
fn nothing_of_a_flow_overtakes_and_flows_mix() {
    let one = train(true, false, 4, 500, 500);
    let other = train(true, true, 4, 500, 500);
    let mut packets = Vec::new();
    for (a, b) in one.iter().zip(&other) {
        packets.extend([a.clone(), b.clone()]);
    }
    let (groups, back) = there_and_back(&packets);
    assert_eq!(groups, 2);
    assert_eq!(back, [one.clone(), other].concat());

    // A pure acknowledgement between data stays between them.
    let mut packets = one;
    packets.insert(2, packet(true, false, 1, 0x10, 9, b""));
    assert_eq!(there_and_back(&packets), (3, packets));
}

#[test]
fn partial_checksums_are_completed() {
    for tcp in [true, false] {
        let whole = packet(tcp, true, 5, 0x10, 0, b"odd length!");
        let mut partial = whole.clone();
        let (offset, protocol) =
            if tcp { (TCP_CHECKSUM, PROTOCOL_TCP) } else { (UDP_CHECKSUM, PROTOCOL_UDP) };
        let sum = netio::checksum::Sum::default()
            .with_pseudo_header(&whole[8..40], protocol, whole.len() - 40)
            .folded();
        partial[40 + offset..40 + offset + 2].copy_from_slice(&sum);
        let vnet = VnetHeader {
            needs_checksum: true,
            checksum_start: 40,
            checksum_offset: u16::try_from(offset).unwrap(),
            ..VnetHeader::default()
        };
        let bytes = [&vnet.encode()[..], &partial].concat();
        let mut out = vec![0; whole.len()];
        assert_eq!(SuperPacket::parse(&bytes).unwrap().write(0, &mut out), whole.len());
        assert_eq!(out, whole);
    }
}

proptest! {
    #[test]
    fn any_train_survives(tcp: bool, v6: bool, count in 1usize..60, size in 1usize..1400, last in 1usize..1400) {
        let packets = train(tcp, v6, count, size, last.min(size));
        let (groups, back) = there_and_back(&packets);
        prop_assert_eq!(back, packets);
        prop_assert!(groups <= 1 + (count * (size + 72)) / 60_000, "{} groups", groups);
    }

    #[test]
    fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 4u8..7) {
        if bytes.len() > VNET_HEADER {
            bytes[VNET_HEADER] = version << 4 | 5;
        }
        assert_any_bytes_are_read(&bytes);
    }
}
