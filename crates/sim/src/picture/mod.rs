//! What a run looked like: a line for each event, and a space-time diagram.

use std::fmt::Write as _;
use synod_cell::PeerMessage;

/// Arrows in a diagram at most: more cannot be told apart.
const ARROWS_MAX: usize = 4_000;

struct Arrow {
    from: usize,
    to: usize,
    sent: u64,
    /// `None`: it was lost.
    arrives: Option<u64>,
    heartbeat: bool,
}

struct Mark {
    at: u64,
    who: usize,
    text: String,
}

/// Gathers nothing unless asked to.
pub struct Picture {
    on: bool,
    from: u64,
    to: u64,
    lines: Vec<String>,
    arrows: Vec<Arrow>,
    marks: Vec<Mark>,
    /// (machine, from, until) in which it ran.
    lives: Vec<(usize, u64, Option<u64>)>,
}

fn stamp(now: u64) -> String {
    format!("{:>6}.{:03} ms", now / 1_000, now % 1_000)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Picture {
    pub fn none() -> Picture {
        Picture { on: false, ..Picture::of(0, 0) }
    }

    pub fn of(from: u64, to: u64) -> Picture {
        let (lines, arrows, marks, lives) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Picture { on: true, from, to, lines, arrows, marks, lives }
    }

    pub fn say(&mut self, now: u64, who: usize, text: impl FnOnce() -> String) {
        if self.on {
            let text = text();
            self.lines.push(format!("{}  machine {who}  {text}", stamp(now)));
            self.marks.push(Mark { at: now, who, text });
        }
    }

    pub fn note(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.on {
            self.lines.push(format!("{}             {}", stamp(now), text()));
        }
    }

    pub fn up(&mut self, now: u64, who: usize) {
        if self.on {
            self.lives.push((who, now, None));
        }
    }

    pub fn down(&mut self, now: u64, who: usize) {
        if let Some(life) = self.lives.iter_mut().rev().find(|(w, _, _)| *w == who) {
            life.2.get_or_insert(now);
        }
    }

    pub fn message(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        arrives: Option<u64>,
        message: &PeerMessage,
    ) {
        if self.on && now >= self.from && now < self.to && self.arrows.len() < ARROWS_MAX {
            let heartbeat = matches!(message, PeerMessage::Consensus(m) if m.is_heartbeat());
            self.arrows.push(Arrow { from, to, sent: now, arrives, heartbeat });
        }
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }

    /// Time runs downwards; each machine is a line, each message an arrow.
    pub fn svg(&self, machines: usize) -> String {
        let span = (self.to.saturating_sub(self.from)).max(1) as f64;
        let height = (span / 1_000.0 * 6.0).clamp(400.0, 12_000.0);
        let (lane, top, left) = (340.0, 50.0, 100.0);
        let width = left + lane * machines as f64;
        let x = |who: usize| left + lane * who as f64;
        let y = |at: u64| top + (at.clamp(self.from, self.to) - self.from) as f64 / span * height;
        let mut s = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" \
             fill=\"white\"/>\n<defs><marker id=\"a\" markerWidth=\"7\" markerHeight=\"7\" refX=\"6\" \
             refY=\"3\" orient=\"auto\"><path d=\"M0,0 L6,3 L0,6 z\" fill=\"#888\"/></marker></defs>\n",
            height + top + 30.0
        );
        for who in 0..machines {
            let at = x(who);
            let _ = writeln!(
                s,
                "<text x=\"{at}\" y=\"25\" text-anchor=\"middle\" font-size=\"14\">machine {who}</text>\
                 <line x1=\"{at}\" x2=\"{at}\" y1=\"{top}\" y2=\"{}\" stroke=\"#ddd\" \
                 stroke-dasharray=\"3 5\"/>",
                top + height
            );
        }
        self.lanes(&mut s, &x, &y);
        self.ruler(&mut s, &y);
        s.push_str("</svg>\n");
        s
    }

    fn lanes(&self, s: &mut String, x: &dyn Fn(usize) -> f64, y: &dyn Fn(u64) -> f64) {
        for (who, from, until) in &self.lives {
            let (a, b) = (y(*from), y(until.unwrap_or(self.to)));
            if *from < self.to && until.is_none_or(|u| u > self.from) {
                let at = x(*who);
                let _ = writeln!(
                    s,
                    "<line x1=\"{at}\" x2=\"{at}\" y1=\"{a}\" y2=\"{b}\" stroke=\"#2563a8\" \
                     stroke-width=\"3\"/>"
                );
            }
        }
        for a in &self.arrows {
            let (x1, y1) = (x(a.from), y(a.sent));
            let (x2, y2, style) = match a.arrives {
                Some(at) => {
                    let colour = if a.heartbeat { "#ccc" } else { "#888" };
                    let style = format!("stroke=\"{colour}\" marker-end=\"url(#a)\"");
                    (x(a.to), y(at.min(self.to)), style)
                }
                // A lost one ends half-way.
                None => {
                    let middle = (x1 + x(a.to)) / 2.0;
                    (middle, y1, "stroke=\"#c0392b\" stroke-dasharray=\"2 3\"".to_owned())
                }
            };
            let _ = writeln!(s, "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" {style}/>");
        }
        let mut below = 0.0f64;
        for m in self.marks.iter().filter(|m| m.at >= self.from && m.at <= self.to) {
            let colour = match &m.text {
                t if t.starts_with("leads") => "#1e8449",
                t if t.starts_with("loses") || t.starts_with("dies") || t.starts_with("stops") => {
                    "#c0392b"
                }
                _ => "#333",
            };
            // Texts of one moment stand below each other.
            below = below.max(y(m.at));
            let _ = writeln!(
                s,
                "<circle cx=\"{}\" cy=\"{}\" r=\"3.5\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\" \
                 fill=\"{colour}\">{}</text>",
                x(m.who),
                y(m.at),
                x(m.who) + 7.0,
                below + 4.0,
                escape(&m.text)
            );
            below += 12.0;
        }
    }

    fn ruler(&self, s: &mut String, y: &dyn Fn(u64) -> f64) {
        let span = (self.to - self.from).max(1);
        let step = [5_000, 10_000, 50_000, 100_000, 500_000].into_iter().find(|d| span / d <= 60);
        let step = step.unwrap_or(1_000_000);
        let mut at = self.from.div_ceil(step) * step;
        while at <= self.to {
            let place = y(at);
            let _ = writeln!(
                s,
                "<text x=\"8\" y=\"{}\" fill=\"#666\">{} ms</text>",
                place + 4.0,
                at / 1_000
            );
            at += step;
        }
    }
}
