//! The client's half of requests: for load generators, health checks and tests. It retransmits nothing and keeps no timers.

use super::stun::{
    Class, ErrorCode, Integrity, Key, Keys, Message, TransactionId, Writer, attribute, decode_xor_address,
};
use std::net::SocketAddr;

/// A user, and what the server has told them so far.
#[derive(Clone, Debug)]
pub struct Requester {
    username: String,
    password: String,
    integrity: Integrity,
    challenge: Option<Challenge>,
    /// Of the next transaction.
    next: u64,
}

#[derive(Clone, Debug)]
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    algorithms: Option<Vec<u8>>,
    keys: Keys,
}

impl Requester {
    /// A user. `first` is the number of the first transaction: different ones for different users of an address.
    pub fn new(username: &str, password: &str, integrity: Integrity, first: u64) -> Requester {
        let (username, password) = (username.into(), password.into());
        Requester { username, password, integrity, challenge: None, next: first }
    }

    /// Writes a request with the attributes that `fill` adds, and credentials once the server has asked for them.
    pub fn request(&mut self, method: u16, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut transaction = TransactionId::default();
        transaction[4..].copy_from_slice(&self.next.to_be_bytes());
        self.next += 1;
        let mut bytes = Vec::with_capacity(256);
        let mut writer = Writer::new(&mut bytes, Class::Request, method, &transaction);
        fill(&mut writer);
        if let Some(Challenge { realm, nonce, algorithms, keys }) = &self.challenge {
            writer
                .attribute(attribute::USERNAME, self.username.as_bytes())
                .attribute(attribute::REALM, realm)
                .attribute(attribute::NONCE, nonce);
            let key = match (self.integrity, algorithms) {
                (Integrity::Sha256, Some(algorithms)) => {
                    writer
                        .attribute(attribute::PASSWORD_ALGORITHMS, algorithms)
                        .attribute(attribute::PASSWORD_ALGORITHM, &[0, 2, 0, 0]);
                    keys.sha256()
                }
                _ => keys.md5(),
            };
            writer.integrity(self.integrity, key);
        }
        writer.fingerprint();
        bytes
    }

    /// The key of answers.
    pub fn key(&self) -> Option<Key<'_>> {
        let challenge = self.challenge.as_ref()?;
        let sha256 = self.integrity == Integrity::Sha256 && challenge.algorithms.is_some();
        Some(if sha256 { challenge.keys.sha256() } else { challenge.keys.md5() })
    }

    /// Learns what the server asks for. Returns whether the request has a chance now.
    pub fn learn(&mut self, answer: &Message<'_>) -> bool {
        let asks = matches!(error_code(answer), Some(401 | 438));
        let (Some(realm), Some(nonce)) = (answer.find(attribute::REALM), answer.find(attribute::NONCE))
        else {
            return false;
        };
        let first = self.challenge.is_none() || error_code(answer) == Some(ErrorCode::StaleNonce.code());
        self.challenge = Some(Challenge {
            realm: realm.into(),
            nonce: nonce.into(),
            algorithms: answer.find(attribute::PASSWORD_ALGORITHMS).map(Into::into),
            keys: Keys::new(self.username.as_bytes(), realm, self.password.as_bytes()),
        });
        asks && first
    }
}

/// An answer's error code; `None` where it has none.
pub fn error_code(answer: &Message<'_>) -> Option<u16> {
    let value = answer.find(attribute::ERROR_CODE)?.first_chunk::<4>()?;
    (answer.class() == Class::Error).then(|| u16::from(value[2] & 7) * 100 + u16::from(value[3]))
}

/// An address in an answer.
pub fn address(answer: &Message<'_>, kind: u16) -> Option<SocketAddr> {
    decode_xor_address(answer.find(kind)?, answer.transaction())
}
