//! Accounts' addresses and their place among the tables.

use std::{fmt, str::FromStr};

use bech32::{Bech32m, Hrp};
use rkyv::{Portable, bytecheck::CheckBytes};

use crate::{Hash, TableId, hash::Domain};

/// Human-readable part of the text form.
pub const PREFIX: &str = "top";

/// An account: its 32-byte Ed25519 public key. The text form is bech32m (BIP 350) with the prefix `top`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(transparent)]
pub struct Address(pub [u8; 32]);

impl Address {
    /// The public key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bytes that are hashed to find the table: the address, and zeros up to a block of the hash function. So many
    /// addresses can be hashed side by side.
    pub fn to_hashed_bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.0);
        bytes
    }

    /// The table that holds this account: the first bits of its hash.
    ///
    /// # Panics
    /// Where `tables` is not a power of two: the genesis guarantees that it is.
    pub fn table(&self, tables: u16) -> TableId {
        table_of(&Domain::ADDRESS.hash(&self.to_hashed_bytes()), tables)
    }
}

/// The table of an address with this hash (`Domain::ADDRESS` of [`Address::to_hashed_bytes`]): its first bits.
///
/// # Panics
/// Where `tables` is not a power of two: the genesis guarantees that it is.
pub fn table_of(hash: &Hash, tables: u16) -> TableId {
    assert!(tables.is_power_of_two(), "the table count is a power of two");
    let first = u16::from_be_bytes([hash.0[0], hash.0[1]]);
    let bits = tables.trailing_zeros();
    if bits == 0 { 0 } else { first >> (16 - bits) }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32m, _>(f, Hrp::parse_unchecked(PREFIX), &self.0)
            .map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// Wrong alphabet, checksum, case or padding.
    #[error("not a bech32m text: check it for typing errors")]
    Text,
    /// bech32m, but of another kind of thing.
    #[error("an address begins with «top1»")]
    Prefix,
    /// Not 32 bytes.
    #[error("an address holds 32 bytes")]
    Length,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let checked = bech32::primitives::decode::CheckedHrpstring::new::<Bech32m>(text)
            .map_err(|_| AddressError::Text)?;
        if checked.hrp() != Hrp::parse_unchecked(PREFIX) {
            return Err(AddressError::Prefix);
        }
        let mut bytes = [0; 32];
        let mut length = 0;
        for byte in checked.byte_iter() {
            *bytes.get_mut(length).ok_or(AddressError::Length)? = byte;
            length += 1;
        }
        if length != 32 {
            return Err(AddressError::Length);
        }
        let address = Address(bytes);
        // 52 characters hold four bits more than 32 bytes: those have to be zero (BIP 173), or there would be 16 texts for one address.
        if !address.to_string().eq_ignore_ascii_case(text) {
            return Err(AddressError::Text);
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_round_trip(bytes: [u8; 32]) {
            let address = Address(bytes);
            let text = address.to_string();
            prop_assert!(text.starts_with("top1"));
            prop_assert_eq!(text.parse::<Address>(), Ok(address));
        }

        #[test]
        fn splitting_a_table_keeps_order(bytes: [u8; 32]) {
            // With twice the tables, a table's accounts go to its two children: a split moves tables, not addresses.
            let address = Address(bytes);
            prop_assert_eq!(address.table(128) >> 1, address.table(64));
            prop_assert_eq!(address.table(1), 0);
        }

        #[test]
        fn any_text_is_handled(text in "\\PC{0,90}") {
            let _ = text.parse::<Address>();
        }
    }

    #[test]
    fn refuses_other_kinds() {
        let other = bech32::encode::<Bech32m>(Hrp::parse_unchecked("bc"), &[0; 32]).unwrap();
        assert_eq!(other.parse::<Address>(), Err(AddressError::Prefix));
        let short = bech32::encode::<Bech32m>(Hrp::parse_unchecked(PREFIX), &[0; 31]).unwrap();
        assert_eq!(short.parse::<Address>(), Err(AddressError::Length));
        assert_eq!("top1qqq".parse::<Address>(), Err(AddressError::Text));
    }

    #[test]
    fn refuses_padding_that_says_something() {
        use bech32::{
            Fe32,
            primitives::iter::{ByteIterExt, Fe32IterExt},
        };
        let mut digits: Vec<Fe32> = [7; 32].into_iter().bytes_to_fes().collect();
        let text = |digits: &[Fe32]| -> String {
            let hrp = Hrp::parse_unchecked(PREFIX);
            digits.iter().copied().with_checksum::<Bech32m>(&hrp).chars().collect()
        };
        assert_eq!(text(&digits).parse(), Ok(Address([7; 32])));
        assert_eq!(
            text(&digits).to_uppercase().parse(),
            Ok(Address([7; 32])),
            "for QR codes, as BIP 173 has it"
        );
        let last = digits.last_mut().unwrap();
        *last = Fe32::try_from(last.to_u8() | 1).unwrap();
        assert_eq!(text(&digits).parse::<Address>(), Err(AddressError::Text));
    }
}
