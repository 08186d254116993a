//! `synod etcd`: etcd's own flags and `ETCD_*` variables, so that a script or
//! unit file that starts etcd starts Synod. Every flag of etcd 3.5 is acted on,
//! or accepted with one logged line that it has no effect here, or refused
//! because ignoring it would be unsafe. [`FLAGS`] is the table; `docs/etcd-flags.md`
//! is written from it by a test.

use crate::Outcome;
use crate::settings::{PartialSettings, Settings};
use crate::{node, variables};
use std::collections::BTreeMap;
use synod_door_etcd::ETCD_VERSION;

/// What becomes of a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Acted on: it is this setting of `synod server`.
    Acted(&'static str),
    /// Accepted; it has no effect here, for this reason.
    NoEffect(&'static str),
    /// Refused unless it has etcd's default, for this reason.
    Refused(&'static str),
}

use Fate::{Acted, NoEffect, Refused};

const TLS: &str = "TLS is not built yet, and without it the traffic would be open";
const NO_V2: &str = "the v2 interface and its proxy are not a part of Synod";
const OWN_STORE: &str = "the state is kept in another way than etcd's";
const ONE_JOURNAL: &str = "the journal drops what it does not need by itself";
const LOGS: &str = "logs go to standard error";

/// etcd's quota where none is given, or 0.
const QUOTA_BYTES: u64 = 2 << 30;

/// etcd's flags: name, its default, what becomes of it.
const FLAGS: &[(&str, &str, Fate)] = &[
    ("name", "default", Acted("name")),
    ("data-dir", "NAME.etcd", Acted("data-dir")),
    ("wal-dir", "", NoEffect("the journal stands in the data directory")),
    ("snapshot-count", "100000", NoEffect(ONE_JOURNAL)),
    ("heartbeat-interval", "100", Acted("heartbeat-ms")),
    ("election-timeout", "1000", Acted("election-ms")),
    ("initial-election-tick-advance", "true", NoEffect("elections do not wait for ticks")),
    ("listen-peer-urls", "http://localhost:2380", Acted("listen-peer-urls")),
    ("listen-client-urls", "http://localhost:2379", Acted("listen-client-urls")),
    ("max-snapshots", "5", NoEffect(OWN_STORE)),
    ("max-wals", "5", NoEffect(ONE_JOURNAL)),
    ("quota-backend-bytes", "0", Acted("quota-bytes")),
    ("backend-bbolt-freelist-type", "map", NoEffect(OWN_STORE)),
    ("backend-batch-interval", "", NoEffect(OWN_STORE)),
    ("backend-batch-limit", "0", NoEffect(OWN_STORE)),
    ("max-txn-ops", "128", Acted("max-txn-ops")),
    ("max-request-bytes", "1572864", Acted("max-request-bytes")),
    ("max-concurrent-streams", "4294967295", NoEffect("streams are not limited")),
    ("grpc-keepalive-min-time", "5s", NoEffect("clients may ping as often as they like")),
    ("grpc-keepalive-interval", "2h", NoEffect("the server pings every 30 s")),
    ("grpc-keepalive-timeout", "20s", NoEffect("it is 20 s")),
    ("socket-reuse-port", "false", Refused("two servers on one port would split the clients")),
    ("socket-reuse-address", "false", NoEffect("the address is reused as the system allows")),
    ("initial-advertise-peer-urls", "http://localhost:2380", Acted("initial-advertise-peer-urls")),
    ("initial-cluster", "default=http://localhost:2380", Acted("initial-cluster")),
    ("initial-cluster-state", "new", Acted("initial-cluster-state")),
    ("initial-cluster-token", "etcd-cluster", Acted("initial-cluster-token")),
    ("advertise-client-urls", "http://localhost:2379", Acted("advertise-client-urls")),
    ("discovery", "", Refused("discovery services are not built: give --initial-cluster")),
    ("discovery-fallback", "proxy", NoEffect(NO_V2)),
    ("discovery-proxy", "", NoEffect(NO_V2)),
    ("discovery-srv", "", Refused("discovery by DNS is not built: give --initial-cluster")),
    ("discovery-srv-name", "", NoEffect("discovery by DNS is not built")),
    (
        "strict-reconfig-check",
        "true",
        Refused("it is always on: off, a change could lose the quorum"),
    ),
    (
        "pre-vote",
        "true",
        NoEffect("it is always on: off, a returning member would disturb the leader"),
    ),
    ("auto-compaction-retention", "0", Acted("auto-compaction-s")),
    ("auto-compaction-mode", "periodic", Acted("auto-compaction-revisions")),
    ("enable-v2", "false", Refused(NO_V2)),
    ("v2-deprecation", "not-yet", NoEffect(NO_V2)),
    ("cert-file", "", Refused(TLS)),
    ("key-file", "", Refused(TLS)),
    ("client-cert-auth", "false", Refused(TLS)),
    ("client-crl-file", "", Refused(TLS)),
    ("client-cert-allowed-hostname", "", Refused(TLS)),
    ("trusted-ca-file", "", Refused(TLS)),
    ("auto-tls", "false", Refused(TLS)),
    ("peer-cert-file", "", Refused(TLS)),
    ("peer-key-file", "", Refused(TLS)),
    ("peer-client-cert-auth", "false", Refused(TLS)),
    ("peer-trusted-ca-file", "", Refused(TLS)),
    ("peer-cert-allowed-cn", "", Refused(TLS)),
    ("peer-cert-allowed-hostname", "", Refused(TLS)),
    ("peer-auto-tls", "false", Refused(TLS)),
    ("self-signed-cert-validity", "1", NoEffect("TLS is not built yet")),
    ("peer-crl-file", "", Refused(TLS)),
    ("cipher-suites", "", Refused(TLS)),
    ("cors", "*", Acted("cors")),
    ("host-whitelist", "*", Refused("checking the Host header is not built")),
    ("auth-token", "simple", Refused("authentication is not built yet")),
    ("bcrypt-cost", "10", NoEffect("authentication is not built yet")),
    ("auth-token-ttl", "300", NoEffect("authentication is not built yet")),
    ("enable-pprof", "false", NoEffect("there are no profiling pages")),
    ("metrics", "basic", NoEffect("all metrics are always there")),
    ("listen-metrics-urls", "", Acted("listen-http-urls")),
    ("logger", "zap", NoEffect(LOGS)),
    ("log-outputs", "default", NoEffect(LOGS)),
    ("log-level", "info", Acted("log-level")),
    ("enable-log-rotation", "false", NoEffect(LOGS)),
    ("log-rotation-config-json", "", NoEffect(LOGS)),
    ("experimental-enable-distributed-tracing", "false", NoEffect("tracing is not built")),
    (
        "experimental-distributed-tracing-address",
        "localhost:4317",
        NoEffect("tracing is not built"),
    ),
    ("experimental-distributed-tracing-service-name", "etcd", NoEffect("tracing is not built")),
    ("experimental-distributed-tracing-instance-id", "", NoEffect("tracing is not built")),
    ("proxy", "off", Refused(NO_V2)),
    ("proxy-failure-wait", "5000", NoEffect(NO_V2)),
    ("proxy-refresh-interval", "30000", NoEffect(NO_V2)),
    ("proxy-dial-timeout", "1000", NoEffect(NO_V2)),
    ("proxy-write-timeout", "5000", NoEffect(NO_V2)),
    ("proxy-read-timeout", "0", NoEffect(NO_V2)),
    (
        "experimental-initial-corrupt-check",
        "false",
        NoEffect("data are compared after every election"),
    ),
    ("experimental-corrupt-check-time", "0s", Acted("corrupt-check-s")),
    ("experimental-enable-v2v3", "", Refused(NO_V2)),
    (
        "experimental-enable-lease-checkpoint",
        "false",
        NoEffect("leases always keep their remaining time"),
    ),
    ("experimental-compaction-batch-limit", "1000", NoEffect(OWN_STORE)),
    ("experimental-peer-skip-client-san-verification", "false", Refused(TLS)),
    ("experimental-watch-progress-notify-interval", "10m", Acted("watch-progress-ms")),
    ("experimental-warning-apply-duration", "100ms", Acted("slow-request-ms")),
    ("experimental-txn-mode-write-with-shared-buffer", "true", NoEffect(OWN_STORE)),
    ("experimental-bootstrap-defrag-threshold-megabytes", "0", NoEffect(OWN_STORE)),
    // Those below came with later releases of etcd 3.5.
    ("listen-client-http-urls", "", Acted("listen-http-urls")),
    (
        "experimental-compact-hash-check-enabled",
        "false",
        NoEffect("data are compared after every election and on a schedule"),
    ),
    (
        "experimental-compact-hash-check-time",
        "1m",
        NoEffect("data are compared after every election and on a schedule"),
    ),
    (
        "experimental-wait-cluster-ready-timeout",
        "5s",
        NoEffect("a node is ready when it can take requests"),
    ),
    (
        "experimental-stop-grpc-service-on-defrag",
        "false",
        NoEffect("a node serves while it defragments"),
    ),
    ("experimental-snapshot-catchup-entries", "5000", NoEffect(OWN_STORE)),
    ("force-new-cluster", "false", Refused("use `synod snapshot save` and `restore` instead")),
    ("unsafe-no-fsync", "false", NoEffect("Synod never acknowledges what is not durable")),
    (
        "config-file",
        "",
        Refused("etcd's YAML is not read: use flags, ETCD_* or `synod server --config`"),
    ),
];

fn help() -> String {
    let mut text =
        String::from("synod etcd: a Synod node, started with etcd's flags or ETCD_* variables\n\n");
    for (name, default, fate) in FLAGS {
        let fate = match fate {
            Acted(setting) => format!("acted on ({setting})"),
            NoEffect(why) => format!("no effect: {why}"),
            Refused(why) => format!("refused: {why}"),
        };
        text += &format!("  --{name} '{default}'\n      {fate}\n");
    }
    text
}

/// `synod etcd`.
pub fn run(args: &[String]) -> Outcome {
    if args.iter().any(|a| matches!(a.as_str(), "--version" | "-version")) {
        println!("etcd Version: {ETCD_VERSION}");
        println!("Git SHA: synod-{}", env!("CARGO_PKG_VERSION"));
        println!("Go Version: none (Synod)");
        println!("Go OS/Arch: {}/{}", std::env::consts::OS, std::env::consts::ARCH);
        return Ok(());
    }
    if args.iter().any(|a| matches!(a.as_str(), "--help" | "-help" | "-h")) {
        print!("{}", help());
        return Ok(());
    }
    let mut given = from_environment(std::env::vars());
    given.extend(from_flags(args)?);
    let (settings, notes) = settings(&given)?;
    node::start_logging(&settings)?;
    // etcd takes this one as leave to run on a machine that it was not tried on.
    let more = ["UNSUPPORTED_ARCH"];
    let flags = FLAGS.iter().map(|(name, _, _)| *name).chain(more);
    variables::warn_unknown("ETCD_", &flags.map(variable).collect());
    variables::warn_unknown("SYNOD_", &variables::own());
    for (flag, reason) in notes {
        tracing::warn!(flag, reason, "a flag has no effect here");
    }
    node::run_node(&settings)
}

fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.replace('-', "_").to_uppercase())
}

