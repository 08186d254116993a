//! Requests to others: targets, receivers, Alertmanagers; with TLS and authorisation.

use crate::config::yaml::{Http, Tls};
use crate::oauth::OAuth;
use crate::proxy::{Dialer, Proxies};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION, PROXY_AUTHORIZATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// Redirects that are followed, at most.
const REDIRECTS_MAX: usize = 10;
/// An unused connection is kept so long.
const IDLE: Duration = Duration::from_secs(90);
const AGENT: HeaderValue = HeaderValue::from_static("synod");

/// Makes requests the way a section of the configuration wants them. Cheap to clone;
/// connections are kept and used again.
#[derive(Clone)]
pub struct Client {
    inner: hyper_util::client::legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>,
    http: Arc<Http>,
    proxies: Option<Arc<Proxies>>,
    oauth: Option<OAuth>,
}

impl Client {
    /// A client; `Err`: certificates or keys that cannot be read, a proxy that cannot be used.
    pub fn new(http: &Http) -> Result<Client, String> {
        if let Some(way) = http.unbuilt {
            return Err(format!("{way} is not built, and without it nothing is asked"));
        }
        let proxies = Proxies::new(&http.proxy)?;
        let oauth = http.oauth2.as_ref().map(OAuth::new).transpose()?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let mut connector =
            HttpsConnectorBuilder::new().with_tls_config(tls(&http.tls_config)?).https_or_http();
        if !http.tls_config.server_name.is_empty() {
            let name = ServerName::try_from(http.tls_config.server_name.clone());
            let name = name.map_err(|e| format!("server_name: {e}"))?;
            connector = connector
                .with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name));
        }
        let connector = connector.enable_http1().wrap_connector(Dialer::new(tcp, proxies.clone()));
        let inner = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(2)
            .build(connector);
        Ok(Client { inner, http: Arc::new(http.clone()), proxies, oauth })
    }

    /// Sends a request and reads the answer, which may have `limit` bytes at most. No time
    /// limit: that is the caller's.
    pub async fn send(
        &self,
        request: Request<Bytes>,
        limit: usize,
    ) -> Result<Response<Bytes>, String> {
        let (mut parts, body) = request.into_parts();
        parts.headers.entry(http::header::USER_AGENT).or_insert(AGENT);
        for (name, values) in &self.http.http_headers {
            let name = HeaderName::try_from(&**name).map_err(|e| format!("{name:?}: {e}"))?;
            for value in values.values.iter().chain(&values.secrets) {
                parts.headers.append(&name, header(value)?);
            }
            for file in &values.files {
                parts.headers.append(&name, header(&secret("", file)?)?);
            }
        }
        let own = match &self.oauth {
            Some(oauth) => Some(oauth.authorization().await?),
            None => self.authorization()?,
        };
        if let Some(value) = own.or(of_address(&mut parts.uri)?) {
            parts.headers.insert(AUTHORIZATION, value);
        }
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::new(Full::new(body.clone()));
            *request.method_mut() = parts.method.clone();
            *request.uri_mut() = parts.uri.clone();
            *request.headers_mut() = parts.headers.clone();
            let secret = self.proxies.as_ref().and_then(|p| p.authorization(&parts.uri));
            if let Some(secret) = secret {
                request.headers_mut().insert(PROXY_AUTHORIZATION, secret);
            }
            let response = self.inner.request(request).await.map_err(|e| told(&e))?;
            match redirect(&parts.uri, &response) {
                Some((to, keeps))
                    if self.http.follow_redirects && (keeps || parts.method == Method::GET) =>
                {
                    let origin = |uri: &Uri| (uri.scheme().cloned(), uri.authority().cloned());
                    if origin(&to) != origin(&parts.uri) {
                        // A secret is for those that it was given for.
                        parts.headers.remove(AUTHORIZATION);
                        for name in self.http.http_headers.keys() {
                            parts.headers.remove(&**name);
                        }
                    }
                    parts.uri = to;
                }
                _ => return whole(response, limit).await,
            }
        }
        Err(format!("more than {REDIRECTS_MAX} redirects"))
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let http = &self.http;
        if let Some(basic) = &http.basic_auth {
            let name = secret(&basic.username, &basic.username_file)?;
            let password = secret(&basic.password, &basic.password_file)?;
            return header(&format!("Basic {}", base64(format!("{name}:{password}")))).map(Some);
        }
        let (kind, value) = match &http.authorization {
            Some(a) => {
                let kind = if a.r#type.is_empty() { "Bearer" } else { &a.r#type };
                (kind, secret(&a.credentials, &a.credentials_file)?)
            }
            None => ("Bearer", secret(&http.bearer_token, &http.bearer_token_file)?),
        };
        if value.is_empty() {
            return Ok(None);
        }
        header(&format!("{kind} {value}")).map(Some)
    }
}

