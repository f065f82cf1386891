//! What a user says about adapters that are to be trained.

use super::pattern::Pattern;
use super::places::{Place, Scaling, places, visit_mut};
use super::whole;
use crate::{Model, ModelError};
use numeric::{Format, Matrix, Rng};
use serde::{Deserialize, Serialize};

/// Which maps get an adapter, and what kind of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f32,
    /// Modules, by the last parts of their paths or by regular expressions for those: `q_proj`, `mlp.down_proj`,
    /// `layers\.[0-3]\..*_proj`. `experts` stands for the three projections of all routed experts. A router is adapted
    /// only where `gate` or a name that ends in `.gate` asks for it.
    pub targets: Vec<String>,
    /// Other ranks for some of them; the first that matches counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<LoraPattern>,
    /// Divide alpha by the root of the rank and not by the rank (rsLoRA).
    #[serde(default)]
    pub rank_stabilized: bool,
    /// Share of the inputs' numbers that adapters do not see in training.
    #[serde(default)]
    pub dropout: f32,
    /// The experts of a layer share the factor on the side of the residual stream: gate's and up's A, down's B.
    #[serde(default)]
    pub share_residual: bool,
    /// Modules that are trained whole and saved with the adapters, in the way of `targets`: `embed_tokens`, `lm_head`,
    /// `input_layernorm`, `conv1d`, `mlp.gate`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
    /// What the learning rate is multiplied with for B (LoRA+; Hayou, Ghosh and Yu 2024).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub b_rate_ratio: f64,
    /// What it is multiplied with for modules that are trained whole, which bear less than low-rank factors do.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub whole_rate_ratio: f64,
}

fn one() -> f64 {
    1.0
}

fn is_one(ratio: &f64) -> bool {
    *ratio == 1.0
}

/// A rank, an alpha, or both for the modules that `modules` matches, in the way of [`LoraConfig::targets`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraPattern {
    pub modules: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f32>,
}

impl LoraConfig {
    /// The same rank for all targets, as it was first described (Hu et al. 2021).
    pub fn new(rank: usize, alpha: f32, targets: &[&str]) -> Self {
        let targets = targets.iter().map(|&target| target.to_owned()).collect();
        Self {
            rank,
            alpha,
            targets,
            patterns: Vec::new(),
            rank_stabilized: false,
            dropout: 0.0,
            share_residual: false,
            modules_to_save: Vec::new(),
            b_rate_ratio: 1.0,
            whole_rate_ratio: 1.0,
        }
    }

    /// What is wrong with it whatever the model.
    pub fn check(&self) -> Result<(), ModelError> {
        let wrong = |what: String| Err(ModelError::Adapter(what));
        let ranks = self.patterns.iter().filter_map(|pattern| pattern.rank).chain([self.rank]);
        let alphas = self.patterns.iter().filter_map(|pattern| pattern.alpha).chain([self.alpha]);
        if ranks.into_iter().any(|rank| rank == 0) || alphas.into_iter().any(|a| !(a > 0.0 && a.is_finite())) {
            return wrong("a LoRA needs ranks of at least 1 and alphas above 0".into());
        }
        if self.targets.is_empty() {
            return wrong("a LoRA needs at least one target, such as \"q_proj\" or \"experts\"".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("dropout is {}; it is a share of at least 0 and below 1", self.dropout));
        }
        for (key, ratio) in [("b_rate_ratio", self.b_rate_ratio), ("whole_rate_ratio", self.whole_rate_ratio)] {
            if !(ratio > 0.0 && ratio.is_finite()) {
                return wrong(format!("{key} is {ratio}; give a number above 0"));
            }
        }
        self.modules_to_save.iter().try_for_each(|text| Pattern::new(text).map(drop))?;
        if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.rank.is_none() && pattern.alpha.is_none()) {
            return wrong(format!("the pattern {:?} gives neither a rank nor an alpha", pattern.modules));
        }
        self.compiled().map(|_| ())
    }

    fn compiled<'a>(&'a self) -> Result<Compiled<'a>, ModelError> {
        let pattern =
            |pattern: &'a LoraPattern| -> Result<_, ModelError> { Ok((Target::of(&pattern.modules)?, pattern)) };
        Ok(Compiled {
            config: self,
            targets: self.targets.iter().map(|target| Target::of(target)).collect::<Result<_, _>>()?,
            patterns: self.patterns.iter().map(pattern).collect::<Result<_, _>>()?,
        })
    }
}

