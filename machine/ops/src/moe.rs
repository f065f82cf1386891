//! The mixture of experts: route, sort rows by expert, multiply group by group, add the weighted outputs.
//!
//! The routing weight multiplies the activated hidden row before the down projection: that is linear, so the output is
//! the same, and the gradient of the weight is the inner product of two rows that backward has anyway.

use crate::buffer::add;
use crate::gate_mask::Masked;
use crate::linear::{Grouped, Hidden, Pass};
use crate::low_rank::{LowRank, Rows};
use crate::{Adapter, Buffer, Gradients, Linear, Moe, Precision, linear};
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
    /// The token of each sorted row.
    tokens: Vec<u32>,
    router_hidden: Hidden,
}

/// What backward needs besides x.
pub(crate) struct Saved {
    pub(crate) routing: Routing,
    masked: Option<Masked>,
    gate: Buffer,
    up: Buffer,
    weighted: Buffer,
    hidden: [Hidden; 3],
}

/// What is decided before a mixture is run.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given<'a> {
    /// As in [`Routing::of`].
    pub(crate) chosen: Option<&'a [u32]>,
    /// What the gates are multiplied by, `[E]`.
    pub(crate) mask: Option<&'a [f32]>,
}

/// One executed mixture; `expert_outputs` are the sorted rows, each already multiplied by its routing weight.
pub(crate) struct Outcome {
    pub(crate) output: Buffer,
    pub(crate) expert_outputs: Buffer,
    pub(crate) saved: Saved,
}

/// What a router is to be taught: a distribution over its experts for every token.
#[derive(Debug, Clone)]
pub struct RouterTarget {
    /// `[T, E]`, rows that add up to 1.
    pub probabilities: Buffer,
    /// What a token counts in the loss that is walked back from.
    pub weight: f32,
}

impl RouterTarget {
    /// Σ over tokens of KL(target ‖ router), in nats.
    pub(crate) fn divergence(&self, routing: &Routing) -> f64 {
        let pairs = self.probabilities.iter().zip(routing.probabilities.iter()).filter(|(r, _)| **r > 0.0);
        pairs.map(|(&r, &p)| f64::from(r) * (f64::from(r).ln() - f64::from(p).max(f64::MIN_POSITIVE).ln())).sum()
    }

    /// dlogits += weight·(p − r), the gradient of `weight·KL(r ‖ p)` where r adds up to 1.
    fn teach(&self, dlogits: &mut Buffer, routing: &Routing) {
        dlogits.for_each_row(|row, dlogits| {
            let pairs = routing.probabilities.row(row).iter().zip(self.probabilities.row(row));
            dlogits.iter_mut().zip(pairs).for_each(|(dlogit, (p, r))| *dlogit += self.weight * (p - r));
        });
    }
}

/// What losses on the routers ask.
pub(crate) struct Asked<'a> {
    /// Of each token's probabilities, `[E]`.
    pub(crate) balance: &'a [f32],
    pub(crate) target: Option<&'a RouterTarget>,
}

impl Routing {
    /// `chosen` is what an earlier pass over the same rows decided, and stays decided; else the router decides.
    pub(crate) fn of(x: &Buffer, moe: &Moe, pass: Pass, chosen: Option<&[u32]>) -> Self {
        let (logits, router_hidden) = linear::forward(x, &moe.router, exactly(pass));
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
        let tokens = slots.iter().map(|slot| slot / top_k as u32).collect();
        Self { indices, weights, probabilities, offsets, slots, rows, tokens, router_hidden }
    }

    pub fn count(&self, expert: usize) -> usize {
        self.offsets[expert + 1] - self.offsets[expert]
    }

    /// How undecided the router was: the mean entropy of its probabilities, in nats a token. Of long passes it looks at
    /// a token here and there, because logarithms of all would cost more than the router itself.
    pub fn entropy(&self) -> f32 {
        const TOKENS_MAX: usize = 256;
        let stride = self.probabilities.rows.div_ceil(TOKENS_MAX).max(1);
        let (mut sum, mut tokens) = (0.0, 0);
        for row in (0..self.probabilities.rows).step_by(stride) {
            let terms = self.probabilities.row(row).iter().filter(|&&p| p > 0.0);
            sum -= terms.map(|&p| f64::from(p) * f64::from(p).ln()).sum::<f64>();
            tokens += 1;
        }
        (sum / f64::from(tokens.max(1))) as f32
    }

