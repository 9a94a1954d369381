//! The bytes of what validators say to each other and write to their logs, as written down in `tests/golden`. Those of the
//! ledger are in `dag`, those of log segments and snapshots in `engine`.

use top_fuzz::{golden::Golden, samples};

fn golden() -> Golden {
    Golden::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "top-fuzz", "golden")
}

type Samples = fn() -> Vec<samples::Sample>;

const STRUCTURES: [(&str, Samples); 4] = [
    ("pbft_message", samples::messages),
    ("pbft_record", samples::records),
    ("peer_frame", samples::peer_frames),
    ("outcome", samples::outcomes),
];

#[test]
fn layouts_are_what_was_written_down() {
    let mut names = Vec::new();
    for (structure, samples) in STRUCTURES {
        for (name, bytes) in samples() {
            names.push(format!("{structure}_{name}"));
            golden().check(&names[names.len() - 1], &bytes);
        }
    }
    names.sort();
    assert_eq!(golden().names(), names, "a file that no test checks is a promise that nobody keeps");
}
