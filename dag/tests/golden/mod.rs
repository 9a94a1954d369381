//! Golden files: a structure's bytes, written down once, so that no change of a layout goes unnoticed.
//!
//! A file is text: hexadecimal digits, 32 bytes a line, so that a diff shows which bytes moved. `#` begins a comment.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// A folder of golden files, and how to write them anew.
#[derive(Debug)]
pub struct Golden {
    folder: PathBuf,
    package: &'static str,
    test: &'static str,
}

impl Golden {
    /// The files in `folder`, which the integration test `test` of `package` checks.
    pub fn new(folder: impl Into<PathBuf>, package: &'static str, test: &'static str) -> Golden {
        Golden { folder: folder.into(), package, test }
    }

    /// Compares bytes with the file `name`.hex.
    ///
    /// # Panics
    /// Where they differ, naming the command that accepts the change.
    pub fn check(&self, name: &str, bytes: &[u8]) {
        self.check_text(name, &to_hex(bytes));
    }

    /// Compares a file's text.
    ///
    /// # Panics
    /// As [`check`](Self::check).
    pub fn check_text(&self, name: &str, text: &str) {
        let path = self.path(name);
        if std::env::var_os("TOP_BLESS").is_some() {
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            return;
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        if found == text {
            return;
        }
        let line = found.lines().zip(text.lines()).take_while(|(a, b)| a == b).count() + 1;
        panic!(
            "{}:{line}: {}. If the layout is meant to change, raise its version, run\n\
             TOP_BLESS=1 cargo test -p {} --test {}\nand read the diff.",
            path.display(),
            if found.is_empty() { "the file is missing" } else { "the layout has changed" },
            self.package,
            self.test,
        );
    }

    /// The bytes of the file `name`.hex.
    ///
    /// # Panics
    /// Where it can't be read.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        from_hex(&text).unwrap_or_else(|| panic!("{}: not hexadecimal", path.display()))
    }

    /// The names of all files, sorted.
    ///
    /// # Panics
    /// Where the folder can't be read.
    pub fn names(&self) -> Vec<String> {
        let entries =
            fs::read_dir(&self.folder).unwrap_or_else(|error| panic!("{}: {error}", self.folder.display()));
        let paths = entries.map(|entry| entry.expect("a listed file").path());
        let hex = paths.filter(|path| path.extension().is_some_and(|extension| extension == "hex"));
        let mut names: Vec<String> =
            hex.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
        names.sort();
        names
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.folder).join(name).with_extension("hex")
    }
}

/// Hexadecimal text, 32 bytes a line.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + bytes.len() / 32 + 1);
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a String takes all"));
        text.push('\n');
    }
    text
}

/// The bytes of such a text.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let code = text.lines().filter_map(|line| line.split('#').next());
    let digits: Vec<u8> = code
        .flat_map(str::chars)
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16)?.try_into().ok())
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
