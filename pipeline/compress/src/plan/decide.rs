//! Deciding a plan from what was observed.

use super::groups::{self, Candidates};
use super::{Budget, LayerPlan, LayerSize, Plan, PlanError, PlanRecipe, Saliency, keep_counts};
use crate::{CompressError, LayerStatistics};
use models::{LayerStream, Model};
use numeric::Rng;
use ops::Moe;

impl Plan {
    /// A plan for a model in memory. `statistics` are of its mixture layers, in order; `losses` as in [`keep_counts`].
    pub fn decide(
        model: &Model,
        statistics: &[LayerStatistics],
        recipe: &PlanRecipe,
        losses: Option<&[Vec<f64>]>,
    ) -> Result<Self, PlanError> {
        let counts = decided_counts(model, recipe, losses)?;
        let observed = observed(model, statistics)?;
        let supers = super_experts_of(recipe, &observed, model.weights.layers.len());
        let mixtures = model.weights.layers.iter().filter_map(|layer| layer.mixture());
        let each = mixtures.zip(observed).zip(supers.iter().zip(counts));
        let layers = each.map(|((moe, observed), (supers, keep))| decide_layer(moe, observed, keep, supers, recipe));
        Ok(Self { layers: layers.collect::<Result<_, _>>()? })
    }

    /// As [`Self::decide`] without losses, of a model that may be larger than memory: what is merged is read layer by
    /// layer. `watch` hears of every mixture that is done, and may stop it.
    pub fn decide_streamed(
        stream: &LayerStream,
        statistics: &[LayerStatistics],
        recipe: &PlanRecipe,
        watch: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, CompressError> {
        let outline = stream.outline();
        if !recipe.merge {
            return Ok(Self::decide(outline, statistics, recipe, None)?);
        }
        let counts = decided_counts(outline, recipe, None)?;
        let observed = observed(outline, statistics)?;
        let supers = super_experts_of(recipe, &observed, outline.weights.layers.len());
        let mut layers = Vec::with_capacity(observed.len());
        for ((observed, supers), keep) in observed.into_iter().zip(&supers).zip(counts) {
            let weights = stream.layer(observed.layer)?;
            let moe = weights.mixture().expect("the outline has it");
            layers.push(decide_layer(moe, observed, keep, supers, recipe)?);
            if !watch(layers.len()) {
                return Err(CompressError::Cancelled);
            }
        }
        Ok(Self { layers })
    }

    /// A plan in which these experts of each mixture stay, as [`crate::search`] found them.
    pub fn keeping(
        model: &Model,
        statistics: &[LayerStatistics],
        recipe: &PlanRecipe,
        kept: &[Vec<usize>],
    ) -> Result<Self, PlanError> {
        let observed = observed(model, statistics)?;
        let supers = super_experts_of(recipe, &observed, model.weights.layers.len());
        let mixtures = model.weights.layers.iter().filter_map(|layer| layer.mixture());
        let mut layers = Vec::with_capacity(kept.len());
        for ((moe, observed), (supers, kept)) in mixtures.zip(observed).zip(supers.iter().zip(kept)) {
            let saliency = saliencies(observed, recipe)?;
            let order = order(&saliency, supers);
            let (kept, rest) = order.into_iter().partition(|expert| kept.contains(expert));
            layers.push(place(moe, observed, Placed { kept, rest, saliency }, supers, recipe)?);
        }
        let plan = Self { layers };
        plan.check(model)?;
        Ok(plan)
    }
}

/// As [`keep_counts`], where counts are all that a budget says.
fn decided_counts(model: &Model, recipe: &PlanRecipe, losses: Option<&[Vec<f64>]>) -> Result<Vec<usize>, PlanError> {
    if recipe.budget == Budget::Search {
        return Err(PlanError::Recipe("a searched budget says which experts stay: search for them first".into()));
    }
    keep_counts(recipe, &LayerSize::of(model), losses)
}

/// What is known of each mixture, in order.
fn observed<'a>(model: &Model, statistics: &'a [LayerStatistics]) -> Result<Vec<&'a LayerStatistics>, PlanError> {
    let of_size = |size: LayerSize| {
        let of_layer = statistics.iter().find(|of_layer| of_layer.layer == size.layer);
        of_layer.ok_or(PlanError::Unobserved(size.layer))
    };
    LayerSize::of(model).into_iter().map(of_size).collect()
}

