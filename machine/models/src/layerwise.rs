//! Layers one at a time, of a model in memory and of one that is larger: whoever goes through a model layer by layer
//! has one way for both.

use crate::forward::layer_with;
use crate::weights::LayerWeights;
use crate::{Config, KvFormat, LayerState, LayerStream, Model, ModelError};
use ops::{Execute, Linear, Norm, Spans};
use std::borrow::Cow;

/// Where layers come from.
#[derive(Clone, Copy)]
pub enum Layers<'a> {
    Resident(&'a Model),
    /// Each visit reads the layer again.
    Streamed(&'a LayerStream),
}

/// What stands after the last layer.
#[derive(Debug, Clone)]
pub struct Ending {
    pub norm: Norm,
    pub head: Linear,
}

impl<'a> Layers<'a> {
    /// The whole model, whose numbers need not be there.
    pub fn outline(self) -> &'a Model {
        match self {
            Self::Resident(model) => model,
            Self::Streamed(stream) => stream.outline(),
        }
    }

    pub fn config(self) -> &'a Config {
        &self.outline().config
    }

    pub fn layer(self, index: usize) -> Result<Cow<'a, LayerWeights>, ModelError> {
        match self {
            Self::Resident(model) => Ok(Cow::Borrowed(&model.weights.layers[index])),
            Self::Streamed(stream) => stream.layer(index).map(Cow::Owned),
        }
    }

    /// The layer, none of whose weights wants a gradient: for walking back through it to its input.
    pub fn frozen_layer(self, index: usize) -> Result<LayerWeights, ModelError> {
        let mut layer = self.layer(index)?.into_owned();
        layer.visit_mut(&mut |parameter| parameter.trained = false);
        Ok(layer)
    }

    pub fn embedding(self) -> Result<Cow<'a, Linear>, ModelError> {
        match self {
            Self::Resident(model) => Ok(Cow::Borrowed(&model.weights.embedding)),
            Self::Streamed(stream) => stream.embedding().map(Cow::Owned),
        }
    }

    /// What stands between the last layer and the head.
    pub fn final_norm(self) -> Result<Cow<'a, Norm>, ModelError> {
        match self {
            Self::Resident(model) => Ok(Cow::Borrowed(&model.weights.final_norm)),
            Self::Streamed(stream) => stream.final_norm().map(Cow::Owned),
        }
    }

    /// What makes logits.
    pub fn head(self) -> Result<Cow<'a, Linear>, ModelError> {
        match self {
            Self::Resident(model) => Ok(Cow::Borrowed(model.weights.head())),
            Self::Streamed(stream) => match stream.ending()? {
                (_, Some(head)) => Ok(Cow::Owned(head)),
                (_, None) => stream.embedding().map(Cow::Owned),
            },
        }
    }

    /// Final norm and head, which want no gradient.
    pub fn frozen_ending(self) -> Result<Ending, ModelError> {
        let (mut norm, mut head) = match self {
            Self::Resident(model) => (model.weights.final_norm.clone(), model.weights.head().clone()),
            Self::Streamed(_) => (self.final_norm()?.into_owned(), self.head()?.into_owned()),
        };
        norm.weight.trained = false;
        head.weight.trained = false;
        Ok(Ending { norm, head })
    }
}

/// One layer over whole sequences, which lie one after the other in x `[T, H]` and each begin from the empty state.
pub fn layer_from_empty<'w, E: Execute<'w>>(
    e: &mut E,
    config: &Config,
    index: usize,
    layer: &'w LayerWeights,
    lengths: &[usize],
    x: E::Value,
) -> E::Value {
    let mixer = config.layers[index].mixer;
    let mut memories: Vec<LayerState> =
        lengths.iter().map(|_| LayerState::empty(config, mixer, KvFormat::F32)).collect();
    let spans = Spans { lengths: lengths.to_vec(), starts: vec![0; lengths.len()] };
    layer_with(e, layer, memories.iter_mut(), &spans, x)
}
