//! The executor that remembers: it runs the same kernels, notes what it ran, and walks back.
//!
//! A tape is written and walked back by segments, the last first: see `segment.rs`. One that nobody cuts is one segment
//! of whole sequences.

mod backward;
mod segment;

pub use segment::{Carried, Mark, Segment, TokenNumbers};

use crate::cross_entropy::{Target, Wanted};
use crate::linear::{Hidden, Pass};
use crate::moe::RecordBackward;
use crate::{
    AttentionShape, Buffer, Columns, Conv, DeltaGates, DeltaState, Execute, Gradients, KvCache, Linear, Moe, Norm,
    Parameter, Precision, Ring, Rope, Round, RouterTarget, Spans, Teacher, attention, causal_conv, columns,
    cross_entropy, delta_rule, infer, linear, moe, ring,
};
use kernels::{rms_norm, rope, sigmoid_gate, swiglu};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A value on a tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var(usize);

impl Var {
    pub(crate) fn at(number: usize) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// What happened, with what backward needs of it beside the values of its inputs.
enum Op<'w> {
    Input,
    Embedding {
        table: &'w Linear,
        tokens: Vec<u32>,
    },
    Linear {
        x: Var,
        map: &'w Linear,
        hidden: Hidden,
    },
    Columns {
        x: Var,
        columns: &'w Columns,
    },
    RmsNorm {
        x: Var,
        norm: &'w Norm,
    },
    GatedRmsNorm {
        x: Var,
        gate: Var,
        norm: &'w Norm,
    },
    Rope {
        x: Var,
        head_dim: usize,
        rope: &'w Rope,
        positions: Vec<u32>,
    },
    Attention {
        qkv: [Var; 3],
        shape: &'w AttentionShape,
        spans: Spans,
        saved: attention::Saved,
    },
    CausalConv {
        x: Var,
        conv: &'w Conv,
        spans: Spans,
        saved: causal_conv::Saved,
    },
    DeltaRule {
        qkv: Var,
        b: Var,
        a: Var,
        gates: &'w DeltaGates,
        spans: Spans,
        saved: Box<delta_rule::Saved>,
    },
    /// As the three above, where several ranks share the tokens.
    RingAttention {
        qkv: [Var; 3],
        shape: &'w AttentionShape,
        round: Arc<Round>,
        saved: ring::attention::Saved,
    },
    RingConv {
        x: Var,
        conv: &'w Conv,
        round: Arc<Round>,
        saved: ring::causal_conv::Saved,
    },
    RingDeltaRule {
        qkv: Var,
        b: Var,
        a: Var,
        gates: &'w DeltaGates,
        round: Arc<Round>,
        saved: Box<ring::delta_rule::Saved>,
    },
    SwiGlu {
        gate: Var,
        up: Var,
    },
    SigmoidGate {
        x: Var,
        gate: Var,
    },
    Moe {
        x: Var,
        moe: &'w Moe,
        saved: Box<moe::Saved>,
        target: Option<RouterTarget>,
    },
    Add {
        x: Var,
        y: Var,
    },
    /// A loss on these hidden states: its gradient is known already.
    Loss {
        hidden: Var,
        dhidden: Buffer,
    },
}

struct Node<'w> {
    value: Buffer,
    op: Op<'w>,
    /// Whether anything that is trained lies at or below it.
    wanted: bool,
}

/// Remembers one forward pass.
pub struct Tape<'w, 'g> {
    precision: Precision,
    dropout_seed: Option<u64>,
    /// Coefficient of the routers' balance loss; 0 leaves it out.
    auxiliary_coefficient: f32,
    nodes: Vec<Node<'w>>,
    gradients: &'g mut Gradients,
    recorder: Option<&'g mut (dyn RecordBackward + 'g)>,
    ring: Option<&'g mut (dyn Ring + 'g)>,
    /// Tokens per expert of every mixture that was run, with its layer.
    expert_counts: Vec<(usize, Vec<u64>)>,
    /// Of the routers of those mixtures, with their layer and tokens.
    router_entropies: Vec<(usize, usize, f32)>,
    /// How far routers were from what they are taught: a sum over tokens, and those tokens.
    router_divergence: (f64, usize),
    /// How the segment at the end stands among others.
    segment: Segment,
    /// Mixtures that the segment has run.
    mixtures: usize,
    /// Of the whole batch, once it was run: its tokens, and tokens per expert of each layer.
    batch: Option<(usize, BTreeMap<usize, Vec<u64>>)>,
}

