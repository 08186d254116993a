//! Commands of this binary, as from a shell.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Signals do what they do to a program that a shell starts in the foreground, however
/// the tests were started: what was ignored then (`nohup`, `&`) would be so here.
#[allow(unsafe_code)]
pub fn from_a_shell(program: &str) -> Command {
    let mut command = Command::new(program);
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            // SAFETY: what a signal does by default runs no code of this process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: it takes no memory and no locks, and only makes system calls.
    unsafe { command.pre_exec(reset) };
    command
}

/// This binary with these arguments, and the cluster to ask.
pub fn synod(endpoints: &str, args: &[&str]) -> Command {
    let mut command = from_a_shell(env!("CARGO_BIN_EXE_synod"));
    // Before `--`, behind which all is the command's.
    command.args([args[0], "--endpoints", endpoints]).args(&args[1..]).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(endpoints: &str, args: &[&str]) -> Output {
    synod(endpoints, args).output().expect("synod runs")
}

/// What was said.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until it is so.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
