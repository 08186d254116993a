//! Telling a supervisor how far the node is, as systemd's `sd_notify` does: a unit
//! with `Type=notify` waits for it. A word goes as one datagram to the socket that
//! the variable `NOTIFY_SOCKET` names, by a path or, behind an `@`, by a name in
//! Linux's abstract namespace.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

const VARIABLE: &str = "NOTIFY_SOCKET";
/// A supervisor that does not read for so long goes without the word.
const WITHIN: Duration = Duration::from_secs(2);

static SOCKET: OnceLock<OsString> = OnceLock::new();

/// Takes the socket's name out of the environment: it is for this process, and
/// not for those that it starts. To be called before any thread is started.
#[allow(unsafe_code)]
pub fn take_socket() {
    let Some(name) = std::env::var_os(VARIABLE) else { return };
    // SAFETY: the caller has started no thread yet, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(VARIABLE) };
    if !name.is_empty() {
        let _ = SOCKET.set(name);
    }
}

/// The doors are open.
pub fn ready() {
    tell("READY=1");
}

/// The node ends because it was asked to.
pub fn stopping() {
    tell("STOPPING=1");
}

fn tell(word: &str) {
    let Some(name) = SOCKET.get() else { return };
    if let Err(e) = send(name, word.as_bytes()) {
        let file = name.to_string_lossy();
        tracing::warn!(%file, error = %e, "the supervisor could not be told");
    }
}

fn send(name: &OsStr, word: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(WITHIN))?;
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => send_abstract(&socket, name, word)?,
        None => socket.send_to(word, Path::new(name))?,
    };
    Ok(())
}

#[cfg(target_os = "linux")]
fn send_abstract(socket: &UnixDatagram, name: &[u8], word: &[u8]) -> io::Result<usize> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    socket.send_to_addr(word, &address)
}

#[cfg(not(target_os = "linux"))]
fn send_abstract(_: &UnixDatagram, _: &[u8], _: &[u8]) -> io::Result<usize> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "abstract sockets are Linux's"))
}
