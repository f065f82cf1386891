//! What running a model takes of memory, known before it is loaded: from the outline of its weights, and from a forward
//! pass that is only rehearsed.

use crate::{Loading, MixerKind, Model, forward};
use kernels::kv_page::PAGE_TOKENS;
use ops::{KvFormat, Parameter, Rehearse, Spans};
use serde::Serialize;

/// What a thread keeps for its products and tiles: packed factors of plain weights, a tile of attention.
pub(crate) const THREAD_BYTES: usize = 2 << 20;

/// The program itself, with what it maps of its own file.
pub(crate) const PROGRAM_BYTES: usize = 12 << 20;

/// Of the weights, what stays empty at the ends of large pages: found 0.8 % on three models of 2 to 7 GB.
pub(crate) const PAGE_ENDS: usize = 128;

/// What one parameter takes beside its numbers: its name, its shape, its place in the model.
pub(crate) const PARAMETER_BYTES: usize = 384;

/// How a model is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanSettings {
    /// Tokens of one sequence, its prompt and its answer.
    pub context: usize,
    pub kv: KvFormat,
    /// Tokens in one pass.
    pub pass_tokens: usize,
    /// Sequences at a time, each with a context of its own.
    pub sequences: usize,
    /// Copies of states beside those: they share keys and values, but not what a delta layer remembers.
    pub spare_states: usize,
    /// Rows of logits at a time.
    pub logits_rows: usize,
    pub threads: usize,
}

impl PlanSettings {
    /// One sequence, as it is run from a prompt.
    pub fn one(context: usize, kv: KvFormat, threads: usize) -> Self {
        Self { context, kv, pass_tokens: 512, sequences: 1, spare_states: 0, logits_rows: 1, threads }
    }
}

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// As they lie in memory: packed rows in whole panels, the rest as it is stored or rounded.
    pub weights: usize,
    /// Keys and values of all sequences, in whole pages.
    pub cache: usize,
    /// What delta layers remember; it does not grow.
    pub recurrent: usize,
    /// Activations of one pass, and what the pool keeps of them for the next.
    pub forward: usize,
    /// The program, its threads, the names of the weights and the ends of their pages.
    pub program: usize,
    /// While the model is loaded and nothing runs yet: the largest weight beside what it is read from.
    pub loading: usize,
}

impl Plan {
    /// The plan for a model, whose numbers need not be there (see [`Model::outline`]).
    pub fn of(outline: &Model, loading: Loading, settings: &PlanSettings) -> Self {
        let parameters = outline.parameters();
        let weights = outline.bytes();
        let largest = largest_beside(&parameters, loading);
        let (cache, recurrent) = state_bytes(outline, settings);
        let names = parameters.len() * PARAMETER_BYTES;
        Self {
            weights,
            cache,
            recurrent,
            forward: forward_bytes(outline, settings),
            program: PROGRAM_BYTES + names + weights / PAGE_ENDS + settings.threads * THREAD_BYTES,
            // Files are read somewhat ahead.
            loading: largest + largest / 8,
        }
    }

    /// Both at once.
    pub fn beside(self, other: Self) -> Self {
        Self {
            weights: self.weights + other.weights,
            cache: self.cache + other.cache,
            recurrent: self.recurrent + other.recurrent,
            forward: self.forward + other.forward,
            program: self.program + other.program,
            loading: self.loading.max(other.loading),
        }
    }

    /// The most that is held at any time.
    pub fn total(&self) -> usize {
        let running = self.cache.saturating_add(self.recurrent).saturating_add(self.forward);
        running.max(self.loading).saturating_add(self.weights + self.program)
    }
}

/// What the largest weight takes beside itself while it is read: that which it becomes, and where it is widened first,
/// that form too.
pub(crate) fn largest_beside(parameters: &[&Parameter], loading: Loading) -> usize {
    let widens = matches!(loading, Loading::Quantized(_) | Loading::Frozen(_) | Loading::F32);
    let widened = if widens { 2 * size_of::<f32>() } else { 0 };
    let beside = |p: &Parameter| p.matrix.bytes().max(widened * p.matrix.rows * p.matrix.columns);
    parameters.iter().copied().map(beside).max().unwrap_or(0)
}

/// Of the caches, and of the rest of the states.
fn state_bytes(outline: &Model, settings: &PlanSettings) -> (usize, usize) {
    let (config, attention) = (&outline.config, &outline.config.attention);
    let page = 2 * attention.kv_heads * PAGE_TOKENS * settings.kv.row_bytes(attention.head_dim);
    // Saturating: what a file or a person says may be more than any machine has.
    let cache = page.saturating_mul(settings.context.div_ceil(PAGE_TOKENS)).saturating_mul(settings.sequences);
    let recurrent = config.delta.map_or(0, |delta| {
        let shape = delta.shape();
        let tail = (delta.kernel - 1) * shape.channels();
        (size_of::<f32>() * (shape.state_len() + tail)).saturating_mul(settings.sequences + settings.spare_states)
    });
    let layers = |mixer: MixerKind| config.layers.iter().filter(|layer| layer.mixer == mixer).count();
    (cache.saturating_mul(layers(MixerKind::Attention)), recurrent.saturating_mul(layers(MixerKind::Delta)))
}

/// Passes at the end of the context: full ones, then ever shorter ones, whose smaller buffers come to lie beside those
/// that the pool has kept, then a token of each sequence.
fn forward_bytes(outline: &Model, settings: &PlanSettings) -> usize {
    let mut e = Rehearse::default();
    let full = settings.pass_tokens.min(settings.context.saturating_mul(settings.sequences)).max(1);
    let half = |tokens: &usize| tokens.div_ceil(2).checked_sub(1).filter(|&tokens| tokens > 0);
    for tokens in std::iter::successors(Some(full), half) {
        rehearse(&mut e, outline, &[tokens], settings);
    }
    rehearse(&mut e, outline, &vec![1; settings.sequences.min(full)], settings);
    e.bytes_at_most()
}

fn rehearse(e: &mut Rehearse, outline: &Model, lengths: &[usize], settings: &PlanSettings) {
    let starts = lengths.iter().map(|length| settings.context.saturating_sub(*length)).collect();
    let spans = Spans { lengths: lengths.to_vec(), starts };
    let tokens = vec![0; spans.tokens()];
    let mut x = forward::embed(e, outline, &tokens);
    for index in 0..outline.weights.layers.len() {
        x = forward::layer(e, outline, index, &mut [], &spans, x);
    }
    let hidden = forward::finish(e, outline, &x);
    e.logits(&hidden, settings.logits_rows.min(tokens.len()), outline.weights.head());
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
