//! Inner products.

/// `Σ aᵢ·bᵢ` in f64, of f32 or f64. Eight sums side by side, so that the processor's vectors are used; their order is
/// fixed all the same.
pub fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    debug_assert_eq!(a.len(), b.len(), "vectors of one length");
    let mut sums = [0.0f64; 8];
    let (a_eights, a_rest) = a.as_chunks::<8>();
    let (b_eights, b_rest) = b.as_chunks::<8>();
    for (a, b) in a_eights.iter().zip(b_eights) {
        for lane in 0..8 {
            sums[lane] += a[lane].into() * b[lane].into();
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&a, &b)| a.into() * b.into()).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::dot;

    #[test]
    fn every_length_of_both_kinds() {
        for n in 0..40usize {
            let a: Vec<f32> = (0..n).map(|i| i as f32 - 3.5).collect();
            let b: Vec<f32> = (0..n).map(|i| 0.25 * (i * i) as f32).collect();
            let wanted: f64 = (0..n).map(|i| (i as f64 - 3.5) * 0.25 * (i * i) as f64).sum();
            assert_eq!(dot(&a, &b), wanted, "{n} numbers");
            let widen = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
            assert_eq!(dot(&widen(&a), &widen(&b)), wanted, "{n} numbers");
        }
    }
}
