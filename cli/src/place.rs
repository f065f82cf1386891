//! Where a model is that a person names: a folder, a GGUF file, a run, a stage of a run, or a model that came with the
//! program.

use crate::failure::Problem;
use crate::gguf;
use crate::memory::Planned;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use formats::{Gguf, Tensors};
use models::adapter::{self, ExpertLayout, Import};
use models::{Loading, Model, ModelError, PlanSettings, Quantization};
use numeric::Format;
use std::path::{Path, PathBuf};
use text::{Message, RenderOptions, Renderer, Role, Template, Tokenizer, ToolCall, ToolDefinition};

/// Where `lateen build` writes.
pub(crate) const RUNS: &str = "runs";

const CONFIG: &str = "config.json";

/// The model that `name` means, for reading: a GGUF file, or a folder.
pub(crate) fn model_place(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    match gguf::is_named(path) && !path.is_dir() {
        true if path.is_file() => Ok(path.to_owned()),
        true => Err(Problem::new(format!("there is no file {name}"), "give the path of a GGUF file").into()),
        false => model_directory(name),
    }
}

/// The model folder that `name` means, also for what writes another model. Tried in this order: the folder of that
/// name, `runs/<name>` (a stage, or the last finished stage of a run), the models that come with the program. `tiny`
/// without a run is the base model.
pub(crate) fn model_directory(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.join(CONFIG).is_file() {
        return Ok(path.to_owned());
    }
    if path.is_file() && gguf::is_named(path) {
        let message = format!("{name} is a GGUF file, which can be run and measured, but not trained or pruned");
        return Err(Problem::new(message, "give the model folder that it was made from").into());
    }
    let runs = if path.starts_with(RUNS) { path.to_owned() } else { Path::new(RUNS).join(name) };
    for run in [path, &runs] {
        if run.join(CONFIG).is_file() {
            return Ok(run.to_owned());
        }
        if let Some(stage) = last_stage(run) {
            return Ok(stage);
        }
    }
    let shipped = if name == "tiny" { "base" } else { name };
    let places = fixtures().flat_map(|fixtures| [fixtures.join(shipped), fixtures.join("oracle").join(shipped)]);
    if let Some(fixture) = places.into_iter().find(|path| path.join(CONFIG).is_file()) {
        return Ok(fixture);
    }
    if shipped == "base"
        && let Some(unpacked) = crate::shipped::base()?
    {
        return Ok(unpacked);
    }
    Err(not_found(name, path).into())
}

/// The folders that a name means, of those that are wanted: itself, also under `runs/`, or each folder of a run that
/// is, in order; none where there is no such folder.
pub(crate) fn stage_folders(name: &str, is_wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    for place in [PathBuf::from(name), Path::new(RUNS).join(name)] {
        if is_wanted(&place) {
            return vec![place];
        }
        let stages = std::fs::read_dir(place).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let mut stages: Vec<PathBuf> = stages.filter(|stage| is_wanted(stage)).collect();
        stages.sort();
        if !stages.is_empty() {
            return stages;
        }
    }
    Vec::new()
}

fn not_found(name: &str, path: &Path) -> Problem {
    let known = known_models();
    let known = if known.is_empty() { "none are here".to_owned() } else { known.join(", ") };
    let message = if path.is_dir() {
        format!("the folder {name} holds no {CONFIG}, so it is no model")
    } else {
        format!("there is no model {name:?}")
    };
    let hint = format!("give a folder with a {CONFIG}, a GGUF file, or the name of a run or a fixture: {known}");
    Problem::new(message, hint)
}

/// The stage of a run that holds the model that was finished last: after a change in the middle of a recipe, folders
/// with higher numbers may be old.
fn last_stage(run: &Path) -> Option<PathBuf> {
    let stages = std::fs::read_dir(run).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let finished = |stage: PathBuf| {
        let manifest = formats::Manifest::read(&stage).ok().flatten().filter(|manifest| manifest.finished)?;
        let when = std::fs::metadata(stage.join(formats::manifest::MANIFEST)).ok()?.modified().ok()?;
        let holds_model = stage.join(CONFIG).is_file() && !manifest.stage.is_empty();
        holds_model.then_some((when, stage))
    };
    stages.filter_map(finished).max().map(|(_, stage)| stage)
}

/// Folders of models that come with the program: beside the working directory's project, or the program's own.
fn fixtures() -> impl Iterator<Item = PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts.into_iter().flatten().flat_map(|start| {
        let all: Vec<PathBuf> = start.ancestors().map(|folder| folder.join("fixtures")).collect();
        all
    })
}

fn known_models() -> Vec<String> {
    let children = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
    };
    let runs = children(RUNS.into()).into_iter().filter(|run| last_stage(run).is_some());
    let shipped = fixtures().flat_map(|folder| [folder.join("oracle"), folder]).flat_map(children);
    let shipped = shipped.filter(|path| path.join(CONFIG).is_file());
    let mut names: Vec<String> =
        runs.chain(shipped).filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

