//! The four messages (section 5.4) and their layouts.
//!
//! ```text
//! initiation  1 000 | sender 4 | ephemeral 32 | static 48 | timestamp 28 | mac1 16 | mac2 16   148 bytes
//! response    2 000 | sender 4 | receiver 4 | ephemeral 32 | nothing 16 | mac1 16 | mac2 16     92 bytes
//! cookie      3 000 | receiver 4 | nonce 24 | cookie 32                                         64 bytes
//! data        4 000 | receiver 4 | counter 8 | packet and tag                                   32 bytes or more
//! ```
//! All numbers are little-endian.

pub(super) const INITIATION: usize = 148;
pub(super) const RESPONSE: usize = 92;
pub(super) const COOKIE_REPLY: usize = 64;
pub(super) const DATA_HEADER: usize = 16;
pub(super) const TAG: usize = 16;
pub(super) const MAC: usize = 16;

/// Bytes that the tunnel adds to a packet, padding aside.
pub const OVERHEAD: usize = DATA_HEADER + TAG;

/// Kinds of messages, as their first byte says.
pub(super) mod kind {
    pub const INITIATION: u8 = 1;
    pub const RESPONSE: u8 = 2;
    pub const COOKIE_REPLY: u8 = 3;
    pub const DATA: u8 = 4;
}

/// A datagram by its kind, with the right length and reserved bytes of zero.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Initiation(&'a mut [u8; INITIATION]),
    Response(&'a mut [u8; RESPONSE]),
    CookieReply(&'a mut [u8; COOKIE_REPLY]),
    Data { receiver: u32, counter: u64 },
}

impl<'a> Message<'a> {
    pub(super) fn classify(bytes: &'a mut [u8]) -> Option<Self> {
        let [kind, 0, 0, 0, ..] = *bytes else { return None };
        match kind {
            kind::DATA if bytes.len() >= DATA_HEADER + TAG => {
                let (head, _) = bytes.split_first_chunk::<DATA_HEADER>()?;
                let counter = *head[8..].first_chunk()?;
                Some(Self::Data { receiver: index_at(head, 4), counter: u64::from_le_bytes(counter) })
            }
            kind::INITIATION => bytes.try_into().ok().map(Self::Initiation),
            kind::RESPONSE => bytes.try_into().ok().map(Self::Response),
            kind::COOKIE_REPLY => bytes.try_into().ok().map(Self::CookieReply),
            _ => None,
        }
    }
}

/// The index that stands at `at`.
pub(super) fn index_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Classifies any bytes; for the fuzzer.
#[doc(hidden)]
pub fn assert_any_datagram_is_classified(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    let len = copy.len();
    match Message::classify(&mut copy) {
        None => {}
        Some(Message::Initiation(_)) => assert_eq!(len, INITIATION, "an initiation has one length"),
        Some(Message::Response(_)) => assert_eq!(len, RESPONSE, "a response has one length"),
        Some(Message::CookieReply(_)) => assert_eq!(len, COOKIE_REPLY, "a cookie reply has one length"),
        Some(Message::Data { receiver, .. }) => {
            assert!(len >= OVERHEAD, "data has header and tag");
            assert_eq!(receiver, index_at(bytes, 4), "the index is the one that stands there");
        }
    }
}
