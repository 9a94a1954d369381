//! Network namespaces with links between them, for tests and comparisons with real peers. Takes root and `ip`.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Where `ip` keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// Makes names of one process differ.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed when dropped by who has made it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// Whether this process has made it.
    ours: bool,
}

impl Namespace {
    /// A new namespace with loopback up.
    ///
    /// # Errors
    /// Without root or `ip`.
    pub fn new(role: &str) -> anyhow::Result<Namespace> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = name(role, std::process::id(), number);
        ip(&["netns", "add", &name]).context("network namespaces take root and iproute2")?;
        let namespace = Namespace { name, ours: true };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// One that another process has made; it is that one's to remove.
    #[must_use]
    pub fn existing(name: &str) -> Namespace {
        Namespace { name: name.to_owned(), ours: false }
    }

    /// Removes those whose role begins with `prefix` and whose maker is gone, killed before it could remove them itself, with the
    /// processes that still run inside. Returns how many.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn remove_leftovers(prefix: &str) -> anyhow::Result<usize> {
        // There are no names before the first namespace is made.
        let Ok(entries) = fs::read_dir(NAMES) else { return Ok(0) };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let is_left = |name: &String| maker(name, prefix).is_some_and(|maker| !is_alive(maker));
        let left: Vec<String> = names.filter(is_left).collect();
        for name in &left {
            let inside = ip(&["netns", "pids", name])?;
            let inside = inside.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
            for process in inside {
                // One that has ended by itself meanwhile is as good.
                let _ = kill_process(process, Signal::KILL);
            }
            ip(&["netns", "del", name])?;
        }
        Ok(left.len())
    }

    /// Moves this thread inside, and with it the threads and processes that it starts from now on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enter(&self) -> anyhow::Result<()> {
        let file = File::open(Path::new(NAMES).join(&self.name))?;
        Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Has `nft` take a script inside, all of it or nothing.
    ///
    /// # Errors
    /// What it says.
    pub fn nft(&self, script: &str) -> anyhow::Result<()> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("ip of iproute2 can't be run")?;
        // Where it has ended already, its words are better than a broken pipe.
        let _ = child.stdin.take().expect("piped").write_all(script.as_bytes());
        finished("nft", &["-f", "-"], child.wait_with_output()?).map(drop)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Links two namespaces by a veth pair, with the same name at both ends; `addresses` are for this end and the other.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn link(&self, other: &Namespace, device: &str, addresses: &[(&str, &str)]) -> anyhow::Result<()> {
        let (here, there) = (self.name.as_str(), other.name.as_str());
        ip(&[
            "link", "add", "name", device, "netns", here, "type", "veth", "peer", "name", device, "netns",
            there,
        ])?;
        for (namespace, first) in [(self, true), (other, false)] {
            for (ours, theirs) in addresses {
                let address = if first { ours } else { theirs };
                let mut arguments = vec!["address", "add", address, "dev", device];
                if address.contains(':') {
                    arguments.push("nodad");
                }
                namespace.ip(&arguments)?;
            }
            namespace.ip(&["link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// Runs `ip` inside.
    ///
    /// # Errors
    /// What it says.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<String> {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a command inside to its end.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        finished(program, arguments, self.command(program).args(arguments).output()?)
    }

    /// Starts a command inside that is killed when the guard is dropped.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> anyhow::Result<Running> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        Ok(Running { child: command.spawn()? })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.ours {
            let _ = ip(&["netns", "del", &self.name]);
        }
    }
}

fn name(role: &str, maker: u32, number: u32) -> String {
    format!("topio-{role}-{maker}-{number}")
}

/// The process that has made a namespace of ours with such a role.
fn maker(name: &str, prefix: &str) -> Option<u32> {
    let (rest, _) = name.strip_prefix("topio-")?.strip_prefix(prefix)?.rsplit_once('-')?;
    rest.rsplit_once('-')?.1.parse().ok()
}

/// Whether a process of the same program as this one has that number: it may be another program's by now.
fn is_alive(maker: u32) -> bool {
    let program = |process: &str| {
        let path = fs::read_link(format!("/proc/{process}/exe")).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        // The kernel says so of a file that was replaced meanwhile.
        Some(name.trim_end_matches(" (deleted)").to_owned())
    };
    program(&maker.to_string()).is_some_and(|other| Some(other) == program("self"))
}

/// A process in a namespace. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id: `ip netns exec` becomes the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it ends with an error.
    pub fn terminate(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("ended with {status}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries until it works, or the time is over.
///
/// # Errors
/// Those of the last attempt.
pub fn patiently<T>(patience: Duration, mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(_) if began.elapsed() < patience => sleep(Duration::from_millis(50)),
            outcome => return outcome,
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    finished(
        "ip",
        arguments,
        Command::new("ip").args(arguments).output().context("ip of iproute2 can't be run")?,
    )
}

fn finished(program: &str, arguments: &[&str], output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let said = [&output.stdout[..], &output.stderr].concat();
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_role_and_maker() {
        assert_eq!(maker(&name("real-v12", 345, 6), "real-"), Some(345));
        assert_eq!(maker(&name("client", 345, 6), "real-"), None);
        for strange in ["topio-real-", "topio-real-x", "topio-real-v0-x-1", "real-v0-1-1", "mine"] {
            assert_eq!(maker(strange, "real-"), None, "{strange}");
        }
        assert!(is_alive(std::process::id()) && !is_alive(u32::MAX));
    }
}