fn from_environment(
    vars: impl Iterator<Item = (String, String)>,
) -> BTreeMap<&'static str, String> {
    // As in etcd, what is set to nothing is not set.
    let vars: BTreeMap<String, String> = vars.filter(|(_, value)| !value.is_empty()).collect();
    let named =
        FLAGS.iter().filter_map(|(name, _, _)| Some((*name, vars.get(&variable(name))?.clone())));
    named.collect()
}

fn from_flags(args: &[String]) -> Outcome<BTreeMap<&'static str, String>> {
    let mut given = BTreeMap::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            return Err(format!("{arg:?} is not a flag"));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let known = FLAGS.iter().find(|(n, _, _)| *n == name);
        let Some((name, default, _)) = known else {
            return Err(format!("etcd 3.5 has no flag --{name} (see `synod etcd --help`)"));
        };
        let boolean = matches!(*default, "true" | "false");
        let value = match value {
            Some(value) => value,
            None if boolean => "true".into(),
            None => args.next().cloned().ok_or_else(|| format!("--{name} needs a value"))?,
        };
        given.insert(*name, value);
    }
    Ok(given)
}

/// Flags without effect, each with the reason.
type Notes = Vec<(&'static str, &'static str)>;

/// Settings of a node, and flags without effect with the reason.
fn settings(given: &BTreeMap<&'static str, String>) -> Outcome<(Settings, Notes)> {
    let mut partial = PartialSettings::default();
    let mut notes = Vec::new();
    for (name, default, fate) in FLAGS {
        let Some(value) = given.get(name) else { continue };
        match fate {
            Acted(_) => act(&mut partial, name, value, given)?,
            NoEffect(why) => notes.push((*name, *why)),
            Refused(_) if value == default => {}
            Refused(why) => return Err(format!("--{name}={value} is refused: {why}")),
        }
    }
    // etcd's defaults, where they differ from those of `synod server`.
    let name = partial.name.clone().unwrap_or_else(|| "default".into());
    partial.data_dir.get_or_insert_with(|| format!("{name}.etcd").into());
    partial.listen_http_urls.get_or_insert_default();
    partial.quota_bytes.get_or_insert(QUOTA_BYTES);
    partial.initial_cluster_token.get_or_insert_with(|| "etcd-cluster".into());
    let mut settings = partial.over(PartialSettings::default());
    if let Some((advertise, listen)) = settings.not_advertised() {
        // etcd's words, which it has for any address.
        return Err(format!("--{advertise} is required when --{listen} is set explicitly"));
    }
    settings.complete();
    settings.check()?;
    Ok((settings, notes))
}

