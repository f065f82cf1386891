//! Rounding weights to fewer bits: which part of a model goes into which format, and one matrix at a time into it.

use crate::ModelError;
use kernels::pool;
use numeric::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use numeric::quantize::nvfp4_tensor_scale;
use numeric::{Format, Matrix, Storage, f16};

/// Blocks that one thread rounds at a time.
const TASK_BLOCKS: usize = 4096;

/// The format of each part. Vectors and the convolution are in none: they are tiny and read by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// The routed experts' and the shared expert's projections, and dense feed-forward networks.
    pub experts: Format,
    /// Projections of attention and delta layers.
    pub projections: Format,
    /// Routers, and the gates of shared experts.
    pub router: Format,
    /// Embeddings, head, and the thin projections of the delta gates.
    pub rest: Format,
}

impl Quantization {
    /// Experts and projections in one format, and the parts that are small or easily hurt in wider ones.
    pub fn to(format: Format) -> Self {
        Self { experts: format, projections: format, router: Format::Q8_0, rest: Format::Bf16 }
    }

    /// The format of the linear map whose weight has this name. Rows that are not whole blocks of the wanted format
    /// take the next wider one that fits: NVFP4 (64 columns), MXFP4 and Q8_0 (32), bf16 (any).
    pub fn format(&self, name: &str, columns: usize) -> Format {
        let wanted = match part(name) {
            Part::Experts => self.experts,
            Part::Projections => self.projections,
            Part::Router => self.router,
            Part::Rest => self.rest,
        };
        let order = [Format::Nvfp4, Format::Mxfp4, Format::Q8_0, Format::Bf16];
        let mut candidates = order.into_iter().skip_while(|&format| format != wanted);
        candidates.find(|format| columns.is_multiple_of(format.block_columns())).unwrap_or(wanted)
    }

    /// The weight of this name rounded to its format, every value to the nearest that the format can say.
    pub fn round(&self, name: &str, matrix: Matrix) -> Result<Matrix, ModelError> {
        let format = self.format(name, matrix.columns);
        if format == matrix.format() {
            return Ok(matrix);
        }
        let (rows, columns, values) = (matrix.rows, matrix.columns, matrix.to_f32());
        // A large matrix need not stand beside its rounded form.
        drop(matrix);
        if let Some(value) = values.iter().find(|value| !value.is_finite())
            && format.block_columns() > 1
        {
            let problem = format!("it holds {value}, which {} cannot store", formats::gguf::name_of(format));
            return Err(ModelError::Tensor { name: name.into(), problem });
        }
        Ok(rounded(&values, rows, columns, format))
    }

    /// Whether the weight of this name is one of those that the whole is done for.
    pub(crate) fn is_bulk(name: &str) -> bool {
        matches!(part(name), Part::Experts | Part::Projections)
    }
}

enum Part {
    Experts,
    Projections,
    Router,
    Rest,
}

fn part(name: &str) -> Part {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    if ends(&["mlp.gate.weight", "mlp.shared_expert_gate.weight"]) {
        Part::Router
    } else if name.contains(".mlp.") {
        Part::Experts
    } else if ends(&["embed_tokens.weight", "lm_head.weight", "in_proj_ba.weight"]) {
        Part::Rest
    } else {
        Part::Projections
    }
}

/// [`Matrix::quantize`] on all threads: rounding billions of numbers is what opening a model then waits for.
fn rounded(values: &[f32], rows: usize, columns: usize, format: Format) -> Matrix {
    let storage = match format {
        Format::Q8_0 => Storage::Q8_0(blocks(values, BlockQ8 { scale: f16::ZERO, quants: [0; 32] }, BlockQ8::quantize)),
        Format::Mxfp4 => Storage::Mxfp4(blocks(values, BlockMxfp4 { scale: 0, quants: [0; 16] }, BlockMxfp4::quantize)),
        Format::Nvfp4 => {
            let tensor_scale = nvfp4_tensor_scale(values);
            let empty = BlockNvfp4 { scales: [0; 4], quants: [0; 32] };
            let blocks = blocks(values, empty, |values| BlockNvfp4::quantize(values, tensor_scale));
            Storage::Nvfp4 { blocks, tensor_scale }
        }
        _ => return Matrix::quantize(values, rows, columns, format),
    };
    Matrix { rows, columns, storage }
}

fn blocks<const N: usize, B: Copy + Send>(
    values: &[f32],
    empty: B,
    quantize: impl Fn(&[f32; N]) -> B + Sync,
) -> Vec<B> {
    let values = values.as_chunks().0;
    let mut blocks = vec![empty; values.len()];
    pool::for_each_chunk(&mut blocks, TASK_BLOCKS, |task, blocks| {
        let values = &values[task * TASK_BLOCKS..];
        blocks.iter_mut().zip(values).for_each(|(block, values)| *block = quantize(values));
    });
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use numeric::Rng;

    #[test]
    fn many_threads_round_as_one() {
        let (rows, columns) = (2 * TASK_BLOCKS / 3, 192);
        let mut rng = Rng::new(3);
        let values: Vec<f32> = (0..rows * columns).map(|_| rng.normal() as f32).collect();
        let pool = kernels::pool::Pool::new(3);
        for format in [Format::Q8_0, Format::Mxfp4, Format::Nvfp4, Format::Bf16] {
            let found = pool.install(|| rounded(&values, rows, columns, format));
            let wanted = Matrix::quantize(&values, rows, columns, format);
            assert_eq!(found.format(), format);
            assert!(found.to_le_bytes() == wanted.to_le_bytes(), "{format:?}");
            assert!(found.to_f32() == wanted.to_f32(), "{format:?}: another scale of the tensor");
        }
    }

    #[test]
    fn each_part_has_its_format_and_rows_that_do_not_fit_a_wider_one() {
        let all = Quantization::to(Format::Nvfp4);
        let mut router = all;
        router.router = Format::F32;
        for (quantization, name, columns, wanted) in [
            (all, "model.layers.0.mlp.experts.3.down_proj.weight", 64, Format::Nvfp4),
            (all, "model.layers.0.mlp.down_proj.weight", 96, Format::Mxfp4),
            (all, "model.layers.0.linear_attn.out_proj.weight", 48, Format::Bf16),
            (all, "model.layers.0.self_attn.q_proj.weight", 128, Format::Nvfp4),
            (all, "model.layers.0.mlp.gate.weight", 128, Format::Q8_0),
            (router, "model.layers.0.mlp.gate.weight", 128, Format::F32),
            (all, "model.layers.0.mlp.shared_expert_gate.weight", 128, Format::Q8_0),
            (all, "model.layers.0.linear_attn.in_proj_ba.weight", 128, Format::Bf16),
            (all, "lm_head.weight", 128, Format::Bf16),
        ] {
            assert_eq!(quantization.format(name, columns), wanted, "{name}");
        }
    }
}
