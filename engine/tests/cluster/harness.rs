//! Four validators as threads of the test: real sockets, real files, real signatures.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use dag::{
    Address,
    client::{self, AccountState, Reply, Response},
    keys::KeyPair,
    transaction::{self, Payee, Terms},
};
use engine::{
    config::Setup,
    genesis::{Genesis, GenesisValidator, Parameters, dev},
    keyfile,
    process::{self, NodeError, Stop},
};
use netio::FrameReader;

/// Secret of the accounts.
pub const SEED: [u8; 32] = [9; 32];
/// What each account has at the start.
pub const BALANCE: u64 = 1_000_000;

/// A network in a temporary directory.
pub struct Cluster {
    directory: tempfile::TempDir,
    pub genesis: Genesis,
    pub validators: Vec<Validator>,
}

/// One validator, running or stopped.
pub struct Validator {
    pub config: PathBuf,
    pub submission: SocketAddr,
    running: Option<(Stop, JoinHandle<Result<(), NodeError>>)>,
}

/// A run of ports that were free a moment ago, below the range that the kernel hands out by itself.
fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(count, Ordering::Relaxed);
        let salt = u16::try_from(std::process::id() % 50).unwrap() * 200;
        let first = 20_000 + (salt + step) % 12_000;
        if (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
}

impl Cluster {
    /// Makes keys, genesis and configurations; nothing runs yet.
    pub fn new(validators: u8, tables: u16, lanes: u16, cores: u16, accounts: u64) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let keys: Vec<KeyPair> = (0..validators).map(|i| KeyPair::from_seed(&[100 + i; 32])).collect();
        let validator =
            |(i, key): (usize, &KeyPair)| GenesisValidator { name: format!("v{i}"), key: key.address() };
        let parameters = Parameters {
            name: "cluster-test".into(),
            tables,
            lanes,
            time: 1_700_000_000_000_000,
            validators: keys.iter().enumerate().map(validator).collect(),
        };
        let genesis = Genesis::create(parameters, dev::dev_allocations(&SEED, accounts, BALANCE)).unwrap();
        genesis.write(directory.path()).unwrap();
        let bases: Vec<u16> = (0..validators).map(|_| free_ports(lanes)).collect();
        let peers: String = keys.iter().zip(&bases).fold(String::new(), |text, (key, base)| {
            text + &format!("[[peer]]\nkey = \"{}\"\naddress = \"127.0.0.1:{base}\"\n", key.address())
        });
        let make = |(i, key): (usize, &KeyPair)| {
            let home = directory.path().join(format!("v{i}"));
            std::fs::create_dir(&home).unwrap();
            keyfile::create(&home.join("key"), key).unwrap();
            let submission: SocketAddr = ([127, 0, 0, 1], free_ports(1)).into();
            let text = format!(
                "genesis = \"../genesis.toml\"\nkey_file = \"key\"\ndata_dir = \"data\"\n\
                 [cores]\ncount = {cores}\npin = false\n\
                 [listen]\npeers = \"127.0.0.1:{}\"\nsubmission = \"{submission}\"\nrpc = \"127.0.0.1:{}\"\n\
                 [log]\nsegment_bytes = 16777216\n[snapshot]\ninterval_bytes = 1048576\n{peers}",
                bases[i],
                free_ports(1)
            );
            let config = home.join("node.toml");
            std::fs::write(&config, text).unwrap();
            Validator { config, submission, running: None }
        };
        let validators = keys.iter().enumerate().map(make).collect();
        Cluster { directory, genesis, validators }
    }

    pub fn start(&mut self, validator: usize) {
        let validator = &mut self.validators[validator];
        assert!(validator.running.is_none());
        let setup = Setup::load(&validator.config).unwrap();
        let stop = Stop::new();
        let thread = {
            let stop = stop.clone();
            std::thread::spawn(move || process::run(setup, stop))
        };
        validator.running = Some((stop, thread));
    }

    /// Runs a validator that is expected to end by itself.
    pub fn run_to_end(&self, validator: usize) -> Result<(), NodeError> {
        process::run(Setup::load(&self.validators[validator].config).unwrap(), Stop::new())
    }

    pub fn start_all(&mut self) {
        (0..self.validators.len()).for_each(|validator| self.start(validator));
    }

    pub fn stop(&mut self, validator: usize) {
        let (stop, thread) = self.validators[validator].running.take().expect("it runs");
        stop.request();
        thread.join().expect("no panic").expect("a clean stop");
    }

    pub fn data(&self, validator: usize) -> PathBuf {
        Path::new(self.directory.path()).join(format!("v{validator}/data"))
    }

    /// Signs a transfer of account `from`.
    pub fn transfer(&self, from: u64, sequence: u64, to: &[(u64, u64)]) -> Vec<u8> {
        let terms = Terms { chain: self.genesis.chain(), epoch: 0, sequence, fee: 0 };
        let payee = |&(to, amount): &(u64, u64)| Payee { to: account(to), amount };
        let payees: Vec<Payee> = to.iter().map(payee).collect();
        transaction::sign(&dev::dev_account_key(&SEED, from), &terms, &payees).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for validator in 0..self.validators.len() {
            if let Some((stop, thread)) = self.validators[validator].running.take() {
                stop.request();
                let _ = thread.join();
            }
        }
    }
}

