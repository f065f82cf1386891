//! Searching for the experts that stay, as RCO does (arXiv 2605.00649).
//!
//! Every expert that may go has a logit. A step adds Gumbel noise to all of them, keeps as many of the highest as may
//! stay, multiplies the gates of the others by 0 and walks the KL from the whole model back to the mask. The slope
//! reaches the logits as if the mask had been soft (a straight-through estimator), and an Adam step along the surface
//! on which as many are expected to stay as may moves them. From time to time the highest logits are measured as what
//! they would become, a model with fewer experts, on tokens that no slope was taken of; the best that was seen is the
//! result.
//!
//! Legend: E experts, a logits.

mod limits;
mod slopes;

use crate::merge::Tokens;
use crate::plan::{limits_of, order, saliencies, super_experts_of};
use crate::{LayerSize, LayerStatistics, PlanError, PlanRecipe};
use limits::{Limits, sigmoid};
use models::Model;
use numeric::Rng;
use serde::{Deserialize, Serialize};
use slopes::{Batch, divergence};

/// How experts are searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchRecipe {
    pub steps: usize,
    /// Tokens of a step; sequences stay whole.
    pub step_tokens: usize,
    /// Masks that are tried in each step, every second with the noise of the one before turned round.
    pub masks: usize,
    pub learning_rate: f64,
    /// How soft the mask is for slopes, at first and at last; between them by equal factors.
    pub temperature: f64,
    pub temperature_end: f64,
    /// How far apart the logits of the most and the least salient expert of a mixture are at first.
    pub spread: f64,
    /// How often the highest logits are measured.
    pub measurements: usize,
}

impl Default for SearchRecipe {
    fn default() -> Self {
        Self {
            steps: 200,
            step_tokens: 1024,
            masks: 2,
            learning_rate: 0.2,
            temperature: 1.0,
            temperature_end: 0.05,
            spread: 6.0,
            measurements: 20,
        }
    }
}

impl SearchRecipe {
    pub fn check(&self) -> Result<(), PlanError> {
        let positive = [
            ("learning_rate", self.learning_rate),
            ("temperature", self.temperature),
            ("temperature_end", self.temperature_end),
        ];
        let counts = [("step_tokens", self.step_tokens), ("masks", self.masks), ("measurements", self.measurements)];
        let problem = if let Some((key, value)) = positive.iter().find(|(_, value)| !(1e-6..=1e6).contains(value)) {
            format!("{key} of the search is {value}, want a number above 0")
        } else if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            format!("{key} of the search is 0, want at least 1")
        } else if !(0.0..=1e3).contains(&self.spread) {
            format!("spread of the search is {}, want a number from 0 on", self.spread)
        } else {
            return Ok(());
        };
        Err(PlanError::Recipe(problem))
    }
}

/// How far a search is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchStep {
    pub done: usize,
    pub total: usize,
    /// KL with the best experts so far on held-out tokens, in nats a token.
    pub divergence: f64,
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Searched {
    /// Of each mixture, ascending.
    pub kept: Vec<Vec<usize>>,
    /// KL from the whole model on held-out tokens, in nats a token.
    pub divergence: f64,
    /// The same with the experts that were kept by saliency alone, as many in each mixture.
    pub divergence_before: f64,
}

/// Searches for the experts of each mixture that stay. `statistics` are of the model's mixtures; slopes are taken on
/// the calibration tokens, and what is found is measured on those held out. Super-experts stay without being asked
/// about.
pub fn search(
    model: &mut Model,
    statistics: &[LayerStatistics],
    tokens: &Tokens,
    recipe: &PlanRecipe,
    progress: &mut dyn FnMut(SearchStep),
) -> Result<Searched, PlanError> {
    recipe.check()?;
    // The mask alone wants slopes.
    let trained: Vec<bool> = model.parameters().iter().map(|parameter| parameter.trained).collect();
    model.parameters_mut().into_iter().for_each(|parameter| parameter.trained = false);
    let found = Searching::begin(model, statistics, tokens, recipe).map(|searching| searching.run(progress));
    model.parameters_mut().into_iter().zip(trained).for_each(|(parameter, trained)| parameter.trained = trained);
    found
}

