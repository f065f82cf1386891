//! The chunked form, backwards, from the state before each chunk; chunks and the adjoint of the state go from last to
//! first.
//!
//! Notation as in `chunked.rs`: S, S₁ the states around a chunk, D the adjoint of S₁, Γ_ij = e^{c_i − c_j},
//! E = v − e^c·(K S), (I − M) N = beta·E with M = −strict_lower(beta·Γ⊙K Kᵀ), B = lower(Γ⊙Q Kᵀ),
//! out = e^c·(Q S) + B N, S₁ = e^{c_n} S + (e^{c_n − c}·K)ᵀ N. Derived by hand from these:
//!
//! dN = Bᵀ dout + e^{c_n − c}·(K D);  (I − M)ᵀ Z = dN;  dv = beta·Z;  F = e^c·dout;  G = −beta·e^c·Z
//! dQ = F Sᵀ + (Γ⊙dB) K with dB = lower(dout Nᵀ)
//! dK = G Sᵀ + (e^{c_n − c}·N) Dᵀ + (Γ⊙dB)ᵀ Q + (X + Xᵀ) K with X = −strict_lower(beta·Γ⊙Z Nᵀ)
//! dbeta_i = ⟨Z_i, E_i⟩ − Σ_j Γ_ij (K Kᵀ)_ij (Z Nᵀ)_ij;  the adjoint of S = e^{c_n} D + Qᵀ F + Kᵀ G
//! dc_i from each place where c_i stands in an exponent; dg_j = Σ_{i ≥ j} dc_i.

use super::chunk::{HeadChunk, Pairs, Task, Triangles, scale_rows, solve, solve_transposed};
use super::{CHUNK, Inputs, Shape};
use crate::simd::{Disjoint, Product, Simd, Strided, dot, scale_in_place, variants};

/// Where the gradients are added.
pub(super) struct Outputs<'a> {
    pub(super) dq: Disjoint<'a>,
    pub(super) dk: Disjoint<'a>,
    pub(super) dv: Disjoint<'a>,
    pub(super) dg: Disjoint<'a>,
    pub(super) dbeta: Disjoint<'a>,
    /// [S, Hv, K, V]: of the final states at first, of the initial ones in the end.
    pub(super) dstates: Disjoint<'a>,
}

/// What is read besides the inputs.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) dout: &'a [f32],
    pub(super) chunk_states: &'a [f32],
}

/// Room for one task's work, by shape.
struct Scratch {
    pairs: Pairs,
    triangles: Triangles,
    /// The adjoints of the group's states, [heads of the group, K, V].
    adjoints: Vec<f32>,
    // [C, V]: E, N, Z (first dN), F, G, K D and then e^{c_n − c}·N; and Nᵀ [V, C].
    errors: Vec<f32>,
    values: Vec<f32>,
    solved: Vec<f32>,
    faded_dout: Vec<f32>,
    to_state: Vec<f32>,
    onto_end: Vec<f32>,
    values_transposed: Vec<f32>,
    // [V, K]: a state's transpose.
    state_transposed: Vec<f32>,
    // [C, K]: the sums of dQ and dK over the group, and one head's part.
    dq: Vec<f32>,
    dk: Vec<f32>,
    part: Vec<f32>,
    // [C, C]: dout Nᵀ, Z Nᵀ; the sums over the group of Γ⊙dB and X.
    dattention: Vec<f32>,
    dcorrection: Vec<f32>,
    dqueries: Vec<f32>,
    dkeys: Vec<f32>,
}

impl Scratch {
    fn new(shape: &Shape) -> Self {
        let &Shape { key_heads, value_heads, key_dim, value_dim } = shape;
        let zeros = |rows: usize, columns: usize| vec![0.0; rows * columns];
        Self {
            pairs: Pairs::new(key_dim),
            triangles: Triangles::new(),
            adjoints: zeros(value_heads / key_heads * key_dim, value_dim),
            errors: zeros(CHUNK, value_dim),
            values: zeros(CHUNK, value_dim),
            solved: zeros(CHUNK, value_dim),
            faded_dout: zeros(CHUNK, value_dim),
            to_state: zeros(CHUNK, value_dim),
            onto_end: zeros(CHUNK, value_dim),
            values_transposed: zeros(CHUNK, value_dim),
            state_transposed: zeros(key_dim, value_dim),
            dq: zeros(CHUNK, key_dim),
            dk: zeros(CHUNK, key_dim),
            part: zeros(CHUNK, key_dim),
            dattention: zeros(CHUNK, CHUNK),
            dcorrection: zeros(CHUNK, CHUNK),
            dqueries: zeros(CHUNK, CHUNK),
            dkeys: zeros(CHUNK, CHUNK),
        }
    }
}

