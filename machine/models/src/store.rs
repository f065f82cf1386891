//! How quantized matrices are laid out in safetensors: the names and shapes of the `compressed-tensors` library.
//!
//! | format | tensors beside `X.` |
//! |---|---|
//! | Q8_0  | `weight` I8 `[rows, columns]`, `weight_scale` F16 `[rows, columns/32]` |
//! | MXFP4 | `weight_packed` U8 `[rows, columns/2]`, `weight_scale` U8 (E8M0) `[rows, columns/32]` |
//! | NVFP4 | `weight_packed` U8 `[rows, columns/2]`, `weight_scale` F8_E4M3 `[rows, columns/16]`, and |
//! |       | `weight_global_scale` F32 `[1]`, the reciprocal of our tensor scale |
//!
//! A packed byte holds two neighbouring columns, the even one in the low nibble.

use crate::ModelError;
use formats::safetensors::Tensors;
use formats::{DType, TensorPlan, TensorWriter};
use numeric::block::{BlockMxfp4, BlockNvfp4, BlockQ8};
use numeric::{Format, Matrix, Storage, f16};
use ops::Parameter;

/// The 32 or 64 four-bit codes of a block, one per column, from nibbles that lie `half` apart.
fn codes(quants: &[u8], half: usize) -> impl Iterator<Item = u8> + '_ {
    quants.chunks_exact(half).flat_map(|part| part.iter().map(|q| q & 15).chain(part.iter().map(|q| q >> 4)))
}

/// Neighbouring columns share a byte.
fn pack(codes: impl Iterator<Item = u8>) -> Vec<u8> {
    let codes: Vec<u8> = codes.collect();
    codes.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4).collect()
}

/// Back to nibbles that lie `half` apart.
fn unpack(bytes: &[u8], half: usize, quants: &mut [u8]) {
    let code = |column: usize| bytes[column / 2] >> (4 * (column % 2)) & 15;
    for (byte, q) in quants.iter_mut().enumerate() {
        let start = byte / half * 2 * half + byte % half;
        *q = code(start) | code(start + half) << 4;
    }
}

/// A tensor that is to be written: name, kind, shape.
pub(crate) type Declared = (String, DType, Vec<usize>);

/// The tensors that a parameter of this format becomes, of which only the shape need be known.
pub(crate) fn declared(parameter: &Parameter, format: Format, plain: Format) -> Vec<Declared> {
    let Matrix { rows, columns, .. } = parameter.matrix;
    let part = |suffix: &str, dtype, columns| (format!("{}{suffix}", parameter.name), dtype, vec![rows, columns]);
    match format {
        Format::Q8_0 => vec![part("", DType::I8, columns), part("_scale", DType::F16, columns / 32)],
        Format::Mxfp4 => vec![part("_packed", DType::U8, columns / 2), part("_scale", DType::U8, columns / 32)],
        Format::Nvfp4 => vec![
            part("_packed", DType::U8, columns / 2),
            part("_scale", DType::F8E4M3, columns / 16),
            (format!("{}_global_scale", parameter.name), DType::F32, vec![1]),
        ],
        _ => vec![(parameter.name.clone(), plain_dtype(parameter, plain), parameter.shape.clone())],
    }
}

/// As what a parameter that is not quantized is stored: vectors stay f32.
fn plain_dtype(parameter: &Parameter, plain: Format) -> DType {
    match plain {
        Format::Bf16 if parameter.shape.len() > 1 => DType::BF16,
        Format::F16 if parameter.shape.len() > 1 => DType::F16,
        _ => DType::F32,
    }
}

/// Writes a declared parameter.
pub(crate) fn write_parameter(
    writer: &mut TensorWriter,
    parameter: &Parameter,
    plain: Format,
) -> Result<(), ModelError> {
    let parts = declared(parameter, parameter.matrix.format(), plain);
    for ((name, dtype, _), bytes) in parts.into_iter().zip(contents(parameter, plain)) {
        debug_assert!(bytes.len().is_multiple_of(dtype.bytes()), "{name} is not whole numbers");
        writer.write(&name, &bytes)?;
    }
    Ok(())
}

/// The bytes of each tensor that [`declared`] names.
fn contents(parameter: &Parameter, plain: Format) -> Vec<Vec<u8>> {
    let matrix = &parameter.matrix;
    match &matrix.storage {
        Storage::Q8_0(blocks) => vec![
            blocks.iter().flat_map(|b| b.quants.map(|q| q as u8)).collect(),
            blocks.iter().flat_map(|b| b.scale.to_le_bytes()).collect(),
        ],
        Storage::Mxfp4(blocks) => {
            vec![pack(blocks.iter().flat_map(|b| codes(&b.quants, 16))), blocks.iter().map(|b| b.scale).collect()]
        }
        Storage::Nvfp4 { blocks, tensor_scale } => vec![
            pack(blocks.iter().flat_map(|b| codes(&b.quants, 8))),
            blocks.iter().flat_map(|b| b.scales).collect(),
            tensor_scale.recip().to_le_bytes().to_vec(),
        ],
        _ => vec![plain_dtype(parameter, plain).encode(&matrix.to_f32())],
    }
}