fn act(
    p: &mut PartialSettings,
    name: &str,
    value: &str,
    given: &BTreeMap<&'static str, String>,
) -> Outcome {
    let text = || Some(value.to_owned());
    let number =
        || value.parse::<u64>().map_err(|_| format!("--{name}: {value:?} is not a number"));
    match name {
        "name" => p.name = text(),
        "cors" => p.cors = text(),
        "data-dir" => p.data_dir = Some(value.into()),
        "heartbeat-interval" => p.heartbeat_ms = Some(number()?),
        "election-timeout" => {
            p.election_ms = Some(number()?);
            p.disk_stall_ms = Some(number()?.max(1_000));
        }
        "listen-peer-urls" => p.listen_peer_urls = text(),
        "listen-client-urls" => p.listen_client_urls = text(),
        "quota-backend-bytes" => {
            let bytes: i64 =
                value.parse().map_err(|_| format!("--{name}: {value:?} is not a number"))?;
            // Negative: none, which is 0 among our settings.
            p.quota_bytes = match bytes {
                0 => Some(QUOTA_BYTES),
                bytes => Some(bytes.max(0) as u64),
            };
        }
        "max-txn-ops" => p.max_txn_ops = Some(number()? as usize),
        "max-request-bytes" => {
            let most = number()?;
            p.max_request_bytes = Some(most as usize);
            p.segment_bytes = Some((4 * most).next_power_of_two().max(16 << 20));
        }
        "initial-advertise-peer-urls" => p.initial_advertise_peer_urls = text(),
        "initial-cluster" => p.initial_cluster = text(),
        "initial-cluster-state" => p.initial_cluster_state = text(),
        "initial-cluster-token" => p.initial_cluster_token = text(),
        "advertise-client-urls" => p.advertise_client_urls = text(),
        "listen-metrics-urls" | "listen-client-http-urls" => {
            let before = p.listen_http_urls.take().filter(|urls| !urls.is_empty());
            p.listen_http_urls = Some(
                [before.as_deref(), Some(value)]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(","),
            );
        }
        "log-level" => p.log_level = Some(log_level(value)),
        "experimental-corrupt-check-time" => {
            p.corrupt_check_s = Some(duration_ms(name, value)?.div_ceil(1_000));
        }
        "experimental-watch-progress-notify-interval" => {
            p.watch_progress_ms = Some(duration_ms(name, value)?);
        }
        "experimental-warning-apply-duration" => {
            p.slow_request_ms = Some(duration_ms(name, value)?);
        }
        "auto-compaction-mode" if !matches!(value, "periodic" | "revision") => {
            return Err(format!("--{name} is {value:?}; say periodic or revision"));
        }
        "auto-compaction-retention" => {
            if given.get("auto-compaction-mode").is_some_and(|mode| mode == "revision") {
                p.auto_compaction_revisions = Some(number()?);
            } else {
                // A bare number means hours. A part of a second is not "never".
                let ms = match value.parse::<u64>() {
                    Ok(hours) => hours.saturating_mul(3_600_000),
                    Err(_) => duration_ms(name, value)?,
                };
                p.auto_compaction_s = Some(ms.div_ceil(1_000));
            }
        }
        _ => {}
    }
    Ok(())
}