pub(crate) fn base64(text: String) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

pub(crate) fn header(value: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| "a header's value has bytes that headers cannot have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// What is written in place, or what the file holds now (it may change).
pub(crate) fn secret(value: &str, file: &str) -> Result<String, String> {
    if file.is_empty() {
        return Ok(value.to_owned());
    }
    let read = std::fs::read_to_string(file).map_err(|e| format!("reading {file}: {e}"))?;
    Ok(read.trim().to_owned())
}

/// An error with all that led to it.
fn told(error: &dyn Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

/// The name and the password in an address, as a header; they are taken out of it.
fn of_address(uri: &mut Uri) -> Result<Option<HeaderValue>, String> {
    let Some((user, host)) = uri.authority().and_then(|a| a.as_str().rsplit_once('@')) else {
        return Ok(None);
    };
    let decoded = percent_encoding::percent_decode_str(user).decode_utf8_lossy();
    let pair = if decoded.contains(':') { decoded.into_owned() } else { format!("{decoded}:") };
    let value = header(&format!("Basic {}", base64(pair)))?;
    let host = host.parse().map_err(|e| format!("an address: {e}"))?;
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(host);
    *uri = Uri::from_parts(parts).map_err(|e| e.to_string())?;
    Ok(Some(value))
}

/// Where an answer points to, and whether the request goes there as it is.
fn redirect<B>(from: &Uri, response: &Response<B>) -> Option<(Uri, bool)> {
    use StatusCode as S;
    let keeps = match response.status() {
        S::MOVED_PERMANENTLY | S::FOUND | S::SEE_OTHER => false,
        S::TEMPORARY_REDIRECT | S::PERMANENT_REDIRECT => true,
        _ => return None,
    };
    let to = response.headers().get(LOCATION)?.to_str().ok()?;
    let scheme = from.scheme_str().unwrap_or("http");
    let host = from.authority().map_or("", |a| a.as_str());
    let whole = if to.contains("://") {
        to.to_owned()
    } else if let Some(rest) = to.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        format!("{scheme}://{host}{to}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{host}{folder}/{to}")
    };
    Some((whole.parse().ok()?, keeps))
}

async fn whole(
    response: Response<hyper::body::Incoming>,
    limit: usize,
) -> Result<Response<Bytes>, String> {
    let (parts, body) = response.into_parts();
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            Err(format!("body size limit exceeded: more than {limit} bytes"))
        }
        Err(e) => Err(format!("reading the answer: {}", told(&*e))),
    }
}

fn tls(settings: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = match &*settings.min_version {
        "" | "TLS10" | "TLS11" | "TLS12" => rustls::ALL_VERSIONS,
        "TLS13" => &[&rustls::version::TLS13],
        other => {
            return Err(format!("min_version: {other:?} is none of TLS10, TLS11, TLS12, TLS13"));
        }
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?;
    let ca = pem(&settings.ca, &settings.ca_file)?;
    let builder = if settings.insecure_skip_verify {
        let any = Arc::new(AnyServer(provider));
        builder.dangerous().with_custom_certificate_verifier(any)
    } else if let Some((text, place)) = ca {
        let mut roots = RootCertStore::empty();
        for cert in certificates(&text, &place)? {
            roots.add(cert).map_err(|e| format!("{place}: {e}"))?;
        }
        builder.with_root_certificates(roots)
    } else {
        match builder.clone().with_native_roots() {
            Ok(builder) => builder,
            // Plain http needs none; https then says that it does not know the issuer.
            Err(_) => builder.with_root_certificates(RootCertStore::empty()),
        }
    };
    let cert = pem(&settings.cert, &settings.cert_file)?;
    let key = pem(&settings.key, &settings.key_file)?;
    match (cert, key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some((cert, place)), Some((key, key_place))) => {
            let chain = certificates(&cert, &place)?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
            let key = key.map_err(|e| format!("{key_place}: {e}"))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("{place}: {e}"))
        }
        _ => Err("tls_config: a certificate needs its key, and a key its certificate".into()),
    }
}

/// A PEM text and where it is from.
fn pem(text: &str, file: &str) -> Result<Option<(String, String)>, String> {
    match (text, file) {
        ("", "") => Ok(None),
        ("", file) => {
            let read = std::fs::read_to_string(file).map_err(|e| format!("reading {file}: {e}"))?;
            Ok(Some((read, file.to_owned())))
        }
        (text, _) => Ok(Some((text.to_owned(), "tls_config".into()))),
    }
}

fn certificates(text: &str, place: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let all = all.map_err(|e| format!("{place}: {e}"))?;
    if all.is_empty() { Err(format!("{place} holds no certificate")) } else { Ok(all) }
}

/// `insecure_skip_verify`: whoever answers is taken for the one that was asked.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
