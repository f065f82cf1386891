//! The seam for sequences that several machines share: each has a part of the tokens, in order, and hears of the parts
//! before and after its own through [`Neighbours`].
//!
//! Layer by layer a machine waits for what the one before knows of a sequence that is cut between them, and hands on
//! what it knows itself: a delta layer's matrix and the convolution's last tokens, or all keys and values so far. On
//! the way back the gradients of the same take the other direction. While a machine works on one layer, those after it
//! work on the layers below, so that many layers keep several machines busy. Gradients of parameters are summed by the
//! caller.

use crate::LayerState;
use ops::Carried;

/// Who has the tokens before and after. Calls come in the same order everywhere: forward from the first layer to the
/// last, then back; each may wait for the other side.
pub trait Neighbours {
    /// What the tokens before left in this layer, of the sequence that goes on here.
    fn found(&mut self, layer: usize) -> LayerState;

    /// Hands on what these tokens leave in this layer, of the sequence that goes on after them.
    fn leave(&mut self, layer: usize, state: LayerState);

    /// What the tokens after ask of what was left to them.
    fn asked(&mut self, layer: usize) -> Carried;

    /// Hands back what these tokens ask of what they found.
    fn ask(&mut self, layer: usize, carried: Carried);

    /// Adds these numbers up over all machines.
    fn sum(&mut self, numbers: &mut [u64]);
}

/// Nobody: all tokens are here.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Neighbours for Alone {
    fn found(&mut self, layer: usize) -> LayerState {
        unreachable!("layer {layer}: nothing began before the first token")
    }

    fn leave(&mut self, layer: usize, _: LayerState) {
        unreachable!("layer {layer}: nothing goes on after the last token")
    }

    fn asked(&mut self, layer: usize) -> Carried {
        unreachable!("layer {layer}: nothing goes on after the last token")
    }

    fn ask(&mut self, layer: usize, _: Carried) {
        unreachable!("layer {layer}: nothing began before the first token")
    }

    fn sum(&mut self, _: &mut [u64]) {}
}

/// A part of a batch, with its neighbours.
pub struct Beside<'n> {
    /// Tokens of the first sequence that lie before this part.
    pub start: usize,
    /// Where its first token stands in the batch.
    pub first_token: usize,
    /// Whether the last sequence goes on after it.
    pub goes_on: bool,
    pub neighbours: &'n mut dyn Neighbours,
}
