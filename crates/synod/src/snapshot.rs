//! `synod snapshot`: save a running cluster's state, look at it, restore it.
//!
//! A file is what the Snapshot call streams: the export format, zeros up to a
//! multiple of 512 bytes less eight, the format's length (u64, little-endian),
//! and the SHA-256 of all before. A restore never rewinds what clients have seen:
//! the revision moves up and the past counts as compacted. Files of etcd's are told
//! apart, and not read.

use crate::Outcome;
use crate::client::{Connect, Format, words};
use crate::settings::Settings;
use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use synod_consensus::Protocol;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_host::RestoreTarget;
use synod_mvcc::{SnapshotHead, SnapshotReader, Space};

/// Arguments of `synod snapshot`.
#[derive(Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Write the state of a running cluster to a file
    Save {
        /// The file, made anew
        file: PathBuf,
        #[command(flatten)]
        connect: Connect,
    },
    /// Check a file and tell what it holds
    Status {
        /// The file
        file: PathBuf,
        /// How to print the answer
        #[arg(long, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Make a data directory of a new cluster from a file
    Restore(RestoreArgs),
}

#[derive(Args)]
struct RestoreArgs {
    /// The file
    file: PathBuf,
    /// The node's data directory; must not hold one yet [default: NAME.synod]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The node's name
    #[arg(long, default_value = "default")]
    name: String,
    /// The members of the new cluster, NAME=URL separated by commas; restore the
    /// same file for each of them [default: this node alone, at http://127.0.0.1:2380]
    #[arg(long)]
    initial_cluster: Option<String>,
    /// Tells apart clusters with equal addresses
    #[arg(long, default_value = "synod-cluster")]
    initial_cluster_token: String,
    /// How the new cell agrees: raft, paxos or zab; need not be what the old one ran
    #[arg(long, env = "SYNOD_PROTOCOL", default_value_t)]
    protocol: Protocol,
    /// How far the revision moves up, so that none that clients may have seen after
    /// the snapshot comes again
    #[arg(long, default_value_t = synod_mvcc::REVISION_BUMP)]
    bump_revision: i64,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What a file was found to hold.
struct Held {
    head: SnapshotHead,
    keys: u64,
    bytes: u64,
    /// In hexadecimal digits, as it stands at the file's end.
    sha256: String,
}

impl Held {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "revision": self.head.revision,
            "compacted": self.head.compacted,
            "applied_index": self.head.applied,
            "term": self.head.term,
            "keys": self.keys,
            "bytes": self.bytes,
            "sha256": self.sha256,
        })
    }
}

/// `synod snapshot`.
pub fn run(args: SnapshotArgs) -> Outcome {
    match args.what {
        What::Save { file, connect } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| format!("cannot start a runtime: {e}"))?;
            runtime.block_on(save(&file, &connect))
        }
        What::Status { file, output } => {
            status(&read(&file, |_| Ok(()))?, output);
            Ok(())
        }
        What::Restore(args) => restore(&args),
    }
}

fn status(held: &Held, output: Format) {
    let Held { head, keys, bytes, sha256 } = held;
    match output {
        Format::Json => println!("{}", held.json()),
        Format::Text => println!(
            "revision {}, compacted {}, keys {keys}, bytes {bytes}, applied index {} of term {}, \
             SHA-256 {sha256}",
            head.revision, head.compacted, head.applied, head.term
        ),
    }
}

async fn save(path: &Path, connect: &Connect) -> Outcome {
    let mut client =
        MaintenanceClient::new(connect.open().await?).max_decoding_message_size(usize::MAX);
    let part = path.with_extension("part");
    let mut file = File::create(&part).map_err(|e| format!("{}: {e}", part.display()))?;
    let answer = client.snapshot(pb::SnapshotRequest {}).await.map_err(|e| words(&e))?;
    let mut pieces = answer.into_inner();
    let mut done = 0u64;
    let bar = crate::progress::Progress::new("saving");
    while let Some(piece) = pieces.message().await.map_err(|e| words(&e))? {
        file.write_all(&piece.blob).map_err(|e| format!("{}: {e}", part.display()))?;
        done += piece.blob.len() as u64;
        bar.show(done, done + piece.remaining_bytes);
    }
    bar.end();
    file.sync_all().map_err(|e| format!("{}: {e}", part.display()))?;
    let held = read(&part, |_| Ok(()))?;
    std::fs::rename(&part, path).map_err(|e| format!("{}: {e}", path.display()))?;
    if connect.json() {
        let mut json = held.json();
        json["file"] = path.display().to_string().into();
        println!("{json}");
    } else {
        println!("saved {} ({done} bytes)", path.display());
    }
    Ok(())
}

