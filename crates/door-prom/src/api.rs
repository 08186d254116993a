//! Prometheus's HTTP API, as Grafana, promtool and curl use it.

use crate::exposition::Meaning;
use crate::fan::Fan;
use crate::federate;
use crate::form::{Asker, Form, Queued};
use crate::json::{self, Failure, Stats, Success, labels, list, plain, respond, text};
use crate::packed;
use crate::push;
use crate::read;
use crate::routes;
use crate::status::build_info;
use crate::store::{Monitor, now_ms};
use crate::tree;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};
use synod_promql::{Answer, Kind, Labels, Limits, Query, evaluate_counted, parse, parse_selector};
use tokio::sync::OwnedSemaphorePermit;

/// Steps of a range query, at most.
const STEPS_MAX: i64 = 11_000;
const TEXT: &str = "text/plain; charset=utf-8";

/// What is said when a list is cut off at the request's limit.
const TRUNCATED: &str = "results truncated due to limit";

impl Monitor {
    /// Whether this path is monitoring's.
    pub fn is_mine(path: &str) -> bool {
        path.starts_with("/api/v1/")
            || path.starts_with("/-/")
            || path == "/federate"
            || path == "/graph"
            || path.starts_with("/metrics/job")
    }

    /// Answers a request to one of its paths. Queries may take long, so they run beside
    /// the runtime's tasks.
    pub async fn answer(&self, mut request: Request<Bytes>) -> Response<Bytes> {
        let (monitor, begun) = (self.clone(), Instant::now());
        // Whoever leaves drops this.
        let asker = Asker::default();
        let _stay = asker.stays();
        request.extensions_mut().insert(asker);
        let turn = match self.turn(request.uri().path()).await {
            Ok(turn) => turn,
            Err(late) => return respond(Err(late)),
        };
        request.extensions_mut().insert(Queued(begun.elapsed()));
        let answering = tokio::task::spawn_blocking(move || {
            let answer = monitor.answer_now(&request);
            drop(turn);
            packed::packed(&request, answer)
        });
        let answered = answering.await;
        let well = answered
            .as_ref()
            .is_ok_and(|a| !a.status().is_client_error() && !a.status().is_server_error());
        self.own().answered(begun, well);
        match answered {
            Ok(response) => response,
            Err(e) => respond(Err(Failure {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                kind: "internal",
                why: format!("answering failed: {e}"),
            })),
        }
    }

