//! What an election looks like from outside: who leads, and who stands.

use super::locks::unix_ms;
use super::{Connect, show, show_in_line, words};
use crate::Outcome;
use std::time::Duration;
use synod_client::{Client, Error};
use synod_etcd_proto::mvccpb::KeyValue;
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::v3electionpb;
use synod_etcd_proto::v3electionpb::election_client::ElectionClient;
use tonic::Code;

/// Pause before an election is followed at another member.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Prints who leads whenever that changes, whichever members come and go; or once, with
/// all who stand.
pub(crate) async fn follow(connect: &Connect, client: &Client, name: &str, once: bool) -> Outcome {
    let mut office = client.observe(name);
    let (mut told, mut reached) = (None, false);
    loop {
        let within = Duration::from_secs(connect.timeout);
        let next = office.next();
        let seen = match reached {
            true => next.await,
            false => tokio::time::timeout(within, next).await.unwrap_or_else(|_| {
                Err(Error::Unavailable(format!("no answer within {} s", connect.timeout)))
            }),
        };
        match seen {
            Ok(seen) if once => return print_all(connect, &seen),
            Ok(seen) => {
                reached = true;
                if connect.json() {
                    println!("{}", json(&seen));
                } else if told.as_ref() != Some(&seen.leader) {
                    print_leader(name, seen.leader.as_ref());
                }
                told = Some(seen.leader);
            }
            Err(Error::Refused(s)) if s.code() == Code::Unimplemented => {
                return follow_etcds(connect, name, once).await;
            }
            Err(Error::Unavailable(_)) if reached => tokio::time::sleep(AFTER_FAILURE).await,
            Err(e) => return Err(e.to_string()),
        }
    }
}

fn print_leader(name: &str, leader: Option<&v1::ElectionLeader>) {
    match leader {
        Some(l) => println!("{name}/{:x}\t{}", l.session, show_in_line(&l.value)),
        None => println!("{name}\t-"),
    }
}

fn print_all(connect: &Connect, seen: &v1::ElectionObserveResponse) -> Outcome {
    if connect.json() {
        println!("{}", json(seen));
        return Ok(());
    }
    let now = unix_ms();
    let ago = |since: u64| match since {
        0 => "-".into(),
        since => format!("{} s", now.saturating_sub(since) / 1_000),
    };
    let owner = |owner: &str| match owner {
        "" => "(an etcd client)".to_owned(),
        owner => show_in_line(owner.as_bytes()),
    };
    match &seen.leader {
        Some(l) => println!(
            "leads    {:<24} {:>10} token {}  {}",
            owner(&l.owner),
            ago(l.since_ms),
            l.token,
            show_in_line(&l.value)
        ),
        None => println!("nobody leads"),
    }
    for c in &seen.candidates {
        let health = if c.failing { "failing" } else { "healthy" };
        let preempts = if c.preempts { "  preempts" } else { "" };
        println!(
            "stands   {:<24} {:>10} priority {}  {health}{preempts}",
            owner(&c.owner),
            ago(c.since_ms),
            c.priority
        );
    }
    Ok(())
}

fn json(seen: &v1::ElectionObserveResponse) -> serde_json::Value {
    let leader = seen.leader.as_ref().map(|l| {
        serde_json::json!({
            "session": format!("{:x}", l.session), "token": l.token, "value": show(&l.value),
            "owner": l.owner, "since_ms": l.since_ms,
        })
    });
    let candidate = |c: &v1::ElectionCandidate| {
        serde_json::json!({
            "session": format!("{:x}", c.session), "owner": c.owner, "priority": c.priority,
            "failing": c.failing, "preempts": c.preempts, "since_ms": c.since_ms,
        })
    };
    let candidates: Vec<_> = seen.candidates.iter().map(candidate).collect();
    serde_json::json!({ "leader": leader, "candidates": candidates })
}

/// On a server that has only etcd's elections.
async fn follow_etcds(connect: &Connect, name: &str, once: bool) -> Outcome {
    let mut client = ElectionClient::new(connect.open().await?);
    let request = v3electionpb::LeaderRequest { name: name.to_owned().into() };
    if once {
        match connect.call(client.leader(request)).await {
            Ok(answer) => answer.kv.iter().for_each(|kv| print_etcds(connect, kv)),
            Err(why) if why.contains("no leader") => println!("nobody leads"),
            Err(why) => return Err(why),
        }
        return Ok(());
    }
    let mut seen = client.observe(request).await.map_err(|e| words(&e))?.into_inner();
    while let Some(answer) = seen.message().await.map_err(|e| words(&e))? {
        answer.kv.iter().for_each(|kv| print_etcds(connect, kv));
    }
    Ok(())
}

fn print_etcds(connect: &Connect, kv: &KeyValue) {
    if connect.json() {
        println!("{}", super::kv_json(kv));
    } else {
        println!("{}\t{}", show_in_line(&kv.key), show_in_line(&kv.value));
    }
}
