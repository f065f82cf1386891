//! Sigmoid gates, the definition.

use crate::real::Real;

/// y = x·σ(gate), with one gate per group of `group` consecutive values.
pub fn forward<R: Real>(y: &mut [R], x: &[R], gate: &[R], group: usize) {
    for i in 0..y.len() {
        y[i] = x[i] * gate[i / group].sigmoid();
    }
}

/// dx += dy·σ(gate), dgate += Σ over the group of dy·x·σ(1 − σ)
pub fn backward<R: Real>(dx: &mut [R], dgate: &mut [R], dy: &[R], x: &[R], gate: &[R], group: usize) {
    for i in 0..dy.len() {
        let sigmoid = gate[i / group].sigmoid();
        dx[i] += dy[i] * sigmoid;
        dgate[i / group] += dy[i] * x[i] * sigmoid * (R::one() - sigmoid);
    }
}
