//! Variables that look like settings and are none: a misspelt one would else be
//! passed over without a word.

use crate::Cli;
use clap::CommandFactory;
use std::collections::BTreeSet;

/// What commands that run a program for a holder pass to it: it may be a node.
const GIVEN: [&str; 7] = [
    "SYNOD_TOKEN",
    "SYNOD_SESSION",
    "SYNOD_SEQUENCER",
    "SYNOD_LOCK_KEY",
    "SYNOD_LOCK_NAME",
    "SYNOD_SERVICE",
    "SYNOD_INSTANCE",
];

/// The variables that any command of ours reads or passes on.
pub fn own() -> BTreeSet<String> {
    let mut names = GIVEN.map(str::to_owned).into();
    gather(&Cli::command(), &mut names);
    names
}

fn gather(command: &clap::Command, names: &mut BTreeSet<String>) {
    let variables = command.get_arguments().filter_map(|a| a.get_env());
    names.extend(variables.map(|v| v.to_string_lossy().into_owned()));
    command.get_subcommands().for_each(|c| gather(c, names));
}

/// A line in the log for every variable with this prefix that is not known.
pub fn warn_unknown(prefix: &str, known: &BTreeSet<String>) {
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for variable in unknown(prefix, known, names) {
        tracing::warn!(variable, "unrecognized environment variable");
    }
}

fn unknown(
    prefix: &str,
    known: &BTreeSet<String>,
    names: impl Iterator<Item = String>,
) -> BTreeSet<String> {
    names.filter(|name| name.starts_with(prefix) && !known.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_command_reads_is_unknown() {
        let given = ["SYNOD_NAME", "SYNOD_CONFIG", "SYNOD_ENDPOINTS", "SYNOD_TOKEN", "SYNOD_NMAE"];
        let names = given.into_iter().chain(["PATH", "ETCD_X"]).map(str::to_owned);
        let found: Vec<_> = unknown("SYNOD_", &own(), names).into_iter().collect();
        assert_eq!(found, ["SYNOD_NMAE"]);
    }
}
