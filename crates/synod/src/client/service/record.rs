//! An instance's record in the cluster: made once for each of its agent's sessions, and
//! written again whenever it changes.

use super::agent::{AFTER_FAILURE, Plan};
use crate::Outcome;
use synod_client::{Client, Error, InstanceRecord, Session};
use tokio::sync::watch;
use tonic::Code;

/// How registering ended.
pub(super) enum Registered {
    /// It is an instance of its service.
    Yes,
    /// The session ended meanwhile.
    Lost,
}

/// Registers the session as the plan's instance. One of the same name whose session
/// nobody renews any more (it was killed, or was this agent's own before) is waited for;
/// one that lives is an error, and so are instances of another mode.
pub(super) async fn register(
    client: &Client,
    plan: &Plan,
    session: &Session,
    before: Option<i64>,
    record: &InstanceRecord,
) -> Outcome<Registered> {
    let mut seen: Option<(i64, u64)> = None;
    let mut said = String::new();
    loop {
        let done = tokio::select! {
            done = client.register(&plan.service, &plan.instance, session.id(), record) => done,
            () = session.over() => return Ok(Registered::Lost),
        };
        match done {
            Ok(()) => return Ok(Registered::Yes),
            Err(Error::SessionOver) => return Ok(Registered::Lost),
            Err(Error::Taken(why)) => {
                let now = other(client, plan).await;
                let renewed = |(s, ends): (i64, u64)| now.is_some_and(|n| n.0 == s && n.1 != ends);
                if seen.is_some_and(renewed) && now.map(|n| n.0) != before {
                    return Err(why);
                }
                seen = now.or(seen);
            }
            Err(Error::Refused(s)) if is_final(s.code()) => {
                return Err(match s.code() {
                    Code::Unimplemented => "this server knows no services: it is not Synod".into(),
                    _ => s.message().to_owned(),
                });
            }
            Err(e) => {
                let why = e.to_string();
                if why != said {
                    plan.say(&format!("is not registered yet: {why}"));
                    said = why;
                }
            }
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Whether it is of no use to try again.
fn is_final(code: Code) -> bool {
    matches!(code, Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented)
}

/// The session that is this instance, and until when it lives; `None`: nothing is known.
async fn other(client: &Client, plan: &Plan) -> Option<(i64, u64)> {
    let all = client.instances(Some(&plan.service)).await.ok()?;
    all.iter().find(|i| i.instance == plan.instance).map(|i| (i.session, i.ends_ms))
}

/// Writes the record whenever it changes, until the session is over or nobody changes
/// it any more.
pub(super) async fn publish(
    client: Client,
    (service, instance): (String, String),
    session: i64,
    mut record: watch::Receiver<InstanceRecord>,
) {
    while record.changed().await.is_ok() {
        loop {
            let value = record.borrow_and_update().clone();
            match client.register(&service, &instance, session, &value).await {
                Ok(()) => break,
                Err(Error::SessionOver) => return,
                // Whatever it is: what the cluster knows of it is wrong meanwhile.
                Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
            }
            if record.has_changed().is_err() {
                return;
            }
        }
    }
}
