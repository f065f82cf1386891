//! What compressing a model will take of disk and time, from its shape alone.
//!
//! Legend: E experts, H hidden width.

use crate::observe::{batches, mixtures};
use crate::{ObserveOptions, ObservePlan};
use kernels::gemm;
use models::{FeedForward, MixerKind, Model, Quantization, rewrite_bytes};
use numeric::{Format, Matrix, Storage, bf16};
use ops::Precision;
use serde::Serialize;
use std::time::Instant;

/// Counts, from which speeds make time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompressCost {
    /// Bytes that are read: weights there, back and for writing, and states on disk.
    pub read: u64,
    pub written: u64,
    /// Of the result.
    pub model: u64,
    /// Products of two numbers that are added up.
    pub multiply_adds: f64,
}

impl CompressCost {
    /// The cost for sequences of these lengths, of a result with so many experts in each layer.
    pub fn of(
        outline: &Model,
        lengths: &[usize],
        options: &ObserveOptions,
        expert_counts: &[usize],
        quantization: Option<Quantization>,
        plan: &ObservePlan,
    ) -> Self {
        let (batches, backward) = batches(lengths, options);
        let back: usize = batches[..backward].iter().flatten().sum();
        let all: usize = lengths.iter().sum();
        let weights = outline.bytes() as u64;
        let row = (outline.config.hidden_size * size_of::<f32>()) as u64;
        let layers = outline.config.layers.len() as u64;
        let states = match plan.states_on_disk {
            true => row * layers * (all as u64 + 2 * back as u64),
            false => 0,
        };
        let mut config = outline.config.clone();
        config.set_expert_counts(expert_counts);
        let model = rewrite_bytes(&config, Format::Bf16, quantization);
        let passes = if backward > 0 { 3 } else { 2 };
        let back_lengths: Vec<usize> = batches[..backward].iter().flatten().copied().collect();
        Self {
            read: passes * weights + states,
            written: model + states + plan.statistics as u64,
            model,
            // Walking back runs a layer again, and takes as much for its input.
            multiply_adds: pass(outline, lengths) + 2.0 * pass(outline, &back_lengths) + compared(outline, options),
        }
    }

    /// With what merging adds: every layer is run twice more on all tokens, and fits ask for sums of squares. Putting
    /// neurons in one order is not counted.
    #[must_use]
    pub fn merging(self, outline: &Model, lengths: &[usize], sweeps: usize) -> Self {
        let tokens: usize = lengths.iter().sum();
        let row = (outline.config.hidden_size * size_of::<f32>()) as u64;
        let states = row * outline.config.layers.len() as u64 * tokens as u64;
        let top_k = outline.config.experts.map_or(0, |experts| experts.top_k);
        let width = outline.config.hidden_size;
        // Once for groups, and once for every sweep over all experts.
        let fit = |(_, _, inner): (usize, usize, usize)| (tokens * top_k * inner * (inner + 2 * width)) as f64;
        let fits: f64 = mixtures(outline).map(fit).sum::<f64>() * (1 + sweeps) as f64;
        Self {
            read: self.read + 2 * states,
            written: self.written + states,
            multiply_adds: self.multiply_adds + 2.0 * pass(outline, lengths) + fits,
            ..self
        }
    }
}

/// All layers over these sequences, and the head where it is asked for losses.
fn pass(outline: &Model, lengths: &[usize]) -> f64 {
    let config = &outline.config;
    let tokens: f64 = lengths.iter().map(|&length| length as f64).sum();
    let pairs: f64 = lengths.iter().map(|&length| length as f64 * length as f64 / 2.0).sum();
    let mut total = 0.0;
    for (layer, weights) in config.layers.iter().zip(&outline.weights.layers) {
        let mut numbers = 0;
        weights.visit(&mut |parameter| {
            if parameter.shape.len() == 2 && !parameter.name.contains(".experts.") {
                numbers += parameter.shape.iter().product::<usize>();
            }
        });
        if let FeedForward::Moe(moe) = &weights.feed_forward {
            numbers += moe.routed.top_k * moe.routed.experts.first().map_or(0, expert_numbers);
        }
        total += tokens * numbers as f64;
        total += match layer.mixer {
            MixerKind::Attention => 2.0 * pairs * (config.attention.heads * config.attention.head_dim) as f64,
            // Decay, read, write and ask of each delta matrix.
            MixerKind::Delta => config
                .delta
                .map_or(0.0, |delta| 4.0 * tokens * (delta.value_heads * delta.key_dim * delta.value_dim) as f64),
        };
    }
    total
}

fn expert_numbers(expert: &ops::Expert) -> usize {
    [&expert.gate, &expert.up, &expert.down].iter().map(|map| map.output_width() * map.input_width()).sum()
}

/// All experts on the sampled tokens, and all pairs of their outputs.
fn compared(outline: &Model, options: &ObserveOptions) -> f64 {
    let width = outline.config.hidden_size as f64;
    let of = |(_, experts, inner): (usize, usize, usize)| {
        experts as f64 * (3.0 * inner as f64 * width + experts as f64 * width)
    };
    options.similarity_tokens as f64 * mixtures(outline).map(of).sum::<f64>()
}

/// Multiply-adds a second of this machine, in the products that most of the time goes into: bf16 weights of experts of
/// the model's shape, each with its share of a chunk's tokens.
pub fn measure_products(outline: &Model, chunk_tokens: usize) -> f64 {
    const GROUPS: usize = 16;
    let config = &outline.config;
    let experts = config.expert_counts().into_iter().max().unwrap_or(1);
    let (inner, top_k) = config.experts.map_or((config.dense_width, 1), |experts| (experts.width, experts.top_k));
    let (width, rows) = (config.hidden_size, (chunk_tokens * top_k / experts).clamp(1, 1024));
    let weight = || {
        let values = (0..inner * width).map(|at| bf16::from_f32((at % 31) as f32 * 1e-3)).collect();
        Matrix { rows: inner, columns: width, storage: Storage::Bf16(values) }
    };
    let weights: Vec<Matrix> = (0..GROUPS).map(|_| weight()).collect();
    let views: Vec<_> = weights.iter().map(Matrix::view).collect();
    let offsets: Vec<usize> = (0..=GROUPS).map(|group| group * rows).collect();
    let x = vec![0.5; GROUPS * rows * width];
    let mut y = vec![0.0; GROUPS * rows * inner];
    let (mut best, began) = (f64::INFINITY, Instant::now());
    for round in 0.. {
        let start = Instant::now();
        gemm::grouped_multiply_transposed(&mut y, &x, &views, &offsets, false, Precision::F32);
        best = best.min(start.elapsed().as_secs_f64());
        if round >= 2 && began.elapsed().as_secs_f64() > 0.5 {
            break;
        }
    }
    (GROUPS * rows * width * inner) as f64 / best.max(1e-9)
}
