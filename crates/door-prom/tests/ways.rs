//! How targets are reached: by way of proxies, and with tokens; and what is told of those
//! that cannot be.

mod common;

use bytes::Bytes;
use common::{Door, page, serve, serve_tls, tls_dir};
use http::{Response, StatusCode};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A configuration with one job, scraped so.
fn config(target: &str, more: &str) -> String {
    format!(
        "scrape_configs:\n- job_name: t\n  scrape_interval: 100ms\n  \
         static_configs: [{{targets: [\"{target}\"]}}]\n{more}"
    )
}

/// Waits until the only target's error says so.
async fn says(door: &Door, why: &str) {
    let begun = Instant::now();
    loop {
        let (_, answer) = door.get("/api/v1/targets").await;
        let target = &answer["data"]["activeTargets"][0];
        let error = target["lastError"].as_str().unwrap_or_default();
        if target["health"] == "down" && error.contains(why) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{why}: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_reached_by_way_of_a_proxy() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = seen.clone();
    let proxy = serve(move |request| {
        let secret = request.headers().get("proxy-authorization");
        let secret = secret.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        note.lock().expect("held").push((request.uri().to_string(), secret));
        page("a 1\n")
    })
    .await;
    // Nobody has this name: only the proxy can know what is meant.
    let more = format!("  proxy_url: http://u:p@{proxy}\n");
    let door = Door::open(&config("shop.invalid:80", &more));
    door.sees("sum(a)", &[("{}", "1")]).await;
    let (asked, secret) = seen.lock().expect("held")[0].clone();
    assert_eq!(asked, "http://shop.invalid:80/metrics");
    assert_eq!(secret.as_deref(), Some("Basic dTpw"));
    // Whom no_proxy names is reached without.
    let direct = serve(|request| page(format!("b{{at=\"{}\"}} 1\n", request.uri()))).await;
    let more = format!("  proxy_url: http://{proxy}\n  no_proxy: 127.0.0.0/8\n");
    let door = Door::open(&config(&direct.to_string(), &more));
    door.sees("sum(b{at=\"/metrics\"})", &[("{}", "1")]).await;
}

/// A proxy that makes tunnels to this address, whatever it is asked for; keeps what that was.
async fn tunnels(to: SocketAddr, asked: Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.expect("a byte"));
                }
                asked.lock().expect("held").push(String::from_utf8_lossy(&head).into_owned());
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("written");
                let mut server = TcpStream::connect(to).await.expect("connected");
                // It lasts as long as both want.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_behind_tls_is_reached_through_a_tunnel() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let proxy = tunnels(serve_tls("a 1\n", false).await, asked.clone()).await;
    let more = format!(
        "  scheme: https\n  proxy_url: http://u:p@{proxy}\n  proxy_connect_header: {{x-one: [y]}}\n  \
         tls_config: {{ca_file: {}/ca.pem}}\n",
        tls_dir().display()
    );
    let door = Door::open(&config("synod.test:4443", &more));
    door.sees("sum(a)", &[("{}", "1")]).await;
    let head = asked.lock().expect("held")[0].to_ascii_lowercase();
    assert!(head.starts_with("connect synod.test:4443 http/1.1\r\n"), "{head}");
    assert!(
        head.contains("proxy-authorization: basic dtpw") && head.contains("x-one: y"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_way_is_not_built_is_down_and_says_why() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let target = serve(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        page("a 1\n")
    })
    .await;
    for (more, why) in [
        ("  proxy_url: socks5://127.0.0.1:1\n", "only proxies that are reached by http://"),
        ("  proxy_url: http://127.0.0.1:1\n", "the proxy 127.0.0.1:1"),
        ("  tls_config: {ca_file: none.pem}\n", "none.pem"),
    ] {
        let door = Door::open(&config(&target.to_string(), more));
        says(&door, why).await;
        door.sees("sum(up)", &[("{}", "0")]).await;
        assert!(door.shows("synod_monitor_targets{health=\"down\"}") == 1.0);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "it was asked around its proxy");
}

/// Gives tokens that last so long, to those who bring the secret so.
async fn tokens(lasts: &'static str, in_body: bool, given: Arc<AtomicUsize>) -> SocketAddr {
    serve(move |request| {
        let body = String::from_utf8_lossy(request.body()).into_owned();
        let basic = request.headers().get("authorization").map(|v| v.as_bytes().to_vec());
        // The id is a&b, the secret c:d.
        let known = match in_body {
            true => basic.is_none() && body.contains("client_id=a%26b&client_secret=c%3Ad"),
            false => basic.as_deref() == Some(b"Basic YSUyNmI6YyUzQWQ="),
        };
        let status = |status: StatusCode| Response::builder().status(status);
        if !known {
            return status(StatusCode::UNAUTHORIZED).body(Bytes::new()).expect("a response");
        }
        assert!(body.starts_with("grant_type=client_credentials&scope=one+two&who=me"), "{body}");
        let token = given.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            "{{\"access_token\":\"t{token}\",\"token_type\":\"bearer\",\"expires_in\":{lasts}}}"
        );
        status(StatusCode::OK).body(body.into()).expect("a response")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_shown_a_token() {
    for (in_body, lasts) in [(false, "3600"), (true, "\"3600\""), (false, "10")] {
        let given = Arc::new(AtomicUsize::new(0));
        let at = tokens(lasts, in_body, given.clone()).await;
        let target = serve(|request| {
            let shown = request.headers().get("authorization");
            let shown = shown.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
            match shown.as_deref().and_then(|shown| shown.strip_prefix("Bearer t")) {
                Some(number) => page(format!("token {number}\n")),
                None => Response::builder().status(401).body(Bytes::new()).expect("a response"),
            }
        })
        .await;
        let more = format!(
            "  oauth2:\n    client_id: a&b\n    client_secret: 'c:d'\n    scopes: [one, two]\n    \
             endpoint_params: {{who: me}}\n    token_url: http://{at}/token\n"
        );
        let door = Door::open(&config(&target.to_string(), &more));
        door.sees("sum(up)", &[("{}", "1")]).await;
        door.sees(
            "count_over_time(token[1m]) > bool 4",
            &[(
                "{\"instance\":\"T\",\"job\":\"t\"}".replace('T', &target.to_string()).as_str(),
                "1",
            )],
        )
        .await;
        // One that is about to end is not shown again.
        let given = given.load(Ordering::Relaxed);
        assert!(if lasts == "10" { given > 3 } else { given == 1 }, "{lasts}: {given}");
    }
    let target = serve(|_| page("a 1\n")).await;
    let none = serve(|_| Response::builder().status(500).body(Bytes::new()).expect("one")).await;
    let more =
        format!("  oauth2: {{client_id: a, client_secret: b, token_url: 'http://{none}/'}}\n");
    let door = Door::open(&config(&target.to_string(), &more));
    says(&door, "oauth2: the token's server answered 500").await;
}
