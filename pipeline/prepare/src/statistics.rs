//! What became of the sources: how much there was, what was left out, and why.

use crate::batch::Sample;
use crate::contamination::Hit;
use crate::kata::KataReport;
use crate::kind::Kind;
use crate::read::FileReport;
use crate::source::Skipped;
use serde::Serialize;
use std::collections::BTreeMap;

/// Hits that are kept for a person to look at.
const HITS_MAX: usize = 20;

/// What became of all sources together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Statistics {
    pub samples: usize,
    pub tokens: usize,
    pub trained_tokens: usize,
    pub validation_samples: usize,
    pub by_kind: BTreeMap<String, KindStatistics>,
    pub sources: Vec<SourceStatistics>,
    /// What a person should know before training: what was capped, and what was not and why.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct KindStatistics {
    pub samples: usize,
    pub tokens: usize,
    pub trained_tokens: usize,
    /// The sum of the weights of all tokens.
    pub weight: f64,
}

/// What became of one source.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SourceStatistics {
    pub name: String,
    #[serde(flatten)]
    pub total: Counts,
    pub by_kind: BTreeMap<String, Counts>,
    /// Of all trained tokens that an epoch shows.
    pub share: f64,
    /// What it may have of them.
    pub share_max: f64,
    /// How often an epoch shows each sample, on average.
    pub repeat: f32,
    pub skipped: Skipped,
    /// Documents that share words with an evaluation file: the first few.
    pub contamination: Vec<Hit>,
    pub file: Option<FileReport>,
    pub kata: Option<KataReport>,
}

/// Numbers of a source, or of one kind in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Documents that were read.
    pub documents: usize,
    /// Samples that are used in the end, with their tokens.
    pub samples: usize,
    pub tokens: usize,
    pub trained_tokens: usize,
    /// The sum of the weights of all tokens.
    pub weight: f64,
    /// Tokens of the documents before anything was cut off.
    pub lengths: Lengths,
    pub truncated: usize,
    /// Documents in which nothing is to be learnt, or nothing within `sequence_length`.
    pub untrained: usize,
    pub unreachable: usize,
    pub duplicates: usize,
    pub near_duplicates: usize,
    /// Documents that overlap with what is measured.
    pub contaminated: usize,
    /// Documents that the template or the tokenizer cannot take.
    pub refused: usize,
    /// Samples left out to keep within the source's share.
    pub over_share: usize,
    pub held_out: usize,
    #[serde(skip)]
    all_lengths: Vec<u32>,
}

/// Lengths in tokens that this share of the documents does not exceed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lengths {
    pub half: u32,
    pub ninety_percent: u32,
    pub ninety_nine_percent: u32,
    pub longest: u32,
}

/// What became of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    HeldOut,
    Untrained,
    Unreachable,
    Duplicate,
    NearDuplicate,
    Contaminated,
    Refused,
}

impl Counts {
    fn count(&mut self, fate: Fate) {
        self.documents += 1;
        *match fate {
            Fate::Kept => return,
            Fate::HeldOut => &mut self.held_out,
            Fate::Untrained => &mut self.untrained,
            Fate::Unreachable => &mut self.unreachable,
            Fate::Duplicate => &mut self.duplicates,
            Fate::NearDuplicate => &mut self.near_duplicates,
            Fate::Contaminated => &mut self.contaminated,
            Fate::Refused => &mut self.refused,
        } += 1;
    }

    fn add_sample(&mut self, sample: &Sample) {
        self.samples += 1;
        self.tokens += sample.tokens.len();
        self.trained_tokens += sample.trained_tokens();
        self.weight += sample.weight();
    }

    fn take_lengths(&mut self) {
        let mut all = std::mem::take(&mut self.all_lengths);
        all.sort_unstable();
        let at = |share: f64| {
            let index = (all.len() as f64 * share).ceil() as usize;
            all.get(index.saturating_sub(1)).copied().unwrap_or_default()
        };
        self.lengths =
            Lengths { half: at(0.5), ninety_percent: at(0.9), ninety_nine_percent: at(0.99), longest: at(1.0) };
    }
}

