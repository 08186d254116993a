//! `synod snapshot`: save a running cluster's state, look at it, restore it.
//!
//! A file is what the Snapshot call streams: the export format, zeros up to a
//! multiple of 512 bytes less eight, the format's length (u64, little-endian),
//! and the SHA-256 of all before. A restore never rewinds what clients have seen:
//! the revision moves up and the past counts as compacted.

use crate::Outcome;
use crate::client::{Connect, words};
use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use synod_consensus::Protocol;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use synod_host::RestoreTarget;
use synod_mvcc::{SnapshotHead, SnapshotReader};

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
    },
    /// Make a data directory of a new cluster from a file
    Restore(RestoreArgs),
}

#[derive(Args)]
struct RestoreArgs {
    /// The file
    file: PathBuf,
    /// The node's data directory; must not hold one yet
    #[arg(long)]
    data_dir: PathBuf,
    /// The node's name
    #[arg(long, default_value = "default")]
    name: String,
    /// The members of the new cluster, NAME=URL separated by commas; restore the
    /// same file for each of them
    #[arg(long, default_value = "default=http://127.0.0.1:2380")]
    initial_cluster: String,
    /// Tells apart clusters with equal addresses
    #[arg(long, default_value = "synod-cluster")]
    initial_cluster_token: String,
    /// How the new cell agrees: raft, paxos or zab; need not be what the old one ran
    #[arg(long, default_value_t)]
    protocol: Protocol,
    /// How far the revision moves up, so that none that clients may have seen after
    /// the snapshot comes again
    #[arg(long, default_value_t = synod_mvcc::REVISION_BUMP)]
    bump_revision: i64,
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
        What::Status { file } => {
            let head = read(&file, |_| Ok(()))?;
            println!(
                "revision {}, compacted {}, applied index {} of term {}",
                head.revision, head.compacted, head.applied, head.term
            );
            Ok(())
        }
        What::Restore(args) => restore(&args),
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
    read(&part, |_| Ok(()))?;
    std::fs::rename(&part, path).map_err(|e| format!("{}: {e}", path.display()))?;
    println!("saved {} ({done} bytes)", path.display());
    Ok(())
}

type Pairs = Vec<(synod_mvcc::Space, bytes::Bytes, bytes::Bytes)>;

/// Checks the file and hands on what it holds.
fn read(path: &Path, mut take: impl FnMut(Pairs) -> Outcome) -> Outcome<SnapshotHead> {
    let bad = |why: &str| format!("{}: not a whole snapshot: {why}", path.display());
    let io = |e: std::io::Error| format!("{}: {e}", path.display());
    let length = std::fs::metadata(path).map_err(io)?.len();
    if length < 512 + 32 || length % 512 != 32 {
        return Err(bad("its size is not that of a file saved from Synod"));
    }
    let mut file = File::open(path).map_err(io)?;
    let (mut hash, mut left) = (Sha256::new(), length - 32);
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
    let mut left = u64::from_le_bytes(tail);
    let mut file = File::open(path).map_err(io)?;
    let mut reader = SnapshotReader::new();
    while left > 0 {
        let n = file.read(&mut buffer[..(1usize << 20).min(left as usize)]).map_err(io)?;
        if n == 0 {
            return Err(bad("its stated length is beyond its end"));
        }
        take(reader.feed(&buffer[..n]).map_err(|e| bad(&e.to_string()))?)?;
        left -= n as u64;
    }
    reader.finish().map_err(|e| bad(&e.to_string()))
}

fn restore(args: &RestoreArgs) -> Outcome {
    read(&args.file, |_| Ok(()))?;
    let members = crate::settings::members(&args.initial_cluster)?;
    let (name, token) = (&args.name, &args.initial_cluster_token);
    let mut target = RestoreTarget::create(&args.data_dir, name, &members, token, args.protocol)
        .map_err(|e| e.to_string())?;
    read(&args.file, |pairs| target.put(pairs).map_err(|e| e.to_string()))?;
    let revision = target.finish(args.bump_revision).map_err(|e| e.to_string())?;
    println!(
        "restored into {} at revision {revision}; start it with --name {} --initial-cluster {}",
        args.data_dir.display(),
        args.name,
        args.initial_cluster
    );
    Ok(())
}
