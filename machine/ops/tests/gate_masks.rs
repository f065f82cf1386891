//! Masks on gates: what they are defined as, and the slopes of what follows from them.

mod support;

use ops::{
    Buffer, Carried, Execute, Expert, ExpertGradients, Gradients, Infer, Moe, Precision, RecordBackward, Segment, Tape,
};
use support::World;

const EXPERTS: usize = 5;
const WIDTH: usize = 7;

fn mixture(world: &mut World, normalize: bool) -> Moe {
    let expert =
        |world: &mut World| Expert { gate: world.linear(3, 7), up: world.linear(3, 7), down: world.linear(7, 3) };
    let experts = (0..EXPERTS).map(|_| expert(world)).collect();
    Moe { layer: 0, router: world.linear(EXPERTS, WIDTH), experts, adapters: [None, None, None], top_k: 3, normalize }
}

#[derive(Default)]
struct Seen(Vec<f64>);

impl RecordBackward for Seen {
    fn experts_backward(&mut self, _: &Moe, seen: &ExpertGradients) {
        self.0 = seen.of_mask.to_vec();
    }
}

fn masked<'w>(tape: &mut Tape<'w, '_>, moe: &'w Moe, x: &Buffer, mask: &[f32]) -> (ops::Mark, ops::Var, ops::Var) {
    let mark = tape.begin(Segment { masks: vec![mask.to_vec()], ..Segment::default() });
    let x = tape.input(x.clone());
    let y = tape.moe(&x, moe);
    (mark, x, y)
}

fn says(moe: &Moe, x: &Buffer, mask: &[f32]) -> Buffer {
    let mut gradients = Gradients::default();
    let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients);
    let (_, _, y) = masked(&mut tape, moe, x, mask);
    tape.value(y).clone()
}

/// One token and one expert at a time.
fn by_hand(moe: &Moe, x: &Buffer, mask: &[f32]) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let logits = e.linear(x, &moe.router);
    let mut all = Vec::new();
    for token in 0..x.rows {
        let logits = logits.row(token);
        let total: f32 = logits.iter().map(|logit| logit.exp()).sum();
        let mut chosen: Vec<usize> = (0..EXPERTS).collect();
        chosen.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        chosen.truncate(moe.top_k);
        let weight = |expert: usize| mask[expert] * logits[expert].exp() / total;
        let sum: f32 = chosen.iter().map(|&expert| weight(expert)).sum();
        let by = if moe.normalize && sum > 0.0 { sum } else { 1.0 };
        let mut y = vec![0.0; WIDTH];
        for &expert in &chosen {
            let Expert { gate, up, down } = &moe.experts[expert];
            let row = Buffer::from_values(WIDTH, x.row(token).to_vec());
            let (gate, up) = (e.linear(&row, gate), e.linear(&row, up));
            let hidden = e.swiglu(&gate, &up);
            let said = e.linear(&hidden, down);
            y.iter_mut().zip(said.iter()).for_each(|(y, said)| *y += weight(expert) / by * said);
        }
        all.extend(y);
    }
    all
}

const MASKS: [[f32; EXPERTS]; 4] =
    [[1.0; EXPERTS], [1.0, 0.0, 1.0, 0.0, 1.0], [0.9, 0.3, 1.4, 0.0, 0.6], [0.0, 0.0, 0.0, 1.0, 0.0]];

#[test]
fn a_mask_multiplies_gates_that_then_add_up_again() {
    for normalize in [true, false] {
        let mut world = World::new(31);
        let moe = mixture(&mut world, normalize);
        let x = world.buffer(11, WIDTH);
        for mask in MASKS {
            let (found, wanted) = (says(&moe, &x, &mask), by_hand(&moe, &x, &mask));
            let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{mask:?}, normalized: {normalize}: {worst}");
        }
        let unmasked = Infer::new(Precision::F32).moe(&x, &moe);
        assert!(says(&moe, &x, &MASKS[0]).iter().zip(unmasked.iter()).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn slopes_of_a_mask_are_finite_differences() {
    for normalize in [true, false] {
        for mask in MASKS {
            let mut world = World::new(32);
            let mut moe = mixture(&mut world, normalize);
            let (mut x, r) = (world.buffer(9, WIDTH), world.buffer(9, WIDTH));
            let objective = |moe: &Moe, x: &Buffer, mask: &[f32]| -> f64 {
                says(moe, x, mask).iter().zip(r.iter()).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum()
            };
            let (mut gradients, mut seen) = (Gradients::default(), Seen::default());
            let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients).recording(&mut seen);
            let (mark, input, y) = masked(&mut tape, &moe, &x, &mask);
            let dx = tape.unwind(mark, vec![(y, r.clone())], Some(input), &mut Carried::default()).expect("asked for");
            drop(tape);
            let close = |what: &str, found: f64, [above, below]: [f64; 2]| {
                let wanted = (above - below) / 4e-3;
                assert!((found - wanted).abs() < 2e-2 * wanted.abs().max(1.0), "{what} {mask:?}: {found} for {wanted}");
            };
            for index in 0..x.len() {
                let value = x[index];
                let sides = [2e-3, -2e-3].map(|step| {
                    x[index] = value + step;
                    objective(&moe, &x, &mask)
                });
                x[index] = value;
                close("x", f64::from(dx[index]), sides);
            }
            let router = gradients.get(moe.router.weight.id).expect("the router is trained").to_vec();
            for (index, &found) in router.iter().enumerate() {
                let value = moe.router.weight.values()[index];
                let sides = [2e-3, -2e-3].map(|step| {
                    moe.router.weight.matrix.as_f32_mut()[index] = value + step;
                    objective(&moe, &x, &mask)
                });
                moe.router.weight.matrix.as_f32_mut()[index] = value;
                close("router", f64::from(found), sides);
            }
            // Where a token has lost all of its experts a quotient has no slope.
            if normalize && mask[0] == 0.0 {
                continue;
            }
            for (expert, value) in mask.into_iter().enumerate() {
                let sides = [2e-3, -2e-3].map(|step| {
                    let mut other = mask;
                    other[expert] = value + step;
                    objective(&moe, &x, &other)
                });
                close("mask", seen.0[expert], sides);
            }
        }
    }
}
