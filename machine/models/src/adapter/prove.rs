//! A merged model against its base and its adapter, tensor by tensor: |W' − (W + scale·B·A)| of every number, in f64,
//! against what rounding to the stored format allows; of a module that was trained whole W' against its own numbers.

use super::merge::{MergeStep, Part, parts, tell};
use super::places::Adapters;
use crate::ModelError;
use formats::DType;
use formats::safetensors::Tensors;
use kernels::pool;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was found of all weights of one kind, such as `self_attn.q_proj` or `mlp.experts.*.gate_proj`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct KindProof {
    pub kind: String,
    /// Weights that the adapter adds to.
    pub weights: usize,
    /// The lowest and the highest rank; 0 of modules that were trained whole.
    pub ranks: [usize; 2],
    /// Of these weights, those whose delta is zero: nothing was learnt there, and nothing is to change.
    pub without_delta: usize,
    /// ‖W‖ and ‖Δ‖ over all of them, Δ = scale·B·A, or what a whole module differs by.
    pub weight_norm: f64,
    pub delta_norm: f64,
    /// ‖W' − W − Δ‖: what rounding took.
    pub error_norm: f64,
    /// The largest error of one number, as a share of what rounding allows it: at most 1.
    pub worst: f64,
    /// Where that was.
    pub worst_weight: String,
}

impl KindProof {
    /// ‖Δ‖ / ‖W‖.
    pub fn change(&self) -> f64 {
        self.delta_norm / self.weight_norm.max(f64::MIN_POSITIVE)
    }

    /// The part of the delta that rounding to the stored format took: ‖W' − W − Δ‖ / ‖Δ‖.
    pub fn lost(&self) -> f64 {
        if self.delta_norm > 0.0 { self.error_norm / self.delta_norm } else { 0.0 }
    }
}

/// The proof of a whole merge.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Proof {
    pub kinds: Vec<KindProof>,
    /// Weights that were found merged.
    pub merged: usize,
    /// Tensors without an adapter, which are what they were to the last bit.
    pub untouched: usize,
}

impl Proof {
    /// Refuses a merge that is not what it should be.
    pub(crate) fn check(&self, adapters: &Adapters) -> Result<(), ModelError> {
        let wanted = adapters.weights();
        if self.merged != wanted {
            return Err(ModelError::Adapter(format!(
                "{} of {wanted} adapted weights were found in the merged model: the others were left out",
                self.merged
            )));
        }
        if let Some(kind) = self.kinds.iter().find(|kind| kind.worst > 1.0) {
            return Err(ModelError::Adapter(format!(
                "{} of the merged model is not what base and adapter give: one number is off by {:.1} times what \
                 rounding allows",
                kind.worst_weight, kind.worst
            )));
        }
        if self.kinds.iter().all(|kind| kind.without_delta == kind.weights) {
            let problem = "the adapter adds nothing to any weight: all its B are zero, as before the first step of \
                           training";
            return Err(ModelError::Adapter(problem.into()));
        }
        Ok(())
    }
}

/// Compares every tensor; those without an adapter must be the same bytes.
pub(crate) fn prove(
    base: &Tensors,
    merged: &Tensors,
    adapters: &Adapters,
    watch: &mut dyn FnMut(MergeStep) -> bool,
) -> Result<Proof, ModelError> {
    let mut kinds: BTreeMap<String, KindProof> = BTreeMap::new();
    let mut proof = Proof::default();
    let (mut done, total) = (0, base.bytes());
    for before in base.tensors() {
        let after = merged.get(before.name)?;
        let parts = parts(&before, adapters);
        if let Some(whole) = adapters.whole(before.name) {
            let kind = kinds.entry(kind_of(before.name)).or_default();
            let found = compare_whole(whole.values(), &[before.to_f32(), after.to_f32()], after.dtype);
            note(kind, before.name, 0, &found);
            proof.merged += 1;
        } else if parts.is_empty() {
            if before.bytes != after.bytes {
                let problem = "has no adapter, and yet it is another one in the merged model";
                return Err(ModelError::Tensor { name: before.name.into(), problem: problem.into() });
            }
            proof.untouched += 1;
        } else {
            let numbers = [before.to_f32(), after.to_f32()];
            for part in &parts {
                let kind = kinds.entry(kind_of(&part.weight)).or_default();
                note(kind, &part.weight, part.adapter.rank(), &compare(part, &numbers, after.dtype));
                proof.merged += 1;
            }
        }
        base.release(&before);
        merged.release(&after);
        done += before.bytes.len() as u64;
        tell(watch, MergeStep::Proving { done, total })?;
    }
    proof.kinds = kinds.into_iter().map(|(kind, proof)| KindProof { kind, ..proof }).collect();
    Ok(proof)
}

/// A weight's name without its layer, its expert and the word `weight`.
pub(crate) fn kind_of(weight: &str) -> String {
    let path = weight.strip_suffix(".weight").unwrap_or(weight);
    let path = path.split_once(".layers.").and_then(|(_, rest)| rest.split_once('.')).map_or(path, |(_, rest)| rest);
    let parts = path.split('.').map(|part| if part.bytes().all(|b| b.is_ascii_digit()) { "*" } else { part });
    parts.collect::<Vec<_>>().join(".")
}

