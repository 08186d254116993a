//! A network between the peers of a cluster that a test can break: one TCP
//! proxy in front of each node. A connection says in its opening who dials, so
//! that each direction between two nodes can be cut or delayed by itself.
//!
//! A cut is silent: connections stay open, new ones are accepted, and what is
//! sent is swallowed. A connection that lost bytes is closed when its direction
//! heals, as TCP would by then have given it up.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Before its first frame a connection has a magic of this length.
const MAGIC_LEN: usize = 8;
/// How often a connection that lost bytes looks whether its direction healed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Default)]
struct Rule {
    cut: bool,
    delay: Duration,
}

#[derive(Default)]
struct Rules {
    /// The node of each member id.
    nodes: BTreeMap<u64, usize>,
    /// By (from, to).
    rules: BTreeMap<(usize, usize), Rule>,
}

/// The proxies of a cluster's nodes.
pub struct Net {
    /// The proxy's port of each node.
    pub ports: Vec<u16>,
    rules: Arc<Mutex<Rules>>,
    stop: Arc<AtomicBool>,
}

impl Net {
    /// A proxy before each of these ports.
    pub fn before(peers: &[u16]) -> Net {
        let mut net = Net { ports: Vec::new(), rules: Arc::default(), stop: Arc::default() };
        for (node, target) in peers.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port for a proxy");
            net.ports.push(listener.local_addr().expect("bound").port());
            let (target, rules, stop) = (*target, net.rules.clone(), net.stop.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let rules = rules.clone();
                    std::thread::spawn(move || carry(stream, node, target, &rules));
                }
            });
        }
        net
    }

    /// Tells which node a member id is; until then its bytes pass.
    pub fn learn(&self, member: u64, node: usize) {
        self.rules.lock().expect("lock").nodes.insert(member, node);
    }

    fn change(&self, from: usize, to: usize, change: impl Fn(&mut Rule)) {
        let mut rules = self.rules.lock().expect("lock");
        assert!(rules.nodes.values().any(|n| *n == from), "node {from} is not known yet");
        change(rules.rules.entry((from, to)).or_default());
    }

    /// Nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) {
        self.change(from, to, |rule| rule.cut = true);
    }

    /// Neither hears the other.
    pub fn cut_both(&self, a: usize, b: usize) {
        self.cut(a, b);
        self.cut(b, a);
    }

    /// What `from` sends reaches `to` so much later.
    pub fn delay(&self, from: usize, to: usize, delay: Duration) {
        self.change(from, to, |rule| rule.delay = delay);
    }

    /// Everything arrives again, at once.
    pub fn heal(&self) {
        self.rules.lock().expect("lock").rules.clear();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for port in &self.ports {
            // Wakes the thread that accepts.
            drop(TcpStream::connect(("127.0.0.1", *port)));
        }
    }
}

/// The member that dials, and the bytes that said so. Questions of a node that
/// starts name nobody.
fn opening(stream: &mut TcpStream) -> std::io::Result<(Option<u64>, Vec<u8>)> {
    let mut bytes = vec![0; MAGIC_LEN + 4];
    stream.read_exact(&mut bytes)?;
    let len = bytes[MAGIC_LEN..].try_into().map(u32::from_le_bytes).expect("four bytes");
    let mut json = vec![0; len as usize];
    stream.read_exact(&mut json)?;
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap_or_default();
    bytes.extend(json);
    Ok((value["from"].as_u64(), bytes))
}

/// Carries one connection to `node` until it ends.
fn carry(mut dialler: TcpStream, node: usize, target: u16, rules: &Arc<Mutex<Rules>>) {
    let Ok((member, first)) = opening(&mut dialler) else { return };
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    for stream in [&dialler, &server] {
        stream.set_nodelay(true).expect("no delay");
    }
    let (Ok(mut back_from), Ok(mut back_to)) = (server.try_clone(), dialler.try_clone()) else {
        return;
    };
    let there = Direction { rules: rules.clone(), member, node, towards: true };
    let back = Direction { towards: false, ..there.clone() };
    let backwards = std::thread::spawn(move || back.pump(Vec::new(), &mut back_from, &mut back_to));
    there.pump(first, &mut dialler, &mut server);
    backwards.join().expect("the way back");
}

/// One way of one connection.
#[derive(Clone)]
struct Direction {
    rules: Arc<Mutex<Rules>>,
    /// Who dialled.
    member: Option<u64>,
    /// Who was dialled.
    node: usize,
    /// From the one who dialled, or back to it.
    towards: bool,
}

impl Direction {
    fn rule(&self) -> Rule {
        let rules = self.rules.lock().expect("lock");
        let dialler = self.member.and_then(|m| rules.nodes.get(&m));
        let Some(&dialler) = dialler else { return Rule::default() };
        let pair = if self.towards { (dialler, self.node) } else { (self.node, dialler) };
        rules.rules.get(&pair).copied().unwrap_or_default()
    }

    /// Moves bytes until an end closes, then closes both.
    fn pump(&self, first: Vec<u8>, from: &mut TcpStream, to: &mut TcpStream) {
        let (late, arrived) = channel();
        let mut out = to.try_clone().expect("a socket");
        let writer = std::thread::spawn(move || write_late(&arrived, &mut out));
        self.take(first, from, &late);
        drop(late);
        writer.join().expect("the writer");
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn take(&self, first: Vec<u8>, from: &mut TcpStream, late: &Sender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; 64 << 10];
        let mut bytes = first;
        loop {
            if !bytes.is_empty() {
                let rule = self.rule();
                if rule.cut {
                    return self.swallow(from, &mut buffer);
                }
                if late.send((Instant::now() + rule.delay, bytes)).is_err() {
                    return;
                }
            }
            match from.read(&mut buffer) {
                Ok(n) if n > 0 => bytes = buffer[..n].to_vec(),
                _ => return,
            }
        }
    }

    /// Reads on and forgets, until the direction heals or the end closes.
    fn swallow(&self, from: &mut TcpStream, buffer: &mut [u8]) {
        from.set_read_timeout(Some(LOOK_AGAIN)).expect("a time-out");
        while self.rule().cut {
            match from.read(buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if is_timeout(&e) => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether nothing came, rather than an end.
pub fn is_timeout(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Writes each piece when its time has come, in order.
fn write_late(arrived: &Receiver<(Instant, Vec<u8>)>, to: &mut TcpStream) {
    for (due, bytes) in arrived {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}
