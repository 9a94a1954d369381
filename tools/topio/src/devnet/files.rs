//! A devnet's files.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use dag::{Address, Hash};
use engine::{
    genesis::{
        ALLOCATIONS_FILE, GENESIS_FILE, Genesis, GenesisValidator, Parameters,
        dev::{dev_account_key, dev_allocations},
    },
    keyfile,
    relay::RelayConfig,
    topology::{first_processor, whole_processors},
};
use serde::Serialize;

use super::{DevnetError, Instructions, Record, Sizes};
use crate::values::DevSeed;

const RECORD: &str = "devnet.json";
const LOCK: &str = "devnet.lock";
const SEED: &str = "accounts.seed";
const ACCOUNT: &str = "account-0.key";
const RELAY: &str = "relay.toml";
const NAME: &str = "devnet";

/// Where the files of a devnet are.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// The folder, which is made where there is none.
    pub(super) fn new(folder: &Path) -> Result<Layout, DevnetError> {
        let absolute = fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
        Ok(Layout { folder: absolute.map_err(error(folder, "made"))? })
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `genesis.toml`.
    pub fn genesis(&self) -> PathBuf {
        self.folder.join(GENESIS_FILE)
    }

    /// The file with the seed of the funded accounts.
    pub fn seed(&self) -> PathBuf {
        self.folder.join(SEED)
    }

    /// The key file of the first funded account.
    pub fn account(&self) -> PathBuf {
        self.folder.join(ACCOUNT)
    }

    /// A validator's name, which is also that of its folder.
    pub fn name(index: usize) -> String {
        format!("v{index}")
    }

    /// A validator's folder.
    pub fn node(&self, index: usize) -> PathBuf {
        self.folder.join(Layout::name(index))
    }

    /// A validator's configuration.
    pub fn config(&self, index: usize) -> PathBuf {
        self.node(index).join("node.toml")
    }

    /// A validator's secret key.
    pub fn key(&self, index: usize) -> PathBuf {
        self.node(index).join("validator.key")
    }

    /// What a validator prints.
    pub fn log(&self, index: usize) -> PathBuf {
        self.node(index).join("node.log")
    }

    /// What the first validator relays with; absent where it relays nothing.
    pub fn relay(&self) -> PathBuf {
        self.folder.join(RELAY)
    }

    pub(super) fn lock(&self) -> Result<File, DevnetError> {
        let path = self.folder.join(LOCK);
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = options.map_err(error(&path, "opened"))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(DevnetError::Running(self.folder.clone())),
            Err(TryLockError::Error(source)) => Err(error(&path, "locked")(source)),
        }
    }

    pub(super) fn read_seed(&self) -> Result<DevSeed, DevnetError> {
        self.seed().to_string_lossy().parse().map_err(|_| DevnetError::Nothing(self.folder.clone()))
    }

    pub(super) fn read_record(&self) -> Result<Record, DevnetError> {
        let text = fs::read_to_string(self.folder.join(RECORD)).unwrap_or_default();
        Record::parse(&text).ok_or_else(|| DevnetError::Nothing(self.folder.clone()))
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), DevnetError> {
        let path = self.folder.join(RECORD);
        fs::write(&path, record.to_text()).map_err(error(&path, "written"))
    }

    /// Removes a former devnet, and nothing else.
    pub(super) fn clear(&self) -> Result<(), DevnetError> {
        let foreign = || DevnetError::Foreign(self.folder.clone());
        let entries = fs::read_dir(&self.folder).map_err(error(&self.folder, "read"))?;
        let names: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
        let names = names.map_err(error(&self.folder, "read"))?;
        if names.iter().all(|name| name == LOCK) {
            return Ok(());
        }
        let Ok(record) = self.read_record() else { return Err(foreign()) };
        for index in 0..record.nodes.len() {
            remove(&self.node(index), |path| fs::remove_dir_all(path))?;
        }
        for file in [GENESIS_FILE, ALLOCATIONS_FILE, SEED, ACCOUNT, RELAY, RECORD] {
            remove(&self.folder.join(file), |path| fs::remove_file(path))?;
        }
        Ok(())
    }
}

