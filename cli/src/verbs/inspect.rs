//! `lateen inspect`: what a model is made of, and what it computes, as numbers that other programs can check.

use crate::failure::Problem;
use crate::place::{AdapterArguments, model_place, open_model};
use crate::terminal::{put, put_json, say};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use evaluate::Table;
use evaluate::table::{bytes_in_words, count_in_words};
use formats::{DType, Gguf, GgufTensor, TensorPlan, Tensors};
use models::{
    CHUNK_TOKENS, Config, Examples, FeedForwardKind, GradientOptions, KvFormat, Loading, MixerKind, Model, State,
};
use ops::{Gradients, Infer, Precision};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Tokens in one forward pass.
const PASS_TOKENS: usize = 512;

/// Show a model's configuration, tensors and sizes, or write its logits and gradients
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    /// A model folder, a GGUF file, a run, or the name of a fixture
    #[arg(required = true)]
    model: Option<String>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Machine-readable
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Write the logits of every position: `logits.0` [tokens, vocabulary], `logits.1`, …
    Logits(Numbers),
    /// Write the mean loss of the next tokens over all sequences, and its gradients: `loss`, `grad.<tensor>`
    Gradients(Numbers),
}

#[derive(Args)]
struct Numbers {
    /// A model folder, a GGUF file, a run, or the name of a fixture
    model: String,
    /// A JSON file with a list of lists of token ids
    #[arg(long)]
    tokens: PathBuf,
    /// The safetensors file to write
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    adapter: AdapterArguments,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match (arguments.what, arguments.model) {
        (Some(What::Logits(numbers)), _) => write_logits(&numbers),
        (Some(What::Gradients(numbers)), _) => write_gradients(&numbers),
        (None, Some(model)) => describe(&model, arguments.tensors, arguments.json),
        (None, None) => Err(Problem::new("no model is named", "lateen inspect MODEL").into()),
    }
}

/// What `inspect --json` writes.
#[derive(Serialize)]
struct Description {
    /// The folder, or the GGUF file.
    place: PathBuf,
    model_type: String,
    parameters: u64,
    bytes: u64,
    hidden_size: usize,
    vocabulary: usize,
    positions: usize,
    layers: usize,
    attention_layers: usize,
    delta_layers: usize,
    experts_per_layer: Vec<usize>,
    experts_per_token: usize,
    /// Bytes by the kind of number they are stored as.
    formats: BTreeMap<String, u64>,
    tensors: Vec<TensorLine>,
}

#[derive(Serialize)]
struct TensorLine {
    name: String,
    format: String,
    shape: Vec<usize>,
    bytes: u64,
}

fn describe(name: &str, with_tensors: bool, json: bool) -> Result<()> {
    let place = model_place(name)?;
    let (config, lines) = if place.is_file() { read_file(&place)? } else { read_folder(&place)? };
    let description = Description::of(&place, &config, lines);
    if json {
        return put_json(&description);
    }
    put(&description.summary().to_list())?;
    if with_tensors {
        put("\n")?;
        put(&description.tensor_table().to_text())?;
    }
    Ok(())
}

