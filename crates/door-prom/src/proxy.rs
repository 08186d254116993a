//! Requests by way of a proxy: those of `http` are given to it with their whole address,
//! those of `https` go through a tunnel that it makes (`CONNECT`).

use crate::config::yaml::Proxy;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower_service::Service;

type Stream = TokioIo<TcpStream>;

/// Which requests go by way of which proxy.
pub(crate) struct Proxies {
    matcher: Matcher,
    /// For the proxy itself, when a tunnel is asked for.
    headers: HeaderMap,
}

impl Proxies {
    /// As a section of the configuration wants it; `None`: by way of none.
    pub fn new(settings: &Proxy) -> Result<Option<Arc<Proxies>>, String> {
        let matcher = if !settings.proxy_url.is_empty() {
            let url = &*settings.proxy_url;
            if !url.starts_with("http://") {
                return Err("proxy_url: only proxies that are reached by http:// are used".into());
            }
            let matcher = Matcher::builder().all(url).no(&*settings.no_proxy).build();
            let any = Uri::from_static("http://synod.invalid/");
            if settings.no_proxy.is_empty() && matcher.intercept(&any).is_none() {
                return Err("proxy_url names no host".into());
            }
            matcher
        } else if settings.proxy_from_environment {
            Matcher::from_env()
        } else {
            return Ok(None);
        };
        let mut headers = HeaderMap::new();
        for (name, values) in &settings.proxy_connect_header {
            let key = HeaderName::try_from(&**name)
                .map_err(|e| format!("proxy_connect_header {name:?}: {e}"))?;
            for value in values {
                let mut value = HeaderValue::try_from(&**value)
                    .map_err(|e| format!("proxy_connect_header {name:?}: {e}"))?;
                value.set_sensitive(true);
                headers.append(&key, value);
            }
        }
        Ok(Some(Arc::new(Proxies { matcher, headers })))
    }

    /// What a request that is given to a proxy itself says to be let through.
    pub fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        let plain = uri.scheme_str() == Some("http");
        self.matcher.intercept(uri).filter(|_| plain)?.basic_auth().cloned()
    }
}

/// Connects to where a request goes, or to the proxy before that.
#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    proxies: Option<Arc<Proxies>>,
}

impl Dialer {
    pub fn new(tcp: HttpConnector, proxies: Option<Arc<Proxies>>) -> Dialer {
        Dialer { tcp, proxies }
    }

    fn tunnel(&self, via: &Intercept, proxies: &Proxies) -> Tunnel<HttpConnector> {
        let tunnel = Tunnel::new(via.uri().clone(), self.tcp.clone());
        let tunnel = tunnel.with_headers(proxies.headers.clone());
        match via.basic_auth() {
            Some(secret) => tunnel.with_auth(secret.clone()),
            None => tunnel,
        }
    }
}

/// Why there is no connection.
type Failed = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Dialer {
    type Response = Dialed;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Dialed, Failed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let proxies = self.proxies.clone();
        let via = proxies.and_then(|p| Some((p.matcher.intercept(&to)?, p)));
        let Some((via, proxies)) = via else {
            let connecting = self.tcp.call(to);
            return Box::pin(async { Ok(Dialed { stream: connecting.await?, proxied: false }) });
        };
        if via.uri().scheme_str() != Some("http") {
            return Box::pin(async { Err("the proxy is not one that is reached by http".into()) });
        }
        if to.scheme_str() == Some("https") {
            let connecting = self.tunnel(&via, &proxies).call(to);
            return Box::pin(async move {
                let stream = connecting.await.map_err(|e| format!("{}: {e}", named(&via)))?;
                Ok(Dialed { stream, proxied: false })
            });
        }
        let connecting = self.tcp.call(via.uri().clone());
        Box::pin(async move {
            let stream = connecting.await.map_err(|e| format!("{}: {e}", named(&via)))?;
            Ok(Dialed { stream, proxied: true })
        })
    }
}

/// A proxy, for people.
fn named(via: &Intercept) -> String {
    format!("the proxy {}", via.uri().authority().map_or("", |a| a.as_str()))
}

/// A connection, and whether it is to a proxy that is told whole addresses.
pub(crate) struct Dialed {
    stream: Stream,
    proxied: bool,
}

impl Connection for Dialed {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.proxied)
    }
}

impl Read for Dialed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl Write for Dialed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}