fn remove(path: &Path, by: impl Fn(&Path) -> io::Result<()>) -> Result<(), DevnetError> {
    match by(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(path, "removed")(source)),
        _ => Ok(()),
    }
}

fn error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> DevnetError {
    move |source| DevnetError::Io { path: path.into(), action, source }
}

/// Makes keys, seed and genesis of a new network.
pub(super) fn make_network(layout: &Layout, record: &Record) -> Result<(), DevnetError> {
    let random = error(Path::new("the system's random source"), "read");
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|cause| random(cause.into()))?;
    write_seed(&layout.seed(), &seed)?;
    keyfile::create(&layout.account(), &dev_account_key(&seed, 0))?;
    let mut validators = Vec::new();
    for index in 0..record.nodes.len() {
        let folder = layout.node(index);
        DirBuilder::new().mode(0o700).create(&folder).map_err(error(&folder, "made"))?;
        let key = keyfile::generate().map_err(error(&layout.key(index), "made"))?;
        keyfile::create(&layout.key(index), &key)?;
        validators.push(GenesisValidator { name: Layout::name(index), key: key.address() });
    }
    let sizes = record.sizes;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let parameters = Parameters {
        name: NAME.into(),
        tables: sizes.tables,
        lanes: sizes.lanes,
        time: u64::try_from(time.as_micros()).expect("before the year 500,000"),
        validators,
    };
    let allocations = dev_allocations(&seed, sizes.accounts, sizes.balance);
    Ok(Genesis::create(parameters, allocations)?.write(layout.folder())?)
}

fn write_seed(path: &Path, seed: &[u8; 32]) -> Result<(), DevnetError> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        writeln!(
            file,
            "# Who knows this seed owns the money of all accounts of this devnet.\n{}",
            Hash(*seed)
        )
    });
    written.map_err(error(path, "written"))
}

/// Writes each validator's `node.toml`.
pub(super) fn write_configs(layout: &Layout, record: &Record) -> Result<(), DevnetError> {
    let genesis = Genesis::load(&layout.genesis())?;
    let keys: Vec<Address> = genesis.validators().iter().map(|validator| validator.key).collect();
    let relay = layout.relay();
    let relay = if relay.exists() {
        fs::read_to_string(&relay).map_err(error(&relay, "read"))?
    } else {
        String::new()
    };
    // A loop that relays runs before all others of its processor: they must be able to leave it.
    let pin = record.sizes.pin && relay.is_empty();
    for index in 0..record.nodes.len() {
        let path = layout.config(index);
        let mut text = config(record, &keys, index, pin);
        if index == 0 {
            text += &relay;
        }
        fs::write(&path, text).map_err(error(&path, "written"))?;
    }
    Ok(())
}

/// Takes over what the first validator relays with: the sections `[relay…]` of a node's configuration.
pub(super) fn take_relay(layout: &Layout, from: &Path) -> Result<(), DevnetError> {
    let text = fs::read_to_string(from).map_err(error(from, "read"))?;
    RelayConfig::check(from, &text)?;
    fs::write(layout.relay(), format!("\n{text}")).map_err(error(&layout.relay(), "written"))
}

/// The keys of a node's configuration that a devnet sets; see `engine/examples/node.toml`.
#[derive(Serialize)]
struct Config {
    genesis: &'static str,
    key_file: &'static str,
    data_dir: &'static str,
    cores: Cores,
    listen: Listen,
    agreement: Agreement,
    peer: Vec<Peer>,
}

#[derive(Serialize)]
struct Cores {
    count: u16,
    pin: bool,
    first: u16,
    instructions: Instructions,
}

#[derive(Serialize)]
struct Agreement {
    check_all: bool,
}

#[derive(Serialize)]
struct Listen {
    peers: String,
    submission: String,
    rpc: String,
}

#[derive(Serialize)]
struct Peer {
    key: String,
    address: String,
}

