//! Causal softmax attention with grouped heads, forwards and backwards, tiled: no T × L matrix exists.
//!
//! T queries, L ≥ T keys, Hq query heads, Hkv key heads (Hq a multiple), D head width. q, out, dout, dq [T, Hq, D];
//! k, v, dk, dv [L, Hkv, D]; log_sum_exp [T, Hq]. Query t sees the keys 0..=L − T + t. out and log_sum_exp are written,
//! gradients are added to. In the packed forms the tokens of several sequences follow each other, L = T for each, and no
//! sequence sees another. Shapes that do not fit are a panic.

pub mod scalar;

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub query_heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Multiplies every score, head_dim^−½ as a rule.
    pub scale: f32,
}

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

/// What the forward pass wrote, kept for the backward one.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    pub out: &'a [f32],
    pub log_sum_exp: &'a [f32],
}

/// Where gradients are added.
#[derive(Debug)]
pub struct Gradients<'a> {
    pub dq: &'a mut [f32],
    pub dk: &'a mut [f32],
    pub dv: &'a mut [f32],
}

/// One sequence: out = softmax(scale·q kᵀ) v.
pub fn forward(out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, shape: &Shape) {
    scalar::forward(out, log_sum_exp, [inputs.q, inputs.k, inputs.v], shape);
}

/// One sequence, backwards.
pub fn backward(gradients: Gradients, dout: &[f32], saved: Saved, inputs: Inputs, shape: &Shape) {
    let Gradients { dq, dk, dv } = gradients;
    scalar::backward([dq, dk, dv], [dout, saved.out, saved.log_sum_exp], [inputs.q, inputs.k, inputs.v], shape);
}

/// Several sequences of `spans` tokens each.
pub fn forward_packed(out: &mut [f32], log_sum_exp: &mut [f32], inputs: Inputs, spans: &[usize], shape: &Shape) {
    let mut start = 0;
    for &span in spans {
        let queries = |width: usize| start * width..(start + span) * width;
        let query = queries(shape.query_heads * shape.head_dim);
        let key = queries(shape.kv_heads * shape.head_dim);
        let part = Inputs { q: &inputs.q[query.clone()], k: &inputs.k[key.clone()], v: &inputs.v[key] };
        forward(&mut out[query], &mut log_sum_exp[queries(shape.query_heads)], part, shape);
        start += span;
    }
}

/// The adjoint of [`forward_packed`].
pub fn backward_packed(
    gradients: Gradients,
    dout: &[f32],
    saved: Saved,
    inputs: Inputs,
    spans: &[usize],
    shape: &Shape,
) {
    let mut start = 0;
    for &span in spans {
        let rows = |width: usize| start * width..(start + span) * width;
        let query = rows(shape.query_heads * shape.head_dim);
        let key = rows(shape.kv_heads * shape.head_dim);
        let part = Inputs { q: &inputs.q[query.clone()], k: &inputs.k[key.clone()], v: &inputs.v[key.clone()] };
        let kept = Saved { out: &saved.out[query.clone()], log_sum_exp: &saved.log_sum_exp[rows(shape.query_heads)] };
        let into = Gradients {
            dq: &mut gradients.dq[query.clone()],
            dk: &mut gradients.dk[key.clone()],
            dv: &mut gradients.dv[key],
        };
        backward(into, &dout[query], kept, part, shape);
        start += span;
    }
}
