//! What clients and people write: frames of the submission port, addresses, amounts.

use bech32::{Bech32m, Fe32, Hrp, primitives::iter::Fe32IterExt};
use dag::{
    Address,
    client::{self, Request, Response},
    money,
};

use super::{Verdict, words};

/// A frame from a client, behind its length.
pub fn request(bytes: &[u8]) -> Verdict {
    let mut again = Vec::new();
    match Request::parse(bytes).map_err(words)? {
        Request::Submit { first_tag, records } => {
            if bytes.len() > client::MAX_FRAME {
                return Err("no connection lets this through".into());
            }
            client::encode_submit(first_tag, records, &mut again);
        }
        Request::Account { tag, address } => client::encode_account(tag, &address, &mut again),
    }
    assert_eq!(&again[4..], bytes);
    Ok(())
}

/// A frame from a node, behind its length.
pub fn response(bytes: &[u8]) -> Verdict {
    let response = Response::parse(bytes).map_err(words)?;
    let mut again = Vec::new();
    response.encode_frame(&mut again);
    assert_eq!(&again[4..], bytes);
    Ok(())
}

/// An address as text, as it comes and with the checksum that fits.
pub fn address(bytes: &[u8]) -> Verdict {
    let text = std::str::from_utf8(bytes).map_err(words)?;
    check_address(text).ok();
    check_address(&with_fitting_checksum(text).unwrap_or_else(|| text.into()))
}

fn check_address(text: &str) -> Verdict {
    let address: Address = text.parse().map_err(words)?;
    let one_case =
        !text.contains(|c: char| c.is_ascii_uppercase()) || !text.contains(|c: char| c.is_ascii_lowercase());
    assert!(one_case, "mixed case: {text}");
    assert_eq!(address.to_string(), text.to_ascii_lowercase());
    Ok(())
}

/// The same prefix and digits with the right six last characters (BIP 350).
fn with_fitting_checksum(text: &str) -> Option<String> {
    let (prefix, digits) = text.rsplit_once('1')?;
    let (digits, _) = digits.split_at_checked(digits.len().checked_sub(6)?)?;
    let digits: Vec<Fe32> = digits.chars().map(|c| Fe32::from_char(c).ok()).collect::<Option<_>>()?;
    let prefix = Hrp::parse(prefix).ok()?;
    Some(digits.into_iter().with_checksum::<Bech32m>(&prefix).chars().collect())
}

/// An amount as decimal text.
pub fn amount(bytes: &[u8]) -> Verdict {
    let text = std::str::from_utf8(bytes).map_err(words)?;
    let amount = money::parse(text).ok_or("not an amount")?;
    assert_eq!(money::parse(&money::format(amount)), Some(amount));
    Ok(())
}
