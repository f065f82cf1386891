//! Matrix products, each with an optional grouped form in which every expert multiplies its own rows.
//!
//! T rows (tokens), K columns of `x`, N rows of the weight; everything row-major and contiguous, no alignment assumed.
//!
//! | function              | meaning                      |
//! |-----------------------|------------------------------|
//! | [`multiply_transposed`] | `y_TN (+)= x_TK · W_NKᵀ`   |
//! | [`multiply`]            | `dx_TK (+)= dy_TN · W_NK`  |
//! | [`accumulate_outer`]    | `dW_NK += dy_TNᵀ · x_TK`   |
//!
//! Writes all of its output; reads it only to accumulate. The same call on the same machine gives the same bits,
//! whatever the threads do: no sum is ever split among them. Outputs that start on a cache line (64 bytes) are written
//! faster.

mod blocking;
mod portable;
mod product;
pub mod scalar;
mod schedule;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;

#[cfg(test)]
mod tests;

use crate::cpu::Cpu;
use crate::matvec::{self, Job};
use crate::packed;
use numeric::{Data, MatrixView};
use product::{Left, Output, Product, Right, Variant};

/// Slowest first: the last that runs here wins.
#[cfg(target_arch = "x86_64")]
static VARIANTS: &[&Variant] =
    &[&portable::PORTABLE, &avx2::AVX2, &avx512::AVX512, &avx512_bf16::AVX512_BF16, &amx::AMX];
#[cfg(not(target_arch = "x86_64"))]
static VARIANTS: &[&Variant] = &[&portable::PORTABLE];

/// How the products are computed; sums are always f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// f32 multiplies.
    F32,
    /// Both inputs rounded to bf16, nearest even, before they are multiplied.
    Bf16,
}

/// `y_TN (+)= x_TK · W_NKᵀ`; adds to `y` when `accumulate`.
pub fn multiply_transposed(y: &mut [f32], x: &[f32], weight: MatrixView, accumulate: bool, precision: Precision) {
    let rows = rows_of(x, weight.columns);
    grouped_multiply_transposed(y, x, &[weight], &[0, rows], accumulate, precision);
}

/// `dx_TK (+)= dy_TN · W_NK`; adds to `dx` when `accumulate`.
pub fn multiply(dx: &mut [f32], dy: &[f32], weight: MatrixView, accumulate: bool, precision: Precision) {
    let rows = rows_of(dy, weight.rows);
    grouped_multiply(dx, dy, &[weight], &[0, rows], accumulate, precision);
}

/// `dW_NK += dy_TNᵀ · x_TK`.
pub fn accumulate_outer(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, k: usize, precision: Precision) {
    let rows = rows_of(dy, n);
    grouped_accumulate_outer(&mut [dw], dy, x, n, k, &[0, rows], precision);
}

/// [`multiply_transposed`] of rows `offsets[g]..offsets[g + 1]` with `weights[g]`, for each group g. The weights have
/// the same shape; the offsets start at 0, never fall, and end at T.
pub fn grouped_multiply_transposed(
    y: &mut [f32],
    x: &[f32],
    weights: &[MatrixView],
    offsets: &[usize],
    accumulate: bool,
    precision: Precision,
) {
    let Some(first) = weights.first() else { return };
    let (n, k) = (first.rows, first.columns);
    let job = Weighted { out: y, left: x, weights, offsets, columns: n, depth: k, transposed: true, accumulate };
    run_jobs(groups(job), accumulate, precision);
}

/// One product of [`multiply_each`].
pub struct Map<'a> {
    pub y: &'a mut [f32],
    pub x: &'a [f32],
    pub weight: MatrixView<'a>,
}

/// `y = x · Wᵀ` for several weights of any shapes at once: what one token needs of a layer, in one go for the threads.
pub fn multiply_each(maps: Vec<Map>, precision: Precision) {
    let job = |Map { y, x, weight }| Job { x, weight, y };
    run_jobs(maps.into_iter().map(job).collect(), false, precision);
}

/// Row r of `y` is `x[chosen[r]] · Wᵀ`, for packed weights: rows that many weights choose are rounded once.
pub fn multiply_chosen(maps: Vec<(Map, &[u32])>) {
    let job = |(Map { y, x, weight }, chosen)| packed_job(Job { x, weight, y }, Some(chosen));
    packed::run(maps.into_iter().map(job).collect(), false);
}

/// One product of [`multiply_gated`].
pub struct GatedMap<'a> {
    pub y: &'a mut [f32],
    pub x: &'a [f32],
    pub chosen: &'a [u32],
    /// Gate and up.
    pub pair: [MatrixView<'a>; 2],
    pub weights: &'a [f32],
}

