//! How many experts each layer keeps.

use super::{Budget, PlanError, PlanRecipe};

/// One mixture layer's experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSize {
    pub layer: usize,
    pub experts: usize,
    pub top_k: usize,
}

/// How many experts each layer keeps; for a search, how many it starts from. `losses[l][n]`, for a greedy budget, is
/// what was measured with n experts of layer l dropped, n from 0 up to what may go.
pub fn keep_counts(
    recipe: &PlanRecipe,
    layers: &[LayerSize],
    losses: Option<&[Vec<f64>]>,
) -> Result<Vec<usize>, PlanError> {
    recipe.check()?;
    match (recipe.budget, recipe.keep) {
        (Budget::Uniform | Budget::Search, Some(keep)) => {
            layers.iter().map(|size| bounded(recipe, size, keep)).collect()
        }
        (Budget::Uniform | Budget::Search, None) => {
            let total = recipe.total.unwrap_or(0);
            share_out(recipe, layers, total)
        }
        (Budget::Greedy, keep) => {
            let total = keep.map_or(recipe.total.unwrap_or(0), |keep| keep * layers.len());
            greedy(recipe, layers, total, losses)
        }
    }
}

/// How many experts each layer keeps at least, and all together: of a search, which decides the rest.
pub(crate) fn limits_of(recipe: &PlanRecipe, layers: &[LayerSize]) -> Result<(Vec<usize>, usize), PlanError> {
    let counts = keep_counts(recipe, layers, None)?;
    let total = counts.iter().sum();
    Ok((if recipe.keep.is_some() { counts } else { minima(recipe, layers, total)? }, total))
}

/// `keep` if the layer may keep so many.
fn bounded(recipe: &PlanRecipe, size: &LayerSize, keep: usize) -> Result<usize, PlanError> {
    let least = recipe.minimum.unwrap_or(0).max(size.top_k);
    if (least..=size.experts).contains(&keep) {
        return Ok(keep);
    }
    let (layer, has) = (size.layer, size.experts);
    Err(PlanError::Recipe(format!("layer {layer} would keep {keep} experts of {has}: keep from {least} to {has}")))
}

/// The fewest that each layer may keep where layers differ.
fn minima(recipe: &PlanRecipe, layers: &[LayerSize], total: usize) -> Result<Vec<usize>, PlanError> {
    let least = |size: &LayerSize| recipe.minimum.unwrap_or(2 * size.top_k).max(size.top_k).min(size.experts);
    let minima: Vec<usize> = layers.iter().map(least).collect();
    let (least, most) = (minima.iter().sum::<usize>(), layers.iter().map(|size| size.experts).sum::<usize>());
    if (least..=most).contains(&total) {
        return Ok(minima);
    }
    let count = layers.len();
    let message =
        format!("{total} experts for {count} layers, which need {least} together (see minimum) and have {most}");
    Err(PlanError::Recipe(message))
}

/// Evenly; what does not divide goes to the first layers.
fn share_out(recipe: &PlanRecipe, layers: &[LayerSize], total: usize) -> Result<Vec<usize>, PlanError> {
    let mut counts = minima(recipe, layers, total)?;
    for _ in counts.iter().sum::<usize>()..total {
        let open = (0..layers.len()).filter(|&layer| counts[layer] < layers[layer].experts);
        let fewest = open.min_by_key(|&layer| counts[layer]).expect("the total is at most all experts");
        counts[fewest] += 1;
    }
    Ok(counts)
}

