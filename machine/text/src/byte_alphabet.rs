//! The byte-level alphabet: every byte has one printable character, so that a vocabulary of bytes can be written as
//! JSON.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the others take the code points from U+0100 on, in order.
//! (The scheme of GPT-2, which all byte-level tokenizers share.)

/// Does this byte stand for itself?
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const fn characters() -> [char; 256] {
    let mut table = ['\0'; 256];
    let mut moved: u32 = 0;
    let mut byte = 0usize;
    while byte < 256 {
        let code = if is_printable(byte as u8) {
            byte as u32
        } else {
            moved += 1;
            0xFF + moved
        };
        table[byte] = match char::from_u32(code) {
            Some(character) => character,
            None => panic!("every code is below U+0144"),
        };
        byte += 1;
    }
    table
}

/// The character of each byte.
pub const CHARACTERS: [char; 256] = characters();

/// The byte that a character of the alphabet stands for.
pub fn byte_of(character: char) -> Option<u8> {
    let code = character as u32;
    if code < 0x100 && is_printable(code as u8) {
        return Some(code as u8);
    }
    CHARACTERS.iter().position(|&c| c == character).map(|byte| byte as u8)
}

/// The bytes that a token of a byte-level vocabulary stands for; `None` if a character is not of the alphabet.
pub fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// Bytes written in the alphabet.
pub fn written(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| CHARACTERS[byte as usize]).collect()
}

/// The bytes in the order of their characters: the order in which byte-level vocabularies begin.
pub fn bytes_in_vocabulary_order() -> [u8; 256] {
    let mut bytes: [u8; 256] = std::array::from_fn(|byte| byte as u8);
    bytes.sort_by_key(|&byte| CHARACTERS[byte as usize]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_goes_there_and_back() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of(CHARACTERS[byte as usize]), Some(byte));
        }
        assert_eq!(CHARACTERS[b' ' as usize], 'Ġ');
        assert_eq!(CHARACTERS[b'\n' as usize], 'Ċ');
        assert_eq!(byte_of(' '), None);
        assert_eq!(bytes_of("Ġa"), Some(b" a".to_vec()));
        assert_eq!(bytes_in_vocabulary_order()[0], b'!');
    }
}
