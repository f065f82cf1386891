//! A teacher's forward pass: what it says of a batch, layer by layer, chunk by chunk, as a student goes through it.

use crate::Model;
use crate::chunk::Chunk;
use crate::forward::finish;
use crate::gradient::walk;
use crate::guidance::joined;
use ops::{Buffer, Infer, Moe, Precision, Record, Routing};

/// What is asked of a teacher beside its last hidden states.
#[derive(Debug, Clone, Default)]
pub struct Questions {
    /// The routers' probabilities.
    pub routers: bool,
    /// What goes into the layers' mixtures.
    pub inputs: bool,
    /// The residual stream after each of these layers.
    pub layers: Vec<usize>,
}

/// What a teacher says of T tokens.
#[derive(Debug)]
pub struct Taught {
    /// After the final norm, `[T, H]`: what its head makes logits of.
    pub hidden: Buffer,
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
    /// `[T, H]`, if asked for.
    pub inputs: Option<Buffer>,
}

/// Runs the model over packed sequences, `chunk_tokens` at a time; its weights may be in any format.
pub fn teach(model: &Model, tokens: &[u32], lengths: &[usize], chunk_tokens: usize, questions: &Questions) -> Taught {
    let mut e = Infer::recording(Precision::F32, Recorder { questions, seen: Vec::new() });
    let chunks = Chunk::cut(lengths, chunk_tokens);
    let mut streams = Vec::new();
    let last = walk(&mut e, model, tokens, &chunks, |layer, after| {
        if questions.layers.contains(&layer) {
            streams.push((layer, joined(after)));
        }
    });
    let hidden: Vec<Buffer> = last.into_iter().map(|stream| finish(&mut e, model, &stream)).collect();
    Taught { hidden: joined(&hidden), routers: e.record.routed(), streams }
}

/// Chunk by chunk, layer by layer: the probabilities, and the inputs where those are asked for.
struct Recorder<'q> {
    questions: &'q Questions,
    seen: Vec<(usize, Buffer, Option<Buffer>)>,
}

impl Record for Recorder<'_> {
    const LOOKS: bool = false;

    fn experts(&mut self, _: &Moe, _: &Buffer, _: &Routing, _: &Buffer) {}

    fn routing(&mut self, moe: &Moe, x: &Buffer, routing: &Routing) {
        if self.questions.routers || self.questions.inputs {
            let inputs = self.questions.inputs.then(|| x.clone());
            self.seen.push((moe.layer, routing.probabilities.clone(), inputs));
        }
    }
}

impl Recorder<'_> {
    fn routed(self) -> Vec<Routed> {
        let mut layers: Vec<(usize, Vec<Buffer>, Vec<Buffer>)> = Vec::new();
        for (layer, probabilities, inputs) in self.seen {
            match layers.last_mut().filter(|last| last.0 == layer) {
                Some(last) => {
                    last.1.push(probabilities);
                    last.2.extend(inputs);
                }
                None => layers.push((layer, vec![probabilities], inputs.into_iter().collect())),
            }
        }
        let routed = |(layer, probabilities, inputs): (usize, Vec<Buffer>, Vec<Buffer>)| Routed {
            layer,
            probabilities: joined(&probabilities),
            inputs: (!inputs.is_empty()).then(|| joined(&inputs)),
        };
        layers.into_iter().map(routed).collect()
    }
}
