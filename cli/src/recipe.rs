//! Recipes: a TOML file with the stages of a build, in order. Every stage is a typed table; a key that nobody knows is
//! an error with its place in the file, because a misspelt key would otherwise be a silent default.

use crate::failure::Problem;
use anyhow::{Context, Result};
use compress::{MergeRecipe, PlanRecipe, QuantizeRecipe};
use evaluate::EvaluateRecipe;
use prepare::DataRecipe;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use train::{DistillRecipe, TrainRecipe};

/// A whole build.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// The folder under `runs/`: the file's name.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) stages: Vec<Stage>,
    pub(crate) path: PathBuf,
}

/// One `[[stage]]`.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: String,
    /// The model it starts from: an earlier stage or any model by name. Unsaid, the model of the stage before, and for
    /// the first stage the base model that comes with the program.
    pub(crate) from: Option<String>,
    pub(crate) work: Work,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    Pretrain(Pretrain),
    Sft(Training),
    Prune(Prune),
    Recover(Training),
    Distill(Box<Distill>),
    Quantize(Quantize),
    Evaluate(Evaluation),
}

/// What `kind` may say.
const KINDS: [&str; 7] = ["pretrain", "sft", "prune", "recover", "distill", "quantize", "evaluate"];

/// A stage's table: what the stage itself asks for, and the three keys that every stage may have, which are read
/// beforehand. Those are no part of a stage's hash: a name changes nothing, and the model it starts from is hashed
/// itself.
macro_rules! stage_table {
    ($(#[$about:meta])* $name:ident { $($(#[$field_about:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            #[serde(default, skip_serializing, rename = "kind")]
            _kind: IgnoredAny,
            #[serde(default, skip_serializing, rename = "name")]
            _name: IgnoredAny,
            #[serde(default, skip_serializing, rename = "from")]
            _from: IgnoredAny,
            $($(#[$field_about])* pub(crate) $field: $type,)*
        }
    };
}

stage_table! {
    /// A model from nothing: its shape, its tokenizer, and what it reads.
    Pretrain {
        /// The config.json of the new model: beside the recipe, or a path from the working directory.
        config: PathBuf,
        #[serde(default)]
        tokenizer: TokenizerSource,
        data: DataRecipe,
        train: TrainRecipe,
        #[serde(default)]
        save: SaveFormat,
    }
}

stage_table! {
    /// More training of a model: fine-tuning, or recovery after something was taken away.
    Training {
        data: DataRecipe,
        train: TrainRecipe,
        #[serde(default)]
        save: SaveFormat,
    }
}

stage_table! {
    /// Training a model after a teacher: recovery that knows what was lost.
    Distill {
        /// The stage or model that it learns from.
        teacher: String,
        data: DataRecipe,
        train: TrainRecipe,
        #[serde(default)]
        distill: DistillRecipe,
        #[serde(default)]
        save: SaveFormat,
    }
}

stage_table! {
    /// Fewer experts: some go, some become part of others.
    Prune {
        /// Experts that stay in each layer; unsaid, `plan` says how many.
        #[serde(default)]
        keep: Option<usize>,
        /// How it is decided what becomes of each expert.
        #[serde(default)]
        plan: PlanRecipe,
        /// How experts become part of others; where this is said they do.
        #[serde(default)]
        merge: Option<MergeRecipe>,
        /// What the experts are watched on.
        data: DataRecipe,
        /// Tokens of it, at most.
        #[serde(default = "calibration_tokens")]
        tokens: usize,
        #[serde(default)]
        save: SaveFormat,
    }
}

stage_table! {
    /// Fewer bits.
    Quantize {
        #[serde(default)]
        formats: QuantizeRecipe,
    }
}

stage_table! {
    /// Measuring the models of stages before.
    Evaluation {
        /// Stages; unsaid, all before that made a model.
        #[serde(default)]
        stages: Option<Vec<String>>,
        /// The stage or model that all are compared with.
        #[serde(default)]
        teacher: Option<String>,
        #[serde(default)]
        measure: EvaluateRecipe,
    }
}

impl Prune {
    /// The whole of what is said about planning.
    pub(crate) fn plan(&self) -> PlanRecipe {
        let mut plan = self.plan.clone();
        plan.keep = self.keep.or(plan.keep);
        plan.merge |= self.merge.is_some();
        plan
    }
}

/// Where a new model's tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TokenizerSource {
    /// A model whose tokenizer is taken as it is; unsaid, one is trained on the stage's data with as many tokens as the
    /// config has rows.
    pub(crate) from: Option<String>,
    /// Katas to train it on, at most.
    pub(crate) documents: usize,
}

impl Default for TokenizerSource {
    fn default() -> Self {
        Self { from: None, documents: 10_000 }
    }
}

/// What a stage's weights are stored as, before any quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SaveFormat {
    F32,
    #[default]
    Bf16,
}

