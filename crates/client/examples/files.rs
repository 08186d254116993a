//! Configuration in a small file, read by many through their caches, changed by one.
//!
//! `cargo run -p synod-client --example files -- 127.0.0.1:2379`

use synod_client::{Client, Error, Expect, FileEventKind, SessionOptions, SetOptions};

/// What this shows, on the cluster with these members.
pub async fn show(endpoints: &[String]) -> Result<(), Error> {
    let client = Client::connect(endpoints).await?;
    let reader = client.open_session(SessionOptions::named("reader")).await?;
    let writer = client.open_session(SessionOptions::named("writer")).await?;
    let (cached, files) = (reader.files(), writer.files());

    // There is no such file: that too is remembered.
    assert_eq!(cached.get("service/config").await?, None);
    let options = SetOptions { parents: true, ..SetOptions::default() };
    let first = files.set_with("service/config", "replicas = 3", options).await?;

    // The write has waited until the reader forgot what it knew.
    for _ in 0..1_000 {
        let config = cached.get("service/config").await?;
        assert_eq!(config.expect("it was written").contents, "replicas = 3");
    }
    let counted = cached.stats();
    println!("{} of {} reads cost no call", counted.hits, counted.hits + counted.misses);

    // Only if nobody has changed it since.
    let mut events = files.events("service/config");
    assert_eq!(events.next().await?.kind(), FileEventKind::Begun);
    let options = SetOptions { expect: Expect::Generation(first), ..SetOptions::default() };
    files.set_with("service/config", "replicas = 5", options.clone()).await?;
    let late = files.set_with("service/config", "replicas = 7", options).await;
    assert!(matches!(late, Err(Error::Changed(_))), "{late:?}");
    assert_eq!(events.next().await?.kind(), FileEventKind::Changed);
    let config = cached.get("service/config").await?;
    assert_eq!(config.expect("it was written").contents, "replicas = 5");

    // A file that ends with its session says who is there.
    let options = SetOptions { ephemeral: true, parents: true, ..SetOptions::default() };
    files.set_with("service/instances/a", "10.0.0.1:80", options).await?;
    let names: Vec<String> =
        cached.list("service/instances").await?.into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["a"]);
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
