//! Lines of the log that others can cause as often as they like.

use std::fmt;

/// One such line in so long, ns.
const INTERVAL: u64 = 10_000_000_000;

/// What was said when, and how often it was not.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// From when on something may be said.
    next: u64,
    unsaid: u64,
}

impl Notes {
    /// The line to say, if it is time for one; it tells how many were left out since the last.
    pub fn line(&mut self, text: impl fmt::Display, now: u64) -> Option<String> {
        if now < self.next {
            self.unsaid += 1;
            return None;
        }
        self.next = now + INTERVAL;
        Some(match std::mem::take(&mut self.unsaid) {
            0 => text.to_string(),
            unsaid => format!("{text} (and {unsaid} more such closed since the last)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_said_in_an_interval() {
        let mut notes = Notes::default();
        assert_eq!(notes.line("a", 5).as_deref(), Some("a"));
        assert_eq!((notes.line("b", 6), notes.line("c", 4 + INTERVAL)), (None, None));
        assert_eq!(
            notes.line("d", 5 + INTERVAL).as_deref(),
            Some("d (and 2 more such closed since the last)")
        );
        assert_eq!(notes.line("e", 5 + 2 * INTERVAL).as_deref(), Some("e"));
    }
}
