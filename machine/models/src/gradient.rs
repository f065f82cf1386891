//! Loss and gradients of packed sequences.

use crate::forward::{embed, finish, hidden, layer};
use crate::{KvFormat, Model, State};
use ops::{Buffer, Execute, Gradients, Infer, Precision, Spans, Tape};

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
    /// Keep only each layer's input and run the layer again on the way back: less memory, a third more work.
    pub checkpoint_layers: bool,
    /// Coefficient of the routers' balance loss; 0 leaves it out.
    pub auxiliary_coefficient: f32,
    /// Decides what adapters with dropout leave out: another number for each batch of a run. Without one they leave out
    /// nothing.
    pub dropout_seed: Option<u64>,
}

impl GradientOptions {
    fn tape<'w, 'g>(&self, gradients: &'g mut Gradients) -> Tape<'w, 'g> {
        Tape::new(self.precision, self.auxiliary_coefficient, gradients).dropping(self.dropout_seed)
    }
}

/// What a pass saw.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Nats per token, unweighted; 0 where the weight is 0.
    pub losses: Vec<f32>,
    /// Tokens per expert of each mixture layer.
    pub expert_counts: Vec<Vec<u64>>,
}

/// Adds the gradients of `Σ weights · losses` of every trained parameter.
pub fn loss_and_gradients(
    model: &Model,
    examples: &Examples,
    options: &GradientOptions,
    gradients: &mut Gradients,
) -> Record {
    match options.checkpoint_layers {
        true => checkpointed(model, examples, options, gradients),
        false => whole(model, examples, options, gradients),
    }
}

/// Losses alone, in f32.
pub fn losses(model: &Model, examples: &Examples) -> Vec<f32> {
    let mut e = Infer::new(Precision::F32);
    let mut states = fresh(model, examples);
    let h = hidden(&mut e, model, &mut states, examples.tokens, examples.lengths);
    e.cross_entropy(&h, model.weights.head(), examples.targets, examples.weights)
}

fn fresh(model: &Model, examples: &Examples) -> Vec<State> {
    vec![State::empty(&model.config, KvFormat::F32); examples.lengths.len()]
}

fn counts(tape: &Tape) -> Vec<Vec<u64>> {
    tape.expert_counts().iter().map(|(_, counts)| counts.clone()).collect()
}

fn whole(model: &Model, examples: &Examples, options: &GradientOptions, gradients: &mut Gradients) -> Record {
    let mut states = fresh(model, examples);
    let mut tape = options.tape(gradients);
    let h = hidden(&mut tape, model, &mut states, examples.tokens, examples.lengths);
    let losses = tape.cross_entropy(&h, model.weights.head(), examples.targets, examples.weights);
    let expert_counts = counts(&tape);
    tape.backward(Vec::new(), None);
    Record { losses, expert_counts }
}

/// Forward once, keeping each layer's input; then back, layer by layer, each run again on a tape of its own.
fn checkpointed(model: &Model, examples: &Examples, options: &GradientOptions, gradients: &mut Gradients) -> Record {
    let mut states = fresh(model, examples);
    let spans = Spans { lengths: examples.lengths.to_vec(), starts: vec![0; examples.lengths.len()] };
    let n_layers = model.weights.layers.len();

    let mut infer = Infer { dropout_seed: options.dropout_seed, ..Infer::new(options.precision) };
    let mut inputs: Vec<Buffer> = vec![embed(&mut infer, model, examples.tokens)];
    for index in 0..n_layers {
        let x = inputs[index].clone();
        inputs.push(layer(&mut infer, model, index, &mut states, &spans, x));
    }

    let mut tape = options.tape(gradients);
    let x = tape.input(inputs.pop().expect("the last layer's output"));
    let h = finish(&mut tape, model, &x);
    let losses = tape.cross_entropy(&h, model.weights.head(), examples.targets, examples.weights);
    let mut dx = tape.backward(Vec::new(), Some(x));

    let mut expert_counts = Vec::new();
    let mut states = fresh(model, examples);
    for index in (0..n_layers).rev() {
        let mut tape = options.tape(gradients);
        let x = tape.input(inputs.pop().expect("one input per layer"));
        let y = layer(&mut tape, model, index, &mut states, &spans, x);
        expert_counts.extend(counts(&tape));
        dx = tape.backward(dx.map(|dy| (y, dy)).into_iter().collect(), Some(x));
    }
    expert_counts.reverse();

    let mut tape = options.tape(gradients);
    let x = embed(&mut tape, model, examples.tokens);
    tape.backward(dx.map(|dy| (x, dy)).into_iter().collect(), None);
    Record { losses, expert_counts }
}