fn log_level(value: &str) -> String {
    match value {
        "panic" | "fatal" | "dpanic" => "error".into(),
        other => other.into(),
    }
}

/// Go's durations: `1h30m`, `10m`, `500ms`.
fn duration_ms(name: &str, text: &str) -> Outcome<u64> {
    let bad = || format!("--{name}: {text:?} is not a duration such as 10m or 1h30m");
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |i| i + digits);
        total += number
            * match &rest[digits..unit_end] {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1_000.0,
                "ms" => 1.0,
                "us" | "µs" => 0.001,
                "ns" => 0.000_001,
                _ => return Err(bad()),
            };
        rest = &rest[unit_end..];
    }
    // What is shorter than one is not 0, which often means never.
    Ok((total as u64).max(u64::from(total > 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Outcome<(Settings, Notes)> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        settings(&from_flags(&args)?)
    }

    #[test]
    fn flags_are_acted_on_noted_or_refused() {
        let (s, notes) =
            of(&["--name=x", "-election-timeout", "500", "--max-wals", "3", "--pre-vote"])
                .expect("ok");
        assert_eq!((s.name.as_str(), s.election_ms), ("x", 500));
        assert_eq!(s.data_dir.to_str(), Some("x.etcd"));
        assert_eq!(notes.iter().map(|n| n.0).collect::<Vec<_>>(), ["max-wals", "pre-vote"]);
        // Ignoring these is safe.
        let (_, notes) = of(&["--pre-vote=false", "--unsafe-no-fsync"]).expect("ok");
        assert_eq!(notes.iter().map(|n| n.0).collect::<Vec<_>>(), ["pre-vote", "unsafe-no-fsync"]);
        assert!(of(&["--cert-file=x"]).expect_err("refused").contains("TLS"));
        assert!(of(&["--nonsense"]).is_err());
        let (s, _) = of(&["--auto-compaction-retention=1h30m"]).expect("ok");
        assert_eq!(s.auto_compaction_s, 5_400);
        for (retention, seconds) in
            [("500ms", 1), ("1ns", 1), ("1500ms", 2), ("2", 7_200), ("0", 0), ("0s", 0)]
        {
            let (s, _) = of(&["--auto-compaction-retention", retention]).expect("ok");
            assert_eq!(s.auto_compaction_s, seconds, "{retention}");
        }
        let (s, _) = of(&["--experimental-corrupt-check-time=10ms"]).expect("ok");
        assert_eq!(s.corrupt_check_s, 1);
        for args in [&["--auto-compaction-mode=foo"][..], &["--auto-compaction-retention=soon"]] {
            assert!(of(args).is_err(), "{args:?}");
        }
        let mode = "--auto-compaction-mode=revision";
        let (s, _) = of(&[mode, "--auto-compaction-retention=1000"]).expect("ok");
        assert_eq!(s.auto_compaction_revisions, 1_000);
    }

    #[test]
    fn a_quota_is_what_it_is_in_etcd() {
        for (args, bytes) in [
            (&[][..], 2 << 30),
            (&["--quota-backend-bytes=0"], 2 << 30),
            (&["--quota-backend-bytes", "8589934592"], 8 << 30),
            (&["--quota-backend-bytes=-1"], 0),
            (&["--quota-backend-bytes", "-5"], 0),
        ] {
            assert_eq!(of(args).expect("ok").0.quota_bytes, bytes, "{args:?}");
        }
        assert!(of(&["--quota-backend-bytes=-x"]).is_err());
        assert!(of(&["--quota-backend-bytes=2G"]).is_err());
    }

    #[test]
    fn nobody_is_told_to_connect_to_an_unspecified_address() {
        let everywhere = "--listen-client-urls=http://0.0.0.0:2379";
        assert_eq!(
            of(&[everywhere]).expect_err("refused"),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        );
        let (s, _) = of(&[everywhere, "--advertise-client-urls=http://h:2379"]).expect("ok");
        assert_eq!(s.advertise_client_urls, "http://h:2379");
        assert!(of(&["--listen-peer-urls=http://[::]:2380"]).is_err());
        let (s, _) = of(&["--listen-client-urls=http://10.0.0.1:2379"]).expect("ok");
        assert_eq!(s.advertise_client_urls, "http://10.0.0.1:2379");
    }

    #[test]
    fn variables_name_the_same_flags() {
        let vars = [("ETCD_INITIAL_CLUSTER_STATE".to_owned(), "existing".to_owned())];
        let given = from_environment(vars.into_iter());
        assert_eq!(given.get("initial-cluster-state").map(String::as_str), Some("existing"));
    }

    /// Rewritten with `SYNOD_REWRITE=1`.
    #[test]
    fn the_table_in_the_docs_is_this_one() {
        let mut page = String::from(
            "# etcd's flags in `synod etcd`\n\nWritten from `crates/synod/src/etcd.rs`. Each flag is also an \
             `ETCD_*` variable. A quota of 0, etcd's default, is 2 GiB as there; a negative one is \
             none.\n\n| flag | etcd's default | here |\n|---|---|---|\n",
        );
        for (name, default, fate) in FLAGS {
            let fate = match fate {
                Acted(setting) => format!("acted on: `{setting}`"),
                NoEffect(why) => format!("no effect: {why}"),
                Refused(why) => format!("refused: {why}"),
            };
            page += &format!("| `--{name}` | `{default}` | {fate} |\n");
        }
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/etcd-flags.md");
        if std::env::var_os("SYNOD_REWRITE").is_some() {
            std::fs::write(&path, &page).expect("write");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, page, "run again with SYNOD_REWRITE=1");
    }
}
