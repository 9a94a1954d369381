//! What an endpoint has seen, as plain numbers.

/// Running totals since the start. Each drop has its cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets decrypted and accepted, keepalives not counted.
    pub packets_in: u64,
    /// Bytes in them.
    pub bytes_in: u64,
    /// Packets encrypted, keepalives not counted.
    pub packets_out: u64,
    /// Bytes in them, before padding.
    pub bytes_out: u64,
    /// Keepalives received.
    pub keepalives_in: u64,
    /// Handshakes that gave a session, either side beginning.
    pub handshakes: u64,
    /// Cookies sent because of load.
    pub cookies_sent: u64,
    /// Initiations for peers that are at home at another endpoint.
    pub handed_over: u64,
    /// Datagrams that are no WireGuard message.
    pub dropped_garbage: u64,
    /// Handshake messages whose first MAC is wrong: the sender doesn't know our key.
    pub dropped_mac: u64,
    /// Handshake messages dropped under load.
    pub dropped_load: u64,
    /// Handshake messages that are not authentic, or from no peer of ours.
    pub dropped_handshake: u64,
    /// Initiations that were replayed or came too fast.
    pub dropped_initiation_replay: u64,
    /// Messages for a session or exchange that we don't have.
    pub dropped_no_session: u64,
    /// Data that does not authenticate.
    pub dropped_forged: u64,
    /// Data that came twice, or too late to tell.
    pub dropped_replay: u64,
    /// Data on sessions too old to be used.
    pub dropped_expired: u64,
    /// Decrypted content that is no IP packet.
    pub dropped_not_ip: u64,
    /// Decrypted packets from an address that is not the peer's.
    pub dropped_source: u64,
    /// Outgoing packets to an address that no peer has.
    pub dropped_no_peer: u64,
    /// Outgoing packets to a peer whose address is not known.
    pub dropped_no_path: u64,
    /// Outgoing packets for want of room to wait for a handshake, and those whose handshake failed.
    pub dropped_staged: u64,
    /// Messages of our own that no one fetched in time.
    pub dropped_output: u64,
}
