//! The two gates of the delta rule, the definition. T tokens, H value heads.

use crate::real::Real;

/// g = −exp(a_log)·softplus(a + dt_bias), beta = σ(b)
pub fn forward<R: Real>([g, beta]: [&mut [R]; 2], [a, b]: [&[R]; 2], [a_log, dt_bias]: [&[R]; 2]) {
    let heads = a_log.len();
    for i in 0..a.len() {
        let head = i % heads;
        g[i] = -a_log[head].exp() * (a[i] + dt_bias[head]).softplus();
        beta[i] = b[i].sigmoid();
    }
}

/// Adds to `[da, db, da_log, ddt_bias]`: softplus′ = σ, dg/da_log = g.
pub fn backward<R: Real>(
    [da, db, da_log, ddt_bias]: [&mut [R]; 4],
    [dg, dbeta]: [&[R]; 2],
    [a, b]: [&[R]; 2],
    [a_log, dt_bias]: [&[R]; 2],
) {
    let heads = a_log.len();
    for i in 0..a.len() {
        let head = i % heads;
        let rate = -a_log[head].exp();
        let slope = dg[i] * rate * (a[i] + dt_bias[head]).sigmoid();
        da[i] += slope;
        ddt_bias[head] += slope;
        da_log[head] += dg[i] * rate * (a[i] + dt_bias[head]).softplus();
        let beta = b[i].sigmoid();
        db[i] += dbeta[i] * beta * (R::one() - beta);
    }
}
