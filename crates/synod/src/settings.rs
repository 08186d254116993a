//! The settings of a node: flags, `SYNOD_*` variables and a TOML file, the same
//! names in all three (a flag `--data-dir` is `SYNOD_DATA_DIR` and `data-dir`).
//! A flag beats a variable, a variable beats the file, the file the default.

use crate::Outcome;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use synod_cell::CellLimits;
use synod_consensus::{Limits, Protocol};
use synod_door_etcd::DoorConfig;
use synod_host::{ClusterState, Config};

/// Arguments of `synod server`.
#[derive(Args, Default)]
pub struct ServerArgs {
    /// TOML file with any of the settings below
    #[arg(long, env = "SYNOD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the resulting configuration as TOML and exit
    #[arg(long)]
    pub print_config: bool,
    /// End when the process that started this one does
    #[arg(long, hide = true)]
    pub with_parent: bool,
    #[command(flatten)]
    pub settings: PartialSettings,
}

/// Declares every setting once: its name, type, default and help.
macro_rules! settings {
    ($($(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, $env:literal, $value:literal;)*) => {
        /// Settings as one source gives them: what is absent is left to the next.
        #[derive(Args, Serialize, Deserialize, Clone, Default, Debug)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub struct PartialSettings {
            $($(#[doc = $doc])*
            #[arg(long, env = $env, value_name = $value)]
            pub $name: Option<$type>,)*
        }

        /// All settings of a node.
        #[derive(Serialize, Clone, Debug)]
        #[serde(rename_all = "kebab-case")]
        pub struct Settings {
            $($(#[doc = $doc])* pub $name: $type,)*
        }

        impl Default for Settings {
            fn default() -> Settings {
                Settings { $($name: $default,)* }
            }
        }

        impl PartialSettings {
            /// What is given here, else what is given in `below`, else the default.
            pub fn over(self, below: PartialSettings) -> Settings {
                let default = Settings::default();
                Settings { $($name: self.$name.or(below.$name).unwrap_or(default.$name),)* }
            }
        }
    };
}

settings! {
    /// The node's name, as in the initial cluster
    name: String = "default".into(), "SYNOD_NAME", "NAME";
    /// Where it keeps its data [default: NAME.synod]
    data_dir: PathBuf = PathBuf::new(), "SYNOD_DATA_DIR", "DIR";
    /// Addresses for clients (gRPC, JSON, health, metrics), separated by commas [default: http://127.0.0.1:2379]
    listen_client_urls: String = "http://127.0.0.1:2379".into(), "SYNOD_LISTEN_CLIENT_URLS", "URLS";
    /// Addresses for peers, separated by commas [default: http://127.0.0.1:2380]
    listen_peer_urls: String = "http://127.0.0.1:2380".into(), "SYNOD_LISTEN_PEER_URLS", "URLS";
    /// Addresses for people and monitoring (metrics, health), separated by commas; empty: none [default: http://127.0.0.1:7070]
    listen_http_urls: String = "http://127.0.0.1:7070".into(), "SYNOD_LISTEN_HTTP_URLS", "URLS";
    /// What clients are told to connect to [default: the listening addresses]
    advertise_client_urls: String = String::new(), "SYNOD_ADVERTISE_CLIENT_URLS", "URLS";
    /// What peers are told to connect to [default: the listening addresses]
    initial_advertise_peer_urls: String = String::new(), "SYNOD_INITIAL_ADVERTISE_PEER_URLS", "URLS";
    /// The first members, NAME=URL separated by commas [default: this node alone]
    initial_cluster: String = String::new(), "SYNOD_INITIAL_CLUSTER", "MEMBERS";
    /// `new` to make the cluster, `existing` to join one that has added this node [default: new]
    initial_cluster_state: String = "new".into(), "SYNOD_INITIAL_CLUSTER_STATE", "STATE";
    /// Tells apart clusters with equal addresses [default: synod-cluster]
    initial_cluster_token: String = "synod-cluster".into(), "SYNOD_INITIAL_CLUSTER_TOKEN", "TOKEN";
    /// How the cell agrees, fixed when it is made: raft, paxos or zab [default: as it was made, a new one: raft]
    protocol: String = String::new(), "SYNOD_PROTOCOL", "NAME";
    /// A leader's heartbeat, ms. 10 to 1000 [default: 20]
    heartbeat_ms: u64 = Limits::default().heartbeat_ms, "SYNOD_HEARTBEAT_MS", "MS";
    /// Silence after which a follower campaigns (up to twice this), ms. At least 3 heartbeats [default: 150]
    election_ms: u64 = Limits::default().election_ms, "SYNOD_ELECTION_MS", "MS";
    /// A leader whose journal write takes longer hands over, ms. At least election-ms [default: 1000]
    disk_stall_ms: u64 = Limits::default().disk_stall_ms, "SYNOD_DISK_STALL_MS", "MS";
    /// Answer linearizable reads within a leader's lease; assumes clocks that differ in rate by less than 10 % [default: false]
    lease_reads: bool = false, "SYNOD_LEASE_READS", "BOOL";
    /// Bytes of keyspace at which writes are refused; 0: no quota [default: 0]
    quota_bytes: u64 = 0, "SYNOD_QUOTA_BYTES", "BYTES";
    /// Largest request, bytes [default: 1572864]
    max_request_bytes: usize = DoorConfig::default().request_bytes_max, "SYNOD_MAX_REQUEST_BYTES", "BYTES";
    /// Most operations in one list of a transaction [default: 128]
    max_txn_ops: usize = DoorConfig::default().txn_ops_max, "SYNOD_MAX_TXN_OPS", "COUNT";
    /// Interval of progress notes on idle watches that ask for them, ms [default: 600000]
    watch_progress_ms: u64 = DoorConfig::default().progress_ms, "SYNOD_WATCH_PROGRESS_MS", "MS";
    /// Keep this much history and compact what is older, s; 0: never [default: 0]
    auto_compaction_s: u64 = 0, "SYNOD_AUTO_COMPACTION_S", "SECONDS";
    /// Keep this many revisions and compact what is older; 0: never [default: 0]
    auto_compaction_revisions: u64 = 0, "SYNOD_AUTO_COMPACTION_REVISIONS", "COUNT";
    /// Compare all members' data this often, s; 0: only after elections [default: 3600]
    corrupt_check_s: u64 = 3_600, "SYNOD_CORRUPT_CHECK_S", "SECONDS";
    /// Memory for the state's cache, bytes [default: 67108864]
    cache_bytes: u64 = 64 << 20, "SYNOD_CACHE_BYTES", "BYTES";
    /// Size of a journal segment, bytes; larger than the largest request [default: 16777216]
    segment_bytes: u64 = 16 << 20, "SYNOD_SEGMENT_BYTES", "BYTES";
    /// Memory for recent revisions that watches follow, bytes [default: 33554432]
    feed_bytes: usize = 32 << 20, "SYNOD_FEED_BYTES", "BYTES";
    /// Threads that serve clients; 0: by the number of cores [default: 0]
    door_threads: usize = 0, "SYNOD_DOOR_THREADS", "COUNT";
    /// Watch this node and its peers: series of the last hours, Prometheus's HTTP API [default: true]
    monitor: bool = true, "SYNOD_MONITOR", "BOOL";
    /// How long series are kept, s [default: 1296000]
    monitor_retention_s: u64 = 1_296_000, "SYNOD_MONITOR_RETENTION_S", "SECONDS";
    /// Bytes of series on disk, beyond which the oldest are dropped; 0: any [default: 1073741824]
    monitor_retention_bytes: u64 = 1 << 30, "SYNOD_MONITOR_RETENTION_BYTES", "BYTES";
    /// Bytes of the disk that monitoring leaves free for the keyspace, a tenth of the disk at most: with less, it takes no samples; 0: none [default: 1073741824]
    monitor_reserve_bytes: u64 = 1 << 30, "SYNOD_MONITOR_RESERVE_BYTES", "BYTES";
    /// Take samples that come so much later than newer ones, s; 0: none [default: 0]
    monitor_out_of_order_s: u64 = 0, "SYNOD_MONITOR_OUT_OF_ORDER_S", "SECONDS";
    /// Time that the smallest blocks of series span, s; only tests have a use for another [default: 7200]
    monitor_block_s: u64 = 7_200, "SYNOD_MONITOR_BLOCK_S", "SECONDS";
    /// Series in memory beyond which no new one is taken [default: 200000]
    monitor_series: usize = 200_000, "SYNOD_MONITOR_SERIES", "COUNT";
    /// What was scraped or pushed is durable after so long, ms [default: 5000]
    monitor_sync_ms: u64 = 5_000, "SYNOD_MONITOR_SYNC_MS", "MS";
    /// How often this node scrapes itself, ms; its peers five times less often [default: 1000]
    monitor_scrape_ms: u64 = 1_000, "SYNOD_MONITOR_SCRAPE_MS", "MS";
    /// A prometheus.yml: what is scraped, evaluated and sent on besides; read again on SIGHUP [default: none]
    monitor_config: PathBuf = PathBuf::new(), "SYNOD_MONITOR_CONFIG", "FILE";
    /// Rule files, as patterns separated by commas; read again on SIGHUP [default: none]
    monitor_rules: String = String::new(), "SYNOD_MONITOR_RULES", "PATTERNS";
    /// Evaluate the alerts about the cluster itself that are part of the program [default: true]
    monitor_shipped_rules: bool = true, "SYNOD_MONITOR_SHIPPED_RULES", "BOOL";
    /// Alertmanagers that are told of alerts, URLs separated by commas [default: none]
    monitor_alertmanagers: String = String::new(), "SYNOD_MONITOR_ALERTMANAGERS", "URLS";
    /// Addresses that get alerts as Alertmanager's webhooks do, separated by commas [default: none]
    monitor_webhooks: String = String::new(), "SYNOD_MONITOR_WEBHOOKS", "URLS";
    /// Labels that alerts get, NAME=VALUE separated by commas [default: none]
    monitor_external_labels: String = String::new(), "SYNOD_MONITOR_EXTERNAL_LABELS", "LABELS";
    /// Tell of requests that take so long, ms: a line in the log, an event, an exemplar; 0: of none [default: 100]
    slow_request_ms: u64 = DoorConfig::default().slow_ms, "SYNOD_SLOW_REQUEST_MS", "MS";
    /// Origins whose pages a browser may let ask over HTTP, separated by commas; *: all [default: *]
    cors: String = "*".into(), "SYNOD_CORS", "ORIGINS";
    /// error, warn, info, debug or trace [default: info]
    log_level: String = "info".into(), "SYNOD_LOG_LEVEL", "LEVEL";
    /// text or json [default: text]
    log_format: String = "text".into(), "SYNOD_LOG_FORMAT", "FORMAT";
    /// If the data are damaged (all are read), set them aside and fetch everything from the peers [default: false]
    rebuild: bool = false, "SYNOD_REBUILD", "BOOL";
}

/// A switch may stand alone: `--rebuild` is `--rebuild true`.
pub(crate) fn bare(arg: clap::Arg) -> clap::Arg {
    let switch = arg.get_value_names().is_some_and(|names| names[0] == "BOOL");
    if switch { arg.num_args(0..=1).default_missing_value("true") } else { arg }
}

impl ServerArgs {
    /// The settings of all sources together.
    pub fn resolve(&self) -> Outcome<Settings> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => PartialSettings::default(),
        };
        let mut settings = self.settings.clone().over(file);
        if let Some((advertise, listen)) = settings.not_advertised() {
            return Err(format!(
                "{listen} has an address that stands for all of this machine's, where others cannot \
                 reach it: say in {advertise} where they can, such as http://HOST:PORT"
            ));
        }
        settings.complete();
        settings.check()?;
        Ok(settings)
    }
}

fn read_file(path: &Path) -> Outcome<PartialSettings> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read the configuration {}: {e}", path.display()))?;
    toml::from_str(&text).map_err(|e| format!("in the configuration {}: {e}", path.display()))
}

