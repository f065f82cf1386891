//! Numbers as bytes on their way to another process of the same program: little-endian, each run with its length first.
//!
//! What arrives was sent by this program; anything else is a mistake of ours and an assert.

/// Bytes to send.
#[derive(Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn put(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    pub fn put_u32s(&mut self, numbers: &[u32]) {
        self.put(numbers.len() as u64);
        numbers.iter().for_each(|number| self.bytes.extend_from_slice(&number.to_le_bytes()));
    }

    pub fn put_u64s(&mut self, numbers: &[u64]) {
        self.put(numbers.len() as u64);
        numbers.iter().for_each(|&number| self.put(number));
    }

    pub fn put_f32s(&mut self, numbers: &[f32]) {
        self.put(numbers.len() as u64);
        numbers.iter().for_each(|number| self.bytes.extend_from_slice(&number.to_le_bytes()));
    }
}

/// Received bytes that are taken apart from the front.
#[derive(Debug)]
pub struct Reading<'a> {
    rest: &'a [u8],
}

impl<'a> Reading<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn some(&mut self, count: usize) -> &'a [u8] {
        assert!(count <= self.rest.len(), "a message ends early: {count} bytes wanted, {} left", self.rest.len());
        let (some, rest) = self.rest.split_at(count);
        self.rest = rest;
        some
    }

    pub fn take(&mut self) -> u64 {
        u64::from_le_bytes(self.some(8).try_into().expect("eight bytes"))
    }

    fn run(&mut self, width: usize) -> &'a [u8] {
        let count = self.take() as usize;
        self.some(count.checked_mul(width).expect("a length that memory has"))
    }

    pub fn take_bytes(&mut self) -> &'a [u8] {
        self.run(1)
    }

    pub fn take_u32s(&mut self) -> Vec<u32> {
        self.run(4).chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
    }

    pub fn take_u64s(&mut self) -> Vec<u64> {
        self.run(8).chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect()
    }

    pub fn take_f32s(&mut self) -> Vec<f32> {
        self.run(4).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
    }

    pub fn end(self) {
        assert!(self.rest.is_empty(), "{} bytes of a message were not read", self.rest.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        let mut message = Message::default();
        message.put(7);
        message.put_bytes(b"abc");
        message.put_u32s(&[1, u32::MAX]);
        message.put_u64s(&[]);
        message.put_f32s(&[f32::NEG_INFINITY, -0.0]);
        let mut reading = Reading::new(message.bytes());
        assert_eq!((reading.take(), reading.take_bytes()), (7, &b"abc"[..]));
        assert_eq!((reading.take_u32s(), reading.take_u64s()), (vec![1, u32::MAX], vec![]));
        let numbers: Vec<u32> = reading.take_f32s().into_iter().map(f32::to_bits).collect();
        assert_eq!(numbers, [f32::NEG_INFINITY.to_bits(), (-0.0f32).to_bits()]);
        reading.end();
    }

    #[test]
    #[should_panic(expected = "ends early")]
    fn a_short_message_is_our_mistake() {
        Reading::new(&[3, 0, 0, 0, 0, 0, 0, 0, 1]).take_bytes();
    }
}
