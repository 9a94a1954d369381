//! The vectors of RFC 5769, and another implementation as oracle.

use proptest::prelude::*;
use stun_types::{
    attribute::{Attribute as _, AttributeType, RawAttribute},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message as Theirs, MessageWrite, MessageWriteExt,
        MessageWriteVec, Method,
    },
};

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// RFC 5769 section 2.1.
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae 802200105354554e207465737420636c69656e74
    002400046e0001ff 80290008932ff9b151263b36 000600096576746a3a68367659202020
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2 80280004e57a3bcf";
/// RFC 5769 section 2.2.
const IPV4_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
    002000080001a147e112a643 000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96";
/// RFC 5769 section 2.3.
const IPV6_RESPONSE: &str = "010100482112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9
    00080014a382954e4be67bf11784c97c8292c275bfe3ed41 80280004c8fb0b4c";
/// RFC 5769 section 2.4.
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e
    00060012e3839ee38388e383aae38383e382afe382b90000
    0015001c662f2f3439396b393534643 64f4c33346f4c394653547679363473 41
    0014000b6578616d706c652e6f726700 00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";
const PASSWORD: Key<'static> = Key(b"VOkJxbRl1RmTxUk/WvJxBt");

#[test]
fn rfc_5769_short_term() {
    for (text, class) in
        [(REQUEST, Class::Request), (IPV4_RESPONSE, Class::Success), (IPV6_RESPONSE, Class::Success)]
    {
        let bytes = hex(text);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (class, method::BINDING));
        assert!(message.has_fingerprint() && message.is_intact(PASSWORD));
        assert!(!message.is_intact(Key(b"another")));
    }
    for (text, address) in
        [(IPV4_RESPONSE, "192.0.2.1:32853"), (IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = hex(text);
        let message = Message::parse(&bytes).unwrap();
        let value = message.find(attribute::XOR_MAPPED_ADDRESS).unwrap();
        assert_eq!(decode_xor_address(value, message.transaction()), Some(address.parse().unwrap()));
        let mut again = Vec::new();
        let mut writer = Writer::new(&mut again, Class::Success, method::BINDING, message.transaction());
        writer.attribute(attribute::SOFTWARE, b"test vector");
        // The vector pads with spaces.
        writer.xor_address(attribute::XOR_MAPPED_ADDRESS, &address.parse().unwrap());
        let spaced = |mut bytes: Vec<u8>| {
            bytes[35] = 0;
            bytes
        };
        assert_eq!(spaced(bytes)[20..again.len()], again[20..]);
    }
}

#[test]
fn rfc_5769_long_term() {
    let bytes = hex(LONG_TERM);
    let message = Message::parse(&bytes).unwrap();
    let username = message.find(attribute::USERNAME).unwrap();
    assert_eq!(username, "マトリックス".as_bytes());
    let keys = Keys::new(username, message.find(attribute::REALM).unwrap(), b"TheMatrIX");
    assert!(message.is_intact(keys.md5()) && !message.is_intact(keys.sha256()));
    assert_eq!(message.integrity(), Some(Integrity::Sha1));
}

#[test]
fn every_bit_counts() {
    let bytes = hex(REQUEST);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let whole = |message: Message<'_>| message.has_fingerprint() && message.is_intact(PASSWORD);
        assert!(!Message::parse(&bytes).is_ok_and(whole), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Message::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn what_follows_the_integrity_does_not_count() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Class::Request, method::REFRESH, &[7; 12]);
    writer.attribute(attribute::USERNAME, b"me").integrity(Integrity::Sha1, PASSWORD);
    writer.attribute(attribute::LIFETIME, &[0; 4]).integrity(Integrity::Sha256, PASSWORD);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    assert!(message.is_intact(PASSWORD));
    assert_eq!(message.find(attribute::LIFETIME), None);
    assert_eq!(message.attributes().count(), 1);
}

fn attributes() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let kind = prop_oneof![Just(attribute::USERNAME), Just(attribute::DATA), 0x4000u16..0x8000, 0xc000u16..];
    prop::collection::vec((kind, prop::collection::vec(any::<u8>(), 0..40)), 0..6)
}

fn key_pair(password: &str) -> (Keys, LongTermKeyCredentials) {
    let theirs = LongTermKeyCredentials::new("user".into(), password.into(), "realm".into());
    (Keys::new(b"user", b"realm", password.as_bytes()), theirs)
}

proptest! {
    #[test]
    fn ours_is_read_by_another_implementation(
        attributes in attributes(),
        transaction: [u8; 12],
        method in 0u16..0x1000,
        password in "[a-z]{0,9}",
        sha256: bool,
    ) {
        let (keys, theirs) = key_pair(&password);
        let (integrity, key) = if sha256 { (Integrity::Sha256, keys.sha256()) } else { (Integrity::Sha1, keys.md5()) };
        let mut bytes = vec![1, 2, 3];
        let mut writer = Writer::new(&mut bytes, Class::Indication, method, &transaction);
        for (kind, value) in &attributes {
            writer.attribute(*kind, value);
        }
        writer.integrity(integrity, key).fingerprint();
        let message = Theirs::from_bytes(&bytes[3..]).unwrap();
        prop_assert!(message.validate_integrity(&theirs.into()).is_ok());
        prop_assert_eq!(message.method().value(), method);
        for ((_, theirs), (kind, value)) in message.iter_attributes().zip(&attributes) {
            prop_assert_eq!((theirs.get_type().value(), &*theirs.value), (*kind, &**value));
        }
        let ours = Message::parse(&bytes[3..]).unwrap();
        prop_assert!(ours.is_intact(key));
        let again: Vec<_> = ours.attributes().map(|found| (found.kind, found.value.to_vec())).collect();
        prop_assert_eq!(again, attributes);
    }

    #[test]
    fn theirs_is_read_by_ours(attributes in attributes(), method in 0u16..0x1000, sha256: bool) {
        let (keys, theirs) = key_pair("secret");
        let mut writer = Theirs::builder_request(Method::new(method), MessageWriteVec::new());
        for (kind, value) in &attributes {
            writer.add_attribute(&RawAttribute::new(AttributeType::new(*kind), value)).unwrap();
        }
        let algorithm = if sha256 { IntegrityAlgorithm::Sha256 } else { IntegrityAlgorithm::Sha1 };
        writer.add_message_integrity(&theirs.into(), algorithm).unwrap();
        writer.add_fingerprint().unwrap();
        let bytes = writer.finish();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!((message.class(), message.method()), (Class::Request, method));
        let key = if sha256 { keys.sha256() } else { keys.md5() };
        prop_assert!(message.is_intact(key));
        let ours: Vec<_> = message.attributes().map(|found| (found.kind, found.value.to_vec())).collect();
        prop_assert_eq!(ours, attributes);
    }

    #[test]
    fn addresses_round_trip(ip: std::net::IpAddr, port: u16, transaction: [u8; 12]) {
        let address = std::net::SocketAddr::new(ip, port);
        let mut value = [0; 20];
        encode_xor_address(&mut value, &address, &transaction);
        prop_assert_eq!(decode_xor_address(&value[..xor_address_len(&address)], &transaction), Some(address));
    }
}
