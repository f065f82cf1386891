//! Making one expert of several aligned ones: an average, or the neurons that do most; and the filter that keeps of an
//! average what its members have in common.
//!
//! Legend: K members, m neurons, H hidden width of the model, R rows.

use super::algebra::symmetric_eigen;
use super::neurons::{Neurons, square};
use super::rows::GroupRows;
use super::{Alignment, Importance};
use crate::LayerStatistics;
use kernels::gemm::{self, Precision};
use numeric::MatrixView;
use ops::Buffer;

/// How much each member's neurons count, `[K][m]`; over the members of a place they add up to 1.
pub(super) fn importance(
    members: &[usize],
    alignments: &[Alignment],
    statistics: &LayerStatistics,
    how: Importance,
) -> Vec<Vec<f64>> {
    let m = alignments[0].from.len();
    let mut weights: Vec<Vec<f64>> = Vec::with_capacity(members.len());
    for (&member, alignment) in members.iter().zip(alignments) {
        let used = &statistics.experts[member];
        let whole = match how {
            Importance::Frequency => used.tokens as f64,
            Importance::Fisher | Importance::Saliency => used.gate_mass * statistics.saliency(member),
        };
        let fisher = |place: usize| {
            let fisher = f64::from(statistics.neuron_fisher[member * m + alignment.from[place]]);
            used.gate_mass * fisher / (used.tokens as f64).max(1.0)
        };
        weights.push(match how {
            Importance::Fisher => (0..m).map(fisher).collect(),
            Importance::Saliency | Importance::Frequency => vec![whole; m],
        });
    }
    for place in 0..m {
        let sum: f64 = weights.iter().map(|of_member| of_member[place]).sum();
        for of_member in &mut weights {
            // Where nothing was seen all count alike.
            of_member[place] = if sum > 0.0 { of_member[place] / sum } else { 1.0 / members.len() as f64 };
        }
    }
    weights
}

