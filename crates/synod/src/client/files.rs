//! Small files.

use super::leases::parse_id;
use super::{Connect, show};
use crate::Outcome;
use clap::{Args, Subcommand};
use std::io::{Read, Write};
use std::time::Duration;
use synod_client::{Client, Error, FileEvent, FileEventKind, Sequencer};
use synod_etcd_proto::synod::v1;
use synod_etcd_proto::synod::v1::file_client::FileClient;
use tonic::transport::Channel;

/// The longest wait for caches that a server takes, ms.
const WAIT_MS_MAX: u64 = 60_000;

/// Arguments of `synod file`.
#[derive(Args)]
pub struct FileArgs {
    #[command(subcommand)]
    what: FileCommand,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum FileCommand {
    /// Print a file
    Get {
        /// Its path, NAME/NAME/...
        path: String,
        /// What is known of it instead of its contents
        #[arg(long)]
        stat: bool,
    },
    /// Write a file, or make it
    Set(SetArgs),
    /// Delete a file that has none below it
    Del {
        /// Its path
        path: String,
        /// Only if its contents are of this generation
        #[arg(long, default_value_t = 0)]
        generation: i64,
        /// Only while the lock of this sequencer is held
        #[arg(long, value_name = "TOKEN:MODE:SESSION:NAME")]
        sequencer: Option<Sequencer>,
    },
    /// The files below one, or the topmost
    List {
        /// Its path
        #[arg(default_value = "")]
        path: String,
    },
    /// Follow what happens to a file, to those below it and to its lock
    Watch {
        /// Its path
        path: String,
        /// Stop after so many events (0: never)
        #[arg(long, default_value_t = 0)]
        events: u64,
    },
}

#[derive(Args)]
struct SetArgs {
    /// Its path, NAME/NAME/...
    path: String,
    /// Its contents; without them, what comes on standard input
    contents: Option<String>,
    /// Only if there is none yet
    #[arg(long, conflicts_with = "generation")]
    new: bool,
    /// Only if its contents are of this generation
    #[arg(long, default_value_t = 0)]
    generation: i64,
    /// Make the files above it that there are not
    #[arg(long)]
    parents: bool,
    /// Make one that ends with this session (hexadecimal, as `lock` passes it in
    /// SYNOD_SESSION and `session list` prints it)
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Only while the lock of this sequencer is held
    #[arg(long, value_name = "TOKEN:MODE:SESSION:NAME")]
    sequencer: Option<Sequencer>,
}

impl FileArgs {
    pub async fn run(self) -> Outcome {
        if let FileCommand::Watch { path, events } = &self.what {
            return self.watch(path, *events).await;
        }
        let reads = matches!(self.what, FileCommand::Get { .. } | FileCommand::List { .. });
        let within = Duration::from_secs(self.connect.timeout);
        // Of one that reads, finding a member takes no time besides.
        match reads {
            false => self.done().await,
            true => tokio::time::timeout(within, self.done()).await.unwrap_or_else(|_| {
                let seconds = within.as_secs();
                Err(format!("no answer within {seconds} s; has the cluster a quorum?"))
            }),
        }
    }

    async fn done(&self) -> Outcome {
        let files = FileClient::new(self.connect.open().await?).max_decoding_message_size(8 << 20);
        match &self.what {
            FileCommand::Get { path, stat } => self.get(files, path, *stat).await,
            FileCommand::Set(set) => self.set(files, set).await,
            FileCommand::Del { path, generation, sequencer } => {
                let (path, sequencer) = (path.clone(), text(sequencer));
                let (generation, wait_ms) = (*generation, self.wait_ms());
                let delete = v1::FileDeleteRequest { path, generation, sequencer, wait_ms };
                let answer = self.patient().call(written(files, delete)).await?;
                let revision = answer.header.map_or(0, |h| h.revision);
                self.say(serde_json::json!({ "revision": revision }), "deleted".into());
                Ok(())
            }
            FileCommand::List { path } => self.list(files, path).await,
            FileCommand::Watch { .. } => Ok(()),
        }
    }

    /// For how long a write may wait for caches, within what the whole may take.
    fn wait_ms(&self) -> u64 {
        (self.connect.timeout.max(1) * 1_000).min(WAIT_MS_MAX)
    }

    /// The same, with some time more for the answer that says that it was in vain.
    fn patient(&self) -> Connect {
        Connect { timeout: self.connect.timeout + 3, ..self.connect.clone() }
    }

