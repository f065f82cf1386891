//! What training takes of memory, known before anything is loaded: the pass of `gradient.rs` over an outline, on a tape
//! that is only rehearsed.

use crate::chunk::Chunk;
use crate::forward::{embed, finish, layer_with};
use crate::kept::Kept;
use crate::plan::{PAGE_ENDS, PARAMETER_BYTES, PROGRAM_BYTES, THREAD_BYTES, largest_beside};
use crate::weights::LayerWeights;
use crate::{GradientOptions, KvFormat, LayerState, Loading, MixerKind, Model, Plan, PlanSettings};
use kernels::kv_page::PAGE_TOKENS;
use ops::cross_entropy::CHUNK_ROWS;
use ops::{Execute, Held, Mark, Parameter, Precision, RehearseTape, Rehearsed, Segment, Var};
use serde::Serialize;

/// How a model is to be trained.
#[derive(Debug, Clone)]
pub struct TrainingSettings {
    /// Tokens of each sequence of one micro-batch.
    pub lengths: Vec<usize>,
    pub options: GradientOptions,
    pub threads: usize,
    /// Processes that share each micro-batch; the plan is of one of them.
    pub sequence_ranks: usize,
}

/// Bytes, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingPlan {
    /// As they lie in memory, adapters included.
    pub weights: usize,
    /// Of what is trained.
    pub gradients: usize,
    /// The optimizer's two means of each gradient.
    pub moments: usize,
    /// The input of every chunk in every layer, where layers are run again, and the states between chunks.
    pub checkpoints: usize,
    /// Keys and values of sequences that are cut, of all attention layers, and their gradients in one; of a process
    /// that shares them its own, beside those that come by.
    pub cache: usize,
    /// The residual streams and all that one chunk in a layer has on the tape; of every layer where none is run again.
    pub activations: usize,
    /// The program, its threads, the names of the weights and the ends of their pages.
    pub program: usize,
    /// While the model is loaded and nothing runs yet: the largest weight beside what it is read from.
    pub loading: usize,
    /// Of a teacher: its weights, or its head alone where its layers stay on disk, and what it says; 0 without one.
    pub teacher: usize,
}

/// A teacher beside the model that is trained.
#[derive(Debug, Clone, Copy)]
pub struct TeacherSettings<'a> {
    /// Its numbers need not be there.
    pub outline: &'a Model,
    pub loading: Loading,
    /// Tokens of one micro-batch.
    pub tokens: usize,
    /// Micro-batches that it is asked about at a time.
    pub at_a_time: usize,
    /// Whether its layers are read from disk, one at a time, whenever it is asked.
    pub is_streamed: bool,
    pub chunk_tokens: usize,
    /// Tokens of a micro-batch on which all experts of both models are run.
    pub mixed_tokens: usize,
    /// Layers whose streams are compared.
    pub streams: usize,
    pub threads: usize,
}

impl TrainingPlan {
    /// The plan for a model whose numbers need not be there; what is trained is marked, and adapters are attached.
    pub fn of(outline: &Model, loading: Loading, settings: &TrainingSettings) -> Self {
        let parameters = outline.parameters();
        let weights = outline.bytes();
        let trained = parameters.iter().filter(|parameter| parameter.trained);
        let trained: usize = trained.map(|parameter| size_of::<f32>() * numbers(parameter)).sum();
        let mut rehearsal = Rehearsal::new(outline, settings);
        rehearsal.run();
        let checkpoints = rehearsal.checkpoints;
        let cache = rehearsal.pages + rehearsal.key_gradients + rehearsal.passing;
        let held = rehearsal.tape.room().bytes_at_most();
        let largest = largest_beside(&parameters, loading);
        Self {
            weights,
            gradients: trained,
            moments: 2 * trained,
            checkpoints,
            cache,
            activations: held.saturating_sub(checkpoints + cache),
            program: PROGRAM_BYTES
                + parameters.len() * PARAMETER_BYTES
                + weights / PAGE_ENDS
                + settings.threads * THREAD_BYTES,
            loading: largest + largest / 8,
            teacher: 0,
        }
    }

