//! The mixture of experts: route, sort rows by expert, multiply group by group, add the weighted outputs.
//!
//! The routing weight multiplies the activated hidden row before the down projection: that is linear, so the output is
//! the same, and the gradient of the weight is the inner product of two rows that backward has anyway.

use crate::buffer::add;
use crate::linear::{Grouped, Hidden};
use crate::{Buffer, Gradients, Linear, Moe, Precision, linear};
use kernels::{gemm, router, swiglu};

/// Where each row went.
#[derive(Debug)]
pub struct Routing {
    /// `[T, top_k]`, most probable first.
    pub indices: Vec<u32>,
    /// `[T, top_k]`.
    pub weights: Vec<f32>,
    /// `[T, E]`.
    pub probabilities: Buffer,
    /// Rows sorted by expert: expert e has `offsets[e]..offsets[e + 1]`.
    pub offsets: Vec<usize>,
    /// For each sorted row, its place in `indices`; the token is that divided by `top_k`.
    pub slots: Vec<u32>,
    /// For each place in `indices`, its sorted row.
    rows: Vec<u32>,
}

/// What backward needs besides x.
pub(crate) struct Saved {
    pub(crate) routing: Routing,
    gate: Buffer,
    up: Buffer,
    weighted: Buffer,
    hidden: [Hidden; 3],
}

/// One executed mixture; `expert_outputs` are the sorted rows, each already multiplied by its routing weight.
pub(crate) struct Outcome {
    pub(crate) output: Buffer,
    pub(crate) expert_outputs: Buffer,
    pub(crate) saved: Saved,
}

impl Routing {
    /// `chosen` is what an earlier pass over the same rows decided, and stays decided; else the router decides.
    pub(crate) fn of(x: &Buffer, moe: &Moe, chosen: Option<&[u32]>) -> Self {
        // The router decides in full precision: a rounded logit would send tokens elsewhere.
        let (logits, _) = linear::forward(x, &moe.router, Precision::F32);
        let (experts, top_k) = (moe.experts.len(), moe.top_k);
        let mut indices = vec![0u32; x.rows * top_k];
        let mut weights = vec![0.0; x.rows * top_k];
        let mut probabilities = Buffer::unwritten(x.rows, experts);
        router::forward(&mut indices, &mut weights, &mut probabilities, &logits, &shape(moe));
        if let Some(chosen) = chosen {
            keep_choices((&mut indices, &mut weights), chosen, &probabilities, moe);
        }
        let (offsets, slots) = sort_by_expert(&indices, experts);
        let mut rows = vec![0; slots.len()];
        slots.iter().enumerate().for_each(|(row, &slot)| rows[slot as usize] = row as u32);
        Self { indices, weights, probabilities, offsets, slots, rows }
    }

    pub fn count(&self, expert: usize) -> usize {
        self.offsets[expert + 1] - self.offsets[expert]
    }

    /// Of every expert.
    pub fn counts(&self) -> Vec<u64> {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u64).collect()
    }

    /// The token of each sorted row.
    fn tokens(&self, top_k: usize) -> Vec<u32> {
        self.slots.iter().map(|slot| slot / top_k as u32).collect()
    }

    fn token(&self, sorted_row: usize, top_k: usize) -> usize {
        self.slots[sorted_row] as usize / top_k
    }

    /// Copies rows of x to their sorted places, once per chosen expert.
    fn gather(&self, x: &Buffer, top_k: usize) -> Buffer {
        let mut sorted = Buffer::unwritten(self.slots.len(), x.width);
        sorted.for_each_row(|row, to| to.copy_from_slice(x.row(self.token(row, top_k))));
        sorted
    }

    /// Adds sorted rows back to their tokens, each token's in the order of its choices.
    fn scatter(&self, y: &mut Buffer, sorted: &Buffer, top_k: usize) {
        y.for_each_row(|token, sum| {
            let rows = &self.rows[token * top_k..(token + 1) * top_k];
            rows.iter().for_each(|&row| add(sum, sorted.row(row as usize)));
        });
    }
}