/// The gradients of one head's gates in a chunk: of c, of c_n, of beta.
struct Gates {
    dc: [f64; CHUNK],
    dc_end: f64,
    dbeta: [f32; CHUNK],
}

#[inline(always)]
fn backward<S: Simd>(s: S, outputs: &Outputs, inputs: &Inputs, given: Given, task: Task, shape: &Shape) {
    let group = shape.value_heads / shape.key_heads;
    let area = shape.key_dim * shape.value_dim;
    let mut scratch = Scratch::new(shape);
    let states = (task.span * shape.value_heads + task.key_head * group) * area;
    // SAFETY: no other task has these heads of this span.
    let dstates = unsafe { outputs.dstates.part(states, group * area) };
    scratch.adjoints.copy_from_slice(dstates);
    for chunk in (0..task.tokens.div_ceil(CHUNK)).rev() {
        let start = task.first_token + chunk * CHUNK;
        let n = CHUNK.min(task.first_token + task.tokens - start);
        let Scratch { dq, dk, dqueries, dkeys, .. } = &mut scratch;
        [dq, dk, dqueries, dkeys].into_iter().for_each(|sum| sum.fill(0.0));
        for index in 0..group {
            let head = task.key_head * group + index;
            let part = HeadChunk::new(s, inputs, [start, n, head], shape);
            if index == 0 {
                scratch.pairs.fill(s, &part, shape.key_dim);
            }
            let state = &given.chunk_states[((task.first_chunk + chunk) * shape.value_heads + head) * area..][..area];
            let dout = &given.dout[part.value_at(0, shape.value_dim)..];
            recompute(s, &part, state, &mut scratch, shape);
            let mut gates = Gates { dc: [0.0; CHUNK], dc_end: 0.0, dbeta: [0.0; CHUNK] };
            values_backward(s, &part, dout, index, &mut scratch, &mut gates, shape);
            pairs_backward(s, &part, dout, &mut scratch, &mut gates, shape);
            state_backward(s, &part, state, index, &mut scratch, &mut gates, shape);
            write_head(s, outputs, &part, &scratch, &gates, shape);
        }
        let part = HeadChunk::new(s, inputs, [start, n, task.key_head * group], shape);
        write_keys(s, outputs, &part, &mut scratch, shape);
    }
    dstates.copy_from_slice(&scratch.adjoints);
}
variants! {
    fn backward_task(outputs: &Outputs, inputs: &Inputs, given: Given, task: Task, shape: &Shape) = backward
}

/// E and N as the forward pass had them.
#[inline(always)]
fn recompute<S: Simd>(s: S, part: &HeadChunk, state: &[f32], scratch: &mut Scratch, shape: &Shape) {
    let &Shape { key_dim, value_dim, .. } = shape;
    let Scratch { pairs, triangles, errors, values, values_transposed, .. } = scratch;
    triangles.fill(s, part, pairs);
    let with_state = Product { m: part.n, n: value_dim, k: key_dim, c_row: value_dim, b_row: value_dim, add: false };
    s.product(&with_state, errors, Strided::rows(part.k, part.key_row), state);
    part.subtract_known(s, errors, value_dim);
    scale_rows(s, values, (errors, value_dim), &part.beta[..part.n], value_dim);
    solve(s, values, &triangles.correction, [part.n, value_dim]);
    s.transpose((values_transposed, CHUNK), (values, value_dim), [part.n, value_dim]);
}