struct Searching<'a> {
    model: &'a Model,
    recipe: &'a SearchRecipe,
    rng: Rng,
    calibration: Vec<Batch>,
    held_out: Vec<Batch>,
    /// Of each mixture: its experts, and those that are never masked.
    mixtures: Vec<(usize, Vec<usize>)>,
    /// The expert of each candidate, mixture after mixture, the most salient first.
    candidates: Vec<usize>,
    limits: Limits,
}

impl<'a> Searching<'a> {
    fn begin(
        model: &'a Model,
        statistics: &[LayerStatistics],
        tokens: &Tokens,
        recipe: &'a PlanRecipe,
    ) -> Result<Self, PlanError> {
        let sizes = LayerSize::of(model);
        let (minima, total) = limits_of(recipe, &sizes)?;
        let observed = sizes.iter().map(|size| {
            let of_layer = statistics.iter().find(|of_layer| of_layer.layer == size.layer && of_layer.tokens > 0);
            of_layer.ok_or(PlanError::Unobserved(size.layer))
        });
        let observed = observed.collect::<Result<Vec<_>, _>>()?;
        let supers = super_experts_of(recipe, &observed, model.weights.layers.len());
        let mut limits = Limits { ranges: Vec::new(), minima: Vec::new(), total };
        let (mut candidates, mut mixtures) = (Vec::new(), Vec::new());
        for ((statistics, supers), minimum) in observed.into_iter().zip(supers).zip(minima) {
            let order = order(&saliencies(statistics, recipe)?, &supers);
            let (first, n_supers) = (candidates.len(), supers.len());
            candidates.extend(&order[n_supers..]);
            limits.ranges.push(first..candidates.len());
            limits.minima.push(minimum.saturating_sub(n_supers));
            limits.total = limits.total.saturating_sub(n_supers);
            mixtures.push((order.len(), supers));
        }
        if limits.total < limits.minima.iter().sum() {
            let supers: usize = mixtures.iter().map(|(_, supers)| supers.len()).sum();
            let message = format!("{total} experts are to stay, and {supers} super-experts take the place of others");
            return Err(PlanError::Recipe(format!("{message}: keep more, or a smaller minimum")));
        }
        let batches = |some| Batch::of(model, some, recipe.search.step_tokens);
        let (calibration, held_out) = (batches(tokens.calibration), batches(tokens.held_out));
        if calibration.is_empty() || held_out.is_empty() {
            let message = "a search wants tokens to take slopes of and others to measure on: give more tokens";
            return Err(PlanError::Recipe(message.into()));
        }
        let rng = Rng::new(recipe.seed);
        Ok(Self { model, recipe: &recipe.search, rng, calibration, held_out, mixtures, candidates, limits })
    }

    fn run(mut self, progress: &mut dyn FnMut(SearchStep)) -> Searched {
        let steps = self.recipe.steps;
        let mut logits = self.start();
        let mut best = self.measure(self.kept(&self.limits.choose(&logits)));
        let mut measured = best.kept.clone();
        let mut adam = Adam::new(logits.len(), self.recipe.learning_rate);
        let every = steps.div_ceil(self.recipe.measurements).max(1);
        let mut turn: Vec<usize> = Vec::new();
        for step in 0..steps {
            if turn.is_empty() {
                turn = (0..self.calibration.len()).collect();
                self.rng.shuffle(&mut turn);
            }
            let batch = turn.pop().expect("there are batches");
            let mut slopes = self.slopes(batch, &logits, self.temperature(step));
            self.limits.level(&mut slopes, &logits);
            adam.step(&mut logits, &slopes);
            self.limits.project(&mut logits);
            self.limits.level(&mut adam.mean, &logits);
            if (step + 1) % every == 0 || step + 1 == steps {
                let kept = self.kept(&self.limits.choose(&logits));
                if kept != measured {
                    measured.clone_from(&kept);
                    let found = Searched { divergence_before: best.divergence_before, ..self.measure(kept) };
                    if found.divergence < best.divergence {
                        best = found;
                    }
                }
            }
            progress(SearchStep { done: step + 1, total: steps, divergence: best.divergence });
        }
        best
    }

