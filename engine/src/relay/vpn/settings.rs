//! The host's settings that a VPN changes, and how they were before: noted in a file, so that a start after a kill still knows.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::VpnError;

/// Name of the file in the state folder.
const FILE: &str = "host-before.toml";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Settings under /proc/sys, undone when this is dropped.
#[derive(Debug)]
pub struct Settings {
    root: PathBuf,
    file: PathBuf,
    noted: Noted,
}

/// What the file holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Noted {
    /// Which start of the host it is of: after another, its settings are others.
    boot: String,
    /// Each setting, and what it was.
    before: BTreeMap<String, String>,
}

impl Settings {
    /// Knows what a VPN with this state folder that was killed has changed.
    pub fn open(state_dir: &Path) -> Settings {
        let boot = fs::read_to_string(BOOT).unwrap_or_default();
        Settings::open_in(Path::new("/proc/sys"), state_dir, boot.trim())
    }

    fn open_in(root: &Path, state_dir: &Path, boot: &str) -> Settings {
        let file = state_dir.join(FILE);
        let noted = fs::read_to_string(&file).ok().and_then(|text| toml::from_str::<Noted>(&text).ok());
        let noted = noted.filter(|noted| noted.boot == boot);
        let noted = noted.unwrap_or_else(|| Noted { boot: boot.to_owned(), before: BTreeMap::new() });
        Settings { root: root.to_owned(), file, noted }
    }

    /// Changes a setting that there is.
    ///
    /// # Errors
    /// It can't be read or written, or what it was can't be noted.
    pub fn set(&mut self, setting: &str, value: &str) -> Result<(), VpnError> {
        let path = self.root.join(setting);
        if !path.exists() {
            return Ok(()); // a host without IPv6
        }
        let before = fs::read_to_string(&path).map_err(|error| VpnError::file(&path, error))?;
        if before.trim() == value {
            return Ok(());
        }
        self.noted.before.entry(setting.to_owned()).or_insert_with(|| before.trim().to_owned());
        let text = toml::to_string(&self.noted).expect("plain data");
        fs::write(&self.file, text).map_err(|error| VpnError::file(&self.file, error))?;
        fs::write(&path, value).map_err(|error| VpnError::file(&path, error))
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let mut whole = true;
        for (setting, before) in &self.noted.before {
            let path = self.root.join(setting);
            if let Err(error) = fs::write(&path, before) {
                eprintln!("while taking the VPN down: {}: {error}", path.display());
                whole = false;
            }
        }
        if whole {
            // It need not be there.
            let _ = fs::remove_file(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_as_before_even_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let (root, state) = (folder.path().join("sys"), folder.path().join("state"));
        for path in [&root, &state] {
            fs::create_dir(path).unwrap();
        }
        fs::write(root.join("a"), "0\n").unwrap();
        fs::write(root.join("b"), "1\n").unwrap();
        let all = |settings: &mut Settings| {
            for setting in ["a", "b", "none"] {
                settings.set(setting, "1").unwrap();
            }
        };
        let now = || ["a", "b"].map(|name| fs::read_to_string(root.join(name)).unwrap().trim().to_owned());
        let mut killed = Settings::open_in(&root, &state, "boot");
        all(&mut killed);
        assert_eq!(now(), ["1", "1"]);
        std::mem::forget(killed);
        let mut next = Settings::open_in(&root, &state, "boot");
        all(&mut next);
        drop(next);
        assert_eq!(now(), ["0", "1"]);
        assert!(!state.join(FILE).exists());

        // What was noted before the host started anew is of no use.
        let mut killed = Settings::open_in(&root, &state, "boot");
        all(&mut killed);
        std::mem::forget(killed);
        let mut next = Settings::open_in(&root, &state, "another boot");
        all(&mut next);
        drop(next);
        assert_eq!(now(), ["1", "1"]);
        fs::write(state.join(FILE), "garbage").unwrap();
        drop(Settings::open_in(&root, &state, "boot"));
        assert_eq!(now(), ["1", "1"]);
    }
}
