//! Every operation's backward against finite differences of its forward, at sizes that are different primes.
//!
//! The scalar that is differentiated is `Σ r ⊙ y` with a fixed random r; a value and a parameter are both checked.

mod support;

use ops::{
    Adapter, AttentionShape, Buffer, Columns, Conv, DeltaGates, DeltaShape, DeltaState, Divergence, Execute, Expert,
    Gradients, Infer, KvCache, KvFormat, Linear, Moe, Norm, Parameter, Parts, Precision, Rope, Says, Spans, Tape,
    Teacher, Var,
};
use support::World;

/// Compares the gradients of all inputs, and of the parameters that `parameters` lends, with central differences.
fn check<W>(
    name: &str,
    weights: &mut W,
    inputs: Vec<Buffer>,
    run_tape: impl for<'w> Fn(&mut Tape<'w, '_>, &'w W, &[Var]) -> Var,
    run_infer: impl Fn(&mut Infer, &W, &[Buffer]) -> Buffer,
    parameters: impl Fn(&mut W) -> Vec<&mut Parameter>,
) {
    check_dropping(None, name, weights, inputs, run_tape, run_infer, parameters);
}

/// As [`check`], with dropout by this seed.
fn check_dropping<W>(
    seed: Option<u64>,
    name: &str,
    weights: &mut W,
    inputs: Vec<Buffer>,
    run_tape: impl for<'w> Fn(&mut Tape<'w, '_>, &'w W, &[Var]) -> Var,
    run_infer: impl Fn(&mut Infer, &W, &[Buffer]) -> Buffer,
    parameters: impl Fn(&mut W) -> Vec<&mut Parameter>,
) {
    let mut inputs = inputs;
    let executor = || Infer { dropout_seed: seed, ..Infer::new(Precision::F32) };
    let output = run_infer(&mut executor(), weights, &inputs);
    let r = World::new(99).buffer(output.rows, output.width);
    let objective = |weights: &W, inputs: &[Buffer]| -> f64 {
        let y = run_infer(&mut executor(), weights, inputs);
        y.iter().zip(r.iter()).map(|(&y, &r)| f64::from(y) * f64::from(r)).sum()
    };
    let mut gradients = Gradients::default();
    let mut input_gradients = Vec::new();
    for wanted in 0..inputs.len() {
        // One input's gradient per walk: that is what a tape hands out. Parameters are read from the last walk.
        gradients = Gradients::default();
        let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients).dropping(seed);
        let mut order: Vec<usize> = (0..inputs.len()).filter(|&i| i != wanted).collect();
        order.insert(0, wanted);
        let mut vars: Vec<Option<Var>> = vec![None; inputs.len()];
        order.iter().for_each(|&i| vars[i] = Some(tape.input(inputs[i].clone())));
        let vars: Vec<Var> = vars.into_iter().map(|var| var.expect("all were put in")).collect();
        let y = run_tape(&mut tape, weights, &vars);
        assert!(
            tape.value(y).iter().zip(output.iter()).all(|(a, b)| (a - b).abs() < 1e-4),
            "{name}: executors disagree"
        );
        input_gradients.push(tape.backward(vec![(y, r.clone())], Some(vars[wanted])).expect("an input's gradient"));
    }
    for which in 0..inputs.len() {
        for index in (0..inputs[which].len()).step_by(3) {
            let slope = slope(inputs[which][index], |value| {
                inputs[which][index] = value;
                objective(weights, &inputs)
            });
            close(name, &format!("input {which}[{index}]"), input_gradients[which][index], slope);
        }
    }
    for which in 0..parameters(weights).len() {
        let id = parameters(weights)[which].id;
        let gradient =
            gradients.get(id).unwrap_or_else(|| panic!("{name}: no gradient for parameter {which}")).to_vec();
        for index in (0..gradient.len()).step_by(2) {
            let here = parameters(weights)[which].values()[index];
            let slope = slope(here, |value| {
                parameters(weights)[which].matrix.as_f32_mut()[index] = value;
                objective(weights, &inputs)
            });
            close(name, &format!("parameter {which}[{index}]"), gradient[index], slope);
        }
    }
}

