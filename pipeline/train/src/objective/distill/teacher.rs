//! Who teaches: a model in any format, in memory or read from disk layer by layer, or what was kept of one on disk.

use crate::error::TrainError;
use models::{Asked, LayerStream, Layers, Model, ModelError, Questions, Routed, teach};
use ops::{Buffer, Linear, Moe, Parts, Says, every_expert};
use prepare::Batch;

/// Bytes of experts' outputs that are alive at a time, as far as one token allows.
const OUTPUT_BYTES: usize = 64 << 20;

/// A teacher.
pub trait Teacher {
    /// What it says of micro-batches, each with what is asked of it.
    fn teach(&mut self, asked: &[(&Batch, &Questions)]) -> Result<Vec<Lesson>, TrainError>;

    /// What makes logits of its hidden states; one that gives parts of distributions has none.
    fn head(&self) -> Option<&Linear>;

    /// Micro-batches that it is best asked about at a time. What it says of all of them is kept until they are learnt.
    fn at_a_time(&self) -> usize {
        1
    }
}

/// What a teacher says of a micro-batch; of what it was not asked it says nothing.
#[derive(Debug, Default)]
pub struct Lesson {
    pub output: Option<Output>,
    pub routers: Vec<Routed>,
    /// What the mixtures of all experts are, on the rows that inputs were asked of.
    pub mixed: Vec<Mixed>,
    /// By layer.
    pub streams: Vec<(usize, Buffer)>,
}

/// A layer's experts on n tokens, all of them.
#[derive(Debug)]
pub struct Mixed {
    pub layer: usize,
    /// `[n, H]`.
    pub inputs: Buffer,
    /// `[n, E]`.
    pub probabilities: Buffer,
    /// `Σₑ pₑ·fₑ(x)`, `[n, H]`.
    pub outputs: Buffer,
}

/// What is to come after each token.
#[derive(Debug)]
pub enum Output {
    /// Hidden states for the teacher's head, `[T, H]`.
    Hidden(Buffer),
    Parts(KeptParts),
}

/// As [`Parts`], owned.
#[derive(Debug, Default)]
pub struct KeptParts {
    pub tokens: Vec<u32>,
    pub shares: Vec<f32>,
    pub logs: Vec<f32>,
    pub rest: Vec<f32>,
}

impl Output {
    pub(super) fn says<'a>(&'a self, head: Option<&'a Linear>, divergence: ops::Divergence) -> Says<'a> {
        match self {
            Self::Hidden(hidden) => {
                let head = head.expect("a teacher that gives hidden states has a head");
                Says::Hidden { hidden, head, divergence }
            }
            Self::Parts(KeptParts { tokens, shares, logs, rest }) => Says::Parts(Parts { tokens, shares, logs, rest }),
        }
    }
}

impl Mixed {
    fn of(moe: &Moe, routed: &Routed, rows: &[usize]) -> Self {
        let (inputs, probabilities) = (routed.inputs.clone(), routed.probabilities.gathered(rows));
        let mut outputs = Buffer::unwritten(inputs.rows, inputs.width);
        let some = rows_at_a_time(moe.experts.len(), inputs.width);
        for first in (0..inputs.rows).step_by(some) {
            let rows: Vec<usize> = (first..(first + some).min(inputs.rows)).collect();
            let y = all_mixed(&every_expert(&inputs.gathered(&rows), moe), &probabilities.gathered(&rows));
            rows.iter().for_each(|&row| outputs.row_mut(row).copy_from_slice(y.row(row - first)));
        }
        Self { layer: routed.layer, inputs, probabilities, outputs }
    }
}

/// `Σₑ pₑ·fₑ(x)` of the outputs of all experts `[E · n, H]` and their probabilities `[n, E]`.
pub(super) fn all_mixed(outputs: &Buffer, probabilities: &Buffer) -> Buffer {
    let n = probabilities.rows;
    let mut y = Buffer::zeros(n, outputs.width);
    y.for_each_row(|row, y| {
        for (e, &p) in probabilities.row(row).iter().enumerate() {
            y.iter_mut().zip(outputs.row(e * n + row)).for_each(|(y, f)| *y += p * f);
        }
    });
    y
}

/// Tokens that so many experts are run on at a time.
pub(super) fn rows_at_a_time(experts: usize, width: usize) -> usize {
    (OUTPUT_BYTES / (experts * width * size_of::<f32>()).max(1)).max(1)
}

fn lessons(layers: Layers, chunk_tokens: usize, asked: &[(&Batch, &Questions)]) -> Result<Vec<Lesson>, TrainError> {
    let batches: Vec<Asked> = asked
        .iter()
        .map(|(batch, questions)| Asked { tokens: &batch.tokens, lengths: &batch.lengths, questions })
        .collect();
    let mut mixed: Vec<Vec<Mixed>> = asked.iter().map(|_| Vec::new()).collect();
    let taught = teach(layers, &batches, chunk_tokens, &mut |number, moe, routed| {
        let rows = &asked[number].1.inputs;
        mixed[number].extend((!rows.is_empty()).then(|| Mixed::of(moe, routed, rows)));
    })?;
    let lesson = |(taught, mixed): (models::Taught, Vec<Mixed>)| Lesson {
        output: taught.hidden.map(Output::Hidden),
        routers: taught.routers,
        mixed,
        streams: taught.streams,
    };
    Ok(taught.into_iter().zip(mixed).map(lesson).collect())
}

/// A whole model in memory.
#[derive(Debug)]
pub struct Resident<'m> {
    pub model: &'m Model,
    /// Tokens that go through a layer at a time.
    pub chunk_tokens: usize,
}

impl Teacher for Resident<'_> {
    fn teach(&mut self, asked: &[(&Batch, &Questions)]) -> Result<Vec<Lesson>, TrainError> {
        lessons(Layers::Resident(self.model), self.chunk_tokens, asked)
    }

    fn head(&self) -> Option<&Linear> {
        Some(self.model.weights.head())
    }
}

/// A model on disk, of which the head alone stays in memory: each layer is read once for all micro-batches of a step.
pub struct Streamed<'s> {
    stream: &'s LayerStream,
    head: Linear,
    chunk_tokens: usize,
}

impl<'s> Streamed<'s> {
    /// `chunk_tokens` go through a layer at a time.
    pub fn new(stream: &'s LayerStream, chunk_tokens: usize) -> Result<Self, ModelError> {
        let head = Layers::Streamed(stream).head()?.into_owned();
        Ok(Self { stream, head, chunk_tokens })
    }
}

impl Teacher for Streamed<'_> {
    fn teach(&mut self, asked: &[(&Batch, &Questions)]) -> Result<Vec<Lesson>, TrainError> {
        lessons(Layers::Streamed(self.stream), self.chunk_tokens, asked)
    }

    fn head(&self) -> Option<&Linear> {
        Some(&self.head)
    }

    fn at_a_time(&self) -> usize {
        usize::MAX
    }
}
