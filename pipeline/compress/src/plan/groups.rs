//! Which expert becomes part of which.
//!
//! Legend: E experts.

use super::decide::quantile;
use super::{Grouping, Merge, PlanError, PlanRecipe};
use crate::LayerStatistics;
use crate::merge::{Neurons, align, each};
use ops::Moe;

/// The experts of a layer, told apart.
pub(super) struct Candidates<'a> {
    pub(super) moe: &'a Moe,
    pub(super) statistics: &'a LayerStatistics,
    pub(super) recipe: &'a PlanRecipe,
    /// What others may be merged into, most salient first.
    pub(super) centroids: Vec<usize>,
    /// What does not stay, most salient first.
    pub(super) rest: &'a [usize],
}

/// An expert that could be merged into another.
#[derive(Debug, Clone, Copy)]
struct Pair {
    distance: f64,
    /// The place of the centroid among all.
    rank: usize,
    expert: usize,
}

/// Groups of experts that are near each other and not forbidden; whoever finds none is in none.
pub(super) fn groups(candidates: &Candidates) -> Result<Vec<Merge>, PlanError> {
    let Candidates { statistics, recipe, centroids, rest, .. } = candidates;
    let experts = statistics.experts.len();
    if recipe.distance.outputs > 0.0 && statistics.output_similarity.len() != experts * experts {
        let layer = statistics.layer;
        let message = format!("the distance asks for outputs, but those of layer {layer} were not compared");
        return Err(PlanError::Recipe(message));
    }
    let lift_max = lift_max(statistics, recipe.lift_quantile);
    let is_allowed = |a: usize, b: usize| statistics.lift(a, b) <= lift_max;
    let rows = router_rows(candidates.moe);
    let pairs = each(rest.to_vec(), |expert| candidates.partners(expert, &rows, &is_allowed));
    let mut pairs: Vec<Pair> = pairs.into_iter().flatten().collect();
    pairs.sort_by(|a, b| {
        let rank = |pair: &Pair| if recipe.grouping == Grouping::Walk { pair.rank } else { 0 };
        rank(a).cmp(&rank(b)).then(a.distance.total_cmp(&b.distance)).then((a.rank, a.expert).cmp(&(b.rank, b.expert)))
    });
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); centroids.len()];
    let mut is_placed = vec![false; experts];
    for Pair { rank, expert, .. } in pairs {
        let group = &mut members[rank];
        let fits = group.len() + 1 < recipe.group_max && group.iter().all(|&member| is_allowed(member, expert));
        if fits && !is_placed[expert] {
            is_placed[expert] = true;
            group.push(expert);
        }
    }
    let merges = centroids.iter().zip(members).filter(|(_, from)| !from.is_empty());
    let mut merges: Vec<Merge> = merges.map(|(&into, from)| Merge { into, from }).collect();
    merges.iter_mut().for_each(|merge| merge.from.sort_unstable());
    merges.sort_by_key(|merge| merge.into);
    Ok(merges)
}

/// The lift up to which pairs may be merged.
fn lift_max(statistics: &LayerStatistics, share: f64) -> f64 {
    let experts = statistics.experts.len();
    let pairs = (0..experts).flat_map(|a| (0..a).map(move |b| (a, b)));
    let mut lifts: Vec<f64> = pairs.map(|(a, b)| statistics.lift(a, b)).collect();
    quantile(&mut lifts, share)
}

/// Rows of the router, each of length 1.
fn router_rows(moe: &Moe) -> Vec<Vec<f32>> {
    let matrix = moe.router.weight.matrix.view();
    let row = |row: usize| {
        let mut values = vec![0.0; matrix.columns];
        matrix.dequantize_row(row, &mut values);
        let norm = values.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        values.iter_mut().for_each(|value| *value /= norm);
        values
    };
    (0..matrix.rows).map(row).collect()
}

impl Candidates<'_> {
    /// The centroids that an expert could be merged into. Without the neurons' part a distance is a lower bound, so
    /// only the nearest by it are aligned.
    fn partners(&self, expert: usize, rows: &[Vec<f32>], is_allowed: &impl Fn(usize, usize) -> bool) -> Vec<Pair> {
        let (recipe, experts) = (self.recipe, self.statistics.experts.len());
        let shares = recipe.distance;
        let bound = |centroid: usize| {
            let outputs = match self.statistics.output_similarity.get(expert * experts + centroid) {
                Some(&similarity) => 1.0 - f64::from(similarity),
                None => 0.0,
            };
            let cosine: f32 = rows[expert].iter().zip(&rows[centroid]).map(|(a, b)| a * b).sum();
            shares.outputs * outputs + shares.router * (1.0 - f64::from(cosine))
        };
        let allowed = self.centroids.iter().enumerate().filter(|&(_, &centroid)| is_allowed(centroid, expert));
        let pairs = allowed.map(|(rank, &centroid)| Pair { distance: bound(centroid), rank, expert });
        let mut pairs: Vec<Pair> = pairs.filter(|pair| pair.distance < recipe.distance_max).collect();
        if shares.weights == 0.0 {
            return pairs;
        }
        pairs.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.rank.cmp(&b.rank)));
        pairs.truncate(recipe.partners_aligned);
        let member = Neurons::of(&self.moe.experts[expert]);
        for pair in &mut pairs {
            let centroid = Neurons::of(&self.moe.experts[self.centroids[pair.rank]]);
            pair.distance += shares.weights * align(&centroid, &member, None).relative_after();
        }
        pairs.retain(|pair| pair.distance < recipe.distance_max);
        pairs
    }
}
