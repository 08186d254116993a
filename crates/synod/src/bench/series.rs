//! `synod bench series`: a made-up fleet of hosts whose series are pushed by remote-write,
//! to anything that takes it; and `synod bench page`: the same fleet as one page to scrape.

use crate::Outcome;
use crate::progress::Progress;
use bytes::Bytes;
use clap::Args;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use synod_base::Rng;
use synod_promql::Labels;
use tokio::net::{TcpListener, TcpStream};

/// Samples of a request.
const REQUEST_SAMPLES: usize = 2_000;
/// Pages that differ, shown in turn.
const PAGES: usize = 4;

/// Arguments of `synod bench series`.
#[derive(Args)]
pub struct SeriesArgs {
    /// Where remote-write is taken
    #[arg(long, default_value = "http://127.0.0.1:7070/api/v1/write", value_name = "URL")]
    url: Uri,
    #[command(flatten)]
    fleet: Fleet,
    /// Samples of each series; the last one is now
    #[arg(long, default_value_t = 180)]
    samples: usize,
    /// Between two samples
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    step: i64,
    /// Connections that push
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

/// Arguments of `synod bench page`.
#[derive(Args)]
pub struct PageArgs {
    /// Where it is shown
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    #[command(flatten)]
    fleet: Fleet,
}

/// How large the fleet is.
#[derive(Args, Clone, Copy)]
pub struct Fleet {
    /// Hosts
    #[arg(long, default_value_t = 1_000)]
    hosts: usize,
    /// Series of each host
    #[arg(long, default_value_t = 100)]
    series: usize,
}

/// A number from these, the same each time, from 0 to 1.
fn chance(host: usize, series: usize, step: usize) -> f64 {
    let seed = ((host as u64) << 40) ^ ((series as u64) << 24) ^ step as u64;
    Rng::new(seed).below(1 << 53) as f64 / (1u64 << 53) as f64
}

/// Half of the series are counters, three in ten are gauges that wander, two never change.
fn value(host: usize, series: usize, step: usize) -> f64 {
    let size = 10.0 + (chance(host, series, 0xff_ffff) * 1_000.0).floor();
    match series % 10 {
        0..5 => {
            let steady = (step as f64 * size).floor();
            steady + (chance(host, series, step) * size).floor()
        }
        5..8 => {
            let wave = (step as f64 / 30.0 + size).sin() * size;
            ((wave + chance(host, series, step) * 5.0) * 100.0).round() / 100.0
        }
        _ => size,
    }
}

fn name(series: usize) -> String {
    match series % 10 {
        0..5 => format!("fleet_things_{series}_total"),
        _ => format!("fleet_level_{series}"),
    }
}

impl SeriesArgs {
    pub async fn run(self) -> Outcome {
        if self.fleet.hosts == 0 || self.fleet.series == 0 || self.connections == 0 {
            return Err("--hosts, --series and --connections must be at least 1".into());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (now, begun) = (now.as_millis() as i64, Instant::now());
        let done = Arc::new(AtomicU64::new(0));
        let total = (self.fleet.hosts * self.fleet.series * self.samples) as u64;
        let args = Arc::new(self);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..args.connections {
            tasks.spawn(push(args.clone(), number, now, done.clone()));
        }
        let progress = Progress::new("pushing");
        let mut ticker = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = ticker.tick() => progress.count(done.load(Ordering::Relaxed), total),
                ended = tasks.join_next() => match ended {
                    None => break,
                    Some(ended) => ended.map_err(|e| e.to_string())??,
                },
            }
        }
        progress.end();
        let (samples, seconds) = (done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
        let rate = samples as f64 / seconds;
        println!("{{\"samples\":{samples},\"seconds\":{seconds:.2},\"per_second\":{rate:.0}}}");
        Ok(())
    }

    /// Names of the series of some hosts, in order.
    fn names(&self, hosts: &[usize]) -> Vec<(usize, usize, Labels)> {
        let of = |host: usize| {
            (0..self.fleet.series).map(move |series| {
                let labels = Labels::new([
                    ("__name__", name(series)),
                    ("job", "fleet".to_owned()),
                    ("instance", format!("host-{host:04}.example:9100")),
                    ("zone", format!("zone-{}", host % 3)),
                ]);
                (host, series, labels)
            })
        };
        hosts.iter().flat_map(|host| of(*host)).collect()
    }
}

/// Pushes the series of its share of the hosts, time by time.
async fn push(args: Arc<SeriesArgs>, number: usize, now: i64, done: Arc<AtomicU64>) -> Outcome {
    let hosts: Vec<usize> = (number..args.fleet.hosts).step_by(args.connections).collect();
    let names = args.names(&hosts);
    let address = args.url.authority().ok_or("--url names no host")?.to_string();
    let stream = TcpStream::connect(&address).await.map_err(|e| format!("{address}: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    for step in 0..args.samples {
        let at = now - (args.samples - 1 - step) as i64 * args.step * 1_000;
        for some in names.chunks(REQUEST_SAMPLES) {
            let series = some.iter().map(|(host, series, labels)| {
                (labels.clone(), vec![(at, value(*host, *series, step))])
            });
            let body = synod_door_prom::packed_write(series);
            let path = args.url.path_and_query().map_or("/", |p| p.as_str());
            let request = Request::post(path)
                .header("host", &address)
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "snappy")
                .header("x-prometheus-remote-write-version", "0.1.0")
                .body(Full::new(body))
                .map_err(|e| e.to_string())?;
            let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = answer.status();
            let told = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
            if !status.is_success() {
                return Err(format!("{}: {status}: {}", args.url, String::from_utf8_lossy(&told)));
            }
            done.fetch_add(some.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

impl PageArgs {
    pub async fn run(self) -> Outcome {
        let pages: Arc<Vec<Bytes>> = Arc::new((0..PAGES).map(|step| self.page(step)).collect());
        let listener = TcpListener::bind(self.listen).await.map_err(|e| e.to_string())?;
        let asked = Arc::new(AtomicUsize::new(0));
        loop {
            let (stream, _) = listener.accept().await.map_err(|e| e.to_string())?;
            let (pages, asked) = (pages.clone(), asked.clone());
            let service = hyper::service::service_fn(move |_| {
                let page = pages[asked.fetch_add(1, Ordering::Relaxed) % PAGES].clone();
                async move {
                    let response = http::Response::builder()
                        .header("content-type", "text/plain; version=0.0.4")
                        .body(Full::new(page));
                    Ok::<_, Infallible>(response.unwrap_or_default())
                }
            });
            let serving = hyper::server::conn::http1::Builder::new();
            tokio::spawn(serving.serve_connection(TokioIo::new(stream), service));
        }
    }

    fn page(&self, step: usize) -> Bytes {
        let mut text = String::new();
        for series in 0..self.fleet.series {
            let name = name(series);
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let _ = writeln!(text, "# HELP {name} Of each host.\n# TYPE {name} {kind}");
            for host in 0..self.fleet.hosts {
                let value = value(host, series, step);
                let zone = host % 3;
                let _ = writeln!(
                    text,
                    "{name}{{host=\"host-{host:04}.example\",zone=\"zone-{zone}\"}} {value}"
                );
            }
        }
        text.into()
    }
}
