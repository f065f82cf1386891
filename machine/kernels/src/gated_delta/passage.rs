//! The rule as a function of the state that it finds: what a run of tokens does to any state, in one matrix to each
//! head, so that runs of one sequence can be computed before it is known what the runs before them leave.
//!
//! The rule is linear in its state, column by column: S_after = transition·S_before + end, and the outputs are those
//! that follow an empty state plus reach·S_before. Both come of the chunked form with the identity beside the empty
//! state, and zeros beside the values. (Yang et al., "Parallelizing Linear Transformers with the Delta Rule over
//! Sequence Length", 2024, write the transition of a chunk; here it is of any number of tokens.) Against f64: 1e-5.

use super::{Inputs, Shape, check, run_chunked};
use crate::simd::{Disjoint, Level, Product, Simd, Strided, for_each_worth, variants};

/// What a run of tokens does to the state that it finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// [Hv, K, K]
    pub transition: Vec<f32>,
    /// [Hv, K, V]: what they leave where they found nothing.
    pub end: Vec<f32>,
}

/// The passage of one sequence's tokens; `reach` [T, Hv, K] is written.
pub fn passage(reach: &mut [f32], inputs: Inputs, shape: &Shape) -> Passage {
    let tokens = check(&inputs, shape);
    let &Shape { value_heads, key_dim, value_dim, .. } = shape;
    assert_eq!(reach.len(), tokens * value_heads * key_dim, "a row of keys to each value head");
    let wide = Shape { value_dim: value_dim + key_dim, ..*shape };
    let beside = |values: &[f32], rows: usize| {
        let mut both = vec![0.0; rows * wide.value_dim];
        let pairs = both.chunks_exact_mut(wide.value_dim).zip(values.chunks_exact(value_dim));
        pairs.for_each(|(to, from)| to[..value_dim].copy_from_slice(from));
        both
    };
    let v = beside(inputs.v, tokens * value_heads);
    let mut state = vec![0.0; wide.state_len()];
    for (row, state) in state.chunks_exact_mut(wide.value_dim).enumerate() {
        state[value_dim + row % key_dim] = 1.0;
    }
    let mut out = vec![0.0; v.len()];
    run_chunked(&mut out, Inputs { v: &v, ..inputs }, &mut state, &mut [], &[tokens], &wide);
    let rows = reach.chunks_exact_mut(key_dim).zip(out.chunks_exact(wide.value_dim));
    rows.for_each(|(to, from)| to.copy_from_slice(&from[value_dim..]));
    let (mut transition, mut end) = (Vec::new(), Vec::new());
    for row in state.chunks_exact(wide.value_dim) {
        end.extend_from_slice(&row[..value_dim]);
        transition.extend_from_slice(&row[value_dim..]);
    }
    Passage { transition, end }
}

/// The state after the tokens: state ← transition·state + end.
pub fn pass(state: &mut [f32], passage: &Passage, shape: &Shape) {
    let &Shape { value_heads, key_dim, value_dim, .. } = shape;
    assert_eq!([state.len(), passage.end.len()], [shape.state_len(); 2], "one state");
    assert_eq!(passage.transition.len(), value_heads * key_dim * key_dim, "one transition");
    let before = state.to_vec();
    state.copy_from_slice(&passage.end);
    let product = Product { m: key_dim, n: value_dim, k: key_dim, c_row: value_dim, b_row: value_dim, add: true };
    let (rows, of_head) = (key_dim, [key_dim * key_dim, key_dim * value_dim]);
    each_head(state, Factors { a: &passage.transition, a_row: rows, transposed: false, b: &before, of_head }, product);
}

/// The adjoint of [`pass`]: dstate ← transitionᵀ·dstate.
pub fn pass_backward(dstate: &mut [f32], transition: &[f32], shape: &Shape) {
    let &Shape { key_dim, value_dim, .. } = shape;
    assert_eq!(dstate.len(), shape.state_len(), "one state");
    let after = dstate.to_vec();
    let product = Product { m: key_dim, n: value_dim, k: key_dim, c_row: value_dim, b_row: value_dim, add: false };
    let of_head = [key_dim * key_dim, key_dim * value_dim];
    let factors = Factors { a: transition, a_row: key_dim, transposed: true, b: &after, of_head };
    each_head(dstate, factors, product);
}

/// The gradient of the state before the tokens through their outputs alone, which is added: Σ_t reach_t ⊗ dout_t.
pub fn reach_backward(dstate: &mut [f32], reach: &[f32], dout: &[f32], shape: &Shape) {
    let &Shape { value_heads, key_dim, value_dim, .. } = shape;
    let tokens = dout.len() / (value_heads * value_dim);
    assert_eq!(dstate.len(), shape.state_len(), "one state");
    assert_eq!(dout.len(), tokens * value_heads * value_dim, "dout is no whole tokens");
    assert_eq!(reach.len(), tokens * value_heads * key_dim, "a row of keys to each value head");
    let b_row = value_heads * value_dim;
    let product = Product { m: key_dim, n: value_dim, k: tokens, c_row: value_dim, b_row, add: true };
    let of_head = [key_dim, value_dim];
    let factors = Factors { a: reach, a_row: value_heads * key_dim, transposed: true, b: dout, of_head };
    each_head(dstate, factors, product);
}

/// The factors of one product to each head.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    a: &'a [f32],
    a_row: usize,
    transposed: bool,
    b: &'a [f32],
    /// How far the next head's numbers are, in a and in b.
    of_head: [usize; 2],
}

/// c [heads, K, V] = or += a·b.
fn each_head(c: &mut [f32], factors: Factors, product: Product) {
    let area = product.m * product.n;
    let (work, heads) = (c.len() * product.k / 16, c.len() / area);
    let c = Disjoint::new(c);
    for_each_worth(work, (0..heads).collect(), |head| {
        // SAFETY: no other task has this head.
        head_product(Level::best(), unsafe { c.part(head * area, area) }, factors, product, head);
    });
}

#[inline(always)]
fn product_of_head<S: Simd>(s: S, c: &mut [f32], factors: Factors, product: Product, head: usize) {
    let Factors { a, a_row, transposed, b, of_head } = factors;
    let a = &a[head * of_head[0]..];
    let a = if transposed { Strided::transposed(a, a_row) } else { Strided::rows(a, a_row) };
    s.product(&product, c, a, &b[head * of_head[1]..]);
}
variants! { fn head_product(c: &mut [f32], factors: Factors, product: Product, head: usize) = product_of_head }