/// Row r of `y` is `weights[r] · silu(x[chosen[r]] · gateᵀ) · (x[chosen[r]] · upᵀ)`, for packed weights: the same
/// numbers as [`multiply_chosen`] and `swiglu::forward_weighted` give one after the other, nothing written between.
pub fn multiply_gated(maps: Vec<GatedMap>) {
    packed::run_gated(maps.into_iter().map(gated_job).collect());
}

/// Rows `offsets[g]..offsets[g + 1]` of x, times packed weight g, are added to the rows of `y` that `to` names for
/// them, group by group.
pub fn add_packed_products(y: &mut [f32], x: &[f32], weights: &[MatrixView], offsets: &[usize], to: &[u32]) {
    let Some(first) = weights.first() else { return };
    assert_eq!(x.len(), check_offsets(offsets, weights.len()) * first.columns, "the input has other rows");
    let mut summands = Vec::with_capacity(weights.len());
    for (weight, rows) in weights.iter().zip(offsets.windows(2)).filter(|(_, rows)| rows[0] < rows[1]) {
        let Data::Packed(data) = weight.data else { unreachable!("only packed weights come here") };
        let (columns, rows) = (weight.columns, rows[0]..rows[1]);
        assert_eq!((weight.rows, columns), (first.rows, first.columns), "the groups' weights differ in shape");
        let x = &x[rows.start * columns..rows.end * columns];
        summands.push(packed::Summand { x, weight: data, columns, to: &to[rows] });
    }
    packed::run_summed(y, first.rows, &summands);
}

/// Each kind of job by its own product: packed weights, few rows, many rows.
fn run_jobs(jobs: Vec<Job>, accumulate: bool, precision: Precision) {
    let variant = best(precision);
    let few_rows = if variant.bf16 { matvec::MOST_ROWS_BF16 } else { matvec::MOST_ROWS };
    let (packed, plain): (Vec<Job>, Vec<Job>) =
        jobs.into_iter().partition(|job| matches!(job.weight.data, Data::Packed(_)));
    let (few, many): (Vec<Job>, Vec<Job>) =
        plain.into_iter().partition(|job| job.x.len() <= few_rows * job.weight.columns);
    packed::run(packed.into_iter().map(|job| packed_job(job, None)).collect(), accumulate);
    matvec::run(few, accumulate, precision == Precision::Bf16);
    run_groups(variant, many, true, accumulate, precision);
}

/// Packed weights have a product of their own; its sums are exact or f32 whatever the precision asked for.
fn packed_job<'a>(Job { x, weight, y }: Job<'a>, chosen: Option<&'a [u32]>) -> packed::Job<'a> {
    let Data::Packed(data) = weight.data else { unreachable!("only packed weights come here") };
    packed::Job { x, chosen, weight: data, rows: weight.rows, columns: weight.columns, y }
}

fn gated_job<'a>(GatedMap { y, x, chosen, pair: [gate, up], weights }: GatedMap<'a>) -> packed::GatedJob<'a> {
    assert_eq!((gate.rows, gate.columns), (up.rows, up.columns), "gate and up differ in shape");
    let (rows, columns) = (gate.rows, gate.columns);
    let (Data::Packed(gate), Data::Packed(up)) = (gate.data, up.data) else {
        unreachable!("only packed weights come here")
    };
    packed::GatedJob { x, chosen, gate, up, rows, columns, weights, y }
}

/// [`multiply`] of rows `offsets[g]..offsets[g + 1]` with `weights[g]`, for each group g.
pub fn grouped_multiply(
    dx: &mut [f32],
    dy: &[f32],
    weights: &[MatrixView],
    offsets: &[usize],
    accumulate: bool,
    precision: Precision,
) {
    let Some(first) = weights.first() else { return };
    let (n, k) = (first.rows, first.columns);
    let job = Weighted { out: dx, left: dy, weights, offsets, columns: k, depth: n, transposed: false, accumulate };
    run_groups(best(precision), groups(job), false, accumulate, precision);
}

/// [`accumulate_outer`] of rows `offsets[g]..offsets[g + 1]` into `dw[g]`, for each group g.
pub fn grouped_accumulate_outer(
    dw: &mut [&mut [f32]],
    dy: &[f32],
    x: &[f32],
    n: usize,
    k: usize,
    offsets: &[usize],
    precision: Precision,
) {
    let job = Outer { out: dw, dy, x, n, k, offsets };
    run_outer(best(precision), job, precision);
}

