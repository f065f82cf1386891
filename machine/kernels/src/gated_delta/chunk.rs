//! What the chunked form needs forwards and backwards: decays, the triangular matrices, and the two solves.
//!
//! C tokens per chunk, n ≤ C of them real, c_i = Σ_{j≤i} g_j. Matrices over pairs of tokens have rows of C values.

use super::{CHUNK, Inputs, Shape};
use crate::simd::{Product, Simd, Strided, exp, scale_in_place};

/// One key head of one span.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    pub(super) key_head: usize,
    pub(super) span: usize,
    pub(super) first_token: usize,
    pub(super) tokens: usize,
    /// The number of the span's first chunk among all chunks.
    pub(super) first_chunk: usize,
}

/// The tasks of a packed call.
pub(super) fn tasks(spans: &[usize], shape: &Shape) -> Vec<Task> {
    let (mut first_token, mut first_chunk) = (0, 0);
    let mut tasks = Vec::with_capacity(spans.len() * shape.key_heads);
    for (span, &tokens) in spans.iter().enumerate() {
        let task = |key_head| Task { key_head, span, first_token, tokens, first_chunk };
        tasks.extend((0..shape.key_heads).map(task));
        first_token += tokens;
        first_chunk += tokens.div_ceil(CHUNK);
    }
    tasks
}

/// The decays within a chunk, from one head's g.
pub(super) struct Decay {
    /// c in two parts: its differences would lose digits in one f32 when the decay is strong.
    high: [f32; CHUNK],
    low: [f32; CHUNK],
    /// e^{c_i}: from the chunk's start to token i.
    pub(super) from_start: [f32; CHUNK],
    /// e^{c_n − c_i}: from token i to the chunk's end.
    pub(super) to_end: [f32; CHUNK],
    /// e^{c_n}
    pub(super) whole: f32,
}

impl Decay {
    #[inline(always)]
    pub(super) fn new<S: Simd>(s: S, g: impl Iterator<Item = f32>) -> Self {
        let (mut high, mut low) = ([0.0; CHUNK], [0.0; CHUNK]);
        let mut sum = 0.0f64;
        let mut n = 0;
        for g in g {
            sum += f64::from(g);
            high[n] = sum as f32;
            low[n] = (sum - f64::from(high[n])) as f32;
            n += 1;
        }
        let (last_high, last_low) = (s.splat(sum as f32), s.splat((sum - f64::from(sum as f32)) as f32));
        let (mut from_start, mut to_end) = ([0.0; CHUNK], [0.0; CHUNK]);
        for i in (0..n).step_by(S::LANES) {
            let (high, low) = (s.load(&high[i..n]), s.load(&low[i..n]));
            s.store(&mut from_start[i..n], exp(s, high));
            s.store(&mut to_end[i..n], exp(s, s.add(s.sub(last_high, high), s.sub(last_low, low))));
        }
        Self { high, low, from_start, to_end, whole: (sum as f32).exp() }
    }

    /// e^{c_i − c_j} for the lanes j..; only those with j ≤ i mean something.
    #[inline(always)]
    pub(super) fn between<S: Simd>(&self, s: S, i: usize, j: usize) -> S::V {
        let high = s.sub(s.splat(self.high[i]), s.load(&self.high[j..]));
        exp(s, s.add(high, s.sub(s.splat(self.low[i]), s.load(&self.low[j..]))))
    }
}

/// The products of keys and queries of a chunk, which all value heads of the key head share.
pub(super) struct Pairs {
    /// K Kᵀ
    pub(super) keys: Vec<f32>,
    /// Q Kᵀ
    pub(super) queries: Vec<f32>,
    transposed: Vec<f32>,
}

impl Pairs {
    pub(super) fn new(key_dim: usize) -> Self {
        Self {
            keys: vec![0.0; CHUNK * CHUNK],
            queries: vec![0.0; CHUNK * CHUNK],
            transposed: vec![0.0; key_dim * CHUNK],
        }
    }