    /// Of every expert.
    pub fn counts(&self) -> Vec<u64> {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as u64).collect()
    }

    /// The weight of each sorted row.
    fn sorted_weights(&self) -> Vec<f32> {
        self.slots.iter().map(|&slot| self.weights[slot as usize]).collect()
    }

    /// Copies rows of x to their sorted places, once per chosen expert.
    fn gather(&self, x: &Buffer) -> Buffer {
        let mut sorted = Buffer::unwritten(self.slots.len(), x.width);
        sorted.for_each_row(|row, to| to.copy_from_slice(x.row(self.tokens[row] as usize)));
        sorted
    }

    /// One bank of experts over the sorted rows.
    fn bank<'a>(&'a self, maps: &'a [&'a Linear], adapter: &'a Option<Adapter>, pass: Pass) -> Grouped<'a> {
        let rows = Rows { offsets: &self.offsets, tokens: &self.tokens };
        Grouped { maps, adapter: adapter.as_ref(), rows, pass }
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
fn keep_choices((indices, weights): (&mut [u32], &mut [f32]), chosen: &[u32], probabilities: &Buffer, moe: &Moe) {
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

/// The router decides in full precision: a rounded logit would send tokens elsewhere.
fn exactly(pass: Pass) -> Pass {
    Pass { precision: Precision::F32, ..pass }
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
    expert.down.weight.matrix.is_packed() && expert.down.bias.is_none()
}

/// The mixture's output and routing alone: of many tokens, packed experts add theirs straight to where they belong.
pub(crate) fn infer(x: &Buffer, moe: &Moe, pass: Pass) -> (Buffer, Routing) {
    if !moe.experts.iter().all(adds) {
        let Outcome { output, saved, .. } = forward(x, moe, pass, Given::default());
        return (output, saved.routing);
    }
    let (routing, weighted) = weighted(x, moe, pass);
    let mut output = Buffer::zeros(x.rows, x.width);
    if x.rows < SUMMED_MIN {
        let down: Vec<&Linear> = moe.experts.iter().map(|expert| &expert.down).collect();
        let outputs = routing.bank(&down, &moe.adapters[2], pass).forward(&weighted).0;
        // In the experts' order, as below: the same sum for one token and for many.
        output.for_each_row(|token, sum| {
            let mut rows = routing.rows[token * moe.top_k..(token + 1) * moe.top_k].to_vec();
            rows.sort_unstable();
            rows.iter().for_each(|&row| add(sum, outputs.row(row as usize)));
        });
        return (output, routing);
    }
    let weights: Vec<_> = moe.experts.iter().map(|expert| expert.down.weight.matrix.view()).collect();
    gemm::add_packed_products(&mut output, &weighted, &weights, &routing.offsets, &routing.tokens);
    if let Some(adapter) = &moe.adapters[2] {
        add_adapted(&mut output, &weighted, adapter, &routing, (moe.top_k, pass));
    }
    (output, routing)
}

/// Whether gate and up outputs become one before they are written.
pub(crate) fn is_gated(moe: &Moe) -> bool {
    let plain = |map: &Linear| map.weight.matrix.is_packed() && map.bias.is_none();
    moe.adapters[..2].iter().all(Option::is_none)
        && moe.experts.iter().all(|e| plain(&e.gate) && plain(&e.up) && adds(e))
}

/// What goes into the down projections, and which rows it belongs to. Packed experts that nothing is added to never
/// write their gate and up outputs.
fn weighted(x: &Buffer, moe: &Moe, pass: Pass) -> (Routing, Buffer) {
    if !is_gated(moe) {
        let Activated { routing, weighted, .. } = activate(x, moe, pass, Given::default());
        return (routing, weighted);
    }
    let routing = Routing::of(x, moe, pass, None);
    let width = moe.experts[0].gate.output_width();
    let mut weighted = Buffer::unwritten(routing.slots.len(), width);
    let weights = routing.sorted_weights();
    let (mut rest, mut maps) = (&mut weighted[..], Vec::with_capacity(moe.experts.len()));
    for (expert, rows) in moe.experts.iter().zip(routing.offsets.windows(2)).filter(|(_, rows)| rows[0] < rows[1]) {
        let (y, rows) = (rest.split_off_mut(..(rows[1] - rows[0]) * width), rows[0]..rows[1]);
        let y = y.expect("the experts' rows add up to all rows");
        let pair = [&expert.gate, &expert.up].map(|map| map.weight.matrix.view());
        maps.push(gemm::GatedMap { y, x, chosen: &routing.tokens[rows.clone()], pair, weights: &weights[rows] });
    }
    gemm::multiply_gated(maps);
    (routing, weighted)
}

/// Adds what the down projections' adapter makes of the sorted rows to their tokens.
fn add_adapted(output: &mut Buffer, weighted: &Buffer, adapter: &Adapter, routing: &Routing, how: (usize, Pass)) {
    let (top_k, pass) = how;
    let rows = Rows { offsets: &routing.offsets, tokens: &routing.tokens };
    let low_rank = LowRank { adapter, rows, pass };
    let hidden = low_rank.narrow(weighted);
    if adapter.b.shape.len() == 2 {
        // All share what leads out, so the narrow rows can be added first.
        let mut sums = Buffer::zeros(output.rows, hidden.width);
        routing.scatter(&mut sums, &hidden, top_k);
        let rows = Rows { offsets: &[0, output.rows], tokens: &[] };
        return LowRank { rows, ..low_rank }.widen(output, &sums);
    }
    let mut outputs = Buffer::zeros(weighted.rows, output.width);
    low_rank.widen(&mut outputs, &hidden);
    routing.scatter(output, &outputs, top_k);
}

/// From this many tokens on, writing every expert's outputs costs more than reading weights in pieces.
pub(crate) const SUMMED_MIN: usize = 16;

pub(crate) fn forward(x: &Buffer, moe: &Moe, pass: Pass, given: Given) -> Outcome {
    let Activated { routing, masked, pair: [(gate, gate_hidden), (up, up_hidden)], weighted } =
        activate(x, moe, pass, given);
    let down: Vec<&Linear> = moe.experts.iter().map(|expert| &expert.down).collect();
    let (expert_outputs, down_hidden) = routing.bank(&down, &moe.adapters[2], pass).forward(&weighted);
    let mut output = Buffer::zeros(x.rows, x.width);
    routing.scatter(&mut output, &expert_outputs, moe.top_k);
    let saved = Saved { routing, masked, gate, up, weighted, hidden: [gate_hidden, up_hidden, down_hidden] };
    Outcome { output, expert_outputs, saved }
}

/// What every expert makes of every row of x, unweighted and with what adapters add: `[E · T, H]`, expert by expert.
/// That is E / top_k times the work of the mixture, so x is a sample.
pub fn every_expert(x: &Buffer, moe: &Moe) -> Buffer {
    let pass = Pass::from(Precision::F32);
    let experts = moe.experts.len();
    let offsets: Vec<usize> = (0..=experts).map(|expert| expert * x.rows).collect();
    let tokens: Vec<u32> = (0..experts).flat_map(|_| 0..x.rows as u32).collect();
    let banks = banks(moe);
    let bank = |bank: usize| {
        let rows = Rows { offsets: &offsets, tokens: &tokens };
        Grouped { maps: &banks[bank], adapter: moe.adapters[bank].as_ref(), rows, pass }
    };
    let repeated = x.gathered(&tokens.iter().map(|&token| token as usize).collect::<Vec<_>>());
    let [gate, up] = [0, 1].map(|at| bank(at).forward(&repeated).0);
    drop(repeated);
    let mut activated = Buffer::unwritten(gate.rows, gate.width);
    swiglu::forward(&mut activated, &gate, &up);
    bank(2).forward(&activated).0
}

/// What stands before the down projection.
struct Activated {
    routing: Routing,
    masked: Option<Masked>,
    /// Gate and up.
    pair: [(Buffer, Hidden); 2],
    weighted: Buffer,
}

/// Whether the gate and up projections take their rows as they are: packed experts pick theirs, and one token is what
/// all its experts read. Adapters want them sorted.
pub(crate) fn is_sorted(tokens: usize, moe: &Moe) -> bool {
    let is_packed = moe.experts.iter().all(|e| [&e.gate, &e.up].iter().all(|map| map.weight.matrix.is_packed()));
    moe.adapters[..2].iter().any(Option::is_some) || !(is_packed || tokens == 1)
}

fn activate(x: &Buffer, moe: &Moe, pass: Pass, given: Given) -> Activated {
    let mut routing = Routing::of(x, moe, pass, given.chosen);
    let masked = given.mask.map(|mask| Masked::apply(mask, &mut routing, moe));
    let banks = banks(moe);
    let grouped = [0, 1].map(|bank| routing.bank(&banks[bank], &moe.adapters[bank], pass));
    let pair = [&grouped[0], &grouped[1]];
    let packed = banks[..2].iter().flatten().all(|map| map.weight.matrix.is_packed());
    let sorted = is_sorted(x.rows, moe).then(|| routing.gather(x));
    let outputs = match &sorted {
        _ if packed => linear::forward_pair_chosen(x, &routing.tokens, pair),
        None => linear::forward_pair(x, pair),
        Some(_) if x.rows == 1 => linear::forward_pair(x, pair),
        Some(sorted) => linear::forward_pair(sorted, pair),
    };
    let mut bank = grouped.iter();
    let pair = outputs.map(|mut output| {
        let bank = bank.next().expect("two banks, two outputs");
        let hidden = sorted.as_ref().and_then(|sorted| bank.adapt(&mut output, sorted));
        (output, hidden)
    });
    let [(gate, _), (up, _)] = &pair;
    let mut weighted = Buffer::unwritten(gate.rows, gate.width);
    swiglu::forward_weighted(&mut weighted, gate, up, &routing.sorted_weights());
    Activated { routing, masked, pair, weighted }
}

/// What the balance loss `coefficient · E · Σₑ fₑ·Pₑ` asks of every token's probabilities (Switch Transformer; fₑ the
/// share of `tokens` that chose e, Pₑ its mean probability, both over the whole batch and one layer).
pub(crate) fn balance(coefficient: f32, counts: &[u64], tokens: usize) -> Vec<f32> {
    let factor = coefficient * counts.len() as f32 / (tokens as f32 * tokens as f32);
    counts.iter().map(|&count| factor * count as f32).collect()
}

/// What the way back through a mixture knows of its experts.
#[derive(Debug)]
pub struct ExpertGradients<'a> {
    pub routing: &'a Routing,
    /// `[T, top_k]`: `⟨∂L/∂y, f(x)⟩` with the unweighted output f of each chosen expert, which is `∂L/∂g` of its
    /// weight g.
    pub weights: &'a Buffer,
    /// `[T · top_k, I]`, sorted by expert: what stands before the down projections, unweighted.
    pub hidden: &'a Buffer,
    /// Of the same shape: `∂L/∂hidden`.
    pub of_hidden: &'a Buffer,
    /// `[E]`: `∂L/∂m` of the mask on the gates; empty where there is none.
    pub of_mask: &'a [f64],
}

/// Looks at what passes by on the way back.
pub trait RecordBackward {
    /// One mixture was walked back through.
    fn experts_backward(&mut self, moe: &Moe, seen: &ExpertGradients);
}

/// How a mixture is walked back through.
pub(crate) struct Back<'a, 'r> {
    pub(crate) pass: Pass,
    /// By losses on the routers.
    pub(crate) asked: Asked<'a>,
    pub(crate) recorder: Option<&'r mut (dyn RecordBackward + 'r)>,
}

