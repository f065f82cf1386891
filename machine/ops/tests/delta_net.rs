//! A few tokens through convolution and delta rule in one call: the same as in two, to the bit, state and all.

mod support;

use ops::{Buffer, Conv, DeltaGates, DeltaShape, DeltaState, Execute, Infer, Precision, Spans};
use support::World;

const SHAPE: DeltaShape = DeltaShape { key_heads: 2, value_heads: 6, key_dim: 7, value_dim: 5 };
const CHANNELS: usize = 2 * 2 * 7 + 6 * 5;

struct Layer {
    conv: Conv,
    gates: DeltaGates,
    inputs: [Buffer; 3],
}

/// The outputs of three rounds that continue each other, and what is left behind.
fn rounds(
    layer: &Layer,
    lengths: &[usize],
    run: impl Fn(&mut Infer, &Layer, &Spans, &mut [&mut DeltaState]) -> Buffer,
) -> Vec<Vec<f32>> {
    let mut states = vec![DeltaState::empty(&SHAPE, CHANNELS, 4); lengths.len()];
    let mut seen = Vec::new();
    for round in 0..3 {
        let starts = lengths.iter().map(|length| round * length).collect();
        let spans = Spans { lengths: lengths.to_vec(), starts };
        let mut states: Vec<&mut DeltaState> = states.iter_mut().collect();
        seen.push(run(&mut Infer::new(Precision::F32), layer, &spans, &mut states).to_vec());
    }
    seen.extend(states.into_iter().flat_map(|state| [state.tail, state.matrix]));
    seen
}

#[test]
fn one_call_is_two_to_the_bit() {
    for lengths in [vec![1], vec![1, 1, 1], vec![3, 1, 7], vec![1, 40, 2]] {
        let (mut world, tokens) = (World::new(3), lengths.iter().sum());
        let gates = DeltaGates { a_log: world.parameter(1, 6), dt_bias: world.parameter(1, 6), shape: SHAPE };
        let inputs = [CHANNELS, 6, 6].map(|width| world.buffer(tokens, width));
        let layer = Layer { conv: Conv { weight: world.parameter(CHANNELS, 4) }, gates, inputs };
        let one = rounds(&layer, &lengths, |e, Layer { conv, gates, inputs }, spans, states| {
            e.delta_net(inputs.each_ref(), (conv, gates), spans, states)
        });
        let two = rounds(&layer, &lengths, |e, Layer { conv, gates, inputs: [qkv, b, a] }, spans, states| {
            let qkv = e.causal_conv(qkv, conv, spans, states);
            e.delta_rule(&qkv, b, a, gates, spans, states)
        });
        assert!(one.iter().flatten().all(|value| value.is_finite()));
        assert_eq!(one, two, "spans of {lengths:?}");
    }
}
