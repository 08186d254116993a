//! An instance's record in the cluster: made once for each of its agent's sessions, and
//! written again whenever it changes.

use super::super::words;
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
    let mut namesake = Namesake::default();
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
                let own = now.map(|n| n.0) == before;
                if namesake.lives(now) && !own {
                    return Err(why);
                }
                if !own {
                    tell(plan, &mut said, format!("waits for the end of another: {why}"));
                }
            }
            Err(e) => match in_vain(&e) {
                Some(why) => return Err(why),
                None => tell(plan, &mut said, format!("is not registered yet: {e}")),
            },
        }
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Says it, but not again and again.
fn tell(plan: &Plan, said: &mut String, what: String) {
    if what != *said {
        plan.say(&what);
        *said = what;
    }
}

/// Why it is of no use to try again, if so.
pub(super) fn in_vain(e: &Error) -> Option<String> {
    let Error::Refused(status) = e else { return None };
    match status.code() {
        Code::Unimplemented => Some("this server knows no services: it is not Synod".into()),
        Code::FailedPrecondition | Code::InvalidArgument | Code::OutOfRange => Some(words(status)),
        _ => None,
    }
}

/// The session that is this instance already, as it was seen so far.
#[derive(Default)]
struct Namesake {
    /// The session, and until when it lives.
    seen: Option<(i64, u64)>,
    renewals: u32,
}

impl Namesake {
    /// Whether it is known to live, with what is seen of it now. One renewal may have been
    /// under way when its agent was killed.
    fn lives(&mut self, now: Option<(i64, u64)>) -> bool {
        match (self.seen, now) {
            (_, None) => return false,
            (Some((before, ends)), Some(n)) if before == n.0 => {
                self.renewals += u32::from(ends != n.1);
            }
            _ => self.renewals = 0,
        }
        self.seen = now;
        self.renewals >= 2
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_renewal_is_no_sign_of_life() {
        let mut other = Namesake::default();
        assert!(!other.lives(Some((1, 100))) && !other.lives(Some((1, 100))));
        // It was under way when the agent was killed; nothing comes after it.
        assert!(!other.lives(Some((1, 200))) && !other.lives(None));
        assert!(!other.lives(Some((1, 200))) && other.lives(Some((1, 300))));
        // Another one begins from nothing.
        assert!(!other.lives(Some((2, 400))) && !other.lives(Some((2, 500))));
        assert!(other.lives(Some((2, 600))));
    }

    #[test]
    fn what_will_never_be_granted_is_not_asked_for_again() {
        let refused = |code| in_vain(&Error::Refused(tonic::Status::new(code, "why")));
        assert!(refused(Code::Unimplemented).is_some_and(|w| w.contains("not Synod")));
        assert_eq!(refused(Code::InvalidArgument).as_deref(), Some("why"));
        assert_eq!(refused(Code::OutOfRange).as_deref(), Some("why"));
        assert_eq!(refused(Code::Internal), None);
        assert_eq!(in_vain(&Error::SessionOver), None);
    }
}
