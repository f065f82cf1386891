//! The walk back: one match over what happened.

use super::{Carried, Mark, Op, Tape, TokenNumbers, Var};
use crate::linear::Pass;
use crate::moe::{self, Asked, RecordBackward};
use crate::{Buffer, Gradients, Linear, Norm, Ring, attention, causal_conv, columns, delta_rule, linear, ring};
use kernels::rms_norm::{self, GatedGradients};
use kernels::{rope, sigmoid_gate, swiglu};
use std::collections::BTreeMap;

/// Gradients of values that have been asked for so far; made when first touched, gone when used.
struct Adjoints(Vec<Option<Buffer>>);

impl Adjoints {
    fn take(&mut self, var: Var, value: &Buffer) -> Buffer {
        self.0[var.0].take().unwrap_or_else(|| Buffer::zeros(value.rows, value.width))
    }

    fn put(&mut self, var: Var, adjoint: Buffer) {
        self.0[var.0] = Some(adjoint);
    }

    /// Adds a whole gradient; the first one is kept as it is.
    fn add(&mut self, var: Var, adjoint: Buffer) {
        match &mut self.0[var.0] {
            Some(sum) => sum.add(&adjoint),
            empty => *empty = Some(adjoint),
        }
    }
}

/// What every step of the walk shares.
struct Walk<'g> {
    adjoints: Adjoints,
    gradients: &'g mut Gradients,
    recorder: Option<&'g mut (dyn RecordBackward + 'g)>,
    ring: Option<&'g mut (dyn Ring + 'g)>,
    carried: &'g mut Carried,
    pass: Pass,
    auxiliary_coefficient: f32,
    batch: Option<&'g (usize, BTreeMap<usize, Vec<u64>>)>,
}

impl<'w> Tape<'w, '_> {
    /// Adds every trained parameter's gradient of all losses on the tape, plus, for each `(var, adjoint)` of `seeds`,
    /// of `⟨var, adjoint⟩`. Returns the gradient of `input` if one is named.
    pub fn backward(mut self, seeds: Vec<(Var, Buffer)>, input: Option<Var>) -> Option<Buffer> {
        self.unwind(Mark::at(0, TokenNumbers::from(0)), seeds, input, &mut Carried::default())
    }

    /// The same for the last segment alone, from its end to `mark`, which is gone then. `carried` comes with what the
    /// segment after it asks of the state that this one left, and is left with what this one asks of the state that it
    /// found.
    pub fn unwind(
        &mut self,
        mark: Mark,
        seeds: Vec<(Var, Buffer)>,
        input: Option<Var>,
        carried: &mut Carried,
    ) -> Option<Buffer> {
        let pass = Pass { tokens: mark.tokens(), ..self.pass() };
        let Tape { auxiliary_coefficient, ref mut nodes, ref mut gradients, ref batch, .. } = *self;
        let Tape { ref mut recorder, ref mut ring, .. } = *self;
        let recorder = recorder.as_mut().map(|recorder| &mut **recorder as &mut dyn RecordBackward);
        let adjoints = Adjoints((0..nodes.len()).map(|_| None).collect());
        let batch = batch.as_ref();
        let ring = ring.as_mut().map(|ring| &mut **ring as &mut dyn Ring);
        let mut walk = Walk { adjoints, gradients, recorder, ring, carried, pass, auxiliary_coefficient, batch };
        seeds.into_iter().for_each(|(var, adjoint)| walk.adjoints.add(var, adjoint));
        let mut found = None;
        while nodes.len() > mark.nodes() {
            let Some(node) = nodes.pop() else { break };
            let here = nodes.len();
            if Some(Var(here)) == input {
                found = walk.adjoints.0[here].take();
                continue;
            }
            let wanted = |var: Var| nodes[var.0].wanted;
            let value = |var: Var| &nodes[var.0].value;
            if let Op::Loss { hidden, dhidden } = node.op {
                walk.adjoints.add(hidden, dhidden);
            } else if let Some(dy) = walk.adjoints.0[here].take().filter(|_| node.wanted) {
                walk.step(node.op, &node.value, dy, &value, &wanted);
            }
        }
        found
    }
}

