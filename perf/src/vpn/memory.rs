//! What many idle clients cost in memory.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, ensure};
use relay_dp::vpn::{
    Accepted, Endpoint, EndpointConfig, Nanos, Network, Path, PrivateKey, Secrets, Share,
    generate_private_key,
};

/// Between two clients' handshakes: less than what makes the endpoint ask for cookies.
const PAUSE: Nanos = 20_000_000;
/// Handshakes of each client: a current session and the one before.
const SESSIONS: u64 = 2;

/// Bytes of resident memory of this process that an endpoint with so many clients adds, each with an IPv4 and an IPv6 address, a
/// preshared key and two sessions. The handshakes are real.
///
/// # Errors
/// A handshake fails.
pub fn of_idle_clients(clients: u32) -> anyhow::Result<f64> {
    let before = resident_bytes()?;
    let server_key = key(u32::MAX);
    let server_public = server_key.public();
    let mut now = 0;
    let mut server = endpoint(server_key, now);
    for number in 0..clients {
        server.set_peer(key(number).public(), Some(psk(number)), &networks(number), None, None, now);
    }
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 51820));
    for _ in 0..SESSIONS {
        for number in 0..clients {
            now += PAUSE;
            let mut client = endpoint(key(number), now);
            let all = ["0.0.0.0/0", "::/0"].map(|net| Network::parse(net).expect("a network"));
            client.set_peer(server_public, Some(psk(number)), &all, Some(listen), Some(25), now);
            client.handle_timeout(now);
            let address = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + number), 51820));
            deliver(&mut client, &mut server, address, now);
            deliver(&mut server, &mut client, listen, now);
            deliver(&mut client, &mut server, address, now);
        }
    }
    let handshakes = server.counters().handshakes;
    ensure!(handshakes == SESSIONS * u64::from(clients), "{handshakes} handshakes: {:?}", server.counters());
    let bytes = resident_bytes()?.saturating_sub(before);
    drop(server);
    Ok(bytes as f64)
}

fn endpoint(private_key: PrivateKey, now: Nanos) -> Endpoint {
    let seed = *blake3::hash(&private_key.0).as_bytes();
    Endpoint::new(
        EndpointConfig { private_key, mtu: 1420, unix_time_at_zero: 0, seed, share: Share::WHOLE },
        now,
    )
}

fn key(number: u32) -> PrivateKey {
    generate_private_key(&mut secrets("key", number))
}

fn psk(number: u32) -> PrivateKey {
    PrivateKey(secrets("psk", number).bytes())
}

fn secrets(purpose: &str, number: u32) -> Secrets {
    Secrets::new(*blake3::hash(format!("{purpose} {number}").as_bytes()).as_bytes())
}

fn networks(number: u32) -> [Network; 2] {
    let v4 = Ipv4Addr::from_bits(0x0a4d_0002 + number);
    let v6 = Ipv6Addr::from_bits(0xfd77_746f_0070 << 80 | u128::from(number + 2));
    [Network::new(v4.into(), 32).expect("a host"), Network::new(v6.into(), 128).expect("a host")]
}

/// Takes what one says to the other, as from an address.
fn deliver(from: &mut Endpoint, to: &mut Endpoint, address: SocketAddr, now: Nanos) {
    let mut accepted: Vec<Accepted> = Vec::new();
    while let Some(message) = from.poll_output() {
        let mut bytes = message.bytes().to_vec();
        let len = bytes.len();
        to.receive(&mut bytes, len, Path { peer: address, local: None }, now, &mut accepted);
    }
}

fn resident_bytes() -> anyhow::Result<u64> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.context("/proc/…/statm has another layout")? * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn clients_have_real_sessions() {
        super::of_idle_clients(20).unwrap();
    }
}
