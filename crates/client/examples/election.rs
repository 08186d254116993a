//! Two candidates for one office: the better one leads, writes by its sequencer, and
//! makes room.
//!
//! `cargo run -p synod-client --example election -- 127.0.0.1:2379`

use std::time::Duration;
use synod_client::{Candidacy, Client, Error, SessionOptions, Stop};

/// What this shows, on the cluster with these members.
pub async fn show(endpoints: &[String]) -> Result<(), Error> {
    let client = Client::connect(endpoints).await?;
    let small = client.open_session(SessionOptions::named("small")).await?;
    let large = client.open_session(SessionOptions::named("large")).await?;

    let candidacy = Candidacy { owner: "small".into(), ..Candidacy::default() };
    let candidate = small.stand("boss", candidacy).await?;
    let leader = candidate.campaign().await?;
    leader.proclaim("the small one leads").await?;
    client.put_fenced("decision", "1", leader.sequencer()).await?;

    // A better one asks for the office. Who leads looks for that, and for its deadline,
    // beside its work; the margin is what it takes to stop.
    let candidacy =
        Candidacy { owner: "large".into(), priority: 5, preempts: true, ..Candidacy::default() };
    let better = large.stand("boss", candidacy).await?;
    let why = leader.must_stop(Duration::from_secs(1)).await;
    assert_eq!(why, Stop::Outranked("large".into()));
    let token = leader.token();
    let late = leader.sequencer().clone();
    leader.resign().await?;

    let leader = better.campaign().await?;
    assert!(leader.token() > token);
    let stale = client.put_fenced("decision", "2", &late).await;
    assert!(matches!(stale, Err(Error::Stale(_))), "{stale:?}");
    leader.resign().await
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