fn calibration_tokens() -> usize {
    100_000
}

impl Work {
    /// The kind as recipes name it.
    pub(crate) fn kind(&self) -> &'static str {
        let index = match self {
            Self::Pretrain(_) => 0,
            Self::Sft(_) => 1,
            Self::Prune(_) => 2,
            Self::Recover(_) => 3,
            Self::Distill(_) => 4,
            Self::Quantize(_) => 5,
            Self::Evaluate(_) => 6,
        };
        KINDS[index]
    }

    /// Whether the stage's folder holds a model afterwards.
    pub(crate) fn makes_a_model(&self) -> bool {
        !matches!(self, Self::Evaluate(_))
    }

    pub(crate) fn seed(&self) -> u64 {
        match self {
            Self::Pretrain(work) => work.train.seed,
            Self::Sft(work) | Self::Recover(work) => work.train.seed,
            Self::Distill(work) => work.train.seed,
            Self::Prune(work) => work.data.seed,
            Self::Quantize(_) => 0,
            Self::Evaluate(work) => work.measure.seed,
        }
    }

    /// The stage's table as far as it decides what the stage makes: how often training looks at itself or saves is left
    /// out, and whether a teacher is in memory.
    pub(crate) fn identity(&self) -> Result<Value> {
        let Value::Object(by_kind) = serde_json::to_value(self)? else { return Ok(Value::Null) };
        let mut table = by_kind.into_iter().next().map_or(Value::Null, |(_, table)| table);
        if let Some(train) = self.training() {
            table["train"] = serde_json::from_str(&train.identity())?;
        }
        if let Some(distill) = table.get_mut("distill").and_then(Value::as_object_mut) {
            distill.remove("teacher_memory");
        }
        Ok(table)
    }

    /// How it trains, if it does.
    pub(crate) fn training(&self) -> Option<&TrainRecipe> {
        match self {
            Self::Pretrain(work) => Some(&work.train),
            Self::Sft(work) | Self::Recover(work) => Some(&work.train),
            Self::Distill(work) => Some(&work.train),
            Self::Prune(_) | Self::Quantize(_) | Self::Evaluate(_) => None,
        }
    }

    pub(crate) fn is_training(&self) -> bool {
        self.training().is_some()
    }
}

impl Pretrain {
    /// The config file, looked for beside the recipe first.
    pub(crate) fn config_path(&self, recipe: &Path) -> PathBuf {
        let beside = recipe.parent().map(|folder| folder.join(&self.config)).filter(|path| path.is_file());
        beside.unwrap_or_else(|| self.config.clone())
    }
}

impl Recipe {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the recipe {}", path.display()))?;
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("recipe").to_owned();
        let recipe = Self::parse(&text, path, name)?;
        recipe.check()?;
        Ok(recipe)
    }

    fn parse(text: &str, path: &Path, name: String) -> Result<Self, Problem> {
        let place = Place { text, path };
        let outline: Outline = toml::from_str(text).map_err(|error| place.problem(&error))?;
        let mut kinds = Vec::new();
        for header in &outline.stages {
            let kind = header.as_ref().kind.clone().ok_or_else(|| {
                place.at(Some(header.span()), "this stage has no kind", &format!("kind is one of {}", KINDS.join(", ")))
            })?;
            if !KINDS.contains(&kind.as_ref().as_str()) {
                let message = format!("there is no kind of stage {:?}", kind.as_ref());
                return Err(place.at(Some(kind.span()), &message, &format!("kind is one of {}", KINDS.join(", "))));
            }
            kinds.push(kind.into_inner());
        }
        let document = toml::Deserializer::parse(text).map_err(|error| place.problem(&error))?;
        let works = Document(&kinds).deserialize(document).map_err(|error| place.problem(&error))?;
        let stage = |(header, work): (Spanned<Header>, Work)| {
            let header = header.into_inner();
            Stage { name: header.name.unwrap_or_else(|| work.kind().to_owned()), from: header.from, work }
        };
        let stages = outline.stages.into_iter().zip(works).map(stage).collect();
        Ok(Self { title: outline.title.unwrap_or_else(|| name.clone()), name, stages, path: path.to_owned() })
    }

    /// What types cannot say: names are folders, there is something to start from, and the stages' own checks.
    fn check(&self) -> Result<()> {
        let problem =
            |message: String, hint: &str| Err(Problem::new(format!("{}: {message}", self.path.display()), hint).into());
        if self.stages.is_empty() {
            return problem("there is no stage".into(), "add a [[stage]] with a kind");
        }
        let mut names = BTreeSet::new();
        for stage in &self.stages {
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if stage.name.is_empty() || stage.name.starts_with('.') || !stage.name.chars().all(good) {
                let hint = "a name becomes a folder: letters, digits, '-', '_' and '.'";
                return problem(format!("{:?} cannot be the name of a stage", stage.name), hint);
            }
            if !names.insert(&stage.name) {
                let hint = "give each stage a name of its own: name = \"…\"";
                return problem(format!("two stages are called {:?}", stage.name), hint);
            }
            let of = || format!("{}, stage {:?}", self.path.display(), stage.name);
            match &stage.work {
                Work::Pretrain(work) => {
                    work.train.check().with_context(of)?;
                    work.data.check().with_context(of)?;
                }
                Work::Sft(work) | Work::Recover(work) => {
                    work.train.check().with_context(of)?;
                    work.data.check().with_context(of)?;
                }
                Work::Distill(work) => {
                    work.train.check().with_context(of)?;
                    work.distill.check(&work.train).with_context(of)?;
                    work.data.check().with_context(of)?;
                }
                Work::Prune(work) => {
                    work.data.check().with_context(of)?;
                    work.plan().check().with_context(of)?;
                    work.merge.as_ref().map_or(Ok(()), MergeRecipe::check).with_context(of)?;
                }
                Work::Quantize(_) | Work::Evaluate(_) => {}
            }
        }
        Ok(())
    }
}

