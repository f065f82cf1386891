//! What a recipe's training table says, and the checks that can be made before anything is loaded.

use crate::error::TrainError;
use crate::schedule::{Decay, Schedule};
use models::adapter::LoraConfig;
use models::{CHUNK_TOKENS, Loading, Quantization};
use numeric::Format;
use prepare::{LoaderSettings, Packing};
use serde::{Deserialize, Serialize};

/// The table of a training stage. Every key has a default but the length: `steps` or `epochs`, one of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainRecipe {
    /// Optimizer steps.
    pub steps: Option<usize>,
    /// Passes over the data, instead of steps.
    pub epochs: Option<f64>,
    pub learning_rate: f64,
    pub warmup_steps: usize,
    /// What the learning rate does after the warm-up.
    pub schedule: Decay,
    /// The part of the steps in which `schedule = "wsd"` goes down.
    pub decay_share: f64,
    /// The last learning rate as a share of the highest, unless it is constant.
    pub final_ratio: f64,
    /// Tokens of one optimizer step, over all its micro-batches.
    pub batch_tokens: usize,
    /// Micro-batches per optimizer step: more of them need less memory.
    pub accumulation: usize,
    pub sequence_length: usize,
    pub packing: Packing,
    /// The gradient is scaled down where its norm is larger; 0 never does.
    pub clip: f64,
    /// An update is left out, and counted, where the gradient's norm is more than so many times its usual one; 0 leaves
    /// none out.
    pub skip_spikes: f64,
    pub betas: [f64; 2],
    pub epsilon: f64,
    /// Pulls matrices towards zero. Norms, biases and other vectors are left alone.
    pub weight_decay: f64,
    pub seed: u64,
    pub precision: TrainPrecision,
    /// Tokens that go through a layer at a time: a longer micro-batch is cut into such chunks, and sequences with it.
    pub chunk_tokens: usize,
    /// Keep only each layer's input and compute its inside again on the way back.
    pub checkpoint_layers: bool,
    /// Weight of the router's balancing loss. 0 here, unlike the 0.001 that others add without saying so.
    pub auxiliary_coefficient: f32,
    pub method: Method,
    /// The format that the base is frozen in while adapters learn (QLoRA). Unsaid, it stays f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<FrozenFormat>,
    /// Steps between validations, the first before any step; 0 validates at the end only.
    pub evaluate_every: usize,
    /// Steps between trials on katas, which are slow beside a validation; 0 makes none.
    pub tasks_every: usize,
    /// Katas of each kind in such a trial.
    pub tasks: u64,
    /// The model that the run ends with.
    pub result: ResultModel,
    /// Validations in a row without a new lowest loss that end the run early; 0 never does.
    pub patience: usize,
    /// What a loss must be lower by to be a new lowest one.
    pub patience_gain: f64,
    /// Steps between checkpoints; 0 writes one after the first step, to prove that it can be done, and one at the end
    /// or on interruption.
    pub save_every: usize,
    /// Checkpoints kept, newest first.
    pub keep_last: usize,
}

/// Which of a run's models is its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultModel {
    /// That of the last step.
    #[default]
    Last,
    /// That with the lowest validation loss; its checkpoint is kept besides the last ones.
    Best,
}

/// What matrix products compute in; sums, norms and the optimizer are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainPrecision {
    #[default]
    F32,
    Bf16,
}

/// Which parameters learn.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// All of them.
    #[default]
    Full,
    /// A low-rank addition to the named modules; the rest stays as it is.
    Lora(LoraConfig),
    /// The rows that choose experts, and nothing else: the cheapest recovery after experts were taken away.
    Routers,
}

/// What a base may be frozen in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrozenFormat {
    Nvfp4,
    Mxfp4,
    Q8_0,
}

impl FrozenFormat {
    pub fn format(self) -> Format {
        match self {
            Self::Nvfp4 => Format::Nvfp4,
            Self::Mxfp4 => Format::Mxfp4,
            Self::Q8_0 => Format::Q8_0,
        }
    }
}

impl Method {
    /// For people, and for reports that lay runs side by side.
    pub fn in_words(&self) -> String {
        match self {
            Self::Full => "all parameters".to_owned(),
            Self::Routers => "routers".to_owned(),
            Self::Lora(lora) => {
                let beside = match lora.modules_to_save.as_slice() {
                    [] => String::new(),
                    names => format!(", and {} whole", names.join(", ")),
                };
                format!("LoRA of rank {} on {}{beside}", lora.rank, lora.targets.join(", "))
            }
        }
    }

