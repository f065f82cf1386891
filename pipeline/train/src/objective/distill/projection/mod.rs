//! A teacher's experts laid onto a student's: a matrix P `[E_s, E_t]` for each layer with experts, columns that add up
//! to 1, so that P·p is where the student's router is to send a token that the teacher's sends to p.
//!
//! P begins at what is known of where experts came from, and is then [fitted](fit) to outputs. From there it learns
//! beside the student, whose experts move: by the share of `‖Σₑ pₑ·fₑ(x) − Σₛ (P·p)ₛ·fₛ(x)‖²` that it misses on some
//! tokens of each step, with KL(P ‖ P₀) as an anchor at the fit P₀. It is never trained by the routers' own loss, which
//! columns that are all alike would make nothing.
//!
//! Legend: E_t, E_s experts of teacher and student, n tokens, H hidden width.

mod fit;
mod step;

pub(super) use step::Shares;

use super::recipe::{DistillRecipe, ProjectionRecipe};
use super::teacher::Mixed;
use crate::objective::Companion;
use crate::recipe::TrainRecipe;
use models::{Model, Routed};
use numeric::Matrix;
use numeric::wire::{Message, Reading};
use ops::{Buffer, Execute, Infer, Linear, Moe, Parameter, Precision};

/// The least share that a student's expert has in any column: what is 0 could never grow.
const SHARE_MIN: f64 = 1e-9;

/// P of every layer with experts.
#[derive(Debug, Clone)]
pub struct Projection {
    layers: Vec<Laid>,
    /// The logits of P's columns, of the layers in which it learns.
    companion: Companion,
    /// What being away from the fit costs, beside the share of the outputs that is missed.
    anchor: f64,
    /// Whether anything learns.
    learns: bool,
    /// The share of the outputs that P misses, before and after the fit, of each layer that was fitted.
    pub missed: Vec<[f64; 2]>,
}

/// P of one layer.
#[derive(Debug, Clone)]
struct Laid {
    layer: usize,
    /// As it was fitted, column by column.
    begun: Vec<Vec<f64>>,
    /// The place of its logits; nothing where P is a permutation, which misses nothing that it could mend.
    learnt: Option<usize>,
    /// As it is now, for the teacher's probabilities.
    map: Linear,
}

/// A layer as it was fitted.
pub(super) struct Fitted {
    layer: usize,
    columns: Vec<Vec<f64>>,
    is_permutation: bool,
    /// Before and after, of what is no permutation.
    missed: Option<[f64; 2]>,
}

impl Fitted {
    /// `routed` is what the teacher's mixture did with some tokens, with what went into it; `lineage` is from the
    /// teacher's experts to the student's.
    pub(super) fn of(
        [teacher, student]: [&Moe; 2],
        lineage: &[Option<usize>],
        routed: &Routed,
        rows: &[usize],
        recipe: &ProjectionRecipe,
    ) -> Self {
        let experts = student.experts.len();
        let is_permutation = lineage.iter().all(Option::is_some) && experts == teacher.experts.len();
        if is_permutation {
            let columns = lineage.iter().map(|expert| fit::one_hot(*expert, experts, 1.0)).collect();
            return Self { layer: routed.layer, columns, is_permutation, missed: None };
        }
        let layer = fit::Layer::look([teacher, student], routed, rows);
        let begun = layer.begin(lineage);
        let columns = layer.fitted(&begun, recipe);
        let missed = Some([layer.missed(&begun), layer.missed(&columns)]);
        Self { layer: routed.layer, columns, is_permutation, missed }
    }
}

impl Projection {
    /// Of layers as they were fitted; how it learns from there on.
    pub(super) fn new(fitted: Vec<Fitted>, recipe: &DistillRecipe, train: &TrainRecipe) -> Self {
        let missed = fitted.iter().filter_map(|layer| layer.missed).collect();
        let mut logits: Vec<Parameter> = Vec::new();
        let mut layers = Vec::with_capacity(fitted.len());
        for Fitted { layer, columns, is_permutation, .. } in fitted {
            let experts = columns.first().map_or(0, Vec::len);
            if recipe.projection.rate == 0.0 || is_permutation || experts < 2 {
                layers.push(Laid::fixed(layer, columns));
                continue;
            }
            let values = columns.iter().flatten().map(|share| share.max(SHARE_MIN).ln() as f32).collect();
            let parameter = logits_of(logits.len(), layer, (experts, values));
            layers.push(Laid::learning(layer, &parameter));
            logits.push(parameter);
        }
        Self::of(layers, logits, missed, (&recipe.projection, train))
    }

    fn of(
        layers: Vec<Laid>,
        logits: Vec<Parameter>,
        missed: Vec<[f64; 2]>,
        (recipe, train): (&ProjectionRecipe, &TrainRecipe),
    ) -> Self {
        let learns = !logits.is_empty();
        let companion = Companion::new(logits, recipe.rate, train);
        Self { layers, companion, anchor: recipe.anchor, learns, missed }
    }

    /// Whether it is asked on what tokens of a step it learns.
    pub(super) fn learns(&self) -> bool {
        self.learns
    }

    pub(super) fn companion(&mut self) -> &mut Companion {
        &mut self.companion
    }

    /// Takes over what was learnt, or resumed, since the last step.
    pub(super) fn refresh(&mut self) {
        let parameters = self.companion.parameters();
        for laid in &mut self.layers {
            let Some(place) = laid.learnt else { continue };
            let columns = columns_of(parameters[place]);
            laid.map = map(&columns, columns[0].len());
        }
    }

