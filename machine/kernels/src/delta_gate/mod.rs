//! The gates of the delta rule per token and value head: g = −exp(A_log)·softplus(a + dt_bias), beta = σ(b).
//!
//! T tokens, H value heads; a, b, g, beta [T, H]; A_log, dt_bias [H]. g and beta are written, gradients are added to.
//!
//! There are a hundred times fewer gates than values that they act on, so there is no vector form: the definition runs,
//! in parallel, with the library's exact functions (a few units in the last place).

pub mod scalar;
#[cfg(test)]
mod tests;

use crate::simd::{for_each, for_each_summed, rows_per_task};

/// Three exponentials and a logarithm.
const NANOSECONDS_PER_VALUE: usize = 20;

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
    let values = check(&[g.len(), beta.len(), a.len(), b.len()], rates);
    let tasks = g.chunks_mut(values).zip(beta.chunks_mut(values)).zip(a.chunks(values).zip(b.chunks(values)));
    for_each(tasks, |((g, beta), (a, b))| scalar::forward([g, beta], [a, b], [rates.a_log, rates.dt_bias]));
}

/// The adjoint of [`forward`].
pub fn backward(gradients: Gradients, dg: &[f32], dbeta: &[f32], a: &[f32], b: &[f32], rates: &Rates) {
    let Gradients { da, db, da_log, ddt_bias } = gradients;
    let values = check(&[da.len(), db.len(), dg.len(), dbeta.len(), a.len(), b.len()], rates);
    let heads = rates.a_log.len();
    assert!(da_log.len() == heads && ddt_bias.len() == heads, "one gradient per head");
    let into = da.chunks_mut(values).zip(db.chunks_mut(values));
    let from = dg.chunks(values).zip(dbeta.chunks(values)).zip(a.chunks(values).zip(b.chunks(values)));
    let mut drates = vec![0.0; 2 * heads];
    for_each_summed(into.zip(from), &mut drates, |((da, db), ((dg, dbeta), (a, b))), drates| {
        let (da_log, ddt_bias) = drates.split_at_mut(heads);
        scalar::backward([da, db, da_log, ddt_bias], [dg, dbeta], [a, b], [rates.a_log, rates.dt_bias]);
    });
    let (a_log_sum, dt_bias_sum) = drates.split_at(heads);
    for head in 0..heads {
        da_log[head] += a_log_sum[head];
        ddt_bias[head] += dt_bias_sum[head];
    }
}

/// Asserts that all are whole tokens of one number, and gives the values in a task.
fn check(lengths: &[usize], rates: &Rates) -> usize {
    let heads = rates.a_log.len();
    assert!(heads > 0 && rates.dt_bias.len() == heads, "{heads} rates and {} biases", rates.dt_bias.len());
    let fits = |&len: &usize| len == lengths[0] && len % heads == 0;
    assert!(lengths.iter().all(fits), "lengths {lengths:?} are no tokens of {heads} heads");
    rows_per_task(heads * NANOSECONDS_PER_VALUE) * heads
}
