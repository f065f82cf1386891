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
    gate: Buffer,
    /// Of up rows plus those of down columns: what changes sign with the neuron.
    signed: Buffer,
}

impl Products {
    fn of(a: &Neurons, b: &Neurons) -> Self {
        let (m, width) = (b.count, b.width);
        let product = |a: &[f32], b: &[f32], precision| {
            let mut product = Buffer::unwritten(m, m);
            gemm::multiply_transposed(&mut product, a, MatrixView::from_f32(m, width, b), false, precision);
            product
        };
        let (Some(of_a), Some(of_b)) = (&a.stored, &b.stored) else {
            let gate = product(&a.gate, &b.gate, Precision::F32);
            let mut signed = product(&a.up, &b.up, Precision::F32);
            let down = MatrixView::from_f32(m, width, &b.down);
            gemm::multiply_transposed(&mut signed, &a.down, down, true, Precision::F32);
            return Self { gate, signed };
        };
        // Nothing is rounded here, since these are bf16 numbers. Their scales come in afterwards.
        let gate = product(&a.gate, &b.gate, Precision::Bf16);
        let mut signed = product(&of_a.up, &of_b.up, Precision::Bf16);
        let down = product(&of_a.down, &of_b.down, Precision::Bf16);
        let rows = signed.chunks_exact_mut(m).zip(down.chunks_exact(m)).zip(&of_a.scales);
        for ((signed, down), own) in rows {
            for ((signed, down), other) in signed.iter_mut().zip(down).zip(&of_b.scales) {
                let scale = own * other;
                *signed = scale * *signed + down / scale;
            }
        }
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
    let share = activations.map_or(0.0, |activations| activations.share);
    // Both parts are 0 for equal neurons and about 1 for unrelated ones.
    let weight_share = if squares > 0.0 { ((1.0 - share) * m as f64 / squares).min(1e30) } else { 0.0 };
    // How alike two neurons are in what changes sign with them.
    let mut alike = signed.clone();
    alike.iter_mut().for_each(|value| *value *= (2.0 * weight_share) as f32);
    if let Some(activations) = &activations {
        let cosines = cosines(activations);
        alike.iter_mut().zip(&cosines).for_each(|(alike, cosine)| *alike += share as f32 * cosine);
    }
    let weighted = |of: &[f64; 2]| (weight_share * (of[0] + of[1])) as f32;
    let of_others: Vec<f32> = of_member.iter().map(|of| weighted(of) + share as f32).collect();
    let mut costs = Buffer::unwritten(m, m);
    let rows = costs.chunks_exact_mut(m).zip(gate.chunks_exact(m).zip(alike.chunks_exact(m))).zip(&of_centroid);
    for ((costs, (gate, alike)), own) in rows {
        let (own, twice) = (weighted(own), (2.0 * weight_share) as f32);
        for ((cost, other), (gate, alike)) in costs.iter_mut().zip(&of_others).zip(gate.iter().zip(alike)) {
            let apart = own + other - twice * gate - alike.abs();
            // Weights that are no numbers are near nothing.
            *cost = if apart.is_finite() { apart } else { f32::MAX };
        }
    }
    let from = assign(&costs, m).column_of_row;
    let flipped: Vec<bool> = (0..m).map(|i| alike[i * m + from[i]] < 0.0).collect();
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
        Neurons { count, width, gate: values(), up: values(), down: values(), stored: None }
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

    /// Products of stored bf16 numbers, scaled afterwards, are those of the scaled ones.
    #[test]
    fn bf16_numbers_are_multiplied_as_they_are_stored() {
        let mut rng = Rng::new(4);
        let (count, width) = (40, 24);
        let mut map = |rows: usize, columns: usize, size: f32| {
            let mut value = || numeric::bf16::from_f32(size * rng.normal() as f32).to_f32();
            let matrix = numeric::Matrix::from_f32(rows, columns, (0..rows * columns).map(|_| value()).collect());
            let (name, shape) = (String::new(), vec![rows, columns]);
            ops::Linear {
                weight: ops::Parameter { id: 0, name, shape, trained: false, matrix },
                bias: None,
                adapter: None,
            }
        };
        // Ups and downs of different sizes, so that scales are not 1.
        let mut expert = |up: f32, down: f32| {
            let (gate, up, down) = (map(count, width, 1.0), map(count, width, up), map(width, count, down));
            Neurons::of(&ops::Expert { gate, up, down })
        };
        let (a, b) = (expert(3.0, 0.2), expert(0.1, 7.0));
        let scales = &a.stored.as_ref().expect("all are bf16 numbers").scales;
        assert!(scales.iter().all(|&scale| scale < 0.5), "{scales:?}");
        let plain = |neurons: &Neurons| Neurons { stored: None, ..neurons.clone() };
        let (found, wanted) = (Products::of(&a, &b), Products::of(&plain(&a), &plain(&b)));
        for (found, wanted) in [(found.gate, wanted.gate), (found.signed, wanted.signed)] {
            assert!(found.iter().zip(wanted.iter()).all(|(found, wanted)| (found - wanted).abs() < 1e-4));
        }
        assert_eq!(align(&a, &b, None).from, align(&plain(&a), &plain(&b), None).from);
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
