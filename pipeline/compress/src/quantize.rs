//! Rounding weights to fewer bits: every value to the nearest that its format can say.

use models::Model;
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
    fn wanted(&self, name: &str) -> Format {
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        let part = if ends(&["mlp.gate.weight", "mlp.shared_expert_gate.weight"]) {
            self.router
        } else if name.contains(".mlp.") {
            self.experts
        } else if ends(&["embed_tokens.weight", "lm_head.weight", "in_proj_ba.weight"]) {
            self.rest
        } else {
            self.projections
        };
        part.format()
    }
}

/// Rounds every linear map. A matrix whose rows are not whole blocks of the wanted format takes the next wider one that
/// fits: NVFP4 (64 columns), MXFP4 and Q8_0 (32), bf16 (any). Returns how many bytes the weights now take.
pub fn quantize(model: &mut Model, recipe: &QuantizeRecipe) -> usize {
    for map in model.weights.linears_mut() {
        assert!(map.adapter.is_none(), "merge adapters before weights are rounded");
        let matrix = &map.weight.matrix;
        let format = fitting(recipe.wanted(&map.weight.name), matrix.columns);
        if format != matrix.format() {
            map.weight.matrix = Matrix::quantize(&matrix.to_f32(), matrix.rows, matrix.columns, format);
        }
    }
    model.bytes()
}

fn fitting(wanted: Format, columns: usize) -> Format {
    let order = [Format::Nvfp4, Format::Mxfp4, Format::Q8_0, Format::Bf16];
    let candidates = order.into_iter().skip_while(|&format| format != wanted);
    candidates.into_iter().find(|format| columns.is_multiple_of(format.block_columns())).unwrap_or(wanted)
}
