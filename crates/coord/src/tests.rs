//! The rules of queues, sequencers and sessions.

use super::*;
use proptest::prelude::*;
use synod_mvcc::{
    Command, DeleteRequest, MemStore, Op, Outcome, PutRequest, RangeRequest, State, StateLimits,
};

/// A keyspace that does what it is told.
pub(crate) struct Cell {
    pub state: State<MemStore>,
    index: u64,
    clock: u64,
}

impl Cell {
    pub fn new() -> Cell {
        let state = State::open(MemStore::default(), StateLimits::default()).expect("memory");
        Cell { state, index: 0, clock: 1_000 }
    }

    pub fn run(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let outcome = self.state.apply(self.index, 1, &command).expect("memory");
        self.state.commit().expect("memory");
        outcome.unwrap_or_else(|e| panic!("{command:?}: {e:?}"))
    }

    pub fn lease(&mut self, id: i64, ttl: i64) {
        self.run(Command::LeaseGrant { id, ttl, clock: self.clock });
    }

    /// Time passes, and the leases that are over run out.
    pub fn pass(&mut self, seconds: u64, ids: &[i64]) {
        self.clock += seconds * 1_000;
        self.run(Command::LeaseExpire { ids: ids.to_vec(), clock: self.clock });
    }

    pub fn txn(&mut self, txn: synod_mvcc::TxnRequest) -> synod_mvcc::TxnResult {
        match self.run(Command::Txn(txn)) {
            Outcome::Txn(result) => result,
            other => panic!("{other:?}"),
        }
    }

    pub fn revision(&self) -> i64 {
        self.state.reader().published().revision()
    }

    pub fn enter(&mut self, place: &Place) -> (Entered, i64) {
        let result = self.txn(enter(place));
        (entered(result).expect("an answer to it"), self.revision())
    }

    fn queue(&self, name: &[u8]) -> Vec<Contender> {
        let range = prefix_range(&contenders(name));
        let all = RangeRequest { range, ..RangeRequest::default() };
        let found = self.state.reader().published().range(&all).expect("memory").expect("read");
        read_queue(name, found.kvs)
    }

    fn standing(&self, place: &Place, token: i64) -> Standing {
        standing(&self.queue(&place.name), &place.key(), token)
    }

    /// Whether a write with this sequencer is done.
    fn writes(&mut self, s: &Sequencer) -> bool {
        let put = PutRequest { key: "data".into(), value: "x".into(), ..PutRequest::default() };
        self.txn(fenced(s, Op::Put(put))).succeeded
    }
}

pub(crate) fn place(session: i64, mode: Mode) -> Place {
    let claim = Claim::new(mode, &format!("s{session}"), 7);
    Place { name: b"jobs".to_vec(), session, guard: 0, claim, value: None }
}

pub(crate) fn sequencer(place: &Place, token: i64) -> Sequencer {
    let (mode, session) = (place.claim.mode(), place.session);
    Sequencer { token, mode, session, name: place.name.clone() }
}

#[test]
fn a_queue_is_served_in_its_order_and_tokens_grow() {
    let mut cell = Cell::new();
    (1..=3).for_each(|id| cell.lease(id, 10));
    let places: Vec<Place> = (1..=3).map(|id| place(id, Mode::Exclusive)).collect();
    let (first, a) = cell.enter(&places[0]);
    let (second, b) = cell.enter(&places[1]);
    let (third, c) = cell.enter(&places[2]);
    assert_eq!((first, second, third), (Entered::Holds, Entered::Waits, Entered::Waits));
    assert!(a < b && b < c);
    // Each waits for the one before it only: no herd.
    assert_eq!(cell.standing(&places[1], b), Standing::WaitsFor(places[0].key()));
    assert_eq!(cell.standing(&places[2], c), Standing::WaitsFor(places[1].key()));
    // One gives up; the last moves up.
    assert!(cell.txn(leave(&places[1], b)).succeeded);
    assert_eq!(cell.standing(&places[1], b), Standing::Gone);
    assert_eq!(cell.standing(&places[2], c), Standing::WaitsFor(places[0].key()));
    assert!(cell.txn(leave(&places[0], a)).succeeded);
    assert_eq!(cell.standing(&places[2], c), Standing::Holds);
    assert_eq!(holders(&cell.queue(b"jobs")).count(), 1);
}