/// Z, F, G; e^{c_n − c}·N is left in `onto_end`.
#[inline(always)]
fn values_backward<S: Simd>(
    s: S,
    part: &HeadChunk,
    dout: &[f32],
    index: usize,
    scratch: &mut Scratch,
    gates: &mut Gates,
    shape: &Shape,
) {
    let &Shape { key_dim, value_dim: width, .. } = shape;
    let n = part.n;
    let Scratch { triangles, adjoints, errors, values, solved, faded_dout, to_state, onto_end, .. } = scratch;
    let adjoint = &adjoints[index * key_dim * width..(index + 1) * key_dim * width];
    let from_dout = Product { m: n, n: width, k: n, c_row: width, b_row: part.value_row, add: false };
    s.product(&from_dout, solved, Strided::transposed(&triangles.attention, CHUNK), dout);
    let with_state = Product { k: key_dim, b_row: width, ..from_dout };
    s.product(&with_state, onto_end, Strided::rows(part.k, part.key_row), adjoint);
    for i in 0..n {
        let row = i * width..(i + 1) * width;
        let factor = part.decay.to_end[i];
        let along = f64::from(factor * dot(s, &values[row.clone()], &onto_end[row.clone()]));
        gates.dc[i] -= along;
        gates.dc_end += along;
        let factor = s.splat(factor);
        for j in row.clone().step_by(S::LANES) {
            let sum = s.mul_add(factor, s.load(&onto_end[j..row.end]), s.load(&solved[j..row.end]));
            s.store(&mut solved[j..row.end], sum);
        }
    }
    solve_transposed(s, solved, &triangles.correction, [n, width]);
    let mut factors = [0.0; CHUNK];
    for (i, factor) in factors.iter_mut().enumerate().take(n) {
        let row = i * width..(i + 1) * width;
        gates.dbeta[i] = dot(s, &solved[row.clone()], &errors[row]);
        *factor = -part.beta[i] * part.decay.from_start[i];
    }
    scale_rows(s, faded_dout, (dout, part.value_row), &part.decay.from_start[..n], width);
    scale_rows(s, to_state, (solved, width), &factors[..n], width);
    scale_rows(s, onto_end, (values, width), &part.decay.to_end[..n], width);
}

/// The pairs' share: dB and Z Nᵀ into the sums over the group, and what they ask of c and beta.
#[inline(always)]
fn pairs_backward<S: Simd>(
    s: S,
    part: &HeadChunk,
    dout: &[f32],
    scratch: &mut Scratch,
    gates: &mut Gates,
    shape: &Shape,
) {
    let width = shape.value_dim;
    let Scratch { pairs, triangles, dattention, dcorrection, dqueries, dkeys, .. } = scratch;
    let product = Product { m: part.n, n: part.n, k: width, c_row: CHUNK, b_row: CHUNK, add: false };
    s.product(&product, dattention, Strided::rows(dout, part.value_row), &scratch.values_transposed);
    s.product(&product, dcorrection, Strided::rows(&scratch.solved, width), &scratch.values_transposed);
    // What each c_j loses: the column sums of dB⊙B + dM⊙M.
    let mut lost = [0.0f32; CHUNK];
    for i in 0..part.n {
        let minus_beta = s.splat(-part.beta[i]);
        let (mut gained, mut strength) = (s.zero(), s.zero());
        for j in (0..=i).step_by(S::LANES) {
            let (start, end) = (i * CHUNK + j, i * CHUNK + i + 1);
            let decay = s.load(&triangles.decay[start..end]);
            let attention = s.load(&dattention[start..end]);
            s.add_to(&mut dqueries[start..end], s.mul(decay, attention));
            // The diagonal of Z Nᵀ is not part of X; the correction's own diagonal is 0.
            let correction = s.mul(decay, s.load(&dcorrection[start..end - 1]));
            s.add_to(&mut dkeys[start..end], s.mul(minus_beta, correction));
            strength = s.mul_add(correction, s.load(&pairs.keys[start..end]), strength);
            let moved = s.mul(attention, s.load(&triangles.attention[start..end]));
            let corrected = s.load(&dcorrection[start..end]);
            let moved = s.mul_add(corrected, s.load(&triangles.correction[start..end]), moved);
            gained = s.add(gained, moved);
            s.add_to(&mut lost[j..=i], moved);
        }
        gates.dc[i] += f64::from(s.sum(gained));
        gates.dbeta[i] -= s.sum(strength);
    }
    for (dc, lost) in gates.dc.iter_mut().zip(lost) {
        *dc -= f64::from(lost);
    }
}

