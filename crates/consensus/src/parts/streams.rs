//! Snapshots that are sent to whoever asks for what is no longer held, without
//! leading it: at most one at a time to each, and after a failure not at once again.
//!
//! Several members may offer theirs at once; the receiver takes one and refuses the
//! others, so each failure makes the pause longer.

use std::collections::BTreeMap;
use synod_base::{NodeId, Tick};

/// The pause after a failure: an election time, doubled with each further one up to so much.
const PAUSE_MAX: u64 = 8;

/// The streams of one node.
#[derive(Debug, Default)]
pub struct Streams(BTreeMap<NodeId, Stream>);

#[derive(Debug)]
struct Stream {
    /// Until when no further one goes; `None` while it is under way.
    quiet_until: Option<Tick>,
    /// Failures in a row.
    failed: u32,
}

impl Streams {
    /// Whether one may go to `to` now; then it counts as under way.
    pub fn begin(&mut self, to: NodeId, now: Tick) -> bool {
        let stream = self.0.entry(to).or_insert(Stream { quiet_until: Some(now), failed: 0 });
        let may = stream.quiet_until.is_some_and(|until| now >= until);
        if may {
            stream.quiet_until = None;
        }
        may
    }

    /// One that may have been begun here has ended.
    pub fn ended(&mut self, to: NodeId, installed: bool, now: Tick, election_ms: u64) {
        if installed {
            self.0.remove(&to);
        } else if let Some(stream) = self.0.get_mut(&to) {
            // What made it fail is most likely still so.
            let times = 1u64.checked_shl(stream.failed).map_or(PAUSE_MAX, |t| t.min(PAUSE_MAX));
            stream.quiet_until = Some(now.plus(election_ms * times));
            stream.failed = stream.failed.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_longer_pauses() {
        let (to, mut streams) = (NodeId(2), Streams::default());
        let mut now = 0;
        for pause in [100, 200, 400, 800, 800, 800] {
            assert!(streams.begin(to, Tick(now)));
            assert!(!streams.begin(to, Tick(now + 10_000)), "it is under way");
            assert!(streams.begin(NodeId(3), Tick(now)), "another");
            streams.ended(NodeId(3), true, Tick(now), 100);
            streams.ended(to, false, Tick(now), 100);
            assert!(!streams.begin(to, Tick(now + pause - 1)));
            now += pause;
        }
        assert!(streams.begin(to, Tick(now)));
        streams.ended(to, true, Tick(now), 100);
        assert!(streams.begin(to, Tick(now)), "it may need another by now");
        streams.ended(to, false, Tick(now), 100);
        assert!(streams.begin(to, Tick(now + 100)));
    }
}