impl SourceStatistics {
    /// Counts a document that was read; `length` is that in tokens before it was cut, if it got as far.
    pub(crate) fn count(&mut self, kind: Kind, fate: Fate, length: Option<usize>, is_truncated: bool) {
        for counts in [&mut self.total, self.by_kind.entry(kind.name().to_owned()).or_default()] {
            counts.count(fate);
            counts.truncated += usize::from(is_truncated);
            counts.all_lengths.extend(length.map(|length| u32::try_from(length).unwrap_or(u32::MAX)));
        }
    }

    pub(crate) fn over_share(&mut self, kind: Kind) {
        self.total.over_share += 1;
        self.by_kind.entry(kind.name().to_owned()).or_default().over_share += 1;
    }

    pub(crate) fn hit(&mut self, hit: Hit) {
        if self.contamination.len() < HITS_MAX {
            self.contamination.push(hit);
        }
    }

    /// Fills in what can only be said at the end.
    pub(crate) fn finish(&mut self, samples: &[Sample]) {
        for sample in samples {
            self.total.add_sample(sample);
            self.by_kind.entry(sample.kind.name().to_owned()).or_default().add_sample(sample);
        }
        self.repeat = samples.first().map_or(1.0, |sample| sample.repeat);
        self.total.take_lengths();
        self.by_kind.values_mut().for_each(Counts::take_lengths);
    }

    /// Why documents of this source are not trained, with how many: everything but what is held out.
    pub fn left_out(&self) -> Vec<(&'static str, usize)> {
        let (total, skipped) = (&self.total, &self.skipped);
        let reasons = [
            ("cannot be read", skipped.broken),
            ("too large", skipped.too_large),
            ("not text", skipped.not_text),
            ("licence", skipped.licence),
            ("of a split that is measured", skipped.measured),
            ("refused by the template", total.refused),
            ("nothing to learn", total.untrained),
            ("nothing to learn within the sequence length", total.unreachable),
            ("duplicates", total.duplicates),
            ("near duplicates", total.near_duplicates),
            ("shared with what is measured", total.contaminated),
            ("over the source's share", total.over_share),
        ];
        reasons.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

impl Statistics {
    pub(crate) fn of(samples: &[Sample], validation: &[Sample], sources: Vec<SourceStatistics>) -> Self {
        let mut all = Self { validation_samples: validation.len(), sources, ..Self::default() };
        for sample in samples {
            let kind = all.by_kind.entry(Kind::name(sample.kind).to_owned()).or_default();
            kind.samples += 1;
            kind.tokens += sample.tokens.len();
            kind.trained_tokens += sample.trained_tokens();
            kind.weight += sample.weight();
        }
        all.samples = samples.len();
        all.tokens = all.by_kind.values().map(|kind| kind.tokens).sum();
        all.trained_tokens = all.by_kind.values().map(|kind| kind.trained_tokens).sum();
        all
    }

    /// Everything that was left out, for when nothing is left.
    pub(crate) fn in_words(&self) -> String {
        let of_source = |source: &SourceStatistics| {
            let reasons: Vec<String> =
                source.left_out().iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            let reasons = if reasons.is_empty() { "nothing left out".to_owned() } else { reasons.join(", ") };
            format!("{}: {} documents, {reasons}", source.name, source.total.documents)
        };
        self.sources.iter().map(of_source).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_lengths_that_occur() {
        let mut source = SourceStatistics::default();
        (1..=200).rev().for_each(|length| source.count(Kind::Chat, Fate::Kept, Some(length), length > 190));
        source.count(Kind::Plain, Fate::Refused, None, false);
        source.finish(&[]);
        let wanted = Lengths { half: 100, ninety_percent: 180, ninety_nine_percent: 198, longest: 200 };
        assert_eq!((source.total.lengths, source.total.documents, source.total.truncated), (wanted, 201, 10));
        assert_eq!((source.by_kind["plain"].lengths, source.by_kind["plain"].refused), (Lengths::default(), 1));
        assert_eq!(source.left_out(), [("refused by the template", 1)]);
    }
}
