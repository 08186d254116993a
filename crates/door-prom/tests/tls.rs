//! Targets behind TLS: who is trusted, by whom, and what is told when not.

mod common;

use common::{Door, serve_tls, tls_dir};

/// A configuration that scrapes this address by TLS, so.
fn config(address: std::net::SocketAddr, tls: &str) -> String {
    let dir = tls_dir();
    let tls = tls.replace("DIR", &dir.display().to_string());
    format!(
        "scrape_configs:\n- job_name: t\n  scheme: https\n  scrape_interval: 200ms\n  static_configs: \
         [{{targets: [\"{address}\"]}}]\n  tls_config: {{{tls}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_trusted_by_its_authority_only() {
    let at = serve_tls("a 1\n", false).await;
    for (tls, up, why) in [
        ("ca_file: DIR/ca.pem", "1", ""),
        ("insecure_skip_verify: true", "1", ""),
        ("ca_file: DIR/ca.pem, server_name: synod.test", "1", ""),
        ("ca_file: DIR/ca.pem, server_name: other.test", "0", "certificate"),
        ("", "0", "certificate"),
    ] {
        let door = Door::open(&config(at, tls));
        door.sees("sum(up)", &[("{}", up)]).await;
        let (_, targets) = door.get("/api/v1/targets").await;
        let error = targets["data"]["activeTargets"][0]["lastError"].to_string();
        assert!(error.contains(why), "{tls}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_wants_to_know_us_is_shown_our_certificate() {
    let at = serve_tls("a 1\n", true).await;
    let ours = "ca_file: DIR/ca.pem, cert_file: DIR/client.pem, key_file: DIR/client.key";
    for (tls, up) in [(ours, "1"), ("ca_file: DIR/ca.pem", "0")] {
        let door = Door::open(&config(at, tls));
        door.sees("sum(up)", &[("{}", up)]).await;
    }
}