/// From all experts on, the next to go is of the layer whose loss grows least by it.
fn greedy(
    recipe: &PlanRecipe,
    layers: &[LayerSize],
    total: usize,
    losses: Option<&[Vec<f64>]>,
) -> Result<Vec<usize>, PlanError> {
    let minima = minima(recipe, layers, total)?;
    let Some(losses) = losses else {
        return Err(PlanError::Recipe("a greedy budget needs the losses of dropping experts, measured before".into()));
    };
    if losses.len() != layers.len() {
        let message = format!("losses of {} layers were measured, the model has {}", losses.len(), layers.len());
        return Err(PlanError::Recipe(message));
    }
    for ((size, losses), minimum) in layers.iter().zip(losses).zip(&minima) {
        let wanted = size.experts - minimum + 1;
        if losses.len() < wanted || losses.iter().any(|loss| !loss.is_finite()) {
            let layer = size.layer;
            return Err(PlanError::Recipe(format!("layer {layer} needs {wanted} measured losses, all of them finite")));
        }
    }
    let mut dropped = vec![0; layers.len()];
    let experts: usize = layers.iter().map(|size| size.experts).sum();
    for _ in total..experts {
        let open = (0..layers.len()).filter(|&layer| layers[layer].experts - dropped[layer] > minima[layer]);
        let growth = |layer: usize| losses[layer][dropped[layer] + 1] - losses[layer][dropped[layer]];
        let next = open.min_by(|&a, &b| growth(a).total_cmp(&growth(b))).expect("the total is at least the minima");
        dropped[next] += 1;
    }
    Ok(layers.iter().zip(dropped).map(|(size, dropped)| size.experts - dropped).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(experts: &[usize]) -> Vec<LayerSize> {
        let size = |(layer, &experts)| LayerSize { layer, experts, top_k: 2 };
        experts.iter().enumerate().map(size).collect()
    }

    fn total(total: usize, budget: Budget) -> PlanRecipe {
        PlanRecipe { total: Some(total), budget, ..PlanRecipe::default() }
    }

    #[test]
    fn totals_are_met_within_the_bounds_of_each_layer() {
        let layers = layers(&[8, 6, 16]);
        let counts = |n| keep_counts(&total(n, Budget::Uniform), &layers, None);
        assert_eq!(counts(21), Ok(vec![8, 6, 7]));
        assert_eq!(counts(30), Ok(vec![8, 6, 16]));
        assert_eq!(counts(13), Ok(vec![5, 4, 4]));
        let refused = counts(11).expect_err("twice the top-k of three layers is 12").to_string();
        assert!(refused.contains("which need 12 together"), "{refused}");
        let few = PlanRecipe { minimum: Some(3), ..total(11, Budget::Uniform) };
        assert_eq!(keep_counts(&few, &layers, None), Ok(vec![4, 4, 3]));
    }

    #[test]
    fn greedy_takes_from_where_it_costs_least() {
        let layers = layers(&[8, 8]);
        let flat: Vec<f64> = (0..8).map(|n| 0.1 * f64::from(n)).collect();
        let steep: Vec<f64> = (0..8).map(|n| f64::from(n * n)).collect();
        let recipe = total(11, Budget::Greedy);
        let losses = [flat.clone(), steep.clone()];
        assert_eq!(keep_counts(&recipe, &layers, Some(&losses)), Ok(vec![4, 7]));
        let losses = [steep, flat[..3].to_vec()];
        let refused = keep_counts(&recipe, &layers, Some(&losses)).expect_err("too few losses").to_string();
        assert!(refused.contains("layer 1 needs 5 measured losses"), "{refused}");
        assert!(keep_counts(&recipe, &layers, None).is_err());
        let per_layer = PlanRecipe { budget: Budget::Greedy, ..PlanRecipe::keeping(6) };
        let losses = [vec![0.0; 8], (0..8).map(f64::from).collect()];
        assert_eq!(keep_counts(&per_layer, &layers, Some(&losses)), Ok(vec![4, 8]));
    }

    #[test]
    fn contradictions_are_refused() {
        let both = PlanRecipe { total: Some(9), ..PlanRecipe::keeping(4) };
        assert!(keep_counts(&both, &layers(&[8]), None).is_err());
        assert!(keep_counts(&PlanRecipe::default(), &layers(&[8]), None).is_err());
        let refused = keep_counts(&PlanRecipe::keeping(9), &layers(&[8]), None).expect_err("eight are there");
        assert_eq!(
            refused.to_string(),
            "this plan cannot be made: layer 0 would keep 9 experts of 8: keep from 2 to 8"
        );
    }
}