    /// What the learning rate is multiplied with for the parameter of this name.
    pub fn rate_ratio(&self, parameter: &str) -> f64 {
        match self {
            Self::Full | Self::Routers => 1.0,
            Self::Lora(_) if parameter.ends_with(".lora_A.weight") => 1.0,
            Self::Lora(lora) if parameter.ends_with(".lora_B.weight") => lora.b_rate_ratio,
            Self::Lora(lora) => lora.whole_rate_ratio,
        }
    }
}

impl Default for TrainRecipe {
    fn default() -> Self {
        Self {
            steps: None,
            epochs: None,
            learning_rate: 2e-5,
            warmup_steps: 0,
            schedule: Decay::Cosine,
            decay_share: 0.1,
            final_ratio: 0.1,
            batch_tokens: 8192,
            accumulation: 1,
            sequence_length: 1024,
            packing: Packing::BestFit,
            clip: 1.0,
            skip_spikes: 0.0,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            weight_decay: 0.0,
            seed: 0,
            precision: TrainPrecision::F32,
            chunk_tokens: CHUNK_TOKENS,
            checkpoint_layers: false,
            auxiliary_coefficient: 0.0,
            method: Method::Full,
            quantize: None,
            evaluate_every: 0,
            tasks_every: 0,
            tasks: 5,
            result: ResultModel::Last,
            patience: 0,
            patience_gain: 0.0,
            save_every: 0,
            keep_last: 1,
        }
    }
}

