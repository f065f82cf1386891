//! A batch in chunks: so many tokens at a time go through a layer, whatever the lengths of the sequences. Between two
//! chunks at most one sequence goes on.

use ops::Spans;
use std::ops::Range;

/// Tokens that go through a layer together.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Of the batch.
    pub(crate) rows: Range<usize>,
    /// The parts of sequences that lie in it.
    pub(crate) spans: Spans,
    /// Whether the last of them goes on in the chunk after it.
    pub(crate) goes_on: bool,
}

impl Chunk {
    /// Whether the first sequence began in the chunk before.
    pub(crate) fn continues(&self) -> bool {
        self.spans.starts.first().is_some_and(|&start| start > 0)
    }

    /// Sequences of these lengths, one after the other, at most `tokens` at a time.
    pub(crate) fn cut(lengths: &[usize], tokens: usize) -> Vec<Self> {
        Self::cut_part(lengths, tokens, (0, false))
    }

    /// The same of a part of a batch: of the first sequence `start` tokens lie before it, and the last one may go on
    /// after it.
    pub(crate) fn cut_part(lengths: &[usize], tokens: usize, (start, goes_on): (usize, bool)) -> Vec<Self> {
        let mut chunks = Self::cut_whole(lengths, tokens);
        let first = lengths.iter().find(|&&length| length > 0).copied().unwrap_or(0);
        for chunk in chunks.iter_mut().filter(|chunk| chunk.rows.start < first) {
            chunk.spans.starts[0] += start;
        }
        if let Some(last) = chunks.last_mut() {
            last.goes_on = goes_on;
        }
        chunks
    }

    fn cut_whole(lengths: &[usize], tokens: usize) -> Vec<Self> {
        let total: usize = lengths.iter().sum();
        let mut sequences = Vec::with_capacity(lengths.len());
        let mut first = 0;
        for &length in lengths.iter().filter(|&&length| length > 0) {
            sequences.push(first..first + length);
            first += length;
        }
        let chunk = |start: usize| {
            let rows = start..(start + tokens).min(total);
            let mut spans = Spans { lengths: Vec::new(), starts: Vec::new() };
            let mut goes_on = false;
            let touches = |sequence: &&Range<usize>| sequence.start < rows.end && sequence.end > rows.start;
            for sequence in sequences.iter().filter(touches) {
                let from = sequence.start.max(rows.start);
                spans.lengths.push(sequence.end.min(rows.end) - from);
                spans.starts.push(from - sequence.start);
                goes_on = sequence.end > rows.end;
            }
            Self { rows, spans, goes_on }
        };
        (0..total).step_by(tokens.max(1)).map(chunk).collect()
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
                assert_eq!(pair[0].goes_on, pair[1].continues(), "{tokens} at a time");
                assert_eq!(pair[0].rows.end, pair[1].rows.start);
                assert_eq!(pair[0].rows.len(), tokens);
            }
            assert!(!chunks[0].continues() && !chunks[chunks.len() - 1].goes_on);
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
