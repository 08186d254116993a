//! How fast commits go while flushing and compaction fall behind.
//!
//! **Why**: a commit that waited until they have caught up would stand for seconds, and with
//! it the thread that answers the other members: they would hold it for dead. Commits that
//! are slowed little by little leave the workers the time they need, and none waits long.

use std::time::Duration;

/// Runs in level 0 up to which commits go as fast as they can: every read looks into each.
const RUNS_CALM: usize = 12;
/// Sealed memtables that may wait before commits wait for one of them to be flushed.
pub(crate) const SEALED_MAX: usize = 3;
/// Bytes a second at the first step; each further step halves it.
const BYTES_A_SECOND: u64 = 128 << 20;
/// Steps at most.
const STEPS: u32 = 7;
/// The longest that one commit waits: well below what a member is given to answer in.
const WAIT_MAX: Duration = Duration::from_millis(40);
/// What commits may owe, at most.
const OWED_MAX: Duration = Duration::from_secs(1);

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Time that earlier commits should have waited.
    owed: Duration,
}

/// By how many steps commits are slowed.
fn steps(runs: usize, sealed: usize) -> u32 {
    let by_sealed = match sealed {
        0 | 1 => 0,
        2 => 2,
        _ => 5,
    };
    by_sealed.max(runs.saturating_sub(RUNS_CALM).min(STEPS as usize) as u32)
}

/// Whether the workers have nothing left to spare for what can wait. Some time before
/// commits are slowed, so that these alone can be caught up with; not sooner, so that
/// removals go on under a load that never ends.
pub(crate) fn is_behind(runs: usize, sealed: usize) -> bool {
    sealed > 0 || runs > RUNS_CALM - 2
}

impl Pace {
    /// How long a commit of so many bytes waits.
    pub(crate) fn wait(&mut self, bytes: u64, runs: usize, sealed: usize) -> Duration {
        let steps = steps(runs, sealed);
        if steps == 0 {
            self.owed = Duration::ZERO;
            return Duration::ZERO;
        }
        let rate = BYTES_A_SECOND >> steps;
        self.owed += Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        self.owed = self.owed.min(OWED_MAX);
        // What is less is not worth a sleep.
        if self.owed < Duration::from_millis(1) {
            return Duration::ZERO;
        }
        let wait = self.owed.min(WAIT_MAX);
        self.owed -= wait;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_slowed_little_by_little() {
        let second = |runs, sealed| {
            let (mut pace, mut waited) = (Pace::default(), Duration::ZERO);
            for _ in 0..64 {
                waited += pace.wait(64 << 10, runs, sealed);
            }
            waited.as_millis()
        };
        // 4 MiB.
        assert_eq!(second(RUNS_CALM, 1), 0);
        assert_eq!(second(RUNS_CALM + 1, 0), 62);
        assert_eq!(second(RUNS_CALM + 4, 0), 500);
        assert_eq!(second(RUNS_CALM, SEALED_MAX), 1_000);
        // No commit waits longer, however far the workers are behind.
        assert_eq!(second(1_000, 0), 64 * WAIT_MAX.as_millis());
    }

    #[test]
    fn what_is_owed_is_forgotten_once_they_have_caught_up() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(64 << 20, RUNS_CALM + 3, 0), WAIT_MAX);
        assert_eq!(pace.wait(1, RUNS_CALM + 3, 0), WAIT_MAX);
        assert_eq!(pace.wait(1, RUNS_CALM, 0), Duration::ZERO);
        assert_eq!(pace.wait(1, RUNS_CALM + 3, 0), Duration::ZERO);
    }

    #[test]
    fn removals_wait_before_commits_do() {
        assert!(is_behind(RUNS_CALM - 1, 0) && steps(RUNS_CALM - 1, 0) == 0);
        assert!(is_behind(0, 1) && steps(0, 1) == 0);
        assert!(!is_behind(RUNS_CALM - 2, 0));
    }
}