/// The central difference at `here`, which `at` is left at.
fn slope(here: f32, mut at: impl FnMut(f32) -> f64) -> f64 {
    let step = 4e-3;
    let slope = (at(here + step) - at(here - step)) / f64::from(2.0 * step);
    at(here);
    slope
}

fn close(name: &str, place: &str, found: f32, slope: f64) {
    let error = (f64::from(found) - slope).abs();
    assert!(
        error <= 2e-2 * slope.abs().max(1.0),
        "{name}: gradient of {place} is {found}, finite differences say {slope}"
    );
}

fn spans() -> Spans {
    Spans { lengths: vec![3, 1, 7], starts: vec![0; 3] }
}

#[test]
fn linear_with_bias_and_adapter() {
    for (seed, rank_stabilized) in [(None, false), (Some(5), true)] {
        let mut world = World::new(1);
        let mut map = world.adapted(5, 7, 3);
        map.bias = Some(world.parameter(1, 5));
        map.adapter.as_mut().expect("it was given one").rank_stabilized = rank_stabilized;
        let x = world.buffer(11, 7);
        check_dropping(
            seed,
            "linear",
            &mut map,
            vec![x],
            |t, w, v| t.linear(&v[0], w),
            |e, w, x| e.linear(&x[0], w),
            |w| {
                let adapter = w.adapter.as_mut().expect("it was given one");
                vec![&mut w.weight, w.bias.as_mut().expect("it was given one"), &mut adapter.a, &mut adapter.b]
            },
        );
    }
}

#[test]
fn dropout_is_a_matter_of_the_seed() {
    let mut world = World::new(1);
    let (map, x) = (world.adapted(5, 7, 3), world.buffer(11, 7));
    let run = |seed: Option<u64>| Infer { dropout_seed: seed, ..Infer::new(Precision::F32) }.linear(&x, &map).to_vec();
    assert_eq!(run(Some(1)), run(Some(1)));
    assert_ne!(run(Some(1)), run(Some(2)));
    let adapter = map.adapter.as_ref().expect("it was given one");
    let [a, b] = adapter.factors(0);
    let whole = run(None);
    for (row, y) in whole.chunks_exact(5).enumerate() {
        for (output, &y) in y.iter().enumerate() {
            let base: f32 = (0..7).map(|i| x.row(row)[i] * map.weight.values()[output * 7 + i]).sum();
            let narrow = |j: usize| (0..7).map(|i| x.row(row)[i] * a[j * 7 + i]).sum::<f32>();
            let added: f32 = (0..3).map(|j| narrow(j) * b[output * 3 + j]).sum();
            assert!((y - base - adapter.scale() * added).abs() < 1e-4, "row {row}, output {output}");
        }
    }
}

#[test]
fn columns() {
    let mut columns = Columns::new(7, [4..7, 0..2]);
    let x = World::new(2).buffer(5, 7);
    check("columns", &mut columns, vec![x], |t, w, v| t.columns(&v[0], w), |e, w, x| e.columns(&x[0], w), |_| vec![]);
}

#[test]
fn norms() {
    for offset in [0.0, 1.0] {
        let mut world = World::new(3);
        let mut norm = Norm { weight: world.parameter(1, 5), offset, epsilon: 1e-6 };
        let x = world.buffer(3, 15);
        check(
            "rms_norm",
            &mut norm,
            vec![x],
            |t, w, v| t.rms_norm(&v[0], w),
            |e, w, x| e.rms_norm(&x[0], w),
            |w| vec![&mut w.weight],
        );
    }
    let mut world = World::new(4);
    let mut norm = Norm { weight: world.parameter(1, 5), offset: 0.0, epsilon: 1e-6 };
    let inputs = vec![world.buffer(3, 15), world.buffer(3, 15)];
    check(
        "gated_rms_norm",
        &mut norm,
        inputs,
        |t, w, v| t.gated_rms_norm(&v[0], &v[1], w),
        |e, w, x| e.gated_rms_norm(&x[0], &x[1], w),
        |w| vec![&mut w.weight],
    );
}