    /// Fills them for the key head of `part`.
    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, s: S, part: &HeadChunk, key_dim: usize) {
        let &HeadChunk { n, q, k, key_row: row, .. } = part;
        s.transpose((&mut self.transposed, CHUNK), (k, row), [n, key_dim]);
        let product = Product { m: n, n, k: key_dim, c_row: CHUNK, b_row: CHUNK, add: false };
        s.product(&product, &mut self.keys, Strided::rows(k, row), &self.transposed);
        s.product(&product, &mut self.queries, Strided::rows(q, row), &self.transposed);
    }
}

/// The triangular matrices of one value head in a chunk.
pub(super) struct Triangles {
    /// e^{c_i − c_j} for j ≤ i, else 0.
    pub(super) decay: Vec<f32>,
    /// −beta_i·e^{c_i − c_j}·(K Kᵀ)_ij for j < i, else 0: the corrections, I − this is to be inverted.
    pub(super) correction: Vec<f32>,
    /// e^{c_i − c_j}·(Q Kᵀ)_ij for j ≤ i, else 0.
    pub(super) attention: Vec<f32>,
}

impl Triangles {
    pub(super) fn new() -> Self {
        let [decay, correction, attention] = std::array::from_fn(|_| vec![0.0; CHUNK * CHUNK]);
        Self { decay, correction, attention }
    }

    #[inline(always)]
    pub(super) fn fill<S: Simd>(&mut self, s: S, part: &HeadChunk, pairs: &Pairs) {
        for i in 0..part.n {
            let row = i * CHUNK;
            let minus_beta = s.splat(-part.beta[i]);
            for j in (0..=i).step_by(S::LANES) {
                // Only lanes up to i are stored: beyond it the exponent is positive and may overflow.
                let (start, end) = (row + j, row + i + 1);
                let between = part.decay.between(s, i, j);
                s.store(&mut self.decay[start..end], between);
                s.store(&mut self.attention[start..end], s.mul(between, s.load(&pairs.queries[start..end])));
                let correction = s.mul(minus_beta, s.mul(between, s.load(&pairs.keys[start..end])));
                s.store(&mut self.correction[start..end], correction);
            }
            self.correction[row + i] = 0.0;
        }
    }
}

/// Rows solved together in registers.
const BLOCK: usize = 8;

/// Solves (I − correction) X = x in place, n rows of `width`; forward substitution by blocks.
#[inline(always)]
pub(super) fn solve<S: Simd>(s: S, x: &mut [f32], correction: &[f32], [n, width]: [usize; 2]) {
    for b in (0..n).step_by(BLOCK) {
        let rows = BLOCK.min(n - b);
        let (done, block) = x.split_at_mut(b * width);
        let product = Product { m: rows, n: width, k: b, c_row: width, b_row: width, add: true };
        s.product(&product, block, Strided::rows(&correction[b * CHUNK..], CHUNK), done);
        for column in (0..width).step_by(S::LANES) {
            let mut x = load_block(s, block, [rows, width, column]);
            for j in 0..BLOCK {
                for i in j + 1..BLOCK {
                    x[i] = s.mul_add(s.splat(correction[(b + i) * CHUNK + b + j]), x[j], x[i]);
                }
            }
            store_block(s, block, &x, [rows, width, column]);
        }
    }
}

/// Solves (I − correctionᵀ) X = x in place; backward substitution by blocks.
#[inline(always)]
pub(super) fn solve_transposed<S: Simd>(s: S, x: &mut [f32], correction: &[f32], [n, width]: [usize; 2]) {
    for b in (0..n).step_by(BLOCK).rev() {
        let rows = BLOCK.min(n - b);
        let (block, done) = x[b * width..n * width].split_at_mut(rows * width);
        let below = b + rows;
        if below < n {
            let product = Product { m: rows, n: width, k: n - below, c_row: width, b_row: width, add: true };
            s.product(&product, block, Strided::transposed(&correction[below * CHUNK + b..], CHUNK), done);
        }
        for column in (0..width).step_by(S::LANES) {
            let mut x = load_block(s, block, [rows, width, column]);
            for j in (0..BLOCK).rev() {
                if j < rows {
                    for i in 0..j {
                        x[i] = s.mul_add(s.splat(correction[(b + j) * CHUNK + b + i]), x[j], x[i]);
                    }
                }
            }
            store_block(s, block, &x, [rows, width, column]);
        }
    }
}

