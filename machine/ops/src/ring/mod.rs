//! Sequences that several ranks share, each with some of the tokens of every one that is cut between them.
//!
//! A [`Round`] of tokens goes through a layer on all ranks at a time. What mixes tokens asks the other ranks: of the
//! convolution and the delta rule every rank hears what each strip of tokens does to any state, and folds that up for
//! itself; keys and values go round the ring, rank by rank, while a softmax goes on over those that come by (Liu et
//! al., "Ring Attention", 2023). All else works on each token by itself and knows nothing of it. Backwards the same, in
//! the other direction in time: what later strips ask of a state is folded up from the end, and the gradients of keys
//! and values travel with them until they are home.

pub(crate) mod attention;
pub(crate) mod causal_conv;
pub(crate) mod delta_rule;
mod round;

pub use round::Round;

use numeric::wire::{Message, Reading};

/// Ranks in a circle. Every rank calls in the same order.
pub trait Ring {
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Gives a message to the next rank and takes that of the one before; all ranks do so together.
    fn pass(&mut self, message: Message) -> Vec<u8>;
}

/// What every rank says, by rank.
fn gather(ring: &mut dyn Ring, own: Message) -> Vec<Vec<u8>> {
    let (rank, size) = (ring.rank(), ring.size());
    let mut said = vec![Vec::new(); size];
    said[rank] = own.into_bytes();
    for hop in 0..size - 1 {
        let mut message = Message::default();
        message.put_bytes(&said[(rank + size - hop) % size]);
        said[(rank + size - hop - 1) % size] = Reading::new(&ring.pass(message)).take_bytes().to_vec();
    }
    said
}

/// Adds these numbers up over all ranks.
pub(crate) fn sum(ring: &mut dyn Ring, numbers: &mut [u64]) {
    let mut own = Message::default();
    own.put_u64s(numbers);
    let all: Vec<Vec<u64>> = gather(ring, own).iter().map(|bytes| Reading::new(bytes).take_u64s()).collect();
    for (index, sum) in numbers.iter_mut().enumerate() {
        *sum = all.iter().map(|numbers| numbers[index]).sum();
    }
}
