//! `synod config`: a configuration of monitoring, looked over without a server.

use crate::Outcome;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use synod_door_prom::config::{Config, Findings};

/// Arguments of `synod config`.
#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a prometheus.yml and the files that it names, as promtool does; tell what has no
    /// effect in Synod
    Check {
        /// Files in the form of Prometheus's configuration
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Runs it.
pub fn run(args: &ConfigArgs) -> Outcome {
    let ConfigCommand::Check { files } = &args.command;
    let wrong = files.iter().filter(|file| !check(file)).count();
    match wrong {
        0 => Ok(()),
        _ => Err(format!("{wrong} of {} files cannot be used", files.len())),
    }
}

/// Says what there is to say of a file; gives whether it can be used.
fn check(file: &Path) -> bool {
    println!("Checking {}", file.display());
    let Findings { wrong, ignored, doubtful, jobs, rule_files } = Config::examine(file);
    if wrong.is_empty() {
        println!("  SUCCESS: {jobs} scrape jobs, {} rule files", rule_files.len());
        rule_files.iter().for_each(|(name, rules)| println!("  {name}: {rules} rules found"));
    } else {
        println!("  FAILED:");
        wrong.iter().for_each(|why| println!("    {why}"));
    }
    doubtful.iter().for_each(|what| println!("  WARNING: {what}"));
    ignored.iter().for_each(|field| println!("  no effect: {field}"));
    wrong.is_empty()
}
