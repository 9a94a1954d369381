//! The kinds of value that command lines hold.

use std::{fmt, fs, path::PathBuf, str::FromStr, time::Duration};

use dag::{Address, Hash, money};
use engine::{config::HostPort, genesis::GenesisValidator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An amount of micro-TOP. People write and read it as decimal TOP; in JSON it is micro-TOP as a string, as in the nodes' RPC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Amount(pub u64);

impl FromStr for Amount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Amount, &'static str> {
        money::parse(text).map(Amount).ok_or(
            "write TOP with at most six decimals, such as 12.5, and no more than 18446744073709.551615",
        )
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&money::format(self.0))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Amount).map_err(|_| D::Error::custom(format!("«{text}» is no amount of micro-TOP")))
    }
}

/// A time: a plain number is seconds, other units are named: `90`, `90s`, `1500ms`, `2m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let named = || humantime::parse_duration(text).map_err(|_| ());
    let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|_| ());
    text.parse()
        .map_or_else(|_| named(), seconds)
        .map_err(|()| "write seconds, or a unit: 10, 1500ms, 2m".into())
}

/// The seed of a network's development accounts, in hexadecimal or as the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct DevSeed(pub [u8; 32]);

impl FromStr for DevSeed {
    type Err = String;

    fn from_str(text: &str) -> Result<DevSeed, String> {
        if let Some(seed) = Hash::from_hex(text) {
            return Ok(DevSeed(seed.0));
        }
        let content = fs::read_to_string(text)
            .map_err(|error| format!("neither 64 hexadecimal digits nor a readable file ({error})"))?;
        let mut lines = content.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let seed = lines.next().and_then(Hash::from_hex);
        seed.map(|seed| DevSeed(seed.0))
            .ok_or_else(|| "the file holds no line of 64 hexadecimal digits".into())
    }
}

/// The seed stays out of logs.
impl fmt::Debug for DevSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DevSeed")
    }
}

/// Where a node takes clients of high rate, and where it takes RPC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeAddress {
    /// The submission port.
    pub submission: HostPort,
    /// The RPC port.
    pub rpc: HostPort,
}

impl FromStr for NodeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<NodeAddress, String> {
        let (submission, rpc) =
            text.split_once(',').ok_or("write SUBMISSION,RPC, such as 127.0.0.1:9104,127.0.0.1:9100")?;
        let parse = |text: &str| text.parse().map_err(|error| format!("«{text}»: {error}"));
        Ok(NodeAddress { submission: parse(submission)?, rpc: parse(rpc)? })
    }
}

/// `NAME=KEY`: a validator of a new network.
pub fn validator(text: &str) -> Result<GenesisValidator, String> {
    let (name, key) = text.split_once('=').ok_or("write NAME=KEY, such as v0=top1…")?;
    let key = key.parse().map_err(|error| format!("«{key}»: {error}"))?;
    Ok(GenesisValidator { name: name.into(), key })
}

/// `ADDRESS=AMOUNT`: an account of a new network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Funding {
    /// The account.
    pub address: Address,
    /// What it has from the start.
    pub amount: Amount,
}

impl Funding {
    /// Reads an address and an amount with `separator` between.
    pub fn parse(text: &str, separator: char) -> Result<Funding, String> {
        let (address, amount) =
            text.split_once(separator).ok_or_else(|| format!("write ADDRESS{separator}AMOUNT"))?;
        let (address, amount) = (address.trim(), amount.trim());
        Ok(Funding {
            address: address.parse().map_err(|error| format!("«{address}»: {error}"))?,
            amount: amount.parse().map_err(|error| format!("«{amount}»: {error}"))?,
        })
    }
}

impl FromStr for Funding {
    type Err = String;

    fn from_str(text: &str) -> Result<Funding, String> {
        Funding::parse(text, '=')
    }
}

/// Reads a file of lines `address,amount`; empty lines, lines that begin with `#` and a heading are skipped.
pub fn read_accounts(path: &PathBuf) -> Result<Vec<Funding>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with("address,")
    });
    let parse = |(index, line)| {
        Funding::parse(line, ',').map_err(|error| format!("{}:{}: {error}", path.display(), index + 1))
    };
    lines.map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "top1pvsphz97shl7pvunkr4q03gx4uc5xa3nnuxf74c22uy9l4h0khxss60tz4";

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "-1", "ten", "1e300", "NaN", "10 parsecs"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seeds_come_as_text_or_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed");
        let hex = "07".repeat(32);
        fs::write(&path, format!("# accounts\n{hex}\n")).unwrap();
        assert_eq!(hex.parse::<DevSeed>().unwrap().0, [7; 32]);
        assert_eq!(path.to_str().unwrap().parse::<DevSeed>().unwrap().0, [7; 32]);
        fs::write(&path, "7\n").unwrap();
        assert!(path.to_str().unwrap().parse::<DevSeed>().unwrap_err().contains("no line of 64"));
        assert!("0707".parse::<DevSeed>().unwrap_err().contains("neither"));
    }

    #[test]
    fn pairs_name_what_is_wrong() {
        assert_eq!(validator(&format!("v0={ADDRESS}")).unwrap().name, "v0");
        assert!(validator("v0").unwrap_err().contains("NAME=KEY"));
        assert!(validator("v0=top1x").unwrap_err().contains("«top1x»"));
        assert_eq!(format!("{ADDRESS}=1.5").parse::<Funding>().unwrap().amount, Amount(1_500_000));
        assert!(format!("{ADDRESS}=1,5").parse::<Funding>().unwrap_err().contains("«1,5»: write TOP"));
        let node: NodeAddress = "localhost:1,[::1]:2".parse().unwrap();
        assert_eq!((node.submission.port(), node.rpc.port()), (1, 2));
        assert!("localhost:1".parse::<NodeAddress>().is_err());
        assert!("localhost:1,x".parse::<NodeAddress>().unwrap_err().contains("«x»"));
    }

    #[test]
    fn accounts_files_are_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.csv");
        fs::write(&path, format!("address,amount\n# founders\n{ADDRESS}, 2\n\n")).unwrap();
        assert_eq!(read_accounts(&path).unwrap()[0].amount, Amount(2_000_000));
        fs::write(&path, format!("{ADDRESS},2\n{ADDRESS};3\n")).unwrap();
        assert!(read_accounts(&path).unwrap_err().contains("accounts.csv:2: write ADDRESS,AMOUNT"));
        assert!(read_accounts(&folder.path().join("no")).unwrap_err().contains("can't be read"));
    }

    #[test]
    fn amounts_are_decimal_top_for_people_and_micro_top_for_programs() {
        assert_eq!("1.5".parse(), Ok(Amount(1_500_000)));
        assert_eq!(Amount(1_500_000).to_string(), "1.5");
        assert_eq!(serde_json::to_string(&Amount(1_500_000)).unwrap(), "\"1500000\"");
        assert_eq!(serde_json::from_str::<Amount>("\"1500000\"").unwrap(), Amount(1_500_000));
        assert!(serde_json::from_str::<Amount>("\"1.5\"").is_err());
        assert!("0.0000001".parse::<Amount>().is_err());
    }
}
