//! Peers that are measured beside us, from Debian's packages.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Installs a package by `apt-get`, where its program is missing.
///
/// # Errors
/// It is missing and can't be installed.
pub fn ensure(program: &str, package: &str) -> anyhow::Result<()> {
    if Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok() {
        return Ok(());
    }
    eprintln!("{program} is missing: installing {package} by apt-get");
    apt_get_install(package).with_context(|| format!("{package} can't be installed: install it by hand"))
}

fn apt_get_install(package: &str) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    let apt_get = |arguments: &[&str]| {
        let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
        command.args((!root).then_some("apt-get")).args(arguments);
        // Standard output is for facts.
        command.stdin(Stdio::null()).stdout(Stdio::null()).status()
    };
    // Old package lists may still do.
    let _ = apt_get(&["update", "-qq"])?;
    ensure!(apt_get(&["install", "-y", "-qq", package])?.success(), "apt-get install {package} failed");
    Ok(())
}
