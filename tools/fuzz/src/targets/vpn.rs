//! What arrives at the VPN: datagrams from anyone, packets from the device, configurations from people.

use std::net::SocketAddr;

use relay_dp::{
    offload,
    vpn::{
        ClientConfig, Endpoint, EndpointConfig, Network, Outcome, Path, Secrets, Share,
        assert_any_datagram_is_classified, generate_private_key,
    },
};

use super::{Verdict, words};

/// A usual configuration.
pub const CONFIG: &[u8] = b"[Interface]
PrivateKey = YAnz5TF+lXXJte14tji3zlMNftqL1kCHJG2iO6RTtm8=
Address = 10.77.0.2/32, fd77:746f:70::2/128
DNS = 10.77.0.1
MTU = 1420

[Peer]
PublicKey = HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25
";

const MTU: usize = 1420;
const SECOND: u64 = 1_000_000_000;

fn endpoint(seed: u8) -> Endpoint {
    let private_key = generate_private_key(&mut Secrets::new([seed; 32]));
    Endpoint::new(
        EndpointConfig { private_key, mtu: MTU, unix_time_at_zero: 1, seed: [seed; 32], share: Share::WHOLE },
        0,
    )
}

fn path(port: u16) -> Path {
    Path { peer: SocketAddr::from(([192, 0, 2, 1], port)), local: None }
}

/// A datagram at an endpoint with a live session: it is dropped for a reason that is counted, and answered by at most as
/// many bytes. The first byte says how it is cut into segments; the second can make it a message for the live session.
pub fn datagram(bytes: &[u8]) -> Verdict {
    let [segment, index, datagram @ ..] = bytes else { return Err("too short".into()) };
    assert_any_datagram_is_classified(datagram);
    let (mut server, mut client) = (endpoint(1), endpoint(2));
    let all = Network::parse("0.0.0.0/0").expect("a network");
    client.set_peer(server.public_key(), None, &[all], Some(path(1).peer), Some(25), 0);
    server.set_peer(client.public_key(), None, &[all], None, None, 0);
    client.handle_timeout(SECOND);
    // Initiation, response, keepalive.
    let (mut accepted, mut to_server) = (Vec::new(), true);
    let mut live_index = [0; 4];
    for _ in 0..3 {
        let from = if to_server { &mut client } else { &mut server };
        let mut message = from.poll_output().expect("the handshake goes on").bytes().to_vec();
        if to_server {
            live_index.copy_from_slice(&message[4..8]);
        }
        let to = if to_server { &mut server } else { &mut client };
        let len = message.len();
        to.receive(&mut message, len, path(if to_server { 2 } else { 1 }), SECOND, &mut accepted);
        to_server = !to_server;
    }
    assert!(server.counters().handshakes == 1 && server.counters().keepalives_in == 1, "the session is live");
    let mut datagram = datagram.to_vec();
    if *index == 1 && datagram.len() >= 8 {
        datagram[4..8].copy_from_slice(&live_index);
    }
    let size = datagram.len();
    let before = server.counters();
    server.receive(&mut datagram, usize::from(*segment) * 8 + 1, path(3), 2 * SECOND, &mut accepted);
    assert!(accepted.is_empty(), "nobody has forged a packet");
    assert_eq!(server.counters().handshakes, before.handshakes, "nobody has forged a handshake");
    let answered: usize =
        std::iter::from_fn(|| server.poll_output()).map(|message| message.bytes().len()).sum();
    assert!(answered <= size, "{answered} bytes for {size}");
    let after = server.counters();
    let drops = [
        ("garbage", after.dropped_garbage - before.dropped_garbage),
        ("mac", after.dropped_mac - before.dropped_mac),
        ("no session", after.dropped_no_session - before.dropped_no_session),
        ("forged", after.dropped_forged - before.dropped_forged),
        ("replay", after.dropped_replay - before.dropped_replay),
    ];
    let causes: Vec<&str> = drops.iter().filter(|(_, count)| *count > 0).map(|(cause, _)| *cause).collect();
    if causes.is_empty() { Ok(()) } else { Err(causes.join(", ")) }
}

/// A packet from the device, with its vnet header: cut, sealed, and read by the other side.
pub fn packet(bytes: &[u8]) -> Verdict {
    offload::assert_any_bytes_are_read(bytes);
    let mut client = endpoint(2);
    let all = ["0.0.0.0/0", "::/0"].map(|net| Network::parse(net).expect("a network"));
    client.set_peer(endpoint(1).public_key(), None, &all, Some(path(1).peer), None, 0);
    let mut out = vec![0; 65_600];
    match client.send(bytes, 0, &mut out, SECOND) {
        Outcome::Staged => Ok(()),
        Outcome::Train(_) => panic!("there is no session"),
        Outcome::Dropped => Err("no packet".into()),
    }
}

/// A configuration text: what is read is written and read again.
pub fn config(bytes: &[u8]) -> Verdict {
    let text = std::str::from_utf8(bytes).map_err(words)?;
    let config = ClientConfig::parse(text).map_err(words)?;
    assert_eq!(ClientConfig::parse(&config.to_string()).as_ref(), Ok(&config));
    Ok(())
}

/// Packets with their vnet headers: a plain one, and TCP to be cut in three.
pub fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let ip = |len: u8, protocol: u8| {
        [0x45, 0, 0, len, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    };
    let plain = [&[0; 10][..], &ip(28, 17), &[0, 7, 0, 7, 0, 8, 0, 0]].concat();
    let vnet = offload::VnetHeader {
        needs_checksum: true,
        gso: offload::Gso::Tcp4,
        header_len: 40,
        segment: 16,
        checksum_start: 20,
        checksum_offset: 16,
    };
    let tcp = [0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    let super_packet = [&vnet.encode()[..], &ip(80, 6), &tcp, &[7; 40]].concat();
    vec![("plain", plain), ("tcp", super_packet)]
}