#[test]
fn rope() {
    let mut rope = Rope { rotary_dim: 4, theta: 100.0 };
    let x = World::new(5).buffer(11, 14);
    check(
        "rope",
        &mut rope,
        vec![x],
        |t, w, v| t.rope(&v[0], 7, w, &spans()),
        |e, w, x| e.rope(&x[0], 7, w, &spans()),
        |_| vec![],
    );
}

#[test]
fn attention() {
    let mut shape = AttentionShape { query_heads: 6, kv_heads: 2, head_dim: 5, scale: 0.4 };
    let mut world = World::new(6);
    let inputs = vec![world.buffer(11, 30), world.buffer(11, 10), world.buffer(11, 10)];
    check(
        "attention",
        &mut shape,
        inputs,
        |t, w, v| {
            let mut caches = vec![KvCache::empty(KvFormat::F32); 3];
            t.attention([&v[0], &v[1], &v[2]], w, &spans(), &mut caches.iter_mut().collect::<Vec<_>>())
        },
        |e, w, x| {
            let mut caches = vec![KvCache::empty(KvFormat::F32); 3];
            let mut caches: Vec<&mut KvCache> = caches.iter_mut().collect();
            e.attention([&x[0], &x[1], &x[2]], w, &spans(), &mut caches)
        },
        |_| vec![],
    );
}

fn delta_states(shape: &DeltaShape, channels: usize) -> Vec<DeltaState> {
    vec![DeltaState::empty(shape, channels, 3); 3]
}

#[test]
fn causal_conv() {
    let shape = DeltaShape { key_heads: 1, value_heads: 1, key_dim: 2, value_dim: 3 };
    let mut world = World::new(7);
    let mut conv = Conv { weight: world.parameter(7, 3) };
    let x = world.buffer(11, 7);
    check(
        "causal_conv",
        &mut conv,
        vec![x],
        |t, w, v| {
            let mut states = delta_states(&shape, 7);
            t.causal_conv(&v[0], w, &spans(), &mut states.iter_mut().collect::<Vec<_>>())
        },
        |e, w, x| {
            let mut states = delta_states(&shape, 7);
            e.causal_conv(&x[0], w, &spans(), &mut states.iter_mut().collect::<Vec<_>>())
        },
        |w| vec![&mut w.weight],
    );
}

#[test]
fn delta_rule() {
    let shape = DeltaShape { key_heads: 2, value_heads: 4, key_dim: 3, value_dim: 5 };
    let channels = 2 * 2 * 3 + 4 * 5;
    let mut world = World::new(8);
    let mut gates = DeltaGates { a_log: world.parameter(1, 4), dt_bias: world.parameter(1, 4), shape };
    let inputs = vec![world.buffer(11, channels), world.buffer(11, 4), world.buffer(11, 4)];
    check(
        "delta_rule",
        &mut gates,
        inputs,
        |t, w, v| {
            let mut states = delta_states(&shape, channels);
            t.delta_rule(&v[0], &v[1], &v[2], w, &spans(), &mut states.iter_mut().collect::<Vec<_>>())
        },
        |e, w, x| {
            let mut states = delta_states(&shape, channels);
            e.delta_rule(&x[0], &x[1], &x[2], w, &spans(), &mut states.iter_mut().collect::<Vec<_>>())
        },
        |w| vec![&mut w.a_log, &mut w.dt_bias],
    );
}

#[test]
fn gates_and_sums() {
    let mut world = World::new(9);
    let pair = vec![world.buffer(3, 7), world.buffer(3, 7)];
    check(
        "swiglu",
        &mut (),
        pair.clone(),
        |t, _, v| t.swiglu(&v[0], &v[1]),
        |e, _, x| e.swiglu(&x[0], &x[1]),
        |_| vec![],
    );
    check("add", &mut (), pair.clone(), |t, _, v| t.add(&v[0], &v[1]), |e, _, x| e.add(&x[0], &x[1]), |_| vec![]);
    for gate_width in [7, 1] {
        let inputs = vec![world.buffer(3, 7), world.buffer(3, gate_width)];
        check(
            "sigmoid_gate",
            &mut (),
            inputs,
            |t, _, v| t.sigmoid_gate(&v[0], &v[1]),
            |e, _, x| e.sigmoid_gate(&x[0], &x[1]),
            |_| vec![],
        );
    }
}

