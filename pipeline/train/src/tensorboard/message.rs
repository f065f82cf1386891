//! Protocol buffers, as much as an event file needs: TensorFlow's `Event` with a `Summary` of plain values.
//!
//! `event.proto`: `Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }`.
//! `summary.proto`: `Summary { repeated Value value = 1; }`, `Value { string tag = 1; float simple_value = 2; }`.

/// How a field's bytes are to be read; the lowest three bits of its key.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Bits64 = 1,
    Bytes = 2,
    Bits32 = 5,
}

#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: Wire) {
        self.varint(field << 3 | wire as u64);
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.key(field, Wire::Bits64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.key(field, Wire::Bits32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn integer(mut self, field: u64, value: u64) -> Self {
        self.key(field, Wire::Varint);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.key(field, Wire::Bytes);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }
}

/// What every event file begins with.
pub(super) fn file_version(wall_time: f64) -> Vec<u8> {
    Message::default().double(1, wall_time).bytes(3, b"brain.Event:2").0
}

/// Values of one step, each under its tag.
pub(super) fn scalars(wall_time: f64, step: usize, values: &[(String, f64)]) -> Vec<u8> {
    let mut summary = Message::default();
    for (tag, value) in values {
        let value = Message::default().bytes(1, tag.as_bytes()).float(2, *value as f32);
        summary = summary.bytes(1, &value.0);
    }
    Message::default().double(1, wall_time).integer(2, step as u64).bytes(5, &summary.0).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_bytes_that_the_format_asks_for() {
        // The examples of the encoding's documentation: 150 is 96 01, field 2 with "testing" is 12 07 …
        assert_eq!(Message::default().integer(1, 150).0, [0x08, 0x96, 0x01]);
        assert_eq!(Message::default().bytes(2, b"testing").0, b"\x12\x07testing");
        let version = file_version(0.0);
        assert_eq!(version, b"\x09\0\0\0\0\0\0\0\0\x1a\x0dbrain.Event:2");
        assert_eq!(version.len(), 24);
        let wanted = b"\x09\0\0\0\0\0\0\xf0\x3f\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\0\x3f";
        assert_eq!(scalars(1.0, 300, &[("loss".to_owned(), 0.5)]), wanted);
    }
}
