//! Bugs planted on purpose, to show that the simulator's checkers find them.
//! Without the feature `planted` none is compiled in.

#[cfg(feature = "planted")]
mod on {
    use std::cell::Cell;

    thread_local! {
        static BUG: Cell<&'static str> = const { Cell::new("") };
    }

    /// From now on this thread has that bug (empty: none).
    pub fn plant(bug: &'static str) {
        BUG.set(bug);
    }

    /// Whether this thread has that bug.
    pub fn planted(bug: &str) -> bool {
        BUG.get() == bug
    }
}

#[cfg(feature = "planted")]
pub use on::{plant, planted};

/// Whether a bug is planted: never, without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn planted(_bug: &str) -> bool {
    false
}
