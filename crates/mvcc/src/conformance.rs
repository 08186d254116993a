//! What every [`Store`] must do, as checks to run against it.
//!
//! A store's tests hand over a [`Bench`]; [`run`] panics where the store is wrong.

use crate::store::{Batch, Read, Space, Store};
use bytes::Bytes;
use std::collections::BTreeMap;
use synod_base::Rng;

/// How to get at a store under test.
pub trait Bench {
    /// The store.
    type Store: Store;

    /// A new, empty one; earlier ones are given up.
    fn create(&mut self) -> Self::Store;

    /// Loses what was not synced and opens the rest anew, as after a crash.
    fn crash(&mut self, store: Self::Store) -> Self::Store;
}

type Model = BTreeMap<(Space, Bytes), Bytes>;

/// Runs all checks.
pub fn run(bench: &mut impl Bench) {
    reads_what_was_committed(bench);
    is_asked_for_long_keys(bench);
    keeps_views(bench);
    survives_crashes(bench);
    syncs_beside_commits(bench);
    stages(bench);
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key{n:05}"))
}

/// A batch of random changes, applied to the model as well.
fn change(rng: &mut Rng, model: &mut Model) -> Batch {
    let mut ops = BTreeMap::new();
    for _ in 0..rng.between(1, 20) {
        let space = Space::ALL[rng.below(6) as usize];
        let value = (!rng.one_in(3)).then(|| Bytes::from(vec![rng.next_u64() as u8; 40]));
        ops.insert((space, key(rng.below(200))), value);
    }
    let mut batch = Batch::default();
    for ((space, key), value) in ops {
        match &value {
            Some(value) => model.insert((space, key.clone()), value.clone()),
            None => model.remove(&(space, key.clone())),
        };
        batch.ops.push((space, key, value));
    }
    batch
}

/// Keys beyond what is ever put are not there, and bound as they sort.
fn is_asked_for_long_keys(bench: &mut impl Bench) {
    let mut store = bench.create();
    let longest = Bytes::from(vec![b'm'; 2 * crate::KEY_BYTES_MAX + 20]);
    let mut batch = Batch::default();
    for key in [Bytes::from("a"), longest.clone(), Bytes::from("z")] {
        batch.ops.push((Space::Latest, key, Some(Bytes::from("v"))));
    }
    store.commit(batch).expect("committed");
    // From memory, and from disk.
    for _ in 0..2 {
        let view = store.view();
        let all = |from: &[u8], to: Option<&[u8]>, reverse| {
            let found = view.scan(Space::Latest, from, to, reverse);
            found.map(|item| item.expect("a scan works").0[0]).collect::<Vec<u8>>()
        };
        for len in [65_533, 65_534, 65_535, 65_536, 200_000] {
            let long = vec![b'm'; len];
            assert_eq!(view.get(Space::Latest, &long), Ok(None), "{len}");
            assert_eq!(all(&long, None, false), b"z");
            assert_eq!(all(&long, Some(b"zz"), true), b"z");
            assert_eq!(all(b"a", Some(&long), false), b"am");
            assert_eq!(all(b"a", Some(&long), true), b"ma");
            assert_eq!(all(&long, Some(&long), false), b"");
        }
        assert_eq!(view.get(Space::Latest, &longest), Ok(Some(Bytes::from("v"))));
        drop(view);
        store.sync().expect("synced");
        store = bench.crash(store);
    }
}

fn content(view: &impl Read) -> Model {
    let mut all = Model::new();
    for space in Space::ALL {
        for item in view.scan(space, &[], None, false) {
            let (key, value) = item.expect("a scan works");
            all.insert((space, key), value);
        }
    }
    all
}

fn check_ranges(view: &impl Read, model: &Model, rng: &mut Rng) {
    for space in Space::ALL {
        let (from, to) = (key(rng.below(200)), rng.one_in(2).then(|| key(rng.below(200))));
        let inside = |k: &Bytes| *k >= from && to.as_ref().is_none_or(|to| k < to);
        let wanted = model.iter().filter(|((s, k), _)| *s == space && inside(k));
        let wanted: Vec<_> = wanted.map(|((_, k), v)| (k.clone(), v.clone())).collect();
        let scan = |reverse| {
            let items = view.scan(space, &from, to.as_deref(), reverse);
            items.map(|item| item.expect("a scan works")).collect::<Vec<_>>()
        };
        assert_eq!(scan(false), wanted, "{space:?} {from:?}..{to:?}");
        let mut backwards = scan(true);
        backwards.reverse();
        assert_eq!(backwards, wanted, "{space:?} {from:?}..{to:?} backwards");
        let count = view.count(space, &from, to.as_deref()).expect("a count works");
        assert_eq!(count, wanted.len() as u64);
        assert_eq!(
            view.get(space, &from).expect("a get works"),
            model.get(&(space, from.clone())).cloned()
        );
    }
}

