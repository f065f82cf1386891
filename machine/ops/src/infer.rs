//! The executor that forgets; with a recorder it also counts.

use crate::cross_entropy::Target;
use crate::linear::Pass;
use crate::{
    AttentionShape, Buffer, Columns, Conv, DeltaGates, DeltaState, Execute, KvCache, Linear, Moe, Norm, Precision,
    Rope, Routing, Spans, Teacher, TokenNumbers, attention, causal_conv, columns, cross_entropy, delta_rule, linear,
    moe,
};
use kernels::{rms_norm, rope, sigmoid_gate, swiglu};

/// Looks at what passes by.
pub trait Record {
    /// Whether [`Record::experts`] is to be called: then every expert's outputs are kept until all are there.
    const LOOKS: bool;

    /// One mixture was run: `expert_outputs` holds the sorted rows `[T · top_k, H]`, already multiplied by their
    /// routing weights.
    fn experts(&mut self, moe: &Moe, x: &Buffer, routing: &Routing, expert_outputs: &Buffer);

    /// Where a mixture sent its rows, whether its experts are looked at or not.
    fn routing(&mut self, _: &Moe, _x: &Buffer, _: &Routing) {}
}

/// Records nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Forget;

impl Record for Forget {
    const LOOKS: bool = false;

    fn experts(&mut self, _: &Moe, _: &Buffer, _: &Routing, _: &Buffer) {}
}

/// Runs the kernels; what it was given to look at is all that stays.
#[derive(Debug)]
pub struct Infer<R = Forget> {
    pub precision: Precision,
    pub record: R,
    /// Decides what adapters leave out, where a tape will run the same again; without one nothing is left out.
    pub dropout_seed: Option<u64>,
}

impl Infer {
    pub fn new(precision: Precision) -> Self {
        Self::recording(precision, Forget)
    }
}

impl<R> Infer<R> {
    pub fn recording(precision: Precision, record: R) -> Self {
        Self { precision, record, dropout_seed: None }
    }

    fn pass(&self) -> Pass {
        Pass { precision: self.precision, dropout_seed: self.dropout_seed, tokens: TokenNumbers::from(0) }
    }
}

impl<'w, R: Record> Execute<'w> for Infer<R> {
    type Value = Buffer;

    fn embedding(&mut self, table: &'w Linear, tokens: &[u32]) -> Buffer {
        embed(table, tokens)
    }

    fn linear(&mut self, x: &Buffer, map: &'w Linear) -> Buffer {
        linear::forward(x, map, self.pass()).0
    }

    fn linears<const N: usize>(&mut self, x: &Buffer, maps: [&'w Linear; N]) -> [Buffer; N] {
        linear::forward_each(x, maps, self.pass())
    }

    fn columns(&mut self, x: &Buffer, columns: &'w Columns) -> Buffer {
        columns::forward(x, columns)
    }

    fn rms_norm(&mut self, x: &Buffer, norm: &'w Norm) -> Buffer {
        let mut y = Buffer::unwritten(x.rows, x.width);
        rms_norm::forward(&mut y, x, &norm.read());
        y
    }

    fn gated_rms_norm(&mut self, x: &Buffer, gate: &Buffer, norm: &'w Norm) -> Buffer {
        let mut y = Buffer::unwritten(x.rows, x.width);
        rms_norm::gated_forward(&mut y, x, gate, &norm.read());
        y
    }

    fn rope(&mut self, x: &Buffer, head_dim: usize, rope: &'w Rope, spans: &Spans) -> Buffer {
        let mut y = x.clone();
        let heads = x.width / head_dim;
        rope::apply(&mut y, &spans.positions(), heads, head_dim, rope);
        y
    }

    fn attention(
        &mut self,
        qkv: [&Buffer; 3],
        shape: &'w AttentionShape,
        spans: &Spans,
        caches: &mut [&mut KvCache],
    ) -> Buffer {
        attention::forward(qkv, shape, spans, caches)
    }

    fn causal_conv(&mut self, x: &Buffer, conv: &'w Conv, spans: &Spans, states: &mut [&mut DeltaState]) -> Buffer {
        causal_conv::forward(x, conv, spans, states).0
    }

    fn delta_rule(
        &mut self,
        qkv: &Buffer,
        b: &Buffer,
        a: &Buffer,
        gates: &'w DeltaGates,
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Buffer {
        delta_rule::forward(qkv, (b, a), gates, spans, states)
    }

    fn delta_net(
        &mut self,
        qkv_b_a: [&Buffer; 3],
        learned: (&'w Conv, &'w DeltaGates),
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Buffer {
        match delta_rule::is_stepped(spans) {
            true => delta_rule::step(qkv_b_a, learned, spans, states),
            false => delta_rule::prefill(qkv_b_a, learned, spans, states),
        }
    }

    fn swiglu(&mut self, gate: &Buffer, up: &Buffer) -> Buffer {
        let mut y = Buffer::unwritten(gate.rows, gate.width);
        swiglu::forward(&mut y, gate, up);
        y
    }

    fn sigmoid_gate(&mut self, x: &Buffer, gate: &Buffer) -> Buffer {
        let mut y = Buffer::unwritten(x.rows, x.width);
        sigmoid_gate::forward(&mut y, x, gate, x.width / gate.width);
        y
    }

    fn moe(&mut self, x: &Buffer, moe: &'w Moe) -> Buffer {
        if !R::LOOKS {
            let (output, routing) = moe::infer(x, moe, self.pass());
            self.record.routing(moe, x, &routing);
            return output;
        }
        let outcome = moe::forward(x, moe, self.pass(), moe::Given::default());
        self.record.routing(moe, x, &outcome.saved.routing);
        self.record.experts(moe, x, &outcome.saved.routing, &outcome.expert_outputs);
        outcome.output
    }

    fn add(&mut self, x: &Buffer, y: &Buffer) -> Buffer {
        Buffer::sum(x, y)
    }

    fn cross_entropy(&mut self, hidden: &Buffer, head: &'w Linear, targets: &[u32], weights: &[f32]) -> Vec<f32> {
        cross_entropy::run(hidden, head, Target::Tokens(targets), weights, self.precision, None)
    }

    fn divergence(&mut self, hidden: &Buffer, head: &'w Linear, teacher: Teacher<'_>, weights: &[f32]) -> Vec<f32> {
        cross_entropy::run(hidden, head, Target::Teacher(teacher), weights, self.precision, None)
    }
}

/// Rows of the table, in whatever format it is stored.
pub(crate) fn embed(table: &Linear, tokens: &[u32]) -> Buffer {
    let mut y = Buffer::unwritten(tokens.len(), table.input_width());
    for (row, &token) in tokens.iter().enumerate() {
        assert!((token as usize) < table.output_width(), "token {token} is not in the vocabulary");
        table.weight.matrix.view().dequantize_row(token as usize, y.row_mut(row));
    }
    y
}