/// What passes through the states: into Q and K, and the adjoint one chunk back.
#[inline(always)]
fn state_backward<S: Simd>(
    s: S,
    part: &HeadChunk,
    state: &[f32],
    index: usize,
    scratch: &mut Scratch,
    gates: &mut Gates,
    shape: &Shape,
) {
    let &Shape { key_dim, value_dim, .. } = shape;
    let n = part.n;
    let Scratch { adjoints, faded_dout, to_state, onto_end, state_transposed, dq, dk, part: onto, .. } = scratch;
    let adjoint = &mut adjoints[index * key_dim * value_dim..(index + 1) * key_dim * value_dim];
    let product = Product { m: n, n: key_dim, k: value_dim, c_row: key_dim, b_row: key_dim, add: false };
    s.transpose((state_transposed, key_dim), (state, value_dim), [key_dim, value_dim]);
    for (from, sum, rows) in [(&*faded_dout, dq, part.q), (&*to_state, &mut *dk, part.k)] {
        s.product(&product, onto, Strided::rows(from, value_dim), state_transposed);
        for i in 0..n {
            let (onto, sum) = (&onto[i * key_dim..(i + 1) * key_dim], &mut sum[i * key_dim..(i + 1) * key_dim]);
            gates.dc[i] += f64::from(dot(s, onto, &rows[i * part.key_row..i * part.key_row + key_dim]));
            for (sum, onto) in sum.chunks_mut(S::LANES).zip(onto.chunks(S::LANES)) {
                s.add_to(sum, s.load(onto));
            }
        }
    }
    s.transpose((state_transposed, key_dim), (adjoint, value_dim), [key_dim, value_dim]);
    s.product(&Product { add: true, ..product }, dk, Strided::rows(onto_end, value_dim), state_transposed);

    gates.dc_end += f64::from(part.decay.whole * dot(s, adjoint, state));
    scale_in_place(s, adjoint, part.decay.whole);
    let back = Product { m: key_dim, n: value_dim, k: n, c_row: value_dim, b_row: value_dim, add: true };
    s.product(&back, adjoint, Strided::transposed(part.q, part.key_row), faded_dout);
    s.product(&back, adjoint, Strided::transposed(part.k, part.key_row), to_state);
}

/// Adds one head's dv, dg and dbeta to the outputs.
#[inline(always)]
fn write_head<S: Simd>(s: S, outputs: &Outputs, part: &HeadChunk, scratch: &Scratch, gates: &Gates, shape: &Shape) {
    let &Shape { value_heads, value_dim, .. } = shape;
    let mut dg = gates.dc_end;
    for i in (0..part.n).rev() {
        dg += gates.dc[i];
        let row = (part.start + i) * value_heads + part.head;
        // SAFETY: no other task has this head of this span.
        let (dv, dg_1, dbeta) = unsafe {
            let dv = outputs.dv.part(part.value_at(i, value_dim), value_dim);
            (dv, outputs.dg.part(row, 1), outputs.dbeta.part(row, 1))
        };
        dg_1[0] += dg as f32;
        dbeta[0] += gates.dbeta[i];
        let beta = s.splat(part.beta[i]);
        let solved = &scratch.solved[i * value_dim..(i + 1) * value_dim];
        for (dv, solved) in dv.chunks_mut(S::LANES).zip(solved.chunks(S::LANES)) {
            s.add_to(dv, s.mul(beta, s.load(solved)));
        }
    }
}

/// Adds the pairs' share of the group to its dQ and dK, and these to the outputs.
#[inline(always)]
fn write_keys<S: Simd>(s: S, outputs: &Outputs, part: &HeadChunk, scratch: &mut Scratch, shape: &Shape) {
    let &Shape { key_dim, .. } = shape;
    let n = part.n;
    let Scratch { dq, dk, dqueries, dkeys, .. } = scratch;
    for i in 0..n {
        for j in 0..i {
            dkeys[j * CHUNK + i] = dkeys[i * CHUNK + j];
        }
    }
    let product = Product { m: n, n: key_dim, k: n, c_row: key_dim, b_row: part.key_row, add: true };
    s.product(&product, dq, Strided::rows(dqueries, CHUNK), part.k);
    s.product(&product, dk, Strided::transposed(dqueries, CHUNK), part.q);
    s.product(&product, dk, Strided::rows(dkeys, CHUNK), part.k);
    let first = part.start * part.key_row + part.head / (shape.value_heads / shape.key_heads) * key_dim;
    for (to, from) in [(&outputs.dq, &*dq), (&outputs.dk, &*dk)] {
        for i in 0..n {
            // SAFETY: no other task has this key head of this span.
            let to = unsafe { to.part(first + i * part.key_row, key_dim) };
            for (to, from) in to.chunks_mut(S::LANES).zip(from[i * key_dim..(i + 1) * key_dim].chunks(S::LANES)) {
                s.add_to(to, s.load(from));
            }
        }
    }
}
