//! [`crate::Rehearse`] for training: it keeps of every operation what [`crate::Tape`] keeps, and walks back through the
//! memory that the adjoints would take.
//!
//! Legend as in `rehearse.rs`. Sizes follow `tape/backward.rs` operation by operation; whoever changes one changes
//! both, and a test in `models` holds the rehearsal to what is then held.

use crate::cross_entropy::CHUNK_ROWS;
use crate::rehearse::{Held, Rehearse, Rehearsed};
use crate::{
    Adapter, AttentionShape, Columns, Conv, DeltaGates, DeltaState, Execute, KvCache, Linear, Mark, Moe, Norm, Rope,
    Segment, Spans, Teacher, TokenNumbers, Var, ring, tape,
};
use kernels::gated_delta::CHUNK;

/// What an operation keeps, and what walking back through it takes.
struct Node {
    value: Rehearsed,
    _kept: Vec<Rehearsed>,
    _held: Vec<Held>,
    back: Back,
    wanted: bool,
}

enum Back {
    /// Nothing flows on.
    Ends,
    /// Each of these gets an adjoint; so many numbers more for a moment.
    Into(Vec<Var>, usize),
    /// The adjoint is passed on as it is.
    Moves(Var),
    Sum(Var, Var),
    Delta {
        vars: [Var; 3],
        gates: [usize; 4],
    },
    Moe {
        x: Var,
        sizes: MoeSizes,
    },
    /// A loss whose gradient is there.
    Loss(Var),
}

/// Of one mixture: T·k, H, I, E, k, and the ranks of the adapters together.
#[derive(Clone, Copy)]
struct MoeSizes {
    rows: usize,
    width: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    rank: usize,
}

/// See the head of this file.
#[derive(Default)]
pub struct RehearseTape {
    room: Rehearse,
    nodes: Vec<Node>,
    segment: Segment,
}

impl RehearseTape {
    /// The memory that it works in.
    pub fn room(&self) -> &Rehearse {
        &self.room
    }

    pub fn begin(&mut self, segment: Segment) -> Mark {
        self.segment = segment;
        Mark::at(self.nodes.len(), TokenNumbers::default())
    }

    pub fn input(&mut self, value: Rehearsed, wanted: bool) -> Var {
        self.push(value, Vec::new(), Vec::new(), Back::Ends, wanted)
    }

    pub fn value(&self, rows: usize, width: usize) -> Rehearsed {
        self.room.value(rows, width)
    }

    /// As [`crate::Tape::take`].
    pub fn take(&mut self, var: Var) -> Rehearsed {
        let mut gone = self.room.value(0, 0);
        let value = &mut self.nodes[var.number()].value;
        (gone.rows, gone.width) = (value.rows, value.width);
        std::mem::replace(value, gone)
    }

    pub fn forget(&mut self, mark: Mark) {
        self.nodes.truncate(mark.nodes());
    }

    /// As [`crate::Tape::unwind`].
    pub fn unwind(&mut self, mark: Mark, seed: Option<(Var, Rehearsed)>, input: Option<Var>) -> Option<Rehearsed> {
        let mut adjoints: Vec<Option<Rehearsed>> = (0..self.nodes.len()).map(|_| None).collect();
        if let Some((var, dy)) = seed {
            adjoints[var.number()] = Some(dy);
        }
        let mut found = None;
        while self.nodes.len() > mark.nodes() {
            let Some(node) = self.nodes.pop() else { break };
            let here = self.nodes.len();
            if input.is_some_and(|input| input.number() == here) {
                found = adjoints[here].take();
                continue;
            }
            let dy = adjoints[here].take();
            if let Back::Loss(hidden) = node.back {
                adjoints[hidden.number()] = Some(self.like(hidden));
            } else if let Some(dy) = dy.filter(|_| node.wanted) {
                self.step(&node, dy, &mut adjoints);
            }
        }
        found
    }

    fn like(&self, var: Var) -> Rehearsed {
        self.room.like(&self.nodes[var.number()].value)
    }

    fn touch(&self, adjoints: &mut [Option<Rehearsed>], var: Var) {
        if adjoints[var.number()].is_none() {
            adjoints[var.number()] = Some(self.like(var));
        }
    }

    fn step(&self, node: &Node, dy: Rehearsed, adjoints: &mut [Option<Rehearsed>]) {
        let room = &self.room;
        match &node.back {
            Back::Ends | Back::Loss(_) => {}
            Back::Into(vars, scratch) => {
                vars.iter().for_each(|&var| self.touch(adjoints, var));
                room.note(*scratch);
            }
            Back::Moves(x) => {
                adjoints[x.number()].get_or_insert(dy);
            }
            Back::Sum(x, y) => {
                let copy = room.like(&dy);
                adjoints[x.number()].get_or_insert(copy);
                adjoints[y.number()].get_or_insert(dy);
            }
            Back::Delta { vars, gates: [keys, values, heads, states] } => {
                vars.iter().for_each(|&var| self.touch(adjoints, var));
                let rows = dy.rows;
                let [_dq, _dk] = [(); 2].map(|()| room.value(rows, *keys));
                let _dv = room.value(rows, *values);
                let [_dg, _dbeta] = [(); 2].map(|()| room.value(rows, *heads));
                room.note(*states);
                let _normalised = [(); 2].map(|()| {
                    let _raw = room.value(rows, *keys);
                    room.value(rows, *keys)
                });
            }
            Back::Moe { x, sizes } => self.mixture(*x, *sizes, adjoints),
        }
    }

