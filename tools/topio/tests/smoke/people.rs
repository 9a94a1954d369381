//! The commands, by hand.

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
};

use serde_json::Value;

use crate::network::{Network, PROGRAM};

/// What a command did.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the program to its end.
pub fn topio(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(PROGRAM).args(arguments).output().expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("all output is text");
    Ran { code: status.code(), out: text(stdout), err: text(stderr) }
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.err);
        serde_json::from_str(&self.out).expect("--json prints JSON")
    }

    /// Asserts that it failed with this code and one line that says why.
    fn refused(&self, code: i32, cause: &str) {
        assert_eq!(self.code, Some(code), "{}", self.err);
        assert!(self.err.contains(cause) && self.err.lines().count() == 1, "{}", self.err);
        assert_eq!(self.out, "");
    }
}

#[test]
fn a_payment_by_hand_is_found_again() {
    let network = Network::start();
    let rpc = |node: usize| network.devnet.nodes()[node].ports().rpc_address().to_string();
    let key = network.devnet.layout().account().to_string_lossy().into_owned();
    let to = network.key(1).address().to_string();
    let pay = |amount: &str| {
        topio(&[
            "transfer",
            "--from",
            &key,
            "--to",
            &to,
            "--amount",
            amount,
            "--wait",
            "--json",
            "--rpc",
            &rpc(0),
        ])
    };
    let before: Value = topio(&["account", &to, "--json", "--rpc", &rpc(1)]).json();
    let paid = pay("1.25").json();
    assert_eq!(paid["status"], "committed");
    let (table, height) = (paid["table"].to_string(), paid["height"].to_string());
    pay("1000000").refused(1, "overdraft");

    let id = paid["id"].as_str().expect("an id");
    let found = topio(&["tx", id, "--json", "--rpc", &rpc(0)]).json();
    assert_eq!((&found["height"], &found["index"]), (&paid["height"], &paid["index"]));
    let block = topio(&["block", &table, &height, "--json", "--rpc", &rpc(0)]).json();
    let place = usize::try_from(paid["index"].as_u64().expect("a number")).expect("a small number");
    assert_eq!(block["transactions"][place]["id"], id);
    let by_hash =
        topio(&["block", "--hash", block["hash"].as_str().expect("a hash"), "--json", "--rpc", &rpc(0)]);
    assert_eq!(by_hash.json()["height"], block["height"]);

    let balance = |account: &Value| {
        account["balance"].as_str().and_then(|text| text.parse::<u64>().ok()).expect("micro-TOP")
    };
    let credited =
        || balance(&topio(&["account", &to, "--json", "--rpc", &rpc(1)]).json()) - balance(&before);
    // The payee's table applies the receipt in one of its next blocks.
    for _ in 0..200 {
        if credited() > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(credited(), 1_250_000);

    let status = topio(&["status", "--json", "--rpc", &rpc(3)]).json();
    assert_eq!(status["tables"].as_array().map(Vec::len), Some(16));
    assert!(
        status["peers"].as_array().is_some_and(|peers| peers.iter().all(|peer| peer["lanesConnected"] == 1))
    );
}

#[test]
fn a_validator_that_can_not_start_says_why() {
    let mut network = Network::start();
    let config = network.devnet.layout().config(0);
    let node = || topio(&["node", "--config", &config.to_string_lossy()]);
    node().refused(2, "another node runs on the data directory");

    network.devnet.node(0).kill();
    let ports = *network.devnet.nodes()[0].ports();
    for address in [ports.rpc_address(), ports.submission_address()] {
        let _taken = TcpListener::bind(address).expect("the port is free");
        node().refused(2, "in use");
    }
    let text = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, text.replace("../genesis.toml", "../v1/genesis.toml")).expect("it can be changed");
    let other = network.devnet.layout().node(1);
    let validators: Vec<String> = (0..4)
        .map(|index| format!("--validator=v{index}={}", network.genesis.validators()[index].key))
        .collect();
    let mut genesis = vec!["genesis", "--name", "other", "--lanes", "1", "--tables", "16", "--out"];
    let out = other.to_string_lossy();
    genesis.push(&out);
    genesis.extend(validators.iter().map(String::as_str));
    assert_eq!(topio(&genesis).code, Some(0));
    node().refused(2, "is of another chain");
}
