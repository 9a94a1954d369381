//! `io = "af_xdp"` over a veth pair between two namespaces: coturn's clients in one, our server in the other.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use perf::netns::{Namespace, Running};

use crate::server::{PASSWORD, USER};

const SERVER: &str = "10.79.0.1";
const CLIENT: &str = "10.79.0.2";
const SERVER6: &str = "fd79::1";
const CLIENT6: &str = "fd79::2";

struct Place {
    server: Namespace,
    client: Namespace,
    running: Running,
}

/// The namespaces, and a server that passes the kernel by; `None`, said, where there is no privilege.
fn place(device: &str) -> Option<Place> {
    place_with(device, &[])
}

/// The same, with features of the client's device set.
fn place_with(device: &str, features: &[&str]) -> Option<Place> {
    let (Ok(server), Ok(client)) = (Namespace::new("xdp-server"), Namespace::new("xdp-client")) else {
        eprintln!("SKIPPED: no network namespaces (root and iproute2 make them)");
        return None;
    };
    let queues = ["numrxqueues", "1", "numtxqueues", "1"];
    let ends = [&["link", "add", "name", device][..], &queues, &["type", "veth", "peer", "name", device]];
    let add = [&ends.concat()[..], &["netns", client.name()], &queues].concat();
    server.ip(&add).unwrap();
    for (namespace, v4, v6) in [(&server, SERVER, SERVER6), (&client, CLIENT, CLIENT6)] {
        namespace.ip(&["address", "add", &format!("{v4}/24"), "dev", device]).unwrap();
        namespace.ip(&["address", "add", &format!("{v6}/64"), "dev", device, "nodad"]).unwrap();
        namespace.ip(&["link", "set", device, "up"]).unwrap();
    }
    if !features.is_empty() {
        client.run("ethtool", &[&["-K", device], features].concat()).unwrap();
    }
    let user = format!("{USER}:{PASSWORD}");
    let v6_listen = format!("[{SERVER6}]:3478");
    let arguments = [
        &["turn", "serve", "--listen", "10.79.0.1:3478", "--listen", &v6_listen][..],
        &["--relay", SERVER, "--relay", SERVER6, "--user", &user, "--af-xdp", device],
        &["--allow-peers", "10.79.0.0/24", "--allow-peers", "fd79::/64", "--metrics", "10.79.0.1:9100"],
    ];
    let running = server.start(env!("CARGO_BIN_EXE_topio"), &arguments.concat()).unwrap();
    let place = Place { server, client, running };
    let start = Instant::now();
    while place.metrics().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "the server does not start");
        sleep(Duration::from_millis(100));
    }
    Some(place)
}

impl Place {
    fn metrics(&self) -> String {
        self.client.run("curl", &["-s", "-m", "2", "http://10.79.0.1:9100/metrics"]).unwrap_or_default()
    }

