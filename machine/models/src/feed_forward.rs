//! What each token does by itself: a SwiGLU network, or a routed choice of them beside a shared one.

use crate::weights::MoeWeights;
use ops::{Execute, Expert};

/// A network by itself: `[T, H]` to `[T, H]`.
pub fn dense<'w, E: Execute<'w>>(e: &mut E, w: &'w Expert, x: &E::Value) -> E::Value {
    let [gate, up] = e.linears(x, [&w.gate, &w.up]);
    let h = e.swiglu(&gate, &up);
    e.linear(&h, &w.down)
}

pub(crate) fn moe<'w, E: Execute<'w>>(e: &mut E, w: &'w MoeWeights, x: &E::Value) -> E::Value {
    let routed = e.moe(x, &w.routed);
    let Some(shared) = &w.shared else { return routed };
    let y = dense(e, &shared.expert, x);
    let gate = e.linear(x, &shared.gate);
    let y = e.sigmoid_gate(&y, &gate);
    e.add(&routed, &y)
}
