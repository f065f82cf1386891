//! Which neuron of one expert is which of another.
//!
//! Legend: m neurons, H hidden width of the model, R rows.
//!
//! Matching the weights of two networks with one hidden layer is one linear assignment (Ainsworth et al. 2022, Git
//! Re-Basin, arXiv 2209.04836). What is ours: scales are taken out before, and of the two signs that a neuron's up and
//! down may have together, the nearer one counts.

use super::assignment::assign;
use super::neurons::{Neurons, square};
use kernels::gemm::{self, Precision};
use numeric::MatrixView;
use ops::Buffer;

/// Hidden activations of both experts on the same rows, `[R, m]` each, and how much of the cost they are (the rest is
/// the weights').
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a> {
    pub centroid: &'a Buffer,
    pub member: &'a Buffer,
    pub share: f64,
}

/// A matching of a member's neurons with a centroid's.
#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    /// The member's neuron that takes the place of each of the centroid's.
    pub from: Vec<usize>,
    /// Whether its up and down are negated there.
    pub flipped: Vec<bool>,
    /// Squared distance of the weights, neuron by neuron in the order that they had.
    pub before: f64,
    /// The same in the order found.
    pub after: f64,
    /// Squared lengths of both together.
    pub squares: f64,
}

impl Alignment {
    /// Squared distance by squared lengths: 0 for equal experts, about 1 for unrelated ones.
    pub fn relative_before(&self) -> f64 {
        self.before / self.squares.max(f64::MIN_POSITIVE)
    }

    pub fn relative_after(&self) -> f64 {
        self.after / self.squares.max(f64::MIN_POSITIVE)
    }

    /// Everything where it is.
    pub(crate) fn identity(centroid: &Neurons, member: &Neurons) -> Self {
        let difference = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        };
        let before = difference(&centroid.gate, &member.gate)
            + difference(&centroid.up, &member.up)
            + difference(&centroid.down, &member.down);
        let squares = |neurons: &Neurons| square(&neurons.gate) + square(&neurons.up) + square(&neurons.down);
        let squares = squares(centroid) + squares(member);
        let count = centroid.count;
        Self { from: (0..count).collect(), flipped: vec![false; count], before, after: before, squares }
    }

    pub(crate) fn apply(&self, member: &Neurons) -> Neurons {
        member.reordered(&self.from, &self.flipped)
    }
}

/// Inner products of every neuron of one expert with every one of another, `[m, m]` each.
struct Products {
    gate: Vec<f32>,
    /// Of up rows plus those of down columns: what changes sign with the neuron.
    signed: Vec<f32>,
}

impl Products {
    fn of(a: &Neurons, b: &Neurons) -> Self {
        let view = |values| MatrixView::from_f32(b.count, b.width, values);
        let (mut gate, mut signed) = (vec![0.0; a.count * b.count], vec![0.0; a.count * b.count]);
        gemm::multiply_transposed(&mut gate, &a.gate, view(&b.gate), false, Precision::F32);
        gemm::multiply_transposed(&mut signed, &a.up, view(&b.up), false, Precision::F32);
        gemm::multiply_transposed(&mut signed, &a.down, view(&b.down), true, Precision::F32);
        Self { gate, signed }
    }
}

/// Finds the order and the signs of the member's neurons that are nearest to the centroid's: exactly, by weights and,
/// where they are given, by activations on shared rows.
pub fn align(centroid: &Neurons, member: &Neurons, activations: Option<Activations>) -> Alignment {
    assert_eq!((centroid.count, centroid.width), (member.count, member.width), "experts of one shape");
    let m = centroid.count;
    let Products { gate, signed } = Products::of(centroid, member);
    let (of_centroid, of_member) = (centroid.squares(), member.squares());
    let sum = |squares: &[[f64; 2]]| squares.iter().flatten().sum::<f64>();
    let squares = sum(&of_centroid) + sum(&of_member);
    let cosines = activations.map(|activations| (cosines(&activations), activations.share));
    // Both parts are 0 for equal neurons and about 1 for unrelated ones.
    let weight_share = cosines.as_ref().map_or(1.0, |&(_, share)| 1.0 - share) / (squares / m as f64).max(1e-300);
    let mut costs = vec![0.0f32; m * m];
    for (i, own) in of_centroid.iter().enumerate() {
        let own = own[0] + own[1];
        for (j, other) in of_member.iter().enumerate() {
            let place = i * m + j;
            let apart = own + other[0] + other[1] - 2.0 * f64::from(gate[place]);
            let mut alike = weight_share * 2.0 * f64::from(signed[place]);
            let mut cost = weight_share * apart;
            if let Some((cosines, share)) = &cosines {
                alike += share * f64::from(cosines[place]);
                cost += share;
            }
            // Weights that are no numbers are near nothing.
            let cost = (cost - alike.abs()) as f32;
            costs[place] = if cost.is_finite() { cost } else { f32::MAX };
        }
    }
    let from = assign(&costs, m).column_of_row;
    let flipped = (0..m).map(|i| {
        let place = i * m + from[i];
        let by_activations = cosines.as_ref().map_or(0.0, |(cosines, share)| share * f64::from(cosines[place]));
        weight_share * 2.0 * f64::from(signed[place]) + by_activations < 0.0
    });
    let flipped: Vec<bool> = flipped.collect();
    let distance = |i: usize, j: usize, flipped: bool| {
        let signed = f64::from(signed[i * m + j]) * if flipped { -1.0 } else { 1.0 };
        of_centroid[i].iter().chain(&of_member[j]).sum::<f64>() - 2.0 * (f64::from(gate[i * m + j]) + signed)
    };
    let before = (0..m).map(|i| distance(i, i, false)).sum::<f64>().max(0.0);
    let after = (0..m).map(|i| distance(i, from[i], flipped[i])).sum::<f64>().max(0.0);
    Alignment { from, flipped, before, after, squares }
}

