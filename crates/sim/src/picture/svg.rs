//! The space-time diagram: time runs downwards, each node is a line, each message an arrow.
//!
//! Left of a lane stand the faults that strike it and what is committed there, right of it what
//! happens. Of two texts that would overprint each other the later one moves down, and a thin
//! line leads back to its moment.

use super::kinds::Kind;
use super::{Picture, Stretch, What, name};
use std::fmt::Write as _;

/// From lane to lane, before the first, and above them.
const LANE: f64 = 440.0;
const LEFT: f64 = 300.0;
const ROW: f64 = 13.0;
/// Texts of a lane: so many characters to its left and right.
const FAULT_CHARS: usize = 22;
const TEXT_CHARS: usize = 44;
const CHAR: f64 = 5.7;
const FAULT: &str = "#c0392b";

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // What XML has no room for.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str, chars: usize) -> String {
    match text.chars().count() > chars {
        true => text.chars().take(chars - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

fn lane(who: usize) -> f64 {
    LEFT + LANE * who as f64
}

/// Texts that stand below each other in a column.
#[derive(Default)]
struct Column {
    free: f64,
}

impl Column {
    /// Where a text goes that would best stand at `y`.
    fn place(&mut self, y: f64) -> f64 {
        let at = y.max(self.free);
        self.free = at + ROW;
        at
    }

    fn is_free(&self, y: f64) -> bool {
        y >= self.free
    }
}

impl Picture {
    fn y(&self, at: u64, height: f64) -> f64 {
        let part = at.clamp(self.from, self.to) - self.from;
        self.top() + part as f64 / (self.to - self.from) as f64 * height
    }

    fn top(&self) -> f64 {
        95.0 + ROW * Kind::ALL.len() as f64
    }

    /// Tall enough for the time, and for the fullest column.
    fn height(&self, machines: usize) -> f64 {
        let most = |who| {
            let marks = self.marks.iter().filter(|m| m.who == who).count();
            marks.max(self.faults().filter(|(s, _)| s.lanes.contains(&who)).count())
        };
        let rows = (0..machines).map(most).max().unwrap_or(0) as f64;
        // A message takes a seventh of a millisecond: in a short time its arrow is to lean.
        let ms = (self.to - self.from) as f64 / 1_000.0;
        let time = (ms * 150.0).min(3_000.0).max((ms * 6.0).min(6_000.0)).max(400.0);
        time.max(rows * ROW * 1.2)
    }

    fn faults(&self) -> impl Iterator<Item = (&Stretch, &str)> {
        self.stretches.iter().filter_map(|s| match &s.what {
            What::Fault(_, text) if self.overlaps(s) => Some((s, text.as_str())),
            _ => None,
        })
    }

    fn overlaps(&self, s: &Stretch) -> bool {
        s.from <= self.to && s.until.is_none_or(|u| u >= self.from)
    }

    /// Draws it.
    pub fn svg(&self, machines: usize) -> String {
        let height = self.height(machines);
        let (width, bottom) = (lane(machines) - 130.0, self.top() + height);
        // The last texts of a full column may stand below the last moment.
        let all = bottom + 20.0 + ROW * 12.0;
        let mut s = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{all}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<defs>"
        );
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            let _ = write!(
                s,
                "<marker id=\"a{n}\" markerWidth=\"7\" markerHeight=\"7\" refX=\"6\" refY=\"3\" \
                 orient=\"auto\"><path d=\"M0,0 L6,3 L0,6 z\" fill=\"{}\"/></marker>",
                kind.look().0
            );
        }
        s.push_str("</defs>\n");
        self.legend(&mut s, width);
        self.ruler(&mut s, height);
        for who in 0..machines {
            self.heading(&mut s, who, bottom);
        }
        self.messages(&mut s, height);
        self.stretches(&mut s, height);
        for who in 0..machines {
            self.commits(&mut s, who, height);
            self.texts(&mut s, who, height);
        }
        s.push_str("</svg>\n");
        s
    }

    fn legend(&self, s: &mut String, width: f64) {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            let (y, (colour, dash)) = (16.0 + ROW * n as f64, kind.look());
            let _ = writeln!(
                s,
                "<line x1=\"10\" x2=\"46\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" \
                 stroke-dasharray=\"{dash}\" marker-end=\"url(#a{n})\"/>\
                 <text x=\"54\" y=\"{}\">{}</text>",
                y + 4.0,
                kind.words()
            );
        }
        let signs = [
            ("stroke=\"#2563a8\" stroke-width=\"3\"", "the node runs"),
            ("stroke=\"#1e8449\" stroke-width=\"7\"", "it leads"),
            ("stroke=\"#2563a8\" stroke-width=\"3\" stroke-dasharray=\"4 4\"", "it stands still"),
            ("stroke=\"#ddd\" stroke-dasharray=\"3 5\"", "it is down"),
            ("stroke=\"#e67e22\" stroke-opacity=\"0.45\" stroke-width=\"8\"", "a fault lasts"),
            ("stroke=\"#c0392b\" stroke-dasharray=\"2 3\"", "a message is lost"),
            ("stroke=\"#1e8449\" stroke-width=\"2\"", "committed and applied, up to this index"),
        ];
        for (n, (look, words)) in signs.into_iter().enumerate() {
            let (x, y) = (420.0, 16.0 + ROW * n as f64);
            // A commit is a short tick.
            let to = if n + 1 == signs.len() { x + 10.0 } else { x + 36.0 };
            let _ = writeln!(
                s,
                "<line x1=\"{x}\" x2=\"{to}\" y1=\"{y}\" y2=\"{y}\" {look}/>\
                 <text x=\"{}\" y=\"{}\">{words}</text>",
                x + 44.0,
                y + 4.0
            );
        }
        let (from, to) = (self.from / 1_000, self.to / 1_000);
        let mut words = format!("from {from} to {to} ms; time runs downwards");
        if self.too_many {
            words += "; there were more messages than are drawn: show a shorter time";
        }
        let y = 24.0 + ROW * Kind::ALL.len() as f64;
        let _ = writeln!(s, "<text x=\"10\" y=\"{}\" fill=\"#666\">{words}</text>", y + 4.0);
        let y = y + 12.0;
        let _ = writeln!(
            s,
            "<line x1=\"10\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>",
            width - 10.0
        );
    }

    fn heading(&self, s: &mut String, who: usize, bottom: f64) {
        let ids: Vec<_> =
            self.names.iter().filter(|(w, _)| *w == who).map(|(_, id)| name(*id)).collect();
        let (x, top) = (lane(who), self.top());
        let _ = writeln!(
            s,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"14\" \
             font-weight=\"bold\">{}</text><line x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" \
             y2=\"{bottom}\" stroke=\"#ddd\" stroke-dasharray=\"3 5\"/>",
            top - 12.0,
            ids.join(", then ")
        );
    }

    /// What lasts: lives and leaderships on the lanes, faults beside them.
    fn stretches(&self, s: &mut String, height: f64) {
        for stretch in self.stretches.iter().filter(|stretch| self.overlaps(stretch)) {
            let (look, beside) = match stretch.what {
                What::Runs => ("stroke=\"#2563a8\" stroke-width=\"3\"", 0.0),
                What::Leads => ("stroke=\"#1e8449\" stroke-width=\"7\"", 0.0),
                // Those of one time stand side by side.
                What::Fault(number, _) => {
                    let look = "stroke=\"#e67e22\" stroke-opacity=\"0.45\" stroke-width=\"8\"";
                    (look, 12.0 + 10.0 * (number % 3) as f64)
                }
            };
            let until = stretch.until.unwrap_or(self.to);
            let (a, b) = (self.y(stretch.from, height), self.y(until, height));
            for who in &stretch.lanes {
                let x = lane(*who) - beside;
                let _ = writeln!(
                    s,
                    "<line x1=\"{x}\" x2=\"{x}\" y1=\"{a:.1}\" y2=\"{:.1}\" {look}/>",
                    b.max(a + 2.0)
                );
                if matches!(&stretch.what, What::Fault(_, text) if text.contains(" is paused")) {
                    // Its lane has gaps: it is there, and does nothing.
                    let _ = writeln!(
                        s,
                        "<line x1=\"{0}\" x2=\"{0}\" y1=\"{a:.1}\" y2=\"{b:.1}\" \
                         stroke=\"white\" stroke-width=\"7\" stroke-dasharray=\"4 4\"/>",
                        lane(*who)
                    );
                }
            }
        }
    }

    fn messages(&self, s: &mut String, height: f64) {
        // Those that matter more lie above.
        let faint = |a: &&super::Arrow| a.kind == Kind::Heartbeat;
        let (below, above): (Vec<_>, Vec<_>) = self.arrows.iter().partition(faint);
        for a in below.into_iter().chain(above) {
            let (x1, y1, x2) = (lane(a.from), self.y(a.sent, height), lane(a.to));
            let (colour, dash) = a.kind.look();
            let number = Kind::ALL.iter().position(|k| *k == a.kind).unwrap_or(0);
            let (x2, y2, look) = match a.arrives {
                Some(at) if at <= self.to => {
                    let look = format!(
                        "stroke=\"{colour}\" stroke-dasharray=\"{dash}\" \
                         marker-end=\"url(#a{number})\""
                    );
                    (x2, self.y(at, height), look)
                }
                // It is still on its way at the last moment.
                Some(at) => {
                    let part = (self.to - a.sent) as f64 / (at - a.sent).max(1) as f64;
                    let look = format!("stroke=\"{colour}\" stroke-dasharray=\"{dash}\"");
                    (x1 + (x2 - x1) * part, self.y(self.to, height), look)
                }
                // A lost one ends half-way.
                None => {
                    let look = format!("stroke=\"{FAULT}\" stroke-dasharray=\"2 3\"");
                    ((x1 + x2) / 2.0, y1, look)
                }
            };
            let _ = writeln!(
                s,
                "<line x1=\"{x1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {look}>\
                 <title>{}</title></line>",
                escape(&a.name)
            );
        }
    }

    /// Ticks where a node applied something, with the index where there is room for it.
    fn commits(&self, s: &mut String, who: usize, height: f64) {
        let mut column = Column::default();
        for (at, _, index) in self.commits.iter().filter(|c| c.1 == who) {
            let (x, y) = (lane(who), self.y(*at, height));
            let _ = writeln!(
                s,
                "<line x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#1e8449\" \
                 stroke-width=\"2\"/>",
                x - 6.0,
                x + 6.0
            );
            if column.is_free(y) {
                column.place(y);
                let text = index.to_string();
                text_at(s, (x - 20.0, y), "end", "#1e8449", &text, &text);
            }
        }
    }

    fn texts(&self, s: &mut String, who: usize, height: f64) {
        let x = lane(who);
        let mut column = Column::default();
        for (stretch, text) in self.faults().filter(|(f, _)| f.lanes.contains(&who)) {
            let y = self.y(stretch.from, height);
            let at = column.place(y);
            leader(s, (x - 12.0, y), (x - 52.0, at));
            text_at(s, (x - 54.0, at), "end", FAULT, &cut(text, FAULT_CHARS), text);
        }
        let mut column = Column::default();
        for m in self.marks.iter().filter(|m| m.who == who) {
            let colour = match &m.text {
                t if t.starts_with("leads") => "#1e8449",
                t if ["loses", "dies", "stops", "is lost", "refuses to", "cannot"]
                    .iter()
                    .any(|word| t.starts_with(word)) =>
                {
                    FAULT
                }
                _ => "#333",
            };
            let y = self.y(m.at, height);
            let _ = writeln!(s, "<circle cx=\"{x}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
            let at = column.place(y);
            leader(s, (x, y), (x + 10.0, at));
            text_at(s, (x + 12.0, at), "start", colour, &cut(&m.text, TEXT_CHARS), &m.text);
        }
    }

    fn ruler(&self, s: &mut String, height: f64) {
        let span = self.to - self.from;
        let pixel = span as f64 / height;
        let steps = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000];
        let step = steps.into_iter().find(|d| *d as f64 / pixel >= 40.0);
        let step = step.unwrap_or_else(|| (span / 50).next_multiple_of(1_000_000));
        let mut at = self.from.next_multiple_of(step);
        while at <= self.to {
            let y = self.y(at, height);
            let ms = at as f64 / 1_000.0;
            let _ = writeln!(s, "<text x=\"8\" y=\"{:.1}\" fill=\"#666\">{ms} ms</text>", y + 4.0);
            at += step;
        }
    }
}

/// From a moment on a lane to a text that stands further down.
fn leader(s: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        s,
        "<line x1=\"{}\" y1=\"{:.1}\" x2=\"{}\" y2=\"{:.1}\" stroke=\"#bbb\" stroke-width=\"0.7\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// A text on white, so that arrows do not cross it; `all` of it shows when it is pointed at.
fn text_at(s: &mut String, at: (f64, f64), anchor: &str, colour: &str, text: &str, all: &str) {
    let width = text.chars().count() as f64 * CHAR + 4.0;
    let left = if anchor == "end" { at.0 - width + 2.0 } else { at.0 - 2.0 };
    let _ = writeln!(
        s,
        "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"12\" fill=\"white\" \
         fill-opacity=\"0.85\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"{anchor}\" \
         fill=\"{colour}\">{}<title>{}</title></text>",
        at.1 - 6.0,
        at.0,
        at.1 + 4.0,
        escape(text),
        escape(all)
    );
}