/// What a target's text means.
enum Target {
    Experts,
    Matching { pattern: Pattern, names_router: bool },
}

impl Target {
    fn of(text: &str) -> Result<Self, ModelError> {
        if text == "experts" {
            return Ok(Self::Experts);
        }
        let names_router = text == "gate" || text.ends_with(".gate");
        Ok(Self::Matching { pattern: Pattern::new(text)?, names_router })
    }

    /// Of a bank, whether it matches all experts, some, or none.
    fn matches(&self, place: &Place) -> Result<bool, ModelError> {
        let (pattern, names_router) = match self {
            Self::Experts => return Ok(place.experts.is_some()),
            Self::Matching { pattern, names_router } => (pattern, *names_router),
        };
        if place.is_router() && !names_router {
            return Ok(false);
        }
        let Some(experts) = place.experts else { return Ok(pattern.matches(&place.name)) };
        let matching = (0..experts).filter(|&expert| pattern.matches(&place.module_of(expert))).count();
        match matching {
            0 => Ok(pattern.matches(&place.name)),
            all if all == experts => Ok(true),
            some => Err(ModelError::Adapter(format!(
                "{:?} matches {some} of the {experts} experts of {}; those of a layer are adapted alike, so write it \
                 for all of them",
                pattern.text(),
                place.name
            ))),
        }
    }
}

struct Compiled<'a> {
    config: &'a LoraConfig,
    targets: Vec<Target>,
    patterns: Vec<(Target, &'a LoraPattern)>,
}

impl Compiled<'_> {
    /// Rank and alpha, if it is a target.
    fn of(&self, place: &Place) -> Result<Option<(usize, f32)>, ModelError> {
        let matched: Vec<bool> = self.targets.iter().map(|target| target.matches(place)).collect::<Result<_, _>>()?;
        if !matched.contains(&true) {
            return Ok(None);
        }
        for (target, pattern) in &self.patterns {
            if target.matches(place)? {
                let (rank, alpha) = (pattern.rank.unwrap_or(self.config.rank), pattern.alpha);
                return Ok(Some((rank, alpha.unwrap_or(self.config.alpha))));
            }
        }
        Ok(Some((self.config.rank, self.config.alpha)))
    }

    /// Targets that match nothing in a model are mistakes: whoever wrote them thinks that they are trained.
    fn check_targets(&self, model: &Model) -> Result<(), ModelError> {
        let places = places(&model.weights);
        let texts = self.config.targets.iter().chain(self.config.patterns.iter().map(|pattern| &pattern.modules));
        for (target, text) in self.targets.iter().chain(self.patterns.iter().map(|(target, _)| target)).zip(texts) {
            let matched: Vec<bool> = places.iter().map(|place| target.matches(place)).collect::<Result<_, _>>()?;
            if !matched.contains(&true) {
                let known = last_names(&places).join(", ");
                return Err(ModelError::Adapter(format!(
                    "no module of this model is called {text:?}; there are {known}"
                )));
            }
        }
        Ok(())
    }
}

