//! `latency.hlog`: the run as an HdrHistogram interval log (format 1.3).

use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriter, IntervalLogWriterBuilder, Tag};

use super::{LatencyHistogram, RunData};

/// The `Interval_Max` column is for people, who get milliseconds.
const US_PER_MS: f64 = 1_000.0;

/// The column names that Java's `HistogramLogWriter.outputLegend` writes.
const LEGEND: &[u8] =
    b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n";

/// One untagged histogram per interval of the run, and one per stage, tagged `stage-<name>`, that spans it.
///
/// Values are microseconds; times are seconds since the `BaseTime` in the header.
///
/// # Panics
/// When a time of the run is negative or not finite.
pub fn to_hlog(data: &RunData) -> Vec<u8> {
    let mut log = header(data);
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(US_PER_MS)
        .begin_log_with(&mut log, &mut serializer)
        .expect("writing to memory");
    for (stage, latency) in &data.stages {
        let tag = format!("stage-{stage}");
        let tag = Tag::new(&tag).expect("stage names hold no separator");
        append(&mut writer, latency, 0.0, data.duration_s, Some(tag));
    }
    for sample in &data.samples {
        append(&mut writer, &sample.latency, sample.start_s, sample.duration_s, None);
    }
    log
}

fn header(data: &RunData) -> Vec<u8> {
    let mut log = Vec::new();
    let start = UNIX_EPOCH + Duration::from_micros(data.start_unix_us);
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("Run: {}", data.title.replace(['\r', '\n'], " ")))
        .add_comment("Values are in microseconds")
        .with_start_time(start)
        .with_base_time(start)
        .begin_log_with(&mut log, &mut V2DeflateSerializer::new())
        .expect("writing to memory");
    log.extend_from_slice(LEGEND);
    log
}

fn append(
    writer: &mut IntervalLogWriter<'_, '_, Vec<u8>, V2DeflateSerializer>,
    latency: &LatencyHistogram,
    start_s: f64,
    duration_s: f64,
    tag: Option<Tag<'_>>,
) {
    let [start, duration] = [start_s, duration_s]
        .map(|s| Duration::try_from_secs_f64(s).expect("times of a run are finite, not negative"));
    writer.write_histogram(latency.as_hdr(), start, duration, tag).expect("writing to memory");
}

#[cfg(test)]
mod tests {
    use super::super::{Stage, fixture};
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogHistogram, IntervalLogIterator, LogEntry};

    fn decode(interval: &IntervalLogHistogram<'_>) -> LatencyHistogram {
        LatencyHistogram::decode(interval.encoded_histogram()).expect("just written")
    }

    #[test]
    fn reads_back_as_written() {
        let data = fixture::run();
        let log = to_hlog(&data);
        let entries: Vec<_> =
            IntervalLogIterator::new(&log).collect::<Result<_, _>>().expect("a well-formed log");

        let start = Duration::from_micros(data.start_unix_us);
        assert_eq!(entries[..2], [LogEntry::StartTime(start), LogEntry::BaseTime(start)]);

        let intervals: Vec<_> = entries[2..]
            .iter()
            .map(|entry| match entry {
                LogEntry::Interval(interval) => interval,
                other => panic!("a second header: {other:?}"),
            })
            .collect();
        let (stages, samples) = intervals.split_at(Stage::ALL.len());

        for (interval, (stage, latency)) in stages.iter().zip(&data.stages) {
            assert_eq!(interval.tag().expect("stages are tagged").as_str(), format!("stage-{stage}"));
            assert_eq!(&decode(interval), latency);
        }
        assert_eq!(samples.len(), data.samples.len());
        for (interval, sample) in samples.iter().zip(&data.samples) {
            assert_eq!(interval.tag(), None);
            assert_eq!(interval.start_timestamp().as_secs_f64(), sample.start_s);
            assert_eq!(interval.duration().as_secs_f64(), sample.duration_s);
            assert_eq!(decode(interval), sample.latency);
        }
    }

    #[test]
    fn a_title_cannot_forge_a_line() {
        let mut data = fixture::run();
        data.title = "x\n0.000,1.000,1.000,forged".into();
        let log = to_hlog(&data);
        let intervals =
            IntervalLogIterator::new(&log).filter(|entry| matches!(entry, Ok(LogEntry::Interval(_))));
        assert_eq!(intervals.count(), data.stages.len() + data.samples.len());
    }
}