pub(crate) fn urls(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|u| !u.is_empty()).map(str::to_owned).collect()
}

/// The members that an initial cluster names.
pub(crate) fn members(list: &str) -> Outcome<Vec<(String, String)>> {
    let pair = |m: String| match m.split_once('=') {
        Some((name, url)) if url.contains("://") => Ok((name.to_owned(), url.to_owned())),
        _ => Err(format!("initial-cluster: {m:?} is not NAME=URL")),
    };
    urls(list).into_iter().map(pair).collect()
}

/// Whether a list has the address that stands for all of a machine's: one to listen
/// on, at which nobody else can be reached.
fn any_unspecified(list: &str) -> bool {
    let unspecified = |url: String| {
        let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        let rest = rest.trim_end_matches('/');
        rest.parse::<SocketAddr>().is_ok_and(|a| a.ip().is_unspecified())
    };
    urls(list).into_iter().any(unspecified)
}

/// The addresses to listen on that a list of URLs names.
pub(crate) fn addresses(what: &str, list: &str) -> Outcome<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for url in urls(list) {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!(
                "{what}: {url:?} is not an http:// URL (TLS and unix sockets are not built yet)"
            ));
        };
        let rest = rest.trim_end_matches('/');
        let found = rest
            .to_socket_addrs()
            .map_err(|e| format!("{what}: {url:?} does not name HOST:PORT: {e}"))?;
        all.extend(found.take(1));
    }
    Ok(all)
}

