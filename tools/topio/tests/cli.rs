//! The command line without a network: keys, genesis, and errors that say in one line what to do.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_topio");

fn topio(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let run = Command::new(PROGRAM).args(arguments).current_dir(folder).env_remove("TOPIO_RPC").output();
    let Output { status, stdout, stderr } = run.expect("the program can be started");
    let text = |bytes| String::from_utf8(bytes).expect("all output is text");
    (status.code(), text(stdout), text(stderr))
}

/// Runs a command that has to succeed; returns what it prints as JSON.
fn json(folder: &Path, arguments: &[&str]) -> Value {
    let (code, out, err) = topio(folder, arguments);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).expect("--json prints JSON")
}

/// Runs a command that has to fail with this code, in one line that names the cause.
fn refused(folder: &Path, arguments: &[&str], expected: i32, cause: &str) {
    let (code, out, err) = topio(folder, arguments);
    assert_eq!(code, Some(expected), "{err}");
    assert!(err.contains(cause) && err.lines().count() == 1, "{err}");
    assert_eq!(out, "");
}

/// Four new keys, and the genesis of a network of theirs.
fn network(folder: &Path) -> Value {
    let mut arguments: Vec<String> =
        ["genesis", "--json", "--name", "n", "--tables", "4", "--lanes", "2"].map(String::from).to_vec();
    for index in 0..4 {
        let key = json(folder, &["keys", "new", &format!("v{index}.key"), "--json"]);
        let address = key["address"].as_str().expect("an address");
        arguments.extend(["--validator".into(), format!("v{index}={address}")]);
    }
    arguments.extend(["--dev-accounts", "3", "--dev-seed"].map(String::from));
    arguments.push("07".repeat(32));
    json(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn keys_are_for_their_owner_only_and_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let made = json(folder.path(), &["keys", "new", "a.key", "--json"]);
    let mode = fs::metadata(folder.path().join("a.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(json(folder.path(), &["keys", "show", "a.key", "--json"]), made);
    let (_, text, _) = topio(folder.path(), &["keys", "show", "a.key"]);
    assert!(text.contains(made["address"].as_str().unwrap()));
    let seed = fs::read_to_string(folder.path().join("a.key")).unwrap();
    let seed = seed.lines().last().unwrap().split(' ').next().unwrap().to_owned();
    assert!(!text.contains(&seed) && !made.to_string().contains(&seed), "the secret stays in the file");
    refused(folder.path(), &["keys", "new", "a.key"], 1, "exists already and is not overwritten");
    refused(folder.path(), &["keys", "show", "b.key"], 2, "make one with `topio keys new`");
    fs::set_permissions(folder.path().join("a.key"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(folder.path(), &["keys", "show", "a.key"], 2, "chmod 600");
}

#[test]
fn a_genesis_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let made = network(folder.path());
    assert_eq!((&made["accounts"], &made["supply"]), (&3.into(), &"3000000000".into()));
    let genesis = engine::genesis::Genesis::load(&folder.path().join("genesis.toml")).unwrap();
    assert_eq!(made["genesis"], genesis.hash().to_string());
    assert_eq!((genesis.tables(), genesis.lanes(), genesis.validators().len()), (4, 2, 4));
    let v0 = format!("v0={}", genesis.validators()[0].key);
    refused(folder.path(), &["genesis", "--name", "n", "--validator", &v0], 2, "4 to 128 validators, not 1");
    let (code, _, err) = topio(folder.path(), &["genesis", "--name", "n", "--validator", "v0"]);
    assert!(code == Some(2) && err.contains("NAME=KEY"), "{err}");
}

#[test]
fn a_node_that_can_not_start_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    network(folder.path());
    let path = folder.path().join("node.toml");
    let keys: Vec<String> = (1..4)
        .map(|index| {
            let key = json(folder.path(), &["keys", "show", &format!("v{index}.key"), "--json"]);
            format!("[[peer]]\nkey = {}\naddress = \"127.0.0.1:{}\"\n", key["address"], 7000 + 10 * index)
        })
        .collect();
    let good = format!(
        "genesis = \"genesis.toml\"\nkey_file = \"v0.key\"\ndata_dir = \"data\"\n[listen]\npeers = \"127.0.0.1:7000\"\n\
         submission = \"127.0.0.1:7900\"\nrpc = \"127.0.0.1:7901\"\n{}",
        keys.concat()
    );
    let start = |from: &str, to: &str, cause: &str| {
        assert!(good.contains(from), "{from}");
        fs::write(&path, good.replace(from, to)).unwrap();
        refused(folder.path(), &["node", "--config", "node.toml"], 2, cause);
    };
    start("[listen]", "[listen]\nspeed = 9", "node.toml:5:1: unknown field `speed`");
    start("v0.key", "nobody.key", "nobody.key does not exist: make one with `topio keys new`");
    start("\"genesis.toml\"", "\"no.toml\"", "no.toml can't be read");
    start("127.0.0.1:7901", "127.0.0.1:7900", "listen.submission and listen.rpc are the same");
    start("\"data\"", "\".\"", "neither empty nor a data directory of TOP");
    refused(folder.path(), &["node", "--config", "absent.toml"], 2, "absent.toml can't be read");
}

#[test]
fn reports_and_devnets_that_are_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), &["report", "show", "nothing"], 2, "give a report folder");
    refused(folder.path(), &["report", "compare", "a", "b"], 2, "cannot read");
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(folder.path().join("mine/thesis.txt"), "x").unwrap();
    refused(folder.path(), &["devnet", "--data-dir", "mine"], 2, "neither empty nor a former devnet");
    refused(folder.path(), &["devnet", "--data-dir", "none", "--resume"], 2, "leave --resume out");
}

#[test]
fn real_networks_take_what_they_take() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), &["sim", "--seed", "1", "--time", "5s"], 2, "leave --time out, or add --real");
    // Who is no root is told so; who is one has no tools on this PATH.
    let mut command = Command::new(PROGRAM);
    let run = command.args(["sim", "--real"]).current_dir(folder.path()).env("PATH", "").output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(2), "{said}");
    assert!(said.lines().count() == 1 && (said.contains("as root") || said.contains("apt-get")), "{said}");
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing was done");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| {
        let (code, out, _) = topio(folder.path(), arguments);
        assert_eq!(code, Some(0));
        out
    };
    assert!(help(&["--help"]).contains("Exit codes:\n  0    done"));
    for command in ["devnet", "node", "genesis", "account", "transfer", "block", "tx", "status", "sim"] {
        assert!(help(&[command, "--help"]).contains("Example"), "{command}");
    }
    for (group, command) in
        [("keys", "new"), ("keys", "show"), ("bench", "tps"), ("report", "show"), ("report", "compare")]
    {
        assert!(help(&[group, command, "--help"]).contains("Example"), "{group} {command}");
    }
}
