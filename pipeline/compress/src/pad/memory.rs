//! What padding a model takes of memory and disk, known before it begins.
//!
//! Legend: T rows, H hidden width, E experts.

use super::{padded_config, padded_format};
use crate::observe::BETWEEN_BLOCKS;
use crate::{CompressError, rewrite_memory};
use models::{LayerStream, LayerwisePlan, LayerwiseSettings, Model};
use serde::Serialize;

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PadPlan {
    /// The largest layer, as it is read.
    pub layer: usize,
    /// A pack of tokens on its way through it.
    pub activations: usize,
    /// Embedding or head, without any layer.
    pub ends: usize,
    /// What comes into a mixture, all packs of it, and what the fit knows of each.
    pub rows: usize,
    pub program: usize,
    /// While the padded model is written: its largest layer and weight.
    pub writing: usize,
    /// Hidden states before a layer and after it, on disk.
    pub states: usize,
}

/// Numbers in f64 that a fit has of each row.
const KNOWN: usize = 6;

impl PadPlan {
    /// For packs of sequences of these lengths.
    pub fn of(stream: &LayerStream, packs: &[Vec<usize>]) -> Result<Self, CompressError> {
        let (outline, loading) = (stream.outline(), stream.loading());
        let threads = kernels::pool::threads();
        let settings = LayerwiseSettings { batches: packs, backward: 0, is_resident: false, threads };
        let LayerwisePlan { layer, activations, ends, program } = LayerwisePlan::of(outline, loading, &settings);
        let (rows, width) = (packs.iter().flatten().sum::<usize>(), outline.config.hidden_size);
        let plain = padded_format(stream)?;
        let padded = Model::imagined(padded_config(&outline.config), loading, plain);
        Ok(Self {
            layer,
            activations,
            ends,
            rows: rows * (width * size_of::<f32>() + KNOWN * size_of::<f64>()),
            program,
            writing: rewrite_memory(&padded, loading),
            states: 2 * rows * width * size_of::<f32>(),
        })
    }

    /// Bytes of memory that are held at most.
    pub fn total(&self) -> usize {
        let most = (self.layer + self.rows + self.activations).max(self.ends);
        (self.program + most + most / BETWEEN_BLOCKS).max(self.writing)
    }
}