    fn mixture(&self, x: Var, sizes: MoeSizes, adjoints: &mut [Option<Rehearsed>]) {
        let MoeSizes { rows, width, inner, experts, top_k, rank } = sizes;
        let room = &self.room;
        self.touch(adjoints, x);
        let dactivated = {
            let _dy_sorted = room.value(rows, width);
            let dactivated = room.value(rows, inner);
            room.note(rows * rank);
            dactivated
        };
        let (_activated, _dweights) = (room.like(&dactivated), room.value(rows / top_k, top_k));
        let (_dgate, _dup) = (room.like(&dactivated), room.like(&dactivated));
        let (_sorted, _dsorted) = (room.value(rows, width), room.value(rows, width));
        room.note(rows * rank);
        let _dlogits = room.value(rows / top_k, experts);
    }

    fn push(&mut self, value: Rehearsed, kept: Vec<Rehearsed>, held: Vec<Held>, back: Back, wanted: bool) -> Var {
        self.nodes.push(Node { value, _kept: kept, _held: held, back, wanted });
        Var::at(self.nodes.len() - 1)
    }

    fn wanted(&self, vars: &[Var]) -> bool {
        vars.iter().any(|var| self.nodes[var.number()].wanted)
    }

    fn rows(&self, var: Var) -> usize {
        self.nodes[var.number()].value.rows
    }

    /// A value as wide as that of `like`, made of `from`, each of which gets an adjoint.
    fn made(&mut self, like: Var, from: &[Var], wanted: bool) -> Var {
        let (value, wanted) = (self.like(like), wanted || self.wanted(from));
        self.push(value, Vec::new(), Vec::new(), Back::Into(from.to_vec(), 0), wanted)
    }

    fn losses(&mut self, hidden: Var, head: &Linear) {
        let dhidden = self.like(hidden);
        let rows = self.rows(hidden).min(CHUNK_ROWS);
        let (_chunk, _logits) = (self.room.value(rows, head.input_width()), self.room.value(rows, head.output_width()));
        let _dchunk = self.room.value(rows, head.input_width());
        let gone = self.room.value(0, 1);
        self.push(gone, vec![dhidden], Vec::new(), Back::Loss(hidden), true);
    }
}

fn rank(adapter: &Option<Adapter>) -> usize {
    adapter.as_ref().map_or(0, Adapter::rank)
}

impl<'w> Execute<'w> for RehearseTape {
    type Value = Var;

    fn embedding(&mut self, table: &'w Linear, tokens: &[u32]) -> Var {
        let value = self.room.value(tokens.len(), table.input_width());
        self.push(value, Vec::new(), Vec::new(), Back::Ends, table.weight.trained)
    }

    fn linear(&mut self, x: &Var, map: &'w Linear) -> Var {
        let (rows, rank) = (self.rows(*x), rank(&map.adapter));
        let value = self.room.value(rows, map.output_width());
        let kept = if rank > 0 { vec![self.room.value(rows, rank)] } else { Vec::new() };
        let from = if self.wanted(&[*x]) { vec![*x] } else { Vec::new() };
        let wanted = self.wanted(&[*x]) || tape::any_trained(map);
        self.push(value, kept, Vec::new(), Back::Into(from, rows * rank), wanted)
    }

    fn columns(&mut self, x: &Var, columns: &'w Columns) -> Var {
        let value = self.room.value(self.rows(*x), columns.width());
        let wanted = self.wanted(&[*x]);
        self.push(value, Vec::new(), Vec::new(), Back::Into(vec![*x], 0), wanted)
    }

    fn rms_norm(&mut self, x: &Var, norm: &'w Norm) -> Var {
        self.made(*x, &[*x], norm.weight.trained)
    }

    fn gated_rms_norm(&mut self, x: &Var, gate: &Var, norm: &'w Norm) -> Var {
        self.made(*x, &[*x, *gate], norm.weight.trained)
    }

    fn rope(&mut self, x: &Var, _: usize, _: &'w Rope, _: &Spans) -> Var {
        let (value, wanted) = (self.like(*x), self.wanted(&[*x]));
        let positions = self.room.hold(size_of::<u32>() * value.rows);
        self.push(value, Vec::new(), vec![positions], Back::Moves(*x), wanted)
    }

