//! The recurrence and the chunked form against the definition in f64; gradients against the recurrent adjoint, and that
//! against differences.

use super::*;
use crate::simd::testing::{assert_close, assert_gradient, for_every_level, poisoned, random, weighted_sum, wide};

/// Inputs as a layer makes them: q and k of length one, g from `strength`·(−1..0), beta in 0..1.
struct Case {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    g: Vec<f32>,
    beta: Vec<f32>,
    states: Vec<f32>,
    shape: Shape,
}

impl Case {
    fn new(
        tokens: usize,
        spans: usize,
        [key_heads, value_heads, key_dim, value_dim]: [usize; 4],
        strength: f32,
    ) -> Case {
        let shape = Shape { key_heads, value_heads, key_dim, value_dim };
        let unit = |seed| {
            let x = random(seed, tokens * key_heads * key_dim);
            let mut y = x.clone();
            crate::l2_norm::scalar::forward(&mut y, &x, key_dim, 1.0);
            y
        };
        let gate = |seed| random(seed, tokens * value_heads).into_iter().map(|x| 0.5 * (x + 1.0));
        Case {
            q: unit(1),
            k: unit(2),
            v: random(3, tokens * value_heads * value_dim),
            g: gate(4).map(|x| -strength * x).collect(),
            beta: gate(5).collect(),
            states: random(6, spans * shape.state_len()),
            shape,
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs { q: &self.q, k: &self.k, v: &self.v, g: &self.g, beta: &self.beta }
    }

    fn wide(&self) -> [Vec<f64>; 5] {
        self.inputs().list().map(wide)
    }

    /// The definition's output and final state in f64.
    fn want(&self) -> (Vec<f64>, Vec<f64>) {
        let (mut out, mut state) = (vec![0.0; self.v.len()], wide(&self.states));
        let [q, k, v, g, beta] = self.wide();
        scalar::step(&mut out, [&q, &k, &v, &g, &beta], &mut state, &self.shape);
        (out, state)
    }
}

/// The tokens `start..end`.
fn tokens_of<'a>(all: &Inputs<'a>, start: usize, end: usize, shape: &Shape) -> Inputs<'a> {
    let rows = |width: usize| start * width..end * width;
    let key = rows(shape.key_heads * shape.key_dim);
    Inputs {
        q: &all.q[key.clone()],
        k: &all.k[key],
        v: &all.v[rows(shape.value_heads * shape.value_dim)],
        g: &all.g[rows(shape.value_heads)],
        beta: &all.beta[rows(shape.value_heads)],
    }
}

const HEADS: [[usize; 4]; 5] = [[1, 1, 3, 5], [1, 2, 17, 13], [2, 4, 32, 32], [1, 3, 7, 67], [3, 3, 31, 33]];

fn run_level(level: Level, case: &Case, spans: &[usize]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let chunks: usize = spans.iter().map(|span| span.div_ceil(CHUNK)).sum();
    let mut chunk_states = poisoned(chunks * case.shape.state_len());
    let (mut out, mut states) = (poisoned(case.v.len()), case.states.clone());
    let outputs = chunked::Outputs {
        out: Disjoint::new(&mut out),
        states: Disjoint::new(&mut states),
        chunk_states: Disjoint::new(&mut chunk_states),
    };
    for task in chunk::tasks(spans, &case.shape) {
        chunked::forward_task(level, &outputs, &case.inputs(), task, &case.shape);
    }
    (out, states, chunk_states)
}

#[test]
fn steps_are_the_definition() {
    for_every_level(|level| {
        for heads in HEADS {
            let case = Case::new(11, 1, heads, 2.0);
            let (mut out, mut state) = (poisoned(case.v.len()), case.states.clone());
            step::step_heads(level, &Disjoint::new(&mut out), &case.inputs(), &mut state, 0, &case.shape);
            let (out_want, state_want) = case.want();
            assert_close(&out, &out_want, 2e-6, "out");
            assert_close(&state, &state_want, 2e-6, "state");
        }
    });
}