impl Settings {
    /// What has to be advertised in words, since the address that is listened on names no
    /// machine: that setting, and the one with the address.
    pub fn not_advertised(&self) -> Option<(&'static str, &'static str)> {
        let missing =
            |advertised: &str, listen: &str| advertised.is_empty() && any_unspecified(listen);
        if missing(&self.advertise_client_urls, &self.listen_client_urls) {
            return Some(("advertise-client-urls", "listen-client-urls"));
        }
        missing(&self.initial_advertise_peer_urls, &self.listen_peer_urls)
            .then_some(("initial-advertise-peer-urls", "listen-peer-urls"))
    }

    /// Fills in what follows from other settings.
    pub fn complete(&mut self) {
        if self.data_dir.as_os_str().is_empty() {
            self.data_dir = PathBuf::from(format!("{}.synod", self.name));
        }
        if self.advertise_client_urls.is_empty() {
            self.advertise_client_urls.clone_from(&self.listen_client_urls);
        }
        if self.initial_advertise_peer_urls.is_empty() {
            self.initial_advertise_peer_urls.clone_from(&self.listen_peer_urls);
        }
        if self.initial_cluster.is_empty() {
            let urls = urls(&self.initial_advertise_peer_urls);
            let members: Vec<_> = urls.iter().map(|u| format!("{}={u}", self.name)).collect();
            self.initial_cluster = members.join(",");
        }
    }

