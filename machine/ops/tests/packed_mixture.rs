//! A mixture with packed experts: many tokens at once, which add their outputs in place, against one at a time and
//! against the way that a recorder looks at.

use numeric::{Format, Matrix, Rng};
use ops::{Adapter, Buffer, Execute, Expert, Infer, Linear, Moe, Parameter, Precision, Record, Routing};

const HIDDEN: usize = 64;
const INNER: usize = 96;
const EXPERTS: usize = 5;
const TOP_K: usize = 2;

/// Wants every expert's outputs, and does nothing with them.
struct Look;

impl Record for Look {
    const LOOKS: bool = true;

    fn experts(&mut self, _: &Moe, _: &Buffer, _: &Routing, _: &Buffer) {}
}

fn linear(rows: usize, columns: usize, format: Format, rng: &mut Rng) -> Linear {
    let values: Vec<f32> = (0..rows * columns).map(|_| (0.2 * rng.normal()) as f32).collect();
    let matrix = Matrix::quantize(&values, rows, columns, format).packed();
    let weight = Parameter { id: 0, name: "w".into(), shape: vec![rows, columns], trained: false, matrix };
    Linear { weight, bias: None, adapter: None }
}

fn moe(format: Format, rng: &mut Rng) -> Moe {
    let router = linear(EXPERTS, HIDDEN, Format::F32, rng);
    let mut expert = || Expert {
        gate: linear(INNER, HIDDEN, format, rng),
        up: linear(INNER, HIDDEN, format, rng),
        down: linear(HIDDEN, INNER, format, rng),
    };
    let experts = (0..EXPERTS).map(|_| expert()).collect();
    Moe { layer: 0, router, experts, adapters: [None, None, None], top_k: TOP_K, normalize: true }
}

/// Adapters of rank 3 beside the packed weights; `shared`: those on the side of the residual stream are one for all.
fn adapt(moe: &mut Moe, shared: bool, rng: &mut Rng) {
    let factor = |is_shared: bool, rows: usize, columns: usize, rng: &mut Rng| {
        let experts = if is_shared { 1 } else { EXPERTS };
        let weight = linear(experts * rows, columns, Format::F32, rng).weight;
        let shape = if is_shared { vec![rows, columns] } else { vec![experts, rows, columns] };
        Parameter { shape, ..weight }
    };
    let mut adapter = |outputs: usize, inputs: usize, shared: [bool; 2]| {
        let (a, b) = (factor(shared[0], 3, inputs, rng), factor(shared[1], outputs, 3, rng));
        Some(Adapter { a, b, alpha: 3.0, rank_stabilized: false, dropout: 0.1 })
    };
    let wide = [shared, false];
    moe.adapters =
        [adapter(INNER, HIDDEN, wide), adapter(INNER, HIDDEN, wide), adapter(HIDDEN, INNER, [false, shared])];
}

fn close(found: &[f32], want: &[f32], what: &str) {
    let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (index, (found, want)) in found.iter().zip(want).enumerate() {
        assert!((found - want).abs() <= 1e-5 * largest, "{what}[{index}]: {found}, wanted {want}");
    }
}

#[test]
fn many_tokens_are_each_token() {
    let mut rng = Rng::new(21);
    for (format, adapted) in
        [(Format::Q8_0, None), (Format::Mxfp4, None), (Format::Q8_0, Some(false)), (Format::Mxfp4, Some(true))]
    {
        let mut moe = moe(format, &mut rng);
        if let Some(shared) = adapted {
            adapt(&mut moe, shared, &mut rng);
        }
        // As many as add in place, and one that makes no multiple of anything.
        let tokens = 41;
        let x = Buffer::from_values(HIDDEN, (0..tokens * HIDDEN).map(|_| rng.normal() as f32).collect());
        let together = Infer::new(Precision::F32).moe(&x, &moe);
        let looked_at = Infer::recording(Precision::F32, Look).moe(&x, &moe);
        close(&together, &looked_at, "looked at");
        for token in 0..tokens {
            let alone = Buffer::from_values(HIDDEN, x.row(token).to_vec());
            let alone = Infer::new(Precision::F32).moe(&alone, &moe);
            close(&alone, together.row(token), "alone");
        }
    }
}