#[test]
fn chunks_are_the_definition_under_weak_and_strong_decay() {
    for_every_level(|level| {
        for heads in HEADS {
            for (tokens, strength) in [(1, 0.1), (31, 1.0), (32, 20.0), (33, 100.0), (101, 3.0), (67, 0.0)] {
                let case = Case::new(tokens, 1, heads, strength);
                let (out, state, _) = run_level(level, &case, &[tokens]);
                let (out_want, state_want) = case.want();
                assert_close(&out, &out_want, 1e-5, "out");
                assert_close(&state, &state_want, 1e-5, "state");
            }
        }
    });
}

#[test]
fn packed_is_separate_and_public_forms_agree() {
    let spans = [37, 1, 64, 5];
    let tokens = spans.iter().sum();
    let case = Case::new(tokens, spans.len(), [2, 4, 31, 37], 1.0);
    let (mut out, mut states, mut chunk_states) = (poisoned(case.v.len()), case.states.clone(), vec![7.0; 3]);
    chunked_packed(&mut out, case.inputs(), &mut states, &mut chunk_states, &spans, &case.shape);
    let (values, area) = (4 * 37, case.shape.state_len());
    let (mut start, mut chunk) = (0, 0);
    for (index, span) in spans.into_iter().enumerate() {
        let rows = start * values..(start + span) * values;
        let part = tokens_of(&case.inputs(), start, start + span, &case.shape);
        let initial = &case.states[index * area..(index + 1) * area];
        let (mut alone, mut state, mut kept) = (poisoned(span * values), initial.to_vec(), Vec::new());
        chunked(&mut alone, part, &mut state, &mut kept, &case.shape);
        assert_eq!(out[rows.clone()], alone);
        assert_eq!(states[index * area..(index + 1) * area], state);
        assert_eq!(chunk_states[chunk * area..][..kept.len()], kept);
        assert_eq!(kept[..area], *initial);
        let (mut stepped, mut state) = (poisoned(span * values), initial.to_vec());
        step(&mut stepped, part, &mut state, &case.shape);
        assert_close(&alone, &wide(&stepped), 1e-5, "chunked and stepped");
        let (mut filled, mut state) = (poisoned(span * values), initial.to_vec());
        prefill(&mut filled, part, &mut state, &case.shape);
        assert_close(&filled, &wide(&stepped), 1e-5, "prefilled and stepped");
        start += span;
        chunk += span.div_ceil(CHUNK);
    }
    assert_eq!(chunk_states.len(), chunk * area);
}

fn check_gradients(level: Level, case: &Case, tokens: usize, tolerance: f64) {
    let dout = random(8, case.v.len());
    let (_, _, chunk_states) = run_level(level, case, &[tokens]);
    let mut got = case.inputs().list().map(|x| random(10, x.len()));
    let mut want = got.each_ref().map(|x| wide(x));
    let [q, k, v, g, beta] = case.wide();
    let into = want.each_mut().map(Vec::as_mut_slice);
    let mut dstate = random(12, case.shape.state_len());
    let mut dstate_want = wide(&dstate);
    scalar::backward(into, &mut dstate_want, &wide(&dout), [&q, &k, &v, &g, &beta], &wide(&case.states), &case.shape);
    let [dq, dk, dv, dg, dbeta] = got.each_mut().map(|x| Disjoint::new(x));
    let outputs = backward::Outputs { dq, dk, dv, dg, dbeta, dstates: Disjoint::new(&mut dstate) };
    let given = backward::Given { dout: &dout, chunk_states: &chunk_states };
    for task in chunk::tasks(&[tokens], &case.shape) {
        backward::backward_task(level, &outputs, &case.inputs(), given, task, &case.shape);
    }
    for (index, name) in ["dq", "dk", "dv", "dg", "dbeta"].into_iter().enumerate() {
        assert_close(&got[index], &want[index], tolerance, &format!("{level:?} {:?} T={tokens} {name}", case.shape));
    }
    assert_close(&dstate, &dstate_want, tolerance, &format!("{level:?} {:?} T={tokens} dstate", case.shape));
}

