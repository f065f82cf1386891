//! Rounding weights to fewer bits: every value to the nearest that its format can say.

use models::{Model, ModelError, Quantization};
use numeric::{Format, Matrix};
use serde::{Deserialize, Serialize};

/// A format by its name in recipes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredFormat {
    F32,
    Bf16,
    #[serde(rename = "q8_0")]
    Q8_0,
    Mxfp4,
    Nvfp4,
}

impl StoredFormat {
    fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::Bf16 => Format::Bf16,
            Self::Q8_0 => Format::Q8_0,
            Self::Mxfp4 => Format::Mxfp4,
            Self::Nvfp4 => Format::Nvfp4,
        }
    }
}

/// Which part of the model goes into which format. Vectors and the convolution stay f32: they are tiny and read by
/// value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeRecipe {
    /// The routed experts' and the shared expert's projections, and dense feed-forward networks.
    pub experts: StoredFormat,
    /// Projections of attention and delta layers.
    pub projections: StoredFormat,
    /// Routers, and the gates of shared experts.
    pub router: StoredFormat,
    /// Embeddings, head, and the thin projections of the delta gates.
    pub rest: StoredFormat,
}

impl Default for QuantizeRecipe {
    fn default() -> Self {
        Self {
            experts: StoredFormat::Nvfp4,
            projections: StoredFormat::Nvfp4,
            router: StoredFormat::Q8_0,
            rest: StoredFormat::Bf16,
        }
    }
}

impl QuantizeRecipe {
    /// The same in formats.
    pub fn quantization(&self) -> Quantization {
        Quantization {
            experts: self.experts.format(),
            projections: self.projections.format(),
            router: self.router.format(),
            rest: self.rest.format(),
        }
    }
}

/// Rounds every linear map to its part's format, or to the next wider one that its rows fit. Returns how many bytes the
/// weights now take. `Loading::Quantized` does the same to a model while it is read.
pub fn quantize(model: &mut Model, recipe: &QuantizeRecipe) -> Result<usize, ModelError> {
    let quantization = recipe.quantization();
    for map in model.weights.linears_mut() {
        assert!(map.adapter.is_none(), "merge adapters before weights are rounded");
        let empty = Matrix::from_f32(0, 0, Vec::new());
        let matrix = std::mem::replace(&mut map.weight.matrix, empty);
        map.weight.matrix = quantization.round(&map.weight.name, matrix)?;
    }
    Ok(model.bytes())
}
