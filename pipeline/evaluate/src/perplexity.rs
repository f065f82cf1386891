//! How surprised a model is by text it has not seen.

use crate::EvaluateError;
use crate::walk::{Measured, PASS_TOKENS, Walker, Watch, check, passes};
use ops::Execute;
use prepare::{Kind, Sample};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Mean loss over some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    pub tokens: u64,
    /// Mean nats per token; each measured token counts once, whatever its weight.
    pub nats: f64,
    /// `exp(nats)`.
    pub perplexity: f64,
}

/// Over everything, and for each kind of data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    pub all: Loss,
    pub by_kind: BTreeMap<String, Loss>,
}

#[derive(Default)]
struct Sum {
    tokens: u64,
    nats: f64,
}

/// Sums by kind of data.
#[derive(Default)]
pub(crate) struct Sums(BTreeMap<Kind, Sum>);

impl Sum {
    fn mean(&self) -> Loss {
        let nats = self.nats / self.tokens as f64;
        Loss { tokens: self.tokens, nats, perplexity: nats.exp() }
    }
}

impl Sums {
    pub(crate) fn add(&mut self, kind: Kind, nats: f64) {
        let sum = self.0.entry(kind).or_default();
        sum.tokens += 1;
        sum.nats += nats;
    }

    pub(crate) fn report(&self) -> Perplexity {
        let add = |a: Sum, b: &Sum| Sum { tokens: a.tokens + b.tokens, nats: a.nats + b.nats };
        let all = self.0.values().fold(Sum::default(), add);
        let by_kind = self.0.iter().map(|(kind, sum)| (kind.name().to_owned(), sum.mean())).collect();
        Perplexity { all: all.mean(), by_kind }
    }
}

/// Measures the tokens of `samples` whose weight is above 0, each given all that stands before it in its sample.
pub fn perplexity(
    measured: Measured<'_>,
    samples: &[Sample],
    watch: &mut Watch<'_>,
) -> Result<Perplexity, EvaluateError> {
    let model = measured.model;
    check(model, samples)?;
    let mut walker = Walker::new(measured);
    let mut sums = Sums::default();
    for pass in passes(samples, PASS_TOKENS) {
        let hidden = walker.hidden(&pass);
        let losses = walker.executor.cross_entropy(&hidden, model.weights.head(), &pass.targets, &pass.weights);
        for row in pass.measured_rows() {
            sums.add(pass.kinds[row], f64::from(losses[row]));
        }
        watch.passed(&pass)?;
    }
    Ok(sums.report())
}
