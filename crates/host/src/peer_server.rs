//! The door for peers: streams of messages, and the few questions of a member
//! that starts.

use crate::bootstrap::{Config, StartError};
use crate::core_loop::ToCore;
use crate::handle::Handle;
use crate::transport::{read_stream, tune};
use crate::wire::{Answer, MAGIC, Opening, PeerInfo, read_json, write_json};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use synod_base::NodeId;
use synod_cell::Work;
use synod_consensus::Change;
use synod_mvcc::{Command, MemberInfo};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

const OPENING_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks whether a peer is still a member.
const LOOK_AGAIN: Duration = Duration::from_millis(1_000);

/// Listens from the start; answers "fresh" until there is a member behind it.
pub(crate) struct PeerServer(Rc<RefCell<Option<Handle>>>);

/// Binds the peer addresses.
pub(crate) async fn listen(config: &Config) -> Result<PeerServer, StartError> {
    let server = PeerServer(Rc::default());
    for address in &config.listen_peers {
        let listener = TcpListener::bind(address).await.map_err(|e| {
            StartError(format!("cannot listen for peers on {address}: {e}; is it in use?"))
        })?;
        tokio::task::spawn_local(accept(listener, server.0.clone()));
    }
    Ok(server)
}

impl PeerServer {
    /// From now on the member answers.
    pub fn serve(&self, handle: Handle) {
        *self.0.borrow_mut() = Some(handle);
    }
}

async fn accept(listener: TcpListener, member: Rc<RefCell<Option<Handle>>>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let handle = member.borrow().clone();
                tokio::task::spawn_local(async move {
                    if let Err(e) = serve(stream, handle).await {
                        tracing::debug!(address = %from, error = %e, "a peer's connection ended");
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "accepting a peer's connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut stream: TcpStream, handle: Option<Handle>) -> io::Result<()> {
    tune(&stream)?;
    let opening = tokio::time::timeout(OPENING_TIMEOUT, read_opening(&mut stream));
    let opening = opening.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let Some(handle) = handle else {
        return write_json(&mut stream, &Answer::Fresh).await;
    };
    match opening {
        Opening::Info => write_json(&mut stream, &info(&handle)).await,
        Opening::Rejoin { cluster, member } => {
            let answer = if cluster == handle.cluster_id() {
                rejoin(&handle, member).await
            } else {
                Answer::Refused { why: "that is another cluster".into() }
            };
            write_json(&mut stream, &answer).await
        }
        Opening::Stream { cluster, from, to } => {
            if cluster != handle.cluster_id() || to != handle.id().0 {
                let why = format!(
                    "this is member {} of cluster {:x}, not {to:x} of {cluster:x}",
                    handle.id(),
                    handle.cluster_id()
                );
                return write_json(&mut stream, &Answer::Refused { why }).await;
            }
            let from = NodeId(from);
            if is_removed(&handle, from) {
                return write_json(&mut stream, &Answer::Removed).await;
            }
            write_json(&mut stream, &Answer::Welcome).await?;
            let (mailbox, metrics) = (handle.0.mailbox.clone(), handle.0.metrics.clone());
            tokio::select! {
                () = read_stream(stream, from, mailbox.clone(), metrics) => {}
                () = until_removed(&handle, from) => mailbox.push(ToCore::Disconnected(from)),
            }
            Ok(())
        }
    }
}

/// Whether that member has no part in the cluster any more. Only a member that
/// follows a leader can tell: one that was cut off may be the one that does not
/// know yet, and the stranger its next leader.
fn is_removed(handle: &Handle, id: NodeId) -> bool {
    let members = handle.published().members().clone();
    let known = members.is_empty()
        || members.contains_key(&id)
        || handle.status().consensus.membership.all().contains(&id);
    !known && handle.leader().is_some_and(|leader| leader != id)
}

/// A removed member must dial anew to be told, so its stream is ended.
async fn until_removed(handle: &Handle, id: NodeId) {
    while !is_removed(handle, id) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    // Long enough for what told it to arrive by itself.
    tokio::time::sleep(LOOK_AGAIN).await;
}

async fn read_opening(stream: &mut TcpStream) -> io::Result<Opening> {
    let mut magic = [0u8; 8];
    stream.read_exact(&mut magic).await?;
    if &magic != MAGIC {
        return Err(io::Error::other("not a peer of this version"));
    }
    read_json(stream).await
}

fn info(handle: &Handle) -> Answer {
    let published = handle.published();
    let learners = handle.status().consensus.membership.learners.clone();
    let members = published.members().values().map(|m| PeerInfo {
        id: m.id.0,
        name: m.name.clone(),
        peer_urls: m.peer_urls.clone(),
        client_urls: m.client_urls.clone(),
        learner: learners.contains(&m.id),
    });
    // A member that joined and has no state yet knows no more than a fresh one.
    let members: Vec<_> = members.collect();
    if members.is_empty() {
        return Answer::Fresh;
    }
    let protocol = handle.protocol().to_string();
    Answer::Info { cluster: handle.cluster_id(), id: handle.id().0, protocol, members }
}

/// Takes a member back that lost its disk: as a learner under its new id. The
/// leader lets it take its former self's place once it is in sync.
async fn rejoin(handle: &Handle, member: PeerInfo) -> Answer {
    let status = handle.status();
    let published = handle.published();
    let twins: Vec<NodeId> = published
        .members()
        .values()
        .filter(|m| m.peer_urls == member.peer_urls && m.id.0 != member.id)
        .map(|m| m.id)
        .collect();
    if twins.is_empty() {
        return Answer::Refused { why: "no member has these peer URLs".into() };
    }
    // Learners among them are earlier attempts to come back.
    let stale = twins.into_iter().filter(|t| status.consensus.membership.learners.contains(t));
    let stale: std::collections::BTreeSet<NodeId> = stale.collect();
    let info = MemberInfo {
        id: NodeId(member.id),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: Vec::new(),
    };
    let mut commands = vec![Command::MemberSet(info).encode()];
    commands.extend(stale.iter().map(|id| Command::MemberRemove(*id).encode()));
    let change = Change {
        add_learners: [NodeId(member.id)].into(),
        remove_learners: stale,
        ..Change::default()
    };
    match handle.propose(Work::Change(change, commands)).await {
        Ok(_) => Answer::Welcome,
        Err(e) => Answer::Refused { why: format!("{e:?}") },
    }
}