#[test]
fn chunked_gradients_are_the_recurrent_adjoint() {
    for_every_level(|level| {
        for heads in HEADS {
            for (tokens, strength) in [(1, 0.1), (31, 1.0), (32, 20.0), (33, 100.0), (101, 3.0), (67, 0.0)] {
                check_gradients(level, &Case::new(tokens, 1, heads, strength), tokens, 3e-5);
            }
        }
    });
}

#[test]
fn packed_gradients_are_separate_ones() {
    let spans = [37, 1, 64, 5];
    let tokens = spans.iter().sum();
    let case = Case::new(tokens, spans.len(), [2, 4, 31, 37], 1.0);
    let dout = random(8, case.v.len());
    let (mut out, mut states, mut chunk_states) = (poisoned(case.v.len()), case.states.clone(), Vec::new());
    chunked_packed(&mut out, case.inputs(), &mut states, &mut chunk_states, &spans, &case.shape);
    let mut together = case.inputs().list().map(|x| vec![0.0; x.len()]);
    let [dq, dk, dv, dg, dbeta] = together.each_mut();
    let gradients = Gradients { dq, dk, dv, dg, dbeta };
    let area = case.shape.state_len();
    let dfinal = random(13, spans.len() * area);
    let mut dstates = dfinal.clone();
    backward_packed(gradients, &dout, case.inputs(), &chunk_states, &mut dstates, &spans, &case.shape);
    let (mut start, mut chunk) = (0, 0);
    for (index, span) in spans.into_iter().enumerate() {
        let part = tokens_of(&case.inputs(), start, start + span, &case.shape);
        let chunks = span.div_ceil(CHUNK);
        let kept = &chunk_states[chunk * case.shape.state_len()..(chunk + chunks) * case.shape.state_len()];
        let mut alone = part.list().map(|x| vec![0.0; x.len()]);
        let [dq, dk, dv, dg, dbeta] = alone.each_mut();
        let values = start * 4 * 37..(start + span) * 4 * 37;
        let state = index * area..(index + 1) * area;
        let mut dstate = dfinal[state.clone()].to_vec();
        backward(Gradients { dq, dk, dv, dg, dbeta }, &dout[values], part, kept, &mut dstate, &case.shape);
        assert_eq!(dstates[state], dstate);
        for (together, alone) in together.iter().zip(&alone) {
            let width = together.len() / tokens;
            assert_eq!(together[start * width..(start + span) * width], alone[..]);
        }
        start += span;
        chunk += chunks;
    }
}

#[test]
fn definition_is_differentiated_rightly() {
    let case = Case::new(5, 1, [1, 2, 3, 4], 1.0);
    let inputs = case.wide();
    let dout = wide(&random(9, case.v.len()));
    let mut gradients = inputs.clone().map(|x| vec![0.0; x.len()]);
    let [q, k, v, g, beta] = inputs.each_ref().map(Vec::as_slice);
    let into = gradients.each_mut().map(Vec::as_mut_slice);
    let dfinal = wide(&random(10, case.states.len()));
    let mut dstate = dfinal.clone();
    scalar::backward(into, &mut dstate, &dout, [q, k, v, g, beta], &wide(&case.states), &case.shape);
    let objective = |parts: [&[f64]; 5], initial: &[f64]| {
        let (mut out, mut state) = (vec![0.0; case.v.len()], initial.to_vec());
        scalar::step(&mut out, parts, &mut state, &case.shape);
        weighted_sum(&out, &dout) + weighted_sum(&state, &dfinal)
    };
    let initial = wide(&case.states);
    for (index, name) in ["dq", "dk", "dv", "dg", "dbeta"].into_iter().enumerate() {
        assert_gradient(&gradients[index], &inputs[index], name, |moved| {
            let mut parts = inputs.each_ref().map(Vec::as_slice);
            parts[index] = moved;
            objective(parts, &initial)
        });
    }
    let parts = inputs.each_ref().map(Vec::as_slice);
    assert_gradient(&dstate, &initial, "dstate", |initial| objective(parts, initial));
}