#[test]
fn a_session_has_one_place() {
    let mut cell = Cell::new();
    cell.lease(1, 10);
    let place = place(1, Mode::Exclusive);
    let (_, token) = cell.enter(&place);
    let (again, _) = cell.enter(&place);
    assert!(matches!(again, Entered::Already(kv, _) if kv.create_revision == token));
}

#[test]
fn a_call_that_gives_up_takes_no_place_from_one_that_went_on_with_it() {
    let mut cell = Cell::new();
    cell.lease(1, 10);
    let place = place(1, Mode::Exclusive);
    let (_, token) = cell.enter(&place);
    assert!(cell.txn(resume(&place, token)).succeeded);
    let resumed = cell.revision();
    assert!(!cell.txn(withdraw(&place, token, token)).succeeded);
    assert_eq!(cell.standing(&place, token), Standing::Holds);
    assert!(cell.txn(withdraw(&place, token, resumed)).succeeded);
    assert!(!cell.txn(resume(&place, token)).succeeded, "there is nothing to go on with");
}

#[test]
fn sharers_hold_together_and_an_exclusive_waits_for_all_of_them() {
    let mut cell = Cell::new();
    (1..=4).for_each(|id| cell.lease(id, 10));
    let modes = [Mode::Shared, Mode::Shared, Mode::Exclusive, Mode::Shared];
    let places: Vec<Place> = (1..).zip(modes).map(|(id, mode)| place(id, mode)).collect();
    let tokens: Vec<i64> = places.iter().map(|p| cell.enter(p).1).collect();
    let standings = |cell: &Cell| -> Vec<Standing> {
        places.iter().zip(&tokens).map(|(p, t)| cell.standing(p, *t)).collect()
    };
    let waits = |i: usize| Standing::WaitsFor(places[i].key());
    use Standing::{Gone, Holds};
    // The last one does not pass the exclusive one that waits.
    assert_eq!(standings(&cell), [Holds, Holds, waits(1), waits(2)]);
    cell.txn(leave(&places[1], tokens[1]));
    assert_eq!(standings(&cell), [Holds, Gone, waits(0), waits(2)]);
    cell.txn(leave(&places[0], tokens[0]));
    assert_eq!(standings(&cell), [Gone, Gone, Holds, waits(2)]);
    cell.txn(leave(&places[2], tokens[2]));
    assert_eq!(standings(&cell), [Gone, Gone, Gone, Holds]);
}

#[test]
fn a_write_of_a_lost_holder_is_refused() {
    let mut cell = Cell::new();
    (1..=2).for_each(|id| cell.lease(id, 10));
    let (one, two) = (place(1, Mode::Exclusive), place(2, Mode::Exclusive));
    let (_, a) = cell.enter(&one);
    let (_, b) = cell.enter(&two);
    let (old, new) = (sequencer(&one, a), sequencer(&two, b));
    assert!(cell.writes(&old));
    cell.pass(11, &[1]);
    assert_eq!(cell.standing(&two, b), Standing::Holds);
    assert!(!cell.writes(&old) && cell.writes(&new));
    // Not even when its session's number is used again and takes the lock again.
    cell.txn(leave(&two, b));
    cell.lease(1, 10);
    cell.enter(&one);
    assert!(!cell.writes(&old) && !cell.writes(&new));
    // Nor by another who puts the key there with a lease of its own.
    cell.lease(3, 10);
    let stolen = PutRequest { key: one.key(), lease: 3, ..PutRequest::default() };
    let token = cell.queue(b"jobs")[0].kv.create_revision;
    cell.run(Command::Put(stolen));
    assert!(!cell.writes(&sequencer(&one, token)));
}

/// Session 1 has a lock-delay of 5 s: its guard is lease 100.
fn guarded(cell: &mut Cell) -> Place {
    cell.lease(1, 10);
    cell.lease(100, 15);
    cell.lease(2, 60);
    Place { guard: 100, ..place(1, Mode::Exclusive) }
}

#[test]
fn a_lock_that_is_lost_stays_closed_for_the_lock_delay() {
    let mut cell = Cell::new();
    let (one, two) = (guarded(&mut cell), place(2, Mode::Exclusive));
    let (_, a) = cell.enter(&one);
    let (_, b) = cell.enter(&two);
    cell.pass(11, &[1, 100]);
    let queue = cell.queue(b"jobs");
    assert_eq!(holders(&queue).count(), 0);
    assert_eq!(delays(&queue).map(|c| c.kv.lease).collect::<Vec<_>>(), [100]);
    assert_eq!(cell.standing(&two, b), Standing::WaitsFor(key_of(b"jobs", 100)));
    assert!(!cell.writes(&sequencer(&one, a)), "the guard holds nothing");
    cell.pass(5, &[100]);
    assert_eq!(cell.standing(&two, b), Standing::Holds);
}