impl Walk<'_> {
    fn step<'a>(
        &mut self,
        op: Op,
        y: &Buffer,
        dy: Buffer,
        value: &impl Fn(Var) -> &'a Buffer,
        wanted: &impl Fn(Var) -> bool,
    ) {
        match op {
            Op::Input | Op::Loss { .. } => {}
            Op::Embedding { table, tokens } => self.embedding(table, &tokens, &dy),
            Op::Linear { x, map, hidden } => {
                let mut dx = wanted(x).then(|| self.adjoints.take(x, value(x)));
                linear::backward(dx.as_mut(), &dy, value(x), &hidden, map, self.pass, self.gradients);
                dx.into_iter().for_each(|dx| self.adjoints.put(x, dx));
            }
            Op::Columns { x, columns } => self.touch(x, value, |dx| columns::backward(dx, &dy, columns)),
            Op::RmsNorm { x, norm } => {
                let mut dx = self.adjoints.take(x, value(x));
                self.norm(norm, |dweight| {
                    rms_norm::backward(&mut dx, dweight, &dy, value(x), &norm.read());
                });
                self.adjoints.put(x, dx);
            }
            Op::GatedRmsNorm { x, gate, norm } => {
                let [mut dx, mut dgate] = [x, gate].map(|var| self.adjoints.take(var, value(var)));
                self.norm(norm, |dweight| {
                    let adjoints = GatedGradients { dx: &mut dx, dgate: &mut dgate, dweight };
                    rms_norm::gated_backward(adjoints, &dy, value(x), value(gate), &norm.read());
                });
                self.adjoints.put(x, dx);
                self.adjoints.put(gate, dgate);
            }
            Op::Rope { x, head_dim, rope, positions } => {
                let mut dx = dy;
                let heads = dx.width / head_dim;
                rope::apply_inverse(&mut dx, &positions, heads, head_dim, rope);
                self.adjoints.add(x, dx);
            }
            Op::Add { x, y } => {
                self.adjoints.add(x, dy.clone());
                self.adjoints.add(y, dy);
            }
            mixer => self.mixer(mixer, y, &dy, value),
        }
    }

    /// The coarse operations.
    fn mixer<'a>(&mut self, op: Op, y: &Buffer, dy: &Buffer, value: &impl Fn(Var) -> &'a Buffer) {
        match op {
            Op::Attention { qkv, shape, spans, saved } => {
                let mut adjoints = qkv.map(|var| self.adjoints.take(var, value(var)));
                let carried = &mut self.carried.keys;
                let into = adjoints.each_mut();
                attention::backward(into, dy, (y, &saved), qkv.map(value), (&spans, shape), carried);
                qkv.into_iter().zip(adjoints).for_each(|(var, adjoint)| self.adjoints.put(var, adjoint));
            }
            Op::CausalConv { x, conv, spans, saved } => {
                let mut dx = self.adjoints.take(x, value(x));
                let carried = &mut self.carried.tail;
                causal_conv::backward(&mut dx, dy, (value(x), &saved), (conv, &spans), carried, self.gradients);
                self.adjoints.put(x, dx);
            }
            Op::DeltaRule { qkv, b, a, gates, spans, saved } => {
                let vars = [qkv, b, a];
                let mut adjoints = vars.map(|var| self.adjoints.take(var, value(var)));
                let values = (value(qkv), value(b), value(a));
                let (place, carried) = ((gates, &spans), &mut self.carried.matrix);
                delta_rule::backward(adjoints.each_mut(), dy, values, &saved, place, carried, self.gradients);
                vars.into_iter().zip(adjoints).for_each(|(var, adjoint)| self.adjoints.put(var, adjoint));
            }
            shared @ (Op::RingAttention { .. } | Op::RingConv { .. } | Op::RingDeltaRule { .. }) => {
                self.shared(shared, y, dy, value);
            }
            Op::SwiGlu { gate, up } => {
                let [mut dgate, mut dup] = [gate, up].map(|var| self.adjoints.take(var, value(var)));
                swiglu::backward(&mut dgate, &mut dup, dy, value(gate), value(up));
                self.adjoints.put(gate, dgate);
                self.adjoints.put(up, dup);
            }
            Op::SigmoidGate { x, gate } => {
                let [mut dx, mut dgate] = [x, gate].map(|var| self.adjoints.take(var, value(var)));
                let group = dx.width / dgate.width;
                sigmoid_gate::backward(&mut dx, &mut dgate, dy, value(x), value(gate), group);
                self.adjoints.put(x, dx);
                self.adjoints.put(gate, dgate);
            }
            Op::Moe { x, moe, saved, target } => {
                let mut dx = self.adjoints.take(x, value(x));
                let own = || (dx.rows, saved.routing.counts());
                let of_batch = |(tokens, layers): &(usize, BTreeMap<usize, Vec<u64>>)| {
                    layers.get(&moe.layer).map(|counts| (*tokens, counts.clone()))
                };
                let (tokens, counts) = self.batch.and_then(of_batch).unwrap_or_else(own);
                let balance = moe::balance(self.auxiliary_coefficient, &counts, tokens);
                let recorder = self.recorder.as_mut().map(|recorder| &mut **recorder as &mut dyn RecordBackward);
                let asked = Asked { balance: &balance, target: target.as_ref() };
                let how = moe::Back { pass: self.pass, asked, recorder };
                moe::backward(&mut dx, dy, value(x), &saved, moe, how, self.gradients);
                self.adjoints.put(x, dx);
            }
            _ => unreachable!("the other operations are undone in step"),
        }
    }

    /// What mixes tokens that several ranks share.
    fn shared<'a>(&mut self, op: Op, y: &Buffer, dy: &Buffer, value: &impl Fn(Var) -> &'a Buffer) {
        let Self { adjoints, gradients, carried, ring, .. } = self;
        let ring: &mut dyn Ring = ring.as_deref_mut().expect("a round is shared with a ring");
        match op {
            Op::RingAttention { qkv, shape, round, saved } => {
                let mut into = qkv.map(|var| adjoints.take(var, value(var)));
                let (place, carried) = ((&*round, shape), &mut carried.keys);
                ring::attention::backward(into.each_mut(), dy, (y, &saved), qkv.map(value), place, carried, ring);
                qkv.into_iter().zip(into).for_each(|(var, adjoint)| adjoints.put(var, adjoint));
            }
            Op::RingConv { x, conv, round, saved } => {
                let mut dx = adjoints.take(x, value(x));
                let (place, carried) = ((conv, &*round), &mut carried.tail);
                ring::causal_conv::backward(&mut dx, dy, (value(x), &saved), place, carried, gradients, ring);
                adjoints.put(x, dx);
            }
            Op::RingDeltaRule { qkv, b, a, gates, round, saved } => {
                let vars = [qkv, b, a];
                let mut into = vars.map(|var| adjoints.take(var, value(var)));
                let (values, place) = ((value(qkv), value(b), value(a)), (gates, &*round, ring));
                let carried = &mut carried.matrix;
                ring::delta_rule::backward(into.each_mut(), dy, values, &saved, place, carried, gradients);
                vars.into_iter().zip(into).for_each(|(var, adjoint)| adjoints.put(var, adjoint));
            }
            _ => unreachable!("the other operations are this rank's alone"),
        }
    }

    fn touch<'a>(&mut self, x: Var, value: &impl Fn(Var) -> &'a Buffer, backward: impl FnOnce(&mut Buffer)) {
        let mut dx = self.adjoints.take(x, value(x));
        backward(&mut dx);
        self.adjoints.put(x, dx);
    }

    /// Hands out the gradient of a norm's weight, or a place to forget it.
    fn norm(&mut self, norm: &Norm, backward: impl FnOnce(&mut [f32])) {
        match norm.weight.trained {
            true => backward(self.gradients.entry(&norm.weight)),
            false => backward(&mut vec![0.0; norm.weight.values().len()]),
        }
    }

    fn embedding(&mut self, table: &Linear, tokens: &[u32], dy: &Buffer) {
        let gradient = self.gradients.entry(&table.weight);
        for (row, &token) in tokens.iter().enumerate() {
            let sum = &mut gradient[token as usize * dy.width..(token as usize + 1) * dy.width];
            sum.iter_mut().zip(dy.row(row)).for_each(|(sum, value)| *sum += value);
        }
    }
}
