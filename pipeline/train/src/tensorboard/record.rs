//! Records as TensorFlow frames them: a length, the bytes, and a masked checksum of each.
//!
//! Layout and mask as in TensorFlow's documentation of TFRecord; the checksum is CRC-32C (Castagnoli), RFC 3720.

/// The reflected polynomial of CRC-32C.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| sum >> 8 ^ TABLE[((sum ^ u32::from(byte)) & 0xFF) as usize])
}

/// A checksum of data that may itself hold checksums: turned and shifted, so that it is not one of them.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// One record, framed.
pub(super) fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked(&length).to_le_bytes());
    record.extend_from_slice(data);
    record.extend_from_slice(&masked(data).to_le_bytes());
    record
}

/// The records of a file, each checked; for tests.
#[cfg(test)]
pub(super) fn read(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        assert_eq!(number(8), masked(&bytes[..8]), "the checksum of a length");
        let data = &bytes[12..12 + length];
        assert_eq!(number(12 + length), masked(data), "the checksum of a record");
        records.push(data.to_vec());
        bytes = &bytes[16 + length..];
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        // RFC 3720, B.4, and the check value of the catalogue of checksums.
        for (bytes, wanted) in [
            (&[0; 32][..], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&up, 0x46DD_794E),
            (&down, 0x113F_DB5C),
            (b"123456789", 0xE306_9283),
            (b"", 0),
        ] {
            assert_eq!(crc32c(bytes), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn a_frame_begins_as_every_event_file_does() {
        // The first record of a file is 24 bytes long, and its first twelve bytes are these in every file.
        let frame = framed(&[7; 24]);
        assert_eq!(&frame[..12], b"\x18\0\0\0\0\0\0\0\xa3\x7fK\"");
        assert_eq!(frame.len(), 24 + 16);
        assert_eq!(read(&frame), [vec![7; 24]]);
    }
}
