//! Causal attention, the definition. T queries, L keys, G query heads per key head, D head width.

use super::Shape;
use crate::real::Real;

/// The scaled scores of query t (of head h) with the keys that it sees.
fn scores<R: Real>(q: &[R], k: &[R], [t, h]: [usize; 2], visible: usize, shape: &Shape) -> Vec<R> {
    let width = shape.head_dim;
    let kv_head = h / (shape.query_heads / shape.kv_heads);
    let q_d = &q[(t * shape.query_heads + h) * width..][..width];
    let score = |key: usize| {
        let k_d = &k[(key * shape.kv_heads + kv_head) * width..][..width];
        q_d.iter().zip(k_d).fold(R::zero(), |sum, (&q, &k)| sum + q * k) * R::of(f64::from(shape.scale))
    };
    (0..visible).map(score).collect()
}

/// out = softmax(scale·q kᵀ) v over the keys 0..=L−T+t, and the log of each row's sum.
pub fn forward<R: Real>(out: &mut [R], log_sum_exp: &mut [R], [q, k, v]: [&[R]; 3], shape: &Shape) {
    let (heads, width) = (shape.query_heads, shape.head_dim);
    let tokens = q.len() / (heads * width);
    let past = k.len() / (shape.kv_heads * width) - tokens;
    for t in 0..tokens {
        for h in 0..heads {
            let kv_head = h / (heads / shape.kv_heads);
            let scores = scores(q, k, [t, h], past + t + 1, shape);
            let most = scores.iter().fold(scores[0], |most, &score| most.larger(score));
            let sum = scores.iter().fold(R::zero(), |sum, &score| sum + (score - most).exp());
            log_sum_exp[t * heads + h] = most + sum.ln();
            let out_d = &mut out[(t * heads + h) * width..][..width];
            out_d.fill(R::zero());
            for (key, &score) in scores.iter().enumerate() {
                let probability = (score - most).exp() / sum;
                for (d, out) in out_d.iter_mut().enumerate() {
                    *out += probability * v[(key * shape.kv_heads + kv_head) * width + d];
                }
            }
        }
    }
}

/// With P the probabilities and dP = dout·vᵀ: dS = P·(dP − ⟨dout, out⟩); dq += scale·dS k, dk += scale·dSᵀ q, dv += Pᵀ
/// dout.
pub fn backward<R: Real>(
    [dq, dk, dv]: [&mut [R]; 3],
    [dout, out, log_sum_exp]: [&[R]; 3],
    [q, k, v]: [&[R]; 3],
    shape: &Shape,
) {
    let (heads, width) = (shape.query_heads, shape.head_dim);
    let tokens = q.len() / (heads * width);
    let past = k.len() / (shape.kv_heads * width) - tokens;
    let scale = R::of(f64::from(shape.scale));
    for t in 0..tokens {
        for h in 0..heads {
            let kv_head = h / (heads / shape.kv_heads);
            let query = (t * heads + h) * width;
            let mut along = R::zero();
            for d in 0..width {
                along += dout[query + d] * out[query + d];
            }
            for (key, score) in scores(q, k, [t, h], past + t + 1, shape).into_iter().enumerate() {
                let key = (key * shape.kv_heads + kv_head) * width;
                let probability = (score - log_sum_exp[t * heads + h]).exp();
                let mut dprobability = R::zero();
                for d in 0..width {
                    dprobability += dout[query + d] * v[key + d];
                }
                let dscore = scale * probability * (dprobability - along);
                for d in 0..width {
                    dq[query + d] += dscore * k[key + d];
                    dk[key + d] += dscore * q[query + d];
                    dv[key + d] += probability * dout[query + d];
                }
            }
        }
    }
}
