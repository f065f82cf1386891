//! What an objective learns beside the model: parameters with gradients and an optimizer of their own.

use crate::optimizer::Optimizer;
use crate::recipe::TrainRecipe;
use ops::{Gradients, Parameter};

/// See the head of this file. Its parameters are saved, resumed and given to other processes with the model's.
#[derive(Debug, Clone)]
pub struct Companion {
    parameters: Vec<Parameter>,
    pub(crate) gradients: Gradients,
    optimizer: Optimizer,
    /// Its learning rate, in multiples of the run's.
    ratio: f64,
}

impl Companion {
    /// Of parameters that are all trained, each with its place for an id; `rate` is the highest learning rate, which
    /// goes up and down as the run's does. What is no weight of a model does not decay.
    pub fn new(parameters: Vec<Parameter>, rate: f64, recipe: &TrainRecipe) -> Self {
        let ratio = rate / recipe.learning_rate;
        let recipe = TrainRecipe { weight_decay: 0.0, ..recipe.clone() };
        let optimizer = Optimizer::new(&parameters.iter().collect::<Vec<_>>(), &recipe);
        Self { parameters, gradients: Gradients::default(), optimizer, ratio }
    }

    pub fn parameters(&self) -> Vec<&Parameter> {
        self.parameters.iter().collect()
    }

    pub fn parameters_mut(&mut self) -> Vec<&mut Parameter> {
        self.parameters.iter_mut().collect()
    }

    pub(crate) fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Both, for what a checkpoint puts back.
    pub(crate) fn parts_mut(&mut self) -> (Vec<&mut Parameter>, &mut Optimizer) {
        (self.parameters.iter_mut().collect(), &mut self.optimizer)
    }

    /// Forgets what the last step asked.
    pub fn clear(&mut self) {
        self.gradients.clear();
    }

    /// One update beside one of the model, whose rate this is. Where nothing was asked, or what was asked is no number,
    /// everything stays as it is.
    pub fn update(&mut self, learning_rate: f64) {
        let parameters: Vec<&Parameter> = self.parameters.iter().collect();
        if !parameters.iter().any(|parameter| self.gradients.get(parameter.id).is_some()) {
            return;
        }
        let norm = self.optimizer.gradient_norm(&parameters, &self.gradients);
        if norm.is_finite() {
            let parameters = self.parameters.iter_mut().collect();
            self.optimizer.update(parameters, &mut self.gradients, norm, self.ratio * learning_rate);
        }
    }
}
