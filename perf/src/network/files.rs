//! A network's files and ports.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::SystemTime,
};

use anyhow::Context;
use dag::{Address, ChainId, keys::KeyPair};
use engine::{
    genesis::{Allocation, Genesis, GenesisValidator, Parameters},
    keyfile,
};

use super::{Place, Sizes};

/// What an account that pays begins with, and what the others do, in micro-TOP.
const RICH: u64 = 1_000_000_000_000;
const POOR: u64 = 1;

/// Ports are looked for from here on, below those that Linux hands out by itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A key that everybody can make: these networks hold nothing of value.
pub fn key(context: &str, index: u64) -> KeyPair {
    let mut hasher = blake3::Hasher::new_derive_key("TOP perf network key v1");
    hasher.update(context.as_bytes()).update(&index.to_le_bytes());
    KeyPair::from_seed(hasher.finalize().as_bytes())
}

/// Writes `genesis.toml` and its allocations. Returns the network's id.
///
/// Most accounts have random addresses: nobody has their keys, and deriving a million keys would take longer than all else.
pub fn write_genesis(
    directory: &Path,
    sizes: &Sizes,
    validators: &[KeyPair],
    senders: &[KeyPair],
) -> anyhow::Result<ChainId> {
    let named =
        |(index, key): (usize, &KeyPair)| GenesisValidator { name: format!("v{index}"), key: key.address() };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let parameters = Parameters {
        name: "perf".into(),
        tables: sizes.tables,
        lanes: sizes.cores,
        time: u64::try_from(since.as_micros()).expect("before the year 500,000"),
        validators: validators.iter().enumerate().map(named).collect(),
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut stranger = || {
        let mut address = Address::default();
        random.fill(&mut address.0);
        Allocation { address, balance: POOR }
    };
    let rich = senders.iter().map(|key| Allocation { address: key.address(), balance: RICH });
    let strangers = sizes.accounts as usize - senders.len();
    let allocations = rich.chain(std::iter::repeat_with(&mut stranger).take(strangers)).collect();
    let genesis = Genesis::create(parameters, allocations)?;
    genesis.write(directory)?;
    Ok(genesis.chain())
}

/// Finds a folder's name and free ports for each validator. The search begins anywhere, so that two networks that are made at the
/// same time hardly meet.
pub fn places(directory: &Path, sizes: &Sizes) -> anyhow::Result<Vec<Place>> {
    let each = sizes.cores + 2;
    let random = fastrand::u16(PORTS);
    let mut starts = (random..PORTS.end).chain(PORTS.start..random).step_by(usize::from(each));
    let mut place = |index: u16| {
        let first = starts
            .by_ref()
            .find(|&first| (first..first + each).all(is_free))
            .context("there are no free ports on 127.0.0.1: stop other networks")?;
        Ok(Place {
            folder: directory.join(format!("v{index}")),
            rpc: loopback(first),
            submission: loopback(first + 1),
            peers: loopback(first + 2),
        })
    };
    (0..sizes.validators).map(&mut place).collect()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(loopback(port)).is_ok()
}

/// A validator's folder with its key.
pub fn make_folder(place: &Place, key: &KeyPair) -> anyhow::Result<()> {
    fs::create_dir(&place.folder).with_context(|| format!("can't make {}", place.folder.display()))?;
    Ok(keyfile::create(&place.folder.join("validator.key"), key)?)
}

/// A validator's `node.toml`; see `engine/examples/node.toml`.
pub fn config(place: &Place, places: &[Place], keys: &[Address], cores: u16, snapshot_bytes: u64) -> String {
    let Place { peers, submission, rpc, .. } = place;
    let mut text = format!(
        "genesis = \"../genesis.toml\"\nkey_file = \"validator.key\"\ndata_dir = \"data\"\n\n\
         [cores]\ncount = {cores}\npin = false\n\n\
         [listen]\npeers = \"{peers}\"\nsubmission = \"{submission}\"\nrpc = \"{rpc}\"\n\n\
         [snapshot]\ninterval_bytes = {snapshot_bytes}\n"
    );
    for (key, place) in keys.iter().zip(places) {
        text += &format!("\n[[peer]]\nkey = \"{key}\"\naddress = \"{}\"\n", place.peers);
    }
    text
}

#[cfg(test)]
mod tests {
    use engine::config::Setup;

    use super::super::Network;
    use super::*;

    #[test]
    fn the_engine_takes_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let sizes = Sizes { validators: 4, tables: 8, cores: 2, accounts: 50, senders: 3 };
        let network = Network::create(directory.path(), sizes, 3 << 20).unwrap();
        for (index, place) in network.places.iter().enumerate() {
            let setup = Setup::load(&place.config()).unwrap();
            assert_eq!((usize::from(setup.replica), setup.cores), (index, 2));
            assert_eq!(setup.config.snapshot.interval_bytes, 3 << 20);
            assert_eq!(setup.config.listen.submission, network.submission(index));
            assert_eq!(setup.genesis.chain(), network.chain());
            assert_eq!(setup.genesis.supply(), 3 * RICH + 47 * POOR);
        }
    }
}
