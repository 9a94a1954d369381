//! What happened as a space-time diagram: a lifeline down the page for each validator and one for the clients, and an arrow for
//! each frame from when it is sent to when it arrives.
//!
//! One file that every browser shows, without scripts. Hovering over an arrow says what it carries.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    fault::{Behaviour, Fault},
    model::Violation,
    scenario::Scenario,
    trace::{Arrow, CLIENTS, Line, Topic, What},
};

/// Most arrows of a drawing; of more, the last ones are drawn.
pub const MAX_ARROWS: usize = 1_500;
/// What is drawn where nothing else is said: so long before the end, or the violation, ns.
pub const DEFAULT_SPAN: u64 = 1_000 * MS;

const MS: u64 = 1_000_000;
/// Pixels.
const COLUMN: f64 = 210.0;
const LEFT: f64 = 150.0;
const TOP: f64 = 120.0;
/// Height of the part with the lifelines: least and most.
const HEIGHTS: (f64, f64) = (300.0, 20_000.0);
/// How high the way of a frame through the network is drawn, if it takes as long as it does on average.
const FLIGHT: f64 = 40.0;
/// Highest stretch in which nothing happens; what is longer is squeezed, and says how long it is.
const GAP: f64 = 34.0;
/// Height of a label.
const LABEL: f64 = 10.0;
/// Longest label, in characters; the rest is seen by hovering.
const LABEL_CHARACTERS: usize = 34;

/// A part of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Where it begins, ns.
    pub from: u64,
    /// Where it ends, ns.
    pub to: u64,
}

impl Window {
    /// From and to are simulated ms. Without them: the last second before `end`, where the history ends or an invariant is violated.
    pub fn new(from: Option<u64>, to: Option<u64>, end: u64) -> Window {
        let to = to.map_or(end, |ms| ms.saturating_mul(MS));
        let from = from.map_or(to.saturating_sub(DEFAULT_SPAN), |ms| ms.saturating_mul(MS));
        Window { from, to: to.max(from + 1) }
    }

    fn contains(&self, at: u64) -> bool {
        (self.from..=self.to).contains(&at)
    }
}

/// Where times stand on the page: stretches of time in which nothing happens are squeezed.
struct Axis {
    /// Times and their y, both ascending.
    points: Vec<(u64, f64)>,
    /// Squeezed stretches.
    gaps: Vec<(u64, u64)>,
}

impl Axis {
    /// `mean` is what a frame takes on average, ns.
    fn new(window: Window, mean: u64, mut times: Vec<u64>) -> Axis {
        times.extend([window.from, window.to]);
        times.retain(|at| window.contains(*at));
        times.sort_unstable();
        times.dedup();
        let scale = FLIGHT / mean.max(1) as f64;
        let steps = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 * scale);
        let total: f64 = steps.map(|step| step.min(GAP)).sum();
        let shrink = total.clamp(HEIGHTS.0, HEIGHTS.1) / total.max(1.0);
        let mut axis = Axis { points: vec![(window.from, TOP)], gaps: Vec::new() };
        let mut y = TOP;
        for pair in times.windows(2) {
            let step = (pair[1] - pair[0]) as f64 * scale;
            if step > 2.0 * GAP {
                axis.gaps.push((pair[0], pair[1]));
            }
            y += step.min(GAP) * shrink;
            axis.points.push((pair[1], y));
        }
        axis
    }

    fn y(&self, at: u64) -> f64 {
        let next = self.points.partition_point(|(time, _)| *time <= at);
        let Some(&(from, top)) = self.points[..next].last() else { return TOP };
        let Some(&(to, bottom)) = self.points.get(next) else { return top };
        top + (bottom - top) * (at - from) as f64 / (to - from) as f64
    }

    fn bottom(&self) -> f64 {
        self.points.last().map_or(TOP, |(_, y)| *y)
    }
}

