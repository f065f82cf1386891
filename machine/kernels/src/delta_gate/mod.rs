//! The gates of the delta rule per token and value head: g = −exp(A_log)·softplus(a + dt_bias), beta = σ(b).
//!
//! T tokens, H value heads; a, b, g, beta [T, H]; A_log, dt_bias [H]. g and beta are written, gradients are added to.

pub mod scalar;

/// The learned constants per head.
#[derive(Clone, Copy, Debug)]
pub struct Rates<'a> {
    pub a_log: &'a [f32],
    pub dt_bias: &'a [f32],
}

/// Where gradients are added: da, db [T, H]; da_log, ddt_bias [H].
#[derive(Debug)]
pub struct Gradients<'a> {
    pub da: &'a mut [f32],
    pub db: &'a mut [f32],
    pub da_log: &'a mut [f32],
    pub ddt_bias: &'a mut [f32],
}

/// Writes g (≤ 0, the logarithm of the decay) and beta (the writing strength).
pub fn forward(g: &mut [f32], beta: &mut [f32], a: &[f32], b: &[f32], rates: &Rates) {
    scalar::forward([g, beta], [a, b], [rates.a_log, rates.dt_bias]);
}

/// The adjoint of [`forward`].
pub fn backward(gradients: Gradients, dg: &[f32], dbeta: &[f32], a: &[f32], b: &[f32], rates: &Rates) {
    let Gradients { da, db, da_log, ddt_bias } = gradients;
    scalar::backward([da, db, da_log, ddt_bias], [dg, dbeta], [a, b], [rates.a_log, rates.dt_bias]);
}
