use std::fs;

use dag::keys::KeyPair;

use super::*;
use crate::{
    genesis::{GENESIS_FILE, Genesis, GenesisValidator, Parameters, dev::dev_account_key},
    keyfile,
};

const EXAMPLE: &str = include_str!("../../examples/node.toml");

fn parse(text: &str) -> Result<NodeConfig, String> {
    toml_file::parse(Path::new("node.toml"), text).map_err(|error| error.to_string())
}

/// The example with the default of every key in force, each `# key = value` as a line of its own.
fn example_spelled_out() -> String {
    let keys = |line: &&str| line.strip_prefix("# ").is_some_and(is_setting);
    let line = |line| if keys(&line) { &line[2..] } else { line };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn is_setting(text: &str) -> bool {
    let key = text.split(" = ").next().expect("a split has a first part");
    key.len() < text.len() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

#[test]
fn the_example_parses_and_tells_the_defaults() {
    let example = parse(EXAMPLE).unwrap();
    assert_eq!(parse(&example_spelled_out()).unwrap(), example);
    assert_eq!(example.limits, Limits::default());
    assert_eq!(example.listen.peers.port(), 7000);
    assert_eq!(example.peers[0].address.to_string(), "v1.example.org:7000");
}

#[test]
fn the_example_documents_every_key() {
    // serde lists a section's keys when it meets one that it does not know.
    for section in
        ["cores", "listen", "peer", "limits", "timeouts", "agreement", "log", "snapshot", "index", "io"]
    {
        let header = if section == "peer" { "[[peer]]".into() } else { format!("[{section}]") };
        let error = parse(&EXAMPLE.replace(&header, &format!("{header}\nxyz = 1"))).unwrap_err();
        assert!(error.contains("unknown field `xyz`"), "{error}");
        let spelled_out = example_spelled_out();
        for key in error.split("expected").nth(1).unwrap().split('`').skip(1).step_by(2) {
            assert!(spelled_out.contains(&format!("\n{key} = ")), "{section}.{key}");
        }
    }
}

#[test]
fn a_relay_service_has_its_section() {
    assert_eq!(parse(EXAMPLE).unwrap().relay.turn, None);
    let turn = include_str!("../../examples/turn.toml").replace("[users]", "[relay.turn.users]");
    let config = parse(&format!("{EXAMPLE}\n[relay.turn]\n{turn}")).unwrap();
    assert_eq!(config.relay.turn.unwrap().listen[0].port(), 3478);
    let vpn = include_str!("../../examples/vpn.toml");
    let config = parse(&format!("{EXAMPLE}\n[relay.vpn]\n{vpn}")).unwrap();
    assert!(config.relay.has_relay() && config.relay.vpn.unwrap().internet);
    let error = parse(&format!("{EXAMPLE}\n[relay.vpn]\nmtu = 9")).unwrap_err();
    assert!(error.ends_with("9 is out of range: use 1280 to 9000"), "{error}");
    let error = parse(&format!("{EXAMPLE}\n[relay.tern]\n")).unwrap_err();
    assert!(error.contains("unknown field `tern`"), "{error}");
}

#[test]
fn bad_values_are_answered_with_their_line_and_range() {
    let line = |text: &str| example_spelled_out().lines().position(|l| l.starts_with(text)).unwrap() + 1;
    for (good, bad, cause) in [
        ("count = \"auto\"", "count = 0", "expected \"auto\" or a number from 1 to 1024"),
        ("count = \"auto\"", "count = \"all\"", "expected \"auto\" or a number from 1 to 1024"),
        (
            "instructions = \"auto\"",
            "instructions = \"mmx\"",
            "no instructions «mmx» here: use auto, portable",
        ),
        ("peers = \"0.0.0.0:7000\"", "peers = \"0.0.0.0\"", "«0.0.0.0»: invalid socket address"),
        ("address = \"v1.example.org:7000\"", "address = \"v1\"", "«v1»: write host:port"),
        ("mempool_bytes = 67_108_864", "mempool_bytes = 1", "1 is out of range: use 1048576 to"),
        ("segment_bytes = 67_108_864", "segment_bytes = 1_048_576", "use 8388608 to 2147483648"),
        ("view = \"1s\"", "view = \"1ms\"", "«1ms» is out of range: use 100ms to 1m"),
        ("view = \"1s\"", "view = \"soon\"", "«soon» is no duration: write it as 500ms or 5s"),
        ("wait = \"adaptive\"", "wait = \"nap\"", "expected `adaptive` or `poll`"),
        ("disable_features = []", "disable_features = [\"warp\"]", "unknown feature «warp»: use some of"),
    ] {
        let text = example_spelled_out().replace(&format!("\n{good}"), &format!("\n{bad}"));
        let error = parse(&text).unwrap_err();
        assert!(error.contains(cause), "{bad}: {error}");
        assert!(error.starts_with(&format!("node.toml:{}:", line(good))), "{bad}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let key = parse(&EXAMPLE.replace("top14", "top15")).unwrap_err();
    assert!(key.contains("not a bech32m text"), "{key}");
    let features = EXAMPLE.replace("# disable_features = []", "disable_features = [\"multishot_recv\"]");
    assert_eq!(parse(&features).unwrap().io.disable_features, netio::Features::MULTISHOT_RECV);
    let portable = EXAMPLE.replace("# instructions = \"auto\"", "instructions = \"portable\"");
    assert_eq!(parse(&portable).unwrap().cores.instructions, Backend::PORTABLE);
}

/// A network of four with one node's files, and the text of its configuration.
struct Network {
    directory: tempfile::TempDir,
    config: String,
}

fn validator_key(index: u64) -> KeyPair {
    dev_account_key(&[9; 32], index)
}

impl Network {
    fn new() -> Network {
        let directory = tempfile::tempdir().unwrap();
        let validators = (0..4)
            .map(|i| GenesisValidator { name: format!("v{i}"), key: validator_key(i).address() })
            .collect();
        let parameters = Parameters { name: "test".into(), tables: 16, lanes: 4, time: 1, validators };
        Genesis::create(parameters, Vec::new()).unwrap().write(directory.path()).unwrap();
        keyfile::create(&directory.path().join("validator.key"), &validator_key(2)).unwrap();
        let (head, rest) = EXAMPLE.split_once("[[peer]]").unwrap();
        let limits = rest.split_once("[limits]").unwrap().1;
        let peers: String = (0..4u16)
            .map(|i| {
                let key = validator_key(u64::from(i)).address();
                format!("[[peer]]\nkey = \"{key}\"\naddress = \"127.0.0.1:{}\"\n", 8000 + 10 * i)
            })
            .collect();
        Network { directory, config: format!("{head}{peers}[limits]{limits}") }
    }

    fn load(&self, config: &str) -> Result<Setup, String> {
        let path = self.directory.path().join("node.toml");
        fs::write(&path, config).unwrap();
        Setup::load(&path).map_err(|error| error.to_string())
    }

    fn error(&self, from: &str, to: &str) -> String {
        let changed = self.config.replacen(from, to, 1);
        assert_ne!(changed, self.config, "{from} stands in the configuration");
        let error = self.load(&changed).unwrap_err();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }
}

#[test]
fn a_node_finds_itself_and_its_peers() {
    let network = Network::new();
    let setup = network.load(&network.config).unwrap();
    assert_eq!((setup.replica, setup.validator().name.as_str()), (2, "v2"));
    let ports: Vec<Option<u16>> = setup.peers.iter().map(|p| p.as_ref().map(HostPort::port)).collect();
    assert_eq!(ports, [Some(8000), Some(8010), None, Some(8030)]);
    assert_eq!(setup.config.data_dir, network.directory.path().join("data"));
    assert!((1..=4).contains(&setup.cores));
}

#[test]
fn what_does_not_fit_together_is_named() {
    let network = Network::new();
    let stranger = validator_key(7).address();
    let second = validator_key(1).address().to_string();
    for (from, to, cause) in [
        (second.as_str(), stranger.to_string().as_str(), "is no validator of «test»: remove its section"),
        (second.as_str(), &validator_key(0).address().to_string(), "is listed twice"),
        ("127.0.0.1:8010", "127.0.0.1:65534", "end above 65535"),
        ("# count = \"auto\"", "count = 5", "the network has 4 lanes: use at most 4"),
        ("0.0.0.0:7000", "0.0.0.0:65533", "listen.peers: 4 lanes from port 65533 end above 65535"),
        ("127.0.0.1:7901", "127.0.0.1:7003", "listen.rpc is one of the lanes' ports 7000 to 7003"),
        ("0.0.0.0:7900", "127.0.0.1:7901", "listen.submission and listen.rpc are the same"),
        ("# view_max = \"30s\"", "view_max = \"200ms\"", "timeouts.view_max is below timeouts.view"),
        ("# retain_bytes = 1_073_741_824", "retain_bytes = 8_388_608", "below log.segment_bytes"),
        ("= \"validator.key\"", "= \"other.key\"", "make one with `topio keys new`"),
        ("genesis.toml\"", "no.toml\"", "no.toml can't be read"),
    ] {
        let error = network.error(from, to);
        assert!(error.contains(cause), "{error}");
    }
    let peer = format!("[[peer]]\nkey = \"{second}\"\naddress = \"127.0.0.1:8010\"\n");
    assert!(network.error(&peer, "").contains("validator «v1» (top1"));
    let path = network.directory.path();
    keyfile::create(&path.join("other.key"), &validator_key(7)).unwrap();
    assert!(network.error("= \"validator.key\"", "= \"other.key\"").contains("is no validator of «test»"));
    assert!(path.join(GENESIS_FILE).exists());
}