    /// The plan with a teacher. Its pass is over before the student's begins, so the larger of the two counts, and a
    /// layer that is read from disk belongs to its pass; what it says stays until the way back: its last states,
    /// compared streams with what they ask of the student's, what both routers make of every token, and its logits of
    /// some rows.
    pub fn beside_teacher(self, student: &Model, settings: &TeacherSettings) -> Self {
        let TeacherSettings { outline, loading, tokens, at_a_time, chunk_tokens, streams, threads, .. } = *settings;
        let context = tokens.min(chunk_tokens).max(1);
        let one = PlanSettings { pass_tokens: context, ..PlanSettings::one(context, KvFormat::F32, threads) };
        let pass = Plan::of(outline, loading, &one);
        let width = outline.config.hidden_size;
        let experts = |model: &Model| model.config.expert_counts().iter().sum::<usize>();
        let logits = CHUNK_ROWS.min(tokens) * outline.config.vocab_size;
        let said_of_a_token = width + streams * width + experts(outline);
        let learnt_of_a_token = width + streams * width + experts(student);
        let numbers = logits + tokens * (at_a_time * said_of_a_token + learnt_of_a_token);
        let said = size_of::<f32>() * numbers;
        let states = size_of::<f32>() * at_a_time * tokens * width;
        let running = pass.cache + pass.recurrent + pass.forward + states + mixing(outline, settings.mixed_tokens);
        let (weights, read) = match settings.is_streamed {
            false => (pass.weights, 0),
            true => {
                let layer = outline.weights.layers.iter().map(LayerWeights::bytes).max().unwrap_or(0);
                let embedding = outline.weights.embedding.weight.matrix.bytes();
                (outline.weights.head().weight.matrix.bytes(), layer.max(embedding) + pass.loading)
            }
        };
        let learning = self.activations + mixing(student, settings.mixed_tokens);
        Self {
            teacher: weights + weights / PAGE_ENDS + said,
            activations: learning.max(running + read),
            loading: self.loading.max(pass.loading),
            ..self
        }
    }

    /// The most that is held at any time.
    pub fn total(&self) -> usize {
        let running = self.gradients + self.moments + self.checkpoints + self.cache + self.activations;
        self.weights + self.teacher + self.program + running.max(self.loading)
    }
}

/// Running all experts of a mixture on so many tokens: what goes in, what comes out, and what is between.
fn mixing(model: &Model, tokens: usize) -> usize {
    let most = model.weights.layers.iter().filter_map(LayerWeights::mixture).map(|moe| {
        let inner = moe.experts.first().map_or(0, |expert| expert.gate.output_width());
        moe.experts.len() * (2 * model.config.hidden_size + 3 * inner)
    });
    size_of::<f32>() * tokens * most.max().unwrap_or(0)
}

fn numbers(parameter: &Parameter) -> usize {
    parameter.matrix.rows * parameter.matrix.columns
}

/// One chunk in a layer, as in `gradient.rs`.
enum Cell {
    Taped(Taped),
    Again { input: Memory, _found: Option<Held> },
}

struct Taped {
    mark: Mark,
    x: Var,
    y: Var,
}

/// A stream that waits, exact or rounded.
enum Memory {
    Exact(Rehearsed),
    Rounded(Held),
}

struct Rehearsal<'a> {
    outline: &'a Model,
    options: &'a GradientOptions,
    chunks: Vec<Chunk>,
    tape: RehearseTape,
    /// Bytes of what waits in all layers.
    checkpoints: usize,
    /// Bytes of keys and values of all layers, and of their gradients in one.
    pages: usize,
    key_gradients: usize,
    /// Bytes of what other ranks keep of a sequence, on their way.
    passing: usize,
    /// The longest sequence that is cut, and the tokens of all of them, in whole pages: this rank's.
    cut_longest: usize,
    cut_pages: usize,
    /// Tokens of one sequence that a rank shows the others, at most; 0 where nobody shares it.
    shown: usize,
}

