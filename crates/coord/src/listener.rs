//! Who of several senders of heartbeats is suspected to have failed, each judged by its
//! own rhythm ([`PhiDetector`]).
//!
//! A listener that stood still itself heard nobody, which says nothing of the senders:
//! the time between two looks that is too long is taken off their silence.

use crate::phi::{PhiDetector, PhiOptions};
use std::collections::BTreeMap;

/// What is thought of a sender.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Hearing {
    /// How sure it is that it has failed.
    pub phi: f64,
    /// How long nothing was heard of it, ms.
    pub silence_ms: u64,
    /// The usual time between its heartbeats, ms.
    pub usual_ms: u64,
    /// Whether it is suspected.
    pub suspected: bool,
}

/// A change of mind about a sender.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    /// It is suspected from now on.
    Suspected(u64, Hearing),
    /// It was suspected, and was heard after so long a silence, ms.
    Heard(u64, u64),
}

struct Sender {
    rhythm: PhiDetector,
    heard_ms: u64,
    suspected: bool,
}

/// Listens to senders, which are numbers to it. Times are milliseconds of one
/// monotonic clock.
pub struct Listener {
    options: PhiOptions,
    /// The time between two looks, as intended.
    look_every_ms: u64,
    looked_ms: Option<u64>,
    senders: BTreeMap<u64, Sender>,
    verdicts: Vec<Verdict>,
}

impl Listener {
    /// Listens to nobody yet; [`Listener::look`] will be called so often.
    pub fn new(options: PhiOptions, look_every_ms: u64) -> Listener {
        let (senders, verdicts) = (BTreeMap::new(), Vec::new());
        Listener { options, look_every_ms, looked_ms: None, senders, verdicts }
    }

    /// Listens to a sender from now on; until its rhythm is known, it is taken to beat
    /// about so often.
    pub fn expect(&mut self, who: u64, first_interval_ms: u64, now_ms: u64) {
        self.senders.entry(who).or_insert_with(|| {
            let first_interval_ms = first_interval_ms as f64;
            let mut rhythm = PhiDetector::new(PhiOptions { first_interval_ms, ..self.options });
            rhythm.heard(now_ms);
            Sender { rhythm, heard_ms: now_ms, suspected: false }
        });
    }

    /// Listens no more to those of which `stays` does not hold.
    pub fn retain(&mut self, stays: impl Fn(u64) -> bool) {
        self.senders.retain(|who, _| stays(*who));
    }

    /// A heartbeat came; of one to whom it does not listen it says nothing.
    pub fn heard(&mut self, who: u64, now_ms: u64) {
        let Some(sender) = self.senders.get_mut(&who) else { return };
        sender.rhythm.heard(now_ms);
        let silence = now_ms.saturating_sub(std::mem::replace(&mut sender.heard_ms, now_ms));
        if std::mem::replace(&mut sender.suspected, false) {
            self.verdicts.push(Verdict::Heard(who, silence));
        }
    }

    /// Looks at them all; the changes of mind since the last look.
    pub fn look(&mut self, now_ms: u64) -> Vec<Verdict> {
        let since = self.looked_ms.replace(now_ms).map_or(0, |at| now_ms.saturating_sub(at));
        let stood_still =
            if since > 2 * self.look_every_ms { since - self.look_every_ms } else { 0 };
        for (who, sender) in &mut self.senders {
            sender.rhythm.stood_still(stood_still, now_ms);
            if !sender.suspected && sender.rhythm.is_suspect(now_ms) {
                sender.suspected = true;
                self.verdicts.push(Verdict::Suspected(*who, sender.hearing(now_ms)));
            }
        }
        std::mem::take(&mut self.verdicts)
    }

    /// What is thought of one; `None`: it does not listen to it.
    pub fn hearing(&self, who: u64, now_ms: u64) -> Option<Hearing> {
        self.senders.get(&who).map(|sender| sender.hearing(now_ms))
    }

    /// What is thought of each.
    pub fn hearings(&self, now_ms: u64) -> BTreeMap<u64, Hearing> {
        self.senders.iter().map(|(who, sender)| (*who, sender.hearing(now_ms))).collect()
    }
}

