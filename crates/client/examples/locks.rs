//! A lock, shared and alone; writes that only its holder's are taken; and what becomes of
//! a holder that comes late.
//!
//! `cargo run -p synod-client --example locks -- 127.0.0.1:2379`

use std::time::Duration;
use synod_client::{Client, Error, LockOptions, Mode, SessionOptions, Wait};

/// What this shows, on the cluster with these members.
pub async fn show(endpoints: &[String]) -> Result<(), Error> {
    let client = Client::connect(endpoints).await?;
    let first = client.open_session(SessionOptions::named("first")).await?;
    let second = client.open_session(SessionOptions::named("second")).await?;

    let lock = first.lock("jobs/nightly").await?;
    let try_only = LockOptions { wait: Wait::Never, ..LockOptions::default() };
    let refused = second.lock_with("jobs/nightly", try_only).await;
    assert!(matches!(refused.map(|l| l.token()), Err(Error::Held(_))));

    // Before anything that relies on the lock: is the session safe? And the write shows
    // the sequencer, in case that this process stands still right here.
    assert!(first.is_safe());
    client.put_fenced("ledger", "from the first", lock.sequencer()).await?;

    // The first gives it back; the second's token is greater.
    let late = lock.sequencer().clone();
    lock.release().await?;
    let wait =
        LockOptions { wait: Wait::AtMost(Duration::from_secs(10)), ..LockOptions::default() };
    let lock = second.lock_with("jobs/nightly", wait).await?;
    assert!(lock.token() > late.token);

    // Who comes late is refused, and can know it beforehand.
    assert!(!client.is_good(&late).await?);
    let stale = client.put_fenced("ledger", "late", &late).await;
    assert!(matches!(stale, Err(Error::Stale(_))), "{stale:?}");
    assert_eq!(client.get("ledger").await?.as_deref(), Some(&b"from the first"[..]));
    lock.release().await?;

    // Several may share one.
    let shared = || LockOptions { mode: Mode::Shared, ..LockOptions::default() };
    let one = first.lock_with("jobs/report", shared()).await?;
    let other = second.lock_with("jobs/report", shared()).await?;
    assert!(client.is_good(one.sequencer()).await? && client.is_good(other.sequencer()).await?);
    Ok(())
}

#[allow(dead_code)] // the tests call what it shows
#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        endpoints.push("127.0.0.1:2379".into());
    }
    show(&endpoints).await
}
