//! A validator that relays.

use std::{fs::OpenOptions, io::Write, net::Ipv4Addr, net::SocketAddr, path::Path};

use topio::{
    devnet::{Devnet, Instructions, READY_WITHIN, Sizes},
    signals::Interrupt,
};

use crate::{
    coturn::{LONG_TERM, Peer, call},
    server::{PASSWORD, Relay, USER, free_port},
};

const SIZES: Sizes = Sizes {
    validators: 4,
    tables: 4,
    lanes: 1,
    cores: 1,
    accounts: 10,
    balance: 1_000_000_000,
    check_all: false,
    pin: false,
    instructions: Instructions::Auto,
};

#[test]
fn a_validator_relays_on_its_own_core() {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_topio"));
    let mut devnet = Devnet::create(program, &folder.path().join("devnet"), SIZES, None).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST.into())));
    let mut config = OpenOptions::new().append(true).open(devnet.layout().config(0)).unwrap();
    writeln!(
        config,
        "\n[relay.turn]\nlisten = [\"{address}\"]\nrelay = [\"127.0.0.1\"]\nallow_peers = [\"127.0.0.0/8\"]\n\
         users = {{ {USER} = \"{PASSWORD}\" }}"
    )
    .unwrap();
    drop(config);
    devnet.start().unwrap();
    devnet.wait_ready(READY_WITHIN, &Interrupt::none()).unwrap();
    let relay = Relay { address, metrics: devnet.nodes()[0].ports().rpc_address() };
    let peer = Peer::start(address.ip());
    for way in [&["-c"][..], &["-c", "-t"]] {
        call(&relay, &peer, &[way, &LONG_TERM].concat(), 4);
    }
    assert!(relay.metric("relay_turn_packets_total", "to clients") >= 400);
    assert_eq!(devnet.take_died().len(), 0);
}