/// The super-experts that a recipe wants to keep, of each mixture of a model with so many layers.
pub(crate) fn super_experts_of(recipe: &PlanRecipe, observed: &[&LayerStatistics], layers: usize) -> Vec<Vec<usize>> {
    match recipe.keep_super_experts {
        true => super_experts(observed, layers),
        false => vec![Vec::new(); observed.len()],
    }
}

/// Who stays and who does not, the most salient first.
struct Placed {
    kept: Vec<usize>,
    rest: Vec<usize>,
    /// Of every expert.
    saliency: Vec<f64>,
}

/// A plan for one layer that keeps `keep` experts, `super_experts` among them.
pub fn decide_layer(
    moe: &Moe,
    statistics: &LayerStatistics,
    keep: usize,
    super_experts: &[usize],
    recipe: &PlanRecipe,
) -> Result<LayerPlan, PlanError> {
    let (layer, has) = (statistics.layer, moe.experts.len());
    if statistics.tokens == 0 || statistics.experts.len() != has {
        return Err(PlanError::Unobserved(layer));
    }
    if super_experts.len() > keep {
        let supers = super_experts.len();
        let message = format!("layer {layer} would keep {keep} experts and has {supers} super-experts: keep more");
        return Err(PlanError::Recipe(message));
    }
    let saliency = saliencies(statistics, recipe)?;
    let order = order(&saliency, super_experts);
    let (kept, rest) = order.split_at(keep);
    let placed = Placed { kept: kept.to_vec(), rest: rest.to_vec(), saliency };
    place(moe, statistics, placed, super_experts, recipe)
}

/// Puts those that do not stay into groups, where the recipe wants that, and writes all of it down.
fn place(
    moe: &Moe,
    statistics: &LayerStatistics,
    Placed { kept, rest, saliency }: Placed,
    super_experts: &[usize],
    recipe: &PlanRecipe,
) -> Result<LayerPlan, PlanError> {
    let merge = match recipe.merge {
        true => {
            let centroids = kept.iter().copied().filter(|expert| !super_experts.contains(expert)).collect();
            groups::groups(&Candidates { moe, statistics, recipe, centroids, rest: &rest })?
        }
        false => Vec::new(),
    };
    let is_merged = |expert: &usize| merge.iter().any(|merge| merge.from.contains(expert));
    let sorted = |mut experts: Vec<usize>| {
        experts.sort_unstable();
        experts
    };
    Ok(LayerPlan {
        layer: statistics.layer,
        keep: sorted(kept),
        drop: sorted(rest.iter().copied().filter(|expert| !is_merged(expert)).collect()),
        super_experts: sorted(super_experts.to_vec()),
        saliency: saliency.into_iter().map(readable).collect(),
        tokens: statistics.experts.iter().map(|expert| expert.tokens).collect(),
        merge,
    })
}

/// Experts as they would stay: super-experts, then the most salient; ties keep the lower number.
pub(crate) fn order(saliency: &[f64], super_experts: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..saliency.len()).collect();
    order.sort_by(|&a, &b| {
        let is_super = |expert| super_experts.contains(&expert);
        is_super(b).cmp(&is_super(a)).then(saliency[b].total_cmp(&saliency[a])).then(a.cmp(&b))
    });
    order
}