    /// Refuses what does not fit together.
    pub fn check(&self) -> Outcome {
        self.protocol()?;
        if self.election_ms < 3 * self.heartbeat_ms || self.heartbeat_ms == 0 {
            return Err(format!(
                "election-ms ({}) must be at least three times heartbeat-ms ({})",
                self.election_ms, self.heartbeat_ms
            ));
        }
        if urls(&self.listen_client_urls).is_empty() {
            return Err("listen-client-urls is empty: no client could reach this node".into());
        }
        if self.disk_stall_ms < self.election_ms {
            return Err("disk-stall-ms must be at least election-ms".into());
        }
        if (self.segment_bytes as usize) < 4 * self.max_request_bytes.max(1 << 18) {
            return Err("segment-bytes must be at least four times max-request-bytes".into());
        }
        if self.monitor && (self.monitor_scrape_ms < 100 || self.monitor_retention_s == 0) {
            return Err(
                "monitor-scrape-ms must be at least 100, monitor-retention-s at least 1".into()
            );
        }
        if self.monitor && self.monitor_block_s == 0 {
            return Err("monitor-block-s must be at least 1".into());
        }
        self.cluster_state().map(drop)
    }

    fn cluster_state(&self) -> Outcome<ClusterState> {
        match self.initial_cluster_state.as_str() {
            "new" => Ok(ClusterState::New),
            "existing" => Ok(ClusterState::Existing),
            other => Err(format!("initial-cluster-state is {other:?}; say new or existing")),
        }
    }

