//! Writing the report folder: all of it or nothing.
//!
//! Fault model: the process may be killed, or the machine lose power, at any moment. The files are written
//! and synced in a folder beside the target, which then takes the target's place in one rename, so that the
//! target is always a whole report, old or new. What a kill may leave behind is a hidden folder beside it.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use super::{RunData, to_hgrm, to_hlog, to_html};

/// The files of a report folder.
pub const FILES: [&str; 4] = ["report.html", "latency.hgrm", "latency.hlog", "summary.json"];

/// Why a report could not be written. Whatever was at its place is untouched.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The target exists and replacing it might destroy something else.
    #[error("{path} is not a report folder ({reason}): choose another place or remove it")]
    NotAReport {
        /// The target.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("cannot write the report to {path}: {source}")]
    Io {
        /// The target.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Writes the report of `data` as the folder `target`, creating its parents.
///
/// An existing report is replaced, and an empty folder is filled; anything else is left alone.
///
/// # Errors
/// The target holds something other than a report, or the file system refused.
///
/// # Panics
/// When a rate or a time of the run is negative or not finite.
pub fn write(data: &RunData, target: &Path) -> Result<(), WriteError> {
    let io_error = |source| WriteError::Io { path: target.to_owned(), source };
    // The link, if there is one, stays; the folder it names is what gets replaced.
    let resolved = if target.exists() { target.canonicalize() } else { std::path::absolute(target) };
    let resolved = resolved.map_err(io_error)?;
    check_replaceable(&resolved, target)?;
    write_beside(data, &resolved).map_err(io_error)
}

/// Refuses a target that holds anything but a report.
fn check_replaceable(resolved: &Path, target: &Path) -> Result<(), WriteError> {
    let refuse = |reason: String| Err(WriteError::NotAReport { path: target.to_owned(), reason });
    let entries = match fs::read_dir(resolved) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return refuse("it is a file".into()),
        Err(source) => return Err(WriteError::Io { path: target.to_owned(), source }),
    };
    let names: Vec<OsString> = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()
        .map_err(|source| WriteError::Io { path: target.to_owned(), source })?;
    if let Some(foreign) = names.iter().find(|name| !FILES.iter().any(|file| name == file)) {
        return refuse(format!("it holds {}", foreign.to_string_lossy()));
    }
    if !names.is_empty() && !names.iter().any(|name| name == "summary.json") {
        return refuse("it has no summary.json".into());
    }
    Ok(())
}

fn write_beside(data: &RunData, target: &Path) -> io::Result<()> {
    let parent =
        target.parent().ok_or_else(|| io::Error::other("the root of the file system is no report"))?;
    fs::create_dir_all(parent)?;
    let fresh = tempfile::Builder::new()
        .prefix(".report-")
        .permissions(Permissions::from_mode(0o777)) // As mkdir does: less the umask.
        .tempdir_in(parent)?;
    let summary = serde_json::to_string_pretty(&data.summary())? + "\n";
    let contents =
        [to_html(data).into_bytes(), to_hgrm(&data.latency).into_bytes(), to_hlog(data), summary.into()];
    for (name, content) in FILES.iter().zip(&contents) {
        write_synced(&fresh.path().join(name), content)?;
    }
    File::open(fresh.path())?.sync_all()?;
    put_in_place(fresh, target)?;
    File::open(parent)?.sync_all()
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Gives `fresh` the name `target`; what had that name before is deleted.
fn put_in_place(fresh: TempDir, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, fresh.path(), CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => fresh.close(), // Its name is now the old folder's.
        Err(Errno::NOENT) => take_name(fresh, target),
        // Some network file systems can't exchange names.
        Err(Errno::INVAL | Errno::NOSYS) => put_in_place_by_steps(fresh, target),
        Err(error) => Err(error.into()),
    }
}

/// As [`put_in_place`], but a kill half-way leaves the old report under a hidden name and none at `target`.
fn put_in_place_by_steps(fresh: TempDir, target: &Path) -> io::Result<()> {
    let aside = tempfile::Builder::new().prefix(".report-").tempdir_in(target.parent().unwrap_or(target))?;
    fs::rename(target, aside.path())?;
    take_name(fresh, target)?;
    aside.close()
}

fn take_name(fresh: TempDir, target: &Path) -> io::Result<()> {
    fs::rename(fresh.path(), target)?;
    let _same_as_target = fresh.keep();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn scratch() -> TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn writes_the_four_files_and_leaves_nothing_else() {
        let scratch = scratch();
        let target = scratch.path().join("runs/today");
        write(&fixture::run(), &target).expect("written");
        assert_eq!(names(&target), ["latency.hgrm", "latency.hlog", "report.html", "summary.json"]);
        assert_eq!(names(&scratch.path().join("runs")), ["today"]);
    }

    #[test]
    fn replaces_a_report_also_through_a_link() {
        let scratch = scratch();
        let target = scratch.path().join("report");
        let link = scratch.path().join("latest");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        write(&fixture::run(), &target).expect("written");
        let mut data = fixture::run();
        data.title = "second".into();
        write(&data, &link).expect("replaced");

        assert!(fs::symlink_metadata(&link).expect("still there").is_symlink());
        assert!(fs::read_to_string(target.join("summary.json")).expect("written").contains("\"second\""));
        assert_eq!(names(scratch.path()), ["latest", "report"]);
    }

    #[test]
    fn replaces_without_an_exchange_of_names() {
        let scratch = scratch();
        let target = scratch.path().join("report");
        write(&fixture::run(), &target).expect("written");
        let fresh = tempfile::tempdir_in(scratch.path()).expect("a temporary folder");
        fs::write(fresh.path().join("new"), "").expect("written");
        put_in_place_by_steps(fresh, &target).expect("replaced");
        assert_eq!(
            (names(&target), names(scratch.path())),
            (vec!["new".to_owned()], vec!["report".to_owned()])
        );
    }

    #[test]
    fn fills_an_empty_folder() {
        let target = scratch();
        write(&fixture::run(), target.path()).expect("written");
        assert_eq!(names(target.path()).len(), FILES.len());
    }

    #[test]
    fn leaves_alone_what_is_no_report() {
        let scratch = scratch();
        let file = scratch.path().join("file");
        fs::write(&file, "mine").expect("written");
        let without_summary = scratch.path().join("without");
        fs::create_dir(&without_summary).expect("made");
        fs::write(without_summary.join("report.html"), "mine").expect("written");
        let with_more = scratch.path().join("more");
        fs::create_dir(&with_more).expect("made");
        fs::write(with_more.join("summary.json"), "{}").expect("written");
        fs::write(with_more.join("notes.md"), "mine").expect("written");

        for (target, reason) in [
            (&file, "it is a file"),
            (&without_summary, "no summary.json"),
            (&with_more, "it holds notes.md"),
        ] {
            let error = write(&fixture::run(), target).expect_err("not a report");
            assert!(matches!(error, WriteError::NotAReport { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(fs::read_to_string(with_more.join("notes.md")).expect("untouched"), "mine");
        assert_eq!(names(scratch.path()), ["file", "more", "without"]);
    }

    #[test]
    fn names_the_target_when_the_file_system_refuses() {
        let error = write(&fixture::run(), Path::new("/proc/report")).expect_err("/proc takes no folders");
        assert!(matches!(error, WriteError::Io { .. }));
        assert!(error.to_string().contains("/proc/report"), "{error}");
    }
}
