//! What a command that holds something says. Its reader may go away, and what is held
//! must not go with it: a word that nobody reads is dropped.

use std::io::Write;

/// A line for who reads the results.
pub(crate) fn out(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A line for who watches, behind this program's name.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "synod: {line}");
}
