//! Room on the disk: monitoring shares it with the keyspace, whose node stops when it cannot
//! write. So monitoring stops before that: with less than the reserve free, only what the
//! cluster's own nodes and the rules say is taken (alerts have to go on), with less than half
//! of it nothing.

use crate::store::{Monitor, held};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The reserve is no larger than this part of a disk.
const PART_MAX: u64 = 10;
/// So much more than a bound, as a part of the reserve, has to be free until it counts as kept
/// again: a disk at the bound would go to and fro.
const MORE: u64 = 10;
/// How often it is looked at least, whoever asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells the bytes of the disk with the series: in all, and what is free.
pub type Disk = Arc<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// What there is room for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    /// All that comes.
    All,
    /// What the cluster's own nodes and rules say.
    Own,
    /// Nothing.
    Nothing,
}

/// See the file's header.
pub(crate) struct Room {
    disk: Disk,
    /// As the settings have it.
    wanted: u64,
    level: AtomicU8,
    /// What was free when it was looked last, and the reserve for that disk.
    free: AtomicU64,
    reserve: AtomicU64,
    looked: Mutex<Option<Instant>>,
}

impl Room {
    /// Room above so many bytes; 0: the disk is not looked at.
    pub fn new(disk: Disk, wanted: u64) -> Room {
        Room {
            disk,
            wanted,
            level: AtomicU8::new(Level::All as u8),
            free: AtomicU64::new(u64::MAX),
            reserve: AtomicU64::new(0),
            looked: Mutex::default(),
        }
    }

    pub fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::All,
            1 => Level::Own,
            _ => Level::Nothing,
        }
    }

    /// Bytes that are to stay free; 0: none.
    pub fn reserve(&self) -> u64 {
        self.reserve.load(Ordering::Relaxed)
    }

    /// Looks at the disk, if that was not done just now. A change is told once.
    pub fn look(&self) {
        let mut looked = held(&self.looked);
        if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        *looked = Some(Instant::now());
        let Some((all, free)) = (self.disk)().filter(|_| self.wanted > 0) else { return };
        let reserve = self.wanted.min(all / PART_MAX);
        self.free.store(free, Ordering::Relaxed);
        self.reserve.store(reserve, Ordering::Relaxed);
        let (before, now) = (self.level(), level(self.level(), free, reserve));
        self.level.store(now as u8, Ordering::Relaxed);
        let taken = match now {
            Level::All => "everything",
            Level::Own => "what the cluster says of itself",
            Level::Nothing => "nothing",
        };
        if now > before {
            tracing::error!(
                free_bytes = free,
                reserve_bytes = reserve,
                taken,
                "the disk has less free than monitoring leaves to the keyspace: it takes less"
            );
        } else if now < before {
            tracing::info!(
                free_bytes = free,
                reserve_bytes = reserve,
                taken,
                "the disk has more free again: monitoring takes more"
            );
        }
    }

    /// Whether so many bytes may be written that make others superfluous: half of the
    /// reserve stays even while both are there.
    pub fn fits(&self, bytes: u64) -> bool {
        let free = self.free.load(Ordering::Relaxed);
        free.saturating_sub(self.reserve() / 2) >= bytes
    }

    /// Why something is not taken.
    fn why(&self) -> String {
        format!(
            "the disk has {} bytes free, and monitoring leaves {} bytes to the keyspace \
             (monitor-reserve-bytes): samples are taken again when there is more",
            self.free.load(Ordering::Relaxed),
            self.reserve()
        )
    }
}

/// What there is room for, if it was for `before` until now.
fn level(before: Level, free: u64, reserve: u64) -> Level {
    let kept = |bound: u64, level: Level| {
        let more = if before >= level { reserve / MORE } else { 0 };
        free >= bound.saturating_add(more)
    };
    if kept(reserve, Level::Own) {
        Level::All
    } else if kept(reserve / 2, Level::Nothing) {
        Level::Own
    } else {
        Level::Nothing
    }
}

impl Monitor {
    /// Whether there is room for what is scraped or pushed, `own`: off the cluster's own
    /// nodes. A refusal is counted.
    pub(crate) fn has_room(&self, own: bool) -> Result<(), String> {
        let most = if own { Level::Own } else { Level::All };
        if self.0.room.level() <= most {
            return Ok(());
        }
        self.own().no_room.inc();
        Err(self.0.room.why())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_in_two_steps_and_given_back_with_a_margin() {
        let mut now = Level::All;
        for (free, wanted) in [
            (1_000, Level::All),
            (999, Level::Own),
            (1_050, Level::Own),
            (500, Level::Own),
            (499, Level::Nothing),
            (599, Level::Nothing),
            (600, Level::Own),
            (1_100, Level::All),
            (10, Level::Nothing),
            (1_099, Level::Own),
            (5_000, Level::All),
        ] {
            now = level(now, free, 1_000);
            assert_eq!(now, wanted, "{free} free");
        }
    }

    #[test]
    fn a_small_disk_has_a_small_reserve_and_one_that_is_not_wanted_is_none() {
        let room = Room::new(Arc::new(|| Some((4_000, 350))), 1 << 30);
        assert!(room.fits(u64::MAX / 2), "nothing is known yet");
        room.look();
        assert_eq!((room.level(), room.reserve()), (Level::Own, 400));
        assert!(room.fits(150) && !room.fits(151));
        let room = Room::new(Arc::new(|| Some((4_000, 0))), 0);
        room.look();
        assert_eq!((room.level(), room.reserve()), (Level::All, 0));
    }
}