impl TrainRecipe {
    /// What is wrong with it, in the words of its author's keys.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |what: String| Err(TrainError::Recipe { what });
        let unit = |value: f64| (0.0..1.0).contains(&value);
        match (self.steps, self.epochs) {
            (Some(0), _) => return wrong("steps is 0: there is nothing to do".into()),
            (_, Some(epochs)) if !(epochs > 0.0 && epochs.is_finite()) => {
                return wrong(format!("epochs is {epochs}; give a number above 0"));
            }
            (Some(_), Some(_)) => return wrong("both steps and epochs are given; keep one".into()),
            (None, None) => return wrong("neither steps nor epochs is given; add `steps = 1000`, say".into()),
            _ => {}
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return wrong(format!("learning_rate is {}; give a number above 0", self.learning_rate));
        }
        if self.sequence_length < 2 || self.accumulation == 0 || self.keep_last == 0 {
            return wrong("sequence_length must be at least 2, accumulation and keep_last at least 1".into());
        }
        if self.chunk_tokens == 0 {
            return wrong(format!("chunk_tokens is 0; leave it out for {CHUNK_TOKENS}"));
        }
        let unit_tokens = self.sequence_length * self.accumulation;
        if self.batch_tokens == 0 || !self.batch_tokens.is_multiple_of(unit_tokens) {
            return wrong(format!(
                "batch_tokens is {}, not a multiple of sequence_length × accumulation = {} × {} = {unit_tokens}",
                self.batch_tokens, self.sequence_length, self.accumulation
            ));
        }
        if !self.betas.iter().all(|&beta| unit(beta)) || self.epsilon <= 0.0 {
            return wrong(format!(
                "betas must lie in [0, 1) and epsilon above 0, not {:?}, {}",
                self.betas, self.epsilon
            ));
        }
        let others = [self.clip, self.weight_decay, f64::from(self.auxiliary_coefficient)];
        if !(0.0..=1.0).contains(&self.final_ratio) || others.iter().any(|&x| !(x >= 0.0 && x.is_finite())) {
            return wrong(
                "final_ratio must lie in [0, 1]; clip, weight_decay and auxiliary_coefficient must not be negative"
                    .into(),
            );
        }
        self.check_looks()?;
        match &self.method {
            Method::Lora(lora) => lora.check().or_else(|error| wrong(format!("method.lora: {error}"))),
            Method::Full | Method::Routers if self.quantize.is_some() => wrong(
                "quantize freezes the base under adapters, and the model itself is trained; add method.lora".into(),
            ),
            Method::Full | Method::Routers => Ok(()),
        }
    }

    /// What a run looks at on its way, and what follows from it.
    fn check_looks(&self) -> Result<(), TrainError> {
        let wrong = |what: String| Err(TrainError::Recipe { what });
        if !(self.decay_share > 0.0 && self.decay_share <= 1.0) {
            return wrong(format!("decay_share is {}; give a part of the steps, in (0, 1]", self.decay_share));
        }
        if !(self.skip_spikes == 0.0 || self.skip_spikes > 1.0 && self.skip_spikes.is_finite()) {
            return wrong(format!(
                "skip_spikes is {}; give a multiple of the usual gradient norm above 1 (10, say), or 0 for none",
                self.skip_spikes
            ));
        }
        if !(self.patience_gain >= 0.0 && self.patience_gain.is_finite()) {
            return wrong(format!("patience_gain is {}; give 0 or more", self.patience_gain));
        }
        if self.tasks_every > 0 && self.tasks == 0 {
            return wrong("tasks_every is given and tasks is 0: say how many, or leave tasks_every out".into());
        }
        match (self.result, self.patience, self.evaluate_every) {
            (ResultModel::Best, _, 0) => wrong(
                "result = \"best\" compares validations; say how many steps lie between them: evaluate_every = 100"
                    .into(),
            ),
            (ResultModel::Last, 1.., _) => wrong(
                "patience ends a run some validations after its best one; add result = \"best\" to keep that model"
                    .into(),
            ),
            _ => Ok(()),
        }
    }

    /// How the model's weights come into memory.
    pub fn loading(&self) -> Loading {
        self.quantize.map_or(Loading::F32, |format| Loading::Frozen(Quantization::to(format.format())))
    }

    /// How the data becomes micro-batches.
    pub fn loader_settings(&self) -> LoaderSettings {
        LoaderSettings {
            sequence_length: self.sequence_length,
            sequences: self.batch_tokens / (self.sequence_length * self.accumulation),
            packing: self.packing,
            seed: self.seed,
        }
    }

    /// Optimizer steps, given how many packed sequences one epoch has.
    pub fn total_steps(&self, epoch_sequences: usize) -> usize {
        let per_step = self.batch_tokens / self.sequence_length;
        match (self.steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, Some(epochs)) => ((epoch_sequences as f64 * epochs / per_step as f64).ceil() as usize).max(1),
            (None, None) => unreachable!("check() refuses a recipe without a length"),
        }
    }

    pub fn schedule(&self, steps: usize) -> Schedule {
        Schedule {
            peak: self.learning_rate,
            floor_ratio: self.final_ratio,
            warmup_steps: self.warmup_steps,
            steps,
            decay: self.schedule,
            decay_share: self.decay_share,
        }
    }

    /// The recipe as one line. Two runs of equal text and equal data are the same run; how often a run looks at itself
    /// or saves changes nothing and is left out.
    pub fn identity(&self) -> String {
        // Where the result is the best of all validations, they do change it.
        let evaluate_every = if self.result == ResultModel::Best { self.evaluate_every } else { 0 };
        let same = Self { evaluate_every, tasks_every: 0, tasks: 0, save_every: 0, keep_last: 1, ..self.clone() };
        serde_json::to_string(&same).expect("a recipe is plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::adapter::LoraPattern;

    fn parse(text: &str) -> Result<TrainRecipe, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn defaults_fill_in_and_unknown_keys_are_refused_by_name() {
        let recipe = parse("steps = 10\nlearning_rate = 1e-3").expect("a small recipe is enough");
        assert!(recipe.check().is_ok());
        assert_eq!((recipe.total_steps(999), recipe.loader_settings().sequences), (10, 8));
        let error = parse("steps = 10\nlearing_rate = 1e-3").expect_err("a typo is an error").to_string();
        assert!(error.contains("learing_rate"), "{error}");
    }

    #[test]
    fn lora_is_a_table_of_its_own() {
        let text = "epochs = 2.0\n[method.lora]\nrank = 8\nalpha = 16.0\ntargets = [\"q_proj\", \"experts\"]";
        let recipe = parse(text).expect("method.lora");
        assert!(matches!(&recipe.method, Method::Lora(lora) if lora.rank == 8 && lora.targets.len() == 2));
        assert_eq!(recipe.total_steps(100), 25);
        assert_eq!(recipe.loading(), Loading::F32);
        let frozen = parse(&format!("quantize = \"nvfp4\"\n{text}")).expect("a frozen base");
        assert_eq!(frozen.loading(), Loading::Frozen(Quantization::to(Format::Nvfp4)));
        assert!(frozen.check().is_ok());
        assert!(parse(&format!("quantize = \"int3\"\n{text}")).is_err());
        let text = "steps = 1\n[method.lora]\nrank = 8\nalpha = 1.0\ntargets = [\"experts\", 'layers\\.[01]\\..*']\n\
                    dropout = 0.1\nrank_stabilized = true\nshare_residual = true\nb_rate_ratio = 16\n\
                    whole_rate_ratio = 0.2\nmodules_to_save = [\"embed_tokens\"]\n\
                    [[method.lora.patterns]]\nmodules = \"down_proj\"\nrank = 2\n\
                    [[method.lora.patterns]]\nmodules = \"experts\"\nrank = 4\nalpha = 2.5";
        let recipe = parse(text).expect("all of its options");
        recipe.check().expect("they are sound");
        let Method::Lora(lora) = &recipe.method else { panic!("it is a LoRA") };
        assert_eq!((lora.dropout, lora.rank_stabilized, lora.share_residual), (0.1, true, true));
        assert_eq!((lora.b_rate_ratio, lora.whole_rate_ratio), (16.0, 0.2));
        let words = recipe.method.in_words();
        assert!(words.ends_with("layers\\.[01]\\..*, and embed_tokens whole"), "{words}");
        let pattern = |modules: &str, rank, alpha| LoraPattern { modules: modules.into(), rank: Some(rank), alpha };
        assert_eq!(lora.patterns, [pattern("down_proj", 2, None), pattern("experts", 4, Some(2.5))]);
        let error =
            parse("steps = 1\n[method.lora]\nrank = 8\nalpha = 1.0\ntargets = []\ndropuot = 0.1").expect_err("a typo");
        assert!(error.to_string().contains("dropuot"), "{error}");
    }

    #[test]
    fn routers_alone_are_a_method() {
        let recipe = parse("steps = 5\nmethod = \"routers\"").expect("a method without a table");
        assert_eq!((&recipe.method, recipe.method.in_words().as_str()), (&Method::Routers, "routers"));
        assert!(recipe.check().is_ok());
    }

    #[test]
    fn what_cannot_work_is_said_beforehand() {
        let cases = [
            ("", "neither steps nor epochs"),
            ("steps = 1\nepochs = 1.0", "keep one"),
            ("steps = 1\nbatch_tokens = 1000", "multiple of sequence_length"),
            ("steps = 1\nlearning_rate = 0.0", "learning_rate"),
            ("steps = 1\nbetas = [1.0, 0.9]", "betas"),
            ("steps = 1\nclip = -1.0", "negative"),
            ("steps = 1\nschedule = \"wsd\"\ndecay_share = 0.0", "decay_share"),
            ("steps = 1\nskip_spikes = 0.5", "skip_spikes"),
            ("steps = 1\nresult = \"best\"", "evaluate_every"),
            ("steps = 1\nevaluate_every = 1\npatience = 2", "result = \"best\""),
            ("steps = 1\ntasks_every = 5\ntasks = 0", "tasks"),
            ("steps = 1\nchunk_tokens = 0", "chunk_tokens"),
            ("steps = 1\nquantize = \"q8_0\"", "add method.lora"),
            ("steps = 1\n[method.lora]\nrank = 0\nalpha = 1.0\ntargets = [\"q_proj\"]", "rank"),
            ("steps = 1\n[method.lora]\nrank = 1\nalpha = 1.0\ntargets = []", "at least one target"),
            ("steps = 1\n[method.lora]\nrank = 1\nalpha = 1.0\ntargets = [\"(q_proj\"]", "regular expression"),
            (
                "steps = 1\n[method.lora]\nrank = 1\nalpha = 1.0\ntargets = [\"o_proj\"]\nb_rate_ratio = 0.0",
                "b_rate_ratio is 0",
            ),
            ("steps = 1\n[method.lora]\nrank = 1\nalpha = 1.0\ndropout = 1.0\ntargets = [\"q_proj\"]", "dropout is 1"),
        ];
        for (text, wanted) in cases {
            let error = parse(text).expect("well-formed").check().expect_err(text).to_string();
            assert!(error.contains(wanted), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn identity_ignores_how_often_a_run_saves_and_nothing_else() {
        let base = parse("steps = 10").expect("recipe");
        assert_eq!(base.identity(), TrainRecipe { save_every: 7, ..base.clone() }.identity());
        assert_ne!(base.identity(), TrainRecipe { seed: 7, ..base.clone() }.identity());
        let best = TrainRecipe { result: ResultModel::Best, evaluate_every: 5, ..base.clone() };
        assert_ne!(best.identity(), TrainRecipe { evaluate_every: 6, ..best.clone() }.identity());
        assert_eq!(base.identity(), TrainRecipe { evaluate_every: 6, tasks_every: 3, ..base.clone() }.identity());
    }

    #[test]
    fn schedules_have_their_usual_names() {
        for (name, decay) in [
            ("cosine", Decay::Cosine),
            ("linear", Decay::Linear),
            ("constant", Decay::Constant),
            ("wsd", Decay::Wsd),
            ("warmup_stable_decay", Decay::Wsd),
        ] {
            let recipe = parse(&format!("steps = 10\nschedule = \"{name}\"")).expect(name);
            assert_eq!(recipe.schedule(10).decay, decay);
        }
        let error = parse("steps = 1\nschedule = \"cosin\"").expect_err("a misspelt schedule").to_string();
        assert!(error.contains("cosin") && error.contains("linear"), "{error}");
    }
}