fn read_folder(directory: &Path) -> Result<(Config, Vec<TensorLine>)> {
    let path = directory.join("config.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = Config::from_json(&text).with_context(|| format!("{} cannot be used", path.display()))?;
    Ok((config, logical_tensors(&Tensors::open(directory)?)))
}

fn read_file(path: &Path) -> Result<(Config, Vec<TensorLine>)> {
    let gguf = Gguf::open(path)?;
    let line = |tensor: GgufTensor| TensorLine {
        name: tensor.name.to_owned(),
        format: formats::gguf::name_of(tensor.format).to_owned(),
        shape: tensor.shape.to_vec(),
        bytes: tensor.bytes.len() as u64,
    };
    Ok((Config::from_gguf(&gguf)?, gguf.tensors().map(line).collect()))
}

/// Tensors as the model sees them: the parts of a quantized one, stored side by side, are one line.
fn logical_tensors(tensors: &Tensors) -> Vec<TensorLine> {
    let mut lines: Vec<TensorLine> = Vec::new();
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    for tensor in tensors.tensors() {
        let bytes = tensor.bytes.len() as u64;
        let whole = tensor.name.strip_suffix("_global_scale").or(tensor.name.strip_suffix("_scale"));
        let has_whole = |name: &&str| tensors.contains(name) || tensors.contains(&format!("{name}_packed"));
        if let Some(name) = whole.filter(has_whole) {
            *parts.entry(name.to_owned()).or_default() += bytes;
            continue;
        }
        let mut shape = tensor.shape.to_vec();
        let name = match tensor.name.strip_suffix("_packed") {
            Some(name) => {
                // Two values in a byte.
                shape.last_mut().into_iter().for_each(|columns| *columns *= 2);
                name
            }
            None => tensor.name,
        };
        let scale = tensors.get(&format!("{name}_scale")).ok().map(|scale| scale.dtype);
        let format = match (tensor.dtype, scale) {
            (DType::U8, Some(DType::U8)) => "MXFP4",
            (DType::U8, Some(_)) => "NVFP4",
            (DType::I8, Some(_)) => "Q8_0",
            (plain, _) => plain.name(),
        };
        lines.push(TensorLine { name: name.to_owned(), format: format.to_owned(), shape, bytes });
    }
    lines.iter_mut().for_each(|line| line.bytes += parts.get(&line.name).copied().unwrap_or(0));
    lines
}

impl Description {
    fn of(place: &Path, config: &Config, lines: Vec<TensorLine>) -> Self {
        let mut formats = BTreeMap::new();
        for line in &lines {
            *formats.entry(line.format.clone()).or_insert(0) += line.bytes;
        }
        let parameters = lines.iter().map(|line| line.shape.iter().map(|&n| n as u64).product::<u64>()).sum();
        let layers_with = |mixer| config.layers.iter().filter(|layer| layer.mixer == mixer).count();
        Self {
            place: place.to_owned(),
            model_type: config.extra("model_type").and_then(|name| name.as_str()).unwrap_or_default().to_owned(),
            parameters,
            bytes: lines.iter().map(|line| line.bytes).sum(),
            hidden_size: config.hidden_size,
            vocabulary: config.vocab_size,
            positions: config.positions_max,
            layers: config.layers.len(),
            attention_layers: layers_with(MixerKind::Attention),
            delta_layers: layers_with(MixerKind::Delta),
            experts_per_layer: config.layers.iter().map(experts_of).collect(),
            experts_per_token: config.experts.map_or(0, |experts| experts.top_k),
            formats,
            tensors: lines,
        }
    }

    fn summary(&self) -> Table {
        let mut table = Table::new(&["property", "value"]);
        let mut line = |name: &str, value: String| table.push(vec![name.to_owned(), value]);
        let kind = if self.place.is_file() { "file" } else { "folder" };
        line(kind, self.place.display().to_string());
        line("architecture", self.model_type.clone());
        line("parameters", count_in_words(self.parameters));
        line("size", bytes_in_words(self.bytes));
        line("vocabulary", self.vocabulary.to_string());
        line("hidden width", self.hidden_size.to_string());
        line("longest context", self.positions.to_string());
        let mixers = format!("{} ({} attention, {} delta)", self.layers, self.attention_layers, self.delta_layers);
        line("layers", mixers);
        line("experts per layer", experts_in_words(&self.experts_per_layer));
        line("experts per token", self.experts_per_token.to_string());
        for (format, bytes) in &self.formats {
            line(&format!("stored as {format}"), bytes_in_words(*bytes));
        }
        table
    }

    fn tensor_table(&self) -> Table {
        let mut table = Table::new(&["tensor", "format", "shape", "size"]);
        for tensor in &self.tensors {
            let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
            let size = bytes_in_words(tensor.bytes);
            table.push(vec![tensor.name.clone(), tensor.format.clone(), shape.join("×"), size]);
        }
        table
    }
}

fn experts_of(layer: &models::LayerConfig) -> usize {
    match layer.feed_forward {
        FeedForwardKind::Experts { count } => count,
        FeedForwardKind::Dense => 0,
    }
}

/// `8` where all layers agree, else the list.
pub(crate) fn experts_in_words(counts: &[usize]) -> String {
    match counts {
        [] => "0".into(),
        [first, rest @ ..] if rest.iter().all(|count| count == first) => first.to_string(),
        _ => counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// The token lists of a file, checked against the model.
fn read_tokens(path: &Path, model: &Model) -> Result<Vec<Vec<u32>>> {
    let wanted = "the file holds a list of lists of token ids, such as [[1, 2, 3], [4, 5]]";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let problem = |message: String| Problem::new(format!("{}: {message}", path.display()), wanted);
    let sequences: Vec<Vec<u32>> =
        serde_json::from_str(&text).map_err(|error| problem("not a list of token lists".into()).because(error))?;
    let vocabulary = model.config.vocab_size;
    for (index, sequence) in sequences.iter().enumerate() {
        if sequence.is_empty() {
            return Err(problem(format!("sequence {index} is empty")).into());
        }
        if let Some(token) = sequence.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(problem(format!("sequence {index} has token {token}, the model knows {vocabulary}")).into());
        }
    }
    if sequences.is_empty() {
        return Err(problem("there is no sequence".into()).into());
    }
    Ok(sequences)
}

fn write_logits(numbers: &Numbers) -> Result<()> {
    let mut model = open_model(&model_place(&numbers.model)?, Loading::Stored)?;
    numbers.adapter.attach(&mut model)?;
    let sequences = read_tokens(&numbers.tokens, &model)?;
    let mut plan = TensorPlan::new();
    for (index, sequence) in sequences.iter().enumerate() {
        plan.declare(format!("logits.{index}"), DType::F32, &[sequence.len(), model.config.vocab_size]);
    }
    let mut writer = plan.create_file(&numbers.out)?;
    for (index, sequence) in sequences.iter().enumerate() {
        writer.write_f32(&format!("logits.{index}"), &logits_of(&model, sequence))?;
    }
    writer.finish()?;
    say(&format!("logits of {} sequences in {}", sequences.len(), numbers.out.display()));
    Ok(())
}

fn logits_of(model: &Model, sequence: &[u32]) -> Vec<f32> {
    let mut executor = Infer::new(Precision::F32);
    let mut states = [State::empty(&model.config, KvFormat::F32)];
    let mut all = Vec::with_capacity(sequence.len() * model.config.vocab_size);
    for piece in sequence.chunks(PASS_TOKENS) {
        let hidden = models::hidden(&mut executor, model, &mut states, piece, &[piece.len()]);
        let rows: Vec<usize> = (0..piece.len()).collect();
        let logits = models::logits(&mut executor, model, &hidden, &rows);
        all.extend_from_slice(&logits);
    }
    all
}

fn write_gradients(numbers: &Numbers) -> Result<()> {
    let mut model = open_model(&model_place(&numbers.model)?, Loading::F32)?;
    numbers.adapter.attach(&mut model)?;
    model.parameters_mut().into_iter().for_each(|parameter| parameter.trained = true);
    let sequences = read_tokens(&numbers.tokens, &model)?;
    let (gradients, loss) = gradients_of(&model, &sequences)?;
    let mut plan = TensorPlan::new();
    plan.declare("loss", DType::F32, &[]);
    for parameter in model.parameters() {
        plan.declare(format!("grad.{}", parameter.name), DType::F32, &parameter.shape);
    }
    let mut writer = plan.create_file(&numbers.out)?;
    writer.write_f32("loss", &[loss as f32])?;
    for parameter in model.parameters() {
        let name = format!("grad.{}", parameter.name);
        match gradients.get(parameter.id) {
            Some(gradient) => writer.write_f32(&name, gradient)?,
            // No token reached it: an expert that nobody chose.
            None => writer.write_f32(&name, &vec![0.0; parameter.matrix.rows * parameter.matrix.columns])?,
        }
    }
    writer.finish()?;
    say(&format!("loss {loss:.6} and its gradients in {}", numbers.out.display()));
    Ok(())
}

/// Gradients of the mean over all targets of all sequences.
fn gradients_of(model: &Model, sequences: &[Vec<u32>]) -> Result<(Gradients, f64)> {
    let n_targets: usize = sequences.iter().map(|sequence| sequence.len() - 1).sum();
    if n_targets == 0 {
        let hint = "give at least one sequence of two tokens";
        return Err(Problem::new("no sequence has a next token to predict", hint).into());
    }
    let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for sequence in sequences {
        targets.extend_from_slice(&sequence[1..]);
        targets.extend(sequence.last());
        weights.extend(std::iter::repeat_n(1.0 / n_targets as f32, sequence.len() - 1));
        weights.push(0.0);
    }
    let tokens = sequences.concat();
    let examples = Examples { tokens: &tokens, lengths: &lengths, targets: &targets, weights: &weights };
    let options = GradientOptions {
        precision: Precision::F32,
        chunk_tokens: CHUNK_TOKENS,
        checkpoint_layers: false,
        auxiliary_coefficient: 0.0,
        dropout_seed: None,
    };
    let mut gradients = Gradients::default();
    let record = models::loss_and_gradients(model, &examples, &options, &mut gradients);
    // A row of weight 0 has loss 0.
    let loss = record.losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / n_targets as f64;
    Ok((gradients, loss))
}