/// `Σ weights · members`, neuron by neuron.
pub(super) fn average(members: &[Neurons], weights: &[Vec<f64>]) -> Neurons {
    let Neurons { count, width, .. } = members[0];
    let mix = |pick: fn(&Neurons) -> &[f32]| {
        let mut sums = vec![0.0f64; count * width];
        for (member, weights) in members.iter().zip(weights) {
            let rows = sums.chunks_exact_mut(width).zip(pick(member).chunks_exact(width)).zip(weights);
            for ((sums, values), weight) in rows {
                sums.iter_mut().zip(values).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    };
    Neurons { count, width, gate: mix(|n| &n.gate), up: mix(|n| &n.up), down: mix(|n| &n.down), stored: None }
}

/// As many neurons as one expert has, of all members: those whose outputs, with the gates of the tokens that chose
/// their expert, are the largest in squares (neurons as the unit of what survives: DERN, arXiv 2509.10377).
pub(super) fn selection(members: &[Neurons], hidden: &[Buffer], rows: &GroupRows) -> Neurons {
    let Neurons { count, width, .. } = members[0];
    let mut all = Vec::with_capacity(members.len() * count);
    for (k, (member, hidden)) in members.iter().zip(hidden).enumerate() {
        let mut energy = vec![0.0f64; count];
        for (row, gate) in rows.gates(k) {
            let values = hidden.row(row).iter();
            energy.iter_mut().zip(values).for_each(|(sum, &value)| *sum += f64::from(gate * value).powi(2));
        }
        let lengths = member.down.chunks_exact(width).map(square);
        all.extend(energy.iter().zip(lengths).enumerate().map(|(i, (energy, length))| (energy * length, k, i)));
    }
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut chosen: Vec<(usize, usize)> = all[..count].iter().map(|&(_, k, i)| (k, i)).collect();
    chosen.sort_unstable();
    let take = |pick: fn(&Neurons) -> &[f32]| {
        chosen.iter().flat_map(|&(k, i)| pick(&members[k])[i * width..(i + 1) * width].iter().copied()).collect()
    };
    Neurons { count, width, gate: take(|n| &n.gate), up: take(|n| &n.up), down: take(|n| &n.down), stored: None }
}

/// Which combinations of neurons stay.
pub(super) struct Subspace {
    /// `[m, m]`; none where all stay.
    pub(super) projection: Option<Vec<f32>>,
    pub(super) rank: usize,
}

impl Subspace {
    /// The leading eigenvectors of `gram` `[m, m]` that hold this share of its trace. Averages commute with what all
    /// members share, so a subspace changes something only where it is cut: with all of the energy asked for there is
    /// nothing to do.
    pub(super) fn of(gram: Vec<f64>, m: usize, energy: f64) -> Self {
        let whole = Self { projection: None, rank: m };
        if energy >= 1.0 {
            return whole;
        }
        let (values, vectors) = symmetric_eigen(gram, m);
        let total: f64 = values.iter().map(|value| value.max(0.0)).sum();
        let mut held = 0.0;
        let rank = values.iter().take_while(|value| {
            let goes_on = held < energy * total;
            held += value.max(0.0);
            goes_on
        });
        let rank = rank.count();
        if rank == m || rank == 0 {
            return whole;
        }
        Self { projection: Some(projection(&vectors[..rank * m], m)), rank }
    }

    /// `P · values`, values `[m, H]`.
    pub(super) fn apply(&self, values: &mut Vec<f32>, width: usize) {
        let Some(projection) = &self.projection else { return };
        let mut kept = vec![0.0; values.len()];
        let view = MatrixView::from_f32(values.len() / width, width, values);
        gemm::multiply(&mut kept, projection, view, false, Precision::F32);
        *values = kept;
    }
}

/// `VᵀV` `[m, m]` of orthonormal rows V.
fn projection(vectors: &[f64], m: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; m * m];
    for vector in vectors.chunks_exact(m) {
        for (sums, &value) in sums.chunks_exact_mut(m).zip(vector) {
            sums.iter_mut().zip(vector).for_each(|(sum, other)| *sum += value * other);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Cuts an average down to what its members have in common, and says how many dimensions of gate, up and down stay.
///
/// Joint subspaces as in Sub-MoE (arXiv 2506.23266), in the metric of what the neurons see: for gate and up the second
/// moments of the members' pre-activations, for down the inner products of its columns, each as long as its neuron is
/// active.
pub(super) fn filter(
    merged: &mut Neurons,
    members: &[Neurons],
    (x, hidden): (&Buffer, &[Buffer]),
    energy: f64,
) -> [usize; 3] {
    let Neurons { count: m, width, .. } = *merged;
    if energy >= 1.0 || x.rows == 0 {
        return [m; 3];
    }
    let seen = |pick: fn(&Neurons) -> &[f32]| {
        let mut gram = vec![0.0f32; m * m];
        for member in members {
            let mut z = vec![0.0; x.rows * m];
            let view = MatrixView::from_f32(m, width, pick(member));
            gemm::multiply_transposed(&mut z, x, view, false, Precision::F32);
            gemm::accumulate_outer(&mut gram, &z, &z, m, m, Precision::F32);
        }
        gram.into_iter().map(f64::from).collect()
    };
    let gate = Subspace::of(seen(|n| &n.gate), m, energy);
    gate.apply(&mut merged.gate, width);
    let up = Subspace::of(seen(|n| &n.up), m, energy);
    up.apply(&mut merged.up, width);

    let activity = activity(hidden, m);
    let mut gram = vec![0.0f32; m * m];
    for member in members {
        let scaled = scaled(&member.down, &activity);
        let view = MatrixView::from_f32(m, width, &scaled);
        gemm::multiply_transposed(&mut gram, &scaled, view, true, Precision::F32);
    }
    let down = Subspace::of(gram.into_iter().map(f64::from).collect(), m, energy);
    if down.projection.is_some() {
        merged.down = scaled(&merged.down, &activity);
        down.apply(&mut merged.down, width);
        let back: Vec<f64> = activity.iter().map(|activity| activity.recip()).collect();
        merged.down = scaled(&merged.down, &back);
    }
    [gate.rank, up.rank, down.rank]
}

/// Rows times a number each.
fn scaled(values: &[f32], by: &[f64]) -> Vec<f32> {
    let rows = values.chunks_exact(values.len() / by.len()).zip(by);
    rows.flat_map(|(row, by)| row.iter().map(move |&value| (f64::from(value) * by) as f32)).collect()
}

/// How active each neuron is over all members: the root of its mean square, but never nothing beside the others.
fn activity(hidden: &[Buffer], m: usize) -> Vec<f64> {
    let mut squares = vec![0.0f64; m];
    for row in hidden.iter().flat_map(|hidden| hidden.chunks_exact(m)) {
        squares.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value).powi(2));
    }
    let rows: usize = hidden.iter().map(|hidden| hidden.rows).sum();
    let largest = squares.iter().copied().fold(0.0, f64::max);
    let floor = if largest > 0.0 { 1e-6 * largest } else { 1.0 };
    squares.into_iter().map(|square| (square.max(floor) / rows.max(1) as f64).sqrt()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    #[test]
    fn a_subspace_without_a_cut_changes_nothing() {
        let mut rng = Rng::new(1);
        let (m, width) = (12, 7);
        let values: Vec<f32> = (0..m * width).map(|_| rng.normal() as f32).collect();
        let mut gram = vec![0.0; m * m];
        for _ in 0..40 {
            let row: Vec<f64> = (0..m).map(|_| rng.normal()).collect();
            (0..m * m).for_each(|place| gram[place] += row[place / m] * row[place % m]);
        }
        // By the shortcut, and by the arithmetic that the shortcut spares.
        let mut kept = values.clone();
        Subspace::of(gram.clone(), m, 1.0).apply(&mut kept, width);
        assert_eq!(kept, values);
        let (_, vectors) = symmetric_eigen(gram.clone(), m);
        let whole = Subspace { projection: Some(projection(&vectors, m)), rank: m };
        whole.apply(&mut kept, width);
        assert!(kept.iter().zip(&values).all(|(kept, value)| (kept - value).abs() < 1e-5));
        // A cut does change something, and twice the same cut no more than once.
        let cut = Subspace::of(gram, m, 0.6);
        assert!(cut.rank < m && cut.projection.is_some());
        cut.apply(&mut kept, width);
        assert!(kept.iter().zip(&values).any(|(kept, value)| (kept - value).abs() > 1e-2));
        let once = kept.clone();
        cut.apply(&mut kept, width);
        assert!(kept.iter().zip(&once).all(|(twice, once)| (twice - once).abs() < 1e-5));
    }

    #[test]
    fn energy_chooses_the_rank() {
        let m = 4;
        let mut gram = vec![0.0; m * m];
        [8.0, 1.0, 0.9, 0.1].iter().enumerate().for_each(|(i, value)| gram[i * m + i] = *value);
        let rank = |energy| Subspace::of(gram.clone(), m, energy).rank;
        assert_eq!([rank(0.5), rank(0.85), rank(0.95), rank(0.999), rank(1.0)], [1, 2, 3, 4, 4]);
    }
}