impl<'w, 'g> Tape<'w, 'g> {
    pub fn new(precision: Precision, auxiliary_coefficient: f32, gradients: &'g mut Gradients) -> Self {
        Self {
            precision,
            dropout_seed: None,
            auxiliary_coefficient,
            nodes: Vec::new(),
            gradients,
            recorder: None,
            ring: None,
            expert_counts: Vec::new(),
            router_entropies: Vec::new(),
            router_divergence: (0.0, 0),
            segment: Segment::default(),
            mixtures: 0,
            batch: None,
        }
    }

    /// What adapters leave out is decided by this seed; without one they leave out nothing.
    pub fn dropping(self, seed: Option<u64>) -> Self {
        Self { dropout_seed: seed, ..self }
    }

    /// The recorder looks at every mixture that is walked back through.
    pub fn recording(self, recorder: &'g mut dyn RecordBackward) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// Segments with a round are shared with these ranks.
    pub fn sharing(self, ring: Option<&'g mut (dyn Ring + 'g)>) -> Self {
        Self { ring, ..self }
    }

    fn pass(&self) -> Pass {
        Pass { precision: self.precision, dropout_seed: self.dropout_seed, tokens: self.segment.tokens }
    }

    /// The round that a segment is part of, what is on the tape, and who shares it.
    fn shared(&mut self) -> Option<(Arc<Round>, &[Node<'w>], &mut dyn Ring)> {
        let round = Arc::clone(self.segment.round.as_ref()?);
        let ring = self.ring.as_mut().expect("a round is shared with a ring");
        Some((round, &self.nodes, &mut **ring))
    }

    /// A value from outside; its gradient is what [`Tape::backward`] returns when asked for it.
    pub fn input(&mut self, value: Buffer) -> Var {
        self.push(value, Op::Input, true)
    }

    /// A value from outside whose gradient nobody will ask for.
    pub fn fixed_input(&mut self, value: Buffer) -> Var {
        self.push(value, Op::Input, false)
    }

    pub fn value(&self, var: Var) -> &Buffer {
        &self.nodes[var.0].value
    }

    /// Tokens per expert of every mixture so far, with its layer.
    pub fn expert_counts(&self) -> &[(usize, Vec<u64>)] {
        &self.expert_counts
    }

    /// How undecided the routers of those mixtures were, in nats a token.
    pub fn router_entropies(&self) -> Vec<f32> {
        let mut layers: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for &(layer, tokens, entropy) in &self.router_entropies {
            let (sum, seen) = layers.entry(layer).or_default();
            *sum += tokens as f64 * f64::from(entropy);
            *seen += tokens;
        }
        layers.into_values().map(|(sum, seen)| (sum / seen.max(1) as f64) as f32).collect()
    }

    /// The mean over the tokens of every taught router of KL(target ‖ router), in nats; nothing where none is taught.
    pub fn router_divergence(&self) -> Option<f64> {
        let (sum, tokens) = self.router_divergence;
        (tokens > 0).then(|| sum / tokens as f64)
    }

    fn push(&mut self, value: Buffer, op: Op<'w>, wanted: bool) -> Var {
        self.nodes.push(Node { value, op, wanted });
        Var(self.nodes.len() - 1)
    }

    fn wanted(&self, var: Var) -> bool {
        self.nodes[var.0].wanted
    }

    fn push_loss(&mut self, hidden: Var, head: &'w Linear, target: Target, weights: &[f32]) -> Vec<f32> {
        let value = &self.nodes[hidden.0].value;
        let mut dhidden = Buffer::zeros(value.rows, value.width);
        let wanted = Wanted { dhidden: &mut dhidden, gradients: self.gradients };
        let losses = cross_entropy::run(value, head, target, weights, self.precision, Some(wanted));
        self.push(Buffer::zeros(0, 1), Op::Loss { hidden, dhidden }, true);
        losses
    }
}

pub(crate) fn any_trained(map: &Linear) -> bool {
    let adapter = map.adapter.iter().flat_map(|adapter| [&adapter.a, &adapter.b]);
    std::iter::once(&map.weight).chain(&map.bias).chain(adapter).any(|parameter: &Parameter| parameter.trained)
}

impl<'w> Execute<'w> for Tape<'w, '_> {
    type Value = Var;

