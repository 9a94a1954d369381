//! How far a measurement is, on standard error: a bar on a terminal, a line for each part elsewhere.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// A measurement of known length.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of so many steps, none of which is done.
    pub fn new(steps: u64) -> Progress {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps);
            bar.set_style(
                ProgressStyle::with_template("{bar:24} {elapsed} {msg}").expect("a fixed template"),
            );
            bar.enable_steady_tick(std::time::Duration::from_millis(250));
            bar
        });
        Progress { bar }
    }

    /// Says what is done now.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => eprintln!("{text}"),
        }
    }

    /// A step is done.
    pub fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
