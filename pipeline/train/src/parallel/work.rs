//! What the first rank tells the others, as bytes.

use super::trained;
use crate::objective::{Companion, StepWork};
use models::{GradientOptions, Model};
use numeric::wire::{Message, Reading};
use ops::{Parameter, Precision};
use prepare::{Batch, Piece};
use std::sync::atomic::AtomicBool;

const END: u64 = 0;
const STEP: u64 = 1;
const READY: u64 = 2;

/// A step, as the others hear of it.
pub(super) struct Order {
    batches: Vec<Batch>,
    options: Vec<GradientOptions>,
    step_weight: f64,
    /// Finished, and of the whole run.
    steps: [usize; 2],
}

impl Order {
    pub(super) fn end() -> Message {
        let mut message = Message::default();
        message.put(END);
        message
    }

    pub(super) fn ready(made: &Message) -> Message {
        let mut message = Message::default();
        message.put(READY);
        message.put_bytes(made.bytes());
        message
    }

    /// What was made ready; nothing at the end.
    pub(super) fn made_ready(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut reading = Reading::new(bytes);
        match reading.take() {
            END => None,
            READY => Some(reading.take_bytes().to_vec()),
            other => panic!("an order {other} before all is ready"),
        }
    }

    /// The parameters that are trained as they are now, a companion's too, and the work.
    pub(super) fn step(model: &Model, companion: Option<&Companion>, work: &StepWork) -> Message {
        let mut message = Message::default();
        message.put(STEP);
        let mut learnt = trained(&model.parameters());
        learnt.extend(companion.map_or_else(Vec::new, Companion::parameters));
        message.put(learnt.len() as u64);
        learnt.iter().for_each(|parameter| message.put_f32s(parameter.values()));
        message.put(work.step_weight.to_bits());
        message.put_u64s(&[work.step as u64, work.steps as u64]);
        message.put(work.batches.len() as u64);
        for (batch, options) in work.batches.iter().zip(work.options) {
            put_options(&mut message, options);
            message.put_u32s(&batch.tokens);
            message.put_u32s(&batch.targets);
            message.put_f32s(&batch.weights);
            message.put_u64s(&batch.lengths.iter().map(|&length| length as u64).collect::<Vec<_>>());
            let pieces = batch.pieces.iter().flat_map(|piece| [piece.sample, piece.start, piece.length]);
            message.put_u64s(&pieces.map(|number| number as u64).collect::<Vec<_>>());
        }
        message
    }

    /// Takes the parameters over and gives the work; nothing at the end.
    pub(super) fn read(bytes: &[u8], model: &mut Model, companion: Option<&mut Companion>) -> Option<Self> {
        let mut reading = Reading::new(bytes);
        if reading.take() == END {
            return None;
        }
        let mut learnt: Vec<&mut Parameter> = model.parameters_mut();
        learnt.retain(|parameter| parameter.trained);
        learnt.extend(companion.map_or_else(Vec::new, Companion::parameters_mut));
        assert_eq!(reading.take(), learnt.len() as u64, "all ranks train the same model");
        for parameter in learnt {
            let values = reading.take_f32s();
            assert_eq!(parameter.matrix.rows * parameter.matrix.columns, values.len(), "{}", parameter.name);
            parameter.matrix.as_f32_mut().copy_from_slice(&values);
        }
        let step_weight = f64::from_bits(reading.take());
        let steps = reading.take_u64s();
        let steps = [steps[0] as usize, steps[1] as usize];
        let count = reading.take();
        let (batches, options) = (0..count).map(|_| take_batch(&mut reading)).unzip();
        reading.end();
        Some(Self { batches, options, step_weight, steps })
    }

    /// Nothing of it is a rank's own before it is told which.
    pub(super) fn work<'a>(&'a self, cancelled: &'a AtomicBool) -> StepWork<'a> {
        let Self { batches, step_weight, options, steps: [step, steps] } = self;
        let (step_weight, step, steps) = (*step_weight, *step, *steps);
        StepWork { batches, own: &[], step_weight, options, step, steps, cancelled }
    }
}

fn put_options(message: &mut Message, options: &GradientOptions) {
    let GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient, dropout_seed } = options;
    message.put_u64s(&[
        u64::from(*precision == Precision::Bf16),
        *chunk_tokens as u64,
        u64::from(*checkpoint_layers),
        u64::from(auxiliary_coefficient.to_bits()),
        u64::from(dropout_seed.is_some()),
        dropout_seed.unwrap_or(0),
    ]);
}

fn take_batch(reading: &mut Reading) -> (Batch, GradientOptions) {
    let numbers = reading.take_u64s();
    let options = GradientOptions {
        precision: if numbers[0] == 1 { Precision::Bf16 } else { Precision::F32 },
        chunk_tokens: numbers[1] as usize,
        checkpoint_layers: numbers[2] == 1,
        auxiliary_coefficient: f32::from_bits(numbers[3] as u32),
        dropout_seed: (numbers[4] == 1).then_some(numbers[5]),
    };
    let (tokens, targets, weights) = (reading.take_u32s(), reading.take_u32s(), reading.take_f32s());
    let lengths = reading.take_u64s().into_iter().map(|length| length as usize).collect();
    let numbers: Vec<usize> = reading.take_u64s().into_iter().map(|number| number as usize).collect();
    let piece = |piece: &[usize]| Piece { sample: piece[0], start: piece[1], length: piece[2] };
    let pieces = numbers.chunks_exact(3).map(piece).collect();
    // Losses are told apart by kind where the metrics are written.
    (Batch { tokens, lengths, targets, weights, pieces, ..Batch::default() }, options)
}