    /// Keys, values and their gradients of sequences that are cut are the layer's affair.
    fn attention(
        &mut self,
        [q, k, v]: [&Var; 3],
        shape: &'w AttentionShape,
        spans: &Spans,
        _: &mut [&mut KvCache],
    ) -> Var {
        let value = self.like(*q);
        let log_sum_exp = self.room.value(value.rows, shape.query_heads);
        let cut = usize::from(spans.starts.first().is_some_and(|&start| start > 0)) + usize::from(self.segment.goes_on);
        let row = 2 * shape.kv_heads * shape.head_dim;
        let whole = if cut > 0 { 0 } else { value.rows * row };
        let block = kernels::attention::BACKWARD_BLOCK.min(value.rows) * value.width;
        let scratch = whole + (kernels::attention::BACKWARD_PARTS - 1) * block;
        let (vars, wanted) = (vec![*q, *k, *v], self.wanted(&[*q, *k, *v]));
        self.push(value, vec![log_sum_exp], Vec::new(), Back::Into(vars, scratch), wanted)
    }

    fn causal_conv(&mut self, x: &Var, conv: &'w Conv, _: &Spans, _: &mut [&mut DeltaState]) -> Var {
        let (value, before_silu) = (self.like(*x), self.like(*x));
        let wanted = conv.weight.trained || self.wanted(&[*x]);
        let weights = conv.weight.matrix.rows * conv.weight.matrix.columns;
        let scratch = kernels::conv1d::SUMMED_TASKS_MAX * weights;
        self.push(value, vec![before_silu], Vec::new(), Back::Into(vec![*x], scratch), wanted)
    }

    fn delta_rule(
        &mut self,
        qkv: &Var,
        b: &Var,
        a: &Var,
        gates: &'w DeltaGates,
        spans: &Spans,
        _: &mut [&mut DeltaState],
    ) -> Var {
        let (shape, rows) = (&gates.shape, self.rows(*qkv));
        let (keys, values) = (shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim);
        let rates = [self.like(*a), self.like(*b)];
        let normalised = [(); 2].map(|()| {
            let raw = self.room.value(rows, keys);
            self.room.like(&raw)
        });
        let v = self.room.value(rows, values);
        let value = self.room.value(rows, values);
        let chunks: usize = spans.lengths.iter().map(|length| length.div_ceil(CHUNK)).sum();
        let states = spans.lengths.len() * shape.state_len();
        let held = self.room.hold(size_of::<f32>() * chunks * shape.state_len());
        self.room.note(states);
        let kept = rates.into_iter().chain(normalised).chain([v]).collect();
        let back = Back::Delta { vars: [*qkv, *b, *a], gates: [keys, values, shape.value_heads, states] };
        let mut held = vec![held];
        if let Some(round) = &self.segment.round {
            let shared = ring::delta_rule::memory(round, shape);
            held.push(self.room.hold(size_of::<f32>() * shared.kept));
            self.room.note(shared.passing);
        }
        self.push(value, kept, held, back, true)
    }

    fn swiglu(&mut self, gate: &Var, up: &Var) -> Var {
        self.made(*gate, &[*gate, *up], false)
    }

    fn sigmoid_gate(&mut self, x: &Var, gate: &Var) -> Var {
        self.made(*x, &[*x, *gate], false)
    }

    fn moe(&mut self, x: &Var, moe: &'w Moe) -> Var {
        let (tokens, expert, width) = (self.rows(*x), &moe.experts[0], moe.router.input_width());
        let (rows, inner) = (tokens * moe.top_k, expert.gate.output_width());
        let ranks = moe.adapters.each_ref().map(rank);
        let probabilities = {
            let logits = self.room.value(tokens, moe.experts.len());
            self.room.like(&logits)
        };
        // Indices, weights, places there and back.
        let routing = self.room.hold(4 * size_of::<f32>() * rows);
        let sorted = self.room.value(rows, width);
        let mut kept = vec![probabilities];
        kept.extend([(); 2].map(|()| self.room.value(rows, inner)));
        kept.extend(ranks.into_iter().filter(|&rank| rank > 0).map(|rank| self.room.value(rows, rank)));
        drop(sorted);
        kept.push(self.room.value(rows, inner));
        let outputs = self.room.value(rows, width);
        let value = self.room.value(tokens, width);
        drop(outputs);
        let (experts, top_k, rank) = (moe.experts.len(), moe.top_k, ranks.into_iter().max().unwrap_or(0));
        let sizes = MoeSizes { rows, width, inner, experts, top_k, rank };
        self.push(value, kept, vec![routing], Back::Moe { x: *x, sizes }, true)
    }

    fn add(&mut self, x: &Var, y: &Var) -> Var {
        let (value, wanted) = (self.like(*x), self.wanted(&[*x, *y]));
        self.push(value, Vec::new(), Vec::new(), Back::Sum(*x, *y), wanted)
    }

    fn cross_entropy(&mut self, hidden: &Var, head: &'w Linear, _: &[u32], _: &[f32]) -> Vec<f32> {
        self.losses(*hidden, head);
        Vec::new()
    }

    fn divergence(&mut self, hidden: &Var, head: &'w Linear, _: Teacher<'_>, _: &[f32]) -> Vec<f32> {
        self.losses(*hidden, head);
        Vec::new()
    }
}
