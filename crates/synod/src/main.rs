//! The binary: commands, configuration, wiring. What a command does stands in
//! its module; what a node is stands in the crates below.

mod bench;
mod client;
mod config;
mod etcd;
mod journal;
mod monitor;
mod node;
mod notify;
mod progress;
mod rules;
mod settings;
mod sim;
mod snapshot;
mod up;
mod variables;

/// The system's allocator spends a tenth of a loaded node's time; see
/// `docs/decisions/0002-dependencies.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept for the next use before it goes back to the
/// system, ms. A buffer of writes fills in seconds, is flushed and freed: handed
/// back at once, clearing it anew cost a seventh of a loaded node's time.
const KEEP_FREED_MS: std::ffi::c_long = 15_000;

/// `mi_option_purge_delay` of mimalloc's `mi_option_t`, which the bindings leave out.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[allow(unsafe_code)]
fn keep_freed_memory() {
    // SAFETY: sets a number in the allocator's table of options; callable at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, KEEP_FREED_MS);
    }
}

/// Memory comes in pages of 4 KiB. The allocator asks for huge ones, and clearing
/// 2 MiB at the first touch held a virtual machine's core thread up for
/// milliseconds: without them puts cost 8 % less CPU and their p99 was a third less.
#[cfg(target_os = "linux")]
fn take_small_pages() {
    // A kernel that knows no huge pages refuses, and gives none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

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
    /// Check a prometheus.yml without a server
    Config(config::ConfigArgs),
    /// Look at a node's journal
    Journal(journal::JournalArgs),
    /// Simulate a cluster under faults, from a seed, and check that nothing is lost
    Sim(sim::SimArgs),
    /// Save, look at and restore the state
    Snapshot(snapshot::SnapshotArgs),
    #[command(flatten)]
    Client(client::ClientCommand),
    /// Run one node of a cluster
    #[command(mut_args(settings::bare))]
    Server(Box<settings::ServerArgs>),
}

/// `synod get … | head` ends quietly, as other commands do, when nobody reads
/// on. A node goes on: its output may be a pipe to a logger that restarts. So does what
/// holds something: a lock must not go with the reader of a line.
#[cfg(unix)]
#[allow(unsafe_code)]
fn end_with_the_reader() {
    // SAFETY: resets one signal to what the system does by default, before
    // any thread was started.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// A variable of ours that is set to nothing is not set: scripts and unit files leave out
/// what they do not decide that way.
#[allow(unsafe_code)]
fn forget_empty_variables() {
    for (name, value) in std::env::vars_os() {
        if value.is_empty() && name.to_string_lossy().starts_with("SYNOD_") {
            // SAFETY: no other thread was started yet.
            unsafe { std::env::remove_var(name) };
        }
    }
}

fn main() -> ExitCode {
    forget_empty_variables();
    keep_freed_memory();
    #[cfg(target_os = "linux")]
    take_small_pages();
    let command = Cli::parse().command;
    #[cfg(unix)]
    match &command {
        Command::Up(_) | Command::Etcd { .. } | Command::Server(_) => notify::take_socket(),
        Command::Client(command) if command.holds() => {}
        _ => end_with_the_reader(),
    }
    let done = match command {
        Command::Up(args) => up::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Etcd { flags } => etcd::run(&flags),
        Command::Config(args) => config::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Sim(args) => args.run(),
        Command::Snapshot(args) => snapshot::run(args),
        Command::Client(command) => command.run(),
        Command::Server(args) => node::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            client::note(&e);
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, in words for the person who typed the command.
pub(crate) type Outcome<T = ()> = Result<T, String>;
