//! The server as a process, on loopback.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    ops::Deref,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

pub const USER: &str = "alice";
pub const PASSWORD: &str = "pw";
pub const SECRET: &str = "shared secret";

/// A relay that runs.
pub struct Relay {
    /// Where clients come.
    pub address: SocketAddr,
    /// Where its numbers are.
    pub metrics: SocketAddr,
}

/// A running server; stopped when dropped.
pub struct Server {
    child: Child,
    /// Kept open: a server that can't write must not die.
    _said: BufReader<ChildStderr>,
    relay: Relay,
}

impl Deref for Server {
    type Target = Relay;

    fn deref(&self) -> &Relay {
        &self.relay
    }
}

pub fn free_port(ip: IpAddr) -> u16 {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Listens on IPv4 or IPv6, and relays from both.
    pub fn start(ipv6: bool, cores: u16) -> Server {
        let ip: IpAddr = if ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        let address = SocketAddr::new(ip, free_port(ip));
        let metrics = SocketAddr::new(ip, free_port(ip));
        let mut child = Command::new(env!("CARGO_BIN_EXE_topio"))
            .args(["turn", "serve", "--relay", "127.0.0.1", "--relay", "::1"])
            .args(["--allow-peers", "127.0.0.0/8", "--allow-peers", "::1/128"])
            .args(["--user", &format!("{USER}:{PASSWORD}"), "--secret", SECRET])
            .args(["--listen", &address.to_string(), "--metrics", &metrics.to_string()])
            .args(["--cores", &cores.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready"), "{line}");
        Server { child, _said: said, relay: Relay { address, metrics } }
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Relay {
    /// The sum of a metric over all labels that contain `label`, once the numbers have settled.
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        // Cores tell their numbers twice a second.
        std::thread::sleep(Duration::from_millis(1200));
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let start = format!("topio_{name}");
        let lines = text.lines().filter(|line| line.starts_with(&start) && line.contains(label));
        let values = lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
        values.sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
