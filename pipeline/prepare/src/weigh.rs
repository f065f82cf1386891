//! One weight per token: what the assistant says counts, what it is shown does not.

use crate::batch::Sample;
use crate::error::PrepareError;
use crate::kind::{Kind, KindWeights};
use crate::source::Raw;
use serde::{Deserialize, Serialize};
use text::{Piece, Source};

/// Which part of a text with a hole is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FillTraining {
    #[default]
    Middle,
    /// Prefix and suffix too, as when a model is trained from nothing.
    All,
}

/// What a token counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weighing {
    pub kinds: KindWeights,
    pub fill: FillTraining,
}

impl Weighing {
    /// The pieces of a document as a sample, with what its messages and spans count.
    pub fn weigh(&self, pieces: &[Piece], raw: &Raw) -> Result<Sample, PrepareError> {
        let parts = &raw.parts;
        let mut sample = self.sample(pieces, raw.kind, raw.weight);
        if parts.messages.is_empty() && parts.spans.is_empty() {
            return Ok(sample);
        }
        let mut start = 0;
        for piece in pieces {
            let range = start..start + piece.tokens.len();
            start = range.end;
            let factor = match (piece.mark, piece.message) {
                (Some(mark), _) => parts.span_weights[usize::from(mark)],
                (None, Some(message)) => parts.of_message(message),
                (None, None) if parts.messages.is_empty() || !self.counts(piece) => continue,
                (None, None) => return Err(PrepareError::Unmatched { origin: raw.origin.clone() }),
            };
            sample.weights[range].iter_mut().for_each(|weight| *weight *= factor);
        }
        Ok(sample)
    }

    /// Tokens and their weights. `factor` is the document's own: a contrastive pair may count more than others.
    pub fn sample(&self, pieces: &[Piece], kind: Kind, factor: f32) -> Sample {
        let scale = self.kinds.of(kind) * factor;
        let count = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let (mut tokens, mut weights) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for piece in pieces {
            let weight = if self.counts(piece) { scale } else { 0.0 };
            tokens.extend_from_slice(&piece.tokens);
            weights.resize(tokens.len(), weight);
        }
        Sample::new(tokens, weights, kind)
    }

    fn counts(&self, piece: &Piece) -> bool {
        match piece.source {
            Source::FillPrefix | Source::FillSuffix => self.fill == FillTraining::All,
            // A template may write inside an assistant's turn (the end of the turn): that the model must say too.
            Source::AssistantReasoning
            | Source::AssistantContent
            | Source::AssistantToolCall
            | Source::FillMiddle
            | Source::Plain
            | Source::Template => piece.trained,
            // Never, whatever a template marks: questions, system text and tool answers are given, not said.
            Source::System | Source::User | Source::Tool => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(source: Source, trained: bool, tokens: &[u32]) -> Piece {
        Piece { tokens: tokens.to_vec(), source, trained, message: None, mark: None }
    }

    #[test]
    fn what_is_said_counts_what_is_shown_does_not() {
        let pieces: Vec<Piece> =
            Source::ALL.iter().zip(1..).map(|(&source, id)| piece(source, true, &[id, id])).collect();
        let weighing = Weighing { kinds: KindWeights { review: 0.5, ..KindWeights::default() }, ..Weighing::default() };
        let sample = weighing.sample(&pieces, Kind::Review, 2.0);
        for (source, weights) in Source::ALL.iter().zip(sample.weights.chunks(2)) {
            let shown = [Source::System, Source::User, Source::Tool, Source::FillPrefix, Source::FillSuffix];
            let wanted = if shown.contains(source) { 0.0 } else { 1.0 };
            assert_eq!(weights, [wanted, wanted], "{source:?}");
        }
        let silent: Vec<Piece> = pieces.into_iter().map(|piece| Piece { trained: false, ..piece }).collect();
        assert_eq!(weighing.sample(&silent, Kind::Review, 1.0).trained_tokens(), 0);
    }

    #[test]
    fn the_whole_of_a_holed_text_can_be_learnt() {
        let pieces = [
            piece(Source::FillPrefix, false, &[1]),
            piece(Source::FillSuffix, false, &[2]),
            piece(Source::FillMiddle, true, &[3, 4]),
        ];
        let weights =
            |fill| Weighing { fill, ..Weighing::default() }.sample(&pieces, Kind::FillInTheMiddle, 1.0).weights;
        assert_eq!(weights(FillTraining::Middle), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(weights(FillTraining::All), [1.0; 4]);
    }
}
