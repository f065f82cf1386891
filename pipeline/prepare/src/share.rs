//! No source dominates: each gives at most its share of all trained tokens that an epoch shows.

use crate::batch::Sample;
use crate::error::PrepareError;
use crate::statistics::SourceStatistics;
use numeric::Rng;

/// Shows each source as often as its portion asks, in an epoch that is as long as all sources together.
pub(crate) fn mix(groups: &mut [Vec<Sample>], portions: &[f64]) {
    let sizes: Vec<f64> = groups.iter().map(|group| group.iter().map(weight).sum()).collect();
    let there = || sizes.iter().zip(portions).filter(|(size, _)| **size > 0.0);
    let (tokens, all): (f64, f64) = (there().map(|(size, _)| size).sum(), there().map(|(_, portion)| portion).sum());
    for ((group, &size), &portion) in groups.iter_mut().zip(&sizes).zip(portions) {
        let factor = portion / all * tokens / size;
        group.iter_mut().for_each(|sample| sample.repeat *= factor as f32);
    }
}

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
        if allowed < sizes[index] {
            Rng::new(seed).fork(0x5A4E + index as u64).shuffle(group);
            let mut used = 0.0;
            group.retain(|sample| {
                let fits = used + weight(sample) <= allowed;
                match fits {
                    true => used += weight(sample),
                    false => statistics[index].over_share(sample.kind),
                }
                fits
            });
        }
        statistics[index].share_max = limits[index];
    }
    let kept: Vec<f64> = groups.iter().map(|group| group.iter().map(weight).sum()).collect();
    let total = kept.iter().sum::<f64>().max(1.0);
    statistics.iter_mut().zip(kept).for_each(|(statistics, kept)| statistics.share = kept / total);
    Ok(())
}

/// Trained tokens that an epoch shows of a sample, on average.
fn weight(sample: &Sample) -> f64 {
    sample.trained_tokens() as f64 * f64::from(sample.repeat)
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
        assert_eq!(statistics[1].total.over_share, 800);
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
    fn only_what_is_trained_counts() {
        let mut groups = [group(100, 10), group(100, 10)];
        groups[1].iter_mut().for_each(|sample| sample.weights[..5].fill(0.0));
        let mut statistics = [SourceStatistics::default(), SourceStatistics::default()];
        cap(&mut groups, &[1.0, 0.4], 1, &mut statistics).expect("possible");
        assert_eq!(groups[1].len(), 100, "500 of 1400 trained tokens, though half of all tokens");
    }

    #[test]
    fn portions_decide_what_an_epoch_shows() {
        let mut groups = [group(100, 11), group(300, 11), Vec::new()];
        mix(&mut groups, &[3.0, 1.0, 5.0]);
        let shown: Vec<f64> = groups.iter().map(|group| group.iter().map(weight).sum()).collect();
        assert!((shown[0] - 3000.0).abs() < 0.5 && (shown[1] - 1000.0).abs() < 0.5, "{shown:?}");
    }

    #[test]
    fn impossible_limits_are_an_error() {
        let mut groups = [group(100, 10), group(100, 10)];
        let mut statistics = [SourceStatistics::default(), SourceStatistics::default()];
        let error = cap(&mut groups, &[0.3, 0.3], 1, &mut statistics).expect_err("0.6 of the data at most");
        assert!(error.to_string().contains("raise one"));
    }
}