/// Draws a part of a history. Says in the picture where arrows were left out.
pub fn svg(scenario: &Scenario, lines: &[Line], violation: Option<&Violation>, window: Window) -> String {
    let inside: Vec<&Line> = lines.iter().filter(|line| window.contains(line.at)).collect();
    let frames: Vec<&Line> = inside.iter().copied().filter(|line| line.arrow().is_some()).collect();
    let drawn = &frames[frames.len().saturating_sub(MAX_ARROWS)..];
    // What was left out would be an empty part of the page.
    let from = if drawn.len() < frames.len() { drawn[0].at } else { window.from };
    let window = Window { from, ..window };
    let (least, most) = scenario.latency;
    let sent = inside.iter().map(|line| line.at);
    let arrive = drawn.iter().filter_map(|line| line.arrow()?.arrives);
    let axis = Axis::new(window, (least + most) * 500, sent.chain(arrive).collect());
    let hosts = scenario.validators + twins(scenario).len();
    let mut picture = Picture { out: String::new(), window, axis, hosts };
    picture.head(scenario, (drawn.len(), frames.len()));
    picture.faults(scenario);
    picture.lifelines(scenario, lines);
    picture.arrows(drawn);
    picture.notes(&inside);
    if let Some(violation) = violation.filter(|violation| window.contains(violation.at)) {
        picture.violation(violation);
    }
    picture.out += "</svg>\n";
    picture.out
}

/// The validators of which two run.
fn twins(scenario: &Scenario) -> Vec<usize> {
    let mut twins: Vec<usize> = Vec::new();
    for (host, behaviour) in scenario.byzantine() {
        if behaviour == Behaviour::Twins && !twins.contains(&host) {
            twins.push(host);
        }
    }
    twins
}

fn colour(topic: Topic) -> &'static str {
    match topic {
        Topic::Proposal => "#1f6fd6",
        Topic::Prepare => "#2e9e5b",
        Topic::Commit => "#8b3fc7",
        Topic::Checkpoint => "#0f9aa8",
        Topic::ViewChange => "#e07b00",
        Topic::Transfer => "#a0522d",
        Topic::Status => "#a8adb4",
        Topic::Client => "#4a5560",
    }
}

const LEGEND: [(Topic, &str); 8] = [
    (Topic::Client, "clients"),
    (Topic::Proposal, "proposal"),
    (Topic::Prepare, "prepare"),
    (Topic::Commit, "commit"),
    (Topic::Checkpoint, "checkpoint"),
    (Topic::ViewChange, "view change"),
    (Topic::Transfer, "transfer"),
    (Topic::Status, "status"),
];

const STYLE: &str = "<style>\
text{font-family:system-ui,sans-serif;font-size:12px;fill:#1c2128}\
.small{font-size:9px;fill:#57606a}.label{font-size:9px;paint-order:stroke;stroke:#fff;stroke-width:2.5px}\
.life{stroke:#c9d1d9;stroke-width:2}.down{fill:#6e7781;fill-opacity:.55}\
.fault{fill:#d1242f;fill-opacity:.13;stroke:#d1242f;stroke-opacity:.35}\
.faulttext{font-size:10px;fill:#a40e26}.grid{stroke:#eaeef2}.gap{stroke:#afb8c1;stroke-dasharray:1 5}\
.arrow{fill:none;stroke-width:1.2;stroke-opacity:.7}.arrow:hover{stroke-width:4;stroke-opacity:1}\
.violated{stroke:#d1242f;stroke-width:2.5}.violatedtext{fill:#d1242f;font-weight:600}\
</style>";

struct Picture {
    out: String,
    window: Window,
    axis: Axis,
    hosts: usize,
}

impl Picture {
    /// The y of a time.
    fn y(&self, at: u64) -> f64 {
        self.axis.y(at.clamp(self.window.from, self.window.to))
    }

