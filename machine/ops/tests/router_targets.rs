//! What routers are taught, against finite differences; and what a recorder sees of their choices.

mod support;

use ops::{Buffer, Execute, Expert, Gradients, Infer, Moe, Precision, Record, RouterTarget, Routing, Segment, Tape};
use support::World;

fn mixture(world: &mut World) -> Moe {
    let expert =
        |world: &mut World| Expert { gate: world.linear(5, 7), up: world.linear(5, 7), down: world.linear(7, 5) };
    let experts = (0..6).map(|_| expert(world)).collect();
    Moe { layer: 3, router: world.linear(6, 7), experts, adapters: [None, None, None], top_k: 2, normalize: true }
}

/// Rows of positive numbers that add up to 1; one number is 0.
fn target(world: &mut World, rows: usize) -> RouterTarget {
    let mut probabilities = world.buffer(rows, 6);
    for row in 0..rows {
        let row = probabilities.row_mut(row);
        row.iter_mut().for_each(|value| *value = value.abs());
        row[2] = 0.0;
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|value| *value /= sum);
    }
    RouterTarget { probabilities, weight: 0.7 }
}

/// Keeps what it sees.
#[derive(Default)]
struct Seen(Vec<(usize, Vec<f32>, Vec<f32>)>);

impl Record for Seen {
    const LOOKS: bool = false;

    fn experts(&mut self, _: &Moe, _: &Buffer, _: &Routing, _: &Buffer) {
        unreachable!("nobody looks at experts")
    }

    fn routing(&mut self, moe: &Moe, x: &Buffer, routing: &Routing) {
        self.0.push((moe.layer, x.to_vec(), routing.probabilities.to_vec()));
    }
}

/// Σ KL(target ‖ router), from what a recorder sees.
fn divergence(moe: &Moe, x: &Buffer, target: &RouterTarget) -> f64 {
    let mut e = Infer::recording(Precision::F32, Seen::default());
    e.moe(x, moe);
    let (layer, input, probabilities) = e.record.0.pop().expect("one mixture was run");
    assert!(layer == 3 && input == x.to_vec());
    let pairs = target.probabilities.iter().zip(&probabilities).filter(|(r, _)| **r > 0.0);
    pairs.map(|(&r, &p)| f64::from(r) * (f64::from(r) / f64::from(p)).ln()).sum()
}

#[test]
fn a_router_is_taught_by_the_slope_of_its_divergence() {
    let mut world = World::new(5);
    let mut moe = mixture(&mut world);
    let (rows, mut x) = (5, world.buffer(5, 7));
    let target = target(&mut world, rows);
    let mut gradients = Gradients::default();
    let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients);
    let segment = Segment { router_targets: vec![target.clone()], ..Segment::default() };
    let mark = tape.begin(segment);
    let var = tape.input(x.clone());
    let y = tape.moe(&var, &moe);
    // Nothing is asked of the output: what is left is the router's own loss.
    let zeros = Buffer::zeros(rows, 7);
    let found = tape.router_divergence().expect("a router is taught");
    assert!((found - divergence(&moe, &x, &target) / rows as f64).abs() < 1e-6, "{found}");
    let dx = tape.unwind(mark, vec![(y, zeros)], Some(var), &mut ops::Carried::default()).expect("its gradient");
    let weight = f64::from(target.weight);
    let slope = |value: f32, objective: &mut dyn FnMut(f32) -> f64| {
        let (above, below) = (objective(value + 2e-3), objective(value - 2e-3));
        objective(value);
        weight * (above - below) / 4e-3
    };
    for index in 0..x.len() {
        let wanted = slope(x[index], &mut |value| {
            x[index] = value;
            divergence(&moe, &x, &target)
        });
        assert!((f64::from(dx[index]) - wanted).abs() < 2e-3, "x[{index}]: {} for {wanted}", dx[index]);
    }
    let gradient = gradients.get(moe.router.weight.id).expect("the router is trained").to_vec();
    for (index, &found) in gradient.iter().enumerate() {
        let wanted = slope(moe.router.weight.values()[index], &mut |value| {
            moe.router.weight.matrix.as_f32_mut()[index] = value;
            divergence(&moe, &x, &target)
        });
        assert!((f64::from(found) - wanted).abs() < 2e-3, "router[{index}]: {found} for {wanted}");
    }
    let of_experts = moe.experts.iter().filter_map(|expert| gradients.get(expert.up.weight.id));
    assert!(of_experts.flatten().all(|&gradient| gradient == 0.0), "experts hear nothing of it");
}
