//! What a mask on the gates costs, and what each of its numbers is worth: KL from what the model says without it.
//!
//! Legend: T tokens, H hidden width, E experts.

use crate::Calibration;
use crate::observe::cut;
use crate::prune::keep_experts;
use models::{FeedForward, KvFormat, LayerWeights, Model, State, layer_from_empty};
use ops::{
    Buffer, Divergence, Execute, ExpertGradients, Gradients, Infer, Moe, Precision, RecordBackward, Says, Segment,
    Tape, Teacher,
};

/// Whole sequences that go through the model at a time.
pub(super) struct Batch {
    tokens: Vec<u32>,
    lengths: Vec<usize>,
    /// What its head makes logits of, all experts at work: `[T, H]`.
    wanted: Buffer,
}

impl Batch {
    /// Of some sequences, each of about so many tokens.
    pub(super) fn of(model: &Model, calibration: &[Calibration], tokens_max: usize) -> Vec<Self> {
        let tokens: Vec<u32> = calibration.iter().flat_map(|pack| pack.tokens).copied().collect();
        let lengths: Vec<usize> = calibration.iter().flat_map(|pack| pack.lengths).copied().collect();
        let mut rest = &tokens[..];
        let batch = |lengths: Vec<usize>| {
            let (tokens, after) = rest.split_at(lengths.iter().sum());
            rest = after;
            let mut states: Vec<State> = lengths.iter().map(|_| State::empty(&model.config, KvFormat::F32)).collect();
            let wanted = models::hidden(&mut Infer::new(Precision::F32), model, &mut states, tokens, &lengths);
            Self { tokens: tokens.to_vec(), lengths, wanted }
        };
        cut(&lengths, tokens_max).into_iter().map(batch).collect()
    }

    fn teacher<'a>(&'a self, model: &'a Model) -> Teacher<'a> {
        let (hidden, head) = (&self.wanted[..], model.weights.head());
        Teacher { says: Says::Hidden { hidden, head, divergence: Divergence::Forward }, temperature: 1.0 }
    }

    /// The slope of the mean KL of a model whose gates are multiplied by `masks`, `[E]` for each mixture, by each of
    /// their numbers. Nothing in the model may want a gradient.
    pub(super) fn slopes(&self, model: &Model, masks: Vec<Vec<f32>>) -> Vec<Vec<f64>> {
        let (mut gradients, mut seen) = (Gradients::default(), Slopes::default());
        let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients).recording(&mut seen);
        tape.begin(Segment { masks, ..Segment::default() });
        let mut x = models::embed(&mut tape, model, &self.tokens);
        for (index, layer) in model.weights.layers.iter().enumerate() {
            x = layer_from_empty(&mut tape, &model.config, index, layer, &self.lengths, x);
        }
        let h = models::finish(&mut tape, model, &x);
        let weights = vec![1.0 / self.tokens.len() as f32; self.tokens.len()];
        tape.divergence(&h, model.weights.head(), self.teacher(model), &weights);
        tape.backward(Vec::new(), None);
        seen.0.reverse();
        seen.0
    }
}

/// Of each mixture, from the last to the first.
#[derive(Default)]
struct Slopes(Vec<Vec<f64>>);

impl RecordBackward for Slopes {
    fn experts_backward(&mut self, _: &Moe, seen: &ExpertGradients) {
        self.0.push(seen.of_mask.to_vec());
    }
}

fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len().max(1) as f64
}

/// The mean KL over all tokens of `batches` if only these experts of each mixture are there and tokens go to them.
pub(super) fn divergence(model: &Model, batches: &[Batch], kept: &[Vec<usize>]) -> f64 {
    let mut e = Infer::new(Precision::F32);
    let mut streams: Vec<Buffer> = batches.iter().map(|batch| models::embed(&mut e, model, &batch.tokens)).collect();
    let mut kept = kept.iter();
    for (index, layer) in model.weights.layers.iter().enumerate() {
        let pruned = layer.mixture().map(|_| pruned(layer, kept.next().expect("every mixture keeps some")));
        let layer = pruned.as_ref().unwrap_or(layer);
        for (batch, stream) in batches.iter().zip(&mut streams) {
            let x = std::mem::replace(stream, Buffer::zeros(0, 1));
            *stream = layer_from_empty(&mut e, &model.config, index, layer, &batch.lengths, x);
        }
    }
    let mut losses = Vec::new();
    for (batch, stream) in batches.iter().zip(&streams) {
        let h = models::finish(&mut e, model, stream);
        let weights = vec![1.0; batch.tokens.len()];
        losses.extend(e.divergence(&h, model.weights.head(), batch.teacher(model), &weights));
    }
    mean(&losses)
}

fn pruned(layer: &LayerWeights, keep: &[usize]) -> LayerWeights {
    let mut layer = layer.clone();
    if let FeedForward::Moe(moe) = &mut layer.feed_forward {
        keep_experts(&mut moe.routed, keep);
    }
    layer
}