    /// Waits for a query's turn: they must not take the processors from the node's core.
    async fn turn(&self, path: &str) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        if !matches!(path, "/api/v1/query" | "/api/v1/query_range") {
            return Ok(None);
        }
        let turns = self.0.turns.clone().acquire_owned();
        match tokio::time::timeout(self.0.settings.query_timeout, turns).await {
            // It is never closed.
            Ok(turn) => Ok(turn.ok()),
            Err(_) => Err(Failure {
                status: StatusCode::SERVICE_UNAVAILABLE,
                kind: "timeout",
                why: "query timed out in query queue".into(),
            }),
        }
    }

    fn answer_now(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path();
        match routes::methods(path) {
            None => return respond(Err(not_found(path))),
            Some(allowed) if !allowed.contains(request.method()) => {
                return routes::not_allowed(allowed);
            }
            Some(_) => {}
        }
        match path {
            "/-/healthy" => return plain(StatusCode::OK, TEXT, "Synod is Healthy.\n".into()),
            _ if !self.is_ready() => {
                let why = "Service Unavailable: the series' log is being read\n".into();
                return plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, why);
            }
            "/-/ready" => return plain(StatusCode::OK, TEXT, "Synod is Ready.\n".into()),
            "/-/reload" => {
                return match self.reload() {
                    Ok(()) => plain(StatusCode::OK, TEXT, String::new()),
                    Err(why) => {
                        let why = format!("failed to reload config: {why}\n");
                        plain(StatusCode::INTERNAL_SERVER_ERROR, TEXT, why)
                    }
                };
            }
            "/api/v1/write" => return push::write(self, request),
            "/api/v1/read" => return read::remote(self, request),
            "/api/v1/otlp/v1/metrics" => return push::otlp::answer(self, request),
            // Alerts link to where Prometheus shows an expression.
            "/graph" => {
                let form = Form::of(request, &[]);
                let query = form.get("g0.expr").unwrap_or_default();
                return Response::builder()
                    .status(StatusCode::FOUND)
                    .header("location", format!("/api/v1/query?query={}", encoded(query)))
                    .body(Bytes::new())
                    .unwrap_or_default();
            }
            "/federate" => return federate::answer(self, request),
            _ if path.starts_with("/metrics/job") => return push::gateway::answer(self, request),
            _ => {}
        }
        let form = match request.method() {
            &Method::POST => routes::form_body(request).map(|body| Form::of(request, body)),
            _ => Ok(Form::of(request, &[])),
        };
        respond(form.and_then(|form| self.data(path, &form)))
    }

    fn data(&self, path: &str, form: &Form) -> Result<Success, Failure> {
        match path {
            "/api/v1/query" => return self.query(form, false),
            "/api/v1/query_range" => return self.query(form, true),
            "/api/v1/series" => return self.series_api(form),
            "/api/v1/labels" => {
                return self
                    .names(path, form, None, |l| l.iter().map(|(n, _)| n.to_owned()).collect());
            }
            _ => {}
        }
        if let Some(name) =
            path.strip_prefix("/api/v1/label/").and_then(|p| p.strip_suffix("/values"))
        {
            let name = unescaped(name);
            if name.is_empty() {
                return Err(Failure::bad_data("invalid label name: \"\""));
            }
            return self.names(path, form, Some(&name), |l| match l.get(&name) {
                "" => Vec::new(),
                value => vec![value.to_owned()],
            });
        }
        let data = match path {
            "/api/v1/query_exemplars" => self.exemplars_api(form)?,
            "/api/v1/metadata" => self.metadata(form)?,
            "/api/v1/targets" => self.targets_api(form)?,
            "/api/v1/targets/metadata" => self.targets_metadata(form)?,
            "/api/v1/scrape_pools" => self.scrape_pools(),
            "/api/v1/format_query" => {
                let query = form.get("query").unwrap_or_default();
                let node = parse(query).map_err(|e| Failure::of_query(&e, query))?;
                text(&node.to_string())
            }
            "/api/v1/parse_query" => {
                let query = form.get("query").unwrap_or_default();
                let node = parse(query).map_err(|e| Failure::of_query(&e, query))?;
                tree::of(&node, query).to_string()
            }
            "/api/v1/rules" => self.rules_api(form)?,
            "/api/v1/alerts" => self.alerts_api(),
            "/api/v1/alertmanagers" => self.alertmanagers_api(),
            "/api/v1/status/config" => format!("{{\"yaml\":{}}}", text(&self.config().shown())),
            "/api/v1/status/buildinfo" => build_info(),
            "/api/v1/status/runtimeinfo" => self.runtime_info(),
            "/api/v1/status/flags" => self.flags(),
            "/api/v1/status/tsdb" => self.tsdb(form)?,
            _ => return Err(not_found(path)),
        };
        Ok(data.into())
    }

    /// This node's series and those of others, unless the request wants this node's alone.
    pub(crate) fn fan(&self, form: &Form, timeout: Duration) -> Result<Fan<'_>, Failure> {
        let local = match form.get("nodes").unwrap_or("all") {
            "all" => false,
            "local" => true,
            other => {
                let why =
                    format!("invalid parameter \"nodes\": {other:?} is neither all nor local");
                return Err(Failure::bad_data(why));
            }
        };
        Ok(Fan::new(self, local, form.asker(), Instant::now() + timeout))
    }

    fn query(&self, form: &Form, range: bool) -> Result<Success, Failure> {
        let begun = Instant::now();
        let most = form.limit().map_err(Failure::bad_data)?;
        let text = form.get("query").unwrap_or_default();
        let need = |time: Option<i64>, name: &str| {
            time.ok_or_else(|| {
                Failure::bad_data(format!("invalid parameter {name:?}: it is missing"))
            })
        };
        let query = if range {
            let start = need(form.time("start").map_err(Failure::bad_data)?, "start")?;
            let end = need(form.time("end").map_err(Failure::bad_data)?, "end")?;
            let step = need(form.duration("step").map_err(Failure::bad_data)?, "step")?;
            check_range(start, end, step)?;
            Query { start, end, step }
        } else {
            let at = form.time("time").map_err(Failure::bad_data)?;
            Query::instant(at.unwrap_or_else(now_ms))
        };
        let longest = self.0.settings.query_timeout;
        let asked = form.duration("timeout").map_err(Failure::bad_data)?;
        let timeout =
            asked.map_or(longest, |ms| longest.min(Duration::from_millis(ms.max(0) as u64)));
        let lookback = form.duration("lookback_delta").map_err(Failure::bad_data)?;
        let mut limits: Limits = self.0.settings.query;
        limits.lookback = lookback.filter(|l| *l > 0).unwrap_or(limits.lookback);
        let failed = |e: synod_promql::Error| Failure::of_query(&e, text);
        let node = parse(text).map_err(failed)?;
        if range && !matches!(node.kind(), Kind::Scalar | Kind::Vector) {
            return Err(Failure::bad_data(format!(
                "invalid parameter \"query\": invalid expression type \"{}\" for range query, must \
                 be Scalar or instant Vector",
                node.kind().name()
            )));
        }
        let source = self.fan(form, timeout)?;
        let mut stats = Stats { prepared: begun.elapsed(), ..Stats::default() };
        let counted = evaluate_counted(&node, query, &source, limits);
        let (mut answer, notes, counts) = counted.map_err(failed)?;
        (stats.evaluated, stats.counts) = (begun.elapsed() - stats.prepared, counts);
        if range && let Answer::Vector(series) = &mut answer {
            series.sort_by(|a, b| a.labels.cmp(&b.labels));
        }
        stats.sorted = begun.elapsed() - stats.prepared - stats.evaluated;
        let cut = truncate(&mut answer, most);
        let mut data = json::answer(&answer, query, range);
        if form.get("stats").is_some_and(|stats| !stats.is_empty()) {
            stats.queued = form.queued();
            data.truncate(data.len() - 1);
            stats.put(&mut data);
            data.push('}');
        }
        let mut said = Success { data, warnings: source.warnings(), infos: Vec::new() };
        said.warnings.extend(cut.then(|| TRUNCATED.to_owned()));
        for note in notes {
            let place = synod_promql::place(text, note.at);
            let (kind, list) = match note.warns {
                true => ("warning", &mut said.warnings),
                false => ("info", &mut said.infos),
            };
            list.push(format!("PromQL {kind}: {} ({place})", note.text));
        }
        Ok(said)
    }

    /// The labels of series that `match[]` names, within the time asked for.
    fn matched(&self, form: &Form) -> Result<BTreeSet<Labels>, Failure> {
        let mut sets = Vec::new();
        for selector in form.all("match[]") {
            let matchers = parse_selector(selector)
                .map_err(|e| Failure::bad_data(format!("invalid parameter \"match[]\": {e}")))?;
            sets.push(matchers);
        }
        let (from, to) = form.span().map_err(Failure::bad_data)?;
        self.labels_of(&sets, from, to).map_err(Failure::internal)
    }

    fn series_api(&self, form: &Form) -> Result<Success, Failure> {
        if form.get("match[]").is_none() {
            return Err(Failure::bad_data("no match[] parameter provided"));
        }
        let (mut found, limit) = (self.matched(form)?, form.limit().map_err(Failure::bad_data)?);
        let (others, mut warnings) = self.elsewhere("/api/v1/series", form, limit)?;
        for series in others.iter().filter_map(|s| s.as_object()) {
            let pairs = series.iter().filter_map(|(n, v)| Some((&**n, v.as_str()?)));
            found.insert(Labels::new(pairs));
        }
        let mut data = String::new();
        list(&mut data, found.iter().take(limit), labels);
        warnings.extend((found.len() > limit).then(|| TRUNCATED.to_owned()));
        Ok(Success { data, warnings, infos: Vec::new() })
    }

    /// What some or all series have, each once and in order: their labels' names, or their
    /// values of one.
    fn names(
        &self,
        path: &str,
        form: &Form,
        name: Option<&str>,
        of: impl Fn(&Labels) -> Vec<String>,
    ) -> Result<Success, Failure> {
        let limit = form.limit().map_err(Failure::bad_data)?;
        let (from, to) = form.span().map_err(Failure::bad_data)?;
        let mut all: BTreeSet<String> = match form.get("match[]") {
            None => self.texts(name, from, to).map_err(Failure::internal)?,
            Some(_) => self.matched(form)?.iter().flat_map(of).collect(),
        };
        let (others, mut warnings) = self.elsewhere(path, form, limit)?;
        all.extend(others.iter().filter_map(|name| Some(name.as_str()?.to_owned())));
        let mut data = String::new();
        list(&mut data, all.iter().take(limit), |out, n| out.push_str(&text(n)));
        warnings.extend((all.len() > limit).then(|| TRUNCATED.to_owned()));
        Ok(Success { data, warnings, infos: Vec::new() })
    }

    /// What the other nodes answer to the same question, all lists in one; of each one more
    /// than the limit, so that it is seen when something is left out.
    fn elsewhere(
        &self,
        path: &str,
        form: &Form,
        limit: usize,
    ) -> Result<(Vec<serde_json::Value>, Vec<String>), Failure> {
        let fan = self.fan(form, self.0.settings.query_timeout)?;
        let limit = if limit == usize::MAX { 0 } else { limit + 1 };
        let query = form.encoded_with(&[("nodes", "local"), ("limit", &limit.to_string())]);
        let answers = fan.ask(
            |peer| http::Request::get(format!("{}{path}?{query}", peer.url)).body(Bytes::new()),
            |body| {
                let mut answer: serde_json::Value =
                    serde_json::from_slice(body).map_err(|e| e.to_string())?;
                match answer["data"].take() {
                    serde_json::Value::Array(all) => Ok(all),
                    _ => Err("an answer without a list".into()),
                }
            },
        );
        Ok((answers.into_iter().flatten().collect(), fan.warnings()))
    }

    fn metadata(&self, form: &Form) -> Result<String, Failure> {
        let limit = form.limit().map_err(Failure::bad_data)?;
        let wanted = form.get("metric");
        let mut meanings = self.meanings().clone();
        let source = self.fan(form, self.0.settings.query_timeout)?;
        let asked = wanted.map(|name| format!("&metric={}", encoded(name))).unwrap_or_default();
        let elsewhere = source.ask(
            |peer| {
                let url = format!("{}/api/v1/metadata?nodes=local{asked}", peer.url);
                Request::get(url).body(Bytes::new())
            },
            meanings_of,
        );
        for (name, meaning) in elsewhere.into_iter().flatten() {
            meanings.entry(name).or_insert(meaning);
        }
        let chosen = meanings.iter().filter(|(name, _)| wanted.is_none_or(|w| w == **name));
        let mut out = String::from("{");
        for (i, (name, m)) in chosen.take(limit).enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let kind = if m.kind.is_empty() { "unknown" } else { &m.kind };
            let _ = write!(
                out,
                "{comma}{}:[{{\"type\":{},\"help\":{},\"unit\":{}}}]",
                text(name),
                text(kind),
                text(&m.help),
                text(&m.unit)
            );
        }
        Ok(out + "}")
    }
}

