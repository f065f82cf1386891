//! A merged model beside its base with the adapter: the same tokens through both, layer by layer, so that no more than
//! two layers are in memory. The base alone runs along, because a difference is small or large only beside what the
//! adapter changes.

use super::merge::{MergeStep, parts, tell};
use super::places::Adapters;
use crate::forward::{embed, finish, layer_of, logits};
use crate::weights::Weights;
use crate::{KvFormat, LayerStream, ModelError, State};
use formats::safetensors::Tensors;
use formats::{DType, Tensor};
use kernels::cross_entropy::argmax;
use ops::{Buffer, Infer, Precision, Spans};
use serde::Serialize;

/// How the logits of the merged model differ from those of the base with its adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Probe {
    pub tokens: usize,
    /// The largest difference of one logit, and the root of the mean square of all.
    pub largest_difference: f64,
    pub rms_difference: f64,
    /// The same between the base with and without the adapter: what the adapter does.
    pub largest_effect: f64,
    pub rms_effect: f64,
    pub rms_logit: f64,
    /// Tokens after which both think the same most probable.
    pub same_top_token: usize,
    /// The coarsest rounding that merged weights are stored in, relative to a number.
    pub rounding: f64,
}

/// Of the adapter's effect, the share that the merged model may miss, beside what rounding of weights does.
const EFFECT_SHARE: f64 = 0.2;
/// How many roundings of single weights a logit may be off, in root mean square: they add up over layers.
const ROUNDINGS: f64 = 12.0;

impl Probe {
    /// The most that the root of the mean square of differences may be.
    pub fn allowed(&self) -> f64 {
        // f32 sums in another order, beside rounded weights.
        let sums = 1e-4;
        EFFECT_SHARE * self.rms_effect + (ROUNDINGS * self.rounding + sums) * self.rms_logit
    }

    pub(crate) fn check(&self) -> Result<(), ModelError> {
        if self.rms_difference <= self.allowed() {
            return Ok(());
        }
        Err(ModelError::Adapter(format!(
            "the merged model does not say what the base says with the adapter: logits differ by {:.3e} (root mean \
             square; at most {:.3e}), {:.3e} is allowed, and the adapter itself changes them by {:.3e}",
            self.rms_difference,
            self.largest_difference,
            self.allowed(),
            self.rms_effect
        )))
    }
}

/// One of the models that run side by side.
struct Run {
    x: Buffer,
    states: Vec<State>,
}

/// Runs base with adapters, merged, and base alone.
pub(crate) fn probe(
    [base, merged]: [&LayerStream; 2],
    adapters: &Adapters,
    sequences: &[Vec<u32>],
    watch: &mut dyn FnMut(MergeStep) -> bool,
) -> Result<Probe, ModelError> {
    let config = &base.outline().config;
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).filter(|&length| length > 0).collect();
    let tokens = sequences.concat();
    if tokens.is_empty() {
        return Err(ModelError::Adapter("there is no token to run the merged model on".into()));
    }
    let spans = Spans { starts: vec![0; lengths.len()], lengths };
    let mut e = Infer::new(Precision::F32);
    let (own, other) = (base.ends()?, merged.ends()?);
    let mut tuned = own.clone();
    adapters.attach(&mut tuned.weights);
    let mut runs = [&tuned, &other, &own].map(|model| Run {
        x: embed(&mut e, model, &tokens),
        states: vec![State::empty(config, KvFormat::F32); spans.lengths.len()],
    });
    let total = config.layers.len() as u64;
    for index in 0..config.layers.len() {
        let [adapted, of_merged, plain] = &mut runs;
        let mut weights = base.alone(index)?;
        plain.step(&mut e, &weights, index, &spans);
        adapters.attach_to_layers(&mut weights);
        adapted.step(&mut e, &weights, index, &spans);
        drop(weights);
        of_merged.step(&mut e, &merged.alone(index)?, index, &spans);
        tell(watch, MergeStep::Probing { done: index as u64 + 1, total })?;
    }
    let [adapted, of_merged, plain] = runs;
    let of_merged = finish(&mut e, &other, &of_merged.x);
    let (adapted, plain) = (finish(&mut e, &tuned, &adapted.x), finish(&mut e, &own, &plain.x));
    let mut tally = Tally::default();
    // Of a large vocabulary the logits of all tokens at once are much.
    for rows in (0..tokens.len()).collect::<Vec<_>>().chunks(LOGITS_ROWS) {
        let plain = logits(&mut e, &own, &plain, rows);
        let adapted = logits(&mut e, &tuned, &adapted, rows);
        tally.add([&adapted, &logits(&mut e, &other, &of_merged, rows), &plain]);
    }
    Ok(tally.probe(rounding(merged.tensors(), adapters)))
}

const LOGITS_ROWS: usize = 64;

impl Run {
    fn step(&mut self, e: &mut Infer, weights: &Weights, index: usize, spans: &Spans) {
        let x = std::mem::replace(&mut self.x, Buffer::zeros(0, 1));
        self.x = layer_of(e, &weights.layers[0], index, &mut self.states, spans, x);
    }
}

/// The coarsest rounding among the merged weights.
fn rounding(merged: &Tensors, adapters: &Adapters) -> f64 {
    let is_changed = |tensor: &Tensor| adapters.whole(tensor.name).is_some() || !parts(tensor, adapters).is_empty();
    let adapted = merged.tensors().filter(is_changed);
    let of = |dtype| match dtype {
        DType::BF16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12),
        _ => 2f64.powi(-25),
    };
    adapted.map(|tensor| of(tensor.dtype)).fold(0.0, f64::max)
}

/// Sums over logits.
#[derive(Default)]
struct Tally {
    probe: Probe,
    logits: usize,
    differences: f64,
    effects: f64,
    squares: f64,
}

impl Tally {
    fn add(&mut self, [adapted, merged, plain]: [&Buffer; 3]) {
        for row in 0..adapted.rows {
            let (adapted, merged, plain) = (adapted.row(row), merged.row(row), plain.row(row));
            for ((&a, &m), &p) in adapted.iter().zip(merged).zip(plain) {
                let (difference, effect) = (f64::from(a) - f64::from(m), f64::from(a) - f64::from(p));
                self.differences += difference * difference;
                self.effects += effect * effect;
                self.squares += f64::from(a) * f64::from(a);
                let probe = &mut self.probe;
                probe.largest_difference = probe.largest_difference.max(difference.abs());
                probe.largest_effect = probe.largest_effect.max(effect.abs());
            }
            self.logits += adapted.len();
            self.probe.tokens += 1;
            self.probe.same_top_token += usize::from(argmax(adapted) == argmax(merged));
        }
    }

    fn probe(self, rounding: f64) -> Probe {
        let root = |sum: f64| (sum / self.logits.max(1) as f64).sqrt();
        Probe {
            rms_difference: root(self.differences),
            rms_effect: root(self.effects),
            rms_logit: root(self.squares),
            rounding,
            ..self.probe
        }
    }
}