    /// The x of a host's lifeline; clients have one together.
    fn x(&self, who: usize) -> f64 {
        let column = if who >= CLIENTS { 0 } else { who + 1 };
        LEFT + (column as f64 + 0.5) * COLUMN
    }

    /// Where faults of the network and what else is said stand.
    fn margin(&self) -> f64 {
        LEFT + (self.hosts as f64 + 1.0) * COLUMN
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.out,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let _ = writeln!(
            self.out,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        );
    }

    fn head(&mut self, scenario: &Scenario, (drawn, all): (usize, usize)) {
        let (width, height) = (self.margin() + 330.0, self.axis.bottom() + 50.0);
        let _ = writeln!(
            self.out,
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}">
{STYLE}
<rect width="100%" height="100%" fill="#ffffff"/>
<defs>"##
        );
        for (topic, _) in LEGEND {
            let colour = colour(topic);
            let _ = writeln!(
                self.out,
                r#"<marker id="{topic:?}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 1L8 4L0 7z" fill="{colour}"/></marker>"#
            );
        }
        self.out += "</defs>\n";
        let (from, to) = (self.window.from as f64 / 1e6, self.window.to as f64 / 1e6);
        let cut = match drawn < all {
            true => format!("the last {drawn} of {all} frames: --from and --to narrow it down"),
            false => format!("{drawn} frames"),
        };
        let title = format!(
            "seed {}: {from:.3} ms to {to:.3} ms, {} validators, {} tables, {cut}",
            scenario.seed, scenario.validators, scenario.tables
        );
        self.text(20.0, 28.0, "title", "start", &title);
        for (number, (topic, name)) in LEGEND.into_iter().enumerate() {
            let x = 20.0 + 118.0 * number as f64;
            let colour = colour(topic);
            let _ = writeln!(
                self.out,
                r#"<line x1="{x:.1}" y1="52" x2="{:.1}" y2="52" stroke="{colour}" stroke-width="3"/>"#,
                x + 22.0
            );
            self.text(x + 28.0, 56.0, "legend", "start", name);
        }
        self.scale();
    }

    /// Times at the left, and where time is squeezed.
    fn scale(&mut self) {
        let mut lowest = 0.0;
        for (at, y) in self.axis.points.clone() {
            if y >= lowest + 3.0 * LABEL {
                lowest = y;
                self.line((LEFT - 20.0, y), (self.margin(), y), "grid");
                self.text(LEFT - 26.0, y + 4.0, "small", "end", &format!("{:.3} ms", at as f64 / 1e6));
            }
        }
        for (from, to) in self.axis.gaps.clone() {
            let y = (self.y(from) + self.y(to)) / 2.0;
            self.line((LEFT - 20.0, y), (self.margin(), y), "gap");
            let words = format!("{:.1} ms nothing", (to - from) as f64 / 1e6);
            self.text(LEFT + 4.0, y - 2.0, "small", "start", &words);
        }
    }

    fn faults(&mut self, scenario: &Scenario) {
        let mut taken: BTreeMap<usize, u64> = BTreeMap::new();
        for episode in &scenario.plan {
            let (from, to) = (episode.at * MS, (episode.at + episode.lasts) * MS);
            if to < self.window.from || from > self.window.to {
                continue;
            }
            let (top, bottom) = (self.y(from), self.y(to));
            // Side by side, where several last at a time.
            let place = episode.fault.host().filter(|host| *host < self.hosts);
            let slot = taken.entry(place.unwrap_or(CLIENTS)).or_default();
            let aside = *slot as f64 * 12.0;
            *slot += 1;
            let x = place.map_or(self.margin() + 10.0, |host| self.x(host) - 8.0) + aside;
            let wide = if place.is_some() && *slot == 1 { 16.0 } else { 10.0 };
            let what = match episode.fault {
                Fault::Byzantine(_, behaviour) => format!("{behaviour:?}"),
                fault => format!("{fault:?}"),
            };
            let _ = writeln!(
                self.out,
                r#"<rect x="{x:.1}" y="{top:.1}" width="{wide}" height="{:.1}" class="fault"><title>{}</title></rect>"#,
                (bottom - top).max(2.0),
                escape(&episode.to_string())
            );
            let _ = writeln!(
                self.out,
                r#"<text class="faulttext" transform="translate({:.1} {:.1}) rotate(90)">{}</text>"#,
                x + wide / 2.0 - 3.0,
                top + 6.0,
                escape(&what)
            );
        }
    }

    fn lifelines(&mut self, scenario: &Scenario, lines: &[Line]) {
        let (top, bottom) = (TOP - 10.0, self.axis.bottom() + 10.0);
        let twins = twins(scenario);
        for who in (0..self.hosts).chain([CLIENTS]) {
            let x = self.x(who);
            self.line((x, top), (x, bottom), "life");
            let name = match who {
                CLIENTS => "clients".into(),
                host if host < scenario.validators => format!("validator {host}"),
                host => format!("twin of {}", twins[host - scenario.validators]),
            };
            self.text(x, TOP - 24.0, "name", "middle", &name);
        }
        for host in 0..self.hosts {
            let mut down = None;
            for line in lines {
                match line.what {
                    What::Dies(who) if who == host => down = down.or(Some(line.at)),
                    What::Starts(who) if who == host => {
                        if let Some(since) = down.take() {
                            self.down(host, since, line.at);
                        }
                    }
                    _ => {}
                }
            }
            if let Some(since) = down {
                self.down(host, since, self.window.to);
            }
        }
    }

    fn down(&mut self, host: usize, since: u64, until: u64) {
        if until < self.window.from || since > self.window.to {
            return;
        }
        let (x, top, bottom) = (self.x(host) - 4.0, self.y(since), self.y(until));
        let _ = writeln!(
            self.out,
            r#"<rect x="{x:.1}" y="{top:.1}" width="8" height="{:.1}" class="down"><title>down</title></rect>"#,
            (bottom - top).max(2.0)
        );
    }

    fn arrows(&mut self, frames: &[&Line]) {
        // By sender: what was said last, and how far down labels go.
        let mut labels: BTreeMap<usize, (u64, &str, f64)> = BTreeMap::new();
        for line in frames {
            let Some(arrow) = line.arrow() else { continue };
            self.arrow(line, arrow);
            let from = arrow.from.min(CLIENTS);
            let (at, text, lowest) = labels.get(&from).copied().unwrap_or((0, "", 0.0));
            let y = self.y(line.at);
            if (at, text) != (line.at, &line.text) && y >= lowest + LABEL {
                labels.insert(from, (line.at, &line.text, y));
                let short: String = line.text.chars().take(LABEL_CHARACTERS).collect();
                let more = if short.len() < line.text.len() { "…" } else { "" };
                self.text(self.x(arrow.from) + 6.0, y - 2.0, "label", "start", &format!("{short}{more}"));
            } else if (at, text) != (line.at, &line.text) {
                labels.insert(from, (line.at, &line.text, lowest));
            }
        }
    }

    fn arrow(&mut self, line: &Line, arrow: &Arrow) {
        let (from, to) = ((self.x(arrow.from), self.y(line.at)), self.x(arrow.to));
        let colour = colour(arrow.topic);
        let title = escape(&format!("{:.3} ms, {}", line.at as f64 / 1e6, line.text));
        let (end, rest) = match arrow.arrives {
            Some(at) => {
                // What arrives after the window leaves the page on its way there.
                let share = if at > self.window.to {
                    (self.window.to - line.at) as f64 / (at - line.at).max(1) as f64
                } else {
                    1.0
                };
                let marker = format!(r#"marker-end="url(#{:?})""#, arrow.topic);
                ((from.0 + (to - from.0) * share, self.y(at)), marker)
            }
            // Lost: it goes half the way.
            None => ((from.0 + (to - from.0) * 0.4, from.1 + 3.0), r#"stroke-dasharray="3 3""#.into()),
        };
        let _ = writeln!(
            self.out,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" class="arrow" stroke="{colour}" {rest}><title>{title}</title></line>"#,
            from.0, from.1, end.0, end.1
        );
        if arrow.arrives.is_none() {
            let _ = writeln!(
                self.out,
                r#"<text x="{:.1}" y="{:.1}" class="small" text-anchor="middle" style="fill:{colour}">✕</text>"#,
                end.0,
                end.1 + 3.0
            );
        }
    }

    /// What else happened, in the margin.
    fn notes(&mut self, inside: &[&Line]) {
        let mut lowest = 0.0;
        let from = self.window.from;
        for line in inside.iter().filter(|line| line.arrow().is_none() && line.at >= from) {
            let y = self.y(line.at);
            if y >= lowest + LABEL {
                lowest = y;
                let short: String = line.text.chars().take(2 * LABEL_CHARACTERS).collect();
                self.text(self.margin() + 60.0, y + 3.0, "small", "start", &short);
            }
        }
    }

    fn violation(&mut self, violation: &Violation) {
        let y = self.y(violation.at);
        self.line((LEFT - 20.0, y), (self.margin() + 20.0, y), "violated");
        let short: String = violation.what.chars().take(150).collect();
        let words = format!("{:?} violated: {short}", violation.invariant);
        self.text(LEFT - 16.0, y + 18.0, "violatedtext", "start", &words);
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            // XML has no place for others.
            character if character >= ' ' => out.push(character),
            _ => out.push(' '),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Invariant, run_traced, scenario::Atlas};

    /// Whether tags are closed in the order in which they were opened, and nothing else looks like one.
    fn assert_well_formed(text: &str) {
        let mut open = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "a stray bracket in {:?}", &rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().expect("a tag has a name"));
            }
            rest = &rest[end + 1..];
        }
        assert_eq!(open, Vec::<&str>::new());
        for entity in text.split('&').skip(1) {
            assert!(["lt;", "gt;", "amp;", "quot;"].iter().any(|known| entity.starts_with(known)));
        }
    }

    #[test]
    fn a_busy_history_is_drawn_well_formed_and_bounded() {
        let scenario = Scenario { horizon: 4_000, ..Scenario::draw(2, Atlas::Within) };
        let (outcome, lines) = run_traced(&scenario);
        let what = "5 > 4 & \"so on\"".into();
        let violation = Violation { invariant: Invariant::Agreement, at: 3_500 * MS, what };
        let all = Window::new(Some(0), None, outcome.simulated);
        let picture = svg(&scenario, &lines, Some(&violation), all);
        assert_well_formed(&picture);
        assert_eq!(picture.matches(r#"class="arrow""#).count(), MAX_ARROWS);
        assert!(picture.contains(&format!("the last {MAX_ARROWS} of ")), "it says that it was cut");
        assert!(picture.len() < MAX_ARROWS * 2_000);

        let narrow = svg(&scenario, &lines, Some(&violation), Window::new(Some(3_400), Some(3_510), 0));
        assert_well_formed(&narrow);
        assert!(narrow.contains("Agreement violated: 5 &gt; 4 &amp; &quot;so on&quot;"));
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let scenario = Scenario::draw(1, Atlas::Calm);
        assert_well_formed(&svg(&scenario, &[], None, Window::new(None, None, 0)));
        assert_well_formed(&svg(&scenario, &[], None, Window::new(Some(9), Some(3), 0)));
    }

    #[test]
    fn the_window_ends_where_the_history_ends() {
        let window = Window::new(None, None, 5_000 * MS);
        assert_eq!(window, Window { from: 4_000 * MS, to: 5_000 * MS });
        assert_eq!(Window::new(Some(1), Some(2), 9), Window { from: MS, to: 2 * MS });
    }
}