/// Cuts an answer off behind so many series; gives whether there were more.
fn truncate(answer: &mut Answer, most: usize) -> bool {
    match answer {
        Answer::Vector(all) | Answer::Matrix(all) if all.len() > most => {
            all.truncate(most);
            true
        }
        _ => false,
    }
}

fn check_range(start: i64, end: i64, step: i64) -> Result<(), Failure> {
    if end < start {
        return Err(Failure::bad_data(
            "invalid parameter \"end\": end timestamp must not be before start time",
        ));
    }
    if step <= 0 {
        return Err(Failure::bad_data(
            "invalid parameter \"step\": zero or negative query resolution step widths are not \
             accepted. Try a positive integer",
        ));
    }
    if (end - start) / step > STEPS_MAX {
        return Err(Failure::bad_data(format!(
            "exceeded maximum resolution of {STEPS_MAX} points per timeseries. Try decreasing the \
             query resolution (?step=XX)"
        )));
    }
    Ok(())
}

fn not_found(path: &str) -> Failure {
    Failure {
        status: StatusCode::NOT_FOUND,
        kind: "not_found",
        why: format!("no such path: {path}"),
    }
}

/// A text as a parameter of an address.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What another node's answer to `/api/v1/metadata` says.
fn meanings_of(body: &[u8]) -> Result<Vec<(String, Meaning)>, String> {
    let answer: serde_json::Value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let data = answer["data"].as_object().ok_or("it has no data")?;
    let text = |m: &serde_json::Value, what: &str| m[what].as_str().unwrap_or_default().to_owned();
    let meaning = |(name, all): (&String, &serde_json::Value)| {
        let m = all.get(0)?;
        let kind = text(m, "type");
        let (help, unit) = (text(m, "help"), text(m, "unit"));
        Some((name.clone(), Meaning { kind, help, unit }))
    };
    Ok(data.iter().filter_map(meaning).collect())
}

/// Names beyond the classic alphabet come as `U__` with `_XX_` for a character and `__`
/// for an underscore.
fn unescaped(name: &str) -> String {
    let Some(rest) = name.strip_prefix("U__") else { return name.to_owned() };
    let (mut out, mut rest) = (String::new(), rest);
    while let Some(at) = rest.find('_') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let code = rest.split_once('_').and_then(|(hex, after)| {
            Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, after))
        });
        match code {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => return name.to_owned(),
        }
    }
    out + rest
}
