//! Loss and gradients of packed sequences, chunk by chunk and layer by layer.
//!
//! Every chunk of tokens goes through a layer before the next layer begins, so that one layer's states are alive at a
//! time: what a delta layer remembers, and an attention layer's keys and values. On the way back the chunks of a layer
//! are taken from the last to the first, and what the later ones ask of the state is handed to the earlier ones. A
//! chunk in a layer, a cell, either stays on the tape or is run again from its input; with one chunk and every cell on
//! the tape this is the plain forward and backward pass. Where several ranks share a batch, a chunk is a rank's part of
//! a round of tokens that all of them take through the layer together.

use crate::chunk::Chunk;
use crate::forward::{embed, finish, layer_with};
use crate::guidance::{self, StreamSums};
use crate::kept::Kept;
use crate::weights::LayerWeights;
use crate::{Config, Guidance, Guided, KvFormat, LayerState, Model};
use ops::{Buffer, Carried, Execute, Gradients, Infer, Mark, Precision, Ring, RouterTarget, Segment, Tape, Var};
use std::collections::BTreeMap;
use std::ops::Range;

/// Tokens that usually go through a layer at a time: enough for products to be fast.
pub const CHUNK_TOKENS: usize = 4096;

/// Packed sequences. `targets[i]` is the token to predict at `tokens[i]`; a weight of 0 leaves it out.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    pub tokens: &'a [u32],
    /// Tokens of each sequence.
    pub lengths: &'a [usize],
    pub targets: &'a [u32],
    /// Already divided by what the optimizer step's loss is a mean over.
    pub weights: &'a [f32],
}

#[derive(Debug, Clone, Copy)]
pub struct GradientOptions {
    pub precision: Precision,
    /// Tokens that go through a layer at a time, at most; longer batches are cut, and sequences with them.
    pub chunk_tokens: usize,
    /// Keep only each layer's input and run the layer again on the way back: less memory, a third more work.
    pub checkpoint_layers: bool,
    /// Coefficient of the routers' balance loss; 0 leaves it out.
    pub auxiliary_coefficient: f32,
    /// Decides what adapters with dropout leave out: another number for each batch of a run. Without one they leave out
    /// nothing.
    pub dropout_seed: Option<u64>,
}

impl GradientOptions {
    /// How keys and values of sequences that are cut are kept.
    pub(crate) fn kv(&self) -> KvFormat {
        match self.precision {
            Precision::F32 => KvFormat::F32,
            Precision::Bf16 => KvFormat::F16,
        }
    }
}

/// What a pass saw.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Nats per token, unweighted; 0 where the weight is 0.
    pub losses: Vec<f32>,
    /// Tokens per expert of each mixture layer.
    pub expert_counts: Vec<Vec<u64>>,
    /// How undecided the router of each mixture layer was, in nats a token.
    pub router_entropies: Vec<f32>,
    /// How far it was from what a teacher asked.
    pub guided: Guided,
}

/// Adds the gradients of `Σ weights · losses` of every trained parameter.
pub fn loss_and_gradients(
    model: &Model,
    examples: &Examples,
    options: &GradientOptions,
    gradients: &mut Gradients,
) -> Record {
    guided_gradients(model, examples, &Guidance::NONE, options, gradients)
}

/// The same, and of all that a teacher asks, each with its weight.
pub fn guided_gradients(
    model: &Model,
    examples: &Examples,
    guidance: &Guidance,
    options: &GradientOptions,
    gradients: &mut Gradients,
) -> Record {
    let chunks = Chunk::cut(examples.lengths, options.chunk_tokens);
    Pass::new(model, (examples, guidance), (chunks, options), gradients, None).run_all()
}