/// Writes parameters: quantized ones as they are, others in the `plain` format.
pub(crate) fn write(
    parameters: &[&Parameter],
    plain: Format,
    begin: impl FnOnce(&TensorPlan) -> Result<TensorWriter, ModelError>,
) -> Result<(), ModelError> {
    let mut plan = TensorPlan::new();
    for parameter in parameters {
        for (name, dtype, shape) in declared(parameter, parameter.matrix.format(), plain) {
            plan.declare(name, dtype, &shape);
        }
    }
    let mut writer = begin(&plan)?;
    for parameter in parameters {
        write_parameter(&mut writer, parameter, plain)?;
    }
    writer.finish()?;
    Ok(())
}

fn expect<'a>(tensors: &'a Tensors, name: &str, dtype: DType, shape: &[usize]) -> Result<&'a [u8], ModelError> {
    let tensor = tensors.get(name)?;
    if tensor.dtype != dtype {
        let problem = format!("stored as {}, want {}", tensor.dtype.name(), dtype.name());
        return Err(ModelError::Tensor { name: name.into(), problem });
    }
    if tensor.shape != shape {
        return Err(ModelError::Shape { name: name.into(), wanted: shape.to_vec(), found: tensor.shape.to_vec() });
    }
    Ok(tensor.bytes)
}

/// The block format of what is stored under `name`, or nothing where the tensor is a plain one.
pub(crate) fn quantized_format(tensors: &Tensors, name: &str, columns: usize) -> Result<Option<Format>, ModelError> {
    let scale_name = format!("{name}_scale");
    if !tensors.contains(&scale_name) {
        return Ok(None);
    }
    let format = match tensors.contains(name) {
        true => Format::Q8_0,
        false if tensors.get(&scale_name)?.dtype == DType::U8 => Format::Mxfp4,
        false => Format::Nvfp4,
    };
    let block = format.block_columns();
    if !columns.is_multiple_of(block) {
        let problem = format!("{columns} columns are not whole blocks of {block}");
        return Err(ModelError::Tensor { name: name.into(), problem });
    }
    Ok(Some(format))
}

/// The quantized matrix stored under `name`, whose format [`quantized_format`] has told.
pub(crate) fn read_quantized(
    tensors: &Tensors,
    name: &str,
    format: Format,
    rows: usize,
    columns: usize,
) -> Result<Matrix, ModelError> {
    let scale_name = format!("{name}_scale");
    let storage = if format == Format::Q8_0 {
        let scales = expect(tensors, &scale_name, DType::F16, &[rows, columns / 32])?;
        let quants = expect(tensors, name, DType::I8, &[rows, columns])?;
        let block = |(scale, quants): (&[u8], &[u8])| BlockQ8 {
            scale: f16::from_le_bytes([scale[0], scale[1]]),
            quants: std::array::from_fn(|i| quants[i] as i8),
        };
        Storage::Q8_0(scales.chunks_exact(2).zip(quants.chunks_exact(32)).map(block).collect())
    } else {
        let packed = expect(tensors, &format!("{name}_packed"), DType::U8, &[rows, columns / 2])?;
        match format {
            Format::Mxfp4 => mxfp4(expect(tensors, &scale_name, DType::U8, &[rows, columns / 32])?, packed),
            _ => {
                let scales = expect(tensors, &scale_name, DType::F8E4M3, &[rows, columns / 16])?;
                let global = expect(tensors, &format!("{name}_global_scale"), DType::F32, &[1])?;
                let global = f32::from_le_bytes([global[0], global[1], global[2], global[3]]);
                nvfp4(scales, packed, global.recip())
            }
        }
    };
    Ok(Matrix { rows, columns, storage })
}

fn mxfp4(scales: &[u8], packed: &[u8]) -> Storage {
    let block = |(&scale, bytes): (&u8, &[u8])| {
        let mut quants = [0; 16];
        unpack(bytes, 16, &mut quants);
        BlockMxfp4 { scale, quants }
    };
    Storage::Mxfp4(scales.iter().zip(packed.chunks_exact(16)).map(block).collect())
}

fn nvfp4(scales: &[u8], packed: &[u8], tensor_scale: f32) -> Storage {
    let block = |(scales, bytes): (&[u8], &[u8])| {
        let mut quants = [0; 32];
        unpack(bytes, 8, &mut quants);
        BlockNvfp4 { scales: std::array::from_fn(|i| scales[i]), quants }
    };
    let blocks = scales.chunks_exact(4).zip(packed.chunks_exact(32)).map(block).collect();
    Storage::Nvfp4 { blocks, tensor_scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_survive_the_two_layouts() {
        for half in [8, 16] {
            let quants: Vec<u8> = (0..2 * half).map(|i| (i as u8).wrapping_mul(29).wrapping_add(3)).collect();
            let packed = pack(codes(&quants, half));
            let mut back = vec![0; quants.len()];
            unpack(&packed, half, &mut back);
            assert_eq!(back, quants);
        }
    }
}