    fn embedding(&mut self, table: &'w Linear, tokens: &[u32]) -> Var {
        let value = infer::embed(table, tokens);
        self.push(value, Op::Embedding { table, tokens: tokens.to_vec() }, table.weight.trained)
    }

    fn linear(&mut self, x: &Var, map: &'w Linear) -> Var {
        let (value, hidden) = linear::forward(self.value(*x), map, self.pass());
        let wanted = self.wanted(*x) || any_trained(map);
        self.push(value, Op::Linear { x: *x, map, hidden }, wanted)
    }

    fn columns(&mut self, x: &Var, columns: &'w Columns) -> Var {
        let value = columns::forward(self.value(*x), columns);
        self.push(value, Op::Columns { x: *x, columns }, self.wanted(*x))
    }

    fn rms_norm(&mut self, x: &Var, norm: &'w Norm) -> Var {
        let input = self.value(*x);
        let mut value = Buffer::unwritten(input.rows, input.width);
        rms_norm::forward(&mut value, input, &norm.read());
        self.push(value, Op::RmsNorm { x: *x, norm }, self.wanted(*x) || norm.weight.trained)
    }

    fn gated_rms_norm(&mut self, x: &Var, gate: &Var, norm: &'w Norm) -> Var {
        let input = self.value(*x);
        let mut value = Buffer::unwritten(input.rows, input.width);
        rms_norm::gated_forward(&mut value, input, self.value(*gate), &norm.read());
        let wanted = self.wanted(*x) || self.wanted(*gate) || norm.weight.trained;
        self.push(value, Op::GatedRmsNorm { x: *x, gate: *gate, norm }, wanted)
    }

    fn rope(&mut self, x: &Var, head_dim: usize, rope: &'w Rope, spans: &Spans) -> Var {
        let mut value = self.value(*x).clone();
        let positions = spans.positions();
        let heads = value.width / head_dim;
        rope::apply(&mut value, &positions, heads, head_dim, rope);
        self.push(value, Op::Rope { x: *x, head_dim, rope, positions }, self.wanted(*x))
    }

    /// Caches of sequences that neither began before nor go on are left as they are.
    fn attention(
        &mut self,
        qkv: [&Var; 3],
        shape: &'w AttentionShape,
        spans: &Spans,
        caches: &mut [&mut KvCache],
    ) -> Var {
        let qkv = qkv.map(|var| *var);
        let wanted = qkv.iter().any(|&var| self.wanted(var));
        if let Some((round, nodes, ring)) = self.shared() {
            let values = qkv.map(|var| &nodes[var.0].value);
            let (value, saved) = ring::attention::forward(values, shape, &round, &mut *caches[0], ring);
            return self.push(value, Op::RingAttention { qkv, shape, round, saved }, wanted);
        }
        let joined = (spans, self.segment.goes_on);
        let (value, saved) = attention::forward_saved(qkv.map(|var| self.value(var)), shape, joined, caches);
        self.push(value, Op::Attention { qkv, shape, spans: spans.clone(), saved }, wanted)
    }

    fn causal_conv(&mut self, x: &Var, conv: &'w Conv, spans: &Spans, states: &mut [&mut DeltaState]) -> Var {
        let wanted = self.wanted(*x) || conv.weight.trained;
        if let Some((round, nodes, ring)) = self.shared() {
            let tail = &mut states[0].tail;
            let (value, saved) = ring::causal_conv::forward(&nodes[x.0].value, conv, &round, tail, ring);
            return self.push(value, Op::RingConv { x: *x, conv, round, saved }, wanted);
        }
        let tail = if spans.starts[0] > 0 { states[0].tail.clone() } else { Vec::new() };
        let (value, before_silu) = causal_conv::forward(self.value(*x), conv, spans, states);
        let saved = causal_conv::Saved { before_silu, tail };
        self.push(value, Op::CausalConv { x: *x, conv, spans: spans.clone(), saved }, wanted)
    }

