//! How fast this machine is at what compressing asks for, measured for a moment on numbers of the model's shape.

use crate::merge::{EIGEN, Neurons, align, each, symmetric_eigen};
use models::Model;
use numeric::{Format, Matrix, Rng, Storage, bf16};
use ops::{Buffer, Execute, Expert, Infer, Linear, Moe, Parameter, Precision};
use serde::Serialize;
use std::time::Instant;

/// Counts a second of what [`crate::CompressCost`] and [`crate::MergeCost`] count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompressSpeed {
    pub multiply_adds: f64,
    pub merge_multiply_adds: f64,
    pub pairs: f64,
    pub algebra: f64,
}

/// How long each is measured at least.
const MOMENT: f64 = 0.3;
/// Experts of the mixture that is timed, at most.
const EXPERTS: usize = 8;
/// Unknowns of the matrix whose eigenvectors are timed, at most.
const EIGEN_MAX: usize = 256;
/// By which products of f32 and sums in f64 are slower than those of stored weights, where only these are known.
const F32_SLOWER: f64 = 2.0;
const F64_SLOWER: f64 = 50.0;

/// The model's experts.
struct Shape {
    width: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    /// Tokens, so that each expert gets as many as in a chunk that goes through the whole layer.
    tokens: usize,
}

impl Shape {
    fn of(outline: &Model, chunk_tokens: usize) -> Self {
        let config = &outline.config;
        let all = config.expert_counts().into_iter().max().unwrap_or(1);
        let (inner, top_k) = config.experts.map_or((config.dense_width, 1), |experts| (experts.width, experts.top_k));
        let experts = all.min(EXPERTS.max(top_k));
        let tokens = (chunk_tokens * experts / all).clamp(1, 2048);
        Self { width: config.hidden_size, inner, experts, top_k, tokens }
    }

    /// A mixture of numbers that mean nothing.
    fn mixture(&self, format: Format) -> Moe {
        let mut rng = Rng::new(1);
        let expert = |_| {
            let mut map = |rows: usize, columns: usize| linear(rows, columns, format, &mut rng);
            Expert {
                gate: map(self.inner, self.width),
                up: map(self.inner, self.width),
                down: map(self.width, self.inner),
            }
        };
        let experts = (0..self.experts).map(expert).collect();
        let router = linear(self.experts, self.width, Format::F32, &mut Rng::new(2));
        Moe { layer: 0, router, experts, adapters: [None, None, None], top_k: self.top_k, normalize: true }
    }

    /// Multiply-adds a second of a mixture in this format.
    fn products(&self, format: Format) -> f64 {
        let moe = self.mixture(format);
        let mut rng = Rng::new(3);
        let x = Buffer::from_values(self.width, (0..self.tokens * self.width).map(|_| noise(&mut rng)).collect());
        let seconds = best_time(&mut || drop(Infer::new(Precision::F32).moe(&x, &moe)));
        (self.tokens * self.width * (3 * self.top_k * self.inner + self.experts)) as f64 / seconds
    }

    /// Pairs of unrelated experts whose neurons are put in one order, a second.
    fn pairs(&self) -> f64 {
        let moe = Self { experts: 2, ..*self }.mixture(Format::Bf16);
        let member = Neurons::of(&moe.experts[1]);
        let threads = kernels::pool::threads();
        let seconds = best_time(&mut || {
            // The other of a pair is taken apart each time.
            each((0..threads).collect(), |_| align(&Neurons::of(&moe.experts[0]), &member, None).relative_after());
        });
        threads as f64 / seconds
    }

    /// Multiply-adds in f64 a second, by one thread.
    fn algebra(&self) -> f64 {
        let n = self.inner.min(EIGEN_MAX);
        let mut rng = Rng::new(4);
        let rows: Vec<f64> = (0..n * n).map(|_| rng.normal()).collect();
        let gram: Vec<f64> = (0..n * n).map(|at| rows[at] + rows[at % n * n + at / n]).collect();
        let seconds = best_time(&mut || drop(symmetric_eigen(gram.clone(), n)));
        EIGEN * (n * n * n) as f64 / seconds
    }
}

impl CompressSpeed {
    /// For a model of this shape; what only merging asks for is measured if it merges.
    pub fn measured(outline: &Model, chunk_tokens: usize, merges: bool) -> Self {
        let shape = Shape::of(outline, chunk_tokens);
        let multiply_adds = shape.products(Format::Bf16);
        if !merges {
            return Self::derived(outline, multiply_adds);
        }
        let (merge_multiply_adds, pairs, algebra) = (shape.products(Format::F32), shape.pairs(), shape.algebra());
        Self { multiply_adds, merge_multiply_adds, pairs, algebra }
    }

    /// Where only the speed of products is known: aligning a pair takes three products of m × m × H, and as long again
    /// for the assignment as m³ multiply-adds do.
    pub fn derived(outline: &Model, multiply_adds: f64) -> Self {
        let Shape { width, inner, .. } = Shape::of(outline, 1);
        let pair = (inner * inner * (3 * width + inner)) as f64;
        Self {
            multiply_adds,
            merge_multiply_adds: multiply_adds / F32_SLOWER,
            pairs: multiply_adds / pair,
            algebra: multiply_adds / F64_SLOWER,
        }
    }
}

/// A number around 0, quickly.
fn noise(rng: &mut Rng) -> f32 {
    rng.uniform() as f32 - 0.5
}

fn linear(rows: usize, columns: usize, format: Format, rng: &mut Rng) -> Linear {
    let values = (0..rows * columns).map(|_| noise(rng));
    let storage = match format {
        Format::Bf16 => Storage::Bf16(values.map(bf16::from_f32).collect()),
        _ => Storage::F32(values.collect()),
    };
    let matrix = Matrix { rows, columns, storage };
    let weight = Parameter { id: 0, name: String::new(), shape: vec![rows, columns], trained: false, matrix };
    Linear { weight, bias: None, adapter: None }
}

/// Seconds of the fastest of some runs: whoever else works on the machine makes some slower.
fn best_time(work: &mut dyn FnMut()) -> f64 {
    let (mut best, began) = (f64::INFINITY, Instant::now());
    for round in 0.. {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        if (round >= 2 || best > MOMENT) && began.elapsed().as_secs_f64() > MOMENT {
            break;
        }
    }
    best.max(1e-9)
}