impl<'a> Rehearsal<'a> {
    fn new(outline: &'a Model, settings: &'a TrainingSettings) -> Self {
        let (options, ranks) = (&settings.options, settings.sequence_ranks);
        let whole = Chunk::cut(&settings.lengths, options.chunk_tokens * ranks);
        // A sequence that was cut ends where it began before and does not go on.
        let ends = whole.iter().filter(|chunk| chunk.continues);
        let ends = ends.filter(|chunk| !(chunk.goes_on && chunk.spans.lengths.len() == 1));
        let cut: Vec<usize> = ends.map(|chunk| chunk.spans.starts[0] + chunk.spans.lengths[0]).collect();
        let cut_pages = cut.iter().map(|tokens| tokens.div_ceil(ranks).div_ceil(PAGE_TOKENS)).sum();
        let cut_longest = cut.into_iter().max().unwrap_or(0).div_ceil(ranks);
        let chunks = match ranks {
            1 => whole,
            _ => Chunk::cut_shared(&settings.lengths, options.chunk_tokens, (0, ranks)),
        };
        let shown = chunks.iter().filter(|chunk| chunk.round.is_some()).map(|chunk| chunk.rows.len()).max();
        Self {
            outline,
            options,
            tape: RehearseTape::default(),
            checkpoints: 0,
            pages: 0,
            key_gradients: 0,
            passing: 0,
            cut_longest,
            cut_pages,
            shown: shown.map_or(0, |shown| shown.max(cut_longest)),
            chunks,
        }
    }

    /// Holds what a layer's keys and values take while they go round: those that are looked at, and a message that
    /// comes or goes, twice.
    fn pass_on(&mut self, index: usize, with_gradients: bool) -> Option<Held> {
        let attention = &self.outline.config.attention;
        let row = 2 * attention.kv_heads * attention.head_dim * size_of::<f32>();
        let pages = self.page_bytes() * self.shown.div_ceil(PAGE_TOKENS);
        let gradients = if with_gradients { row * self.shown } else { 0 };
        let bytes = 3 * (pages + gradients);
        let shows = self.mixer(index) == MixerKind::Attention && self.shown > 0;
        shows.then(|| {
            self.passing = self.passing.max(bytes);
            self.tape.room().hold(bytes)
        })
    }

    fn run(&mut self) {
        let n_layers = self.outline.weights.layers.len();
        let mut streams = Vec::with_capacity(self.chunks.len());
        for chunk in &self.chunks {
            let mark = self.tape.begin(Segment::default());
            let x = embed(&mut self.tape, self.outline, &vec![0; chunk.rows.len()]);
            streams.push(self.tape.take(x));
            self.tape.forget(mark);
        }
        let mut layers = Vec::with_capacity(n_layers);
        for index in 0..n_layers {
            let cells = self.forward(index, &mut streams);
            layers.push((cells, self.keep_cache(index)));
        }
        let mut dstreams = self.losses(streams);
        for (index, (cells, cache)) in layers.into_iter().enumerate().rev() {
            self.backward(index, cells, &mut dstreams);
            drop(cache);
        }
    }

    fn mixer(&self, index: usize) -> MixerKind {
        self.outline.config.layers[index].mixer
    }

    /// Keys and values of a layer; where layers are run again they are all that waits of it beside its inputs.
    fn keep_cache(&mut self, index: usize) -> Option<Held> {
        let bytes = match self.mixer(index) {
            MixerKind::Attention => self.page_bytes() * self.cut_pages,
            MixerKind::Delta => 0,
        };
        self.pages += bytes;
        (bytes > 0).then(|| self.tape.room().hold(bytes))
    }

    fn page_bytes(&self) -> usize {
        let attention = &self.outline.config.attention;
        2 * attention.kv_heads * PAGE_TOKENS * self.options.kv().row_bytes(attention.head_dim)
    }

    fn run_cell(&mut self, index: usize, chunk: usize, input: Rehearsed) -> Taped {
        let Chunk { spans, goes_on, round, .. } = &self.chunks[chunk];
        let mark = self.tape.begin(Segment { goes_on: *goes_on, round: round.clone(), ..Segment::default() });
        let x = self.tape.input(input, true);
        let w = &self.outline.weights.layers[index];
        let y = layer_with(&mut self.tape, w, std::iter::empty::<&mut LayerState>(), spans, x);
        Taped { mark, x, y }
    }