    fn delta_rule(
        &mut self,
        qkv: &Var,
        b: &Var,
        a: &Var,
        gates: &'w DeltaGates,
        spans: &Spans,
        states: &mut [&mut DeltaState],
    ) -> Var {
        if let Some((round, nodes, ring)) = self.shared() {
            let [qkv_value, b_value, a_value] = [qkv, b, a].map(|var| &nodes[var.0].value);
            let (values, matrix) = ((qkv_value, b_value, a_value), &mut states[0].matrix);
            let (value, saved) = ring::delta_rule::forward(values, gates, &round, matrix, ring);
            let op = Op::RingDeltaRule { qkv: *qkv, b: *b, a: *a, gates, round, saved: Box::new(saved) };
            return self.push(value, op, true);
        }
        let values = (self.value(*b), self.value(*a));
        let (value, saved) = delta_rule::forward_saved(self.value(*qkv), values, gates, spans, states);
        let op = Op::DeltaRule { qkv: *qkv, b: *b, a: *a, gates, spans: spans.clone(), saved: Box::new(saved) };
        self.push(value, op, true)
    }

    fn swiglu(&mut self, gate: &Var, up: &Var) -> Var {
        let input = self.value(*gate);
        let mut value = Buffer::unwritten(input.rows, input.width);
        swiglu::forward(&mut value, input, self.value(*up));
        let wanted = self.wanted(*gate) || self.wanted(*up);
        self.push(value, Op::SwiGlu { gate: *gate, up: *up }, wanted)
    }

    fn sigmoid_gate(&mut self, x: &Var, gate: &Var) -> Var {
        let (input, gate_value) = (self.value(*x), self.value(*gate));
        let mut value = Buffer::unwritten(input.rows, input.width);
        sigmoid_gate::forward(&mut value, input, gate_value, input.width / gate_value.width);
        let wanted = self.wanted(*x) || self.wanted(*gate);
        self.push(value, Op::SigmoidGate { x: *x, gate: *gate }, wanted)
    }

    fn moe(&mut self, x: &Var, moe: &'w Moe) -> Var {
        let chosen = self.segment.choices.get(self.mixtures).map(Vec::as_slice);
        let mask = self.segment.masks.get(self.mixtures).map(Vec::as_slice);
        let target = self.segment.router_targets.get(self.mixtures).cloned();
        self.mixtures += 1;
        let moe::Outcome { output, saved, .. } =
            moe::forward(self.value(*x), moe, self.pass(), moe::Given { chosen, mask });
        if self.batch.is_none() {
            self.expert_counts.push((moe.layer, saved.routing.counts()));
            self.router_entropies.push((moe.layer, output.rows, saved.routing.entropy()));
            if let Some(target) = &target {
                let (sum, tokens) = &mut self.router_divergence;
                *sum += target.divergence(&saved.routing);
                *tokens += output.rows;
            }
        }
        self.push(output, Op::Moe { x: *x, moe, saved: Box::new(saved), target }, true)
    }

    fn add(&mut self, x: &Var, y: &Var) -> Var {
        let value = Buffer::sum(self.value(*x), self.value(*y));
        self.push(value, Op::Add { x: *x, y: *y }, self.wanted(*x) || self.wanted(*y))
    }

    fn cross_entropy(&mut self, hidden: &Var, head: &'w Linear, targets: &[u32], weights: &[f32]) -> Vec<f32> {
        self.push_loss(*hidden, head, Target::Tokens(targets), weights)
    }

    fn divergence(&mut self, hidden: &Var, head: &'w Linear, teacher: Teacher<'_>, weights: &[f32]) -> Vec<f32> {
        self.push_loss(*hidden, head, Target::Teacher(teacher), weights)
    }
}
