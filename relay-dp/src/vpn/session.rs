//! A session: two keys, a counter and a replay window (section 5.4.6).

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::handshake::SessionKeys;
use super::replay::ReplayWindow;
use super::wire::{DATA_HEADER, OVERHEAD, TAG, kind};
use super::{Nanos, SECOND};

/// When a session's initiator begins the next handshake (section 6.1).
pub(super) const REKEY_AFTER_TIME: Nanos = 120 * SECOND;
/// When a session is not used any more.
pub(super) const REJECT_AFTER_TIME: Nanos = 180 * SECOND;
pub(super) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Why a data message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Replay,
    Forged,
}

/// One pair of keys.
pub(super) struct Session {
    keys: SessionKeys,
    window: ReplayWindow,
    sent: u64,
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) born: Nanos,
    pub(super) is_initiator: bool,
}

/// A key made ready for a run of messages. Making one is cheap (a copy of 32 bytes), holding one for each idle peer is
/// not (it has room for the tables of other ciphers).
pub(super) struct ReadyKey(LessSafeKey);

impl ReadyKey {
    fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of 32 bytes")))
    }
}

impl Session {
    pub(super) fn new(
        keys: SessionKeys,
        local_index: u32,
        remote_index: u32,
        is_initiator: bool,
        now: Nanos,
    ) -> Self {
        Self {
            keys,
            window: ReplayWindow::new(),
            sent: 0,
            local_index,
            remote_index,
            born: now,
            is_initiator,
        }
    }

    pub(super) fn is_alive(&self, now: Nanos) -> bool {
        now.saturating_sub(self.born) < REJECT_AFTER_TIME
    }

    /// Whether `messages` more may be sent.
    pub(super) fn can_send(&self, messages: u64, now: Nanos) -> bool {
        self.is_alive(now) && self.sent < REJECT_AFTER_MESSAGES - messages
    }

    /// Whether its initiator should begin anew because of what it sends.
    pub(super) fn is_due(&self, now: Nanos) -> bool {
        let old = self.is_initiator && now.saturating_sub(self.born) >= REKEY_AFTER_TIME;
        old || self.sent >= REKEY_AFTER_MESSAGES
    }

    pub(super) fn sending_key(&self) -> ReadyKey {
        ReadyKey::new(&self.keys.send)
    }

    pub(super) fn receiving_key(&self) -> ReadyKey {
        ReadyKey::new(&self.keys.receive)
    }

    /// Makes a message of `message`, whose packet lies behind the header, padded, with room for the tag behind it.
    pub(super) fn seal(&mut self, key: &ReadyKey, message: &mut [u8]) {
        let counter = self.sent;
        assert!(counter < REJECT_AFTER_MESSAGES, "asked before");
        self.sent += 1;
        let (head, rest) = message.split_at_mut(DATA_HEADER);
        head[..4].copy_from_slice(&[kind::DATA, 0, 0, 0]);
        head[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        head[8..].copy_from_slice(&counter.to_le_bytes());
        let (packet, tag_place) = rest.split_at_mut(rest.len() - TAG);
        let tag = key.0.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet);
        tag_place.copy_from_slice(tag.expect("a packet is shorter than 256 GiB").as_ref());
    }

    /// Decrypts `message` in place. The packet, with its padding, is what lies between header and tag.
    pub(super) fn open(&mut self, key: &ReadyKey, counter: u64, message: &mut [u8]) -> Result<(), Refused> {
        debug_assert!(message.len() >= OVERHEAD, "classified before");
        // Before the costly part: a flood of replays must not cost decryptions.
        if counter >= REJECT_AFTER_MESSAGES || !self.window.is_new(counter) {
            return Err(Refused::Replay);
        }
        let opened = key.0.open_in_place(nonce(counter), Aad::empty(), &mut message[DATA_HEADER..]);
        opened.map_err(|_| Refused::Forged)?;
        assert!(self.window.mark(counter), "new a moment ago");
        Ok(())
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