/// Adds to dx and the gradients.
pub(crate) fn backward(
    dx: &mut Buffer,
    dy: &Buffer,
    x: &Buffer,
    saved: &Saved,
    moe: &Moe,
    how: Back,
    gradients: &mut Gradients,
) {
    let Back { pass, asked, recorder } = how;
    let Saved { routing, masked, gate, up, weighted, hidden } = saved;
    let banks = banks(moe);
    let grouped = |bank: usize| routing.bank(&banks[bank], &moe.adapters[bank], pass);

    let dy_sorted = routing.gather(dy);
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
    let mut dgates = dweights.clone();
    let of_mask = masked.as_ref().map_or_else(Vec::new, |masked| masked.backward(&mut dgates, routing, moe));
    if let Some(recorder) = recorder {
        let (weights, hidden, of_hidden) = (&dweights, &activated, &dactivated);
        recorder.experts_backward(moe, &ExpertGradients { routing, weights, hidden, of_hidden, of_mask: &of_mask });
    }
    let mut dgate = Buffer::zeros(gate.rows, gate.width);
    let mut dup = Buffer::zeros(up.rows, up.width);
    swiglu::backward(&mut dgate, &mut dup, &dactivated, gate, up);

    let sorted = routing.gather(x);
    let mut dsorted = Buffer::zeros(sorted.rows, sorted.width);
    grouped(0).backward(Some(&mut dsorted), &dgate, &sorted, &hidden[0], gradients);
    grouped(1).backward(Some(&mut dsorted), &dup, &sorted, &hidden[1], gradients);
    routing.scatter(dx, &dsorted, moe.top_k);
    let gates = masked.as_ref().map_or(&routing.weights[..], Masked::gates);
    backward_router(dx, (&dgates[..], gates), x, routing, moe, (pass, asked), gradients);
}

fn backward_router(
    dx: &mut Buffer,
    (dgates, gates): (&[f32], &[f32]),
    x: &Buffer,
    routing: &Routing,
    moe: &Moe,
    (pass, asked): (Pass, Asked),
    gradients: &mut Gradients,
) {
    let mut dlogits = Buffer::zeros(x.rows, moe.experts.len());
    let made = router::Routing { probabilities: &routing.probabilities, indices: &routing.indices, weights: gates };
    router::backward(&mut dlogits, dgates, asked.balance, made, &shape(moe));
    asked.target.into_iter().for_each(|target| target.teach(&mut dlogits, routing));
    linear::backward(Some(dx), &dlogits, x, &routing.router_hidden, &moe.router, exactly(pass), gradients);
}
