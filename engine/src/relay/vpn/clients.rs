//! The clients' files: `clients/NAME.toml` in the state folder, beside the server's key. A running VPN sees changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use relay_dp::vpn::{
    ClientConfig, Network, PeerConfig, PrivateKey, PublicKey, Secrets, generate_private_key,
};
use serde::{Deserialize, Serialize};

use super::{VpnConfig, VpnError};
use crate::config::toml_file;

/// How often a client behind NAT is told to show itself, s.
const KEEPALIVE: u16 = 25;

/// One client, as the server knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its static key.
    pub key: PublicKey,
    /// The secret shared with it besides.
    pub preshared_key: PrivateKey,
    /// Its addresses.
    pub networks: Vec<Network>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFile {
    public_key: String,
    preshared_key: String,
    addresses: Vec<String>,
}

/// The state folder of one VPN.
#[derive(Debug)]
pub struct Registry {
    folder: PathBuf,
}

impl Registry {
    /// Opens the folder, making it if need be, readable by its owner only.
    pub fn open(config: &VpnConfig) -> Result<Registry, VpnError> {
        let folder = config.state_dir.clone();
        let clients = folder.join("clients");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&clients)
            .map_err(|error| VpnError::file(&clients, error))?;
        Ok(Registry { folder })
    }

    /// The server's key; made at the first call.
    pub fn server_key(&self) -> Result<PrivateKey, VpnError> {
        let _lock = self.lock()?;
        let path = self.folder.join("server.key");
        match fs::read_to_string(&path) {
            Ok(text) => {
                PrivateKey::parse(&text).ok_or_else(|| VpnError::file(&path, "is no WireGuard key in base64"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = generate_private_key(&mut Secrets::new(super::server::seed()?));
                create(&path, &format!("{}\n", key.to_base64()))?;
                Ok(key)
            }
            Err(error) => Err(VpnError::file(&path, error)),
        }
    }

    /// All clients by name.
    pub fn clients(&self) -> Result<BTreeMap<String, Client>, VpnError> {
        let folder = self.folder.join("clients");
        let mut clients = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(|error| VpnError::file(&folder, error))? {
            let path = entry.map_err(|error| VpnError::file(&folder, error))?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            if let (Some(name), Some("toml")) = (name, path.extension().and_then(|ext| ext.to_str())) {
                clients.insert(name.to_owned(), read(&path)?);
            }
        }
        Ok(clients)
    }

    /// When the set of clients last changed.
    pub fn changed(&self) -> io::Result<std::time::SystemTime> {
        fs::metadata(self.folder.join("clients"))?.modified()
    }

    /// Makes a client with the next free addresses. Its private key is in what is returned and nowhere else.
    pub fn add(&self, name: &str, config: &VpnConfig) -> Result<ClientConfig, VpnError> {
        check_name(name)?;
        let endpoint = config.public_address.ok_or_else(|| {
            VpnError::Refused(
                "set public_address in the configuration: clients have to know where to connect".into(),
            )
        })?;
        let server_key = self.server_key()?.public();
        let _lock = self.lock()?;
        let clients = self.clients()?;
        let path = self.path(name);
        if clients.contains_key(name) {
            return Err(VpnError::Refused(format!(
                "there is a client «{name}» already: choose another name"
            )));
        }
        let taken: BTreeSet<IpAddr> =
            clients.values().flat_map(|client| &client.networks).map(Network::address).collect();
        let addresses: Vec<Network> =
            config.addresses.iter().map(|pool| free_address(*pool, &taken)).collect::<Result<_, _>>()?;
        let mut secrets = Secrets::new(super::server::seed()?);
        let private_key = generate_private_key(&mut secrets);
        let preshared_key = PrivateKey(secrets.bytes());
        let file = ClientFile {
            public_key: private_key.public().to_string(),
            preshared_key: preshared_key.to_base64(),
            addresses: addresses.iter().map(Network::to_string).collect(),
        };
        create(&path, &toml::to_string(&file).expect("plain data"))?;
        let all = ["0.0.0.0/0", "::/0"].map(|net| Network::parse(net).expect("a network"));
        let own = config.addresses.iter().map(Network::truncated).collect();
        Ok(ClientConfig {
            private_key,
            addresses,
            dns: config.dns.clone(),
            mtu: Some(config.mtu),
            peers: vec![PeerConfig {
                public_key: server_key,
                preshared_key: Some(preshared_key),
                allowed_ips: if config.internet { all.into() } else { own },
                endpoint: Some(endpoint),
                persistent_keepalive: Some(KEEPALIVE),
            }],
        })
    }

    /// Forgets a client: its tunnel ends within a second.
    pub fn remove(&self, name: &str) -> Result<(), VpnError> {
        check_name(name)?;
        let path = self.path(name);
        fs::remove_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => VpnError::Refused(format!("there is no client «{name}»")),
            _ => VpnError::file(&path, error),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join("clients").join(format!("{name}.toml"))
    }

    /// Held while something is decided from what the files say.
    fn lock(&self) -> Result<File, VpnError> {
        let path = self.folder.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        open.and_then(|file| file.lock().map(|()| file)).map_err(|error| VpnError::file(&path, error))
    }
}

fn read(path: &Path) -> Result<Client, VpnError> {
    let file: ClientFile = toml_file::read("client", path)?;
    let wrong = |what: &str| VpnError::file(path, format!("{what} can't be read"));
    let networks = file.addresses.iter().map(|net| Network::parse(net)).collect::<Option<Vec<_>>>();
    Ok(Client {
        key: PublicKey::parse(&file.public_key).ok_or_else(|| wrong("public_key"))?,
        preshared_key: PrivateKey::parse(&file.preshared_key).ok_or_else(|| wrong("preshared_key"))?,
        networks: networks.ok_or_else(|| wrong("addresses"))?,
    })
}

fn check_name(name: &str) -> Result<(), VpnError> {
    let fits = (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        && !name.starts_with('-');
    if fits {
        return Ok(());
    }
    Err(VpnError::Refused(format!(
        "«{name}» is no name for a client: use up to 64 letters, digits, «-» and «_»"
    )))
}

/// The first address of the server's network that no one has, as a network of one.
fn free_address(pool: Network, taken: &BTreeSet<IpAddr>) -> Result<Network, VpnError> {
    let bits = if pool.address().is_ipv4() { 32 } else { 128 };
    let first = pool.truncated().address();
    let last_number = 1u128.checked_shl(u32::from(bits - pool.length())).map_or(u128::MAX, |size| size - 1);
    // Number 0 names the network, and the last one is IPv4's broadcast address.
    let numbers = 1..last_number.min(1 << 24);
    let address =
        numbers.map(|number| nth(first, number)).find(|ip| *ip != pool.address() && !taken.contains(ip));
    address.and_then(|ip| Network::new(ip, bits)).ok_or_else(|| {
        VpnError::Refused(format!(
            "all addresses of {pool} are taken: use a larger network, or remove clients"
        ))
    })
}

fn nth(first: IpAddr, number: u128) -> IpAddr {
    match first {
        IpAddr::V4(ip) => {
            (ip.to_bits() + u32::try_from(number).expect("within an IPv4 network")).to_be_bytes().into()
        }
        IpAddr::V6(ip) => (ip.to_bits() + number).to_be_bytes().into(),
    }
}

/// Writes a new file that only its owner can read, all of it or nothing.
fn create(path: &Path, text: &str) -> Result<(), VpnError> {
    let draft = path.with_extension("new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|error| VpnError::file(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path) -> VpnConfig {
        VpnConfig {
            public_address: Some("203.0.113.5:51820".parse().unwrap()),
            addresses: ["10.7.0.1/29", "fd00::1/64"].map(|net| Network::parse(net).unwrap()).into(),
            state_dir: folder.join("vpn"),
            ..VpnConfig::default()
        }
    }

    #[test]
    fn clients_get_free_addresses_and_the_server_knows_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let registry = Registry::open(&config).unwrap();
        let phone = registry.add("phone", &config).unwrap();
        let laptop = registry.add("laptop", &config).unwrap();
        let addresses =
            |config: &ClientConfig| config.addresses.iter().map(Network::to_string).collect::<Vec<_>>();
        assert_eq!(addresses(&phone), ["10.7.0.2/32", "fd00::2/128"]);
        assert_eq!(addresses(&laptop), ["10.7.0.3/32", "fd00::3/128"]);
        let clients = registry.clients().unwrap();
        assert_eq!(clients["phone"].key, phone.private_key.public());
        assert_eq!(Some(&clients["phone"].preshared_key), phone.peers[0].preshared_key.as_ref());
        assert_eq!(registry.server_key().unwrap().public(), phone.peers[0].public_key);
        registry.remove("phone").unwrap();
        assert_eq!(addresses(&registry.add("tablet", &config).unwrap())[0], "10.7.0.2/32", "free again");
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let registry = Registry::open(&config).unwrap();
        for bad in ["", "../x", "a b", "-x", &"x".repeat(65)] {
            assert!(matches!(registry.add(bad, &config), Err(VpnError::Refused(_))), "{bad}");
        }
        for name in ["a", "b", "c", "d", "e"] {
            registry.add(name, &config).unwrap();
        }
        assert!(registry.add("a", &config).unwrap_err().to_string().contains("already"));
        assert!(registry.add("f", &config).unwrap_err().to_string().contains("all addresses"));
        assert!(registry.remove("nobody").unwrap_err().to_string().contains("no client"));
        let nowhere = VpnConfig { public_address: None, ..config };
        assert!(registry.add("g", &nowhere).unwrap_err().to_string().contains("public_address"));
    }
}
