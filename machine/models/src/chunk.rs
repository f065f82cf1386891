//! A batch in chunks: so many tokens at a time go through a layer, whatever the lengths of the sequences. Between two
//! chunks at most one sequence goes on.

use ops::{Round, Spans, TokenNumbers};
use std::ops::Range;
use std::sync::Arc;

/// Tokens that go through a layer together.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Of the batch; of those tokens of it that are this rank's, where several share it.
    pub(crate) rows: Range<usize>,
    /// Which tokens of the batch they are.
    pub(crate) tokens: TokenNumbers,
    /// The parts of sequences that lie in it.
    pub(crate) spans: Spans,
    /// Whether the first sequence began in the chunk before.
    pub(crate) continues: bool,
    /// Whether the last of them goes on in the chunk after it.
    pub(crate) goes_on: bool,
    /// What it is this rank's part of.
    pub(crate) round: Option<Arc<Round>>,
}

impl Chunk {
    /// Sequences of these lengths, one after the other, at most `tokens` at a time.
    pub(crate) fn cut(lengths: &[usize], tokens: usize) -> Vec<Self> {
        let total: usize = lengths.iter().sum();
        let chunk = |start: usize| {
            let rows = start..(start + tokens).min(total);
            let (spans, goes_on) = Spans::within(lengths, &rows);
            let continues = spans.starts.first().is_some_and(|&start| start > 0);
            Self { tokens: TokenNumbers::from(start), rows, spans, continues, goes_on, round: None }
        };
        (0..total).step_by(tokens.max(1)).map(chunk).collect()
    }

    /// One rank's part of the same, at most `tokens` at a time on each rank: rounds that are as long as each other.
    pub(crate) fn cut_shared(lengths: &[usize], tokens: usize, (rank, size): (usize, usize)) -> Vec<Self> {
        let total: usize = lengths.iter().sum();
        let count = total.div_ceil(tokens.max(1) * size).min(total / Round::tokens_min(size)).max(1);
        let mut chunks: Vec<Self> = Vec::with_capacity(count);
        for index in 0..count {
            let rows = index * total / count..(index + 1) * total / count;
            let round = Round::cut(lengths, &rows, (rank, size));
            let (first, spans) = (chunks.last().map_or(0, |before| before.rows.end), round.spans());
            chunks.push(Self {
                rows: first..first + spans.tokens(),
                tokens: round.token_numbers(),
                spans,
                continues: round.continues(),
                goes_on: round.goes_on(),
                round: Some(Arc::new(round)),
            });
        }
        chunks
    }

    /// Sequences that have a memory of their own here; those of a round have one together.
    pub(crate) fn memories(&self) -> usize {
        if self.round.is_some() { 1 } else { self.spans.lengths.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_in_one_chunk_at_its_place() {
        let lengths = [5, 0, 1, 13, 4];
        for tokens in [1, 3, 4, 7, 23, 100] {
            let chunks = Chunk::cut(&lengths, tokens);
            let found: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.spans.positions()).collect();
            let wanted: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
            assert_eq!(found, wanted, "{tokens} at a time");
            for pair in chunks.windows(2) {
                assert_eq!(pair[0].goes_on, pair[1].continues, "{tokens} at a time");
                assert_eq!(pair[0].rows.end, pair[1].rows.start);
                assert_eq!(pair[0].rows.len(), tokens);
            }
            assert!(!chunks[0].continues && !chunks[chunks.len() - 1].goes_on);
        }
    }

    #[test]
    fn a_chunk_knows_what_continues() {
        let chunks = Chunk::cut(&[5, 2, 6], 4);
        let spans = |chunk: &Chunk| (chunk.spans.lengths.clone(), chunk.spans.starts.clone(), chunk.goes_on);
        assert_eq!(spans(&chunks[0]), (vec![4], vec![0], true));
        assert_eq!(spans(&chunks[1]), (vec![1, 2, 1], vec![4, 0, 0], true));
        assert_eq!(spans(&chunks[2]), (vec![4], vec![1], true));
        assert_eq!(spans(&chunks[3]), (vec![1], vec![5], false));
    }
}
