//! What clients were promised by locks, and what became of their fenced writes.
//!
//! **Checked here**: nobody holds a lock beside one who relies on it alone; nor
//! while a lock-delay keeps it closed; tokens grow; once a later holder has
//! written, no earlier one does; who can rely on a lock can write.

use crate::oracle::Found;
use std::collections::BTreeMap;
use synod_coord::{Mode, Sequencer};

struct Holder {
    token: i64,
    mode: Mode,
    /// The client relies on it until then, µs.
    until: u64,
    /// If it is lost, nobody else gets it before then, µs.
    closed: u64,
}

/// See the file's header.
#[derive(Default)]
pub struct Locks {
    /// Lock and client -> how it holds, or held last.
    holders: BTreeMap<(Vec<u8>, u64), Holder>,
    /// Lock and revision -> who wrote then.
    writes: BTreeMap<(Vec<u8>, i64), (i64, Mode)>,
}

/// Two may not both have a lock at a time if one of them wants it alone.
fn exclude(a: Mode, b: Mode) -> bool {
    a == Mode::Exclusive || b == Mode::Exclusive
}

impl Locks {
    /// All clocks moved forward against the world.
    pub fn jump(&mut self, by: u64) {
        for holder in self.holders.values_mut() {
            holder.until = holder.until.saturating_sub(by);
            holder.closed = holder.closed.saturating_sub(by);
        }
    }

    /// A client holds a lock from now on and until then; `closed`: the end of the
    /// lock-delay if it is lost.
    pub fn holds(
        &mut self,
        s: &Sequencer,
        client: u64,
        now: u64,
        (until, closed): (u64, u64),
    ) -> Result<(), Found> {
        let (from, to) = ((s.name.clone(), 0), (s.name.clone(), u64::MAX));
        for ((_, other), held) in self.holders.range(from..=to) {
            if *other == client || !exclude(held.mode, s.mode) {
                continue;
            }
            let who = format!("client {client} holds by {s}, client {other} by {}", held.token);
            if held.until > now {
                let more = (held.until - now) / 1_000;
                return Err(("lock", format!("{who}, which it relies on for {more} ms more")));
            }
            if held.closed > now {
                let more = (held.closed - now) / 1_000;
                return Err(("lock-delay", format!("{who}, which was lost {more} ms too late")));
            }
            if held.token >= s.token {
                return Err(("fencing token", format!("{who} before")));
            }
        }
        let holder = Holder { token: s.token, mode: s.mode, until, closed };
        self.holders.insert((s.name.clone(), client), holder);
        Ok(())
    }

    /// A client relies on a lock no more. `lost`: it was not given back, so the
    /// lock-delay counts.
    pub fn gave_up(&mut self, name: &[u8], client: u64, lost: bool) {
        if let Some(holder) = self.holders.get_mut(&(name.to_vec(), client)) {
            holder.until = 0;
            if !lost {
                holder.closed = 0;
            }
        }
    }

    /// A fenced write was done at a revision.
    pub fn wrote(&mut self, s: &Sequencer, revision: i64) -> Result<(), Found> {
        let (from, to) = ((s.name.clone(), 0), (s.name.clone(), i64::MAX));
        for ((_, at), (token, mode)) in self.writes.range(from..=to) {
            let in_order = match at.cmp(&revision) {
                std::cmp::Ordering::Less => *token <= s.token,
                _ => *token >= s.token,
            };
            if !in_order && exclude(*mode, s.mode) {
                let what = format!("{s} wrote at {revision}, token {token} at {at}");
                return Err(("fence", what));
            }
        }
        self.writes.insert((s.name.clone(), revision), (s.token, s.mode));
        Ok(())
    }
}
