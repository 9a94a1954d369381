//! Who may use the relay: long-term credentials and nonces (RFC 8489 section 9.2), time-limited credentials.

use std::{collections::HashMap, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use constant_time_eq::constant_time_eq;
use ring::hmac;

use super::{
    Now, limits,
    stun::{ErrorCode, Integrity, Key, Keys, Message, Writer, attribute},
};

/// What a nonce begins with that says which features its server has (RFC 8489 section 9.2.1), with bit 0, «password
/// algorithms», set: base64 of `80 00 00`.
const COOKIE: &str = "obMatJos2gAAA";
/// Hex digits behind that: seconds since the server's start, then 12 bytes of keyed hash.
const NONCE: usize = COOKIE.len() + 8 + 24;
/// MD5, then SHA-256, both without parameters (RFC 8489 section 14.11, 18.5).
const ALGORITHMS: [u8; 8] = [0, 1, 0, 0, 0, 2, 0, 0];

/// The password to a time-limited user name, as base64.
pub fn rest_password(secret: &str, username: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}

/// A request whose sender knows the password.
pub struct Authenticated<'a> {
    /// Whose quota it falls under: without the expiry of a time-limited user name.
    pub user: &'a str,
    /// How the answer is protected.
    pub seal: Seal,
}

/// How answers to an authenticated request are protected.
pub struct Seal {
    integrity: Integrity,
    keys: Keys,
    sha256_key: bool,
}

impl Seal {
    fn key(&self) -> Key<'_> {
        if self.sha256_key { self.keys.sha256() } else { self.keys.md5() }
    }

    /// Protects an answer.
    pub fn put(&self, writer: &mut Writer<'_>) {
        writer.integrity(self.integrity, self.key());
    }
}

/// Why a request is not authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The answer's code.
    pub error: ErrorCode,
    /// Whether the answer tells realm, nonce and algorithms.
    pub challenge: bool,
}

const CHALLENGE: Refusal = Refusal { error: ErrorCode::Unauthorized, challenge: true };
const STALE: Refusal = Refusal { error: ErrorCode::StaleNonce, challenge: true };
const BAD: Refusal = Refusal { error: ErrorCode::BadRequest, challenge: false };

/// The credentials, and the key of nonces.
pub struct Auth {
    realm: String,
    users: HashMap<String, Keys, ahash::RandomState>,
    secrets: Vec<String>,
    nonce_key: [u8; 32],
    nonce_lifetime: u32,
}

impl Auth {
    /// With the credentials of a configuration.
    pub fn new(config: &super::Config, nonce_key: [u8; 32], hasher: ahash::RandomState) -> Auth {
        let mut users = HashMap::with_capacity_and_hasher(config.users.len(), hasher);
        for (name, password) in &config.users {
            let keys = Keys::new(name.as_bytes(), config.realm.as_bytes(), password.as_bytes());
            users.insert(name.clone(), keys);
        }
        Auth {
            realm: config.realm.clone(),
            users,
            secrets: config.secrets.clone(),
            nonce_key,
            nonce_lifetime: config.nonce_lifetime,
        }
    }

