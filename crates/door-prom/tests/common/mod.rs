//! A monitor without a cluster, and servers for it to talk to.
#![allow(dead_code)]

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use synod_door_prom::{Monitor, Settings, Surroundings};
use tempfile::TempDir;
use tokio::net::TcpListener;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Door {
    pub monitor: Monitor,
    pub dir: TempDir,
}

impl Door {
    /// A monitor; with this configuration, if it is not empty.
    pub fn open(config: &str) -> Door {
        let dir = tempfile::tempdir().expect("a folder");
        if !config.is_empty() {
            std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        }
        Door { monitor: start(dir.path(), Surroundings::none()), dir }
    }

    /// A monitor with such surroundings.
    pub fn within(config: &str, around: Surroundings) -> Door {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        Door { monitor: start(dir.path(), around), dir }
    }

    /// What the monitor shows of itself under this name, with or without labels.
    pub fn shows(&self, name: &str) -> f64 {
        let page = self.monitor.metrics(synod_host::page::Format::Text);
        let line = page.lines().find(|l| l.starts_with(name) && !l.starts_with('#'));
        let value = line.and_then(|l| l.rsplit_once(' ')).and_then(|(_, v)| v.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is not shown"))
    }

    /// Ends it and begins anew in the same folder.
    pub fn restart(&mut self) {
        self.monitor.close();
        self.monitor = start(self.dir.path(), Surroundings::none());
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.monitor.answer(request.body(body.into()).expect("a request")).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.send(Method::GET, path, &[], Bytes::new()).await;
        let value = serde_json::from_slice(answer.body()).expect("JSON");
        (answer.status(), value)
    }

    /// What an instant query finds: each series' labels as JSON with its value.
    pub async fn query(&self, query: &str) -> Vec<(String, String)> {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let (status, body) = self.get(&format!("/api/v1/query?query={query}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let found = body["data"]["result"].as_array().expect("a list");
        let one = |s: &Value| {
            (s["metric"].to_string(), s["value"][1].as_str().expect("a value").to_owned())
        };
        found.iter().map(one).collect()
    }

    /// Asks until the answer is this.
    pub async fn sees(&self, query: &str, wanted: &[(&str, &str)]) {
        let begun = Instant::now();
        loop {
            let found = self.query(query).await;
            let found: Vec<(&str, &str)> = found.iter().map(|(l, v)| (&**l, &**v)).collect();
            if found == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{query}: {found:?}, wanted {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.monitor.close();
    }
}

/// A monitor in this folder, with the `prometheus.yml` there, if there is one.
pub fn start(dir: &Path, around: Surroundings) -> Monitor {
    start_with(dir, around, |_| {})
}

/// The same with other settings.
pub fn start_with(dir: &Path, around: Surroundings, change: impl FnOnce(&mut Settings)) -> Monitor {
    let mut settings = Settings::in_dir(&dir.join("series"));
    change(&mut settings);
    settings.sync_every = Duration::from_millis(20);
    let config = dir.join("prometheus.yml");
    settings.config = config.exists().then_some(config);
    let monitor = Monitor::start(settings, around).expect("it starts");
    let begun = Instant::now();
    while !monitor.is_ready() {
        assert!(begun.elapsed() < PATIENCE, "the log is not back");
        std::thread::sleep(Duration::from_millis(5));
    }
    monitor
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// Answers every request so; gives where.
pub async fn serve(
    answer: impl Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_stream(stream, answer.clone()));
        }
    });
    address
}

/// Answers the requests of a connection.
async fn serve_stream<S, A>(stream: S, answer: Arc<A>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<_>| {
        let answer = answer.clone();
        async move {
            let (parts, body): (_, hyper::body::Incoming) = request.into_parts();
            let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            let response = answer(Request::from_parts(parts, body));
            Ok::<_, Infallible>(response.map(Full::new))
        }
    });
    let serving = hyper::server::conn::http1::Builder::new();
    // Whoever asked may go at any time.
    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
}

/// The certificates and keys of these tests.
pub fn tls_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls")
}

/// Answers with this page by TLS, to those whose certificate our authority signed if
/// `known` says so; gives where.
pub async fn serve_tls(text: &'static str, known: bool) -> SocketAddr {
    serve_tls_with(known, move |_| page(text)).await
}

/// Answers every request so by TLS, to those whose certificate our authority signed if
/// `known` says so; gives where.
pub async fn serve_tls_with(
    known: bool,
    answer: impl Fn(Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
) -> SocketAddr {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
    let cert =
        |name: &str| CertificateDer::from_pem_file(tls_dir().join(name)).expect("a certificate");
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("protocols");
    let builder = if known {
        let mut roots = RootCertStore::empty();
        roots.add(cert("ca.pem")).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(tls_dir().join("server.key")).expect("a key");
    let config = builder.with_single_cert(vec![cert("server.pem")], key).expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let answer = Arc::new(answer);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                serve_stream(stream, answer).await;
            });
        }
    });
    address
}

/// A page of metrics.
pub fn page(text: impl Into<Bytes>) -> Response<Bytes> {
    let page = Response::builder().header("content-type", "text/plain; version=0.0.4");
    page.body(text.into()).expect("a response")
}