/// What somebody is told who brings a file of etcd's.
const ETCDS: &str = "this is etcd's database, which Synod does not read. Copy the keys over while \
                     both run, with `etcdctl --endpoints ETCD make-mirror SYNOD` for instance (it \
                     leaves leases behind)";

type Pairs = Vec<(synod_mvcc::Space, bytes::Bytes, bytes::Bytes)>;

/// Checks the file and hands on what it holds.
fn read(path: &Path, mut take: impl FnMut(Pairs) -> Outcome) -> Outcome<Held> {
    let bad = |why: &str| format!("{}: not a whole snapshot: {why}", path.display());
    let io = |e: std::io::Error| format!("{}: {e}", path.display());
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if is_etcds(path).map_err(io)? {
        return Err(format!("{}: {ETCDS}", path.display()));
    }
    if bytes < 512 + 32 || bytes % 512 != 32 {
        return Err(bad("its size is not that of a file saved from Synod"));
    }
    let (mut left, sha256) = check_sum(path, bytes)?;
    let mut file = File::open(path).map_err(io)?;
    let (mut reader, mut keys) = (SnapshotReader::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    while left > 0 {
        let n = file.read(&mut buffer[..(1usize << 20).min(left as usize)]).map_err(io)?;
        if n == 0 {
            return Err(bad("its stated length is beyond its end"));
        }
        let pairs = reader.feed(&buffer[..n]).map_err(|e| bad(&e.to_string()))?;
        keys += pairs.iter().filter(|(space, _, _)| *space == Space::Latest).count() as u64;
        take(pairs)?;
        left -= n as u64;
    }
    let head = reader.finish().map_err(|e| bad(&e.to_string()))?;
    Ok(Held { head, keys, bytes, sha256 })
}

/// Whether it is a file of bbolt, etcd's database. The first of its pages that describe
/// the whole has this number behind the head of 16 bytes that every page has.
fn is_etcds(path: &Path) -> std::io::Result<bool> {
    const BBOLT: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
    let mut begin = Vec::new();
    File::open(path)?.take(20).read_to_end(&mut begin)?;
    Ok(begin.get(16..) == Some(&BBOLT[..]))
}

/// Compares the file's hash with the one at its end; gives the length that is stated
/// before that, and the hash.
fn check_sum(path: &Path, bytes: u64) -> Outcome<(u64, String)> {
    let bad = |why: &str| format!("{}: not a whole snapshot: {why}", path.display());
    let io = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut file = File::open(path).map_err(io)?;
    let (mut hash, mut left) = (Sha256::new(), bytes - 32);
    let mut buffer = vec![0; 1 << 20];
    let mut tail = [0u8; 8];
    while left > 0 {
        let n = file.read(&mut buffer[..(1usize << 20).min(left as usize)]).map_err(io)?;
        if n == 0 {
            return Err(bad("it ends early"));
        }
        hash.update(&buffer[..n]);
        left -= n as u64;
        let keep = n.min(8);
        tail.rotate_left(keep);
        tail[8 - keep..].copy_from_slice(&buffer[n - keep..n]);
    }
    let mut stored = [0u8; 32];
    file.read_exact(&mut stored).map_err(io)?;
    if hash.finalize()[..] != stored {
        return Err(bad("its SHA-256 does not hold"));
    }
    let digits = stored.iter().map(|b| format!("{b:02x}")).collect();
    Ok((u64::from_le_bytes(tail), digits))
}

fn restore(args: &RestoreArgs) -> Outcome {
    read(&args.file, |_| Ok(()))?;
    // What is not given is as `synod server` has it.
    let mut settings = Settings { name: args.name.clone(), ..Settings::default() };
    settings.data_dir = args.data_dir.clone().unwrap_or_default();
    settings.initial_cluster = args.initial_cluster.clone().unwrap_or_default();
    settings.complete();
    let Settings { name, data_dir, initial_cluster: cluster, .. } = &settings;
    let (members, token) = (crate::settings::members(cluster)?, &args.initial_cluster_token);
    let mut target = RestoreTarget::create(data_dir, name, &members, token, args.protocol)
        .map_err(|e| e.to_string())?;
    let held = read(&args.file, |pairs| target.put(pairs).map_err(|e| e.to_string()))?;
    let revision = target.finish(args.bump_revision).map_err(|e| e.to_string())?;
    let dir = data_dir.display();
    match args.output {
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "data_dir": dir.to_string(),
                "name": name,
                "initial_cluster": cluster,
                "revision": revision,
                "keys": held.keys,
            })
        ),
        Format::Text => println!(
            "restored into {dir} at revision {revision}; start it with --name {name} \
             --initial-cluster {cluster}"
        ),
    }
    Ok(())
}