/// How the weights of a model that is to run come into memory.
#[derive(Args, Clone, Copy)]
pub(crate) struct WeightArguments {
    /// Round the weights to this format while the model is loaded, as `lateen compress` does; weights that are
    /// quantized in the file stay as they are
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<RoundedFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoundedFormat {
    Nvfp4,
    Mxfp4,
    #[value(name = "q8_0", alias = "q8-0")]
    Q8_0,
}

impl WeightArguments {
    pub(crate) fn loading(&self) -> Loading {
        self.loading_or(Loading::Packed)
    }

    /// `otherwise` where no format is asked for.
    pub(crate) fn loading_or(&self, otherwise: Loading) -> Loading {
        let format = match self.quantize {
            None => return otherwise,
            Some(RoundedFormat::Nvfp4) => Format::Nvfp4,
            Some(RoundedFormat::Mxfp4) => Format::Mxfp4,
            Some(RoundedFormat::Q8_0) => Format::Q8_0,
        };
        Loading::Quantized(Quantization::to(format))
    }
}

/// An adapter that a model is run with, without being merged.
#[derive(Args, Clone, Default)]
pub(crate) struct AdapterArguments {
    /// Run the model with this adapter, a folder in PEFT's layout; the weights stay as they are
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    layout: LayoutArguments,
}

/// How an adapter of fused experts lies in its file, where that is not plain.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct LayoutArguments {
    /// How the adapter's fused experts are laid out, if their shapes and PEFT's version do not tell
    #[arg(long, value_name = "LAYOUT")]
    expert_layout: Option<LayoutName>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutName {
    #[value(name = "peft-0.19")]
    Peft19,
    #[value(name = "peft-0.18")]
    Peft18,
    #[value(name = "expert-major")]
    ExpertMajor,
}

impl LayoutArguments {
    pub(crate) fn import(self) -> Import {
        let layout = |name| match name {
            LayoutName::Peft19 => ExpertLayout::Peft19,
            LayoutName::Peft18 => ExpertLayout::Peft18,
            LayoutName::ExpertMajor => ExpertLayout::ExpertMajor,
        };
        Import { expert_layout: self.expert_layout.map(layout) }
    }
}

impl AdapterArguments {
    /// Adds the adapter to a model, or to its outline.
    pub(crate) fn attach(&self, model: &mut Model) -> Result<()> {
        let Some(folder) = &self.adapter else { return Ok(()) };
        let reading = || format!("cannot use the adapter in {}", folder.display());
        adapter::load_peft(model, folder, &self.layout.import()).with_context(reading)?;
        Ok(())
    }
}

/// A model that was looked at and is not loaded yet, with what turns text into its tokens.
pub(crate) struct Outlined {
    /// The folder, or the GGUF file.
    pub(crate) place: PathBuf,
    /// Without numbers, but for the adapter's.
    pub(crate) model: Model,
    pub(crate) loading: Loading,
    adapter: AdapterArguments,
    pub(crate) tokenizer: Tokenizer,
    template: Template,
}

impl Outlined {
    pub(crate) fn look(name: &str, loading: Loading) -> Result<Self> {
        let place = model_place(name)?;
        let model = outline_model(&place, loading)?;
        let (tokenizer, template) = open_text(&place)?;
        let (rows, tokens) = (model.config.vocab_size, tokenizer.vocabulary_size());
        if tokens > rows {
            let message = format!(
                "{}: the tokenizer has {tokens} tokens, the model only {rows}: they do not belong together",
                place.display()
            );
            return Err(Problem::new(message, "copy tokenizer.json from the model that this one was made from").into());
        }
        Ok(Self { place, model, loading, adapter: AdapterArguments::default(), tokenizer, template })
    }

    /// As [`Self::look`], to be run with an adapter.
    pub(crate) fn look_with(name: &str, loading: Loading, adapter: &AdapterArguments) -> Result<Self> {
        let mut outlined = Self::look(name, loading)?;
        adapter.attach(&mut outlined.model)?;
        Ok(Self { adapter: adapter.clone(), ..outlined })
    }

    pub(crate) fn renderer(&self) -> Renderer<'_> {
        Renderer::new(&self.tokenizer, &self.template)
    }

    /// What running it takes.
    pub(crate) fn planned(&self, settings: PlanSettings) -> Planned {
        Planned::of(&self.model, self.loading, settings)
    }

    /// Loads it, if what is planned fits.
    pub(crate) fn open_within(self, planned: &Planned) -> Result<Speaking> {
        planned.check(&self.model, self.loading, &self.place)?;
        self.open()
    }

