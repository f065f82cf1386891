//! The gated delta rule as a recurrence, the definition. T tokens, K key width, V value width; S is the state [K, V].

use super::Shape;
use crate::real::Real;

/// S′ = e^g S;  d = beta·(v − S′ᵀk);  S = S′ + k dᵀ;  out = Sᵀq.
pub fn step<R: Real>(out: &mut [R], [q, k, v, g, beta]: [&[R]; 5], state: &mut [R], shape: &Shape) {
    let &Shape { key_heads, value_heads, key_dim, value_dim } = shape;
    for t in 0..g.len() / value_heads {
        for head in 0..value_heads {
            let key = (t * key_heads + head / (value_heads / key_heads)) * key_dim;
            let (q_k, k_k) = (&q[key..key + key_dim], &k[key..key + key_dim]);
            let row = t * value_heads + head;
            let state_kv = &mut state[head * key_dim * value_dim..][..key_dim * value_dim];
            // Decay first: the published recurrence forgets before it writes, and the order changes the gradient.
            let decay = g[row].exp();
            for s in state_kv.iter_mut() {
                *s *= decay;
            }
            for j in 0..value_dim {
                let mut seen = R::zero();
                for i in 0..key_dim {
                    seen += state_kv[i * value_dim + j] * k_k[i];
                }
                let delta = beta[row] * (v[row * value_dim + j] - seen);
                let mut sum = R::zero();
                for i in 0..key_dim {
                    state_kv[i * value_dim + j] += k_k[i] * delta;
                    sum += state_kv[i * value_dim + j] * q_k[i];
                }
                out[row * value_dim + j] = sum;
            }
        }
    }
}

/// The adjoint of [`step`] from the initial state; adds to `[dq, dk, dv, dg, dbeta]`. `dstate` comes with the gradient
/// into the final state and is left with that into the initial one.
pub fn backward<R: Real>(
    gradients: [&mut [R]; 5],
    dstate: &mut [R],
    dout: &[R],
    [q, k, v, g, beta]: [&[R]; 5],
    initial: &[R],
    shape: &Shape,
) {
    let &Shape { key_heads, value_heads, key_dim, value_dim } = shape;
    let [dq, dk, dv, dg, dbeta] = gradients;
    let tokens = g.len() / value_heads;
    let area = key_dim * value_dim;
    let states = states_before(tokens, [q, k, v, g, beta], initial, shape);
    for head in 0..value_heads {
        let adjoint = &mut dstate[head * area..(head + 1) * area];
        for t in (0..tokens).rev() {
            let key = (t * key_heads + head / (value_heads / key_heads)) * key_dim;
            let row = t * value_heads + head;
            let value = row * value_dim..(row + 1) * value_dim;
            let token = Token {
                q: &q[key..key + key_dim],
                k: &k[key..key + key_dim],
                v: &v[value.clone()],
                g: g[row],
                beta: beta[row],
            };
            let into = [&mut dq[key..key + key_dim], &mut dk[key..key + key_dim], &mut dv[value.clone()]];
            let before = &states[(t * value_heads + head) * area..][..area];
            let [rate, strength] = token_backward(into, adjoint, &dout[value], &token, before);
            dg[row] += rate;
            dbeta[row] += strength;
        }
    }
}

/// The states before each token, [T, Hv, K, V].
fn states_before<R: Real>(tokens: usize, [q, k, v, g, beta]: [&[R]; 5], initial: &[R], shape: &Shape) -> Vec<R> {
    let mut state = initial.to_vec();
    let mut states = Vec::with_capacity(tokens * state.len());
    let (keys, values) = (shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim);
    let mut out = vec![R::zero(); values];
    for t in 0..tokens {
        states.extend_from_slice(&state);
        let key = t * keys..(t + 1) * keys;
        let head = t * shape.value_heads..(t + 1) * shape.value_heads;
        let inputs = [&q[key.clone()], &k[key], &v[t * values..(t + 1) * values], &g[head.clone()], &beta[head]];
        step(&mut out, inputs, &mut state, shape);
    }
    states
}

/// One token's inputs of one value head.
struct Token<'a, R> {
    q: &'a [R],
    k: &'a [R],
    v: &'a [R],
    g: R,
    beta: R,
}

/// One token backwards: takes the adjoint of the state after it to that of the state before it, and gives [dg, dbeta].
fn token_backward<R: Real>(
    [dq, dk, dv]: [&mut [R]; 3],
    adjoint: &mut [R],
    dout: &[R],
    token: &Token<R>,
    before: &[R],
) -> [R; 2] {
    let width = dout.len();
    let decay = token.g.exp();
    let mut dbeta = R::zero();
    let (mut delta, mut dseen) = (vec![R::zero(); width], vec![R::zero(); width]);
    for j in 0..width {
        let (mut seen, mut slope) = (R::zero(), R::zero());
        for i in 0..token.k.len() {
            adjoint[i * width + j] += token.q[i] * dout[j];
            seen += decay * before[i * width + j] * token.k[i];
            slope += adjoint[i * width + j] * token.k[i];
        }
        delta[j] = token.beta * (token.v[j] - seen);
        dseen[j] = -token.beta * slope;
        dv[j] += token.beta * slope;
        dbeta += slope * (token.v[j] - seen);
    }
    let mut dg = R::zero();
    for i in 0..token.k.len() {
        for j in 0..width {
            let decayed = decay * before[i * width + j];
            let after = decayed + token.k[i] * delta[j];
            dq[i] += after * dout[j];
            dk[i] += adjoint[i * width + j] * delta[j] + decayed * dseen[j];
            let along = adjoint[i * width + j] + token.k[i] * dseen[j];
            dg += along * decayed;
            adjoint[i * width + j] = decay * along;
        }
    }
    [dg, dbeta]
}
