//! Kernels: one folder each, with a contract, a scalar definition, and variants chosen at run time.

pub mod cpu;
pub mod dequantize;
pub mod gemm;
pub mod matvec;

pub mod adamw;
pub mod attention;
pub mod bandwidth;
pub mod conv1d;
pub mod cross_entropy;
pub mod delta_gate;
pub mod delta_step;
pub mod dropout;
pub mod gated_delta;
pub mod kv_page;
pub mod l2_norm;
pub mod pack;
pub mod packed;
pub mod pool;
pub mod real;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod sigmoid_gate;
mod simd;
pub mod swiglu;