    fn forward(&mut self, index: usize, streams: &mut [Rehearsed]) -> Vec<Cell> {
        let mut cells = Vec::with_capacity(streams.len());
        for (chunk, stream) in streams.iter_mut().enumerate() {
            let input = std::mem::replace(stream, self.tape.value(0, 1));
            let passing = self.pass_on(index, false);
            let taped = self.run_cell(index, chunk, input);
            drop(passing);
            *stream = self.tape.take(taped.y);
            if !self.options.checkpoint_layers {
                cells.push(Cell::Taped(taped));
                continue;
            }
            let (input, rows) = (self.tape.take(taped.x), self.chunks[chunk].rows.len());
            self.tape.forget(taped.mark);
            let bytes = rows * self.outline.config.hidden_size * Kept::number_bytes(self.options.precision);
            let found = self.found(index, chunk);
            self.checkpoints += bytes + found;
            let input = match self.options.precision {
                Precision::F32 => Memory::Exact(input),
                Precision::Bf16 => Memory::Rounded(self.tape.room().hold(bytes)),
            };
            cells.push(Cell::Again { input, _found: (found > 0).then(|| self.tape.room().hold(found)) });
        }
        cells
    }

    /// Bytes of the delta state that a chunk finds, if its first sequence began before.
    fn found(&self, index: usize, chunk: usize) -> usize {
        let config = &self.outline.config;
        match (self.mixer(index), &config.delta) {
            (MixerKind::Delta, Some(_)) if self.chunks[chunk].continues => {
                LayerState::empty(config, MixerKind::Delta, self.options.kv()).bytes()
            }
            _ => 0,
        }
    }

    fn losses(&mut self, streams: Vec<Rehearsed>) -> Vec<Option<Rehearsed>> {
        let mut dstreams = Vec::with_capacity(streams.len());
        for stream in streams {
            let mark = self.tape.begin(Segment::default());
            let x = self.tape.input(stream, true);
            let h = finish(&mut self.tape, self.outline, &x);
            self.tape.cross_entropy(&h, self.outline.weights.head(), &[], &[]);
            dstreams.push(self.tape.unwind(mark, None, Some(x)));
        }
        dstreams
    }

    fn backward(&mut self, index: usize, cells: Vec<Cell>, dstreams: &mut [Option<Rehearsed>]) {
        let attention = &self.outline.config.attention;
        let row = 2 * attention.kv_heads * attention.head_dim * size_of::<f32>();
        let (gradients, pages) = match self.mixer(index) {
            MixerKind::Attention => (row * self.cut_longest, self.page_bytes()),
            MixerKind::Delta => (0, 0),
        };
        self.key_gradients = self.key_gradients.max(gradients);
        let _gradients = self.tape.room().hold(gradients);
        let _passing = self.pass_on(index, true);
        for (chunk, cell) in cells.into_iter().enumerate().rev() {
            let rows = self.chunks[chunk].rows.len();
            let again = if self.cut_pages > 0 { pages * rows.div_ceil(PAGE_TOKENS) } else { 0 };
            let taped = match cell {
                Cell::Taped(taped) => taped,
                Cell::Again { input, .. } => {
                    let input = match input {
                        Memory::Exact(stream) => stream,
                        Memory::Rounded(held) => {
                            drop(held);
                            self.tape.value(rows, self.outline.config.hidden_size)
                        }
                    };
                    self.run_cell(index, chunk, input)
                }
            };
            let _pages = self.tape.room().hold(again);
            let dy = dstreams[chunk].take().unwrap_or_else(|| self.tape.value(rows, self.outline.config.hidden_size));
            dstreams[chunk] = self.tape.unwind(taped.mark, Some((taped.y, dy)), Some(taped.x));
        }
    }
}

#[cfg(test)]
#[path = "plan_training_tests.rs"]
mod tests;