fn config(record: &Record, keys: &[Address], index: usize, pin: bool) -> String {
    let ports = record.nodes[index];
    let Sizes { validators, cores, instructions, check_all, .. } = record.sizes;
    let node = u16::try_from(index).expect("committees are small");
    let first = first_processor(node, validators, cores, whole_processors()).filter(|_| pin);
    let peers = keys.iter().zip(&record.nodes);
    let config = Config {
        genesis: "../genesis.toml",
        key_file: "validator.key",
        data_dir: "data",
        cores: Cores { count: cores, pin: first.is_some(), first: first.unwrap_or_default(), instructions },
        listen: Listen {
            peers: ports.peers_address().to_string(),
            submission: ports.submission_address().to_string(),
            rpc: ports.rpc_address().to_string(),
        },
        agreement: Agreement { check_all },
        peer: peers
            .map(|(key, ports)| Peer { key: key.to_string(), address: ports.peers_address().to_string() })
            .collect(),
    };
    toml::to_string(&config).expect("plain data")
}

#[cfg(test)]
mod tests {
    use engine::config::Setup;

    use super::*;
    use crate::devnet::Devnet;

    const SIZES: Sizes = Sizes {
        validators: 4,
        tables: 8,
        lanes: 2,
        cores: 1,
        accounts: 5,
        balance: 7,
        check_all: false,
        pin: true,
        instructions: Instructions::Auto,
    };

    fn create(folder: &Path) -> Result<Devnet, DevnetError> {
        Devnet::create(Path::new("topio"), folder, SIZES, None)
    }

    #[test]
    fn the_engine_takes_every_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let devnet = create(folder.path()).unwrap();
        for (index, node) in devnet.nodes().iter().enumerate() {
            let setup = Setup::load(&devnet.layout().config(index)).unwrap();
            assert_eq!(usize::from(setup.replica), index);
            assert_eq!(setup.validator().name, Layout::name(index));
            let first = first_processor(setup.replica, 4, 1, whole_processors());
            assert_eq!((setup.cores, setup.config.cores.pin), (1, first.is_some()));
            assert_eq!(setup.config.cores.first, first.unwrap_or(0));
            assert_eq!(setup.config.listen.rpc, node.ports().rpc_address());
            assert_eq!(setup.genesis.supply(), 35);
        }
    }

    #[test]
    fn the_first_validator_relays_what_a_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let (file, data) = (folder.path().join("r.toml"), folder.path().join("data"));
        let create = || Devnet::create(Path::new("topio"), &data, SIZES, Some(&file));
        fs::write(&file, "[relay.vpn]\nmtu = 1300\n").unwrap();
        let layout = create().unwrap().layout().clone();
        let config = |index| Setup::load(&layout.config(index)).unwrap().config;
        let relay = |index| config(index).relay;
        assert_eq!(relay(0).vpn.unwrap().mtu, 1300);
        assert!(!relay(1).has_relay());
        assert!(
            (0..4).all(|index| !config(index).cores.pin),
            "its loop would keep another one from its processor"
        );
        drop(Devnet::resume(Path::new("topio"), &data).unwrap());
        assert!(relay(0).has_relay());
        for bad in ["[relay.vpn]\nmtu = 1\n", "[log]\n", ""] {
            fs::write(&file, bad).unwrap();
            let error = create().unwrap_err().to_string();
            assert!(error.contains("r.toml:"), "{error}");
        }
    }

    #[test]
    fn a_new_one_replaces_a_former_one_and_resume_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let genesis = |devnet: &Devnet| Genesis::load(&devnet.layout().genesis()).unwrap().hash();
        let first = genesis(&create(folder.path()).unwrap());
        let program = Path::new("topio");
        assert_eq!(genesis(&Devnet::resume(program, folder.path()).unwrap()), first);
        let second = create(folder.path()).unwrap();
        assert_ne!(genesis(&second), first);
        assert!(matches!(create(folder.path()), Err(DevnetError::Running(_))));
    }

    #[test]
    fn other_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "mine").unwrap();
        assert!(matches!(create(folder.path()), Err(DevnetError::Foreign(_))));
        let program = Path::new("topio");
        assert!(matches!(Devnet::resume(program, folder.path()), Err(DevnetError::Nothing(_))));
        assert_eq!(fs::read_to_string(folder.path().join("thesis.txt")).unwrap(), "mine");
        let absent = folder.path().join("absent");
        assert!(matches!(Devnet::resume(program, &absent), Err(DevnetError::Nothing(_))));
        assert!(!absent.exists());
    }
}