    /// Checks a request's credentials in the order of RFC 8489 section 9.2.4.
    pub fn check<'a>(
        &self,
        message: &Message<'a>,
        from: SocketAddr,
        now: Now,
    ) -> Result<Authenticated<'a>, Refusal> {
        let integrity = message.integrity().ok_or(CHALLENGE)?;
        let (Some(username), Some(realm), Some(nonce)) = (
            message.find(attribute::USERNAME),
            message.find(attribute::REALM),
            message.find(attribute::NONCE),
        ) else {
            return Err(BAD);
        };
        let sha256_key = chosen_algorithm(message)?;
        if username.len() > limits::USERNAME || realm != self.realm.as_bytes() {
            return Err(CHALLENGE);
        }
        let username = std::str::from_utf8(username).map_err(|_| CHALLENGE)?;
        let (user, keys) = self.known(username, now, message, sha256_key).ok_or(CHALLENGE)?;
        if !self.is_fresh(nonce, from, now) {
            return Err(STALE);
        }
        Ok(Authenticated { user, seal: Seal { integrity, keys, sha256_key } })
    }

    /// The user and the keys that the message was protected with.
    fn known<'a>(
        &self,
        username: &'a str,
        now: Now,
        message: &Message<'_>,
        sha256_key: bool,
    ) -> Option<(&'a str, Keys)> {
        let fits = |keys: &Keys| message.is_intact(if sha256_key { keys.sha256() } else { keys.md5() });
        if let Some(keys) = self.users.get(username) {
            return fits(keys).then(|| (username, keys.clone()));
        }
        let (expiry, name) = username.split_once(':').unwrap_or((username, username));
        let expiry: u64 = expiry.parse().ok()?;
        if expiry <= now.unix {
            return None;
        }
        self.secrets.iter().find_map(|secret| {
            let password = rest_password(secret, username);
            let keys = Keys::new(username.as_bytes(), self.realm.as_bytes(), password.as_bytes());
            fits(&keys).then_some((name, keys))
        })
    }

    /// Adds what a client needs to authenticate.
    pub fn challenge(&self, writer: &mut Writer<'_>, from: SocketAddr, now: Now) {
        writer
            .attribute(attribute::REALM, self.realm.as_bytes())
            .attribute(attribute::NONCE, &self.nonce(from, now.seconds()))
            .attribute(attribute::PASSWORD_ALGORITHMS, &ALGORITHMS);
    }

    /// A nonce that only `from` can use, and that needs no memory: when it was made, under a keyed hash with the address.
    fn nonce(&self, from: SocketAddr, made: u32) -> [u8; NONCE] {
        let made = made.to_be_bytes();
        let mut hasher = blake3::Hasher::new_keyed(&self.nonce_key);
        hasher.update(&made);
        match from.ip() {
            std::net::IpAddr::V4(ip) => hasher.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => hasher.update(&ip.octets()),
        };
        hasher.update(&from.port().to_be_bytes());
        let mut nonce = [0; NONCE];
        nonce[..COOKIE.len()].copy_from_slice(COOKIE.as_bytes());
        let (time, mac) = nonce[COOKIE.len()..].split_at_mut(8);
        to_hex(&made, time);
        to_hex(&hasher.finalize().as_bytes()[..12], mac);
        nonce
    }

    fn is_fresh(&self, nonce: &[u8], from: SocketAddr, now: Now) -> bool {
        let Some(made) = nonce.get(COOKIE.len()..COOKIE.len() + 8).and_then(from_hex) else { return false };
        let ours = constant_time_eq(&self.nonce(from, made), nonce);
        let age = now.seconds().checked_sub(made);
        ours && age.is_some_and(|age| age < self.nonce_lifetime)
    }
}

/// Whether the client chose SHA-256 for its key, as RFC 8489 section 9.2.4 checks it: our nonces all say that we know both.
fn chosen_algorithm(message: &Message<'_>) -> Result<bool, Refusal> {
    let offered = message.find(attribute::PASSWORD_ALGORITHMS);
    let chosen = message.find(attribute::PASSWORD_ALGORITHM);
    match (offered, chosen) {
        (None, None) => Ok(false),
        (Some(offered), Some([0, algorithm @ (1 | 2), 0, 0])) if offered == ALGORITHMS => Ok(*algorithm == 2),
        _ => Err(BAD),
    }
}

fn to_hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        for (digit, place) in [byte >> 4, byte & 15].into_iter().zip(pair) {
            *place = b"0123456789abcdef"[usize::from(digit)];
        }
    }
}

fn from_hex(digits: &[u8]) -> Option<u32> {
    let digit = |value: u32, byte: &u8| Some(value << 4 | char::from(*byte).to_digit(16)?);
    digits.iter().try_fold(0, digit)
}
