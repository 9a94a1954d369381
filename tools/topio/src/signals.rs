//! Ctrl-C and SIGTERM.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};

use crate::exit::{Failure, Outcome};

/// Whether the user wants the command to end. The first signal asks, the second one ends the process at once.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Never set: for code that no signal reaches.
    pub fn none() -> Interrupt {
        Interrupt::default()
    }

    /// Set by SIGINT and SIGTERM of this process.
    pub fn from_signals() -> Outcome<Interrupt> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: a signal ends the process only if an earlier one has set the flag.
            flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupt.0))
                .and_then(|_| flag::register(signal, Arc::clone(&interrupt.0)))
                .map_err(cannot_catch)?;
        }
        Ok(interrupt)
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// As the flag itself.
    pub fn as_flag(&self) -> &AtomicBool {
        &self.0
    }

    /// [`Failure::Interrupted`] once it is set.
    pub fn check(&self) -> Outcome {
        if self.is_set() { Err(Failure::Interrupted) } else { Ok(()) }
    }
}

/// Calls `act` at each SIGINT and SIGTERM, on a thread of its own.
pub fn on_signal(act: impl Fn() + Send + 'static) -> Outcome {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(cannot_catch)?;
    let wait = move || signals.forever().for_each(|_| act());
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(|error| {
        Failure::Failed(format!("no thread for signals: {error}: lower the load, try again"))
    })
}

fn cannot_catch(error: std::io::Error) -> Failure {
    Failure::Failed(format!("signals can't be caught: {error}"))
}