    /// Where the student's router of a layer is to send each token, `[T, E_s]`.
    pub fn targets(&self, layer: usize, probabilities: &Buffer) -> Buffer {
        let laid = self.layers.iter().find(|laid| laid.layer == layer).expect("every layer with experts has one");
        let mut targets = Infer::new(Precision::F32).linear(probabilities, &laid.map);
        // Rounding leaves their sums a little beside 1.
        targets.for_each_row(|_, row| {
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value /= sum);
        });
        targets
    }

    /// P of a layer, row by row.
    pub fn matrix(&self, layer: usize) -> Option<&[f32]> {
        self.layers.iter().find(|laid| laid.layer == layer).map(|laid| laid.map.weight.values())
    }

    /// Adds the gradients of what P misses of the teacher's mixtures on these tokens, and of its anchor, `share` times;
    /// gives both, the means over the layers in which it learns.
    pub(super) fn learn(&mut self, mixed: &[Mixed], student: &Model, share: f64) -> Option<Shares> {
        let mut sum = Shares::default();
        let mut count = 0;
        for mixed in mixed {
            let laid = self.layers.iter().find(|laid| laid.layer == mixed.layer);
            let laid = laid.expect("every layer with experts has one");
            let Some(place) = laid.learnt else { continue };
            let parameter = self.companion.parameters()[place].clone();
            let columns = columns_of(&parameter);
            let (shares, slopes) = step::of(&columns, &laid.begun, mixed, moe(student, mixed.layer), self.anchor);
            let gradient = self.companion.gradients.entry(&parameter);
            let slopes = slopes.iter().flatten();
            gradient.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += (share * slope) as f32);
            sum.missed += shares.missed;
            sum.drift += shares.drift;
            count += 1;
        }
        let count = f64::from(count);
        (count > 0.0).then(|| Shares { missed: sum.missed / count, drift: sum.drift / count })
    }

    /// As it was fitted, for another process: before it learns anything.
    pub fn put(&self, message: &mut Message) {
        message.put(self.layers.len() as u64);
        for laid in &self.layers {
            let experts = laid.begun.first().map_or(0, Vec::len);
            message.put_u64s(&[laid.layer as u64, experts as u64, u64::from(laid.learnt.is_some())]);
            // Rounded logits, where there are some: what is made of them again is the same to the bit.
            match laid.learnt {
                Some(place) => message.put_f32s(self.companion.parameters()[place].values()),
                None => message.put_u64s(&laid.begun.iter().flatten().map(|share| share.to_bits()).collect::<Vec<_>>()),
            }
        }
    }

    /// What another process put.
    pub fn take(reading: &mut Reading, recipe: &DistillRecipe, train: &TrainRecipe) -> Self {
        let mut logits = Vec::new();
        let mut layers = Vec::new();
        for _ in 0..reading.take() {
            let numbers = reading.take_u64s();
            let (layer, experts) = (numbers[0] as usize, numbers[1] as usize);
            if numbers[2] == 1 {
                let values = reading.take_f32s();
                let parameter = logits_of(logits.len(), layer, (experts, values));
                layers.push(Laid::learning(layer, &parameter));
                logits.push(parameter);
            } else {
                let shares: Vec<f64> = reading.take_u64s().into_iter().map(f64::from_bits).collect();
                layers.push(Laid::fixed(layer, shares.chunks(experts).map(<[f64]>::to_vec).collect()));
            }
        }
        Self::of(layers, logits, Vec::new(), (&recipe.projection, train))
    }
}

impl Laid {
    fn fixed(layer: usize, begun: Vec<Vec<f64>>) -> Self {
        let experts = begun.first().map_or(0, Vec::len);
        Self { layer, map: map(&begun, experts), begun, learnt: None }
    }

    /// Its anchor is where the rounded logits are.
    fn learning(layer: usize, logits: &Parameter) -> Self {
        Self { learnt: Some(logits.id), ..Self::fixed(layer, columns_of(logits)) }
    }
}

fn moe(model: &Model, layer: usize) -> &Moe {
    model.weights.layers[layer].mixture().expect("teacher and student have experts in the same layers")
}

/// The logits of P's columns as a parameter `[E_t, E_s]`.
fn logits_of(id: usize, layer: usize, (experts, values): (usize, Vec<f32>)) -> Parameter {
    let shape = vec![values.len() / experts, experts];
    let matrix = Matrix::from_f32(shape[0], experts, values);
    Parameter { id, name: format!("projection.{layer}"), shape, trained: true, matrix }
}

/// The columns that logits stand for.
fn columns_of(logits: &Parameter) -> Vec<Vec<f64>> {
    let rows = logits.values().chunks(logits.matrix.columns);
    rows.map(|row| fit::softmax(&row.iter().map(|&logit| f64::from(logit)).collect::<Vec<_>>(), 1.0)).collect()
}

/// The columns of P as a map from teacher's probabilities to student's.
fn map(columns: &[Vec<f64>], experts: usize) -> Linear {
    let values = (0..experts).flat_map(|s| columns.iter().map(move |column| column[s] as f32)).collect();
    let matrix = Matrix::from_f32(experts, columns.len(), values);
    let shape = vec![experts, columns.len()];
    let weight = Parameter { id: 0, name: "projection".to_owned(), shape, trained: false, matrix };
    Linear { weight, bias: None, adapter: None }
}

/// What it costs to be away from where it began: the slope of KL(P ‖ P₀), the mean over columns, for a share of P.
fn pull(share: f64, begun: f64, columns: usize) -> f64 {
    ((share / begun).ln() + 1.0) / columns as f64
}

/// The slopes of a column's logits, of which `slopes` are those of its shares.
fn through_softmax(column: &[f64], slopes: &[f64]) -> Vec<f64> {
    let mean: f64 = slopes.iter().zip(column).map(|(slope, share)| slope * share).sum();
    slopes.iter().zip(column).map(|(slope, share)| share * (slope - mean)).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