impl Sender {
    fn hearing(&self, now_ms: u64) -> Hearing {
        Hearing {
            phi: self.rhythm.phi(now_ms),
            silence_ms: now_ms.saturating_sub(self.heard_ms),
            usual_ms: self.rhythm.usual_ms(),
            suspected: self.suspected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_base::Rng;

    const LOOK_MS: u64 = 50;

    /// A sender that beats every so often, with jitter and now and then a pause; from
    /// `dies_at` on it is dead.
    struct Simulated {
        rng: Rng,
        every: u64,
        jitter: u64,
        /// One beat in so many is late by up to so much.
        pauses: Option<(u64, u64)>,
        due: u64,
    }

    impl Simulated {
        fn beats(&mut self, now: u64) -> bool {
            if now < self.due {
                return false;
            }
            self.due = now + self.every - self.jitter / 2 + self.rng.below(self.jitter + 1);
            if let Some((one_in, up_to)) = self.pauses
                && self.rng.below(one_in) == 0
            {
                self.due += self.rng.below(up_to + 1);
            }
            true
        }
    }

    fn simulated(seed: u64, jitter: u64, pauses: Option<(u64, u64)>) -> Simulated {
        Simulated { rng: Rng::new(seed), every: 250, jitter, pauses, due: 0 }
    }

    /// Suspicions of a sender that lives for so long.
    fn false_ones(mut sender: Simulated, options: PhiOptions, for_ms: u64) -> usize {
        let mut listener = Listener::new(options, LOOK_MS);
        listener.expect(1, 1_000, 0);
        let mut wrong = 0;
        for now in (0..for_ms).step_by(5) {
            if sender.beats(now) {
                listener.heard(1, now);
            }
            if now % LOOK_MS == 0 {
                let suspects = |v: &Verdict| matches!(v, Verdict::Suspected(..));
                wrong += listener.look(now).iter().filter(|v| suspects(v)).count();
            }
        }
        wrong
    }

    const HOUR_MS: u64 = 3_600_000;

    /// The false-positive rate, by conditions: it is what services.md says.
    #[test]
    fn false_suspicions_by_the_hour() {
        let default = PhiOptions::default();
        let eager = PhiOptions { threshold: 1.0, acceptable_pause_ms: 0.0, ..default };
        let rates = |options: PhiOptions| {
            [
                false_ones(simulated(1, 40, None), options, HOUR_MS),
                false_ones(simulated(2, 240, None), options, HOUR_MS),
                false_ones(simulated(3, 40, Some((100, 200))), options, HOUR_MS),
                false_ones(simulated(4, 40, Some((100, 500))), options, HOUR_MS),
                false_ones(simulated(5, 40, Some((100, 2_000))), options, HOUR_MS),
            ]
        };
        let (ours, others) = (rates(default), rates(eager));
        println!("an hour of 14,400 beats: default {ours:?}, phi 1 without a pause {others:?}");
        assert_eq!(ours[..3], [0, 0, 0], "jitter and pauses that are acceptable");
        // 144 pauses an hour of up to half a second: few of them are longer than is
        // acceptable and 5.6 deviations.
        assert!(ours[3] <= 20, "{ours:?}");
        // Of those up to two seconds most are, and they are failures as far as can be told.
        assert!(ours[4] > 50, "{ours:?}");
        assert!(others.iter().zip(&ours).all(|(eager, ours)| eager >= ours), "{others:?}");
        assert!(others[2] > 0, "a threshold that is too low is seen to be");
    }

    /// The price: how soon a sender that died is suspected.
    #[test]
    fn a_dead_sender_is_suspected_within_a_second() {
        for (seed, jitter) in [(1, 0), (2, 40), (3, 240)] {
            let mut sender = simulated(seed, jitter, None);
            let mut listener = Listener::new(PhiOptions::default(), LOOK_MS);
            listener.expect(1, 1_000, 0);
            let (mut last, mut suspected) = (0, None);
            for now in 0..70_000 {
                if now < 60_000 && sender.beats(now) {
                    listener.heard(1, now);
                    last = now;
                }
                if now % LOOK_MS == 0 && !listener.look(now).is_empty() {
                    suspected = suspected.or(Some(now));
                }
            }
            let within = suspected.expect("it was suspected") - last;
            assert!((500..=1_200).contains(&within), "jitter {jitter}: {within} ms");
        }
    }

    #[test]
    fn who_is_heard_again_is_not_suspected_and_each_is_judged_alone() {
        let mut listener = Listener::new(PhiOptions::default(), LOOK_MS);
        (1..=2).for_each(|who| listener.expect(who, 1_000, 0));
        let mut told = Vec::new();
        for now in (0..20_000).step_by(LOOK_MS as usize) {
            if now % 250 == 0 {
                listener.heard(1, now);
            }
            if now % 250 == 0 && !(10_000..15_000).contains(&now) {
                listener.heard(2, now);
            }
            told.extend(listener.look(now));
        }
        let [Verdict::Suspected(2, hearing), Verdict::Heard(2, silence)] = told[..] else {
            panic!("{told:?}")
        };
        assert!(
            hearing.suspected && hearing.phi >= 8.0 && (240..=250).contains(&hearing.usual_ms),
            "{hearing:?}"
        );
        assert!(hearing.silence_ms < 1_000, "{hearing:?}");
        assert_eq!(silence, 5_250);
        assert!(listener.hearings(20_000).values().all(|h| !h.suspected));
        listener.retain(|who| who == 1);
        assert_eq!(listener.hearings(20_000).len(), 1);
    }

    /// A listener that was paused for three seconds suspects nobody for it.
    #[test]
    fn its_own_pause_is_not_held_against_the_senders() {
        let mut listener = Listener::new(PhiOptions::default(), LOOK_MS);
        listener.expect(1, 1_000, 0);
        let mut told = Vec::new();
        for now in (0..30_000).step_by(LOOK_MS as usize) {
            if (10_000..13_000).contains(&now) {
                continue;
            }
            told.extend(listener.look(now));
            if now % 250 == 0 {
                listener.heard(1, now);
            }
        }
        assert_eq!(told, []);
    }

    #[test]
    fn who_was_never_heard_is_suspected_after_the_first_interval() {
        let mut listener = Listener::new(PhiOptions::default(), LOOK_MS);
        listener.expect(1, 1_000, 0);
        let looks = (0..10_000).step_by(LOOK_MS as usize);
        let told: Vec<Verdict> = looks.flat_map(|now| listener.look(now)).collect();
        let [Verdict::Suspected(1, hearing)] = told[..] else { panic!("{told:?}") };
        assert!((2_000..3_000).contains(&hearing.silence_ms), "{hearing:?}");
    }
}
