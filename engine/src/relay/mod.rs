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

impl RelayConfig {
    /// Whether any service is offered: then packets wait for the core's other work, which must come in short slices.
    #[must_use]
    pub fn is_any(&self) -> bool {
        let RelayConfig { turn } = self;
        turn.is_some()
    }
}
