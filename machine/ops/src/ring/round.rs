//! Who has which tokens of a round: twice as many strips as ranks, in zig-zag order, so that a rank's early strip and
//! its late one together look back as far as any other rank's.

use super::{Ring, gather};
use crate::{Spans, TokenNumbers};
use numeric::wire::{Message, Reading};
use std::ops::Range;

/// Tokens that all ranks take through a layer together, as one of them sees it.
#[derive(Debug, Clone)]
pub struct Round {
    rank: usize,
    size: usize,
    /// Two to each rank, in the order of the tokens.
    strips: Vec<Strip>,
}

/// Neighbouring tokens of one rank.
#[derive(Debug, Clone)]
struct Strip {
    /// Of the batch.
    rows: Range<usize>,
    spans: Spans,
    /// Whether the last of its sequences goes on in the next strip, or in the next round.
    goes_on: bool,
    /// The numbers of its first and its last sequence within the round.
    first: usize,
    last: usize,
}

impl Strip {
    /// Whether its first sequence began before it.
    fn continues(&self) -> bool {
        self.spans.starts[0] > 0
    }

    /// Whether it lies within one sequence, which began before it and goes on after it.
    fn is_inner(&self) -> bool {
        self.continues() && self.goes_on && self.first == self.last
    }
}

/// Rows of a rank that are the part of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) strip: usize,
    pub(super) sequence: usize,
    /// Among the rank's rows of the round.
    pub(super) rows: Range<usize>,
}

/// What a rank keeps of one sequence for others, or for its own later strips: what it kept in earlier rounds, then
/// these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) sequence: usize,
    pub(super) parts: Vec<Part>,
}

impl Share {
    /// Tokens of this round.
    pub(super) fn tokens(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }
}

impl Round {
    /// Tokens of a round, at least: one to each strip.
    pub fn tokens_min(size: usize) -> usize {
        2 * size
    }

    /// The tokens `rows` of a batch with sequences of these lengths, one after the other: [`Round::tokens_min`] or
    /// more.
    pub fn cut(lengths: &[usize], rows: &Range<usize>, (rank, size): (usize, usize)) -> Self {
        let count = 2 * size;
        assert!(rows.len() >= Self::tokens_min(size), "{} tokens for {count} strips", rows.len());
        let bound = |index: usize| rows.start + index * rows.len() / count;
        let mut strips: Vec<Strip> = Vec::with_capacity(count);
        for index in 0..count {
            let rows = bound(index)..bound(index + 1);
            let (spans, goes_on) = Spans::within(lengths, &rows);
            let first = strips.last().map_or(0, |before| before.last + usize::from(spans.starts[0] == 0));
            let last = first + spans.lengths.len() - 1;
            strips.push(Strip { rows, spans, goes_on, first, last });
        }
        Self { rank, size, strips }
    }

