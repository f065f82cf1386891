//! How long a step will take on this machine, found by training single layers of the model's shape for a moment.
//!
//! Two layers of a kind take as much longer than one as that layer costs; what is left of the one is embedding and
//! head. Attention's share that grows with the square of a sequence is what a longer sequence costs beyond its tokens.

use crate::optimizer::Optimizer;
use crate::recipe::{Method, TrainRecipe};
use crate::run::gradient_options;
use models::adapter::LoraConfig;
use models::{Config, Examples, FeedForwardKind, LayerConfig, Loading, MixerKind, Model, adapter, loss_and_gradients};
use numeric::Format;
use ops::Gradients;
use std::time::Instant;

/// Tokens of the short sequence that is timed; the long one is four times as long.
const TOKENS: usize = 512;
/// Rows of the vocabulary that are timed at most; the head costs what it has rows.
const VOCABULARY_MAX: usize = 8192;
/// Passes of each kind, of which the fastest counts.
const PASSES: usize = 3;

/// Seconds, by what they are spent on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Of each token, whatever the lengths.
    pub token: f64,
    /// Of each pair of a token with an earlier one of its sequence, in all attention layers together.
    pub pair: f64,
    /// Of each trained number in an update.
    pub trained_number: f64,
}

impl Speed {
    /// Of so many machines together that share each micro-batch; the update is the first one's alone.
    pub fn shared(self, machines: usize) -> Self {
        let machines = machines as f64;
        Self { token: self.token / machines, pair: self.pair / machines, ..self }
    }

    /// One optimizer step over so many micro-batches with sequences of these lengths.
    pub fn step(&self, lengths: &[usize], accumulation: usize, trained_numbers: usize) -> f64 {
        let tokens: usize = lengths.iter().sum();
        let pairs: f64 = lengths.iter().map(|&length| length as f64 * length as f64 / 2.0).sum();
        let pass = self.token * tokens as f64 + self.pair * pairs;
        pass * accumulation as f64 + self.trained_number * trained_numbers as f64
    }
}

/// Times a recipe on a model of this shape.
pub fn measure(config: &Config, recipe: &TrainRecipe) -> Speed {
    let mut kinds: Vec<(LayerConfig, usize)> = Vec::new();
    for layer in &config.layers {
        match kinds.iter_mut().find(|(kind, _)| similar(kind, layer)) {
            Some((_, count)) => *count += 1,
            None => kinds.push((*layer, 1)),
        }
    }
    let (mut token, mut pair, mut trained_number) = (0.0, 0.0, 0.0);
    for (index, &(kind, count)) in kinds.iter().enumerate() {
        let [mut one, mut two] = [1, 2].map(|layers| Trial::new(config, recipe, kind, layers));
        let (alone, both) = (one.pass(TOKENS), two.pass(TOKENS));
        let layer = (both - alone).max(0.0);
        if kind.mixer == MixerKind::Attention {
            let longer = 4.0 * TOKENS as f64;
            let grown = (two.pass(4 * TOKENS) - 4.0 * both).max(0.0) / 2.0;
            pair += count as f64 * grown / ((longer * longer - 4.0 * (TOKENS * TOKENS) as f64) / 2.0);
        }
        token += count as f64 * layer / TOKENS as f64;
        if index == 0 {
            let rows = config.vocab_size as f64 / one.model.config.vocab_size as f64;
            token += rows * (alone - layer).max(0.0) / TOKENS as f64;
            trained_number = one.update();
        }
    }
    // What the short sequence's own pairs cost was counted with its tokens.
    Speed { token: (token - pair * TOKENS as f64 / 2.0).max(0.0), pair, trained_number }
}

/// Whether two layers cost the same; how many experts stand by costs nothing.
fn similar(one: &LayerConfig, other: &LayerConfig) -> bool {
    let dense = |layer: &LayerConfig| layer.feed_forward == FeedForwardKind::Dense;
    one.mixer == other.mixer && dense(one) == dense(other)
}

/// A few layers of one kind, to be timed.
struct Trial<'a> {
    model: Model,
    recipe: &'a TrainRecipe,
    gradients: Gradients,
}

