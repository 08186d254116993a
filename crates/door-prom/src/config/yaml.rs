//! `prometheus.yml` as it stands: the names of Prometheus 3.x. What is known and has no
//! effect here is noted, so that it can be told; what is unknown is an error.

use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;

/// A field that is known and not acted on: whether it is there.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Ignored(bool);

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Ignored, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Ignored(true))
    }
}

/// A way to authorise that is not built: whether it is there.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Demanded(pub bool);

impl<'de> Deserialize<'de> for Demanded {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Demanded, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Demanded(true))
    }
}

/// A field without a value is as if it were not there.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

/// A mapping of the file.
pub trait Section {
    /// Fields that are there and have no effect.
    fn ignored(&self) -> Vec<&'static str>;
}

/// A mapping's fields, and those without effect.
macro_rules! section {
    (
        $(#[$doc:meta])* $name:ident {
            $($field:ident: $kind:ty,)*
            ; $($none:ident),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $(#[serde(deserialize_with = "or_default")] pub $field: $kind,)*
            $(pub $none: Ignored,)*
        }

        impl Section for $name {
            fn ignored(&self) -> Vec<&'static str> {
                let all: &[(&'static str, Ignored)] = &[$((stringify!($none), self.$none)),*];
                all.iter().filter(|(_, is)| is.0).map(|(name, _)| *name).collect()
            }
        }
    };
}

/// The same with the fields of an outgoing HTTP client among its own.
macro_rules! http_section {
    (
        $(#[$doc:meta])* $name:ident {
            $($field:ident: $kind:ty,)*
            ; $($none:ident),* $(,)?
        }
    ) => {
        section! {
            $(#[$doc])* $name {
                $($field: $kind,)*
                basic_auth: Option<BasicAuth>,
                authorization: Option<Authorization>,
                bearer_token: String,
                bearer_token_file: String,
                tls_config: Tls,
                follow_redirects: Option<bool>,
                http_headers: BTreeMap<String, HeaderValues>,
                oauth2: Option<OAuth2>,
                proxy_url: String,
                no_proxy: String,
                proxy_from_environment: bool,
                proxy_connect_header: BTreeMap<String, Vec<String>>,
                ; enable_http2, $($none),*
            }
        }

        impl $name {
            fn proxy(&self) -> Proxy {
                Proxy {
                    proxy_url: self.proxy_url.clone(),
                    no_proxy: self.no_proxy.clone(),
                    proxy_from_environment: self.proxy_from_environment,
                    proxy_connect_header: self.proxy_connect_header.clone(),
                }
            }

            /// How requests are made.
            pub fn http(&self) -> Http {
                Http {
                    basic_auth: self.basic_auth.clone(),
                    authorization: self.authorization.clone(),
                    bearer_token: self.bearer_token.clone(),
                    bearer_token_file: self.bearer_token_file.clone(),
                    tls_config: self.tls_config.clone(),
                    follow_redirects: self.follow_redirects.unwrap_or(true),
                    http_headers: self.http_headers.clone(),
                    oauth2: self.oauth2.clone(),
                    proxy: self.proxy(),
                    unbuilt: None,
                }
            }
        }
    };
}

/// The HTTP client's fields of any section.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Http {
    pub basic_auth: Option<BasicAuth>,
    pub authorization: Option<Authorization>,
    pub bearer_token: String,
    pub bearer_token_file: String,
    pub tls_config: Tls,
    pub follow_redirects: bool,
    pub http_headers: BTreeMap<String, HeaderValues>,
    pub oauth2: Option<OAuth2>,
    pub proxy: Proxy,
    /// A way to authorise that is demanded and not built: there are no requests without.
    pub unbuilt: Option<&'static str>,
}

/// By way of which proxy requests go.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Proxy {
    pub proxy_url: String,
    pub no_proxy: String,
    pub proxy_from_environment: bool,
    pub proxy_connect_header: BTreeMap<String, Vec<String>>,
}

