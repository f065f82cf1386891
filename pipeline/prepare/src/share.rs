//! No source dominates: each gives at most its share of all tokens that an epoch shows.

use crate::batch::Sample;
use crate::dataset::SourceStatistics;
use crate::error::PrepareError;
use numeric::Rng;

/// Takes samples out, chosen by the seed, until every group keeps to its limit; fills in what the statistics say of it.
pub(crate) fn cap(
    groups: &mut [Vec<Sample>],
    limits: &[f64],
    seed: u64,
    statistics: &mut [SourceStatistics],
) -> Result<(), PrepareError> {
    let sizes: Vec<f64> = groups.iter().map(|group| group.iter().map(weight).sum()).collect();
    let allowed = allowed(&sizes, limits);
    if sizes.iter().sum::<f64>() > 0.0 && allowed.iter().sum::<f64>() < 1.0 {
        let what = format!("the sources' share_max {limits:?} leave part of the data to nobody: raise one of them");
        return Err(PrepareError::Recipe { what });
    }
    for (index, (group, &allowed)) in groups.iter_mut().zip(&allowed).enumerate() {
        let before = group.len();
        if allowed < sizes[index] {
            Rng::new(seed).fork(0x5A4E + index as u64).shuffle(group);
            let mut used = 0.0;
            group.retain(|sample| {
                let fits = used + weight(sample) <= allowed;
                used += if fits { weight(sample) } else { 0.0 };
                fits
            });
        }
        statistics[index].over_share = before - group.len();
        statistics[index].samples = group.len();
        statistics[index].tokens = group.iter().map(|sample| sample.tokens.len()).sum();
    }
    let kept: Vec<f64> = groups.iter().map(|group| group.iter().map(weight).sum()).collect();
    let total = kept.iter().sum::<f64>().max(1.0);
    statistics.iter_mut().zip(kept).for_each(|(statistics, kept)| statistics.share = kept / total);
    Ok(())
}

/// Tokens that an epoch shows of a sample, on average.
fn weight(sample: &Sample) -> f64 {
    sample.tokens.len() as f64 * f64::from(sample.repeat)
}

/// The largest sizes within the limits: each at most its share of their sum. Found from above: the total can only
/// shrink, and stops at the largest that is consistent, which is 0 where the limits cannot all be kept.
fn allowed(sizes: &[f64], limits: &[f64]) -> Vec<f64> {
    let mut total: f64 = sizes.iter().sum();
    loop {
        let allowed: Vec<f64> = sizes.iter().zip(limits).map(|(&size, &limit)| size.min(limit * total)).collect();
        let sum: f64 = allowed.iter().sum();
        if sum < 1.0 || (total - sum) <= total * 1e-12 {
            return allowed;
        }
        total = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    fn group(samples: usize, length: usize) -> Vec<Sample> {
        (0..samples).map(|i| Sample::new(vec![i as u32; length], vec![1.0; length], Kind::Plain)).collect()
    }

    #[test]
    fn a_source_over_its_share_is_thinned_and_others_stay() {
        let mut groups = [group(300, 10), group(900, 10)];
        let mut statistics = [SourceStatistics::default(), SourceStatistics::default()];
        cap(&mut groups, &[1.0, 0.25], 1, &mut statistics).expect("possible");
        assert_eq!((groups[0].len(), groups[1].len()), (300, 100));
        assert_eq!((statistics[1].over_share, statistics[1].samples), (800, 100));
        assert!((statistics[1].share - 0.25).abs() < 1e-9);
        let first: Vec<u32> = groups[1].iter().map(|sample| sample.tokens[0]).collect();
        assert!(first.iter().any(|&token| token > 500), "thinned evenly, not cut off");
    }

    #[test]
    fn repeats_count_and_what_fits_is_left_alone() {
        let mut groups = [group(100, 10), group(100, 10)];
        groups[1].iter_mut().for_each(|sample| sample.repeat = 3.0);
        let mut statistics = [SourceStatistics::default(), SourceStatistics::default()];
        cap(&mut groups, &[1.0, 0.5], 1, &mut statistics).expect("possible");
        assert_eq!((groups[0].len(), groups[1].len()), (100, 33));
        let mut groups = [group(100, 10), group(50, 10)];
        cap(&mut groups, &[0.7, 0.7], 1, &mut statistics).expect("possible");
        assert_eq!((groups[0].len(), groups[1].len()), (100, 50));
    }

    #[test]
    fn impossible_limits_are_an_error() {
        let mut groups = [group(100, 10), group(100, 10)];
        let mut statistics = [SourceStatistics::default(), SourceStatistics::default()];
        let error = cap(&mut groups, &[0.3, 0.3], 1, &mut statistics).expect_err("0.6 of the data at most");
        assert!(error.to_string().contains("raise one"));
    }
}
