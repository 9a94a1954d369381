//! One validator as a child process.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use perf::netns::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use super::{DevnetError, LOOK_AGAIN, Layout, Ports};
use crate::rpc::Rpc;

/// Lines of a log that an error shows.
const TAIL_LINES: usize = 12;
/// Bytes at a log's end that they are looked for in.
const TAIL_BYTES: u64 = 8 * 1024;

/// One validator.
#[derive(Debug)]
pub struct Node {
    name: String,
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    ports: Ports,
    /// The network namespace that it runs in, if not ours.
    namespace: Option<Namespace>,
    child: Option<Child>,
}

impl Node {
    pub(super) fn new(program: &Path, layout: &Layout, index: usize, ports: Ports) -> Node {
        let (config, log) = (layout.config(index), layout.log(index));
        let (name, program) = (Layout::name(index), program.into());
        Node { name, program, config, log, ports, namespace: None, child: None }
    }

    /// Has it run in a network namespace that somebody else has made.
    pub(super) fn run_in(&mut self, namespace: &str) {
        self.namespace = Some(Namespace::existing(namespace));
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ports.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// A client of its RPC.
    pub fn rpc(&self) -> Rpc {
        Rpc::new(&self.ports.rpc_address())
    }

    /// What it has printed so far, over all its starts.
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Starts it. What it prints is added to its log.
    ///
    /// # Panics
    /// It runs already.
    ///
    /// # Errors
    /// The process can't be started.
    pub fn start(&mut self) -> Result<(), DevnetError> {
        assert!(self.child.is_none(), "{} is started once", self.name);
        let io = |path: &Path, action| {
            let path = path.to_path_buf();
            move |source| DevnetError::Io { path, action, source }
        };
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(io(&self.log, "opened"))?;
        let errors = log.try_clone().map_err(io(&self.log, "opened"))?;
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        command.arg("node").arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(tied(&mut command).spawn().map_err(io(&self.program, "started"))?);
        Ok(())
    }

    /// The last lines of what it has printed.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Whether its process is there.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none() && self.child.is_some()
    }

    /// How it ended, where it was started and has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("a child that nobody else waits for"))
    }

    /// How it ended, where it has ended by itself since the last call.
    pub(super) fn take_death(&mut self) -> Option<DevnetError> {
        let status = self.ended()?.to_string();
        self.reap();
        let (name, log) = (self.name.clone(), self.log.clone());
        Some(DevnetError::Died { name, status, tail: tail(&log), log })
    }

    pub(super) fn not_ready(&self, waited: Duration, state: String) -> DevnetError {
        let (name, log) = (self.name.clone(), self.log.clone());
        DevnetError::NotReady { name, waited, state, tail: tail(&log), log }
    }

    /// Sends it a signal, if it runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let child = self.child.as_ref().expect("it runs");
            kill_process(Pid::from_child(child), signal).expect("a child that is not yet waited for");
        }
    }

    /// Kills it as a crash would: it has no chance to finish anything.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.reap();
    }

    /// Asks it to stop, which it does on its own time. A stopped process is continued, so that it can.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Waits until it has ended, and kills it at the deadline. Returns whether it ended by itself.
    pub fn reap_until(&mut self, deadline: Instant) -> bool {
        while self.is_running() {
            if Instant::now() >= deadline {
                self.kill();
                return false;
            }
            thread::sleep(LOOK_AGAIN);
        }
        self.reap();
        true
    }

    /// Waits for its end, which has come or is certain.
    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().expect("a child that nobody else waits for");
        }
    }
}

/// Ties a `topio` command's life to this process: it is killed with this one, but gets no Ctrl-C from the terminal.
pub fn tied(command: &mut Command) -> &mut Command {
    command.arg("--with-parent").arg(std::process::id().to_string()).process_group(0)
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if shown.is_empty() { "  (empty)".into() } else { format!("  {}", shown.join("\n  ")) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::*;

    /// A file that is written while another thread forks is still open for writing in that child, and can't be run.
    static FORKING: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        FORKING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(folder: &Path, program: &str) -> Node {
        let program_path = folder.join("program");
        fs::write(&program_path, format!("#!/bin/sh\n{program}\n")).unwrap();
        fs::set_permissions(&program_path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let layout = Layout::new(folder).unwrap();
        fs::create_dir(layout.node(0)).unwrap();
        Node::new(&program_path, &layout, 0, Ports::alone_on("127.0.0.1".parse().unwrap()))
    }

    #[test]
    fn an_end_is_told_with_the_logs_last_lines() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let mut node = node(folder.path(), "seq 1 50; echo \"$1\" >&2; exit 3");
        node.start().unwrap();
        let error = loop {
            match node.take_death() {
                None => thread::sleep(LOOK_AGAIN),
                Some(error) => break error.to_string(),
            }
        };
        assert!(error.starts_with("validator v0 ended (exit status: 3)"), "{error}");
        assert!(error.ends_with("  49\n  50\n  node"), "{error}");
        assert!(!error.contains("  38\n"), "{error}");
        assert!(!node.is_running());
    }

    #[test]
    fn a_deaf_one_is_killed_at_the_deadline() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let mut node = node(folder.path(), "trap '' TERM; echo up; while :; do sleep 0.1; done");
        node.start().unwrap();
        while node.log_text() != "up\n" {
            thread::sleep(LOOK_AGAIN);
        }
        node.terminate();
        assert!(!node.reap_until(Instant::now() + Duration::from_millis(100)));
        assert!(!node.is_running());
        node.start().unwrap();
        node.kill();
        assert!(node.reap_until(Instant::now()));
    }
}