#[test]
fn a_lock_that_is_given_back_is_free_at_once() {
    let mut cell = Cell::new();
    let (one, two) = (guarded(&mut cell), place(2, Mode::Exclusive));
    let (_, a) = cell.enter(&one);
    let (_, b) = cell.enter(&two);
    assert!(cell.txn(leave(&one, a)).succeeded);
    assert_eq!(cell.standing(&two, b), Standing::Holds);
}

#[test]
fn a_guard_counts_only_when_its_session_is_over() {
    let mut cell = Cell::new();
    let (one, two) = (guarded(&mut cell), place(2, Mode::Exclusive));
    let (_, _) = cell.enter(&one);
    let (_, b) = cell.enter(&two);
    // An etcd client's unlock: only the key goes.
    let range = KeyRange { key: one.key(), end: Bytes::new() };
    cell.run(Command::Delete(DeleteRequest { range, prev_kv: false }));
    let mut queue = cell.queue(b"jobs");
    assert!(matches!(standing(&queue, &two.key(), b), Standing::WaitsFor(_)));
    without_idle_guards(&mut queue, |session| session == 1);
    assert_eq!(standing(&queue, &two.key(), b), Standing::Holds);
}

#[test]
fn a_candidates_claim_stands_beside_its_value() {
    let mut cell = Cell::new();
    cell.lease(1, 10);
    let claim = Claim::new(Mode::Exclusive, "me", 7).attempt(3);
    let place = Place { value: Some("hello".into()), claim, ..place(1, Mode::Exclusive) };
    let (_, token) = cell.enter(&place);
    assert_eq!(cell.queue(b"jobs")[0].kv.value, "hello");
    let (again, _) = cell.enter(&place);
    assert!(matches!(again, Entered::Already(_, claim) if claim.attempt == 3));
    assert!(cell.txn(leave(&place, token)).succeeded);
    let all = RangeRequest { range: prefix_range(b"synod/"), ..RangeRequest::default() };
    let left = cell.state.reader().published().range(&all).expect("memory").expect("read");
    assert_eq!(left.count, 0);
}

#[test]
fn a_waiter_that_is_lost_delays_nobody() {
    let mut cell = Cell::new();
    let (one, two) = (guarded(&mut cell), place(2, Mode::Exclusive));
    cell.lease(3, 60);
    let three = place(3, Mode::Exclusive);
    let (_, a) = cell.enter(&two);
    cell.enter(&one);
    let (_, c) = cell.enter(&three);
    cell.pass(11, &[1]);
    assert_eq!(cell.standing(&three, c), Standing::WaitsFor(two.key()));
    cell.txn(leave(&two, a));
    assert_eq!(cell.standing(&three, c), Standing::Holds);
}

#[test]
fn a_waiter_that_came_to_hold_is_guarded_once_that_is_noted() {
    let mut cell = Cell::new();
    let (one, two) = (guarded(&mut cell), place(2, Mode::Exclusive));
    let (_, a) = cell.enter(&two);
    let (_, b) = cell.enter(&one);
    cell.txn(leave(&two, a));
    assert_eq!(cell.standing(&one, b), Standing::Holds);
    assert!(cell.txn(mark_held(&one, b, 9)).succeeded);
    let (_, c) = cell.enter(&two);
    cell.pass(11, &[1]);
    assert!(matches!(cell.standing(&two, c), Standing::WaitsFor(_)));
    assert!(!cell.txn(mark_held(&one, b, 10)).succeeded, "its session is over");
}

#[test]
fn a_lock_below_another_is_another_lock() {
    let mut cell = Cell::new();
    (1..=2).for_each(|id| cell.lease(id, 10));
    let below = Place { name: b"jobs/x".to_vec(), ..place(1, Mode::Exclusive) };
    cell.enter(&below);
    let above = place(2, Mode::Exclusive);
    let (_, token) = cell.enter(&above);
    assert_eq!(cell.standing(&above, token), Standing::Holds);
}

