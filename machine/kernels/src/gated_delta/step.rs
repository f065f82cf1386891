//! The recurrence over vectors, token by token. K key width, V value width.

use super::{Inputs, Shape};
use crate::simd::{Disjoint, Simd, variants};

/// One token's keys and gates of one value head.
#[derive(Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) decay: f32,
    pub(crate) beta: f32,
}

/// The value heads from `first_head` on, as many as `states` holds; all tokens of each.
#[inline(always)]
fn step<S: Simd>(s: S, out: &Disjoint, inputs: &Inputs, states: &mut [f32], first_head: usize, shape: &Shape) {
    let &Shape { key_heads, value_heads, key_dim, value_dim } = shape;
    for (index, state) in states.chunks_exact_mut(key_dim * value_dim).enumerate() {
        let head = first_head + index;
        for t in 0..inputs.g.len() / value_heads {
            let key = (t * key_heads + head / (value_heads / key_heads)) * key_dim;
            let row = t * value_heads + head;
            let token = Token {
                q: &inputs.q[key..key + key_dim],
                k: &inputs.k[key..key + key_dim],
                decay: inputs.g[row].exp(),
                beta: inputs.beta[row],
            };
            // SAFETY: no other task has this head.
            let out_v = unsafe { out.part(row * value_dim, value_dim) };
            token_step(s, out_v, token, &inputs.v[row * value_dim..(row + 1) * value_dim], state);
        }
    }
}
variants! {
    fn step_heads(out: &Disjoint, inputs: &Inputs, states: &mut [f32], first_head: usize, shape: &Shape) = step
}

/// `out_v` and `v` [V], `state` [K, V].
#[inline(always)]
pub(crate) fn token_step<S: Simd>(s: S, out_v: &mut [f32], token: Token, v: &[f32], state: &mut [f32]) {
    let width = v.len();
    assert!(out_v.len() == width && state.len() == token.k.len() * width && token.q.len() == token.k.len());
    let mut j = 0;
    // SAFETY: the columns j.. and all rows lie within the slices by the assert and the conditions.
    unsafe {
        while j + 4 * S::LANES <= width {
            columns::<S, 4, true>(s, out_v, token, v, state, j);
            j += 4 * S::LANES;
        }
        while j + 2 * S::LANES <= width {
            columns::<S, 2, true>(s, out_v, token, v, state, j);
            j += 2 * S::LANES;
        }
        while j < width {
            if j + S::LANES <= width {
                columns::<S, 1, true>(s, out_v, token, v, state, j);
            } else {
                columns::<S, 1, false>(s, out_v, token, v, state, j);
            }
            j += S::LANES;
        }
    }
}

/// N vectors of columns from `j` on, one of them partial unless `WHOLE`. Columns do not depend on one another.
///
/// # Safety
/// The columns and the rows of `state` exist.
#[inline(always)]
unsafe fn columns<S: Simd, const N: usize, const WHOLE: bool>(
    s: S,
    out_v: &mut [f32],
    token: Token,
    v: &[f32],
    state: &mut [f32],
    j: usize,
) {
    let width = v.len();
    let rows = token.k.len();
    let load = |from: *const f32| {
        // SAFETY: a row's columns from `j` on, at most up to its end.
        unsafe { if WHOLE { s.load_at(from) } else { s.load_some(from, width - j) } }
    };
    let mut seen = [s.zero(); N];
    for i in 0..rows {
        // SAFETY: row i exists.
        let (k, row) = unsafe { (s.splat(*token.k.get_unchecked(i)), state.as_ptr().add(i * width + j)) };
        for (n, seen) in seen.iter_mut().enumerate() {
            *seen = s.mul_add(load(row.wrapping_add(n * S::LANES)), k, *seen);
        }
    }
    let (decay, beta) = (s.splat(token.decay), s.splat(token.beta));
    let mut delta = [s.zero(); N];
    for (n, delta) in delta.iter_mut().enumerate() {
        let v = s.load(&v[j + n * S::LANES..]);
        *delta = s.mul(beta, s.neg_mul_add(decay, seen[n], v));
    }
    let mut sums = [s.zero(); N];
    for i in 0..rows {
        // SAFETY: row i exists.
        unsafe {
            let (k, q) = (s.splat(*token.k.get_unchecked(i)), s.splat(*token.q.get_unchecked(i)));
            let row = state.as_mut_ptr().add(i * width + j);
            for n in 0..N {
                let at = row.add(n * S::LANES);
                let after = s.mul_add(k, delta[n], s.mul(decay, load(at)));
                sums[n] = s.mul_add(after, q, sums[n]);
                if WHOLE { s.store_at(at, after) } else { s.store_some(at, after, width - j) }
            }
        }
    }
    for (n, &sum) in sums.iter().enumerate() {
        s.store(&mut out_v[j + n * S::LANES..], sum);
    }
}
