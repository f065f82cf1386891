//! A mixture with packed experts: many tokens at once, which add their outputs in place, against one at a time and
//! against the way that a recorder looks at.

use numeric::{Format, Matrix, Rng};
use ops::{Buffer, Execute, Expert, Infer, Linear, Moe, Observe, Parameter, Precision};

const HIDDEN: usize = 64;
const INNER: usize = 96;
const EXPERTS: usize = 5;
const TOP_K: usize = 2;

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
    Moe { layer: 0, router, experts, top_k: TOP_K, normalize: true }
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
    for format in [Format::Q8_0, Format::Mxfp4] {
        let moe = moe(format, &mut rng);
        // As many as add in place, and one that makes no multiple of anything.
        let tokens = 41;
        let x = Buffer::from_values(HIDDEN, (0..tokens * HIDDEN).map(|_| rng.normal() as f32).collect());
        let together = Infer::new(Precision::F32).moe(&x, &moe);
        let looked_at = Observe::observing(Precision::F32).moe(&x, &moe);
        close(&together, &looked_at, "looked at");
        for token in 0..tokens {
            let alone = Buffer::from_values(HIDDEN, x.row(token).to_vec());
            let alone = Infer::new(Precision::F32).moe(&alone, &moe);
            close(&alone, together.row(token), "alone");
        }
    }
}