/// What each expert is worth by the recipe's measure; an expert that no token chose has 0.
pub(crate) fn saliencies(statistics: &LayerStatistics, recipe: &PlanRecipe) -> Result<Vec<f64>, PlanError> {
    let experts = &statistics.experts;
    let tokens = statistics.tokens as f64;
    Ok(match recipe.saliency {
        Saliency::Reap => (0..experts.len()).map(|expert| statistics.saliency(expert)).collect(),
        Saliency::Frequency => experts.iter().map(|expert| expert.tokens as f64).collect(),
        Saliency::Random => {
            let mut rng = Rng::new(recipe.seed).fork(statistics.layer as u64);
            experts.iter().map(|_| rng.uniform()).collect()
        }
        Saliency::Fisher if experts.iter().all(|expert| expert.fisher == 0.0) => {
            let layer = statistics.layer;
            let message = format!("no gradients were observed in layer {layer}: observe them, or choose by \"reap\"");
            return Err(PlanError::Recipe(message));
        }
        Saliency::Fisher => experts.iter().map(|expert| expert.fisher / tokens).collect(),
    })
}

/// Four significant digits: enough to read.
fn readable(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    format!("{value:.3e}").parse().expect("a number that was just printed")
}

/// Experts whose outputs spike: in the first three quarters of the `layers` of the model, those with a largest
/// |activation| above the 99.5th percentile of all experts and above a tenth of the largest (Su et al. 2025,
/// arXiv 2507.23279). The model hangs on them out of proportion to how often they are chosen.
pub fn super_experts(statistics: &[&LayerStatistics], layers: usize) -> Vec<Vec<usize>> {
    let peaks = |of_layer: &LayerStatistics| -> Vec<f64> {
        of_layer.experts.iter().map(|expert| f64::from(expert.activation_max.abs())).collect()
    };
    let mut all: Vec<f64> = statistics.iter().flat_map(|of_layer| peaks(of_layer)).collect();
    let largest = all.iter().copied().fold(0.0, f64::max);
    let threshold = quantile(&mut all, 0.995).max(0.1 * largest);
    let of_layer = |of_layer: &&LayerStatistics| match 4 * of_layer.layer < 3 * layers {
        true => {
            let peaks = peaks(of_layer);
            (0..peaks.len()).filter(|&expert| peaks[expert] > threshold).collect()
        }
        false => Vec::new(),
    };
    statistics.iter().map(of_layer).collect()
}

/// With linear interpolation between the two values beside it; 0 of none.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let below = (place as usize).min(last);
    values[below] + (place - below as f64) * (values[(below + 1).min(last)] - values[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExpertUse;

    fn with_peaks(layer: usize, peaks: &[f32]) -> LayerStatistics {
        let experts = peaks.iter().map(|&peak| ExpertUse { activation_max: peak, tokens: 1, ..Default::default() });
        LayerStatistics {
            layer,
            tokens: 9,
            experts: experts.collect(),
            together: Vec::new(),
            output_similarity: Vec::new(),
            neuron_fisher: Vec::new(),
            router_entropy: 0.0,
        }
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [3.0, 1.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [4.0, 1.0, 2.0], 1.0), 4.0);
    }

    #[test]
    fn super_experts_spike_in_the_first_three_quarters() {
        let mut peaks = vec![1.0; 100];
        peaks[7] = 50.0;
        // A negative peak is a peak.
        let mut below = vec![1.0; 100];
        below[9] = -60.0;
        let flat = with_peaks(2, &[1.0; 100]);
        let layers = [&with_peaks(0, &peaks), &with_peaks(1, &below), &flat, &with_peaks(3, &[1.0; 100])];
        assert_eq!(super_experts(&layers, 4), [vec![7], vec![9], vec![], vec![]]);
        assert_eq!(super_experts(&[&flat, &with_peaks(3, &peaks)], 4), [Vec::<usize>::new(), vec![]]);
        // Where all are alike, nobody stands out.
        let flat = with_peaks(0, &[1.0; 32]);
        assert_eq!(super_experts(&[&flat], 4), [Vec::<usize>::new()]);
    }

    #[test]
    fn saliency_in_the_file_is_short() {
        assert_eq!([readable(0.123_456), readable(1234.56), readable(0.0)], [0.1235, 1235.0, 0.0]);
    }
}