/// A rank's share of [`loss_and_gradients`], where all ranks of the ring take a part of the same batch, of two tokens
/// to each at least. Gradients and losses are of this rank's tokens, 0 elsewhere, and of how undecided routers were it
/// has its share of the mean, so that all ranks' add up to the whole; tokens per expert are of the whole batch. See
/// `ops/src/ring` for what passes between the ranks.
pub fn shared_gradients<'g>(
    model: &Model,
    examples: &Examples,
    options: &GradientOptions,
    gradients: &'g mut Gradients,
    ring: &'g mut (dyn Ring + 'g),
) -> Record {
    let chunks = Chunk::cut_shared(examples.lengths, options.chunk_tokens, (ring.rank(), ring.size()));
    let places: Vec<Range<usize>> =
        chunks.iter().flat_map(|chunk| &chunk.round).flat_map(|round| round.rows()).collect();
    let own = Examples {
        tokens: &picked(examples.tokens, &places),
        targets: &picked(examples.targets, &places),
        weights: &picked(examples.weights, &places),
        lengths: &[],
    };
    let given = (&own, &Guidance::NONE);
    let mut record = Pass::new(model, given, (chunks, options), gradients, Some(ring)).run_all();
    let mut losses = vec![0.0; examples.tokens.len()];
    let mut rest = record.losses.as_slice();
    for place in places {
        let (own, others) = rest.split_at(place.len());
        losses[place].copy_from_slice(own);
        rest = others;
    }
    record.losses = losses;
    let part = own.tokens.len() as f32 / examples.tokens.len() as f32;
    record.router_entropies.iter_mut().for_each(|entropy| *entropy *= part);
    record
}

fn picked<T: Copy>(all: &[T], places: &[Range<usize>]) -> Vec<T> {
    places.iter().flat_map(|place| &all[place.clone()]).copied().collect()
}

/// Losses alone, in f32.
pub fn losses(model: &Model, examples: &Examples, chunk_tokens: usize) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let chunks = Chunk::cut(examples.lengths, chunk_tokens);
    let mut streams: Vec<Buffer> =
        chunks.iter().map(|chunk| embed(&mut e, model, &examples.tokens[chunk.rows.clone()])).collect();
    for (index, layer) in model.weights.layers.iter().enumerate() {
        pass(&mut e, &model.config, (index, layer), (&chunks, &mut streams), |_, _| ());
    }
    let mut losses = Vec::with_capacity(examples.tokens.len());
    for (chunk, stream) in chunks.iter().zip(streams) {
        let (h, rows) = (finish(&mut e, model, &stream), chunk.rows.clone());
        let (targets, weights) = (&examples.targets[rows.clone()], &examples.weights[rows]);
        losses.extend(e.cross_entropy(&h, model.weights.head(), targets, weights));
    }
    losses
}

/// All chunks of a batch through one layer, of which nothing is kept; `before` each of them the executor is shown.
pub(crate) fn pass<R: ops::Record>(
    e: &mut Infer<R>,
    config: &Config,
    (index, layer): (usize, &LayerWeights),
    (chunks, streams): (&[Chunk], &mut [Buffer]),
    mut before: impl FnMut(&mut Infer<R>, &Chunk),
) {
    let mut passed = None;
    for (chunk, stream) in chunks.iter().zip(streams) {
        before(e, chunk);
        let mut memories = memories(config, index, chunk, passed, KvFormat::F32);
        let x = std::mem::replace(stream, Buffer::zeros(0, 1));
        *stream = layer_with(e, layer, memories.iter_mut(), &chunk.spans, x);
        passed = memories.pop().filter(|_| chunk.goes_on);
    }
}

/// What a layer remembers of each sequence of a chunk: of the first what was passed on, if it began before.
fn memories(config: &Config, index: usize, chunk: &Chunk, passed: Option<LayerState>, kv: KvFormat) -> Vec<LayerState> {
    let mixer = config.layers[index].mixer;
    let fresh = || LayerState::empty(config, mixer, kv);
    let first = match chunk.continues {
        true => passed.expect("the chunk before has passed on what it knew of a sequence that goes on"),
        false => fresh(),
    };
    std::iter::once(first).chain(std::iter::repeat_with(fresh)).take(chunk.memories()).collect()
}