/// The first reading: which stages there are.
#[derive(Deserialize)]
struct Outline {
    title: Option<String>,
    #[serde(default, rename = "stage")]
    stages: Vec<Spanned<Header>>,
}

#[derive(Deserialize)]
struct Header {
    kind: Option<Spanned<String>>,
    name: Option<String>,
    from: Option<String>,
}

/// The second reading: each stage as the type that its kind asks for. Types are read straight from the file, not by
/// way of a buffer, so that an error knows its place.
struct Document<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Vec<Work>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Work>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Vec<Work>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recipe: a title and [[stage]] tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Work>, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Key {
            Title,
            Stage,
        }
        let mut stages = Vec::new();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Title => drop(map.next_value::<IgnoredAny>()?),
                Key::Stage => stages = map.next_value_seed(Stages(self.0))?,
            }
        }
        Ok(stages)
    }
}

struct Stages<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Stages<'_> {
    type Value = Vec<Work>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Work>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Stages<'_> {
    type Value = Vec<Work>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[[stage]] tables")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Work>, A::Error> {
        let mut works = Vec::new();
        for kind in self.0 {
            works.extend(seq.next_element_seed(OfKind(kind))?);
        }
        Ok(works)
    }
}

struct OfKind<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for OfKind<'_> {
    type Value = Work;

    fn deserialize<D: Deserializer<'de>>(self, table: D) -> Result<Work, D::Error> {
        match self.0 {
            "pretrain" => Pretrain::deserialize(table).map(Work::Pretrain),
            "sft" => Training::deserialize(table).map(Work::Sft),
            "prune" => Prune::deserialize(table).map(Work::Prune),
            "recover" => Training::deserialize(table).map(Work::Recover),
            "distill" => Distill::deserialize(table).map(Box::new).map(Work::Distill),
            "quantize" => Quantize::deserialize(table).map(Work::Quantize),
            "evaluate" => Evaluation::deserialize(table).map(Work::Evaluate),
            other => Err(D::Error::custom(format!("there is no kind of stage {other:?}"))),
        }
    }
}

/// Turns a parser's error into one with the file and the line.
struct Place<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Place<'_> {
    fn problem(&self, error: &toml::de::Error) -> Problem {
        let message = error.message();
        let hint = match similar_key(message) {
            Some(key) => format!("did you mean {key}?"),
            None => "recipes/tiny.toml shows a whole recipe".to_owned(),
        };
        self.at(error.span(), message, &hint)
    }

    fn at(&self, span: Option<Range<usize>>, message: &str, hint: &str) -> Problem {
        let line = span.map(|span| self.text[..span.start.min(self.text.len())].matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |line| format!(":{line}"));
        Problem::new(format!("{}{place}: {message}", self.path.display()), hint)
    }
}

/// In "unknown field `a`, expected one of `b`, `c`": the expected name that is nearly the unknown one.
fn similar_key(message: &str) -> Option<&str> {
    if !message.starts_with("unknown") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let (distance, name) = names.map(|name| (edit_distance(unknown, name), name)).min()?;
    (distance <= 1 + unknown.len() / 4).then_some(name)
}

/// Characters to insert, remove or replace (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