    /// The sum of a metric over labels that contain `label`, once cores have told their numbers.
    fn metric(&self, name: &str, label: &str) -> u64 {
        sleep(Duration::from_millis(1200));
        let start = format!("topio_{name}");
        let text = self.metrics();
        let lines = text.lines().filter(|line| line.starts_with(&start) && line.contains(label));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    fn peer(&self, address: &str) -> Child {
        let mut command = self.client.command("turnutils_peer");
        command.args(["-L", address, "-p", "3480"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("turnutils_peer of the Debian package coturn")
    }

    /// 4 clients send 50 messages each, and all come back.
    fn call(&self, options: &[&str], peer: &str, server: &str) {
        let fixed = ["-e", peer, "-r", "3480", "-p", "3478", "-n", "50", "-m", "4", "-l", "200", "-z", "5"];
        let arguments = [&fixed[..], &["-u", USER, "-w", PASSWORD], options, &[server]].concat();
        let said = self.client.run("turnutils_uclient", &arguments).unwrap();
        assert!(said.contains("tot_send_msgs=200, tot_recv_msgs=200"), "{options:?}: {said}");
    }

    /// Sends frames as they are, from the clients' side.
    fn send_frames(&self, device: &str, frames: &[Vec<u8>]) {
        let text: Vec<String> =
            frames.iter().map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        let script = "import socket,sys\ns=socket.socket(17,3)\ns.bind((sys.argv[1],0))\n\
                      [s.send(bytes.fromhex(f)) for f in sys.argv[2:]]";
        let arguments: Vec<&str> =
            ["-c", script, device].into_iter().chain(text.iter().map(String::as_str)).collect();
        self.client.run("python3", &arguments).unwrap();
    }
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn past_the_kernel_coturn_s_client_gets_everything_back() {
    let Some(place) = place("xdpa") else { return };
    let _peers = [CLIENT, CLIENT6].map(|address| Guard(place.peer(address)));
    sleep(Duration::from_millis(300));
    for way in [&["-c"][..], &["-c", "-s"], &["-c", "-t"]] {
        place.call(way, CLIENT, SERVER);
    }
    place.call(&["-c", "-x"], CLIENT6, SERVER6);
    let (came, went) = (
        place.metric("relay_turn_bypass_packets_total", "\"in\""),
        place.metric("relay_turn_bypass_packets_total", "\"out\""),
    );
    // Three calls with UDP at both ends and one with TCP to the client, 200 messages each, both ways.
    assert!(came > 1200 && went > 800, "{came} in, {went} out");
    assert_eq!(place.metric("relay_turn_drops_total", "ring full"), 0);
}

#[test]
fn channels_are_relayed_by_the_driver() {
    // As on a wire: whole checksums, and the other end takes frames.
    let features = ["gro", "on", "tx", "off"];
    let Some(place) = place_with("xdpc", &features) else { return };
    let _peers = [CLIENT, CLIENT6].map(|address| Guard(place.peer(address)));
    sleep(Duration::from_millis(300));
    for (options, peer, server) in [(&["-c"][..], CLIENT, SERVER), (&["-c", "-x"], CLIENT6, SERVER6)] {
        let shortcut = || place.metric("relay_turn_bypass_packets_total", "\"shortcut\"");
        let relayed = || place.metric("relay_turn_packets_total", "");
        let (shortcut_before, relayed_before) = (shortcut(), relayed());
        place.call(options, peer, server);
        // Every message passes twice, and is counted once each time, whoever relays it.
        assert_eq!(relayed() - relayed_before, 400, "{options:?}");
        let carried = shortcut() - shortcut_before;
        assert!((200..400).contains(&carried), "{options:?}: {carried} of 400 by the driver");
    }
    // Indications are not for the driver.
    let before = place.metric("relay_turn_bypass_packets_total", "\"shortcut\"");
    place.call(&["-c", "-s"], CLIENT, SERVER);
    assert_eq!(place.metric("relay_turn_bypass_packets_total", "\"shortcut\""), before);
    assert_eq!(place.metric("relay_turn_drops_total", ""), 0);
}

#[test]
fn garbage_in_frames_is_counted_and_does_no_harm() {
    let Some(mut place) = place("xdpb") else { return };
    let mac = |namespace: &Namespace| {
        let text = namespace.run("cat", &["/sys/class/net/xdpb/address"]).unwrap();
        let bytes =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect::<Vec<_>>();
        *bytes.first_chunk::<6>().unwrap()
    };
    let (from, to) = (mac(&place.client), mac(&place.server));
    let (client, server) = ("10.79.0.2:5000".parse().unwrap(), "10.79.0.1:3478".parse().unwrap());
    let mut good = [&[0; netio::xdp::HEADERS_V4][..], &[0x5a; 100]].concat();
    netio::xdp::write(&mut good, (from, to), client, server);
    let mut frames = Vec::new();
    // Cut off at every length, so that lengths don't fit; one byte wrong everywhere behind the addresses that steer.
    for len in 43..good.len() {
        frames.push(good[..len].to_vec());
    }
    for at in 42..good.len() {
        let mut wrong = good.clone();
        wrong[at] ^= 0x41;
        frames.push(wrong);
    }
    let before = place.metric("relay_turn_drops_total", "\"frame\"");
    place.send_frames("xdpb", &frames);
    let counted = place.metric("relay_turn_drops_total", "\"frame\"") - before;
    assert_eq!(counted, frames.len() as u64);
    // And one that is whole is no frame's fault.
    place.send_frames("xdpb", &[good]);
    assert_eq!(place.metric("relay_turn_drops_total", "\"frame\"") - before, counted);
    assert!(!place.running.has_ended());
}

#[test]
fn without_such_an_interface_sockets_do_it() {
    let Ok(host) = Namespace::new("xdp-none") else {
        eprintln!("SKIPPED: no network namespaces (root and iproute2 make them)");
        return;
    };
    host.ip(&["link", "set", "lo", "up"]).unwrap();
    host.ip(&["address", "add", "192.0.2.1/32", "dev", "lo"]).unwrap();
    let config = "listen = ['192.0.2.1:3478']\nrelay = ['192.0.2.1']\nsecrets = ['s']\n\
                  io = 'af_xdp'\ninterface = 'none0'\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turn.toml");
    std::fs::write(&file, config).unwrap();
    let mut server = host
        .command(env!("CARGO_BIN_EXE_topio"))
        .args(["turn", "serve", "--config", file.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It says why, and goes on. Where it ends instead, so does what it says.
    let lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut said = Vec::new();
    for line in lines {
        let ready = line.starts_with("ready");
        said.push(line);
        if ready {
            break;
        }
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let [why, ready] = &said[..] else { panic!("{said:?}") };
    assert!(why.contains("no AF_XDP on none0: finding the interface"), "{why}");
    assert!(why.contains("uses sockets instead"), "{why}");
    assert_eq!(ready, "ready: STUN and TURN on 192.0.2.1:3478");
}
