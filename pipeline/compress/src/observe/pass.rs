//! One observation under way: layer after layer there, and layer after layer back.

use super::plan::mixtures;
use super::record::{GradientTally, Tally};
use super::similarity::output_similarity;
use super::states::{Name, States};
use super::store::Store;
use super::{Calibration, ObserveOptions, ObserveStep};
use crate::{CompressError, LayerStatistics};
use models::{Layers, layer_from_empty};
use ops::{Carried, Execute, Gradients, Infer, Precision, Segment, Tape};

pub(super) struct Observing<'a, 'w> {
    pub(super) layers: Layers<'a>,
    pub(super) calibration: Calibration<'a>,
    pub(super) options: &'a ObserveOptions,
    /// Lengths of the sequences of each.
    pub(super) batches: Vec<Vec<usize>>,
    /// Batches that are walked back.
    pub(super) backward: usize,
    pub(super) store: Option<Store>,
    pub(super) states: States,
    pub(super) step: ObserveStep,
    pub(super) watch: &'w mut dyn FnMut(ObserveStep) -> bool,
}

/// What is known of each layer; of one that is no mixture nothing is ever known.
struct Known {
    statistics: Vec<Option<LayerStatistics>>,
    gradients: Vec<Option<GradientTally>>,
    /// Layers that are mixtures.
    mixtures: Vec<usize>,
}

impl Known {
    fn first_missing(&self) -> Option<usize> {
        self.mixtures.iter().copied().find(|&layer| self.statistics[layer].is_none())
    }

    /// Whether the gradients of all mixtures from `layer` on are known.
    fn gradients_from(&self, layer: usize) -> bool {
        self.mixtures.iter().all(|&mixture| mixture < layer || self.gradients[mixture].is_some())
    }
}

impl Observing<'_, '_> {
    pub(super) fn run(mut self) -> Result<Vec<LayerStatistics>, CompressError> {
        let mut known = self.known()?;
        if let (Some(&lowest), Some(&highest)) = (known.mixtures.first(), known.mixtures.last()) {
            let wanted = self.backward > 0 && !known.gradients_from(lowest);
            if known.first_missing().is_some() || (wanted && self.walked_to(&known, lowest).is_none()) {
                let last = if wanted { self.n_layers() } else { highest + 1 };
                self.forward(&mut known, last, if wanted { self.n_layers() + 1 - lowest } else { 0 })?;
            }
            if wanted {
                self.backward(&mut known, lowest)?;
            }
        }
        self.states.clear();
        let complete = |(statistics, gradients): (Option<LayerStatistics>, Option<GradientTally>)| {
            let mut statistics = statistics?;
            gradients.iter().for_each(|gradients| gradients.complete(&mut statistics));
            Some(statistics)
        };
        Ok(known.statistics.into_iter().zip(known.gradients).filter_map(complete).collect())
    }

    fn n_layers(&self) -> usize {
        self.layers.config().layers.len()
    }

    /// What earlier calls have saved.
    fn known(&self) -> Result<Known, CompressError> {
        let n_layers = self.n_layers();
        let mut known = Known {
            statistics: vec![None; n_layers],
            gradients: (0..n_layers).map(|_| None).collect(),
            mixtures: mixtures(self.layers.outline()).map(|(layer, ..)| layer).collect(),
        };
        if let Some(store) = &self.store {
            for (layer, n_experts, inner) in mixtures(self.layers.outline()) {
                known.statistics[layer] = store.forward(layer, n_experts)?;
                known.gradients[layer] = store.gradient(layer, n_experts, inner)?;
            }
        }
        Ok(known)
    }

    /// Another batch has passed through a layer.
    fn passed(&mut self) -> Result<(), CompressError> {
        self.step.done += 1;
        if (self.watch)(self.step) { Ok(()) } else { Err(CompressError::Cancelled) }
    }

    /// A layer is entered, whose weights are read if they are not in memory.
    fn enter(&mut self, layer: usize, is_backward: bool, bytes: usize) {
        self.step.layer = layer;
        self.step.is_backward = is_backward;
        if let Layers::Streamed(_) = self.layers {
            self.step.bytes_read += bytes as u64;
        }
    }