/// Where rounding made the router decide otherwise than before: what was chosen before, at today's probabilities.
fn keep_choices(
    (indices, weights): (&mut [u32], &mut [f32]),
    chosen: &[u32],
    probabilities: &Buffer,
    moe: &Moe,
) {
    assert_eq!(chosen.len(), indices.len(), "the choices are of other rows");
    let found = indices.chunks_exact_mut(moe.top_k).zip(weights.chunks_exact_mut(moe.top_k));
    for (row, ((indices, weights), chosen)) in found.zip(chosen.chunks_exact(moe.top_k)).enumerate() {
        if indices == chosen {
            continue;
        }
        indices.copy_from_slice(chosen);
        let probabilities = probabilities.row(row);
        weights.iter_mut().zip(chosen).for_each(|(weight, &expert)| *weight = probabilities[expert as usize]);
        if moe.normalize {
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
    }
}

/// A counting sort: offsets per expert and, in that order, the slots.
fn sort_by_expert(indices: &[u32], experts: usize) -> (Vec<usize>, Vec<u32>) {
    let mut offsets = vec![0usize; experts + 1];
    indices.iter().for_each(|&expert| offsets[expert as usize + 1] += 1);
    for expert in 0..experts {
        offsets[expert + 1] += offsets[expert];
    }
    let mut next = offsets.clone();
    let mut slots = vec![0u32; indices.len()];
    for (slot, &expert) in indices.iter().enumerate() {
        slots[next[expert as usize]] = slot as u32;
        next[expert as usize] += 1;
    }
    (offsets, slots)
}

fn shape(moe: &Moe) -> router::Shape {
    router::Shape { experts: moe.experts.len(), top_k: moe.top_k, normalize: moe.normalize }
}

/// The three maps of every expert, in bank order.
fn banks(moe: &Moe) -> [Vec<&Linear>; 3] {
    let bank = |pick: fn(&crate::Expert) -> &Linear| moe.experts.iter().map(pick).collect();
    [bank(|expert| &expert.gate), bank(|expert| &expert.up), bank(|expert| &expert.down)]
}

/// Whether an expert's products can be added to where they belong.
pub(crate) fn adds(expert: &crate::Expert) -> bool {
    let down = &expert.down;
    down.weight.matrix.is_packed() && down.adapter.is_none() && down.bias.is_none()
}

/// The mixture's output alone: of many tokens, packed experts add theirs straight to where they belong.
pub(crate) fn infer(x: &Buffer, moe: &Moe, precision: Precision) -> Buffer {
    if !moe.experts.iter().all(adds) {
        return forward(x, moe, precision, None).output;
    }
    let Activated { routing, weighted, .. } = activate(x, moe, precision, None);
    let mut output = Buffer::zeros(x.rows, x.width);
    if x.rows < SUMMED_MIN {
        let down: Vec<&Linear> = moe.experts.iter().map(|expert| &expert.down).collect();
        let outputs = Grouped { maps: &down, offsets: &routing.offsets, precision }.forward(&weighted).0;
        // In the experts' order, as below: the same sum for one token and for many.
        output.for_each_row(|token, sum| {
            let mut rows = routing.rows[token * moe.top_k..(token + 1) * moe.top_k].to_vec();
            rows.sort_unstable();
            rows.iter().for_each(|&row| add(sum, outputs.row(row as usize)));
        });
        return output;
    }
    let tokens = routing.tokens(moe.top_k);
    let weights: Vec<_> = moe.experts.iter().map(|expert| expert.down.weight.matrix.view()).collect();
    gemm::add_packed_products(&mut output, &weighted, &weights, &routing.offsets, &tokens);
    output
}

/// From this many tokens on, writing every expert's outputs costs more than reading weights in pieces.
pub(crate) const SUMMED_MIN: usize = 16;

/// `chosen` as in [`Routing::of`].
pub(crate) fn forward(x: &Buffer, moe: &Moe, precision: Precision, chosen: Option<&[u32]>) -> Outcome {
    let Activated { routing, pair: [(gate, gate_hidden), (up, up_hidden)], weighted } =
        activate(x, moe, precision, chosen);
    let down: Vec<&Linear> = moe.experts.iter().map(|expert| &expert.down).collect();
    let (expert_outputs, down_hidden) =
        Grouped { maps: &down, offsets: &routing.offsets, precision }.forward(&weighted);
    let mut output = Buffer::zeros(x.rows, x.width);
    routing.scatter(&mut output, &expert_outputs, moe.top_k);
    let saved = Saved { routing, gate, up, weighted, hidden: [gate_hidden, up_hidden, down_hidden] };
    Outcome { output, expert_outputs, saved }
}

/// What stands before the down projection.
struct Activated {
    routing: Routing,
    /// Gate and up.
    pair: [(Buffer, Hidden); 2],
    weighted: Buffer,
}

fn activate(x: &Buffer, moe: &Moe, precision: Precision, chosen: Option<&[u32]>) -> Activated {
    let routing = Routing::of(x, moe, chosen);
    let banks = banks(moe);
    let grouped = |bank: usize| Grouped { maps: &banks[bank], offsets: &routing.offsets, precision };
    let has_adapters = banks[..2].iter().any(|bank| bank[0].adapter.is_some());
    let packed = banks[..2].iter().flatten().all(|map| map.weight.matrix.is_packed());
    let pair = [&grouped(0), &grouped(1)];
    let pair = match x.rows {
        // Nothing is sorted: the experts' products pick their rows.
        _ if packed && !has_adapters => {
            linear::forward_pair_chosen(x, &routing.tokens(moe.top_k), pair).map(|rows| (rows, None))
        }
        // One token is what all its experts read.
        1 if !has_adapters => linear::forward_pair(x, pair),
        _ => linear::forward_pair(&routing.gather(x, moe.top_k), pair),
    };
    let [(gate, _), (up, _)] = &pair;
    let mut weighted = Buffer::unwritten(gate.rows, gate.width);
    let weights: Vec<f32> = routing.slots.iter().map(|&slot| routing.weights[slot as usize]).collect();
    swiglu::forward_weighted(&mut weighted, gate, up, &weights);
    Activated { routing, pair, weighted }
}

/// What the balance loss `coefficient · E · Σₑ fₑ·Pₑ` asks of every token's probabilities (Switch Transformer; fₑ the share
/// of `tokens` that chose e, Pₑ its mean probability, both over the whole batch and one layer).
pub(crate) fn balance(coefficient: f32, counts: &[u64], tokens: usize) -> Vec<f32> {
    let factor = coefficient * counts.len() as f32 / (tokens as f32 * tokens as f32);
    counts.iter().map(|&count| factor * count as f32).collect()
}

/// Adds to dx and the gradients. `pass`: the precision of products, and what a loss on the routers asks of each token's
/// probabilities, `[E]`.
pub(crate) fn backward(
    dx: &mut Buffer,
    dy: &Buffer,
    x: &Buffer,
    saved: &Saved,
    moe: &Moe,
    pass: (Precision, &[f32]),
    gradients: &mut Gradients,
) {
    let (precision, dprobabilities) = pass;
    let Saved { routing, gate, up, weighted, hidden } = saved;
    let banks = banks(moe);
    let grouped = |bank: usize| Grouped { maps: &banks[bank], offsets: &routing.offsets, precision };

    let dy_sorted = routing.gather(dy, moe.top_k);
    let mut dactivated = Buffer::zeros(weighted.rows, weighted.width);
    grouped(2).backward(Some(&mut dactivated), &dy_sorted, weighted, &hidden[2], gradients);
    drop(dy_sorted);

    let mut activated = Buffer::unwritten(gate.rows, gate.width);
    swiglu::forward(&mut activated, gate, up);
    let mut dweights = Buffer::unwritten(x.rows, moe.top_k);
    dweights.for_each_row(|token, dweights| {
        for (choice, dweight) in dweights.iter_mut().enumerate() {
            let row = routing.rows[token * moe.top_k + choice] as usize;
            *dweight = dactivated.row(row).iter().zip(activated.row(row)).map(|(d, a)| d * a).sum();
        }
    });
    dactivated.for_each_row(|row, d| {
        let weight = routing.weights[routing.slots[row] as usize];
        d.iter_mut().for_each(|d| *d *= weight);
    });
    let mut dgate = Buffer::zeros(gate.rows, gate.width);
    let mut dup = Buffer::zeros(up.rows, up.width);
    swiglu::backward(&mut dgate, &mut dup, &dactivated, gate, up);

    let sorted = routing.gather(x, moe.top_k);
    let mut dsorted = Buffer::zeros(sorted.rows, sorted.width);
    grouped(0).backward(Some(&mut dsorted), &dgate, &sorted, &hidden[0], gradients);
    grouped(1).backward(Some(&mut dsorted), &dup, &sorted, &hidden[1], gradients);
    routing.scatter(dx, &dsorted, moe.top_k);
    backward_router(dx, (&dweights, dprobabilities), x, routing, moe, gradients);
}

fn backward_router(
    dx: &mut Buffer,
    (dweights, dprobabilities): (&[f32], &[f32]),
    x: &Buffer,
    routing: &Routing,
    moe: &Moe,
    gradients: &mut Gradients,
) {
    let mut dlogits = Buffer::zeros(x.rows, moe.experts.len());
    let made =
        router::Routing { probabilities: &routing.probabilities, indices: &routing.indices, weights: &routing.weights };
    router::backward(&mut dlogits, dweights, dprobabilities, made, &shape(moe));
    linear::backward(Some(dx), &dlogits, x, &None, &moe.router, Precision::F32, gradients);
}
