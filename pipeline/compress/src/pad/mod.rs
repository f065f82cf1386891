//! Layers with as many experts each as the largest has, for programs that want one number of them in all.
//!
//! An expert that is added is never chosen: the router's row for it loses to those that a token takes (`fit.rs`). Its
//! weights are those of the layer's busiest expert. Zeros would do as well, but programs that quantize divide by the
//! largest number of a tensor; and a token that went there against all expectation would find what most tokens find.

mod compare;
mod fit;
mod memory;

pub use compare::{LogitsApart, logits_apart};
pub use memory::PadPlan;

use crate::merge::Walk;
use crate::prune::renumbered;
use crate::rewrite::{ExpertRewrite, rewrite_experts};
use crate::{CompressError, Tokens};
use fit::{Routes, losing_row};
use formats::{DType, hash_bytes};
use models::{Config, FeedForwardKind, LayerStream, RewriteStep};
use numeric::{Format, Matrix};
use ops::{Moe, Parameter};
use serde::Serialize;
use std::path::Path;

/// Margins in nats that are tried where the chosen gates are divided by their sum: there an expert that is not chosen
/// counts nothing, however near it came. Larger ones want longer rows, which unseen tokens may like.
const MARGINS: [f64; 7] = [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0];

/// Where gates are not divided, added experts take from the sum of all probabilities. Half of this margin already
/// leaves them less than a number of 24 bits can tell, of a thousand of them: `1024·e^−24 < 2^−24`.
const MARGIN_OF_MASS: f64 = 48.0;

/// What is added to one mixture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerPadding {
    pub layer: usize,
    /// Experts that it has, and that are added; where none are, nothing else is said.
    pub experts: usize,
    pub added: usize,
    /// The expert whose weights the added ones have.
    pub copied: usize,
    /// The router's row for each of them, `[H]`, in the numbers that it is stored in.
    #[serde(skip)]
    pub row: Vec<f32>,
    /// How far its logit is below that of the last expert that a token takes, in nats: the least of the tokens that
    /// were fitted, and of those held out.
    pub margin_fitted: f64,
    pub margin: f64,
    /// Held-out tokens, and those for which an added expert counts.
    pub tokens: usize,
    pub misrouted: usize,
}

/// The format that the model's weights are written in again: that of the file, f32 where it has several. Refuses what
/// is to be padded before it is stored in blocks, and what has nothing to pad.
pub fn padded_format(stream: &LayerStream) -> Result<Format, CompressError> {
    let counts = stream.outline().config.expert_counts();
    let refuse = |problem: &str| Err(CompressError::Padding(problem.to_owned()));
    if counts.iter().all(|count| Some(count) == counts.first()) {
        return refuse("all layers have the same number of experts: there is nothing to pad");
    }
    if stream.outline().parameters().iter().any(|parameter| parameter.matrix.format().block_columns() > 1) {
        return refuse("the weights are quantized: pad the model that they were quantized from, then quantize");
    }
    // Vectors are f32 whatever the rest is.
    let tensors = || stream.tensors().tensors().filter(|tensor| tensor.shape.len() > 1);
    let all = |dtype: DType| tensors().all(|tensor| tensor.dtype == dtype);
    Ok(match () {
        () if all(DType::BF16) => Format::Bf16,
        () if all(DType::F16) => Format::F16,
        () => Format::F32,
    })
}

/// The configuration of the padded model.
pub fn padded_config(config: &Config) -> Config {
    let mut padded = config.clone();
    padded.set_expert_counts(&padded_counts(config));
    padded
}

/// Experts that each layer will have; of dense layers any number.
fn padded_counts(config: &Config) -> Vec<usize> {
    vec![config.expert_counts().into_iter().max().unwrap_or(0); config.layers.len()]
}

