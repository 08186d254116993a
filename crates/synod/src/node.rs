//! One node: its member, its doors, and how it ends.

use crate::Outcome;
use crate::settings::{ServerArgs, Settings, addresses};
use synod_door_etcd::Door;
use synod_host::Handle;
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
    run_node(&settings)
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

/// Runs a node until it is told to stop or has to.
pub fn run_node(settings: &Settings) -> Outcome {
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
    let handle = tokio::select! {
        started = synod_host::start(config) => started.map_err(|e| e.to_string())?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let door = Door::new(handle.clone(), settings.door());
    let mut listening = clients.clone();
    listening.extend(&http);
    let serving = synod_door_etcd::serve(door, &listening).await.map_err(|e| e.to_string())?;
    // Supervisors wait for this line, as etcd writes it.
    tracing::info!(
        name = settings.name,
        member = %handle.id(),
        clients = settings.listen_client_urls,
        "ready to serve client requests"
    );
    tokio::select! {
        end = handle.stopped() => return end,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    serving.close();
    leave(&handle).await;
    Ok(())
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
