//! Measured figures beside what they are to reach, as a table for people and as JSON for programs.

use std::fmt;

use serde::Serialize;

/// What a figure is to reach. Where the aim is below the requirement, less is better.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Goal {
    /// What it is a figure of.
    pub what: &'static str,
    /// Unit of all values.
    pub unit: &'static str,
    /// What it has to reach.
    pub required: f64,
    /// What it should reach.
    pub aim: f64,
}

/// How a measured value stands to its goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It reaches the aim.
    Aim,
    /// It reaches what is required, not the aim.
    Required,
    /// It does not reach what is required.
    Missed,
}

/// A measured value and its goal.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Figure {
    /// What it is a figure of.
    pub what: &'static str,
    /// Unit of all values.
    pub unit: &'static str,
    /// What was measured.
    pub value: f64,
    /// What it has to reach.
    pub required: f64,
    /// What it should reach.
    pub aim: f64,
    /// How they compare.
    pub verdict: Verdict,
}

impl Goal {
    /// Judges a measured value.
    pub fn judge(&self, value: f64) -> Figure {
        let Goal { what, unit, required, aim } = *self;
        let reaches = |bound: f64| if aim < required { value <= bound } else { value >= bound };
        let verdict = match (reaches(aim), reaches(required)) {
            (true, _) => Verdict::Aim,
            (false, true) => Verdict::Required,
            (false, false) => Verdict::Missed,
        };
        Figure { what, unit, value, required, aim, verdict }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Aim => "reaches the aim",
            Verdict::Required => "reaches what is required",
            Verdict::Missed => "MISSES what is required",
        })
    }
}

/// The table of some figures, with a header.
pub fn table(figures: &[Figure]) -> String {
    let header = ["figure", "measured", "required", "aim", "verdict"].map(String::from).to_vec();
    let row = |figure: &Figure| {
        let sign = if figure.aim < figure.required { '≤' } else { '≥' };
        let unit = figure.unit;
        vec![
            figure.what.to_owned(),
            format!("{} {unit}", number(figure.value)),
            format!("{sign} {} {unit}", number(figure.required)),
            format!("{sign} {} {unit}", number(figure.aim)),
            figure.verdict.to_string(),
        ]
    };
    columns(&std::iter::once(header).chain(figures.iter().map(row)).collect::<Vec<_>>())
}

/// Lays out rows in columns: the first one to the left, the others to the right, two spaces between.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let cell = if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            text += &format!("{gap}{cell}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// A number of at least three significant digits, whole ones in groups: `0.125`, `12.5`, `1,234,567`.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 0.9995 => trimmed(format!("{value:.3}")),
        size if size < 9.995 => trimmed(format!("{value:.2}")),
        size if size < 99.95 => trimmed(format!("{value:.1}")),
        _ => grouped(&format!("{value:.0}")),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0
            && digit.is_ascii_digit()
            && (digits.len() - index).is_multiple_of(3)
            && !text.ends_with('-')
        {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The middle one of some values; the mean of the two middle ones of an even number. Zero of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    match (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_have_a_direction() {
        let less = Goal { what: "time", unit: "ns", required: 1000.0, aim: 300.0 };
        let more = Goal { what: "ratio", unit: "%", required: 80.0, aim: 95.0 };
        let verdicts = |goal: &Goal, values: [f64; 3]| values.map(|value| goal.judge(value).verdict);
        let all = [Verdict::Aim, Verdict::Required, Verdict::Missed];
        assert_eq!(verdicts(&less, [300.0, 300.5, 1000.5]), all);
        assert_eq!(verdicts(&more, [95.0, 94.9, 79.9]), all);
        assert_eq!(more.judge(f64::NAN).verdict, Verdict::Missed);
    }

    #[test]
    fn a_table_lines_up() {
        let goal = Goal { what: "execution of a transfer", unit: "ns", required: 1000.0, aim: 300.0 };
        assert_eq!(
            table(&[goal.judge(412.3)]),
            "figure                   measured    required       aim                   verdict\n\
             execution of a transfer    412 ns  ≤ 1,000 ns  ≤ 300 ns  reaches what is required\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.0312, 1.5, 10.0, 12.34, 99.96, 100.4, 1_234_567.0, -123.0, -1234.0].map(number);
        assert_eq!(numbers, ["0", "0.031", "1.5", "10", "12.3", "100", "100", "1,234,567", "-123", "-1,234"]);
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