/// A chunk in a layer, between the way there and the way back.
enum Cell {
    /// Where it stands on the tape.
    Taped(Taped),
    /// All that it takes to run it again.
    Again { input: Kept, found: Option<LayerState>, choices: Vec<Vec<u32>> },
}

#[derive(Clone, Copy)]
struct Taped {
    mark: Mark,
    x: Var,
    y: Var,
}

/// The number in `model.layers.3.…`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// One forward and backward pass.
struct Pass<'a, 'g> {
    model: &'a Model,
    examples: &'a Examples<'a>,
    guidance: &'a Guidance<'a>,
    /// What was asked of the streams after some layers: gradients for the whole batch.
    asked: BTreeMap<usize, Buffer>,
    options: &'a GradientOptions,
    chunks: Vec<Chunk>,
    tape: Tape<'a, 'g>,
    /// The lowest layer below which nothing is trained; the number of layers if that is all of them.
    lowest: usize,
    embedding_trained: bool,
}

impl<'a, 'g> Pass<'a, 'g> {
    fn new(
        model: &'a Model,
        (examples, guidance): (&'a Examples<'a>, &'a Guidance<'a>),
        (chunks, options): (Vec<Chunk>, &'a GradientOptions),
        gradients: &'g mut Gradients,
        ring: Option<&'g mut (dyn Ring + 'g)>,
    ) -> Self {
        let n_layers = model.weights.layers.len();
        let (mut embedding_trained, mut lowest) = (false, n_layers);
        for parameter in model.parameters().into_iter().filter(|parameter| parameter.trained) {
            match layer_of(&parameter.name) {
                Some(index) => lowest = lowest.min(index),
                None => embedding_trained |= parameter.name.starts_with("model.embed_tokens."),
            }
        }
        Self {
            model,
            examples,
            guidance,
            asked: BTreeMap::new(),
            options,
            chunks,
            tape: Tape::new(options.precision, options.auxiliary_coefficient, gradients)
                .dropping(options.dropout_seed)
                .sharing(ring),
            lowest: if embedding_trained { 0 } else { lowest },
            embedding_trained,
        }
    }

    fn run_all(mut self) -> Record {
        let mut streams = self.embedded();
        let (mut cells, mut sums) = (Vec::with_capacity(self.model.weights.layers.len()), StreamSums::default());
        for index in 0..self.model.weights.layers.len() {
            cells.push(self.forward(index, &mut streams));
            for guide in self.guidance.streams.iter().filter(|guide| guide.layer == index) {
                let asked = sums.compare(guide, &streams);
                self.asked.insert(index, asked);
            }
        }
        self.tape.turn(self.examples.tokens.len());
        let expert_counts = self.tape.batch_counts().map(<[u64]>::to_vec).collect();
        let router_entropies = self.tape.router_entropies();
        let routers = self.tape.router_divergence();
        let (losses, output, mut dstreams) = self.losses(streams);
        for (index, cells) in cells.into_iter().enumerate().rev() {
            self.add_asked(index, &mut dstreams);
            self.backward(index, cells, &mut dstreams);
        }
        self.embeddings_backward(dstreams);
        let guided = Guided { output, routers, squares: sums.squares(), gram: sums.gram() };
        Record { losses, expert_counts, router_entropies, guided }
    }

    /// Adds what a teacher asks of the streams after a layer to their gradients.
    fn add_asked(&mut self, index: usize, dstreams: &mut [Option<Buffer>]) {
        let Some(asked) = self.asked.remove(&index) else { return };
        for (chunk, dstream) in self.chunks.iter().zip(dstreams) {
            let own = guidance::some_rows(&asked, &chunk.rows);
            match dstream {
                Some(dstream) => dstream.add(&own),
                None => *dstream = Some(own),
            }
        }
    }

