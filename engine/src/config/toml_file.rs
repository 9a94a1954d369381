//! TOML files, and errors that point at their line.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};

/// Why a TOML file can't be used, in one line.
#[derive(Debug, thiserror::Error)]
pub enum TomlFileError {
    /// The file can't be read.
    #[error("{what} {path} can't be read: {source}")]
    Read {
        /// What the file is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Its text is not TOML, has an unknown or missing key, or a value out of range.
    #[error("{path}:{line}:{column}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
}

/// Reads a TOML file into a value.
pub(crate) fn read<T: DeserializeOwned>(what: &'static str, path: &Path) -> Result<T, TomlFileError> {
    let text =
        fs::read_to_string(path).map_err(|source| TomlFileError::Read { what, path: path.into(), source })?;
    parse(path, &text)
}

/// Reads a TOML text that came from `path`.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, TomlFileError> {
    toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let before = text.get(..offset).unwrap_or(text);
        TomlFileError::Content {
            path: path.into(),
            line: before.matches('\n').count() + 1,
            column: before.chars().rev().take_while(|&c| c != '\n').count() + 1,
            message: error.message().lines().collect::<Vec<_>>().join(" "),
        }
    })
}

/// For `deserialize_with`: a whole number from `MIN` to `MAX`.
pub(crate) fn within<'de, D, T, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = i64::deserialize(deserializer)?;
    u64::try_from(value)
        .ok()
        .filter(|value| (MIN..=MAX).contains(value))
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| D::Error::custom(format!("{value} is out of range: use {MIN} to {MAX}")))
}

/// For `deserialize_with`: a value in its text form.
pub(crate) fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| D::Error::custom(format!("«{text}»: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(deserialize_with = "within::<_, _, 1, 10>")]
        count: u16,
    }

    fn error(text: &str) -> String {
        parse::<Sample>(Path::new("a.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_file_line_and_column_in_one_line() {
        assert_eq!(parse::<Sample>(Path::new("a.toml"), "count = 3").unwrap(), Sample { count: 3 });
        assert_eq!(error("# x\ncount = 11"), "a.toml:2:9: 11 is out of range: use 1 to 10");
        assert!(error("count = -1").contains("a.toml:1:9: -1 is out of range"));
        let unknown = error("count = 1\n\n  depth = 2");
        assert!(unknown.starts_with("a.toml:3:3: unknown field `depth`"), "{unknown}");
        assert!(error("count = ").starts_with("a.toml:1:"));
        for text in ["", "count = 'x'", "count = 1\ncount = 2", "[[count]]"] {
            assert_eq!(error(text).lines().count(), 1, "{}", error(text));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read::<Sample>("configuration", Path::new("/nowhere/a.toml")).unwrap_err().to_string();
        assert!(error.starts_with("configuration /nowhere/a.toml can't be read: "), "{error}");
    }
}