#[inline(always)]
fn load_block<S: Simd>(s: S, block: &[f32], [rows, width, column]: [usize; 3]) -> [S::V; BLOCK] {
    let mut x = [s.zero(); BLOCK];
    for (i, x) in x.iter_mut().enumerate().take(rows) {
        *x = s.load(&block[i * width + column..(i + 1) * width]);
    }
    x
}

#[inline(always)]
fn store_block<S: Simd>(s: S, block: &mut [f32], x: &[S::V; BLOCK], [rows, width, column]: [usize; 3]) {
    for (i, &x) in x.iter().enumerate().take(rows) {
        s.store(&mut block[i * width + column..(i + 1) * width], x);
    }
}

/// One value head of one chunk: the tokens `start..start + n`.
pub(super) struct HeadChunk<'a> {
    pub(super) start: usize,
    pub(super) n: usize,
    pub(super) head: usize,
    /// From the first token's row of the key head on; rows are `key_row` apart.
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) key_row: usize,
    pub(super) v: &'a [f32],
    pub(super) value_row: usize,
    pub(super) beta: [f32; CHUNK],
    pub(super) decay: Decay,
}

impl<'a> HeadChunk<'a> {
    #[inline(always)]
    pub(super) fn new<S: Simd>(s: S, inputs: &Inputs<'a>, [start, n, head]: [usize; 3], shape: &Shape) -> Self {
        let heads = shape.value_heads;
        let (key_row, value_row) = (shape.key_heads * shape.key_dim, heads * shape.value_dim);
        let key = start * key_row + head / (heads / shape.key_heads) * shape.key_dim;
        let mut beta = [0.0; CHUNK];
        for (i, beta) in beta.iter_mut().enumerate().take(n) {
            *beta = inputs.beta[(start + i) * heads + head];
        }
        let decay = Decay::new(s, (start..start + n).map(|t| inputs.g[t * heads + head]));
        let (q, k) = (&inputs.q[key..], &inputs.k[key..]);
        let v = &inputs.v[start * value_row + head * shape.value_dim..];
        Self { start, n, head, q, k, key_row, v, value_row, beta, decay }
    }

    /// Where this head's values of token i begin in a [T, Hv, V] tensor.
    #[inline(always)]
    pub(super) fn value_at(&self, i: usize, width: usize) -> usize {
        (self.start + i) * self.value_row + self.head * width
    }

    /// What the state does not yet know: errors ← v − e^{c_i}·errors, where `errors` comes holding K S.
    #[inline(always)]
    pub(super) fn subtract_known<S: Simd>(&self, s: S, errors: &mut [f32], width: usize) {
        for i in 0..self.n {
            let factor = s.splat(self.decay.from_start[i]);
            let v = &self.v[i * self.value_row..i * self.value_row + width];
            for (error, v) in errors[i * width..(i + 1) * width].chunks_mut(S::LANES).zip(v.chunks(S::LANES)) {
                let value = s.neg_mul_add(factor, s.load(error), s.load(v));
                s.store(error, value);
            }
        }
    }
}

/// to_i = factor_i·from_i, row by row; the rows of `to` follow each other.
#[inline(always)]
pub(super) fn scale_rows<S: Simd>(
    s: S,
    to: &mut [f32],
    (from, from_row): (&[f32], usize),
    factors: &[f32],
    width: usize,
) {
    for (i, &factor) in factors.iter().enumerate() {
        let factor = s.splat(factor);
        let from = &from[i * from_row..i * from_row + width];
        for (to, from) in to[i * width..(i + 1) * width].chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
            s.store(to, s.mul(factor, s.load(from)));
        }
    }
}

/// x_i ← factor_i·x_i, row by row.
#[inline(always)]
pub(super) fn scale_rows_in_place<S: Simd>(s: S, x: &mut [f32], factors: &[f32], width: usize) {
    for (x, &factor) in x.chunks_exact_mut(width).zip(factors) {
        scale_in_place(s, x, factor);
    }
}