/// Fits rows of the routers on the calibration tokens, layer by layer, and counts on the held-out ones whether they
/// lose. `folder` is for hidden states, and gone afterwards. Fails where no row loses to all calibration tokens;
/// whether it loses to those held out is for [`check_padding`] to say. `watch` hears of every layer, and may stop it.
pub fn fit_padding(
    stream: &LayerStream,
    tokens: Tokens,
    folder: &Path,
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<Vec<LayerPadding>, CompressError> {
    let stored = padded_format(stream)?;
    if tokens.rows().contains(&0) {
        let problem = "there are too few tokens to fit on some and measure on others: give more";
        return Err(CompressError::Padding(problem.to_owned()));
    }
    let mut walk = Walk::new(&stream.outline().config, tokens, Some(folder))?;
    let fitted = fit_layers(stream, &mut walk, stored, watch);
    walk.clear();
    fitted
}

fn fit_layers(
    stream: &LayerStream,
    walk: &mut Walk,
    stored: Format,
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<Vec<LayerPadding>, CompressError> {
    let config = &stream.outline().config;
    let wanted = config.expert_counts().into_iter().max().unwrap_or(0);
    let is_short = |layer: &models::LayerConfig| match layer.feed_forward {
        FeedForwardKind::Experts { count } => count < wanted,
        FeedForwardKind::Dense => false,
    };
    // What comes after the last layer that is to be padded is not asked.
    let last = config.layers.iter().rposition(is_short).unwrap_or(0);
    let mut step = RewriteStep { done: 0, total: last + 1, bytes_read: 0 };
    walk.embed(&stream.embedding()?)?;
    let mut paddings = Vec::new();
    for index in 0..=last {
        let layer = stream.layer(index)?;
        step.bytes_read += layer.bytes() as u64;
        let rows = walk.step(config, index, &layer)?;
        walk.forget(index);
        if let Some(moe) = layer.mixture().filter(|moe| moe.experts.len() < wanted) {
            if rows.calibration.iter().chain(rows.held_out.iter()).any(|value| !value.is_finite()) {
                let problem = format!("what comes into layer {index} is no number: look at the model's weights");
                return Err(CompressError::Padding(problem));
            }
            let [fitted, held_out] = [&rows.calibration, &rows.held_out].map(|rows| Routes::of(rows, moe));
            paddings.push(fit_layer(index, moe, wanted - moe.experts.len(), [&fitted, &held_out], stored)?);
        }
        step.done += 1;
        if !watch(step) {
            return Err(CompressError::Cancelled);
        }
    }
    Ok(paddings)
}

fn fit_layer(
    layer: usize,
    moe: &Moe,
    added: usize,
    [fitted, held_out]: [&Routes; 2],
    stored: Format,
) -> Result<LayerPadding, CompressError> {
    let margins: &[f64] = if moe.normalize { &MARGINS } else { &[MARGIN_OF_MASS] };
    let Some(row) = losing_row(fitted, &moe.router, margins, stored) else {
        let (experts, top_k) = (moe.experts.len(), moe.top_k);
        let problem = format!(
            "layer {layer} has {experts} experts, of which a token takes {top_k}, and no row of its router loses to \
             them for all tokens: let it keep more experts (minimum), or all layers the same number (budget = \
             \"uniform\")"
        );
        return Err(CompressError::Padding(problem));
    };
    let least = |margins: &[f64]| margins.iter().copied().fold(f64::INFINITY, f64::min);
    let margins = held_out.margins(&row);
    let counts_from = if moe.normalize { 0.0 } else { MARGIN_OF_MASS / 2.0 };
    Ok(LayerPadding {
        layer,
        experts: moe.experts.len(),
        added,
        copied: fitted.busiest(),
        margin_fitted: least(&fitted.margins(&row)),
        margin: least(&margins),
        tokens: margins.len(),
        // Who wins a tie differs between programs.
        misrouted: margins.iter().filter(|&&margin| margin <= counts_from).count(),
        row,
    })
}

/// Of so many held-out tokens one may go to an added expert: it loses the last of its experts, and has the weights of
/// the busiest one in its place.
const TOKENS_OF_ONE_MISROUTED: usize = 10_000;

/// Refuses what misroutes more than that of the held-out tokens.
pub fn check_padding(paddings: &[LayerPadding]) -> Result<(), CompressError> {
    let Some(worst) = paddings.iter().max_by_key(|padding| padding.misrouted) else { return Ok(()) };
    let LayerPadding { layer, misrouted, tokens, .. } = worst;
    if misrouted * TOKENS_OF_ONE_MISROUTED <= *tokens {
        return Ok(());
    }
    Err(CompressError::Padding(format!(
        "in layer {layer} an added expert counts for {misrouted} of {tokens} tokens that were held out: fit on more \
         tokens, let this layer keep more experts (minimum), or all layers the same number (budget = \"uniform\")"
    )))
}

/// Writes the padded model; `key` tells its tokens from others. The same call goes on where it was stopped or killed.
pub fn write_padded(
    stream: &LayerStream,
    out: &Path,
    paddings: &[LayerPadding],
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<(), CompressError> {
    check_padding(paddings)?;
    let counts = padded_counts(&stream.outline().config);
    let mut told = Vec::new();
    for padding in paddings {
        told.extend((padding.layer as u64).to_le_bytes());
        told.extend((padding.copied as u64).to_le_bytes());
        told.extend(padding.row.iter().flat_map(|value| value.to_le_bytes()));
    }
    let key = hash_bytes(&told);
    let plain = padded_format(stream)?;
    let job = ExpertRewrite { from: stream, out, expert_counts: &counts, key: &key, plain, quantization: None };
    let mut pad = |index: usize, moe: Moe| {
        Ok(match paddings.iter().find(|padding| padding.layer == index) {
            Some(padding) => padded(moe, padding),
            None => moe,
        })
    };
    rewrite_experts(&job, &mut pad, watch)
}

fn padded(moe: Moe, padding: &LayerPadding) -> Moe {
    let LayerPadding { added, copied, row, .. } = padding;
    let Parameter { id, name, trained, matrix, .. } = moe.router.weight;
    let mut values = matrix.to_f32();
    (0..*added).for_each(|_| values.extend_from_slice(row));
    let (rows, columns) = (matrix.rows + added, matrix.columns);
    let matrix = Matrix::from_f32(rows, columns, values);
    let weight = Parameter { id, name, shape: vec![rows, columns], trained, matrix };
    let copies = vec![(*copied, moe.experts[*copied].clone()); *added];
    let experts = renumbered(moe.experts.into_iter().enumerate().chain(copies));
    Moe { router: ops::Linear { weight, ..moe.router }, experts, ..moe }
}