    /// What the host needs of them.
    pub fn host(&self) -> Outcome<Config> {
        let consensus = Limits {
            heartbeat_ms: self.heartbeat_ms,
            election_ms: self.election_ms,
            disk_stall_ms: self.disk_stall_ms,
            lease_reads: self.lease_reads,
            ..Limits::default()
        };
        // etcd's: five seconds, and two of its own election time-outs.
        let cell = CellLimits { consensus, quota_bytes: self.quota_bytes, ..CellLimits::default() };
        Ok(Config {
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            listen_peers: addresses("listen-peer-urls", &self.listen_peer_urls)?,
            peer_urls: urls(&self.initial_advertise_peer_urls),
            client_urls: urls(&self.advertise_client_urls),
            initial_cluster: members(&self.initial_cluster)?,
            cluster_state: self.cluster_state()?,
            token: self.initial_cluster_token.clone(),
            protocol: self.protocol()?,
            cell,
            // Sessions may live as short; etcd's clients get more (the door).
            lease_ttl_min: 1,
            cache_bytes: self.cache_bytes,
            segment_bytes: self.segment_bytes,
            feed_bytes: self.feed_bytes,
            check_ms: self.corrupt_check_s * 1_000,
            rebuild: self.rebuild,
        })
    }

    fn protocol(&self) -> Outcome<Option<Protocol>> {
        if self.protocol.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.protocol.parse()?))
    }

    /// What the door needs of them.
    pub fn door(&self) -> DoorConfig {
        DoorConfig {
            request_bytes_max: self.max_request_bytes,
            txn_ops_max: self.max_txn_ops,
            progress_ms: self.watch_progress_ms,
            quota_bytes: self.quota_bytes,
            slow_ms: self.slow_request_ms,
            cors: urls(&self.cors),
            ..DoorConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_read_back() {
        let mut settings = Settings::default();
        settings.complete();
        let text = toml::to_string(&settings).expect("TOML");
        let read: PartialSettings = toml::from_str(&text).expect("the same names");
        assert_eq!(text, toml::to_string(&read.over(PartialSettings::default())).expect("TOML"));
    }

    #[test]
    fn the_nearer_source_wins() {
        let file: PartialSettings =
            toml::from_str("name = \"file\"\nheartbeat-ms = 50").expect("ok");
        let flags = PartialSettings { name: Some("flag".into()), ..Default::default() };
        let settings = flags.over(file);
        assert_eq!((settings.name.as_str(), settings.heartbeat_ms), ("flag", 50));
    }

    #[test]
    fn what_is_advertised_names_a_machine() {
        let of = |text: &str| {
            let settings = toml::from_str(text).expect("TOML");
            let args = ServerArgs { settings, ..ServerArgs::default() };
            args.resolve()
        };
        let everywhere =
            ["http://0.0.0.0:2379", "http://[::]:2379/", "http://127.0.0.1:1,http://0.0.0.0:2"];
        for url in everywhere {
            let listen = format!("listen-client-urls = \"{url}\"\n");
            let e = of(&listen).expect_err("nobody is at that address");
            assert!(e.contains("advertise-client-urls") && e.contains("listen-client-urls"), "{e}");
            let told =
                of(&format!("{listen}advertise-client-urls = \"http://h:2379\"")).expect("ok");
            assert_eq!(told.advertise_client_urls, "http://h:2379");
            let e = of(&listen.replace("client", "peer")).expect_err("nobody is at that address");
            assert!(e.contains("initial-advertise-peer-urls"), "{e}");
        }
        let some = of("listen-client-urls = \"http://10.0.0.1:2379\"").expect("ok");
        assert_eq!(some.advertise_client_urls, "http://10.0.0.1:2379");
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(toml::from_str::<PartialSettings>("nmae = \"x\"").is_err());
    }
}