/// Sums of squares over one weight, and the largest error as a share of what is allowed.
#[derive(Clone, Copy, Default)]
struct Found {
    weight: f64,
    delta: f64,
    error: f64,
    worst: f64,
}

impl Found {
    /// One number that was and is, and was to change by `delta`.
    fn add(&mut self, [was, is]: [f64; 2], delta: f64, allowed: f64) {
        let error = (is - was - delta).abs();
        self.weight += was * was;
        self.delta += delta * delta;
        self.error += error * error;
        // What is no number is an error without bounds, and stays it.
        let share = if error.is_finite() { error / allowed } else { f64::INFINITY };
        self.worst = self.worst.max(share);
    }
}

/// A module that was trained whole: what is stored against what was learnt.
fn compare_whole(learnt: &[f32], [before, after]: &[Vec<f32>; 2], stored: DType) -> Found {
    let mut found = Found::default();
    for ((&learnt, &was), &is) in learnt.iter().zip(before).zip(after) {
        let [learnt, was, is] = [learnt, was, is].map(f64::from);
        found.add([was, is], learnt - was, allowed(learnt, 0.0, 0, stored));
    }
    found
}

fn note(kind: &mut KindProof, weight: &str, rank: usize, found: &Found) {
    kind.ranks = match kind.weights {
        0 => [rank, rank],
        _ => [kind.ranks[0].min(rank), kind.ranks[1].max(rank)],
    };
    kind.weights += 1;
    kind.without_delta += usize::from(found.delta == 0.0);
    let grow = |norm: &mut f64, squares: f64| *norm = norm.hypot(squares.sqrt());
    grow(&mut kind.weight_norm, found.weight);
    grow(&mut kind.delta_norm, found.delta);
    grow(&mut kind.error_norm, found.error);
    if found.worst > kind.worst {
        kind.worst = found.worst;
        kind.worst_weight = weight.to_owned();
    }
}

/// Rows that one thread looks at.
const TASK_ROWS: usize = 16;

fn compare(part: &Part, [before, after]: &[Vec<f32>; 2], stored: DType) -> Found {
    let Part { adapter, expert, start, rows, columns, .. } = *part;
    let ([a, b], rank, scale) = (adapter.factors(expert), adapter.rank(), f64::from(adapter.scale()));
    let at = start..start + rows * columns;
    let (before, after) = (&before[at.clone()], &after[at]);
    let mut found = vec![Found::default(); rows.div_ceil(TASK_ROWS)];
    pool::for_each_chunk(&mut found, 1, |task, found| {
        for row in task * TASK_ROWS..((task + 1) * TASK_ROWS).min(rows) {
            let b = &b[row * rank..(row + 1) * rank];
            for column in 0..columns {
                let (mut delta, mut size) = (0.0, 0.0);
                for (j, b) in b.iter().enumerate() {
                    let product = scale * f64::from(*b) * f64::from(a[j * columns + column]);
                    (delta, size) = (delta + product, size + product.abs());
                }
                let (was, is) = (f64::from(before[row * columns + column]), f64::from(after[row * columns + column]));
                found[0].add([was, is], delta, allowed(was + delta, was.abs() + size, rank, stored));
            }
        }
    });
    found.iter().fold(Found::default(), |sum, found| Found {
        weight: sum.weight + found.weight,
        delta: sum.delta + found.delta,
        error: sum.error + found.error,
        worst: sum.worst.max(found.worst),
    })
}

/// Half a unit in the last place of the stored format, the f32 sums before it, and the smallest number that the format
/// can say.
fn allowed(value: f64, size: f64, rank: usize, stored: DType) -> f64 {
    let (bits, smallest) = match stored {
        DType::BF16 => (8, f64::from(f32::MIN_POSITIVE)),
        DType::F16 => (11, 2f64.powi(-25)),
        DType::F64 => (53, f64::MIN_POSITIVE),
        _ => (24, f64::from(f32::MIN_POSITIVE)),
    };
    let rounding = |bits: i32| 2f64.powi(-bits);
    let sums = (rank + 3) as f64 * rounding(24) * size;
    (value.abs() + sums) * rounding(bits) + sums + smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_names_without_numbers() {
        for (weight, wanted) in [
            ("model.layers.11.mlp.experts.3.gate_proj.weight", "mlp.experts.*.gate_proj"),
            ("model.layers.0.self_attn.q_proj.weight", "self_attn.q_proj"),
            ("lm_head.weight", "lm_head"),
        ] {
            assert_eq!(kind_of(weight), wanted);
        }
    }

    #[test]
    fn rounding_is_allowed_and_no_more() {
        for (stored, spacing) in
            [(DType::BF16, 2f64.powi(-7)), (DType::F16, 2f64.powi(-10)), (DType::F32, 2f64.powi(-23))]
        {
            // Between 1 and 2 the nearest number is half a spacing away at most.
            let bound = allowed(1.0, 1.0, 1, stored);
            assert!(bound >= spacing / 2.0 && bound < 3.1 * spacing, "{}: {bound}", stored.name());
        }
    }
}
