//! One validator as a child process.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use engine::{
    config::Setup,
    process::{Stop, run},
};

/// A validator that is not ready by then never will be.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// What a validator says when its ports are open and its RPC answers.
const READY: &str = "ready";

/// Runs a validator until standard input is closed: by the process that started it, or by the kernel when that is gone.
///
/// # Errors
/// It can't start, or can't go on.
pub fn serve(config: &Path) -> anyhow::Result<()> {
    let setup = Setup::load(config)?;
    let stop = Stop::new();
    stop_with_parent(&stop);
    Ok(run(setup, stop)?)
}

/// Requests a stop when standard input is closed.
pub fn stop_with_parent(stop: &Stop) {
    let parent_gone = stop.clone();
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        parent_gone.request();
    });
}

/// Processor time of all threads of a process so far, in ticks of the kernel's clock (10 ms).
///
/// # Errors
/// It is gone.
pub fn cpu_time_of(process: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    cpu_time(&stat, rustix::param::clock_ticks_per_second()).context("/proc/…/stat has another layout")
}

/// A running validator. It is killed when this is dropped.
pub struct Process {
    child: Child,
    started: Instant,
    ready: Receiver<Instant>,
    log: PathBuf,
}

impl Process {
    /// Starts `perf node`. What it says is added to `log`.
    pub(super) fn start(config: &Path, log: &Path) -> anyhow::Result<Process> {
        let program = std::env::current_exe().context("this program's own file is not to be found")?;
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let started = Instant::now();
        let mut child = Command::new(program)
            .arg("node")
            .arg("--config")
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("a validator can't be started")?;
        let said = child.stderr.take().expect("it is piped");
        Ok(Process { child, started, ready: listen(said, file), log: log.into() })
    }

    /// Waits until it is ready. Returns how long that took from its start.
    pub(super) fn wait_ready(&mut self) -> anyhow::Result<Duration> {
        match self.ready.recv_timeout(READY_WITHIN) {
            Ok(at) => Ok(at - self.started),
            Err(RecvTimeoutError::Timeout) => bail!("not ready within {READY_WITHIN:?}"),
            Err(RecvTimeoutError::Disconnected) => {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("ended before it was ready: {}", text.lines().last().unwrap_or("it said nothing"))
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Processor time of all its threads so far, in ticks of the kernel's clock (10 ms).
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time_of(self.child.id())
    }

    /// Bytes of its resident set.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        Ok(pages.context("/proc/…/statm has another layout")? * rustix::param::page_size() as u64)
    }

    /// What it, and those before it, have said.
    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies what a validator says to its log, and tells when it says that it is ready.
fn listen(said: ChildStderr, mut log: File) -> Receiver<Instant> {
    let (tell, ready) = channel();
    thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            let now = Instant::now();
            // A log that can't be written must not stop the measurement.
            let _ = writeln!(log, "{line}");
            if line.starts_with(READY) {
                let _ = tell.send(now);
            }
        }
    });
    ready
}

/// User and system time of a process, from its line in `/proc` (proc_pid_stat(5)).
fn cpu_time(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    // The second field is the program's name in parentheses; it may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(|ticks| ticks.parse::<u64>().ok());
    let ticks = times.next()?? + times.next()??;
    Some(Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "71 (a) b (c) S 1 71 71 0 -1 4194560 250 0 3 0 120 35 7 9 20 0 3 0 5 1 2";
        assert_eq!(cpu_time(stat, 100), Some(Duration::from_millis(1_550)));
        assert_eq!(cpu_time("71 (a) S 1 71", 100), None);
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(cpu_time(&own, rustix::param::clock_ticks_per_second()).is_some());
    }
}
