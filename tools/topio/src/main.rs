//! The `topio` command.
#![deny(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use topio::{commands::Cli, exit::Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator's options that are set here, all of `mimalloc.h`; the crate binds none of them.
mod allocator {
    use std::ffi::{c_int, c_long};

    /// How long freed memory waits until the kernel gets it back, in ms.
    const PURGE_DELAY: c_int = 15;

    #[expect(unsafe_code, reason = "a binding")]
    unsafe extern "C" {
        safe fn mi_option_set(option: c_int, value: c_long);
        #[cfg(test)]
        safe fn mi_option_get(option: c_int) -> c_long;
    }

    /// Blocks and frames live for some ms to s. With mimalloc's 1 s the kernel takes and clears the same pages again and again, as
    /// much as a twentieth of a loaded validator's time.
    pub fn keep_freed_memory() {
        mi_option_set(PURGE_DELAY, 60_000);
    }

    #[test]
    fn the_option_is_the_one_meant() {
        assert_eq!(mi_option_get(PURGE_DELAY), 1_000, "the default");
        keep_freed_memory();
        assert_eq!(mi_option_get(PURGE_DELAY), 60_000);
    }
}

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        // Who interrupts knows it.
        Err(Failure::Interrupted) => Failure::Interrupted.code(),
        Err(failure) => {
            eprintln!("topio: {failure}");
            failure.code()
        }
    }
}