    /// Through all layers up to `last`, from where states are left; afterwards it goes back through so many.
    fn forward(&mut self, known: &mut Known, last: usize, back: usize) -> Result<(), CompressError> {
        let reachable = known.first_missing().unwrap_or(last);
        let begun = (0..=reachable).rev().find(|&layer| self.states.has(Name::Inputs(layer), self.batches.len()));
        let first = begun.unwrap_or(0);
        self.step.total = (last - first) * self.batches.len() + back * self.backward;
        if begun.is_none() {
            self.embed()?;
        }
        for layer in first..last {
            let is_last = layer + 1 == last && back == 0;
            self.forward_layer(known, layer, is_last)?;
        }
        if back > 0 {
            self.states.shorten(Name::Inputs(last), self.backward)?;
        }
        Ok(())
    }

    /// Fills what goes into the first layer.
    fn embed(&mut self) -> Result<(), CompressError> {
        let embedding = self.layers.embedding()?;
        self.enter(0, false, embedding.weight.matrix.bytes());
        let mut e = Infer::new(Precision::F32);
        let mut filling = self.states.begin(Name::Inputs(0))?;
        let mut rest = self.calibration.tokens;
        for lengths in &self.batches {
            let (tokens, after) = rest.split_at(lengths.iter().sum());
            rest = after;
            filling.put(e.embedding(&embedding, tokens))?;
        }
        self.states.finish(filling)
    }

    /// Where `is_last`, nobody asks what comes out.
    fn forward_layer(&mut self, known: &mut Known, index: usize, is_last: bool) -> Result<(), CompressError> {
        let (layers, config) = (self.layers, self.layers.config());
        let layer = layers.layer(index)?;
        self.enter(index, false, layer.bytes());
        let moe = layer.mixture();
        let n_experts = moe.map_or(0, |moe| moe.experts.len());
        let tally = Tally::new(n_experts, self.calibration.tokens.len(), self.options.similarity_tokens);
        let mut e = Infer::recording(Precision::F32, tally);
        let mut filling = if is_last { None } else { Some(self.states.begin(Name::Inputs(index + 1))?) };
        for batch in 0..self.batches.len() {
            let x = self.states.get(Name::Inputs(index), batch, batch < self.backward)?;
            let y = layer_from_empty(&mut e, config, index, &layer, &self.batches[batch], x);
            if let Some(filling) = &mut filling {
                filling.put(y)?;
            }
            self.passed()?;
        }
        filling.map_or(Ok(()), |filling| self.states.finish(filling))?;
        if let (Some(moe), None) = (moe, &known.statistics[index]) {
            let similarity = output_similarity(moe, &e.record.sample, config.hidden_size);
            let statistics = e.record.statistics(index, similarity);
            self.store.iter().try_for_each(|store| store.save_forward(&statistics))?;
            known.statistics[index] = Some(statistics);
        }
        self.states.shorten(Name::Inputs(index), self.backward)
    }

    /// The layer above which all was walked back, if what is needed below is there; one more than there are layers
    /// where the losses are still to be taken.
    fn walked_to(&self, known: &Known, lowest: usize) -> Option<usize> {
        let n_layers = self.n_layers();
        let has_inputs =
            |below: usize| (lowest..below).all(|layer| self.states.has(Name::Inputs(layer), self.backward));
        let is_there = |&layer: &usize| match layer > n_layers {
            true => has_inputs(n_layers + 1),
            false => {
                self.states.has(Name::Asked(layer), self.backward) && known.gradients_from(layer) && has_inputs(layer)
            }
        };
        (lowest + 1..=n_layers + 1).find(is_there)
    }

    /// Back through all layers down to the lowest mixture.
    fn backward(&mut self, known: &mut Known, lowest: usize) -> Result<(), CompressError> {
        let n_layers = self.n_layers();
        let from = self.walked_to(known, lowest).expect("the way there has left all that the way back needs");
        self.step.total = self.step.done + (from - lowest) * self.backward;
        if from > n_layers {
            self.take_losses()?;
        }
        for layer in (lowest..from.min(n_layers)).rev() {
            self.backward_layer(known, layer, layer == lowest)?;
        }
        Ok(())
    }