    fn open(self) -> Result<Speaking> {
        let Self { place, loading, adapter, tokenizer, template, .. } = self;
        let mut model = open_model(&place, loading)?;
        adapter.attach(&mut model)?;
        Ok(Speaking { place, model, tokenizer, template })
    }
}

/// A model with what turns text into its tokens.
pub(crate) struct Speaking {
    /// The folder, or the GGUF file.
    pub(crate) place: PathBuf,
    pub(crate) model: Model,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Template,
}

impl Speaking {
    pub(crate) fn open(name: &str, loading: Loading) -> Result<Self> {
        Outlined::look(name, loading)?.open()
    }

    pub(crate) fn renderer(&self) -> Renderer<'_> {
        Renderer::new(&self.tokenizer, &self.template)
    }
}

/// Opens a model folder or a GGUF file.
pub(crate) fn open_model(place: &Path, loading: Loading) -> Result<Model> {
    opened(place, Model::open(place, loading))
}

/// The model without its numbers, for planning.
pub(crate) fn outline_model(place: &Path, loading: Loading) -> Result<Model> {
    opened(place, Model::outline(place, loading))
}

fn opened(place: &Path, model: Result<Model, ModelError>) -> Result<Model> {
    let message = || format!("cannot open the model in {}", place.display());
    match model {
        Err(error @ ModelError::AlreadyQuantized { .. }) => {
            let hint = "leave --quantize out, or give the model that this one was quantized from";
            Err(Problem::new(message(), hint).because(error).into())
        }
        other => other.with_context(message),
    }
}

/// Bytes of the tensors that are stored in a model folder or a GGUF file.
pub(crate) fn stored_bytes(place: &Path) -> Result<u64> {
    Ok(if place.is_file() { Gguf::open(place)?.bytes() } else { Tensors::open(place)?.bytes() })
}

/// The tokenizer and the template of a model folder or a GGUF file.
pub(crate) fn open_text(place: &Path) -> Result<(Tokenizer, Template)> {
    let (tokenizer, template) = if place.is_file() { gguf::open_text(place)? } else { open_text_files(place)? };
    Ok(with_marks(tokenizer, template))
}

/// A tokenizer with its template, or with ours where that one writes the same and marks what the assistant says.
pub(crate) fn with_marks(tokenizer: Tokenizer, template: Template) -> (Tokenizer, Template) {
    let own = Template::embedded();
    let marked = template.has_generation_blocks() || !writes_the_same(&template, &own, &tokenizer);
    (tokenizer, if marked { template } else { own })
}

fn open_text_files(directory: &Path) -> Result<(Tokenizer, Template)> {
    let hint = "a model folder needs tokenizer.json and chat_template.jinja: copy them from the model that this \
                one was made from";
    let problem = |error| {
        let message = format!("cannot read the tokenizer and template of {}", directory.display());
        Problem::new(message, hint).because(anyhow::Error::from(error))
    };
    let tokenizer = Tokenizer::open(directory).map_err(problem)?;
    let template = Template::open(directory).map_err(problem)?;
    Ok((tokenizer, template))
}

/// Whether two templates write the same text for a conversation that has everything. A released template does not mark
/// what the assistant says, which training and perplexity have to know; ours does, and may stand in for one that it
/// equals.
fn writes_the_same(one: &Template, other: &Template, tokenizer: &Tokenizer) -> bool {
    let mut calling = Message::new(Role::Assistant, "I look.");
    let arguments = serde_json::Map::from_iter([("path".to_owned(), "a.py".into()), ("line".to_owned(), 3.into())]);
    calling.tool_calls.push(ToolCall { name: "read_file".into(), arguments });
    let schema = serde_json::json!({
        "type": "object", "required": ["path"],
        "properties": { "path": { "type": "string", "description": "where" }, "line": { "type": "integer" } },
    });
    let tool = ToolDefinition { name: "read_file".into(), description: "Reads.".into(), parameters: schema };
    let messages = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "What is in a.py?"),
        calling,
        Message::new(Role::Tool, "x = 1"),
        Message::new(Role::Assistant, "An assignment."),
        Message::new(Role::User, "Thanks."),
    ];
    let written = |template: &Template, tools: &[ToolDefinition]| {
        let rendered = template.render(&messages, tools, &RenderOptions::prompt(), tokenizer);
        rendered.ok().map(|rendered| rendered.text)
    };
    let equal = |tools: &[ToolDefinition]| {
        let text = written(one, tools);
        text.is_some() && text == written(other, tools)
    };
    equal(&[]) && equal(&[tool])
}

/// A sandbox whose programs run in processes of their own, which are this program again.
pub(crate) fn sandbox() -> Result<environment::Sandbox> {
    let program = std::env::current_exe().context("cannot find this program's own file, which the sandbox starts")?;
    Ok(environment::Sandbox::with_worker(program, vec![crate::verbs::sandbox_worker::NAME.to_owned()]))
}
