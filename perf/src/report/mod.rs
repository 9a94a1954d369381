//! The latency report: one measured run, as a folder people can read and tools can compare.
//!
//! | file | for |
//! | --- | --- |
//! | `report.html` | people: one self-contained page that opens from disk |
//! | `summary.json` | programs, and [`compare`] |
//! | `latency.hgrm` | the standard HdrHistogram percentile plotter |
//! | `latency.hlog` | the standard HdrHistogram log tools: one histogram per interval, one per stage |
//!
//! All of it is a pure function of [`RunData`]; only [`Machine::read`], [`compare`] and [`write()`] touch the
//! file system, and nothing here reads a clock.
//!
//! ```no_run
//! # fn example(data: &perf::report::RunData) -> Result<(), Box<dyn std::error::Error>> {
//! use perf::report;
//!
//! report::write(data, "report".as_ref())?;
//! print!("{}", data.summary());
//! print!("{}", report::compare("before".as_ref(), "report".as_ref())?);
//! # Ok(())
//! # }
//! ```

mod compare;
mod core_use;
mod folder;
mod format;
mod hgrm;
mod histogram;
mod hlog;
mod html;
mod machine;
mod percentile_chart;
mod relay;
mod run;
mod stage_table;
mod summary;
mod svg;
mod time_chart;

#[cfg(test)]
mod fixture;

pub use compare::{CompareError, Comparison, Figure, compare};
pub use engine::metrics::Stage;
pub use folder::{FILES, WriteError, write};
pub use hgrm::to_hgrm;
pub use histogram::{DecodeError, LatencyHistogram, Percentiles};
pub use hlog::to_hlog;
pub use html::to_html;
pub use machine::Machine;
pub use relay::RelayUse;
pub use run::{CoreUse, RunData, Sample, Shares, ValidatorUse};
pub use summary::Summary;