/// Cosines of the activations of every pair of neurons, `[m, m]`; 0 where one is never active.
fn cosines(activations: &Activations) -> Vec<f32> {
    let Activations { centroid, member, .. } = activations;
    assert_eq!((centroid.rows, centroid.width), (member.rows, member.width), "both on the same rows");
    let m = centroid.width;
    let lengths = |values: &Buffer| -> Vec<f64> {
        let mut squares = vec![0.0; m];
        for row in values.chunks_exact(m) {
            squares.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
        }
        squares.into_iter().map(f64::sqrt).collect()
    };
    let (of_centroid, of_member) = (lengths(centroid), lengths(member));
    let mut cosines = vec![0.0; m * m];
    gemm::accumulate_outer(&mut cosines, centroid, member, m, m, Precision::F32);
    for (i, row) in cosines.chunks_exact_mut(m).enumerate() {
        for (value, length) in row.iter_mut().zip(&of_member) {
            let lengths = of_centroid[i] * length;
            *value = if lengths > 0.0 { (f64::from(*value) / lengths) as f32 } else { 0.0 };
        }
    }
    cosines
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    fn random(rng: &mut Rng, count: usize, width: usize) -> Neurons {
        let mut values = || (0..count * width).map(|_| rng.normal() as f32).collect();
        Neurons { count, width, gate: values(), up: values(), down: values() }
    }

    #[test]
    fn shuffles_and_signs_are_found() {
        let mut rng = Rng::new(1);
        let centroid = random(&mut rng, 40, 12);
        let mut order: Vec<usize> = (0..40).collect();
        rng.shuffle(&mut order);
        let signs: Vec<bool> = (0..40).map(|_| rng.chance(0.5)).collect();
        let member = centroid.reordered(&order, &signs);
        let found = align(&centroid, &member, None);
        for (i, &j) in found.from.iter().enumerate() {
            assert_eq!((order[j], found.flipped[i]), (i, signs[j]), "neuron {i}");
        }
        assert!(found.relative_after() < 1e-6 && found.relative_before() > 0.5, "{found:?}");
        let back = found.apply(&member);
        assert_eq!((back.gate, back.up, back.down), (centroid.gate, centroid.up, centroid.down));
    }

    #[test]
    fn an_order_is_never_worse_than_the_one_before() {
        let mut rng = Rng::new(2);
        for _ in 0..20 {
            let (a, b) = (random(&mut rng, 17, 5), random(&mut rng, 17, 5));
            let found = align(&a, &b, None);
            let identity = Alignment::identity(&a, &b);
            assert!(found.after <= found.before && (found.before - identity.before).abs() < 1e-3);
            let applied = Alignment::identity(&a, &found.apply(&b));
            assert!((applied.before - found.after).abs() < 1e-3, "the cost is that of the applied order");
        }
    }

    #[test]
    fn activations_tell_apart_what_weights_do_not() {
        // Two neurons with equal weights up to noise, whose activations say that they are the other way round.
        let mut rng = Rng::new(3);
        let a = random(&mut rng, 6, 4);
        let mut b = a.clone();
        b.gate.iter_mut().for_each(|value| *value = rng.normal() as f32);
        let acts: Vec<f32> = (0..30 * 6).map(|_| rng.normal() as f32).collect();
        let order = [3, 5, 0, 1, 2, 4];
        let shuffled: Vec<f32> = acts.chunks(6).flat_map(|row| order.map(|j| -row[j])).collect();
        let (centroid, member) = (Buffer::from_values(6, acts), Buffer::from_values(6, shuffled));
        let found = align(&a, &b, Some(Activations { centroid: &centroid, member: &member, share: 1.0 }));
        for (i, &j) in found.from.iter().enumerate() {
            assert_eq!((order[j], found.flipped[i]), (i, true));
        }
    }
}
