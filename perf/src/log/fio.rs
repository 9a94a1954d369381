//! `fio` as the other side of the comparison.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::install;

/// What of its JSON is read.
#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i32,
    write: Side,
}

#[derive(Deserialize)]
struct Side {
    total_ios: u64,
    /// ms.
    runtime: u64,
}

/// How a write becomes durable before the next one begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// The write, then `fdatasync`.
    Fdatasync,
    /// One durable write, as `O_DSYNC` or `RWF_DSYNC` ask for.
    Dsync,
}

/// Sequential writes of one size to an existing file.
#[derive(Clone, Copy, Debug)]
pub struct Pattern<'a> {
    /// The file, as long as it needs to be.
    pub file: &'a Path,
    /// Where the first write goes.
    pub offset: u32,
    /// Bytes of each write.
    pub bytes: u32,
    /// How many.
    pub writes: u32,
    /// How each becomes durable.
    pub durable: Durable,
}

/// The version of the `fio` in the search path. Where there is none and `install` says so, it is installed by `apt-get`.
///
/// # Errors
/// There is none.
pub fn version(install: bool) -> anyhow::Result<String> {
    if install {
        install::ensure("fio", "fio")?;
    }
    installed().context("there is no fio: install it (apt-get install fio)")
}

fn installed() -> Option<String> {
    let output = Command::new("fio").arg("--version").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Writes by `fio`, with direct IO, each durable before the next one begins. Returns writes per second.
///
/// # Errors
/// `fio` fails or can't be understood.
pub fn write_rate(pattern: Pattern<'_>) -> anyhow::Result<f64> {
    let Pattern { file, offset, bytes, writes, durable } = pattern;
    let size = u64::from(bytes) * u64::from(writes);
    let output = Command::new("fio")
        .args(["--name=append", "--rw=write", "--ioengine=psync", "--iodepth=1", "--direct=1"])
        .args(["--overwrite=1", "--output-format=json"])
        .arg(match durable {
            Durable::Fdatasync => "--fdatasync=1",
            Durable::Dsync => "--sync=dsync",
        })
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--offset={offset}"))
        .arg(format!("--size={size}"))
        .arg(format!("--bs={bytes}"))
        .stdin(Stdio::null())
        .output()
        .context("fio can't be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("fio failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&text, writes)
}

fn parse(text: &str, writes: u32) -> anyhow::Result<f64> {
    // Warnings may stand before the JSON.
    let json = text.find('{').map_or("", |start| &text[start..]);
    let output: Output = serde_json::from_str(json).context("fio's output is not understood")?;
    let [Job { error, write }] = output.jobs.as_slice() else { bail!("fio ran {} jobs", output.jobs.len()) };
    ensure!(*error == 0, "fio met error {error}");
    ensure!(write.total_ios == u64::from(writes), "fio made {} of {writes} writes", write.total_ios);
    ensure!(write.runtime > 0, "fio was done in no time: ask for more writes");
    Ok(write.total_ios as f64 * 1000.0 / write.runtime as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_whole_runs_only() {
        let text = |error: i32, ios: u64, runtime: u64| {
            format!(
                "fio: a note\n{{\"fio version\": \"fio-3.33\", \"jobs\": [{{\"error\": {error}, \"read\": {{}}, \
                 \"write\": {{\"total_ios\": {ios}, \"runtime\": {runtime}, \"bw\": 1}}}}]}}"
            )
        };
        assert_eq!(parse(&text(0, 300, 150), 300).unwrap(), 2000.0);
        for (error, ios, runtime, cause) in
            [(5, 300, 150, "error 5"), (0, 299, 150, "299 of 300"), (0, 300, 0, "no time")]
        {
            let message = parse(&text(error, ios, runtime), 300).unwrap_err().to_string();
            assert!(message.contains(cause), "{message}");
        }
        assert!(parse("fio: command not found", 1).is_err());
    }
}
