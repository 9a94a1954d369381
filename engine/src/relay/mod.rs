//! The relay services: what moves people's packets on a core, beside or without a validator.

pub mod node_time;
mod threads;
pub mod turn;
pub mod vpn;

use std::path::Path;

use serde::Deserialize;

pub use self::threads::ThreadError;
use crate::config::{TomlFileError, toml_file};

/// `[relay]` of a node's configuration: the services that it offers. None by default.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// STUN and TURN for calls.
    pub turn: Option<turn::TurnConfig>,
    /// A WireGuard VPN with a way to the internet.
    pub vpn: Option<vpn::VpnConfig>,
}

impl RelayConfig {
    /// Checks a text with sections `[relay…]` of a node's configuration; `path` names it in errors.
    ///
    /// # Errors
    /// Not TOML, other sections, an unknown key, or a value out of range.
    pub fn check(path: &Path, text: &str) -> Result<(), TomlFileError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sections {
            #[expect(dead_code, reason = "only read to be checked")]
            relay: RelayConfig,
        }
        toml_file::parse::<Sections>(path, text).map(drop)
    }

    /// Whether the node offers any.
    pub fn has_relay(&self) -> bool {
        self.turn.is_some() || self.vpn.is_some()
    }
}