/// The last names of modules, each once.
fn last_names(places: &[Place]) -> Vec<&str> {
    let mut names: Vec<&str> = places.iter().filter_map(|place| place.name.rsplit('.').next()).collect();
    if places.iter().any(|place| place.experts.is_some()) {
        names.push("experts");
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Freezes the model but for the modules that are to be saved whole, and adds fresh adapters: A uniform within ±1/√in
/// (PEFT's start), B zero, so that nothing changes yet. Returns how many weights got one.
pub fn attach(model: &mut Model, config: &LoraConfig, seed: u64) -> Result<usize, ModelError> {
    let rng = Rng::new(seed);
    let make = |place: &Place, rank, alpha, at| fresh(place, rank, alpha, config, rng.fork(at as u64));
    attach_with(model, config, &make, &|matrix| Matrix::from_f32(matrix.rows, matrix.columns, matrix.to_f32()))
}

/// [`attach`] for a model without numbers: the adapters have none either.
pub fn outline(model: &mut Model, config: &LoraConfig) -> Result<usize, ModelError> {
    let widen = |matrix: &Matrix| Matrix::outline(matrix.rows, matrix.columns, Format::F32, false);
    let make = |place: &Place, rank, alpha, _| {
        let mut adapter = place.adapter([(vec![0, 1], vec![]), (vec![0, 1], vec![])], scaling(config, alpha));
        for (factor, shape) in [&mut adapter.a, &mut adapter.b].into_iter().zip(shapes(place, rank, config)) {
            let columns = shape[shape.len() - 1];
            let rows = shape[..shape.len() - 1].iter().product();
            (factor.shape, factor.matrix) = (shape, Matrix::outline(rows, columns, Format::F32, false));
        }
        adapter
    };
    attach_with(model, config, &make, &widen)
}

/// `make` is given the place, rank and alpha, and the place's number; `widen` makes a module that is trained whole f32.
fn attach_with(
    model: &mut Model,
    config: &LoraConfig,
    make: &dyn Fn(&Place, usize, f32, usize) -> ops::Adapter,
    widen: &dyn Fn(&Matrix) -> Matrix,
) -> Result<usize, ModelError> {
    config.check()?;
    let compiled = config.compiled()?;
    compiled.check_targets(model)?;
    let all = places(&model.weights);
    let chosen: Vec<Option<(usize, f32)>> = all.iter().map(|place| compiled.of(place)).collect::<Result<_, _>>()?;
    let whole = whole::chosen(model, &config.modules_to_save)?;
    let adapted = all.iter().zip(&chosen).filter(|(_, chosen)| chosen.is_some());
    if let Some((place, _)) = adapted.clone().find(|(place, _)| whole.contains(&format!("{}.weight", place.name))) {
        let problem = "is a target and one of modules_to_save; it learns in one way, so take it out of the other";
        return Err(ModelError::Adapter(format!("{} {problem}", place.name)));
    }
    model.weights.visit_mut(&mut |parameter| parameter.trained = false);
    whole::mark(model, &whole, widen);
    let (mut at, mut attached) = (0, 0);
    visit_mut(&mut model.weights, &mut |place, slot| {
        if let Some((rank, alpha)) = chosen[at] {
            *slot = Some(make(&place, rank, alpha, at));
            attached += place.experts.unwrap_or(1);
        }
        at += 1;
    });
    model.renumber();
    Ok(attached)
}

fn fresh(place: &Place, rank: usize, alpha: f32, config: &LoraConfig, mut rng: Rng) -> ops::Adapter {
    let [a, b] = shapes(place, rank, config);
    let bound = (place.inputs as f64).sqrt().recip();
    let start = (0..a.iter().product()).map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32).collect();
    let zeros = vec![0.0; b.iter().product()];
    place.adapter([(a, start), (b, zeros)], scaling(config, alpha))
}

fn scaling(config: &LoraConfig, alpha: f32) -> Scaling {
    Scaling { alpha, rank_stabilized: config.rank_stabilized, dropout: config.dropout }
}

/// Of both factors.
fn shapes(place: &Place, rank: usize, config: &LoraConfig) -> [Vec<usize>; 2] {
    let is_down = place.name.ends_with("down_proj");
    let factor = |rows: usize, columns: usize, is_residual: bool| match place.experts {
        Some(experts) if !(config.share_residual && is_residual) => vec![experts, rows, columns],
        _ => vec![rows, columns],
    };
    [factor(rank, place.inputs, !is_down), factor(place.outputs, rank, is_down)]
}
