//! What the kernels' tests share: every variant, random numbers, comparison, finite differences.

use numeric::Rng;

use super::Level;

/// Runs a check with every instruction set of this machine; the table says which ones that must have been.
pub(crate) fn for_every_level(mut check: impl FnMut(Level)) {
    let levels = Level::available();
    assert_eq!(levels.len(), expected(), "ran {levels:?}");
    for level in levels {
        check(level);
    }
}

/// How many instruction sets this machine should offer, told in another way than `Level::available` does.
fn expected() -> usize {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| cpu.split_whitespace().any(|word| word == flag);
    if !cfg!(target_arch = "x86_64") {
        1
    } else if cpu.is_empty() {
        Level::available().len()
    } else {
        1 + usize::from(has("avx2") && has("fma")) + usize::from(has("avx512bw") && has("avx512vl") && has("avx2"))
    }
}

/// Seeded numbers between −1 and 1.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| (rng.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// Not a number, so that what a kernel fails to write shows.
pub(crate) fn poisoned(len: usize) -> Vec<f32> {
    vec![f32::NAN; len]
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Asserts |got − want| ≤ tolerance·(1 + |want|) everywhere.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths differ");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        assert!(error <= tolerance * (1.0 + want.abs()), "{what}[{i}]: got {got}, want {want}, error {error:e}");
    }
}

/// Asserts that `gradient` is the derivative of `loss` at x, by central differences in f64.
#[track_caller]
pub(crate) fn assert_gradient(gradient: &[f64], x: &[f64], what: &str, mut loss: impl FnMut(&[f64]) -> f64) {
    let step = 1e-5;
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + step;
        let above = loss(&moved);
        moved[i] = x[i] - step;
        let slope = (above - loss(&moved)) / (2.0 * step);
        moved[i] = x[i];
        let error = (gradient[i] - slope).abs();
        assert!(error <= 1e-6 * (1.0 + slope.abs()), "{what}[{i}]: got {}, differences say {slope}", gradient[i]);
    }
}

/// Σ weight·y, the loss that makes `weight` the gradient of y.
pub(crate) fn weighted_sum(y: &[f64], weight: &[f64]) -> f64 {
    y.iter().zip(weight).map(|(y, weight)| y * weight).sum()
}
