//! AdamW over the trained ones of some parameters, a model's say, with the gradient clipped by its global norm.

use crate::recipe::{Method, TrainRecipe};
use kernels::adamw::{self, AdamW};
use kernels::pool;
use ops::{Gradients, Parameter};

/// The running means of one parameter's gradient and of its square.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

/// Holds moments for trained parameters only, at the places of their ids.
#[derive(Debug, Clone)]
pub struct Optimizer {
    moments: Vec<Option<Moments>>,
    method: Method,
    settings: AdamW,
    clip: f64,
    /// Updates made so far.
    updates: u64,
}

impl Optimizer {
    /// Each parameter's id is its place.
    pub fn new(parameters: &[&Parameter], recipe: &TrainRecipe) -> Self {
        let fresh = |parameter: &&Parameter| {
            let count = parameter.matrix.rows * parameter.matrix.columns;
            parameter.trained.then(|| Moments { first: vec![0.0; count], second: vec![0.0; count] })
        };
        Self {
            moments: parameters.iter().map(fresh).collect(),
            method: recipe.method.clone(),
            settings: AdamW {
                learning_rate: 0.0,
                beta1: recipe.betas[0] as f32,
                beta2: recipe.betas[1] as f32,
                epsilon: recipe.epsilon as f32,
                weight_decay: recipe.weight_decay as f32,
            },
            clip: recipe.clip,
            updates: 0,
        }
    }

    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The moments of a trained parameter.
    pub fn moments(&self, parameter: &Parameter) -> &Moments {
        self.moments[parameter.id].as_ref().expect("a trained parameter has moments")
    }

    /// Puts back what a checkpoint kept; `moments` in the order of the trained parameters.
    pub fn restore(&mut self, updates: u64, moments: impl IntoIterator<Item = Moments>) {
        self.updates = updates;
        self.moments.iter_mut().flatten().zip(moments).for_each(|(slot, kept)| *slot = kept);
    }

    /// The norm of all trained parameters' gradients together.
    pub fn gradient_norm(&self, parameters: &[&Parameter], gradients: &Gradients) -> f64 {
        let trained: Vec<_> = parameters.iter().filter(|p| p.trained).filter_map(|p| gradients.get(p.id)).collect();
        let mut squares = vec![0.0; trained.len()];
        let pairs = trained.into_iter().zip(&mut squares).collect();
        pool::for_each(pairs, |(gradient, square): (&[f32], &mut f64)| *square = adamw::squared_norm(gradient));
        squares.iter().sum::<f64>().sqrt()
    }

    /// One update with the gradients as they are, scaled down where `norm` is above the limit. A trained parameter that
    /// no token reached counts as having a gradient of zero: its moments fade like all others', in a resumed run too.
    pub fn update(
        &mut self,
        parameters: Vec<&mut Parameter>,
        gradients: &mut Gradients,
        norm: f64,
        learning_rate: f64,
    ) {
        self.updates += 1;
        let clipped = self.clip > 0.0 && norm > self.clip;
        let scale = if clipped { self.clip / (norm + 1e-6) } else { 1.0 } as f32;
        let (settings, updates) = (self.settings, self.updates);

        for parameter in parameters.iter().filter(|parameter| parameter.trained) {
            gradients.entry(parameter);
        }
        let (gradients, method) = (&*gradients, &self.method);
        let trained: Vec<(&mut Parameter, &mut Moments)> = parameters
            .into_iter()
            .zip(&mut self.moments)
            .filter_map(|(parameter, moments)| Some((parameter, moments.as_mut()?)))
            .collect();
        pool::for_each(trained, |(parameter, moments)| {
            let gradient = gradients.get(parameter.id).expect("every trained parameter has an entry");
            let decay = if parameter.shape.len() >= 2 { settings.weight_decay } else { 0.0 };
            let learning_rate = (learning_rate * method.rate_ratio(&parameter.name)) as f32;
            let settings = AdamW { learning_rate, weight_decay: decay, ..settings };
            let Moments { first, second } = moments;
            adamw::step(parameter.matrix.as_f32_mut(), first, second, gradient, scale, updates, &settings);
        });
    }
}
