//! A teacher's forward pass: what it says of batches, layer by layer, chunk by chunk, as a student goes through them.
//! All batches go through a layer before the next one is taken, so that a model which is read from disk is read once.

use crate::chunk::Chunk;
use crate::gradient::pass;
use crate::guidance::joined;
use crate::weights::LayerWeights;
use crate::{Config, FeedForwardKind, Layers, ModelError};
use ops::{Buffer, Execute, Infer, Linear, Moe, Precision, Record, Routing};

/// What is asked of a teacher. Nothing is computed that no question needs: of the layers only those up to the last one
/// that is asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Questions {
    /// Its last hidden states.
    pub output: bool,
    /// The routers' probabilities.
    pub routers: bool,
    /// Rows of the batch of which is asked what goes into the layers' mixtures.
    pub inputs: Vec<usize>,
    /// The residual stream after each of these layers.
    pub layers: Vec<usize>,
}

/// Packed sequences, and what is asked of them.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub tokens: &'a [u32],
    pub lengths: &'a [usize],
    pub questions: &'a Questions,
}

/// What a teacher says of T tokens.
#[derive(Debug, Default)]
pub struct Taught {
    /// After the final norm, `[T, H]`, if asked for: what its head makes logits of.
    pub hidden: Option<Buffer>,
    /// Of each layer with experts, in order; empty if not asked for.
    pub routers: Vec<Routed>,
    /// By layer, `[T, H]`.
    pub streams: Vec<(usize, Buffer)>,
}

/// What a mixture did with T tokens.
#[derive(Debug)]
pub struct Routed {
    pub layer: usize,
    /// `[T, E]`.
    pub probabilities: Buffer,
    /// Of the rows that were asked for, in their order, `[n, H]`.
    pub inputs: Buffer,
}

impl Questions {
    /// Whether any mixture is asked about.
    fn ask_mixtures(&self) -> bool {
        self.routers || !self.inputs.is_empty()
    }

    /// Whether anything is asked.
    pub fn ask_nothing(&self) -> bool {
        !self.output && !self.ask_mixtures() && self.layers.is_empty()
    }

    /// The layers that it takes to answer.
    fn depth(&self, config: &Config) -> usize {
        if self.output {
            return config.layers.len();
        }
        let has_experts = |index: &usize| matches!(config.layers[*index].feed_forward, FeedForwardKind::Experts { .. });
        let last_mixture = (0..config.layers.len()).rfind(has_experts).filter(|_| self.ask_mixtures());
        self.layers.iter().copied().chain(last_mixture).max().map_or(0, |last| last + 1)
    }
}

/// Runs the model over packed sequences, `chunk_tokens` of each batch at a time; its weights may be in any format.
/// Where mixtures are asked about, `visit` sees each of them with what it did with each batch, by the batch's number,
/// while its weights are there.
pub fn teach(
    layers: Layers,
    asked: &[Asked],
    chunk_tokens: usize,
    visit: &mut dyn FnMut(usize, &Moe, &Routed),
) -> Result<Vec<Taught>, ModelError> {
    let config = layers.config();
    let depth = asked.iter().map(|asked| asked.questions.depth(config)).max().unwrap_or(0);
    if depth == 0 {
        return Ok(asked.iter().map(|_| Taught::default()).collect());
    }
    let mut e = Infer::recording(Precision::F32, Recorder::default());
    let mut batches: Vec<Going> = {
        let embedding = layers.embedding()?;
        asked.iter().map(|asked| Going::begin(&mut e, config, &embedding, asked, chunk_tokens)).collect()
    };
    for index in 0..depth {
        let layer = layers.layer(index)?;
        for (number, batch) in batches.iter_mut().enumerate().filter(|(_, batch)| index < batch.depth) {
            batch.pass(&mut e, config, (index, &layer), &mut |moe, routed| visit(number, moe, routed));
        }
    }
    if asked.iter().any(|asked| asked.questions.output) {
        let norm = layers.final_norm()?;
        for batch in batches.iter_mut().filter(|batch| batch.asked.questions.output) {
            let hidden: Vec<Buffer> = batch.streams.drain(..).map(|stream| e.rms_norm(&stream, &norm)).collect();
            batch.taught.hidden = Some(joined(&hidden));
        }
    }
    Ok(batches.into_iter().map(|batch| batch.taught).collect())
}

/// A batch on its way through the layers.
struct Going<'a> {
    asked: &'a Asked<'a>,
    depth: usize,
    chunks: Vec<Chunk>,
    streams: Vec<Buffer>,
    taught: Taught,
}

impl<'a> Going<'a> {
    fn begin(
        e: &mut Infer<Recorder>,
        config: &Config,
        embedding: &Linear,
        asked: &'a Asked<'a>,
        chunk_tokens: usize,
    ) -> Self {
        let (depth, chunks) = (asked.questions.depth(config), Chunk::cut(asked.lengths, chunk_tokens));
        let is_run = |_: &&Chunk| depth > 0;
        let tokens = chunks.iter().filter(is_run).map(|chunk| &asked.tokens[chunk.rows.clone()]);
        let streams = tokens.map(|tokens| e.embedding(embedding, tokens)).collect();
        Self { asked, depth, chunks, streams, taught: Taught::default() }
    }

    fn pass(
        &mut self,
        e: &mut Infer<Recorder>,
        config: &Config,
        (index, layer): (usize, &LayerWeights),
        visit: &mut dyn FnMut(&Moe, &Routed),
    ) {
        let questions = self.asked.questions;
        e.record.listens = questions.ask_mixtures();
        pass(e, config, (index, layer), (&self.chunks, &mut self.streams), |e, chunk| {
            let own = questions.inputs.iter().filter(|row| chunk.rows.contains(row));
            e.record.rows = own.map(|row| row - chunk.rows.start).collect();
        });
        if let Some(moe) = layer.mixture().filter(|_| questions.ask_mixtures()) {
            let routed = e.record.routed(index);
            visit(moe, &routed);
            if questions.routers {
                self.taught.routers.push(routed);
            }
        }
        if questions.layers.contains(&index) {
            self.taught.streams.push((index, joined(&self.streams)));
        }
    }
}

/// The probabilities of each chunk of one batch in one layer, and the inputs of some of its rows.
#[derive(Default)]
struct Recorder {
    listens: bool,
    /// Rows of the chunk whose inputs are kept.
    rows: Vec<usize>,
    probabilities: Vec<Buffer>,
    inputs: Vec<Buffer>,
}

impl Record for Recorder {
    const LOOKS: bool = false;

    fn experts(&mut self, _: &Moe, _: &Buffer, _: &Routing, _: &Buffer) {}

    fn routing(&mut self, _: &Moe, x: &Buffer, routing: &Routing) {
        if self.listens {
            self.probabilities.push(routing.probabilities.clone());
            self.inputs.push(x.gathered(&self.rows));
        }
    }
}

impl Recorder {
    /// What was seen of a layer since the one before.
    fn routed(&mut self, layer: usize) -> Routed {
        let (probabilities, inputs) = (std::mem::take(&mut self.probabilities), std::mem::take(&mut self.inputs));
        Routed { layer, probabilities: joined(&probabilities), inputs: joined(&inputs) }
    }
}
