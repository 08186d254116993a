//! What a holder shows to prove that it holds: Chubby's sequencer (section 2.4).

use std::fmt;
use std::str::FromStr;

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Mode {
    /// By one alone.
    #[default]
    Exclusive,
    /// By any number that asked for it shared.
    Shared,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Exclusive => "exclusive",
            Mode::Shared => "shared",
        })
    }
}

impl FromStr for Mode {
    type Err = BadSequencer;

    fn from_str(text: &str) -> Result<Mode, BadSequencer> {
        match text {
            "exclusive" => Ok(Mode::Exclusive),
            "shared" => Ok(Mode::Shared),
            _ => Err(BadSequencer("the mode is neither exclusive nor shared")),
        }
    }
}

/// One acquisition of one lock. As text: `TOKEN:MODE:SESSION:NAME`, the session
/// in hexadecimal, bytes of the name that are not printable ASCII, and `%`, as
/// `%XX`; so it fits into a header, a log line and an environment variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sequencer {
    /// The fencing token: of two acquisitions of one exclusive lock the later has
    /// the greater.
    pub token: i64,
    /// How it is held.
    pub mode: Mode,
    /// The session (its lease) that holds it.
    pub session: i64,
    /// The lock's name.
    pub name: Vec<u8>,
}

/// A text is no sequencer; the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSequencer(pub &'static str);

impl fmt::Display for BadSequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a sequencer (TOKEN:MODE:SESSION:NAME): {}", self.0)
    }
}

impl std::error::Error for BadSequencer {}

impl fmt::Display for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:x}:", self.token, self.mode, self.session)?;
        for byte in &self.name {
            match byte {
                b'%' | ..=0x20 | 0x7f.. => write!(f, "%{byte:02X}")?,
                plain => write!(f, "{}", char::from(*plain))?,
            }
        }
        Ok(())
    }
}

impl FromStr for Sequencer {
    type Err = BadSequencer;

    fn from_str(text: &str) -> Result<Sequencer, BadSequencer> {
        let mut parts = text.splitn(4, ':');
        let mut next = || parts.next().ok_or(BadSequencer("it has fewer than four parts"));
        let token = next()?.parse().ok().filter(|t| *t > 0);
        let token = token.ok_or(BadSequencer("the token is not a positive number"))?;
        let mode = next()?.parse()?;
        let session = i64::from_str_radix(next()?, 16).ok().filter(|s| *s > 0);
        let session = session.ok_or(BadSequencer("the session is not a hexadecimal number"))?;
        let name = unescape(next()?)?;
        if name.is_empty() {
            return Err(BadSequencer("the name is empty"));
        }
        Ok(Sequencer { token, mode, session, name })
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, BadSequencer> {
    let mut name = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            name.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit(), digit());
        let (Some(high), Some(low)) = (high, low) else {
            return Err(BadSequencer("% is not followed by two hexadecimal digits"));
        };
        name.push((high * 16 + low) as u8);
    }
    Ok(name)
}
