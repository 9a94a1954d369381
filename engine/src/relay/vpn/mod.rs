//! The VPN: a WireGuard endpoint with a TUN device, an address pool and a way to the internet.
//!
//! The protocol is [`relay_dp::vpn`]; here are its sockets and device ([`service`]), the cores that share it ([`server`]), the host's
//! addresses, routes and masquerade ([`host`]), the clients' files ([`clients`]), what people see of it ([`status`]), and the thread
//! that keeps those files.

pub mod clients;
pub mod config;
mod handover;
mod homes;
pub mod host;
mod keeper;
mod meters;
pub mod run;
pub mod server;
pub mod service;
mod settings;
pub mod status;

use std::io;
use std::path::PathBuf;

pub use config::VpnConfig;
pub use run::{connect, serve};
pub use server::{VpnPart, VpnServer};

/// Why the VPN does not run. Each says in one line what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum VpnError {
    /// The TUN device.
    #[error(
        "the TUN device {name} can't be made: {error}; it takes root (or CAP_NET_ADMIN) and /dev/net/tun, and a name that is free"
    )]
    Tun {
        /// The device.
        name: String,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The UDP port.
    #[error("can't listen on {address}: {error}; is another VPN running? Choose another «listen»")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A command that sets the host up.
    #[error("«{command}» failed: {message}")]
    Host {
        /// The command line.
        command: String,
        /// What it said.
        message: String,
    },
    /// Files of the VPN.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] crate::config::TomlFileError),
    /// What was asked for can't be.
    #[error("{0}")]
    Refused(String),
    /// What failed is on another core, and said there.
    #[error("the VPN's part on another core has failed")]
    OtherCore,
    /// A core's thread.
    #[error(transparent)]
    Thread(#[from] crate::relay::threads::ThreadError),
    /// The socket or the device failed while running.
    #[error("the VPN's {0} failed: {1}")]
    Io(&'static str, io::Error),
}

impl VpnError {
    fn file(path: &std::path::Path, error: impl std::fmt::Display) -> Self {
        VpnError::File { path: path.into(), error: error.to_string() }
    }
}
