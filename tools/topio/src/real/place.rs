//! The network that real processes are put into: a namespace for each validator, one for the clients, and a bridge between them in
//! another. Nothing of it is in the machine's own namespace.

use std::{
    env,
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use perf::netns::Namespace;

use super::plan::{Endpoint, Fault};
use crate::{
    devnet::{Home, Layout},
    exit::{Failure, Outcome},
};

/// Roles of our namespaces begin with this.
const ROLE: &str = "real-";
const BRIDGE: &str = "bridge";
const DEVICE: &str = "net";

/// The namespaces. Removed when dropped.
pub struct Place {
    _bridge: Namespace,
    /// The validators', then the clients'.
    endpoints: Vec<Namespace>,
    /// The rules that hold at each.
    rules: Vec<String>,
}

/// The address of an endpoint, in a network that only our namespaces know.
fn address(endpoint: Endpoint) -> Ipv4Addr {
    let host = u8::try_from(endpoint + 1).expect("a committee has fewer than 200 validators");
    Ipv4Addr::new(10, 90, 0, host)
}

/// What has to be there before anything is begun.
///
/// # Errors
/// In one line, what is missing.
pub fn check_tools() -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Usage(
            "--real makes network namespaces: run it as root, as in `sudo topio sim --real`".into(),
        ));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &str| env::split_paths(&path).any(|folder| Path::new(&folder).join(tool).is_file());
    match [("ip", "iproute2"), ("nft", "nftables")].iter().find(|(tool, _)| !is_there(tool)) {
        Some((tool, package)) => Err(Failure::Usage(format!(
            "--real takes `{tool}`, which is not on the PATH: apt-get install {package}"
        ))),
        None => Ok(()),
    }
}

fn refused(error: anyhow::Error) -> Failure {
    Failure::Failed(format!("the network can't be made: {error:#}"))
}

impl Place {
    /// Makes namespaces for so many validators and the clients, once those that a killed run has left are gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(validators: usize) -> Outcome<Place> {
        let left = Namespace::remove_leftovers(ROLE).map_err(refused)?;
        if left > 0 {
            eprintln!("removed {left} network namespaces that a killed run had left");
        }
        Place::make(validators).map_err(refused)
    }

    fn make(validators: usize) -> anyhow::Result<Place> {
        let bridge = Namespace::new(&format!("{ROLE}{BRIDGE}"))?;
        bridge.ip(&["link", "add", "name", BRIDGE, "type", "bridge"])?;
        bridge.ip(&["link", "set", BRIDGE, "up"])?;
        let mut endpoints = Vec::new();
        for endpoint in 0..=validators {
            let name = if endpoint < validators { Layout::name(endpoint) } else { "clients".into() };
            let namespace = Namespace::new(&format!("{ROLE}{name}"))?;
            // Both ends of a link have one name, and the bridge's have to differ.
            bridge.link(&namespace, &name, &[])?;
            bridge.ip(&["link", "set", &name, "master", BRIDGE])?;
            namespace.ip(&["link", "set", &name, "down"])?;
            namespace.ip(&["link", "set", &name, "name", DEVICE])?;
            let network = format!("{}/24", address(endpoint));
            namespace.ip(&["address", "add", &network, "dev", DEVICE])?;
            namespace.ip(&["link", "set", DEVICE, "up"])?;
            endpoints.push(namespace);
        }
        let rules = vec![String::new(); endpoints.len()];
        Ok(Place { _bridge: bridge, endpoints, rules })
    }

    /// Moves this thread, and what it starts, to where the clients are.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> Outcome {
        self.endpoints.last().expect("the clients' is there").enter().map_err(refused)
    }

    /// Where the validators run.
    pub fn homes(&self) -> Vec<Home> {
        let validators = self.endpoints.len() - 1;
        let home = |(index, namespace): (usize, &Namespace)| Home {
            namespace: namespace.name().into(),
            address: IpAddr::V4(address(index)),
        };
        self.endpoints.iter().take(validators).enumerate().map(home).collect()
    }

    /// Has the faults' rules hold, and no others.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn apply(&mut self, faults: &[Fault]) -> Outcome {
        for (to, namespace) in self.endpoints.iter().enumerate() {
            let rules = rules(faults, to, self.endpoints.len() - 1);
            if self.rules[to] != rules {
                namespace.nft(&rules).map_err(refused)?;
                self.rules[to] = rules;
            }
        }
        Ok(())
    }
}

/// The rules of an endpoint under these faults, as a script that replaces those before.
fn rules(faults: &[Fault], to: Endpoint, validators: usize) -> String {
    // To add it first makes that it can be deleted.
    let mut script = String::from("table inet topio\ndelete table inet topio\n");
    let mut lines = String::new();
    for from in (0..=validators).filter(|&from| from != to) {
        let source = address(from);
        for fault in faults {
            let verdict = match *fault {
                Fault::Cut(a, b) if (a, b) == (from, to) || (b, a) == (from, to) => "drop".into(),
                Fault::CutOneWay(a, b) if (a, b) == (from, to) => "drop".into(),
                Fault::Isolate(host) if host == from || host == to => "drop".into(),
                Fault::Partition(set)
                    if from < validators && to < validators && (set >> from ^ set >> to) & 1 == 1 =>
                {
                    "drop".into()
                }
                Fault::Loss(percent) => format!("numgen random mod 100 < {percent} drop"),
                Fault::Reset(a, b) if (a, b) == (from, to) => "meta l4proto tcp reject with tcp reset".into(),
                _ => continue,
            };
            writeln!(lines, "  ip saddr {source} {verdict}").expect("a string takes all");
        }
    }
    if !lines.is_empty() {
        write!(
            script,
            "table inet topio {{\n chain input {{\n  type filter hook input priority filter; policy accept;\n{lines} }}\n}}\n"
        )
        .expect("a string takes all");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(faults: &[Fault], to: Endpoint) -> Vec<String> {
        let script = rules(faults, to, 4);
        let lines = script.lines().filter_map(|line| line.trim().strip_prefix("ip saddr 10.90.0."));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn rules_are_those_of_the_receiving_side() {
        assert_eq!(dropped(&[Fault::Cut(0, 2)], 2), ["1 drop"]);
        assert_eq!(dropped(&[Fault::Cut(0, 2)], 0), ["3 drop"]);
        assert_eq!(dropped(&[Fault::CutOneWay(0, 2)], 2), ["1 drop"]);
        assert!(dropped(&[Fault::CutOneWay(0, 2)], 0).is_empty());
        assert_eq!(dropped(&[Fault::Isolate(1)], 1), ["1 drop", "3 drop", "4 drop", "5 drop"]);
        assert_eq!(dropped(&[Fault::Isolate(1)], 4), ["2 drop"]);
        assert_eq!(dropped(&[Fault::Partition(0b0011)], 0), ["3 drop", "4 drop"]);
        assert!(dropped(&[Fault::Partition(0b0011)], 4).is_empty());
        assert_eq!(dropped(&[Fault::Reset(4, 3)], 3), ["5 meta l4proto tcp reject with tcp reset"]);
        let both = dropped(&[Fault::Cut(0, 1), Fault::Loss(5)], 1);
        assert_eq!(both[..2], ["1 drop", "1 numgen random mod 100 < 5 drop"]);
        assert_eq!(both.len(), 5);
    }

    #[test]
    fn without_faults_there_are_no_rules() {
        assert_eq!(rules(&[Fault::Blackout], 0, 4), "table inet topio\ndelete table inet topio\n");
    }
}
