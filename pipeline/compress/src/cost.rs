//! What compressing a model will take of disk and time, from its shape alone.
//!
//! Legend: E experts, H hidden width.

use crate::observe::{batches, mixtures};
use crate::{CompressSpeed, MergeCost, MergeRecipe, ObserveOptions, ObservePlan, PlanRecipe};
use models::{FeedForward, MixerKind, Model, Quantization, rewrite_bytes};
use numeric::Format;
use serde::Serialize;

/// Counts, from which speeds make time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompressCost {
    /// Bytes that are read: weights there, back and for writing, and states on disk.
    pub read: u64,
    pub written: u64,
    /// Of the result.
    pub model: u64,
    /// Products of two numbers that are added up, of weights as they are stored.
    pub multiply_adds: f64,
    /// Nothing where experts are not merged.
    pub merging: MergeCost,
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
            merging: MergeCost::default(),
        }
    }

    /// With what merging adds: every layer is run twice more on all tokens, and [`MergeCost`].
    #[must_use]
    pub fn merging(
        self,
        outline: &Model,
        lengths: &[usize],
        keep: &[usize],
        recipes: (&PlanRecipe, &MergeRecipe),
    ) -> Self {
        let tokens: usize = lengths.iter().sum();
        let row = (outline.config.hidden_size * size_of::<f32>()) as u64;
        let states = row * outline.config.layers.len() as u64 * tokens as u64;
        Self {
            read: self.read + 2 * states,
            written: self.written + states,
            multiply_adds: self.multiply_adds + 2.0 * pass(outline, lengths),
            merging: MergeCost::of(outline, tokens, keep, recipes),
            ..self
        }
    }

    /// Without reading and writing.
    pub fn seconds(&self, speed: &CompressSpeed) -> f64 {
        let MergeCost { multiply_adds, pairs, algebra } = self.merging;
        self.multiply_adds / speed.multiply_adds
            + multiply_adds / speed.merge_multiply_adds
            + pairs / speed.pairs
            + algebra / speed.algebra
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
