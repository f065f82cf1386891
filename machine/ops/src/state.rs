//! What one sequence remembers in one layer, and how a batch is cut into sequences.

use crate::DeltaShape;

/// Keys and values of every token so far, `[tokens, kv_heads · head_dim]` each.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

/// The last `kernel − 1` inputs of the convolution, `[kernel − 1, channels]`, and the delta matrix
/// `[value_heads, key_dim, value_dim]`.
#[derive(Debug, Clone)]
pub struct DeltaState {
    pub tail: Vec<f32>,
    pub matrix: Vec<f32>,
}

impl DeltaState {
    pub fn empty(shape: &DeltaShape, channels: usize, kernel: usize) -> Self {
        Self {
            tail: vec![0.0; (kernel - 1) * channels],
            matrix: vec![0.0; shape.value_heads * shape.key_dim * shape.value_dim],
        }
    }
}

/// A batch of tokens is a row of spans; span i holds `lengths[i]` new tokens of sequence i, the first of them at
/// position `starts[i]` of its sequence.
#[derive(Debug, Clone)]
pub struct Spans {
    pub lengths: Vec<usize>,
    pub starts: Vec<usize>,
}

impl Spans {
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Position of every token in its own sequence.
    pub fn positions(&self) -> Vec<u32> {
        let each = self.lengths.iter().zip(&self.starts);
        each.flat_map(|(&len, &start)| (start..start + len).map(|position| position as u32)).collect()
    }

    /// Row ranges of the spans.
    pub fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        self.lengths.iter().scan(0, |at, &len| {
            *at += len;
            Some(*at - len..*at)
        })
    }

    pub fn all_fresh(&self) -> bool {
        self.starts.iter().all(|&start| start == 0)
    }
}
