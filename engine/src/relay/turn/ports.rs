//! Where clients come to: the listening sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use netio::udp::{UdpConfig, UdpSocket};
use socket2::{Domain, Protocol, Socket, Type};

use super::TurnConfig;

/// A port that can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("TURN can't listen on {address}: {error}; is the port taken? Choose another under `listen`")]
pub struct ListenError {
    pub(super) address: SocketAddr,
    pub(super) error: io::Error,
}

/// Who may have the same port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sharing {
    /// Nobody.
    Nobody,
    /// The server's other cores (`SO_REUSEPORT`).
    Cores,
}

/// Whether all ports are free. The kernel would let cores share theirs with another server as well, and give that one a part of
/// the clients; so this is to be asked before the first core opens its sockets.
///
/// # Errors
/// The first port that is taken, or not to be had.
pub fn check_ports(config: &TurnConfig) -> Result<(), ListenError> {
    for &address in &config.listen {
        let failed = |error| ListenError { address, error };
        datagrams(address, Sharing::Nobody).map_err(failed)?;
        if config.tcp {
            connections(address, Sharing::Nobody).map_err(failed)?;
        }
    }
    Ok(())
}

/// A socket for clients' datagrams.
pub(super) fn datagrams(address: SocketAddr, sharing: Sharing) -> io::Result<UdpSocket> {
    let reuse_port = sharing == Sharing::Cores;
    UdpSocket::bind(address, &UdpConfig { reuse_port, local_address: false, ..UdpConfig::default() })
}

/// A socket for clients' connections.
pub(super) fn connections(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(sharing == Sharing::Cores)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_not_shared_with_another_server() {
        let other = datagrams("127.0.0.1:0".parse().unwrap(), Sharing::Cores).unwrap();
        let address = other.local_addr().unwrap();
        let text = format!("listen = ['{address}']\nrelay = ['127.0.0.1']\nsecrets = ['s']");
        let config: TurnConfig = toml::from_str(&text).unwrap();
        let taken = format!("TURN can't listen on {address}: Address already in use");
        let error = check_ports(&config).unwrap_err().to_string();
        assert!(error.starts_with(&taken), "{error}");
        drop(other);
        let other = connections(address, Sharing::Cores).unwrap();
        let error = check_ports(&config).unwrap_err().to_string();
        assert!(error.starts_with(&taken), "{error}");
        drop(other);
        check_ports(&config).unwrap();
        let [_one, _other] = [(); 2].map(|()| connections(address, Sharing::Cores).unwrap());
    }
}