#[test]
fn embedding() {
    let mut world = World::new(10);
    let mut table = world.linear(7, 5);
    let tokens = [3, 0, 3, 6];
    let inputs = vec![world.buffer(4, 5)];
    check(
        "embedding",
        &mut table,
        inputs,
        |t, w, v| {
            let embedded = t.embedding(w, &tokens);
            t.add(&v[0], &embedded)
        },
        |e, w, x| {
            let embedded = e.embedding(w, &tokens);
            e.add(&x[0], &embedded)
        },
        |w| vec![&mut w.weight],
    );
}

const EXPERTS: usize = 3;

fn moe(world: &mut World, normalize: bool) -> Moe {
    let (width, inner) = (7, 5);
    let bank = (0..EXPERTS)
        .map(|_| Expert {
            gate: world.linear(inner, width),
            up: world.linear(inner, width),
            down: world.linear(width, inner),
        })
        .collect();
    let mut router = world.linear(EXPERTS, width);
    // Far from ties: finite differences must not change who is chosen.
    router.weight.matrix.as_f32_mut().iter_mut().for_each(|value| *value *= 4.0);
    Moe { layer: 0, router, experts: bank, adapters: [None, None, None], top_k: 2, normalize }
}

/// Adapters of rank 2 for all projections; `shared`: the factors on the side of the residual stream are one for all.
fn adapt(world: &mut World, moe: &mut Moe, shared: bool) {
    let residual = (!shared).then_some(EXPERTS);
    moe.adapters = [(5, 7, residual, Some(EXPERTS)), (5, 7, residual, Some(EXPERTS)), (7, 5, Some(EXPERTS), residual)]
        .map(|(outputs, inputs, of_a, of_b)| {
            let (a, b) = (world.factor(of_a, 2, inputs), world.factor(of_b, outputs, 2));
            Some(Adapter { a, b, alpha: 1.4, rank_stabilized: false, dropout: 0.3 })
        });
    let (a, b) = (world.parameter(2, 7), world.parameter(EXPERTS, 2));
    moe.router.adapter = Some(Adapter { a, b, alpha: 0.4, rank_stabilized: false, dropout: 0.0 });
}

fn parameters_of(moe: &mut Moe) -> Vec<&mut Parameter> {
    let mut all = vec![&mut moe.router.weight];
    for expert in &mut moe.experts {
        all.extend([&mut expert.gate, &mut expert.up, &mut expert.down].map(|map| &mut map.weight));
    }
    let adapters = moe.adapters.iter_mut().chain([&mut moe.router.adapter]).flatten();
    all.extend(adapters.flat_map(|adapter| [&mut adapter.a, &mut adapter.b]));
    all
}

#[test]
fn mixture_of_experts() {
    for (normalize, adapted, seed) in [
        (true, None, None),
        (false, None, None),
        (true, Some(false), None),
        (true, Some(true), None),
        (true, Some(false), Some(3)),
        (true, Some(true), Some(4)),
    ] {
        let mut world = World::new(11);
        let mut moe = moe(&mut world, normalize);
        if let Some(shared) = adapted {
            adapt(&mut world, &mut moe, shared);
        }
        let mut x = world.buffer(13, 7);
        x.iter_mut().for_each(|value| *value *= 0.6);
        check_dropping(
            seed,
            "moe",
            &mut moe,
            vec![x],
            |t, w, v| t.moe(&v[0], w),
            |e, w, x| e.moe(&x[0], w),
            parameters_of,
        );
    }
}