impl<'a> Trial<'a> {
    fn new(config: &Config, recipe: &'a TrainRecipe, kind: LayerConfig, layers: usize) -> Self {
        let mut config = config.clone();
        config.vocab_size = config.vocab_size.min(VOCABULARY_MAX);
        let mut kind = kind;
        if let (FeedForwardKind::Experts { count }, Some(experts)) = (&mut kind.feed_forward, config.experts) {
            *count = (*count).min(4 * experts.top_k);
        }
        config.layers = vec![kind; layers];
        let mut model = Model::random(config, 1);
        match &recipe.method {
            Method::Lora(lora) => adapt(&mut model, lora),
            // Layers of another kind may have the experts.
            Method::Routers => _ = model.mark_routers(),
            Method::Full => {}
        }
        if let Loading::Frozen(quantization) = recipe.loading() {
            for map in model.weights.linears_mut().into_iter().filter(|map| !map.weight.trained) {
                let matrix = map.weight.matrix.clone();
                map.weight.matrix = quantization.round(&map.weight.name, matrix).unwrap_or(map.weight.matrix.clone());
            }
        }
        Self { model, recipe, gradients: Gradients::default() }
    }

    /// Seconds of a forward and backward pass over one sequence.
    fn pass(&mut self, tokens: usize) -> f64 {
        let ids: Vec<u32> = (0..tokens).map(|i| ((i * 7919 + i * i) % self.model.config.vocab_size) as u32).collect();
        let weights = vec![1.0 / tokens as f32; tokens];
        let examples = Examples { tokens: &ids, lengths: &[tokens], targets: &ids, weights: &weights };
        let options = gradient_options(self.recipe, &self.model);
        let mut best = f64::INFINITY;
        for _ in 0..PASSES {
            self.gradients.clear();
            let began = Instant::now();
            loss_and_gradients(&self.model, &examples, &options, &mut self.gradients);
            best = best.min(began.elapsed().as_secs_f64());
        }
        best
    }

    /// Seconds of an update for each trained number.
    fn update(&mut self) -> f64 {
        let trained = self.model.parameters().into_iter().filter(|p| p.trained);
        let numbers: usize = trained.map(|p| p.matrix.rows * p.matrix.columns).sum();
        let mut optimizer = Optimizer::new(&self.model.parameters(), self.recipe);
        let began = Instant::now();
        let norm = optimizer.gradient_norm(&self.model.parameters(), &self.gradients);
        optimizer.update(self.model.parameters_mut(), &mut self.gradients, norm, 0.0);
        began.elapsed().as_secs_f64() / numbers.max(1) as f64
    }
}

/// Attaches what the recipe trains in these layers. Targets that only other layers have are none here, and layers
/// without any learn nothing.
fn adapt(model: &mut Model, lora: &LoraConfig) {
    let imagined = Model::imagined(model.config.clone(), Loading::F32, Format::F32);
    let alone = LoraConfig { patterns: Vec::new(), modules_to_save: Vec::new(), ..lora.clone() };
    let fits = |config: LoraConfig| adapter::outline(&mut imagined.clone(), &config).is_ok();
    let is_here = |target: &&String| fits(LoraConfig { targets: vec![(*target).clone()], ..alone.clone() });
    let targets: Vec<String> = lora.targets.iter().filter(is_here).cloned().collect();
    let with = |modules_to_save| LoraConfig { targets: targets.clone(), modules_to_save, ..alone.clone() };
    let is_saved = |module: &&String| fits(with(vec![(*module).clone()]));
    let modules_to_save = lora.modules_to_save.iter().filter(is_saved).cloned().collect();
    if adapter::attach(model, &with(modules_to_save), 1).is_err() {
        model.weights.visit_mut(&mut |parameter| parameter.trained = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_its_tokens_its_pairs_and_its_update() {
        let speed = Speed { token: 1e-3, pair: 1e-6, trained_number: 1e-9 };
        let wanted = 2.0 * (0.3 + 1e-6 * (100.0 * 100.0 + 200.0 * 200.0) / 2.0) + 0.005;
        assert!((speed.step(&[100, 200], 2, 5_000_000) - wanted).abs() < 1e-12);
    }

    #[test]
    fn what_is_measured_is_near_what_a_step_takes() {
        let text = include_str!("../../../recipes/base.config.json");
        let mut config = Config::from_json(text).expect("the shipped config reads");
        config.layers.truncate(4);
        let recipe = TrainRecipe { steps: Some(1), ..TrainRecipe::default() };
        let speed = measure(&config, &recipe);
        assert!(speed.token > 0.0 && speed.trained_number > 0.0, "{speed:?}");
        let mut whole = Trial { model: Model::random(config, 2), recipe: &recipe, gradients: Gradients::default() };
        let (planned, found) = (speed.step(&[512], 1, 0), whole.pass(512));
        // Other tests run beside this one: a factor, not a per cent.
        assert!(planned < 5.0 * found && found < 5.0 * planned, "planned {planned} s, took {found} s");
    }
}
