//! An executor that lets another do the work and notes how long each kind of operation takes.

use crate::{
    AttentionShape, Columns, Conv, DeltaGates, DeltaState, Execute, KvCache, Linear, Moe, Norm, Rope, Spans, Teacher,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a kind of operation ran, and how long all of its runs took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpTime {
    pub calls: usize,
    pub time: Duration,
}

/// Runs operations on `inner`.
#[derive(Debug, Clone, Default)]
pub struct Timed<E> {
    pub inner: E,
    /// By the operation's name.
    pub times: BTreeMap<&'static str, OpTime>,
}

impl<E> Timed<E> {
    pub fn new(inner: E) -> Self {
        Self { inner, times: BTreeMap::new() }
    }

    /// Runs something on the inner executor under a name of its own.
    pub fn run<R>(&mut self, name: &'static str, work: impl FnOnce(&mut E) -> R) -> R {
        let start = Instant::now();
        let result = work(&mut self.inner);
        let entry = self.times.entry(name).or_default();
        entry.calls += 1;
        entry.time += start.elapsed();
        result
    }
}

impl<'w, E: Execute<'w>> Execute<'w> for Timed<E> {
    type Value = E::Value;

    fn embedding(&mut self, table: &'w Linear, tokens: &[u32]) -> E::Value {
        self.run("embedding", |e| e.embedding(table, tokens))
    }

    fn linear(&mut self, x: &E::Value, map: &'w Linear) -> E::Value {
        self.run("linear", |e| e.linear(x, map))
    }

    fn linears<const N: usize>(&mut self, x: &E::Value, maps: [&'w Linear; N]) -> [E::Value; N] {
        self.run("linear", |e| e.linears(x, maps))
    }

    fn columns(&mut self, x: &E::Value, columns: &'w Columns) -> E::Value {
        self.run("columns", |e| e.columns(x, columns))
    }

    fn rms_norm(&mut self, x: &E::Value, norm: &'w Norm) -> E::Value {
        self.run("rms_norm", |e| e.rms_norm(x, norm))
    }

    fn gated_rms_norm(&mut self, x: &E::Value, gate: &E::Value, norm: &'w Norm) -> E::Value {
        self.run("gated_rms_norm", |e| e.gated_rms_norm(x, gate, norm))
    }

    fn rope(&mut self, x: &E::Value, head_dim: usize, rope: &'w Rope, spans: &Spans) -> E::Value {
        self.run("rope", |e| e.rope(x, head_dim, rope, spans))
    }

    fn attention(
        &mut self,
        qkv: [&E::Value; 3],
        shape: &'w AttentionShape,
        spans: &Spans,
        caches: &mut [&mut KvCache],
    ) -> E::Value {
        self.run("attention", |e| e.attention(qkv, shape, spans, caches))
    }

    fn causal_conv(&mut self, x: &E::Value, conv: &'w Conv, spans: &Spans, states: &mut [&mut DeltaState]) -> E::Value {
        self.run("causal_conv", |e| e.causal_conv(x, conv, spans, states))
    }

    fn delta_rule(
        &mut self,
        qkv: &E::Value,
        b: &E::Value,
        a: &E::Value,
        gates: &'w DeltaGates,
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> E::Value {
        self.run("delta_rule", |e| e.delta_rule(qkv, b, a, gates, spans, states))
    }

    fn delta_net(
        &mut self,
        qkv_b_a: [&E::Value; 3],
        learned: (&'w Conv, &'w DeltaGates),
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> E::Value {
        self.run("delta_net", |e| e.delta_net(qkv_b_a, learned, spans, states))
    }

    fn swiglu(&mut self, gate: &E::Value, up: &E::Value) -> E::Value {
        self.run("swiglu", |e| e.swiglu(gate, up))
    }

    fn sigmoid_gate(&mut self, x: &E::Value, gate: &E::Value) -> E::Value {
        self.run("sigmoid_gate", |e| e.sigmoid_gate(x, gate))
    }

    fn moe(&mut self, x: &E::Value, moe: &'w Moe) -> E::Value {
        self.run("moe", |e| e.moe(x, moe))
    }

    fn add(&mut self, x: &E::Value, y: &E::Value) -> E::Value {
        self.run("add", |e| e.add(x, y))
    }

    fn cross_entropy(&mut self, hidden: &E::Value, head: &'w Linear, targets: &[u32], weights: &[f32]) -> Vec<f32> {
        self.run("cross_entropy", |e| e.cross_entropy(hidden, head, targets, weights))
    }

    fn divergence(&mut self, hidden: &E::Value, head: &'w Linear, teacher: Teacher<'_>, weights: &[f32]) -> Vec<f32> {
        self.run("divergence", |e| e.divergence(hidden, head, teacher, weights))
    }
}