section! {
    OAuth2 {
        client_id: String,
        client_secret: String,
        client_secret_file: String,
        scopes: Vec<String>,
        token_url: String,
        endpoint_params: BTreeMap<String, String>,
        tls_config: Tls,
        proxy_url: String,
        no_proxy: String,
        proxy_from_environment: bool,
        proxy_connect_header: BTreeMap<String, Vec<String>>,
        ;
    }
}

impl OAuth2 {
    /// By way of which proxy tokens are got.
    pub fn proxy(&self) -> Proxy {
        Proxy {
            proxy_url: self.proxy_url.clone(),
            no_proxy: self.no_proxy.clone(),
            proxy_from_environment: self.proxy_from_environment,
            proxy_connect_header: self.proxy_connect_header.clone(),
        }
    }
}

section! {
    BasicAuth {
        username: String,
        username_file: String,
        password: String,
        password_file: String,
        ;
    }
}

section! {
    Authorization {
        r#type: String,
        credentials: String,
        credentials_file: String,
        credentials_ref: Demanded,
        ;
    }
}

section! {
    Tls {
        ca: String,
        ca_file: String,
        cert: String,
        cert_file: String,
        key: String,
        key_file: String,
        server_name: String,
        insecure_skip_verify: bool,
        min_version: String,
        ; max_version
    }
}

impl Tls {
    /// Whether what it says stands in files.
    pub fn reads_files(&self) -> bool {
        [&self.ca_file, &self.cert_file, &self.key_file].iter().any(|file| !file.is_empty())
    }
}

section! {
    HeaderValues {
        values: Vec<String>,
        secrets: Vec<String>,
        files: Vec<String>,
        ;
    }
}

section! {
    /// The whole file.
    File {
        global: Global,
        scrape_configs: Vec<Spanned<Scrape>>,
        scrape_config_files: Vec<String>,
        rule_files: Vec<String>,
        alerting: Alerting,
        remote_write: Vec<Spanned<RemoteWrite>>,
        storage: Storage,
        ; remote_read, tracing, otlp, runtime
    }
}

section! {
    /// What other files that `scrape_config_files` names hold.
    ScrapeFile { scrape_configs: Vec<Spanned<Scrape>>, ; }
}

section! {
    Global {
        scrape_interval: Option<String>,
        scrape_timeout: Option<String>,
        evaluation_interval: Option<String>,
        rule_query_offset: Option<String>,
        external_labels: BTreeMap<String, String>,
        body_size_limit: Option<String>,
        sample_limit: Option<usize>,
        label_limit: Option<usize>,
        label_name_length_limit: Option<usize>,
        label_value_length_limit: Option<usize>,
        target_limit: Option<usize>,
        scrape_protocols: Option<Vec<String>>,
        scrape_native_histograms: Option<bool>,
        always_scrape_classic_histograms: Option<bool>,
        ; query_log_file, scrape_failure_log_file, keep_dropped_targets,
        metric_name_validation_scheme, metric_name_escaping_scheme,
        convert_classic_histograms_to_nhcb, extra_scrape_metrics
    }
}

section! {
    Storage { tsdb: Tsdb, exemplars: Exemplars, ; }
}

section! {
    Tsdb { out_of_order_time_window: Option<String>, retention: Retention, ; }
}

section! {
    Retention { time: Option<String>, size: Option<String>, ; percentage }
}

section! {
    Exemplars { ; max_exemplars }
}

