//! A recipient's own check of sequencers: by what it has seen, without a call.

use crate::sequencer::{Mode, Sequencer};
use std::collections::BTreeMap;

/// The greatest tokens that a recipient has seen, of each lock. Tokens only grow, so
/// whoever shows a smaller one than it has seen has lost its lock. It is as good as what
/// the recipient hears: a watch of what the holders write tells it of each in turn.
#[derive(Clone, Default, Debug)]
pub struct Newest(BTreeMap<Vec<u8>, Seen>);

#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    any: i64,
    exclusive: i64,
}

impl Newest {
    /// Takes note of a sequencer that came with something. `false`: its holder is known
    /// to have lost the lock, and what came with it is to be dropped.
    ///
    /// Who holds alone began after everybody before it had ended, and ended before
    /// anybody after it began; those that share may come in any order among themselves.
    pub fn admit(&mut self, s: &Sequencer) -> bool {
        let before = self.0.get(&s.name).copied().unwrap_or_default();
        let late = match s.mode {
            Mode::Exclusive => s.token < before.any,
            Mode::Shared => s.token < before.exclusive,
        };
        if late {
            return false;
        }
        let exclusive = match s.mode {
            Mode::Exclusive => s.token,
            Mode::Shared => before.exclusive,
        };
        self.0.insert(s.name.clone(), Seen { any: before.any.max(s.token), exclusive });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_is_known_by_what_was_seen() {
        let mut newest = Newest::default();
        let mut admit = |text: &str| newest.admit(&text.parse().expect("a sequencer"));
        assert!(admit("5:exclusive:1:a") && admit("5:exclusive:1:a"));
        // Another lock's tokens say nothing.
        assert!(admit("3:exclusive:1:b"));
        assert!(admit("9:exclusive:2:a") && !admit("5:exclusive:1:a"));
        assert!(admit("9:exclusive:2:a"), "it holds still, as far as is known");
        // Those that share know each other not; who holds alone ends them all.
        assert!(admit("12:shared:3:a") && admit("11:shared:4:a") && admit("12:shared:3:a"));
        assert!(!admit("9:exclusive:2:a") && !admit("8:shared:5:a"));
        assert!(admit("20:exclusive:6:a"));
        assert!(!admit("12:shared:3:a") && admit("20:exclusive:6:a"));
    }
}
