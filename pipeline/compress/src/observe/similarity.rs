//! How alike experts are: all of them run on the same tokens. That is E / top_k times the work of a pass, so only a
//! sample of tokens is taken.
//!
//! Legend: B tokens at a time, E experts, H hidden width.

use super::record::Sample;
use kernels::{gemm, pool};
use numeric::MatrixView;
use ops::{Buffer, Infer, Moe, Precision};

/// Bytes of expert outputs that are alive at a time, as far as one token allows.
const BYTES: usize = 64 << 20;

/// Tokens that are compared at a time.
fn tokens_at_a_time(experts: usize, width: usize) -> usize {
    (BYTES / (experts * (width + experts) * size_of::<f32>())).clamp(1, 64)
}

/// What a comparison takes of memory, in bytes.
pub(crate) fn bytes(experts: usize, width: usize, inner: usize) -> usize {
    let tokens = tokens_at_a_time(experts, width);
    let values = tokens * (experts * (width + experts) + 2 * width + 3 * inner);
    // Two sums in f64 for each pair of experts, and what comes of them.
    size_of::<f32>() * values + experts * experts * (2 * size_of::<f64>() + size_of::<f32>())
}

/// `[E, E]`: the mean cosine of two experts' outputs over the sampled tokens, each weighted by the larger of the two
/// probabilities that the router gives them there. What both say where neither is meant tells nothing.
pub(crate) fn output_similarity(moe: &Moe, sample: &Sample, width: usize) -> Vec<f32> {
    let n_experts = moe.experts.len();
    let mut sums = vec![[0.0f64; 2]; n_experts * n_experts];
    let some = tokens_at_a_time(n_experts, width);
    let probabilities = sample.probabilities.chunks(some * n_experts);
    for (x, probabilities) in sample.x.chunks(some * width).zip(probabilities) {
        let cosines = cosines(moe, &Buffer::from_values(width, x.to_vec()));
        pool::for_each_chunk(&mut sums, n_experts, |a, sums| {
            for (token, probabilities) in probabilities.chunks_exact(n_experts).enumerate() {
                let cosines = cosines.row(token * n_experts + a);
                for (b, [sum, weights]) in sums.iter_mut().enumerate() {
                    let weight = f64::from(probabilities[a].max(probabilities[b]));
                    *sum += weight * f64::from(cosines[b]);
                    *weights += weight;
                }
            }
        });
    }
    let mean = |&[sum, weights]: &[f64; 2]| if weights > 0.0 { (sum / weights).clamp(-1.0, 1.0) as f32 } else { 0.0 };
    sums.iter().map(mean).collect()
}

/// `[B·E, E]`, token by token: cosines of all pairs. An output of nothing but zeros is like no other.
fn cosines(moe: &Moe, x: &Buffer) -> Buffer {
    let n_experts = moe.experts.len();
    let mut outputs = Buffer::unwritten(x.rows * n_experts, x.width);
    let mut e = Infer::new(Precision::F32);
    for (expert, network) in moe.experts.iter().enumerate() {
        let y = models::dense(&mut e, network, x);
        for token in 0..x.rows {
            outputs.row_mut(token * n_experts + expert).copy_from_slice(y.row(token));
        }
    }
    outputs.for_each_row(|_, values| {
        let norm = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        if norm > 0.0 {
            values.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
    });
    let mut cosines = Buffer::unwritten(outputs.rows, n_experts);
    let token = |token: usize| &outputs[token * n_experts * x.width..(token + 1) * n_experts * x.width];
    let views: Vec<MatrixView> = (0..x.rows).map(|at| MatrixView::from_f32(n_experts, x.width, token(at))).collect();
    let offsets: Vec<usize> = (0..=x.rows).map(|token| token * n_experts).collect();
    gemm::grouped_multiply_transposed(&mut cosines, &outputs, &views, &offsets, false, Precision::F32);
    cosines
}