/// The name of the variant that this machine uses, for reports.
pub fn variant_name(precision: Precision) -> &'static str {
    best(precision).name
}

fn best(precision: Precision) -> &'static Variant {
    let runs = |v: &&&Variant| (v.runs_on)(Cpu::get()) && (precision == Precision::Bf16 || !v.bf16);
    VARIANTS.iter().rev().find(runs).expect("the portable variant runs everywhere")
}

/// Rows of a row-major `values` with `columns` columns.
fn rows_of(values: &[f32], columns: usize) -> usize {
    values.len().checked_div(columns).unwrap_or(0)
}

fn check_offsets(offsets: &[usize], groups: usize) -> usize {
    assert_eq!(offsets.len(), groups + 1, "{groups} groups need {} offsets", groups + 1);
    assert!(offsets[0] == 0 && offsets.is_sorted(), "offsets must start at 0 and never fall");
    offsets[groups]
}

/// The two products with a weight: `out = left · weightᵀ` or `left · weight`.
struct Weighted<'a> {
    out: &'a mut [f32],
    left: &'a [f32],
    weights: &'a [MatrixView<'a>],
    offsets: &'a [usize],
    columns: usize,
    depth: usize,
    transposed: bool,
    accumulate: bool,
}

/// Each group's rows with its weight. What has no depth is done here, and leaves no groups.
fn groups(job: Weighted<'_>) -> Vec<Job<'_>> {
    let Weighted { mut out, mut left, weights, offsets, columns, depth, transposed, accumulate } = job;
    let total = check_offsets(offsets, weights.len());
    assert_eq!(left.len(), total * depth, "the input is not {total} rows of {depth}");
    assert_eq!(out.len(), total * columns, "the output is not {total} rows of {columns}");
    if depth == 0 {
        if !accumulate {
            out.fill(0.0);
        }
        return Vec::new();
    }
    let mut groups = Vec::with_capacity(weights.len());
    for (&weight, rows) in weights.iter().zip(offsets.windows(2)) {
        let shape = if transposed { (columns, depth) } else { (depth, columns) };
        assert_eq!((weight.rows, weight.columns), shape, "the groups' weights differ in shape");
        let count = rows[1] - rows[0];
        let (x, y);
        (x, left) = left.split_at(count * depth);
        (y, out) = out.split_at_mut(count * columns);
        if count > 0 {
            groups.push(Job { x, weight, y });
        }
    }
    groups
}

fn run_groups(variant: &Variant, groups: Vec<Job>, transposed: bool, accumulate: bool, precision: Precision) {
    let mut products = Vec::with_capacity(groups.len());
    for Job { x, weight, y } in groups {
        let (columns, depth) = if transposed { (weight.rows, weight.columns) } else { (weight.columns, weight.rows) };
        products.push(Product {
            left: Left { values: x, stride: depth, transposed: false },
            right: Right { matrix: weight, transposed },
            out: Output { pointer: y.as_mut_ptr(), stride: columns },
            rows: x.len() / depth,
            columns,
            depth,
            accumulate,
            round: precision == Precision::Bf16,
        });
    }
    schedule::run(variant, &products);
}

/// The weight gradients.
struct Outer<'a, 'b> {
    out: &'a mut [&'b mut [f32]],
    dy: &'a [f32],
    x: &'a [f32],
    n: usize,
    k: usize,
    offsets: &'a [usize],
}

fn run_outer(variant: &Variant, job: Outer, precision: Precision) {
    let Outer { out, dy, x, n, k, offsets } = job;
    let total = check_offsets(offsets, out.len());
    assert_eq!(dy.len(), total * n, "the output's gradient is not {total} rows of {n}");
    assert_eq!(x.len(), total * k, "the input is not {total} rows of {k}");
    let products: Vec<Product> = out
        .iter_mut()
        .zip(offsets.windows(2))
        .map(|(dw, rows)| {
            assert_eq!(dw.len(), n * k, "the weight's gradient is not {n} × {k}");
            let x = &x[rows[0] * k..rows[1] * k];
            Product {
                left: Left { values: &dy[rows[0] * n..rows[1] * n], stride: n, transposed: true },
                right: Right { matrix: MatrixView::from_f32(rows[1] - rows[0], k, x), transposed: false },
                out: Output { pointer: dw.as_mut_ptr(), stride: k },
                rows: n,
                columns: k,
                depth: rows[1] - rows[0],
                accumulate: true,
                round: precision == Precision::Bf16,
            }
        })
        .filter(|product| product.depth > 0)
        .collect();
    schedule::run(variant, &products);
}
