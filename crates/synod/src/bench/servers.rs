//! Servers on this machine, seen from outside: their CPU time and memory.

use std::collections::BTreeSet;
use std::fs;

/// The processes that listen at some endpoints.
pub struct Servers(BTreeSet<u32>);

impl Servers {
    /// Those among the endpoints (`HOST:PORT`) that are processes of this machine.
    pub fn of(endpoints: &[String]) -> Servers {
        let port = |e: &String| e.trim_end_matches('/').rsplit(':').next()?.parse().ok();
        let ports: BTreeSet<u16> = endpoints.iter().filter_map(port).collect();
        let sockets = listening(&ports);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse().ok());
        Servers(pids.filter(|pid| has_one(*pid, &sockets)).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// CPU seconds of all of them so far.
    pub fn cpu_s(&self) -> f64 {
        self.0.iter().map(|pid| cpu_of(*pid)).sum()
    }

    /// Memory of their own (without mapped files) of all of them, MiB.
    pub fn memory_mib(&self) -> f64 {
        self.0.iter().map(|pid| memory_of(*pid)).sum()
    }
}

/// The sockets that listen at these ports, as the links of open files name them.
fn listening(ports: &BTreeSet<u16>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, .., inode] = &fields[..fields.len().min(10)] else { continue };
            let port = local.rsplit(':').next().and_then(|p| u16::from_str_radix(p, 16).ok());
            // 0A: it listens.
            if *state == "0A" && port.is_some_and(|p| ports.contains(&p)) {
                found.insert(format!("socket:[{inode}]"));
            }
        }
    }
    found
}

fn has_one(pid: u32, sockets: &BTreeSet<String>) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut links = files.filter_map(|f| fs::read_link(f.path()).ok());
    links.any(|l| l.to_str().is_some_and(|l| sockets.contains(l)))
}

fn cpu_of(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |s| s.1).split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // Clock ticks are hundredths of a second on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

fn memory_of(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_process_is_found_and_measured() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address").to_string();
        let found = Servers::of(&[at, "127.0.0.1:1".into()]);
        assert!(found.0.contains(&std::process::id()), "{:?}", found.0);
        assert!(found.memory_mib() > 0.0 && found.cpu_s() >= 0.0);
        assert_eq!(Servers::of(&["nowhere".into()]).count(), 0);
    }
}
