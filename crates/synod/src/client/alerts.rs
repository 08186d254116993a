//! What a node's rules say: its alerts, its rules, and files of them.

use super::Connect;
use super::query::{ask, word};
use crate::{Outcome, rules};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::path::PathBuf;
use std::time::SystemTime;
use synod_promql::duration_text;

/// Labels that every alert has, or that its row shows elsewhere.
const SHOWN: [&str; 2] = ["alertname", "severity"];

/// Arguments of `synod alerts`.
#[derive(Args)]
pub struct AlertsArgs {
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `synod rules`.
#[derive(Args)]
pub struct RulesArgs {
    #[command(subcommand)]
    command: RulesCommand,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Subcommand)]
enum RulesCommand {
    /// The rules of a node, and how their last evaluation went
    List,
    /// Check rule files, as promtool does
    Check {
        /// Rule files; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// What is right but doubtful (rules that are there twice) is an error: exit code 3
        #[arg(long)]
        lint_fatal: bool,
    },
    /// Run the unit tests of rule files, written for promtool
    Test {
        /// Files of tests
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print the rules that are part of this program
    Shipped,
}

/// How long ago a time was, roughly.
fn ago(time: &str) -> String {
    let at = humantime::parse_rfc3339(time).ok();
    let since = at.and_then(|at| SystemTime::now().duration_since(at).ok());
    let seconds = since.map_or(0, |s| s.as_secs() as i64);
    if seconds == 0 { "0s".into() } else { duration_text(seconds * 1_000) }
}

impl AlertsArgs {
    pub async fn run(self) -> Outcome {
        let data = ask(&self.connect, "/api/v1/alerts", &[]).await?;
        if self.connect.json() {
            println!("{data}");
            return Ok(());
        }
        let alerts = data["alerts"].as_array().map_or(&[][..], Vec::as_slice);
        if alerts.is_empty() {
            println!("no alert is pending or firing");
        }
        let mut rows: Vec<[String; 5]> = alerts.iter().map(row).collect();
        // Firing before pending.
        rows.sort_by(|a, b| b[0].cmp(&a[0]).reverse().then_with(|| a[2].cmp(&b[2])));
        print_rows(&rows);
        Ok(())
    }
}

fn row(alert: &Value) -> [String; 5] {
    let labels = &alert["labels"];
    let rest = labels.as_object().into_iter().flatten();
    let rest = rest.filter(|(n, _)| !SHOWN.contains(&n.as_str()));
    let rest = synod_promql::Labels::new(rest.map(|(n, v)| (n.as_str(), word(v))));
    let summary = word(&alert["annotations"]["summary"]);
    let what = if summary.is_empty() { rest.to_string() } else { summary.to_owned() };
    let text = |v: &Value| word(v).to_owned();
    [
        text(&alert["state"]),
        text(&labels["severity"]),
        text(&labels["alertname"]),
        ago(word(&alert["activeAt"])),
        what,
    ]
}

fn print_rows<const N: usize>(rows: &[[String; N]]) {
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        println!("{}", cells.collect::<String>().trim_end());
    }
}

impl RulesArgs {
    pub async fn run(self) -> Outcome {
        match self.command {
            RulesCommand::List => list(&self.connect).await,
            RulesCommand::Check { files, lint_fatal } => rules::check(&files, lint_fatal),
            RulesCommand::Test { files } => rules::test(&files),
            RulesCommand::Shipped => {
                print!("{}", rules::SHIPPED.1);
                Ok(())
            }
        }
    }
}

async fn list(connect: &Connect) -> Outcome {
    let data = ask(connect, "/api/v1/rules", &[]).await?;
    if connect.json() {
        println!("{data}");
        return Ok(());
    }
    for group in data["groups"].as_array().into_iter().flatten() {
        let every = group["interval"].as_f64().unwrap_or(0.0) * 1_000.0;
        let every = duration_text(every as i64);
        println!("{} of {}, every {every}", word(&group["name"]), word(&group["file"]));
        let rules = group["rules"].as_array().map_or(&[][..], Vec::as_slice);
        let rows: Vec<[String; 4]> = rules
            .iter()
            .map(|r| {
                let state = match word(&r["type"]) {
                    "alerting" => word(&r["state"]),
                    _ => "recording",
                };
                let error = word(&r["lastError"]);
                let what = if error.is_empty() { word(&r["query"]) } else { error };
                let text = [word(&r["health"]), state, word(&r["name"]), what];
                text.map(|t| t.split_whitespace().collect::<Vec<_>>().join(" "))
            })
            .map(|[health, rest @ ..]| {
                let [state, name, what] = rest;
                [format!("  {health}"), state, name, what]
            })
            .collect();
        print_rows(&rows);
    }
    Ok(())
}
