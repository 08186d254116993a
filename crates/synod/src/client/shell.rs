//! Commands of checks and hooks, run by `sh -c`: each with all that it starts a process
//! group of its own, which ends as a whole.

use crate::Outcome;
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::Stdio;
use tokio::process::Command;

/// What becomes of what a command that succeeded has left running.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeftBehind {
    /// It is what the command was for: a hook may start a server.
    Stays,
    /// It ends too.
    Ends,
}

/// Kills a group when it is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody may be left in it.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs a command to its end. When it fails, or when nobody waits for it any more, all
/// that it started is killed with it.
pub(crate) async fn run(
    command: &str,
    environment: &[(&'static str, String)],
    stdout: Stdio,
    left: LeftBehind,
) -> Outcome {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(stdout).process_group(0);
    shell.envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = shell.kill_on_drop(true).spawn().map_err(|e| format!("sh: {e}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let status = child.wait().await.map_err(|e| format!("sh: {e}"))?;
    if !status.success() {
        return Err(format!("{command}: {status}"));
    }
    if left == LeftBehind::Stays {
        group.0 = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    const SOON: Duration = Duration::from_millis(300);

    /// A command whose grandchild notes in the file that it lives.
    fn busy(beats: &Path, then: &str) -> String {
        format!("sh -c 'while :; do date +%s%N >{}; sleep 0.02; done' {then}", beats.display())
    }

    async fn beats_on(beats: &Path) -> bool {
        let read = || std::fs::read_to_string(beats).unwrap_or_default();
        // What was written when it was killed counts.
        tokio::time::sleep(SOON).await;
        let before = read();
        tokio::time::sleep(SOON).await;
        read() != before
    }

    async fn ends(then: &str, left: LeftBehind) -> (bool, bool) {
        let dir = tempfile::tempdir().expect("a folder");
        let beats = dir.path().join("beats");
        let command = busy(&beats, then);
        let done = tokio::time::timeout(SOON, run(&command, &[], Stdio::null(), left)).await;
        let seen = (done.is_ok_and(|d| d.is_ok()), beats_on(&beats).await);
        std::fs::remove_dir_all(dir.path()).expect("removed");
        seen
    }

    #[tokio::test]
    async fn what_a_command_started_ends_with_it() {
        assert_eq!(ends("; true", LeftBehind::Ends).await, (false, false), "given up");
        assert_eq!(ends("& exit 3", LeftBehind::Stays).await, (false, false), "failed");
        assert_eq!(ends("& sleep 0.1", LeftBehind::Ends).await, (true, false), "a check's");
    }

    #[tokio::test]
    async fn a_hook_may_start_a_server() {
        let dir = tempfile::tempdir().expect("a folder");
        let beats = dir.path().join("beats");
        let command = format!("echo $$ >{}.pid; {}", beats.display(), busy(&beats, "&"));
        assert!(run(&command, &[], Stdio::null(), LeftBehind::Stays).await.is_ok());
        assert!(beats_on(&beats).await);
        let pid = std::fs::read_to_string(dir.path().join("beats.pid")).expect("its group");
        let _group = Group(Pid::from_raw(pid.trim().parse().expect("a number")));
    }
}