#[test]
fn another_clients_key_is_an_exclusive_claim() {
    for value in [&b""[..], b"host-7", b"{\"a\":1}", b"{\"synod-lock\":9,\"shared\":true}"] {
        assert_eq!(Claim::decode(value).mode(), Mode::Exclusive, "{value:?}");
    }
    let shared = Claim::new(Mode::Shared, "me", 1).held(2);
    assert_eq!(Claim::decode(&shared.encode()), shared);
    let text = String::from_utf8(shared.encode().to_vec()).expect("JSON");
    assert_eq!(text, r#"{"synod-lock":1,"shared":true,"owner":"me","asked_ms":1,"held_ms":2}"#);
}

#[test]
fn a_session_passes_from_safe_to_jeopardy_and_back_or_over() {
    use SessionState::{Expired, Jeopardy, Safe};
    let mut clock = SessionClock::new(0, 10_000, 45_000);
    assert_eq!((clock.renew_at_ms(), clock.deadline_ms()), (5_000, 9_900));
    assert_eq!(clock.tick(9_899), None);
    assert_eq!(clock.tick(9_900), Some(Jeopardy));
    // What was sent before and answered late says that it lived then, not now.
    assert_eq!(clock.renewed(3_000, 12_900), None);
    assert_eq!((clock.state(), clock.deadline_ms()), (Jeopardy, 12_900));
    assert_eq!(clock.renewed(13_000, 13_100), Some(Safe));
    assert_eq!(clock.tick(22_900), Some(Jeopardy));
    assert_eq!(clock.tick(67_899), None);
    assert_eq!(clock.tick(67_900), Some(Expired));
    assert_eq!(clock.renewed(68_000, 68_001), None, "what is over stays over");
    let mut clock = SessionClock::new(0, 10_000, 45_000);
    assert_eq!(clock.gone(), Some(Expired));
    assert_eq!(clock.next_ms(), None);
    // For ever is not too long.
    let mut clock = SessionClock::new(5, 10_000, u64::MAX);
    assert_eq!((clock.tick(10_000), clock.grace_ends_ms()), (Some(Jeopardy), u64::MAX));
}

#[test]
fn health_believes_what_lasts() {
    let mut health = Health::new(2, 3);
    let mut told = |passed| health.checked(passed);
    assert_eq!([told(true), told(true), told(true)], [None, Some(true), None]);
    // Two failures, then one pass: nothing happened.
    assert_eq!([told(false), told(false), told(true)], [None, None, None]);
    assert_eq!([told(false), told(false), told(false)], [None, None, Some(false)]);
    assert_eq!([told(true), told(false), told(true), told(true)], [None, None, None, Some(true)]);
    // From nothing, one failure is not enough either.
    let mut health = Health::new(1, 2);
    assert_eq!((health.checked(false), health.healthy()), (None, None));
    assert_eq!(health.checked(false), Some(false));
}

#[test]
fn health_in_doubt_is_looked_at_again_soon_and_what_is_sure_is_believed() {
    let mut health = Health::new(1, 3);
    assert!(health.checked(false).is_none() && !health.is_in_doubt(), "nothing to lose yet");
    assert!(health.checked(true).is_some() && !health.is_in_doubt());
    assert!(health.checked(false).is_none() && health.is_in_doubt());
    assert!(health.checked(true).is_none() && !health.is_in_doubt());
    // For sure: one word is enough, and it is said once.
    assert!(health.fails() && !health.fails() && !health.is_in_doubt());
    assert_eq!((health.healthy(), health.checked(false)), (Some(false), None));
    assert_eq!(health.checked(true), Some(true));
}

#[test]
fn an_instance_serves_when_it_is_healthy_and_in_office() {
    let mut role = Role::new(ServiceMode::ActivePassive);
    assert_eq!(role.duty(0), Duty::Rest);
    role.is_healthy(true);
    assert_eq!(role.duty(0), Duty::Contend);
    role.holds(true);
    assert_eq!(role.duty(0), Duty::Serve);
    role.steps_aside(500);
    assert_eq!((role.duty(499), role.duty(500)), (Duty::Rest, Duty::Serve));
    role.holds(false);
    assert_eq!(role.duty(500), Duty::Contend);
    role.steps_aside(900);
    assert_eq!(role.duty(600), Duty::Rest);
    role.returns();
    assert_eq!(role.duty(600), Duty::Contend, "another has followed");
    role.is_healthy(false);
    assert_eq!(role.duty(500), Duty::Rest);
    let mut role = Role::new(ServiceMode::ActiveActive);
    role.is_healthy(true);
    assert_eq!(role.duty(0), Duty::Serve);
    // What could not be made active is tried again after a while.
    role.steps_aside(500);
    assert_eq!((role.duty(499), role.duty(500)), (Duty::Rest, Duty::Serve));
}

#[test]
fn what_is_no_sequencer_is_refused_with_the_reason() {
    for (text, why) in [
        ("", "the token"),
        ("7", "fewer than four"),
        ("7:exclusive:1f", "fewer than four"),
        ("0:exclusive:1f:a", "the token"),
        ("-4:exclusive:1f:a", "the token"),
        ("7:both:1f:a", "the mode"),
        ("7:shared:xyz:a", "the session"),
        ("7:shared:1f:", "the name is empty"),
        ("7:shared:1f:%4", "two hexadecimal digits"),
    ] {
        let e = text.parse::<Sequencer>().expect_err(text).to_string();
        assert!(e.contains(why), "{text:?}: {e}");
    }
}

proptest! {
    #[test]
    fn sequencers_survive_their_text(
        token in 1..i64::MAX,
        session in 1..i64::MAX,
        shared: bool,
        name in proptest::collection::vec(any::<u8>(), 1..40),
    ) {
        let mode = if shared { Mode::Shared } else { Mode::Exclusive };
        let s = Sequencer { token, mode, session, name };
        let text = s.to_string();
        prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
        prop_assert_eq!(text.parse::<Sequencer>(), Ok(s));
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".*") {
        let _ = text.parse::<Sequencer>();
        let _ = Claim::decode(text.as_bytes());
        let _ = SessionRecord::decode(text.as_bytes());
    }
}

/// Even at the end of its patience with each member, a client gets a second answer
/// before the deadline.
#[test]
fn several_renewals_fit_before_the_deadline() {
    for ttl_ms in [1_000, 3_000, 6_000, 12_000, 60_000] {
        let clock = SessionClock::new(0, ttl_ms, 0);
        let tries = (clock.deadline_ms() - clock.renew_at_ms()) / clock.attempt_ms();
        assert!(tries >= 2, "{ttl_ms}: {tries}");
    }
}

#[test]
fn a_queue_is_read_on_behind_the_keys_of_other_locks() {
    let next = |key: &[u8]| behind(b"big", key).to_vec();
    assert_eq!(next(b"big/1f"), b"big/1f\0");
    assert_eq!(next(b"big/other/1f"), b"big/other0");
    assert_eq!(next(b"big/other/deep/1f"), b"big/other0");
    assert!(is_contender(b"big", b"big/1f") && !is_contender(b"big", b"big/other/1f"));
    // Nothing of the queue stands between: a name may go on with any byte.
    assert!(b"big/other/\xff"[..] < b"big/other0"[..]);
}

#[test]
fn what_is_synods_own_is_told_from_what_is_its_clients() {
    let range = |key: &str, end: &str| KeyRange {
        key: Bytes::copy_from_slice(key.as_bytes()),
        end: Bytes::copy_from_slice(end.as_bytes()),
    };
    let services = ["synod/service/web/a", "synod/handover/web", "synod/silence/", "synod/report/"];
    let locks = ["synod/office/web/1f", "synod/session/", "synod/claim/1/x", "synod/candidate/x/1"];
    for own in locks.iter().chain(&services) {
        assert_eq!(touches(&range(own, "")), Touches::Own, "{own}");
        assert_eq!(touches(&range(own, "\0")), Touches::Own, "{own}");
    }
    for theirs in ["synod/office", "jobs/1f", "synod/file/x", "synod/other"] {
        assert_eq!(touches(&range(theirs, "")), Touches::Theirs, "{theirs}");
    }
    for (key, end) in [("a", "synod/office/x"), ("synod/", "synod0"), ("\0", "\0"), ("a", "\0")] {
        assert_eq!(touches(&range(key, end)), Touches::Both, "{key:?} to {end:?}");
    }
    for (key, end) in [("a", "synod"), ("synod0", "\0"), ("synod/other/", "synod/other0")] {
        assert_eq!(touches(&range(key, end)), Touches::Theirs, "{key:?} to {end:?}");
    }
}