/// Walked back in two parts, the later first: the gradient of the state between them is all that passes.
#[test]
fn two_parts_that_pass_the_state_are_one() {
    let (tokens, split) = (101, 45);
    let case = Case::new(tokens, 1, [2, 4, 31, 37], 1.0);
    let dout = random(8, case.v.len());
    let shape = &case.shape;
    let run = |parts: &[(usize, usize)]| {
        let (mut state, mut kept) = (case.states.clone(), Vec::new());
        for &(start, end) in parts {
            let mut out = poisoned((end - start) * 4 * 37);
            let mut states = Vec::new();
            chunked(&mut out, tokens_of(&case.inputs(), start, end, shape), &mut state, &mut states, shape);
            kept.push(states);
        }
        let mut found = case.inputs().list().map(|x| vec![0.0; x.len()]);
        let mut dstate = random(14, shape.state_len());
        for (&(start, end), states) in parts.iter().zip(&kept).rev() {
            let mut rows = found.each_mut().map(|x| {
                let width = x.len() / tokens;
                &mut x[start * width..end * width]
            });
            let [dq, dk, dv, dg, dbeta] = rows.each_mut().map(|x| &mut **x);
            let into = Gradients { dq, dk, dv, dg, dbeta };
            let part = tokens_of(&case.inputs(), start, end, shape);
            backward(into, &dout[start * 4 * 37..end * 4 * 37], part, states, &mut dstate, shape);
        }
        (found, dstate)
    };
    let (whole, whole_dstate) = run(&[(0, tokens)]);
    let (parts, parts_dstate) = run(&[(0, split), (split, tokens)]);
    for (index, name) in ["dq", "dk", "dv", "dg", "dbeta"].into_iter().enumerate() {
        assert_close(&parts[index], &wide(&whole[index]), 1e-5, name);
    }
    assert_close(&parts_dstate, &wide(&whole_dstate), 1e-5, "dstate");
}

#[test]
#[should_panic(expected = "of 2 tokens")]
fn a_short_value_is_refused() {
    let case = Case::new(2, 1, [1, 1, 3, 5], 1.0);
    let inputs = Inputs { v: &case.v[1..], ..case.inputs() };
    step(&mut [0.0; 10], inputs, &mut case.states.clone(), &case.shape);
}

/// Tokens that do not know what they find, and are told afterwards.
#[test]
fn a_passage_does_to_any_state_what_the_tokens_do() {
    for (tokens, heads) in [1, 31, 67, 131].into_iter().zip(HEADS) {
        let case = Case::new(tokens, 1, heads, 2.0);
        let shape = &case.shape;
        let (out_want, state_want) = case.want();
        let mut reach = poisoned(tokens * shape.value_heads * shape.key_dim);
        let passage = passage(&mut reach, case.inputs(), shape);
        let mut state = case.states.clone();
        pass(&mut state, &passage, shape);
        assert_close(&state, &state_want, 1e-5, "state");
        let (mut out, mut nothing) = (poisoned(case.v.len()), vec![0.0; shape.state_len()]);
        chunked(&mut out, case.inputs(), &mut nothing, &mut Vec::new(), shape);
        for (row, out) in out.chunks_exact_mut(shape.value_dim).enumerate() {
            let state = &case.states[row % shape.value_heads * shape.key_dim * shape.value_dim..];
            for (i, reach) in reach[row * shape.key_dim..][..shape.key_dim].iter().enumerate() {
                let state = &state[i * shape.value_dim..];
                out.iter_mut().zip(state).for_each(|(out, state)| *out += reach * state);
            }
        }
        assert_close(&out, &out_want, 1e-5, "out");

        let (dout, dafter) = (random(7, out.len()), random(8, shape.state_len()));
        let mut dstate = dafter.clone();
        pass_backward(&mut dstate, &passage.transition, shape);
        reach_backward(&mut dstate, &reach, &dout, shape);
        let [q, k, v, g, beta] = case.wide();
        let mut others = [&q, &k, &v, &g, &beta].map(|x| vec![0.0; x.len()]);
        let mut want = wide(&dafter);
        let inputs = [&q[..], &k, &v, &g, &beta];
        let others = others.each_mut().map(|x| &mut x[..]);
        scalar::backward(others, &mut want, &wide(&dout), inputs, &wide(&case.states), shape);
        assert_close(&dstate, &want, 3e-5, "dstate");
    }
}
