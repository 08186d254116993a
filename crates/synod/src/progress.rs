//! A line that tells how far long work is; silent where nobody looks.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

pub struct Progress {
    what: &'static str,
    shown: Cell<Option<Instant>>,
    visible: bool,
}

impl Progress {
    pub fn new(what: &'static str) -> Progress {
        Progress { what, shown: Cell::new(None), visible: std::io::stderr().is_terminal() }
    }

    /// Bytes done of a total; shown at most a few times a second.
    pub fn show(&self, done: u64, total: u64) {
        self.say(done, total, |total| format!("{} MiB", total >> 20));
    }

    /// The same for a number of things.
    pub fn count(&self, done: u64, total: u64) {
        self.say(done, total, |total| total.to_string());
    }

    fn say(&self, done: u64, total: u64, whole: impl Fn(u64) -> String) {
        let due = self.shown.get().is_none_or(|at| at.elapsed() > Duration::from_millis(200));
        if self.visible && due {
            self.shown.set(Some(Instant::now()));
            let percent = (done * 100).checked_div(total).unwrap_or(100);
            eprint!("\r{}: {percent} % of {}  ", self.what, whole(total));
        }
    }

    pub fn end(&self) {
        if self.visible {
            eprintln!();
        }
    }
}
