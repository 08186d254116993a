//! What stands on a peer connection. It opens with a magic and one JSON frame
//! that says what it is for; a stream then carries binary frames of
//! [`synod_cell::PeerMessage`]s, one way.
//!
//! Frame: length of the payload (u32), CRC-32C of cell and payload (u32), cell
//! (u32), payload.

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::io;
use synod_base::crc32c_append;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub(crate) const MAGIC: &[u8; 8] = b"SYNODP1\n";
pub(crate) const FRAME_HEAD: usize = 12;
/// Largest frame accepted from a peer.
pub(crate) const FRAME_MAX: usize = 64 << 20;
/// Largest opening or answer.
const OPENING_MAX: usize = 1 << 20;

/// A member as peers tell of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerInfo {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    #[serde(default)]
    pub learner: bool,
}

/// What a connection is for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Opening {
    /// Frames will follow.
    Stream { cluster: u64, from: u64, to: u64 },
    /// Who are you?
    Info,
    /// A member came back without its disk: let it take part under a new id.
    Rejoin { cluster: u64, member: PeerInfo },
}

/// The answer to an opening.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Go on (a stream), or: you are in (a rejoin).
    Welcome,
    /// No.
    Refused { why: String },
    /// No: you were removed from the cluster.
    Removed,
    /// This process has not made or found its cluster yet.
    Fresh,
    /// The cluster as this member knows it.
    Info { cluster: u64, id: u64, protocol: String, members: Vec<PeerInfo> },
}

pub(crate) async fn write_json<W: AsyncWrite + Unpin, T: Serialize>(
    to: &mut W,
    value: &T,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    to.write_u32_le(bytes.len() as u32).await?;
    to.write_all(&bytes).await?;
    to.flush().await
}

pub(crate) async fn read_json<R: AsyncRead + Unpin, T: for<'a> Deserialize<'a>>(
    from: &mut R,
) -> io::Result<T> {
    let len = from.read_u32_le().await? as usize;
    if len > OPENING_MAX {
        return Err(io::Error::other(format!("an opening of {len} bytes is too long")));
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Appends one frame whose payload `fill` writes.
pub fn put_frame(out: &mut Vec<u8>, cell: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    out[start + 8..start + 12].copy_from_slice(&cell.to_le_bytes());
    fill(out);
    let len = (out.len() - start - FRAME_HEAD) as u32;
    let crc = crc32c_append(&[&out[start + 8..]]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Takes one whole frame off the front of `buffer`: (cell, payload).
pub fn take_frame(buffer: &mut BytesMut) -> io::Result<Option<(u32, Bytes)>> {
    if buffer.len() < FRAME_HEAD {
        return Ok(None);
    }
    let len = u32::from_le_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize;
    if len > FRAME_MAX {
        return Err(io::Error::other(format!("a frame of {len} bytes is too long")));
    }
    if buffer.len() < FRAME_HEAD + len {
        buffer.reserve(FRAME_HEAD + len - buffer.len());
        return Ok(None);
    }
    let crc = u32::from_le_bytes([buffer[4], buffer[5], buffer[6], buffer[7]]);
    if crc32c_append(&[&buffer[8..FRAME_HEAD + len]]) != crc {
        return Err(io::Error::other("a frame's checksum does not hold"));
    }
    buffer.advance(8);
    let cell = buffer.get_u32_le();
    Ok(Some((cell, buffer.split_to(len).freeze())))
}

/// `host:port` of a peer URL.
pub(crate) fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_written_and_a_flipped_bit_is_seen() {
        let mut out = Vec::new();
        put_frame(&mut out, 7, |o| o.extend_from_slice(b"hello"));
        put_frame(&mut out, 8, |_| ());
        let mut buffer = BytesMut::from(&out[..]);
        assert_eq!(take_frame(&mut buffer).unwrap(), Some((7, Bytes::from_static(b"hello"))));
        assert_eq!(take_frame(&mut buffer).unwrap(), Some((8, Bytes::new())));
        assert_eq!(take_frame(&mut buffer).unwrap(), None);
        for bit in 32..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut buffer = BytesMut::from(&bad[..]);
            let both = (0..2).try_for_each(|_| take_frame(&mut buffer).map(drop));
            // The second frame's length may now promise more than there is.
            assert!(both.is_err() || !buffer.is_empty(), "bit {bit}");
        }
    }
}