fn reads_what_was_committed(bench: &mut impl Bench) {
    let mut store = bench.create();
    let (mut model, mut rng) = (Model::new(), Rng::new(1));
    for round in 0..200 {
        store.commit(change(&mut rng, &mut model)).expect("a commit works");
        check_ranges(&store.view(), &model, &mut rng);
        if round % 50 == 49 {
            store.sync().expect("a sync works");
        }
    }
    assert_eq!(content(&store.view()), model);
}

fn keeps_views(bench: &mut impl Bench) {
    let mut store = bench.create();
    let (mut model, mut rng) = (Model::new(), Rng::new(2));
    let mut pinned = Vec::new();
    for round in 0..120 {
        if round % 7 == 0 {
            pinned.push((store.view(), model.clone()));
        }
        if round % 31 == 0 && pinned.len() > 2 {
            pinned.remove(1);
        }
        store.commit(change(&mut rng, &mut model)).expect("a commit works");
        if round % 20 == 0 {
            store.sync().expect("a sync works");
        }
        for (view, then) in &pinned {
            check_ranges(view, then, &mut rng);
        }
    }
    let (view, then) = pinned.swap_remove(0);
    let clone = view.clone();
    drop((view, pinned));
    let elsewhere = std::thread::spawn(move || content(&clone));
    assert_eq!(elsewhere.join().expect("the other thread reads"), then);
}

fn survives_crashes(bench: &mut impl Bench) {
    let mut store = bench.create();
    let mut rng = Rng::new(3);
    // What it may hold after a crash: everything from the last sync on.
    let mut possible = vec![Model::new()];
    for _ in 0..12 {
        for _ in 0..rng.below(30) {
            let mut model = possible.last().expect("one is possible").clone();
            store.commit(change(&mut rng, &mut model)).expect("a commit works");
            possible.push(model);
            if rng.one_in(12) {
                store.sync().expect("a sync works");
                possible.drain(..possible.len() - 1);
            }
        }
        store = bench.crash(store);
        let found = content(&store.view());
        assert!(possible.contains(&found), "after a crash the content is none that was committed");
        possible = vec![found];
    }
}

fn syncs_beside_commits(bench: &mut impl Bench) {
    let mut store = bench.create();
    let (mut model, mut rng) = (Model::new(), Rng::new(4));
    for _ in 0..20 {
        store.commit(change(&mut rng, &mut model)).expect("a commit works");
    }
    let synced = model.clone();
    let mut possible = vec![synced];
    let sync = std::thread::spawn(store.syncer());
    for _ in 0..20 {
        store.commit(change(&mut rng, &mut model)).expect("a commit works");
        possible.push(model.clone());
    }
    sync.join().expect("the syncer runs").expect("a sync works");
    let store = bench.crash(store);
    assert!(possible.contains(&content(&store.view())));
}

fn staged(model: &Model) -> Vec<(Space, Bytes, Bytes)> {
    model.iter().map(|((space, key), value)| (*space, key.clone(), value.clone())).collect()
}

fn stages(bench: &mut impl Bench) {
    let mut store = bench.create();
    let (mut old, mut new, mut rng) = (Model::new(), Model::new(), Rng::new(5));
    for _ in 0..30 {
        store.commit(change(&mut rng, &mut old)).expect("a commit works");
        change(&mut rng, &mut new);
    }
    assert!(store.stage_put(Vec::new()).is_err(), "staging was not begun");
    assert!(store.stage_swap().is_err(), "staging was not begun");
    let pinned = store.view();
    // Given up.
    store.stage_begin().expect("staging begins");
    store.stage_put(staged(&new)).expect("staging takes pairs");
    store.stage_abort().expect("staging ends");
    assert_eq!(content(&store.view()), old);
    // Begun, then a crash.
    store.sync().expect("a sync works");
    store.stage_begin().expect("staging begins");
    store.stage_put(staged(&new)).expect("staging takes pairs");
    assert_eq!(content(&store.view()), old);
    drop(pinned);
    store = bench.crash(store);
    assert_eq!(content(&store.view()), old);
    // Carried through; commits before the swap go under.
    let pinned = store.view();
    store.stage_begin().expect("staging begins");
    for piece in staged(&new).chunks(17) {
        store.stage_put(piece.to_vec()).expect("staging takes pairs");
        store.commit(change(&mut rng, &mut Model::new())).expect("a commit works");
    }
    store.stage_swap().expect("the swap works");
    assert_eq!(content(&store.view()), new);
    assert_eq!(content(&pinned), old, "a view outlives the swap");
    drop(pinned);
    store = bench.crash(store);
    assert_eq!(content(&store.view()), new, "the swap is durable");
    store.commit(change(&mut rng, &mut new)).expect("a commit works");
    store.sync().expect("a sync works");
    store = bench.crash(store);
    assert_eq!(content(&store.view()), new);
}
