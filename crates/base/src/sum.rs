use crc_fast::{CrcAlgorithm, Digest, checksum};

/// CRC-32C (Castagnoli, iSCSI) of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// CRC-32C over several pieces as if they were one.
pub fn crc32c_append(pieces: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize() as u32
}

/// A 64-bit name for the pieces, in this order: for ids, not for security.
pub fn hash64(pieces: &[&[u8]]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    for piece in pieces {
        digest.update(&(piece.len() as u64).to_le_bytes());
        digest.update(piece);
    }
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0u8; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xffu8; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c_append(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }
}