    /// Ranks that share it.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn own(&self) -> [usize; 2] {
        self.strips_of(self.rank)
    }

    fn strips_of(&self, rank: usize) -> [usize; 2] {
        [rank, self.strips.len() - 1 - rank]
    }

    /// The batch's tokens that this rank has, the early ones first.
    pub fn rows(&self) -> [Range<usize>; 2] {
        self.own().map(|strip| self.strips[strip].rows.clone())
    }

    /// The parts of sequences that this rank has.
    pub fn spans(&self) -> Spans {
        let [early, late] = self.own().map(|strip| &self.strips[strip].spans);
        Spans {
            lengths: [&early.lengths[..], &late.lengths].concat(),
            starts: [&early.starts[..], &late.starts].concat(),
        }
    }

    pub fn token_numbers(&self) -> TokenNumbers {
        let [early, late] = self.rows();
        TokenNumbers::broken(early.start, (early.len(), late.start))
    }

    /// Whether its first sequence began in an earlier round.
    pub fn continues(&self) -> bool {
        self.strips[0].continues()
    }

    /// Whether its last sequence goes on in the next round.
    pub fn goes_on(&self) -> bool {
        self.strips[self.strips.len() - 1].goes_on
    }

    /// Whether any sequence lies in several strips.
    pub(super) fn is_shared(&self) -> bool {
        self.strips.iter().any(Strip::continues)
    }

    /// The number of the last sequence.
    pub(super) fn last_sequence(&self) -> usize {
        self.strips[self.strips.len() - 1].last
    }

    /// Whether a strip lies within one sequence.
    pub(super) fn is_inner(&self, strip: usize) -> bool {
        self.strips[strip].is_inner()
    }

    pub(super) fn tokens_of(&self, strip: usize) -> usize {
        self.strips[strip].rows.len()
    }

    /// This rank's strips, each with its number, and where its rows and its spans lie among the rank's.
    pub(super) fn own_strips(&self) -> [(usize, Range<usize>, Range<usize>); 2] {
        self.placed(self.rank)
    }

    /// The strips of a rank, as [`Round::own_strips`] has them.
    fn placed(&self, rank: usize) -> [(usize, Range<usize>, Range<usize>); 2] {
        let [early, late] = self.strips_of(rank);
        let (rows, spans) = (self.strips[early].rows.len(), self.strips[early].spans.lengths.len());
        let [late_rows, late_spans] = [self.strips[late].rows.len(), self.strips[late].spans.lengths.len()];
        [(early, 0..rows, 0..spans), (late, rows..rows + late_rows, spans..spans + late_spans)]
    }

    /// Of each of this rank's strips the part of a sequence that began before it, if there is one.
    pub(super) fn continued(&self) -> [Option<Part>; 2] {
        self.continued_of(self.rank)
    }

    fn continued_of(&self, rank: usize) -> [Option<Part>; 2] {
        self.placed(rank).map(|(index, rows, _)| {
            let strip = &self.strips[index];
            let rows = rows.start..rows.start + strip.spans.lengths[0];
            strip.continues().then_some(Part { strip: index, sequence: strip.first, rows })
        })
    }

    /// Of each of this rank's strips the part of the sequence that goes on after it, if there is one.
    pub(super) fn going_on(&self) -> [Option<Part>; 2] {
        self.going_on_of(self.rank)
    }

    fn going_on_of(&self, rank: usize) -> [Option<Part>; 2] {
        self.placed(rank).map(|(index, rows, _)| {
            let strip = &self.strips[index];
            let rows = rows.end - strip.spans.lengths[strip.spans.lengths.len() - 1]..rows.end;
            strip.goes_on.then_some(Part { strip: index, sequence: strip.last, rows })
        })
    }

    /// Of each of this rank's strips the rows and lengths of the sequences that begin in it.
    pub(super) fn fresh(&self) -> [(Range<usize>, &[usize]); 2] {
        self.own_strips().map(|(index, rows, _)| {
            let strip = &self.strips[index];
            let lengths = &strip.spans.lengths[usize::from(strip.continues())..];
            (rows.end - lengths.iter().sum::<usize>()..rows.end, lengths)
        })
    }

    /// What a rank keeps of the round's sequences, in their order. Of one that began in an earlier round every rank has
    /// a share, be it empty.
    pub(super) fn shares_of(&self, rank: usize) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        shares.extend(self.continues().then(|| Share { sequence: 0, parts: Vec::new() }));
        for (continued, going_on) in self.continued_of(rank).into_iter().zip(self.going_on_of(rank)) {
            let mut parts: Vec<Part> = continued.into_iter().chain(going_on).collect();
            parts.dedup();
            for part in parts {
                match shares.last_mut().filter(|share| share.sequence == part.sequence) {
                    Some(share) => share.parts.push(part),
                    None => shares.push(Share { sequence: part.sequence, parts: vec![part] }),
                }
            }
        }
        shares
    }

    /// Which of a rank's shares one of ours looks back on, and how many of this round's tokens it sees there.
    pub(super) fn seen(&self, shares: &[Share], by: &Part) -> Option<(usize, usize)> {
        let index = shares.iter().position(|share| share.sequence == by.sequence)?;
        let parts = shares[index].parts.iter().filter(|part| part.strip <= by.strip);
        Some((index, parts.map(|part| part.rows.len()).sum()))
    }

    /// What all strips say, in their order; this rank says something for each of its own.
    pub(super) fn gather(&self, ring: &mut dyn Ring, own: [Vec<f32>; 2]) -> Vec<Vec<f32>> {
        assert_eq!([ring.rank(), ring.size()], [self.rank, self.size], "the round was cut for another rank");
        let mut message = Message::default();
        own.iter().for_each(|numbers| message.put_f32s(numbers));
        let mut said = vec![Vec::new(); self.strips.len()];
        for (rank, bytes) in gather(ring, message).iter().enumerate() {
            let mut reading = Reading::new(bytes);
            self.strips_of(rank).into_iter().for_each(|strip| said[strip] = reading.take_f32s());
            reading.end();
        }
        said
    }

    /// Goes through the strips in order. `leave(strip, found)` says what a strip leaves to the next that finds this, or
    /// begins the sequence itself. Gives what this rank's strips find, and what the last one leaves.
    pub(super) fn hand_on(
        &self,
        found: Option<Vec<f32>>,
        mut leave: impl FnMut(usize, Option<Vec<f32>>) -> Vec<f32>,
    ) -> ([Option<Vec<f32>>; 2], Option<Vec<f32>>) {
        let mut passed = found;
        let mut own = [None, None];
        for (index, strip) in self.strips.iter().enumerate() {
            let found = passed.take().filter(|_| strip.continues());
            if let Some(side) = self.own().iter().position(|&own| own == index) {
                own[side].clone_from(&found);
            }
            passed = strip.goes_on.then(|| leave(index, found.filter(|_| strip.is_inner())));
        }
        (own, passed)
    }

    /// Goes through the strips from the last. `ask(strip, asked)` says what a strip asks of what it found, where later
    /// ones ask this of what it leaves of the same sequence. Gives what is asked of what this rank's strips leave, and
    /// what is asked of the round before; empty for nothing.
    pub(super) fn hand_back(
        &self,
        asked: Vec<f32>,
        mut ask: impl FnMut(usize, Vec<f32>) -> Vec<f32>,
    ) -> ([Vec<f32>; 2], Vec<f32>) {
        let mut asked = asked;
        let mut own = [Vec::new(), Vec::new()];
        for (index, strip) in self.strips.iter().enumerate().rev() {
            if !strip.goes_on {
                asked.clear();
            }
            if let Some(side) = self.own().iter().position(|&own| own == index) {
                own[side].clone_from(&asked);
            }
            if !strip.is_inner() {
                asked.clear();
            }
            asked = if strip.continues() { ask(index, asked) } else { Vec::new() };
        }
        (own, asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequence and position of each token.
    fn places(lengths: &[usize]) -> Vec<(usize, usize)> {
        let of = |(sequence, &length): (usize, &usize)| (0..length).map(move |position| (sequence, position));
        lengths.iter().enumerate().flat_map(of).collect()
    }

    /// How often each query met each key, and what each rank has kept of the sequence that goes on.
    struct Meetings {
        met: Vec<Vec<usize>>,
        past: Vec<Vec<usize>>,
    }

    impl Meetings {
        fn meet(&mut self, query: usize, keys: impl IntoIterator<Item = usize>) {
            keys.into_iter().for_each(|key| self.met[query][key] += 1);
        }

        /// The tokens of each of a rank's shares.
        fn kept(&self, rank: usize, round: &Round) -> Vec<Vec<usize>> {
            let of = |share: &Share| {
                let before = if share.sequence == 0 && round.continues() { &self.past[rank][..] } else { &[] };
                let rows = share.parts.iter().flat_map(|part| part.rows.clone());
                before.iter().copied().chain(rows.map(|row| round.token_numbers().of(row))).collect()
            };
            round.shares_of(rank).iter().map(of).collect()
        }

        /// What one rank's queries see of what the others keep.
        fn round(&mut self, rank: usize, rounds: &[Round]) {
            let round = &rounds[rank];
            let token = |row: usize| round.token_numbers().of(row);
            for (rows, lengths) in round.fresh() {
                let mut start = rows.start;
                for &length in lengths {
                    (start..start + length).for_each(|query| self.meet(token(query), (start..=query).map(token)));
                    start += length;
                }
                assert_eq!(start, rows.end);
            }
            for part in round.continued().into_iter().flatten() {
                for (other, theirs) in rounds.iter().enumerate() {
                    let shares = round.shares_of(other);
                    let Some((index, seen)) = round.seen(&shares, &part) else { continue };
                    let kept = self.kept(other, theirs).swap_remove(index);
                    let seen = kept.len() - shares[index].tokens() + seen;
                    for (place, row) in part.rows.clone().enumerate() {
                        // At home the queries' own keys are the last ones.
                        let hidden = if other == rank { part.rows.len() - 1 - place } else { 0 };
                        self.meet(token(row), kept[..seen - hidden].iter().copied());
                    }
                }
            }
        }

        fn end(&mut self, rounds: &[Round]) {
            let left = rounds.iter().enumerate().map(|(rank, round)| {
                let last = round.shares_of(rank).iter().position(|share| share.sequence == round.last_sequence());
                last.filter(|_| round.goes_on()).map_or_else(Vec::new, |last| self.kept(rank, round).swap_remove(last))
            });
            self.past = left.collect();
        }
    }

    #[test]
    fn every_query_meets_every_earlier_key_of_its_sequence_once() {
        for lengths in [vec![40], vec![1, 0, 30, 9], vec![7, 13, 2, 18], vec![3; 13], vec![39, 1]] {
            let places = places(&lengths);
            for (size, count) in [(1, 1), (2, 1), (2, 4), (3, 2), (4, 1), (4, 3)] {
                let mut meetings =
                    Meetings { met: vec![vec![0; places.len()]; places.len()], past: vec![Vec::new(); size] };
                for index in 0..count {
                    let rows = index * places.len() / count..(index + 1) * places.len() / count;
                    let rounds: Vec<Round> = (0..size).map(|rank| Round::cut(&lengths, &rows, (rank, size))).collect();
                    (0..size).for_each(|rank| meetings.round(rank, &rounds));
                    meetings.end(&rounds);
                }
                for (query, keys) in meetings.met.iter().enumerate() {
                    for (key, &times) in keys.iter().enumerate() {
                        let wanted = usize::from(places[key].0 == places[query].0 && key <= query);
                        assert_eq!(times, wanted, "{lengths:?}, {size} ranks, {count} rounds: {query} meets {key}");
                    }
                }
            }
        }
    }

    #[test]
    fn states_are_handed_along_a_sequence_and_asked_back() {
        // Strips of three tokens; the second sequence goes through the third.
        let lengths = [4, 7, 1];
        let round = Round::cut(&lengths, &(0..12), (0, 2));
        let (found, left) =
            round.hand_on(None, |strip, found| found.unwrap_or_default().into_iter().chain([strip as f32]).collect());
        assert_eq!((found, left), ([None, Some(vec![1.0, 2.0])], None));
        let (asked, before) =
            round.hand_back(Vec::new(), |strip, asked| asked.into_iter().chain([strip as f32]).collect());
        assert_eq!((asked, before), ([vec![1.0], Vec::new()], Vec::new()));
        assert!(round.is_inner(2) && !round.is_inner(1));
        let other = Round::cut(&lengths, &(0..12), (1, 2));
        let (asked, _) = other.hand_back(Vec::new(), |strip, asked| asked.into_iter().chain([strip as f32]).collect());
        assert_eq!(asked, [vec![3.0, 2.0], vec![3.0]]);
    }
}