    /// By saliency, on the surface.
    fn start(&self) -> Vec<f64> {
        let of_range = |range: &std::ops::Range<usize>| {
            let last = range.len().saturating_sub(1).max(1) as f64;
            (0..range.len()).map(move |rank| self.recipe.spread * (0.5 - rank as f64 / last))
        };
        let mut logits: Vec<f64> = self.limits.ranges.iter().flat_map(of_range).collect();
        self.limits.project(&mut logits);
        logits
    }

    fn temperature(&self, step: usize) -> f64 {
        let SearchRecipe { temperature, temperature_end, steps, .. } = self.recipe;
        let share = step as f64 / steps.saturating_sub(1).max(1) as f64;
        temperature * (temperature_end / temperature).powf(share)
    }

    /// The experts of each mixture that stay, ascending.
    fn kept(&self, stays: &[bool]) -> Vec<Vec<usize>> {
        let of_mixture = |(range, (_, supers)): (&std::ops::Range<usize>, &(usize, Vec<usize>))| {
            let chosen =
                range.clone().filter(|&candidate| stays[candidate]).map(|candidate| self.candidates[candidate]);
            let mut kept: Vec<usize> = supers.iter().copied().chain(chosen).collect();
            kept.sort_unstable();
            kept
        };
        self.limits.ranges.iter().zip(&self.mixtures).map(of_mixture).collect()
    }

    fn measure(&self, kept: Vec<Vec<usize>>) -> Searched {
        let divergence = divergence(self.model, &self.held_out, &kept);
        Searched { kept, divergence, divergence_before: divergence }
    }

    /// What the KL of a batch asks of the logits, a mean over noisy masks.
    fn slopes(&mut self, batch: usize, logits: &[f64], temperature: f64) -> Vec<f64> {
        let mut sums = vec![0.0; logits.len()];
        let mut noise = Vec::new();
        for mask in 0..self.recipe.masks {
            match mask % 2 {
                // Of two Gumbel variables, one for staying and one for going, only the difference matters.
                0 => noise = logits.iter().map(|_| logistic(&mut self.rng)).collect(),
                _ => noise.iter_mut().for_each(|noise: &mut f64| *noise = -*noise),
            }
            let noisy: Vec<f64> = logits.iter().zip(&noise).map(|(a, noise)| a + noise).collect();
            let masks = self.masks(&self.limits.choose(&noisy));
            let of_masks = self.calibration[batch].slopes(self.model, masks);
            for (range, of_mask) in self.limits.ranges.iter().zip(&of_masks) {
                for candidate in range.clone() {
                    let soft = sigmoid(noisy[candidate] / temperature);
                    sums[candidate] += of_mask[self.candidates[candidate]] * soft * (1.0 - soft) / temperature;
                }
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= self.recipe.masks as f64);
        sums
    }

    /// `[E]` for each mixture: 1 for what stays, 0 for what goes.
    fn masks(&self, stays: &[bool]) -> Vec<Vec<f32>> {
        let kept = self.kept(stays).into_iter().zip(&self.mixtures);
        let mask = |(kept, (experts, _)): (Vec<usize>, &(usize, Vec<usize>))| {
            let mut mask = vec![0.0; *experts];
            kept.into_iter().for_each(|expert| mask[expert] = 1.0);
            mask
        };
        kept.map(mask).collect()
    }
}

fn logistic(rng: &mut Rng) -> f64 {
    let u = rng.uniform().clamp(1e-12, 1.0 - 1e-12);
    (u / (1.0 - u)).ln()
}

/// Adam (Kingma and Ba 2015) on a few numbers.
struct Adam {
    rate: f64,
    steps: i32,
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl Adam {
    const DECAY: [f64; 2] = [0.9, 0.999];

    fn new(count: usize, rate: f64) -> Self {
        Self { rate, steps: 0, mean: vec![0.0; count], square: vec![0.0; count] }
    }

    fn step(&mut self, values: &mut [f64], slopes: &[f64]) {
        self.steps += 1;
        let [first, second] = Self::DECAY;
        let [mean_share, square_share] = Self::DECAY.map(|decay| 1.0 - decay.powi(self.steps));
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((value, slope), (mean, square)) in values.iter_mut().zip(slopes).zip(moments) {
            *mean = first * *mean + (1.0 - first) * slope;
            *square = second * *square + (1.0 - second) * slope * slope;
            *value -= self.rate * (*mean / mean_share) / ((*square / square_share).sqrt() + 1e-12);
        }
    }
}
