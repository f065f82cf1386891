//! What going through a model layer by layer takes of memory, known beforehand: a layer, and a pass over it that is
//! only rehearsed, forwards and backwards.

use crate::layerwise::layer_from_empty;
use crate::plan::{PAGE_ENDS, PARAMETER_BYTES, PROGRAM_BYTES, THREAD_BYTES, largest_beside};
use crate::weights::LayerWeights;
use crate::{KvFormat, LayerConfig, LayerState, Loading, MixerKind, Model};
use kernels::kv_page::PAGE_TOKENS;
use ops::{Execute, Parameter, Rehearse, RehearseTape, Segment};
use serde::Serialize;

/// How a model is gone through.
#[derive(Debug, Clone, Copy)]
pub struct LayerwiseSettings<'a> {
    /// Of each batch, the lengths of its sequences.
    pub batches: &'a [Vec<usize>],
    /// Of these, from the first on, so many are walked back through.
    pub backward: usize,
    /// Whether layers stay in memory, beside each of which a copy is walked back through.
    pub is_resident: bool,
    pub threads: usize,
}

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LayerwisePlan {
    /// The largest layer; of a resident model all of it, and a copy of the largest layer if it is walked back through.
    pub layer: usize,
    /// One batch through a layer, there or back, with what the layer remembers of its sequences.
    pub activations: usize,
    /// Embedding, or head with losses: without any layer. Of a resident model what they take beside it.
    pub ends: usize,
    /// The program, its threads, and the names of all weights.
    pub program: usize,
}

/// Batches that are rehearsed: those after them find the same free blocks.
const BATCHES_MAX: usize = 24;

impl LayerwisePlan {
    /// The plan for a model whose numbers need not be there.
    pub fn of(outline: &Model, loading: Loading, settings: &LayerwiseSettings) -> Self {
        let parameters = outline.parameters();
        let layers = outline.weights.layers.iter().map(LayerWeights::bytes);
        let largest = layers.max().unwrap_or(0);
        let resident = if settings.is_resident { outline.bytes() + outline.bytes() / PAGE_ENDS } else { 0 };
        let copied = if settings.is_resident && settings.backward == 0 { 0 } else { largest + largest / PAGE_ENDS };
        let names = 2 * parameters.len() * PARAMETER_BYTES;
        let read = if settings.is_resident { 0 } else { largest_beside(&parameters, loading) };
        Self {
            layer: resident + copied,
            activations: activations(outline, settings).max(read),
            ends: ends(outline, settings),
            program: PROGRAM_BYTES + names + settings.threads * THREAD_BYTES,
        }
    }

    /// The most that is held at any time, beside what the caller keeps.
    pub fn total(&self) -> usize {
        self.program + (self.layer + self.activations).max(self.ends)
    }
}

/// The first layer of each kind.
fn kinds(outline: &Model) -> Vec<usize> {
    let mut seen: Vec<LayerConfig> = Vec::new();
    let mut first = Vec::new();
    for (index, layer) in outline.config.layers.iter().enumerate() {
        if !seen.contains(layer) {
            seen.push(*layer);
            first.push(index);
        }
    }
    first
}

fn activations(outline: &Model, settings: &LayerwiseSettings) -> usize {
    let (config, width) = (&outline.config, outline.config.hidden_size);
    let mut forward = Rehearse::default();
    let mut e = RehearseTape::default();
    let mut states = 0;
    for index in kinds(outline) {
        for lengths in settings.batches.iter().take(BATCHES_MAX) {
            states = states.max(state_bytes(outline, index, lengths));
            let x = forward.embedding(&outline.weights.embedding, &vec![0; lengths.iter().sum()]);
            layer_from_empty(&mut forward, config, index, &outline.weights.layers[index], lengths, x);
        }
        for lengths in settings.batches.iter().take(settings.backward.min(BATCHES_MAX)) {
            let rows = lengths.iter().sum();
            let mark = e.begin(Segment::default());
            let input = e.value(rows, width);
            let x = e.input(input, true);
            let mut copy = outline.weights.layers[index].clone();
            copy.visit_mut(&mut |parameter| parameter.trained = false);
            let y = layer_from_empty(&mut e, config, index, &copy, lengths, x);
            let dy = e.value(rows, width);
            e.unwind(mark, Some((y, dy)), Some(x));
        }
    }
    forward.bytes_at_most().max(e.room().bytes_at_most()) + states
}

/// What a layer remembers of a batch's sequences.
fn state_bytes(outline: &Model, index: usize, lengths: &[usize]) -> usize {
    let config = &outline.config;
    match config.layers[index].mixer {
        MixerKind::Attention => {
            let attention = &config.attention;
            let page = 2 * attention.kv_heads * PAGE_TOKENS * KvFormat::F32.row_bytes(attention.head_dim);
            lengths.iter().map(|length| length.div_ceil(PAGE_TOKENS) * page).sum()
        }
        // The state, and its parts that are taken apart and put together.
        MixerKind::Delta => 2 * lengths.len() * LayerState::empty(config, MixerKind::Delta, KvFormat::F32).bytes(),
    }
}

/// Embedding, or final norm and head with the losses of the batches that are walked back through.
fn ends(outline: &Model, settings: &LayerwiseSettings) -> usize {
    let bytes = |parameter: &Parameter| parameter.matrix.bytes();
    let (embedding, head) = (&outline.weights.embedding, outline.weights.head());
    let width = outline.config.hidden_size;
    let rows = |batches: usize| -> usize {
        let batches = settings.batches.iter().take(batches);
        batches.map(|lengths| lengths.iter().sum()).max().unwrap_or(0)
    };
    let first = rows(settings.batches.len()) * width * size_of::<f32>();
    let mut e = RehearseTape::default();
    if settings.backward > 0 {
        let mark = e.begin(Segment::default());
        let input = e.value(rows(settings.backward), width);
        let x = e.input(input, true);
        let h = e.rms_norm(&x, &outline.weights.final_norm);
        e.cross_entropy(&h, head, &[], &[]);
        e.unwind(mark, None, Some(x));
    }
    let last = e.room().bytes_at_most();
    match settings.is_resident {
        // A copy of the head is what its losses are taken of.
        true => first.max(last + if settings.backward > 0 { bytes(&head.weight) } else { 0 }) + outline.bytes(),
        // While one of them is read, its pages are there too.
        false => {
            let beside = |parameter: &Parameter, passes: usize| bytes(parameter) + passes.max(bytes(parameter));
            beside(&embedding.weight, first).max(beside(&head.weight, last))
        }
    }
}
