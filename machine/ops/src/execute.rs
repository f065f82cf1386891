//! The vocabulary: every operation that a forward pass may use.

use crate::{
    AttentionShape, Columns, Conv, DeltaGates, DeltaState, Divergence, KvCache, Linear, Moe, Norm, Parts, Rope, Spans,
};

/// The teacher of a divergence. Losses are `τ²·D(softmax(z/τ), softmax(z'/τ))`, so that a temperature τ leaves the size
/// of gradients about as it is (Hinton et al. 2015).
#[derive(Debug, Clone, Copy)]
pub struct Teacher<'a> {
    pub says: Says<'a>,
    /// τ.
    pub temperature: f32,
}

/// How a teacher's distributions are given.
#[derive(Debug, Clone, Copy)]
pub enum Says<'a> {
    /// Its hidden states `[T, width]` and its head, so that its logits never exist whole.
    Hidden { hidden: &'a [f32], head: &'a Linear, divergence: Divergence },
    /// What was kept of them, at the temperature.
    Parts(Parts<'a>),
}

/// Runs operations. `'w` is how long the weights live: an executor that remembers may keep references to them.
pub trait Execute<'w> {
    /// A `[T, width]` result.
    type Value;

    /// Rows of `table` for `tokens`: `[T, H]`.
    fn embedding(&mut self, table: &'w Linear, tokens: &[u32]) -> Self::Value;

    /// `x·Wᵀ + bias + adapter`: `[T, out]`.
    fn linear(&mut self, x: &Self::Value, map: &'w Linear) -> Self::Value;

    /// Several maps of one x. Who remembers does them one after the other.
    fn linears<const N: usize>(&mut self, x: &Self::Value, maps: [&'w Linear; N]) -> [Self::Value; N] {
        maps.map(|map| self.linear(x, map))
    }

    /// The named columns of x, in order.
    fn columns(&mut self, x: &Self::Value, columns: &'w Columns) -> Self::Value;

    /// RMS norm over each group of `norm.weight` columns.
    fn rms_norm(&mut self, x: &Self::Value, norm: &'w Norm) -> Self::Value;

    /// `weight · n(x) · silu(gate)` over each group of `norm.weight` columns.
    fn gated_rms_norm(&mut self, x: &Self::Value, gate: &Self::Value, norm: &'w Norm) -> Self::Value;

    /// Rotary position embedding of `[T, heads · head_dim]`.
    fn rope(&mut self, x: &Self::Value, head_dim: usize, rope: &'w Rope, spans: &Spans) -> Self::Value;

    /// Causal grouped-query attention of each span over its own cache, which gains the span's keys and values.
    fn attention(
        &mut self,
        qkv: [&Self::Value; 3],
        shape: &'w AttentionShape,
        spans: &Spans,
        caches: &mut [&mut KvCache],
    ) -> Self::Value;

    /// Depthwise causal convolution and SiLU; each span continues its own tail.
    fn causal_conv(
        &mut self,
        x: &Self::Value,
        conv: &'w Conv,
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Self::Value;

    /// The gated delta rule: `qkv` `[T, 2·Hk·dk + Hv·dv]` after the convolution, `b` and `a` `[T, Hv]` → `[T, Hv·dv]`.
    fn delta_rule(
        &mut self,
        qkv: &Self::Value,
        b: &Self::Value,
        a: &Self::Value,
        gates: &'w DeltaGates,
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Self::Value;

    /// [`Execute::causal_conv`], then [`Execute::delta_rule`]. Who forgets does the norms with the convolution, and all
    /// of it in one call for a few tokens.
    fn delta_net(
        &mut self,
        [qkv, b, a]: [&Self::Value; 3],
        (conv, gates): (&'w Conv, &'w DeltaGates),
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Self::Value {
        let qkv = self.causal_conv(qkv, conv, spans, states);
        self.delta_rule(&qkv, b, a, gates, spans, states)
    }

    /// `silu(gate) · up`.
    fn swiglu(&mut self, gate: &Self::Value, up: &Self::Value) -> Self::Value;

    /// `x · σ(gate)`; a gate one column wide scales whole rows.
    fn sigmoid_gate(&mut self, x: &Self::Value, gate: &Self::Value) -> Self::Value;

    /// Routes each row to `top_k` experts and adds their weighted outputs.
    fn moe(&mut self, x: &Self::Value, moe: &'w Moe) -> Self::Value;

    fn add(&mut self, x: &Self::Value, y: &Self::Value) -> Self::Value;

    /// −log p(target) of every row, in nats. What an executor that remembers will walk back from is `Σ weights ·
    /// losses`.
    fn cross_entropy(&mut self, hidden: &Self::Value, head: &'w Linear, targets: &[u32], weights: &[f32]) -> Vec<f32>;

    /// How far each row is from what its teacher says, in nats, over the whole vocabulary; weighted as in
    /// [`Execute::cross_entropy`].
    fn divergence(&mut self, hidden: &Self::Value, head: &'w Linear, teacher: Teacher<'_>, weights: &[f32])
    -> Vec<f32>;
}
