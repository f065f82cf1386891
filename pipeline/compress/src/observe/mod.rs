//! Watching experts: calibration tokens go through a model layer by layer, and what each expert does is counted; then
//! the loss is walked back layer by layer, and what it asks of each expert is counted too.
//!
//! One layer is in memory at a time, of a model in memory as of one that is larger. Hidden states of all tokens wait
//! between layers, in memory or on disk. Every layer's statistics are saved when they are complete: an observation that
//! was cut short goes on with the first layer that is missing, from the states on disk or, where they were in memory,
//! by running the layers before it again.

mod pass;
mod plan;
mod record;
mod similarity;
mod states;
mod store;

pub use plan::ObservePlan;
pub(crate) use plan::{BETWEEN_BLOCKS, mixtures};
pub(crate) use states::{Name, States};
pub use store::saved_statistics;

use crate::{CompressError, LayerStatistics};
use models::{Layers, Loading};
use pass::Observing;
use std::path::Path;
use store::{Identity, Store};

/// Packed sequences to calibrate on.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    pub tokens: &'a [u32],
    pub lengths: &'a [usize],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObserveOptions {
    /// Tokens that go through a layer at a time; sequences stay whole, also those that are longer.
    pub chunk_tokens: usize,
    /// Tokens on which all experts of a layer are run, to compare their outputs; 0 leaves that out.
    pub similarity_tokens: usize,
    /// Tokens, from the first sequence on, whose loss is walked back; 0 leaves that out. `taylor`, `fisher` and
    /// `neuron_fisher` are sums over these alone.
    pub gradient_tokens: usize,
    /// Bytes of memory that may be held at most.
    pub memory_max: usize,
}

impl Default for ObserveOptions {
    fn default() -> Self {
        Self { chunk_tokens: 2048, similarity_tokens: 256, gradient_tokens: 0, memory_max: usize::MAX }
    }
}

/// Where statistics are saved, and states that memory has no room for.
#[derive(Debug, Clone, Copy)]
pub struct ObservePlace<'a> {
    pub folder: &'a Path,
    /// Tells the model from others, as [`models::LayerStream::fingerprint`].
    pub model: &'a str,
}

/// How far an observation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObserveStep {
    /// Of this call: batches through layers, there and back.
    pub done: usize,
    pub total: usize,
    pub layer: usize,
    pub is_backward: bool,
    /// Bytes of weights that this call has read.
    pub bytes_read: u64,
}

/// Statistics of every mixture layer, in order. Nothing is begun that would take more memory than the options allow.
/// `watch` may stop it; with a place, the same call then goes on.
///
/// The loss whose gradients are taken is the sum of `−log p(next token)` over all tokens that have a next one.
pub fn observe(
    layers: Layers,
    calibration: &[Calibration],
    options: &ObserveOptions,
    place: Option<ObservePlace>,
    watch: &mut dyn FnMut(ObserveStep) -> bool,
) -> Result<Vec<LayerStatistics>, CompressError> {
    let tokens: Vec<u32> = calibration.iter().flat_map(|pack| pack.tokens).copied().collect();
    let lengths: Vec<usize> = calibration.iter().flat_map(|pack| pack.lengths).copied().collect();
    let calibration = Calibration { tokens: &tokens, lengths: &lengths };
    check(layers, calibration)?;
    let (loading, is_resident) = match layers {
        Layers::Resident(_) => (Loading::F32, true),
        Layers::Streamed(stream) => (stream.loading(), false),
    };
    let plan = ObservePlan::of(layers.outline(), loading, is_resident, calibration.lengths, options);
    // Without a place there is no disk for states.
    let needed = ObservePlan { states_on_disk: plan.states_on_disk && place.is_some(), ..plan }.total();
    if needed > options.memory_max {
        return Err(CompressError::Memory { needed, allowed: options.memory_max });
    }
    let store = place.map(|place| Store::open(place.folder, &identity(place, calibration, options))).transpose()?;
    let (batches, backward) = batches(calibration.lengths, options);
    let rows: Vec<usize> = batches.iter().map(|lengths| lengths.iter().sum()).collect();
    let states = place.filter(|_| plan.states_on_disk).map(|place| place.folder.join("states"));
    let states = States::new(rows, layers.config().hidden_size, states.as_deref())?;
    let step = ObserveStep { done: 0, total: 0, layer: 0, is_backward: false, bytes_read: 0 };
    Observing { layers, calibration, options, batches, backward, store, states, step, watch }.run()
}

fn check(layers: Layers, calibration: Calibration) -> Result<(), CompressError> {
    let Calibration { tokens, lengths } = calibration;
    assert_eq!(tokens.len(), lengths.iter().sum::<usize>(), "the lengths must add up to the tokens");
    let vocabulary = layers.config().vocab_size;
    match tokens.iter().max() {
        None => Err(CompressError::Calibration("there is no token to watch the experts on".into())),
        Some(&token) if token as usize >= vocabulary => {
            let problem = format!("token {token} is not among the model's {vocabulary}: is the tokenizer another's?");
            Err(CompressError::Calibration(problem))
        }
        Some(_) => Ok(()),
    }
}

fn identity(place: ObservePlace, calibration: Calibration, options: &ObserveOptions) -> Identity {
    let numbers = calibration.tokens.iter().copied().chain(calibration.lengths.iter().map(|&length| length as u32));
    Identity {
        model: place.model.to_owned(),
        calibration: formats::hash_bytes(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()),
        tokens: calibration.tokens.len(),
        similarity_tokens: options.similarity_tokens,
        gradient_tokens: options.gradient_tokens,
    }
}

/// Whole sequences in batches, and how many batches are walked back: the first ones, with as many tokens as asked for.
pub(crate) fn batches(lengths: &[usize], options: &ObserveOptions) -> (Vec<Vec<usize>>, usize) {
    let (mut backward, mut tokens) = (0, 0);
    while backward < lengths.len() && tokens < options.gradient_tokens {
        tokens += lengths[backward];
        backward += 1;
    }
    let mut all = cut(&lengths[..backward], options.chunk_tokens);
    let n_backward = all.len();
    all.extend(cut(&lengths[backward..], options.chunk_tokens));
    (all, n_backward)
}

/// Whole sequences in batches of at most so many tokens, unless a sequence has more.
pub(crate) fn cut(lengths: &[usize], chunk_tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for &length in lengths.iter().filter(|&&length| length > 0) {
        match batches.last_mut().filter(|batch| batch.iter().sum::<usize>() + length <= chunk_tokens) {
            Some(batch) => batch.push(length),
            None => batches.push(vec![length]),
        }
    }
    batches
}
