//! A watch as a client has it: it follows one member, and after a break goes on
//! at another from the next revision. Checked against the model: every change
//! in order, none twice, none left out.

use crate::machine::Up;
use crate::model::Model;
use crate::oracle::Found;
use synod_mvcc::{Error, KeyRange, Revision};

/// See the file's header.
pub struct Watcher {
    pub range: KeyRange,
    /// Every revision below it was received.
    next: i64,
    /// The machine that it follows.
    pub at: Option<usize>,
    pub received: u64,
}

fn wanted(range: &KeyRange, revision: &Revision) -> bool {
    revision.events.iter().any(|e| range.end == b"\0"[..] || range.key == e.kv.key)
}

impl Watcher {
    pub fn new(range: KeyRange) -> Watcher {
        Watcher { range, next: 2, at: None, received: 0 }
    }

    /// Begins to follow a member: what it missed comes from that one's history.
    pub fn attach(&mut self, at: usize, up: &Up, model: &Model) -> Result<(), Found> {
        self.at = Some(at);
        let published = up.cell.reader().published();
        let broken = |e: &dyn std::fmt::Display| ("store", format!("history cannot be read: {e}"));
        while self.next <= published.revision() {
            let history =
                published.history(self.next, published.revision(), &self.range, 4_096, true);
            match history.map_err(|e| broken(&e))? {
                Ok(history) => {
                    for revision in &history.revisions {
                        self.take(revision, true, model)?;
                    }
                    self.passed(history.next_revision, model)?;
                }
                Err(Error::Compacted) => {
                    // As a client does: it reads anew, and goes on from there.
                    if model.compacted() < self.next {
                        let what = format!("{} is said to be compacted", self.next);
                        return Err(("watch", what));
                    }
                    self.next = published.compacted().max(self.next);
                }
                Err(e) => return Err(("watch", format!("history refuses {}: {e:?}", self.next))),
            }
        }
        Ok(())
    }

    /// The member it follows made these revisions.
    pub fn feed(&mut self, revisions: &[Revision], model: &Model) -> Result<(), Found> {
        for revision in revisions {
            if revision.revision < self.next {
                continue;
            }
            if wanted(&self.range, revision) {
                self.take(revision, false, model)?;
            }
            self.passed(revision.revision + 1, model)?;
        }
        Ok(())
    }

    fn take(&mut self, got: &Revision, past: bool, model: &Model) -> Result<(), Found> {
        self.passed(got.revision, model)?;
        let Some(made) = model.at(got.revision) else {
            return Err(("watch", format!("revision {} was never made", got.revision)));
        };
        let mut events = made.events.clone();
        if past {
            events.retain(|e| self.range.end == b"\0"[..] || e.kv.key == self.range.key);
            for e in &mut events {
                // The pair before may have been compacted away.
                let there = e.prev.as_ref().is_some_and(|p| p.mod_revision >= model.compacted());
                if !there && got.events.iter().any(|g| g.kv == e.kv && g.prev.is_none()) {
                    e.prev = None;
                }
            }
        }
        if events != got.events {
            let what = format!("a watch got {got:?}, expected {events:?}");
            return Err(("watch", what));
        }
        self.received += 1;
        self.next = got.revision + 1;
        Ok(())
    }

    /// Everything wanted below `next` must have come.
    fn passed(&mut self, next: i64, model: &Model) -> Result<(), Found> {
        for number in self.next..next {
            if model.at(number).is_some_and(|r| wanted(&self.range, r)) {
                return Err(("watch", format!("a watch was not told of revision {number}")));
            }
        }
        self.next = self.next.max(next);
        Ok(())
    }
}
