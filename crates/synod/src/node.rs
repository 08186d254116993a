//! One node: its member, its doors, and how it ends.

use crate::settings::{ServerArgs, Settings, addresses};
use crate::{Outcome, monitor, notify, variables};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_cell::Work;
use synod_door_etcd::{Door, MorePages};
use synod_host::Handle;
use synod_mvcc::Command;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// `synod server`.
pub fn run(args: &ServerArgs) -> Outcome {
    let settings = args.resolve()?;
    if args.print_config {
        print!("{}", toml::to_string(&settings).map_err(|e| e.to_string())?);
        return Ok(());
    }
    start_logging(&settings)?;
    if args.with_parent {
        end_with_parent();
    }
    variables::warn_unknown("SYNOD_", &variables::own());
    run_node(&settings)
}

/// A node of `synod up` is nobody's once that is killed.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    if let Err(e) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
    {
        tracing::warn!(error = %e, "this node goes on if the process that started it is killed");
    }
}

/// Logs go to standard error.
pub fn start_logging(settings: &Settings) -> Outcome {
    let filter = EnvFilter::try_new(&settings.log_level)
        .map_err(|e| format!("log-level {:?}: {e}", settings.log_level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format.as_str() {
        "json" => builder.json().init(),
        "text" => builder.with_ansi(false).init(),
        other => return Err(format!("log-format is {other:?}; say text or json")),
    }
    Ok(())
}

/// A member whose core or store met a bug must not seem to live: it ends at once, and the
/// others know it. What panics in a door's task or in the monitor ends there.
fn end_with_a_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let by_itself = ["main", "tokio", "series-"].iter().any(|begin| name.starts_with(begin));
        if !by_itself {
            eprintln!("synod: the node ends, since its thread {name:?} did");
            std::process::abort();
        }
    }));
}

/// Runs a node until it is told to stop or has to.
pub fn run_node(settings: &Settings) -> Outcome {
    end_with_a_panic();
    let threads = match settings.door_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2),
        n => n,
    };
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime =
        builder.enable_all().build().map_err(|e| format!("cannot start a runtime: {e}"))?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: &Settings) -> Outcome {
    let clients = addresses("listen-client-urls", &settings.listen_client_urls)?;
    let http = addresses("listen-http-urls", &settings.listen_http_urls)?;
    let config = settings.host()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| e.to_string())?;
    let handle = tokio::select! {
        started = synod_host::start(config) => started.map_err(|e| e.to_string())?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::spawn(auto_compact(
        handle.clone(),
        settings.auto_compaction_s,
        settings.auto_compaction_revisions,
    ));
    let door = Door::new(handle.clone(), settings.door());
    let mut listening = clients.clone();
    listening.extend(&http);
    let monitor = monitor::start(settings, &handle)?;
    let pages = monitor.clone().map(|m| Arc::new(monitor::Pages(m)) as Arc<dyn MorePages>);
    let serving = synod_door_etcd::serve(door, &listening, pages).await;
    let serving = serving.map_err(|e| e.to_string())?;
    // Supervisors wait for this line, as etcd writes it.
    tracing::info!(
        node = settings.name,
        member = %handle.id(),
        address = settings.listen_client_urls,
        "ready to serve client requests"
    );
    notify::ready();
    let end = loop {
        tokio::select! {
            end = handle.stopped() => break Some(end),
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => monitor::reload(monitor.as_ref()),
        }
    };
    if end.is_none() {
        tracing::info!("stopping");
        notify::stopping();
        serving.close();
        leave(&handle).await;
    }
    if let Some(monitor) = monitor {
        monitor.close();
    }
    end.unwrap_or(Ok(()))
}

/// Hands leadership over before leaving, so that nobody has to wait for an
/// election, and stops.
async fn leave(handle: &Handle) {
    if handle.leads() && handle.status().consensus.membership.voters.len() > 1 {
        let handed = handle.transfer(None);
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), handed).await;
    }
    handle.stop();
    let stopped = handle.stopped();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), stopped).await;
}

/// While this node leads: compacts what is older than so many seconds, and what
/// is more than so many revisions back. 0 switches either off.
async fn auto_compact(handle: Handle, seconds: u64, revisions: u64) {
    if seconds == 0 && revisions == 0 {
        return;
    }
    // Ten looks a period, so that history lasts one to 1.1 periods.
    let look = Duration::from_secs(if seconds > 0 { (seconds / 10).clamp(1, 300) } else { 300 });
    let mut past: VecDeque<(Instant, i64)> = VecDeque::new();
    loop {
        tokio::time::sleep(look).await;
        let published = handle.published();
        let mut target = 0;
        if revisions > 0 {
            target = published.revision() - revisions as i64;
        }
        if seconds > 0 {
            past.push_back((Instant::now(), published.revision()));
            while past.front().is_some_and(|(at, _)| at.elapsed() >= Duration::from_secs(seconds)) {
                target = target.max(past.pop_front().map_or(0, |(_, revision)| revision));
            }
        }
        if handle.leads() && target > published.compacted() {
            let command = Command::Compact { revision: target };
            match handle.propose(Work::Command(command.encode())).await {
                Ok(_) => tracing::info!(revision = target, "compacted"),
                Err(e) => tracing::warn!(revision = target, error = ?e, "compacting failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::end_with_a_panic;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const ASKED: &str = "TEST_PANIC_OF";

    /// Runs itself again, as a process whose thread of this name panics.
    fn ends(thread: &str) -> std::process::Output {
        let test = std::env::current_exe().expect("a test");
        let name = "node::tests::a_panic_of_the_core_ends_the_process";
        let mut command = Command::new(test);
        command.args(["--exact", name, "--nocapture"]).env(ASKED, thread).output().expect("it ran")
    }

    #[test]
    fn a_panic_of_the_core_ends_the_process() {
        if let Ok(thread) = std::env::var(ASKED) {
            end_with_a_panic();
            let panics = std::thread::Builder::new().name(thread).spawn(|| panic!("a bug"));
            assert!(panics.expect("a thread").join().is_err());
            return;
        }
        for thread in ["core", "journal", "state-flush"] {
            let out = ends(thread);
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.signal().is_some() && said.contains("the node ends"), "{said}");
        }
        for thread in ["tokio-rt-worker", "series-log"] {
            assert!(ends(thread).status.success());
        }
    }
}
