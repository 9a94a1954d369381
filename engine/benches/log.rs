//! Append rate of the log against that of the bare disk: `cargo bench -p engine --bench log [-- DIRECTORY]`.

use std::path::PathBuf;

use engine::log::measure::append_rate;

fn main() -> std::io::Result<()> {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let directory = directory.map_or_else(|| PathBuf::from("."), PathBuf::from);
    println!("group bytes     ring/s blocking/s      raw/s   ring MB/s  ring/raw  blocking/raw");
    for (group_bytes, per_round) in [(4 << 10, 100), (64 << 10, 50), (256 << 10, 20)] {
        let m = append_rate(&directory, group_bytes, per_round, 20)?;
        println!(
            "{group_bytes:>11} {:>10.0} {:>10.0} {:>10.0} {:>11.1} {:>8.1}% {:>12.1}%",
            m.ring,
            m.blocking,
            m.raw,
            m.ring * f64::from(group_bytes) / 1e6,
            100.0 * m.ratio(),
            100.0 * m.blocking / m.raw,
        );
    }
    Ok(())
}
