//! What a run looked like: a line for each event, and what a space-time diagram is drawn from.

mod kinds;
mod svg;

use kinds::Kind;
use synod_base::NodeId;
use synod_cell::PeerMessage;

/// Arrows in a diagram at most: more cannot be told apart.
const ARROWS_MAX: usize = 4_000;

/// No run lasts so long, µs: what is added to it still is a time.
const LATEST: u64 = 1 << 50;

struct Arrow {
    from: usize,
    to: usize,
    sent: u64,
    /// `None`: it was lost.
    arrives: Option<u64>,
    kind: Kind,
    /// The protocol's own word for it.
    name: String,
}

struct Mark {
    at: u64,
    who: usize,
    text: String,
}

/// Something that lasts.
struct Stretch {
    what: What,
    /// The machines that it concerns.
    lanes: Vec<usize>,
    from: u64,
    until: Option<u64>,
}

#[derive(PartialEq, Eq)]
enum What {
    /// A process runs.
    Runs,
    /// It leads.
    Leads,
    /// A fault, by its number in the schedule, in words.
    Fault(usize, String),
}

/// Gathers nothing unless asked to.
pub struct Picture {
    on: bool,
    from: u64,
    to: u64,
    lines: Vec<String>,
    arrows: Vec<Arrow>,
    /// Some arrows were left out.
    too_many: bool,
    marks: Vec<Mark>,
    stretches: Vec<Stretch>,
    /// (when, machine, up to which index it has applied)
    commits: Vec<(u64, usize, u64)>,
    /// Whose lane it is: (machine, id), as they began to run.
    names: Vec<(usize, NodeId)>,
}

fn stamp(now: u64) -> String {
    format!("{:>6}.{:03} ms", now / 1_000, now % 1_000)
}

/// How a node is called everywhere.
pub fn name(id: NodeId) -> String {
    format!("n{id}")
}

impl Picture {
    pub fn none() -> Picture {
        Picture { on: false, ..Picture::of(0, 0) }
    }

    /// Of the time between; at least a millisecond of it.
    pub fn of(from: u64, to: u64) -> Picture {
        let from = from.min(LATEST);
        Picture {
            on: true,
            from,
            to: to.min(2 * LATEST).max(from + 1_000),
            lines: Vec::new(),
            arrows: Vec::new(),
            too_many: false,
            marks: Vec::new(),
            stretches: Vec::new(),
            commits: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Whether this is within what is drawn.
    fn shows(&self, at: u64) -> bool {
        self.on && (self.from..=self.to).contains(&at)
    }

    pub fn say(&mut self, now: u64, (who, id): (usize, NodeId), text: impl FnOnce() -> String) {
        if self.on {
            let text = text();
            self.lines.push(format!("{}  {:<4} {text}", stamp(now), name(id)));
            if self.shows(now) {
                self.marks.push(Mark { at: now, who, text });
            }
        }
    }

    fn begin(&mut self, now: u64, what: What, lanes: Vec<usize>) {
        if self.on {
            self.stretches.push(Stretch { what, lanes, from: now, until: None });
        }
    }

    fn end(&mut self, now: u64, ends: impl Fn(&Stretch) -> bool) {
        for stretch in self.stretches.iter_mut().filter(|s| s.until.is_none() && ends(s)) {
            stretch.until = Some(now);
        }
    }

    /// A fault strikes these machines; one that is over at once has no end.
    pub fn fault(&mut self, now: u64, number: usize, lanes: Vec<usize>, text: String) {
        if self.on {
            self.lines.push(format!("{}       fault {number}: {text}", stamp(now)));
            self.begin(now, What::Fault(number, text), lanes);
        }
    }

    /// A fault is over.
    pub fn fault_ends(&mut self, now: u64, number: usize) {
        self.end(now, |s| matches!(s.what, What::Fault(n, _) if n == number));
    }

    /// All faults are over.
    pub fn faults_end(&mut self, now: u64) {
        if self.on {
            self.lines.push(format!("{}       all faults are over", stamp(now)));
        }
        self.end(now, |s| matches!(s.what, What::Fault(..)));
    }

    pub fn up(&mut self, now: u64, who: usize, id: NodeId) {
        if self.on {
            if now <= self.to && !self.names.contains(&(who, id)) {
                self.names.push((who, id));
            }
            self.begin(now, What::Runs, vec![who]);
        }
    }

    pub fn down(&mut self, now: u64, who: usize) {
        self.end(now, |s| s.lanes == [who] && matches!(s.what, What::Runs | What::Leads));
    }

    pub fn leads(&mut self, now: u64, who: usize) {
        self.leads_no_more(now, who);
        self.begin(now, What::Leads, vec![who]);
    }

    pub fn leads_no_more(&mut self, now: u64, who: usize) {
        self.end(now, |s| s.lanes == [who] && s.what == What::Leads);
    }

    /// A member has applied all up to here: it is committed.
    pub fn committed(&mut self, now: u64, who: usize, index: u64) {
        if self.shows(now) {
            self.commits.push((now, who, index));
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
        if !self.shows(now) {
            return;
        }
        if self.arrows.len() >= ARROWS_MAX {
            self.too_many = true;
            return;
        }
        let word = match message {
            PeerMessage::Consensus(m) => format!("{m:?}"),
            other => format!("{other:?}"),
        };
        let (kind, name) = (Kind::of(message), kinds::word(&word));
        self.arrows.push(Arrow { from, to, sent: now, arrives, kind, name });
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
