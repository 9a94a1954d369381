//! coturn's own clients: turnutils_uclient sends through our relay to turnutils_peer, which sends back.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
};

use crate::server::{PASSWORD, Relay, SECRET, Server, USER, free_port};

/// An echo.
pub struct Peer(Child, SocketAddr);

impl Peer {
    pub fn start(ip: IpAddr) -> Peer {
        let port = free_port(ip);
        let child = Command::new("turnutils_peer")
            .args(["-L", &ip.to_string(), "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("turnutils_peer of the Debian package coturn");
        Peer(child, SocketAddr::new(ip, port))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Messages of each of the clients.
const MESSAGES: u64 = 50;

/// Runs the client with `options` and requires that every message comes back.
pub fn call(server: &Relay, peer: &Peer, options: &[&str], clients: u64) {
    let output = Command::new("turnutils_uclient")
        .args(["-e", &peer.1.ip().to_string(), "-r", &peer.1.port().to_string()])
        .args([
            "-p",
            &server.address.port().to_string(),
            "-n",
            &MESSAGES.to_string(),
            "-m",
            &clients.to_string(),
        ])
        .args(["-l", "200", "-z", "5"])
        .args(options)
        .arg(server.address.ip().to_string())
        .output()
        .expect("turnutils_uclient of the Debian package coturn");
    let text = String::from_utf8_lossy(&output.stdout);
    let total = format!("tot_send_msgs={}, tot_recv_msgs={0}", clients * MESSAGES);
    assert!(text.contains(&total), "{options:?} without «{total}»:\n{text}");
}

pub const LONG_TERM: [&str; 4] = ["-u", USER, "-w", PASSWORD];

/// Every way to send, over one server.
#[test]
fn coturn_s_client_gets_everything_back() {
    let server = Server::start(false, 2);
    let peer = Peer::start(server.address.ip());
    for way in [
        &["-c"][..],         // channels
        &["-c", "-s"],       // Send indications
        &["-c", "-t"],       // TCP to the server
        &["-c", "-t", "-s"], // the same with indications
        &["-c", "-D"],       // padded channel data
        &["-c", "-s", "-g"], // whole or not at all (DONT-FRAGMENT)
    ] {
        call(&server, &peer, &[way, &LONG_TERM].concat(), 4);
    }
    // Time-limited credentials.
    call(&server, &peer, &["-c", "-W", SECRET], 4);
    assert_eq!(server.metric("relay_turn_drops_total", "strangers"), 0);
}

/// RTP and RTCP on neighbouring ports: EVEN-PORT and RESERVATION-TOKEN.
#[test]
fn coturn_s_client_gets_an_even_port_and_the_next() {
    let server = Server::start(false, 1);
    let peer = Peer::start(server.address.ip());
    call(&server, &peer, &LONG_TERM, 4);
}

#[test]
fn coturn_s_client_over_ipv6() {
    let server = Server::start(true, 1);
    let peer = Peer::start(server.address.ip());
    for way in [&["-c", "-x"][..], &["-c", "-x", "-s"], &["-c", "-x", "-t"]] {
        call(&server, &peer, &[way, &LONG_TERM].concat(), 2);
    }
}

#[test]
fn coturn_s_client_is_refused_with_a_wrong_password() {
    let server = Server::start(false, 1);
    let output = Command::new("turnutils_uclient")
        .args([
            "-e",
            "127.0.0.1",
            "-p",
            &server.address.port().to_string(),
            "-n",
            "1",
            "-u",
            USER,
            "-w",
            "no",
            "127.0.0.1",
        ])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Cannot complete Allocation"));
    assert!(server.metric("relay_turn_refused_total", "Unauthorized") > 0);
    assert_eq!(server.metric("relay_turn_allocated_total", ""), 0);
}
