//! The relay services: what moves people's packets on a core, beside or without a validator.

pub mod turn;
pub mod vpn;

use serde::Deserialize;

/// `[relay]` of a node's configuration: the services that it offers. None by default.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// STUN and TURN for calls.
    pub turn: Option<turn::TurnConfig>,
}