/// What a bank's adapter adds is what each expert's delta adds to its weight.
#[test]
fn adapted_experts_are_experts_with_other_weights() {
    for shared in [false, true] {
        let mut world = World::new(12);
        let mut adapted = moe(&mut world, true);
        adapt(&mut world, &mut adapted, shared);
        adapted.router.adapter = None;
        let mut merged = adapted.clone();
        for (bank, adapter) in adapted.adapters.iter().enumerate() {
            let adapter = adapter.as_ref().expect("each bank has one");
            for (index, expert) in merged.experts.iter_mut().enumerate() {
                let map = [&mut expert.gate, &mut expert.up, &mut expert.down];
                let weight = &mut map.into_iter().nth(bank).expect("three banks").weight.matrix;
                let ([a, b], columns) = (adapter.factors(index), weight.columns);
                for (at, value) in weight.as_f32_mut().iter_mut().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    *value += adapter.scale() * (0..2).map(|j| b[row * 2 + j] * a[j * columns + column]).sum::<f32>();
                }
            }
        }
        merged.adapters = [None, None, None];
        for tokens in [1, 13] {
            let x = world.buffer(tokens, 7);
            let run = |moe: &Moe| Infer::new(Precision::F32).moe(&x, moe).to_vec();
            let worst = run(&adapted).iter().zip(run(&merged)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{tokens} tokens, shared: {shared}: they differ by {worst}");
        }
    }
}

/// Every loss: the gradient that a tape takes while the logits are at hand.
#[test]
fn losses() {
    let mut world = World::new(12);
    let mut head = world.linear(11, 5);
    let mut hidden = world.buffer(7, 5);
    let teacher_head = world.linear(11, 3);
    let teacher_hidden = world.buffer(7, 3);
    let (targets, weights) = ([3, 10, 0, 5, 5, 1, 2], [0.5f32, 0.0, 1.0, 2.0, 0.25, 1.0, 0.0]);
    let exact = |divergence, temperature| {
        let says = Says::Hidden { hidden: &teacher_hidden, head: &teacher_head, divergence };
        Some(Teacher { says, temperature })
    };
    let tokens: Vec<u32> = (0..14).map(|i| (i * 5 % 11) as u32).collect();
    let shares: Vec<f32> = (0..14).map(|i| [0.4, 0.25, 0.1][i % 3]).collect();
    let logs: Vec<f32> = shares.iter().map(|share| share.ln()).collect();
    let rest: Vec<f32> = shares.chunks(2).map(|shares| 1.0 - shares.iter().sum::<f32>()).collect();
    let parts = Says::Parts(Parts { tokens: &tokens, shares: &shares, logs: &logs, rest: &rest });
    for (kind, teacher) in [
        ("cross entropy", None),
        ("forward divergence", exact(Divergence::Forward, 1.0)),
        ("warm forward divergence", exact(Divergence::Forward, 2.0)),
        ("reverse divergence", exact(Divergence::Reverse, 1.0)),
        ("mixed divergence", exact(Divergence::Mixed(0.3), 0.8)),
        ("parts", Some(Teacher { says: parts, temperature: 1.5 })),
    ] {
        let objective = |hidden: &Buffer, head: &Linear| -> f64 {
            let mut e = Infer::new(Precision::F32);
            let losses = match teacher {
                None => e.cross_entropy(hidden, head, &targets, &weights),
                Some(teacher) => e.divergence(hidden, head, teacher, &weights),
            };
            losses.iter().zip(weights).map(|(&loss, weight)| f64::from(loss) * f64::from(weight)).sum()
        };
        let mut gradients = Gradients::default();
        let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients);
        let var = tape.input(hidden.clone());
        match teacher {
            None => tape.cross_entropy(&var, &head, &targets, &weights),
            Some(teacher) => tape.divergence(&var, &head, teacher, &weights),
        };
        let dhidden = tape.backward(vec![], Some(var)).expect("the input's gradient");
        for index in 0..hidden.len() {
            let slope = slope(hidden[index], |value| {
                hidden[index] = value;
                objective(&hidden, &head)
            });
            close(kind, &format!("hidden[{index}]"), dhidden[index], slope);
        }
        let gradient = gradients.get(head.weight.id).expect("the head is trained").to_vec();
        for (index, &found) in gradient.iter().enumerate() {
            let slope = slope(head.weight.values()[index], |value| {
                head.weight.matrix.as_f32_mut()[index] = value;
                objective(&hidden, &head)
            });
            close(kind, &format!("head[{index}]"), found, slope);
        }
    }
}
