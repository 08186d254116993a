//! Many sessions and locks through the loss of the server's leader.

mod common;

use common::Cluster;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_client::{Client, Error, Lock, LockOptions, Session, SessionOptions, Wait};
use tokio::task::JoinSet;

const SESSIONS: usize = 1_000;
const LOCKS_EACH: usize = 10;
/// All at once would only measure the queue before the servers.
const AT_A_TIME: usize = 100;
const CLIENTS: usize = 12;

struct Holder {
    session: Session,
    locks: Vec<Lock>,
}

fn name(holder: usize, lock: usize) -> String {
    format!("lock-{holder}-{lock}")
}

async fn hold(client: Client, number: usize) -> Holder {
    let options = SessionOptions::named(&format!("holder-{number}"));
    let session = client.open_session(options).await.expect("a session");
    let mut locks = Vec::new();
    for lock in 0..LOCKS_EACH {
        locks.push(session.lock(&name(number, lock)).await.expect("free"));
    }
    Holder { session, locks }
}

/// Runs one task for each number, some at a time; what they give, in no order.
async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    count: usize,
    task: impl Fn(usize) -> F,
) -> Vec<T> {
    let (mut set, mut done) = (JoinSet::new(), Vec::new());
    for number in 0..count {
        if set.len() >= AT_A_TIME {
            done.push(set.join_next().await.expect("a task").expect("its end"));
        }
        set.spawn(task(number));
    }
    while let Some(one) = set.join_next().await {
        done.push(one.expect("its end"));
    }
    done
}

/// 1,000 sessions hold 10,000 locks when the leader is killed: every session can write
/// by its locks within two seconds, every lock is still its holder's, and nobody else
/// can take one.
#[test]
fn ten_thousand_locks_outlive_the_leader() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("one");
    let clients: Vec<Client> = runtime.block_on(async {
        let at = |i: usize| {
            // Each begins at another member, and knows them all.
            let turned: Vec<String> = (0..3).map(|k| cluster.endpoint((i + k) % 3)).collect();
            async move { Client::connect(turned).await.expect("endpoints") }
        };
        let mut clients = Vec::new();
        for i in 0..CLIENTS {
            clients.push(at(i).await);
        }
        clients
    });
    let client = |i: usize| clients[i % CLIENTS].clone();
    let begun = Instant::now();
    let holders = runtime.block_on(all(SESSIONS, |i| hold(client(i), i)));
    println!("{SESSIONS} sessions took {LOCKS_EACH} locks each in {:?}", begun.elapsed());

    cluster.kill(leader);
    let killed = Instant::now();
    let sequencer = |i: usize| holders[i].locks[0].sequencer().clone();
    let wrote = runtime.block_on(all(SESSIONS, |i| {
        let (client, sequencer) = (client(i), sequencer(i));
        async move {
            // A write whose end is not known is made again: it is the same one.
            loop {
                match client.put_fenced("last-writer", format!("{i}"), &sequencer).await {
                    Ok(_) => return killed.elapsed(),
                    Err(Error::Unavailable(_)) => {
                        tokio::time::sleep(Duration::from_millis(20)).await
                    }
                    Err(e) => panic!("{sequencer}: {e}"),
                }
            }
        }
    }));
    let (first, last) = (wrote.iter().min().expect("some"), wrote.iter().max().expect("some"));
    println!("after the kill the first session wrote within {first:?}, the last within {last:?}");
    assert!(*last < Duration::from_secs(2), "{last:?}");

    // None is lost, none doubled.
    assert!(holders.iter().all(|h| h.session.is_safe()));
    let tokens: BTreeSet<i64> = holders.iter().flat_map(|h| &h.locks).map(Lock::token).collect();
    assert_eq!(tokens.len(), SESSIONS * LOCKS_EACH);
    let sequencers: Vec<_> =
        holders.iter().flat_map(|h| &h.locks).map(|l| l.sequencer().clone()).collect();
    let good = runtime.block_on(all(sequencers.len(), |i| {
        let (client, sequencer) = (client(i), sequencers[i].clone());
        async move { client.is_good(&sequencer).await.expect("an answer") }
    }));
    assert!(good.iter().all(|good| *good), "{} are lost", good.iter().filter(|g| !**g).count());
    // Nobody gets any of them beside its holder.
    let thieves =
        runtime.block_on(all(CLIENTS, |i| {
            let client = client(i);
            async move {
                Arc::new(client.open_session(SessionOptions::named("thief")).await.expect("one"))
            }
        }));
    let begun = Instant::now();
    let taken = runtime.block_on(all(SESSIONS, |holder| {
        let thief = thieves[holder % CLIENTS].clone();
        async move {
            for lock in 0..LOCKS_EACH {
                let never = LockOptions { wait: Wait::Never, ..LockOptions::default() };
                let taken = thief.lock_with(&name(holder, lock), never).await.map(|l| l.token());
                assert!(matches!(taken, Err(Error::Held(_))), "{holder} {lock}: {taken:?}");
            }
        }
    }));
    println!("{} locks were asked for in vain in {:?}", taken.len() * LOCKS_EACH, begun.elapsed());
    assert!(holders.iter().all(|h| h.session.is_safe()));
    // Sessions and locks are given up on this runtime.
    runtime.block_on(async { drop((holders, thieves)) });
}
