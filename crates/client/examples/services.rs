//! A service of two instances, without Synod's agent: the one that holds the office is
//! active, clients find it, and an operator moves it to the other.
//!
//! `cargo run -p synod-client --example services -- 127.0.0.1:2379`

use std::time::Duration;
use synod_client::{Client, Error, InstanceRecord, Lock, Session, SessionOptions};

/// What an instance says of itself: it is well, and active by this lock if it has one.
async fn say(
    client: &Client,
    name: &str,
    of: &Session,
    office: Option<&Lock>,
) -> Result<(), Error> {
    let record = InstanceRecord {
        address: format!("10.0.0.1:{name}"),
        healthy: Some(true),
        active: office.is_some(),
        token: office.map_or(0, Lock::token),
        ..InstanceRecord::default()
    };
    client.register("shop", name, of.id(), &record).await
}

/// What this shows, on the cluster with these members.
pub async fn show(endpoints: &[String]) -> Result<(), Error> {
    let client = Client::connect(endpoints).await?;
    let one = client.open_session(SessionOptions::named("shop/1")).await?;
    let two = client.open_session(SessionOptions::named("shop/2")).await?;
    say(&client, "1", &one, None).await?;
    say(&client, "2", &two, None).await?;
    // A name is one session's.
    let twice = say(&client, "1", &two, None).await;
    assert!(matches!(twice, Err(Error::Taken(_))), "{twice:?}");

    // Whoever has the office is active.
    let office = one.lock("synod/office/shop").await?;
    say(&client, "1", &one, Some(&office)).await?;
    let active = |all: Vec<synod_client::Instance>| {
        let names = all.into_iter().filter(|i| i.is_active()).map(|i| i.instance);
        names.collect::<Vec<_>>()
    };
    assert_eq!(active(client.instances(Some("shop")).await?), ["1"]);

    // An operator wants the second. The first hears of it, ends what it does, and gives
    // the office back; the second takes it.
    let operator = client.clone();
    let moved =
        tokio::spawn(
            async move { operator.failover("shop", Some("2"), Duration::from_secs(10)).await },
        );
    let token = office.token();
    tokio::time::sleep(Duration::from_millis(200)).await;
    say(&client, "1", &one, None).await?;
    office.release().await?;
    let office = two.lock("synod/office/shop").await?;
    say(&client, "2", &two, Some(&office)).await?;
    let (name, by) = moved.await.expect("the operator's call ends")?;
    assert!(name == "2" && by == office.token() && by > token, "{name} {by}");

    // Who says that it is active, but has lost the office, is not.
    office.release().await?;
    assert!(active(client.instances(None).await?).is_empty());
    let health = client.service_health("shop").await?;
    assert_eq!((health.active, health.healthy, health.instances), (0, 2, 2));
    // With the sessions, the instances end.
    one.close().await?;
    two.close().await?;
    assert!(client.instances(Some("shop")).await?.is_empty());
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