    fn say(&self, json: serde_json::Value, text: String) {
        if self.connect.json() {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }

    async fn get(&self, mut files: FileClient<Channel>, path: &str, stat: bool) -> Outcome {
        let get = v1::FileGetRequest { path: path.into(), cache_for: 0, lock: true };
        let node = self.connect.call(files.get(get)).await?.node;
        let Some(n) = node else { return Err(format!("there is no file {path:?}")) };
        let session = format!("{:x}", n.session);
        let ends = if n.session == 0 { "never".into() } else { format!("with session {session}") };
        if self.connect.json() {
            let session = if n.session == 0 { serde_json::Value::Null } else { session.into() };
            let mut about = serde_json::json!({
                "path": path, "bytes": n.contents.len(), "instance": n.instance,
                "generation": n.generation, "lock_generation": n.lock_generation,
                "acl_generation": n.acl_generation, "writes": n.writes,
                "checksum": format!("{:08x}", n.checksum), "session": session,
            });
            if !stat {
                about["contents"] = show(&n.contents).into();
            }
            println!("{about}");
        } else if stat {
            println!("bytes            {}", n.contents.len());
            println!("generation       {} (written {} times)", n.generation, n.writes);
            println!("instance         {}", n.instance);
            println!("lock generation  {}", n.lock_generation);
            println!("ACL generation   {} (there are no access lists yet)", n.acl_generation);
            println!("checksum         {:08x}", n.checksum);
            println!("ends             {ends}");
        } else {
            let mut out = std::io::stdout().lock();
            let done = out.write_all(&n.contents).and_then(|()| {
                // A file that ends in the middle of a line is shown with its end.
                if n.contents.ends_with(b"\n") { Ok(()) } else { out.write_all(b"\n") }
            });
            done.map_err(|e| format!("cannot print it: {e}"))?;
        }
        Ok(())
    }

    async fn set(&self, mut files: FileClient<Channel>, args: &SetArgs) -> Outcome {
        let contents = match &args.contents {
            Some(text) => text.clone().into_bytes(),
            None => {
                let mut all = Vec::new();
                let read = std::io::stdin().lock().read_to_end(&mut all);
                read.map_err(|e| format!("cannot read standard input: {e}"))?;
                all
            }
        };
        let set = v1::FileSetRequest {
            path: args.path.clone(),
            contents: contents.into(),
            absent: args.new,
            generation: args.generation,
            session: args.session.as_deref().map_or(Ok(0), parse_id)?,
            sequencer: text(&args.sequencer),
            parents: args.parents,
            wait_ms: self.wait_ms(),
        };
        let answer = self.patient().call(files.set(set)).await?;
        let (generation, created) = (answer.generation, answer.created);
        let json = serde_json::json!({ "generation": generation, "created": created });
        self.say(json, format!("generation {generation}"));
        Ok(())
    }

    async fn list(&self, mut files: FileClient<Channel>, path: &str) -> Outcome {
        let list = v1::FileListRequest { path: path.into(), cache_for: 0 };
        for child in self.connect.call(files.list(list)).await?.children {
            let session = match child.session {
                0 => serde_json::Value::Null,
                session => format!("{session:x}").into(),
            };
            let json = serde_json::json!({
                "name": child.name, "instance": child.instance, "session": session,
            });
            self.say(json, child.name);
        }
        Ok(())
    }

    /// Follows it, whichever members come and go.
    async fn watch(&self, path: &str, most: u64) -> Outcome {
        let client = Client::connect(&self.connect.endpoints).await.map_err(|e| e.to_string())?;
        let mut events = client.file_events(path);
        let mut seen = 0;
        loop {
            match events.next().await {
                Ok(event) => self.tell(&event),
                // It was there: it comes back.
                Err(Error::Unavailable(_)) if seen > 0 => continue,
                Err(e) => return Err(e.to_string()),
            }
            seen += 1;
            if most > 0 && seen >= most {
                return Ok(());
            }
        }
    }

    fn tell(&self, e: &FileEvent) {
        let revision = e.header.map_or(0, |h| h.revision);
        let kind = name_of(e.kind());
        let about = match e.kind() {
            FileEventKind::LockAcquired => {
                format!("{} {}", show(e.owner.as_bytes()), e.sequencer)
            }
            FileEventKind::LockConflict => show(e.owner.as_bytes()),
            FileEventKind::FailedOver => String::new(),
            _ if e.generation == 0 => e.name.clone(),
            _ => format!("{} generation {}", e.name, e.generation),
        };
        let json = serde_json::json!({
            "revision": revision, "event": kind, "name": e.name, "generation": e.generation,
            "sequencer": e.sequencer, "owner": e.owner,
        });
        self.say(json, format!("{revision} {kind} {}", about.trim()).trim().to_owned());
    }
}

async fn written(
    mut files: FileClient<Channel>,
    delete: v1::FileDeleteRequest,
) -> Result<tonic::Response<v1::FileDeleteResponse>, tonic::Status> {
    files.delete(delete).await
}

fn text(sequencer: &Option<Sequencer>) -> String {
    sequencer.as_ref().map_or(String::new(), |s| s.to_string())
}

fn name_of(kind: FileEventKind) -> &'static str {
    match kind {
        FileEventKind::Unspecified => "unknown",
        FileEventKind::Begun => "begun",
        FileEventKind::Created => "created",
        FileEventKind::Changed => "changed",
        FileEventKind::Deleted => "deleted",
        FileEventKind::ChildAdded => "child-added",
        FileEventKind::ChildChanged => "child-changed",
        FileEventKind::ChildRemoved => "child-removed",
        FileEventKind::LockAcquired => "lock-acquired",
        FileEventKind::LockConflict => "lock-conflict",
        FileEventKind::FailedOver => "failed-over",
    }
}
