//! The ports of a validator.

use std::{
    io,
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

/// The kernel closes the sockets of a ring some time after its process has ended.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A port that can't be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't listen on {address}: {error}; is another node running, or the port taken? Choose another in [listen]"
)]
pub struct ListenError {
    pub(super) address: SocketAddr,
    pub(super) error: io::Error,
}

/// Whether nobody listens on the clients' port. The kernel would let the cores, which share it, share it with another validator as
/// well, and give that one a part of the clients. Waits a moment for a node that was killed just now.
///
/// # Errors
/// The port is taken, or not to be had.
pub fn check_clients_port(address: SocketAddr) -> Result<(), ListenError> {
    let until = Instant::now() + CLOSED_WITHIN;
    loop {
        match netio::check_port(address) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                sleep(LOOK_AGAIN)
            }
            Err(error) => return Err(ListenError { address, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn the_clients_port_is_not_shared_with_another_validator() {
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        other.set_reuse_port(true).unwrap();
        other.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        other.listen(1).unwrap();
        let address = other.local_addr().unwrap().as_socket().unwrap();
        let error = check_clients_port(address).unwrap_err().to_string();
        assert!(error.contains("is another node running, or the port taken?"), "{error}");
        drop(other);
        check_clients_port(address).unwrap();
    }

    #[test]
    fn the_same_port_of_ipv4_is_another_one() {
        let other = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        match check_clients_port(v6) {
            Err(error) if error.error.kind() == io::ErrorKind::AddrInUse => panic!("{error}"),
            _ => {} // or there is no IPv6 here
        }
    }
}
