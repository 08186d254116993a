//! The binary: commands, configuration, wiring. What a command does stands in
//! its module; what a node is stands in the crates below.

mod bench;
mod client;
mod etcd;
mod journal;
mod node;
mod progress;
mod settings;
mod snapshot;
mod up;

/// The system's allocator spends a tenth of a loaded node's time; see
/// `docs/decisions/0002-dependencies.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Coordination of distributed systems in one binary.
#[derive(Parser)]
#[command(name = "synod", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine, each node a process of its own
    Up(up::UpArgs),
    /// Put load on any etcd endpoint and measure it
    Bench(bench::BenchArgs),
    /// Run one node of a cluster, with etcd's flags and ETCD_* variables
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Etcd {
        /// As etcd takes them; --help lists what becomes of each
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Look at a node's journal
    Journal(journal::JournalArgs),
    /// Save, look at and restore the state
    Snapshot(snapshot::SnapshotArgs),
    #[command(flatten)]
    Client(client::ClientCommand),
    /// Run one node of a cluster
    Server(Box<settings::ServerArgs>),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(args) => up::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Etcd { flags } => etcd::run(&flags),
        Command::Journal(args) => journal::run(&args),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Client(command) => command.run(),
        Command::Server(args) => node::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("synod: {e}");
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, in words for the person who typed the command.
pub(crate) type Outcome<T = ()> = Result<T, String>;
