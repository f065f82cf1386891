//! The chunked form, forwards: a few small products per chunk in place of a pass over the state per token.
//!
//! With errors E = v − e^{c}·(K S): new values N solve (I + strict_lower(beta·Γ⊙K Kᵀ)) N = beta·E, then
//! out = e^{c}·(Q S) + lower(Γ⊙Q Kᵀ) N and S ← e^{c_n} S + (e^{c_n − c}·K)ᵀ N, where Γ_ij = e^{c_i − c_j}.

use super::chunk::{HeadChunk, Pairs, Task, Triangles, scale_rows, scale_rows_in_place, solve};
use super::{CHUNK, Inputs, Shape};
use crate::simd::{Disjoint, Product, Simd, Strided, scale_in_place, variants};

/// Where the chunked form writes.
pub(super) struct Outputs<'a> {
    pub(super) out: Disjoint<'a>,
    /// [S, Hv, K, V]
    pub(super) states: Disjoint<'a>,
    /// [chunks, Hv, K, V], or empty when the states before each chunk are not wanted.
    pub(super) chunk_states: Disjoint<'a>,
}

/// Room for one task's work; the tiles are [C, V].
struct Scratch {
    pairs: Pairs,
    triangles: Triangles,
    values: Vec<f32>,
    faded: Vec<f32>,
    out: Vec<f32>,
}

#[inline(always)]
fn forward<S: Simd>(s: S, outputs: &Outputs, inputs: &Inputs, task: Task, shape: &Shape) {
    let group = shape.value_heads / shape.key_heads;
    let area = shape.key_dim * shape.value_dim;
    let [values, faded, out] = std::array::from_fn(|_| vec![0.0; CHUNK * shape.value_dim]);
    let (pairs, triangles) = (Pairs::new(shape.key_dim), Triangles::new());
    let mut scratch = Scratch { pairs, triangles, values, faded, out };
    let keeps = !outputs.chunk_states.is_empty();
    for chunk in 0..task.tokens.div_ceil(CHUNK) {
        let start = task.first_token + chunk * CHUNK;
        let n = CHUNK.min(task.first_token + task.tokens - start);
        for head in task.key_head * group..(task.key_head + 1) * group {
            let part = HeadChunk::new(s, inputs, [start, n, head], shape);
            if head == task.key_head * group {
                scratch.pairs.fill(s, &part, shape.key_dim);
            }
            // SAFETY: no other task has this head of this span.
            let state = unsafe { outputs.states.part((task.span * shape.value_heads + head) * area, area) };
            if keeps {
                let kept = ((task.first_chunk + chunk) * shape.value_heads + head) * area;
                // SAFETY: as above.
                unsafe { outputs.chunk_states.part(kept, area) }.copy_from_slice(state);
            }
            head_forward(s, &outputs.out, state, &part, &mut scratch, shape);
        }
    }
}
variants! { fn forward_task(outputs: &Outputs, inputs: &Inputs, task: Task, shape: &Shape) = forward }

/// One value head of one chunk: writes its rows of out, advances its state.
#[inline(always)]
fn head_forward<S: Simd>(
    s: S,
    outputs: &Disjoint,
    state: &mut [f32],
    part: &HeadChunk,
    scratch: &mut Scratch,
    shape: &Shape,
) {
    let &Shape { key_dim, value_dim, .. } = shape;
    let n = part.n;
    let Scratch { pairs, triangles, values, faded, out } = scratch;
    triangles.fill(s, part, pairs);
    let with_state = Product { m: n, n: value_dim, k: key_dim, c_row: value_dim, b_row: value_dim, add: false };
    s.product(&with_state, values, Strided::rows(part.k, part.key_row), state);
    part.subtract_known(s, values, value_dim);
    scale_rows_in_place(s, values, &part.beta[..n], value_dim);
    solve(s, values, &triangles.correction, [n, value_dim]);

    s.product(&with_state, out, Strided::rows(part.q, part.key_row), state);
    scale_rows_in_place(s, out, &part.decay.from_start[..n], value_dim);
    let with_values = Product { k: n, add: true, ..with_state };
    s.product(&with_values, out, Strided::rows(&triangles.attention, CHUNK), values);
    for (i, out) in out.chunks_exact(value_dim).enumerate().take(n) {
        // SAFETY: no other task has this head.
        unsafe { outputs.part(part.value_at(i, value_dim), value_dim) }.copy_from_slice(out);
    }

    scale_rows(s, faded, (values, value_dim), &part.decay.to_end[..n], value_dim);
    scale_in_place(s, state, part.decay.whole);
    let onto_state = Product { m: key_dim, k: n, add: true, ..with_state };
    s.product(&onto_state, state, Strided::transposed(part.k, part.key_row), faded);
}