    /// Fills what the losses ask of what comes out of the last layer.
    fn take_losses(&mut self) -> Result<(), CompressError> {
        let n_layers = self.n_layers();
        let ending = self.layers.frozen_ending()?;
        self.enter(n_layers, true, ending.head.weight.matrix.bytes());
        let mut filling = self.states.begin(Name::Asked(n_layers))?;
        let mut start = 0;
        for batch in 0..self.backward {
            let lengths = self.batches[batch].clone();
            let rows: usize = lengths.iter().sum();
            let (targets, weights) = next_tokens(&self.calibration.tokens[start..start + rows], &lengths);
            start += rows;
            let mut gradients = Gradients::default();
            let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients);
            let x = tape.input(self.states.get(Name::Inputs(n_layers), batch, false)?);
            let h = tape.rms_norm(&x, &ending.norm);
            tape.cross_entropy(&h, &ending.head, &targets, &weights);
            let dx = tape.backward(Vec::new(), Some(x));
            filling.put(dx.expect("a loss asks something of what it is taken of"))?;
            self.passed()?;
        }
        self.states.finish(filling)?;
        self.states.remove(Name::Inputs(n_layers));
        Ok(())
    }

    fn backward_layer(&mut self, known: &mut Known, index: usize, is_last: bool) -> Result<(), CompressError> {
        let (layers, config) = (self.layers, self.layers.config());
        let layer = layers.frozen_layer(index)?;
        self.enter(index, true, layer.bytes());
        let moe = layer.mixture();
        let inner = moe.and_then(|moe| moe.experts.first()).map_or(0, |expert| expert.gate.output_width());
        let mut tally = GradientTally::new(moe.map_or(0, |moe| moe.experts.len()), inner);
        let mut filling = if is_last { None } else { Some(self.states.begin(Name::Asked(index))?) };
        for batch in 0..self.backward {
            let input = self.states.get(Name::Inputs(index), batch, false)?;
            let dy = self.states.get(Name::Asked(index + 1), batch, false)?;
            let mut gradients = Gradients::default();
            let mut tape = Tape::new(Precision::F32, 0.0, &mut gradients).recording(&mut tally);
            let mark = tape.begin(Segment::default());
            let x = tape.input(input);
            let y = layer_from_empty(&mut tape, config, index, &layer, &self.batches[batch], x);
            let dx = tape.unwind(mark, vec![(y, dy)], Some(x), &mut Carried::default());
            drop(tape);
            let dx = dx.expect("the residual stream leads back to its input");
            if let Some(filling) = &mut filling {
                filling.put(dx)?;
            }
            self.passed()?;
        }
        if moe.is_some() {
            self.store.iter().try_for_each(|store| store.save_gradient(index, &tally))?;
            known.gradients[index] = Some(tally);
        }
        filling.map_or(Ok(()), |filling| self.states.finish(filling))?;
        self.states.remove(Name::Asked(index + 1));
        self.states.remove(Name::Inputs(index));
        Ok(())
    }
}

/// The token after each, and whether it counts: after the last of a sequence there is none.
fn next_tokens(tokens: &[u32], lengths: &[usize]) -> (Vec<u32>, Vec<f32>) {
    let mut targets: Vec<u32> = tokens[1..].to_vec();
    targets.push(0);
    let mut weights = vec![1.0; tokens.len()];
    let mut end = 0;
    for length in lengths {
        end += length;
        weights[end - 1] = 0.0;
    }
    (targets, weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sequence_tells_the_first_token_of_the_next() {
        let (targets, weights) = next_tokens(&[7, 8, 9, 5, 6], &[3, 1, 1]);
        assert_eq!(targets, [8, 9, 5, 6, 0]);
        assert_eq!(weights, [1.0, 1.0, 0.0, 0.0, 0.0]);
    }
}
