//! The targets under libFuzzer, which sees what code an input reaches. The environment variable `TOP_FUZZ_TARGET` names the
//! target; see README.md for how to build it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use top_fuzz::targets::{self, Target};

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("TOP_FUZZ_TARGET").expect("TOP_FUZZ_TARGET names the target");
    targets::find(&name).unwrap_or_else(|| panic!("there is no target «{name}»"))
});

fuzz_target!(|bytes: &[u8]| {
    // Why an input is refused does not matter here: libFuzzer sees the way it took.
    let _ = (TARGET.run)(bytes);
});