    /// What the router of a layer is taught in a chunk.
    fn router_targets(&self, index: usize, chunk: usize) -> Vec<RouterTarget> {
        let guides = self.guidance.routers.iter().filter(|guide| guide.layer == index);
        guides.map(|guide| guide.target(&self.chunks[chunk].rows)).collect()
    }

    fn tokens(&self, chunk: usize) -> &'a [u32] {
        &self.examples.tokens[self.chunks[chunk].rows.clone()]
    }

    /// The residual streams before the first layer, chunk by chunk.
    fn embedded(&mut self) -> Vec<Buffer> {
        let mut streams = Vec::with_capacity(self.chunks.len());
        for chunk in 0..self.chunks.len() {
            let (mark, tokens) = (self.tape.begin(Segment::default()), self.tokens(chunk));
            let x = embed(&mut self.tape, self.model, tokens);
            streams.push(self.tape.take(x));
            self.tape.forget(mark);
        }
        streams
    }

    /// Whether anyone wants the gradient of what goes into a layer.
    fn input_wanted(&self, index: usize) -> bool {
        self.embedding_trained || self.lowest < index
    }

    /// Runs a cell, and gives what it knows of the sequence that goes on.
    fn run(
        &mut self,
        (index, chunk): (usize, usize),
        input: Buffer,
        found: Option<LayerState>,
        choices: Vec<Vec<u32>>,
    ) -> (Taped, Option<LayerState>) {
        let router_targets = self.router_targets(index, chunk);
        let Chunk { tokens, spans, goes_on, round, .. } = &self.chunks[chunk];
        let (tokens, goes_on, round) = (*tokens, *goes_on, round.clone());
        let mark = self.tape.begin(Segment { tokens, goes_on, choices, router_targets, masks: Vec::new(), round });
        let mut memories = memories(&self.model.config, index, &self.chunks[chunk], found, self.options.kv());
        let x = match self.input_wanted(index) {
            true => self.tape.input(input),
            false => self.tape.fixed_input(input),
        };
        let y = layer_with(&mut self.tape, &self.model.weights.layers[index], memories.iter_mut(), spans, x);
        (Taped { mark, x, y }, memories.pop().filter(|_| goes_on))
    }

    /// All chunks through one layer, which turns their streams into those after it.
    fn forward(&mut self, index: usize, streams: &mut [Buffer]) -> Vec<Cell> {
        let mut passed: Option<LayerState> = None;
        let mut cells = Vec::with_capacity(streams.len());
        // What lies below all that is trained is never walked back.
        let (again, walked) = (self.options.checkpoint_layers, index >= self.lowest);
        for (chunk, stream) in streams.iter_mut().enumerate() {
            let found = passed.take();
            let kept = found.clone().filter(|_| again && walked);
            let input = std::mem::replace(stream, Buffer::zeros(0, 1));
            let (taped, left) = self.run((index, chunk), input, found, Vec::new());
            passed = left;
            *stream = self.tape.take(taped.y);
            if again && walked {
                let choices = self.tape.choices(taped.mark);
                let input = Kept::new(self.tape.take(taped.x), self.options.precision);
                cells.push(Cell::Again { input, found: kept, choices });
            } else if walked {
                cells.push(Cell::Taped(taped));
            }
            if again || !walked {
                self.tape.forget(taped.mark);
            }
        }
        cells
    }

    /// Losses of all tokens, how far they are from a teacher's, and the gradients of the last layer's streams; none
    /// where no token counts.
    fn losses(&mut self, streams: Vec<Buffer>) -> (Vec<f32>, Vec<f32>, Vec<Option<Buffer>>) {
        let (mut losses, mut distances) = (Vec::with_capacity(self.examples.tokens.len()), Vec::new());
        let mut dstreams = Vec::with_capacity(streams.len());
        let count = |weights: &[f32]| weights.iter().any(|&weight| weight != 0.0);
        for (chunk, stream) in streams.into_iter().enumerate() {
            let rows = self.chunks[chunk].rows.clone();
            let own = &self.examples.weights[rows.clone()];
            let output = self.guidance.output.filter(|output| count(&output.weights[rows.clone()]));
            if !count(own) && output.is_none() {
                losses.resize(losses.len() + rows.len(), 0.0);
                distances.resize(if self.guidance.output.is_some() { losses.len() } else { 0 }, 0.0);
                dstreams.push(None);
                continue;
            }
            let mark = self.tape.begin(Segment::default());
            let x = self.tape.input(stream);
            let h = finish(&mut self.tape, self.model, &x);
            losses.extend(self.next_tokens(h, &self.examples.targets[rows.clone()], own));
            if let Some(output) = output {
                let (teacher, weights) = (guidance::rows_of(output.teacher, rows.clone()), &output.weights[rows]);
                distances.extend(self.tape.divergence(&h, self.model.weights.head(), teacher, weights));
            }
            distances.resize(if self.guidance.output.is_some() { losses.len() } else { 0 }, 0.0);
            dstreams.push(self.tape.unwind(mark, Vec::new(), Some(x), &mut Carried::default()));
        }
        (losses, distances, dstreams)
    }

    /// The cross entropy; one that counts nothing is only looked at.
    fn next_tokens(&mut self, h: Var, targets: &[u32], weights: &[f32]) -> Vec<f32> {
        let head = self.model.weights.head();
        match self.guidance.cross_entropy {
            1.0 => self.tape.cross_entropy(&h, head, targets, weights),
            0.0 => Infer::new(self.options.precision).cross_entropy(self.tape.value(h), head, targets, weights),
            factor => {
                let weights: Vec<f32> = weights.iter().map(|weight| factor * weight).collect();
                self.tape.cross_entropy(&h, head, targets, &weights)
            }
        }
    }

    /// All chunks back through one layer, from the last to the first.
    fn backward(&mut self, index: usize, cells: Vec<Cell>, dstreams: &mut [Option<Buffer>]) {
        let mut carried = Carried::default();
        let taught = self.guidance.routers.iter().any(|guide| guide.layer == index);
        for (chunk, cell) in cells.into_iter().enumerate().rev() {
            let dy = dstreams[chunk].take();
            let (rows, width) = (self.chunks[chunk].rows.len(), self.model.config.hidden_size);
            // Nobody asks anything of these tokens: neither a loss, nor later tokens, nor the routers' own losses. Of
            // tokens that ranks share one rank cannot tell.
            let asks_routers = self.options.auxiliary_coefficient != 0.0 || taught;
            let is_shared = self.chunks[chunk].round.is_some();
            if dy.is_none() && carried.is_empty() && !asks_routers && !is_shared {
                if let Cell::Taped(taped) = cell {
                    self.tape.forget(taped.mark);
                }
                continue;
            }
            let taped = match cell {
                Cell::Taped(taped) => taped,
                Cell::Again { input, found, choices } => {
                    self.run((index, chunk), input.into_stream(), found, choices).0
                }
            };
            let dy = dy.unwrap_or_else(|| Buffer::zeros(rows, width));
            let dx = self.tape.unwind(taped.mark, vec![(taped.y, dy)], Some(taped.x), &mut carried);
            dstreams[chunk] = dx.filter(|_| self.input_wanted(index));
        }
    }

    fn embeddings_backward(&mut self, dstreams: Vec<Option<Buffer>>) {
        if !self.embedding_trained {
            return;
        }
        for (chunk, dstream) in dstreams.into_iter().enumerate() {
            let Some(dstream) = dstream else { continue };
            let (mark, tokens) = (self.tape.begin(Segment::default()), self.tokens(chunk));
            let x = embed(&mut self.tape, self.model, tokens);
            self.tape.unwind(mark, vec![(x, dstream)], None, &mut Carried::default());
        }
    }
}