pub fn account(index: u64) -> Address {
    dev::dev_account_key(&SEED, index).address()
}

/// A connection to a submission port.
pub struct Client {
    stream: TcpStream,
    reader: FrameReader,
    frames: Vec<Bytes>,
}

impl Client {
    /// Connects, waiting until the validator listens.
    pub fn connect(address: SocketAddr) -> Client {
        let deadline = Instant::now() + Duration::from_secs(30);
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream, reader: FrameReader::new(client::MAX_FRAME), frames: Vec::new() }
    }

    pub fn send(&mut self, first_tag: u64, records: &[Vec<u8>]) {
        let mut out = Vec::new();
        client::encode_submit(first_tag, records.iter().map(Vec::as_slice), &mut out);
        self.stream.write_all(&out).unwrap();
    }

    fn next(&mut self) -> Response {
        while self.frames.is_empty() {
            let mut buffer = [0; 65536];
            let length = self.stream.read(&mut buffer).expect("an answer within a minute");
            assert!(length > 0, "the validator closed the connection");
            self.reader.push(&buffer[..length], &mut |frame| self.frames.push(frame)).unwrap();
        }
        Response::parse(&self.frames.remove(0)).unwrap()
    }

    /// Asserts that no answer comes for so long.
    pub fn is_not_answered_for(&mut self, time: Duration) {
        assert!(self.frames.is_empty());
        self.stream.set_read_timeout(Some(time)).unwrap();
        let read = self.stream.read(&mut [0; 1]);
        assert!(
            read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            "nothing was expected"
        );
        self.stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    }

    /// So many replies, by tag.
    pub fn replies(&mut self, count: usize) -> Vec<Reply> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.next() {
                Response::Replies(replies) => all.extend(replies),
                Response::Account { .. } => panic!("nobody asked"),
            }
        }
        all.sort_by_key(|reply| reply.tag);
        all
    }

    /// Submits records and waits for all replies.
    pub fn submit(&mut self, records: &[Vec<u8>]) -> Vec<Reply> {
        self.send(0, records);
        self.replies(records.len())
    }

    pub fn account(&mut self, address: &Address) -> Option<AccountState> {
        let mut out = Vec::new();
        client::encode_account(1, address, &mut out);
        self.stream.write_all(&out).unwrap();
        match self.next() {
            Response::Account { state, .. } => state,
            Response::Replies(_) => panic!("nothing was submitted"),
        }
    }
}