http_section! {
    Scrape {
        job_name: String,
        scrape_interval: Option<String>,
        scrape_timeout: Option<String>,
        metrics_path: Option<String>,
        scheme: Option<String>,
        params: BTreeMap<String, Vec<String>>,
        honor_labels: bool,
        honor_timestamps: Option<bool>,
        track_timestamps_staleness: bool,
        fallback_scrape_protocol: Option<String>,
        relabel_configs: Vec<Relabel>,
        metric_relabel_configs: Vec<Relabel>,
        body_size_limit: Option<String>,
        sample_limit: Option<usize>,
        label_limit: Option<usize>,
        label_name_length_limit: Option<usize>,
        label_value_length_limit: Option<usize>,
        target_limit: Option<usize>,
        static_configs: Vec<Static>,
        file_sd_configs: Vec<FileSd>,
        http_sd_configs: Vec<HttpSd>,
        dns_sd_configs: Vec<DnsSd>,
        synod_sd_configs: Vec<SynodSd>,
        scrape_protocols: Option<Vec<String>>,
        scrape_native_histograms: Option<bool>,
        enable_compression: Option<bool>,
        always_scrape_classic_histograms: Option<bool>,
        native_histogram_bucket_limit: Option<usize>,
        native_histogram_min_bucket_factor: Option<f64>,
        ; scrape_failure_log_file, keep_dropped_targets,
        metric_name_validation_scheme, metric_name_escaping_scheme,
        convert_classic_histograms_to_nhcb, scrape_classic_histograms, extra_scrape_metrics,
        aws_sd_configs, azure_sd_configs, consul_sd_configs, digitalocean_sd_configs,
        docker_sd_configs, dockerswarm_sd_configs, ec2_sd_configs, eureka_sd_configs,
        gce_sd_configs, hetzner_sd_configs, ionos_sd_configs, kubernetes_sd_configs,
        kuma_sd_configs, lightsail_sd_configs, linode_sd_configs, marathon_sd_configs,
        nerve_sd_configs, nomad_sd_configs, openstack_sd_configs, ovhcloud_sd_configs,
        puppetdb_sd_configs, scaleway_sd_configs, serverset_sd_configs, stackit_sd_configs,
        triton_sd_configs, uyuni_sd_configs, vultr_sd_configs
    }
}

section! {
    Static { targets: Vec<String>, labels: BTreeMap<String, String>, ; }
}

section! {
    FileSd { files: Vec<String>, refresh_interval: Option<String>, ; }
}

http_section! {
    HttpSd { url: String, refresh_interval: Option<String>, ; }
}

section! {
    DnsSd {
        names: Vec<String>,
        r#type: Option<String>,
        port: Option<u16>,
        refresh_interval: Option<String>,
        ;
    }
}

section! {
    /// Synod's own: the instances of services in the cluster's registry.
    SynodSd { services: Vec<String>, refresh_interval: Option<String>, ; }
}

section! {
    Relabel {
        source_labels: Vec<String>,
        separator: Option<String>,
        regex: Option<String>,
        modulus: u64,
        target_label: String,
        replacement: Option<String>,
        action: Option<String>,
        ;
    }
}

section! {
    Alerting {
        alert_relabel_configs: Vec<Relabel>,
        alertmanagers: Vec<Spanned<Alertmanager>>,
        ;
    }
}

http_section! {
    Alertmanager {
        static_configs: Vec<Static>,
        file_sd_configs: Vec<FileSd>,
        http_sd_configs: Vec<HttpSd>,
        dns_sd_configs: Vec<DnsSd>,
        synod_sd_configs: Vec<SynodSd>,
        scheme: Option<String>,
        path_prefix: String,
        timeout: Option<String>,
        api_version: Option<String>,
        relabel_configs: Vec<Relabel>,
        sigv4: Demanded,
        ; alert_relabel_configs, consul_sd_configs, kubernetes_sd_configs
    }
}

http_section! {
    RemoteWrite {
        url: String,
        name: String,
        remote_timeout: Option<String>,
        headers: BTreeMap<String, String>,
        write_relabel_configs: Vec<Relabel>,
        protobuf_message: Option<String>,
        queue_config: Queue,
        send_native_histograms: bool,
        send_exemplars: bool,
        sigv4: Demanded,
        azuread: Demanded,
        google_iam: Demanded,
        ; metadata_config, round_robin_dns
    }
}

section! {
    Queue {
        max_samples_per_send: Option<usize>,
        batch_send_deadline: Option<String>,
        min_backoff: Option<String>,
        max_backoff: Option<String>,
        retry_on_http_429: bool,
        sample_age_limit: Option<String>,
        ; capacity, min_shards, max_shards
    }
}
