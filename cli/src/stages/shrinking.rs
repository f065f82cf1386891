//! Stages that make a model smaller: fewer experts, fewer bits.

use super::Job;
use super::watching::{Preparing, SystemRoots};
use crate::place::{open_model, open_text};
use crate::recipe::{Prune, Quantize, SaveFormat};
use crate::terminal::Meter;
use anyhow::{Context, Result};
use compress::{Calibration, Plan};
use models::{Loading, Model};
use ops::Statistics;
use prepare::{Fit, Packing, Sample};
use serde_json::{Value, json};
use std::path::Path;
use text::{Renderer, Template, Tokenizer};

/// Tokens that calibration runs at a time.
const PASS_TOKENS: usize = 2048;

pub(super) fn prune(job: &Job<'_>, work: &Prune) -> Result<Value> {
    let from = job.source()?;
    let mut model = open_model(from, Loading::F32)?;
    let (tokenizer, template) = open_text(from)?;
    let before = model.config.expert_counts();
    let fit = Fit { sequence_length: PASS_TOKENS, packing: Packing::BestFit };
    let renderer = Renderer::new(&tokenizer, &template);
    let dataset = prepare::load(&work.data, &renderer, fit, &SystemRoots, &Preparing::default())
        .with_context(|| format!("cannot prepare the data of the stage {:?}", job.stage.name))?;
    job.check_interrupt()?;
    let statistics = calibrate(&model, &dataset.samples, work.tokens);
    job.check_interrupt()?;
    let plan = Plan::drop_least_salient(&model, &statistics, work.keep)?;
    formats::write_json(job.directory.join("plan.json"), &plan)?;
    compress::prune(&mut model, &plan)?;
    save_model(&model, &tokenizer, &template, &job.directory, work.save)?;
    Ok(json!({
        "experts_before": before,
        "experts": model.config.expert_counts(),
        "parameters": model.parameter_count(),
    }))
}

pub(super) fn quantize(job: &Job<'_>, work: &Quantize) -> Result<Value> {
    let from = job.source()?;
    let mut model = open_model(from, Loading::Stored)?;
    let (tokenizer, template) = open_text(from)?;
    let before = model.bytes();
    let bytes = compress::quantize(&mut model, &work.formats)?;
    save_model(&model, &tokenizer, &template, &job.directory, SaveFormat::Bf16)?;
    Ok(json!({ "bytes_before": before, "bytes": bytes }))
}

/// Statistics of the experts over the first tokens of `samples`.
pub(crate) fn calibrate(model: &Model, samples: &[Sample], tokens_max: usize) -> Statistics {
    let batches = calibration_batches(samples, tokens_max);
    let total: usize = batches.iter().map(|(tokens, _)| tokens.len()).sum();
    let mut meter = Meter::new("watching the experts", total as u64, "tokens");
    let calibrations = batches.iter().map(|(tokens, lengths)| Calibration { tokens, lengths });
    compress::observe(model, calibrations, |done| meter.set(done as u64, ""))
}

fn calibration_batches(samples: &[Sample], tokens_max: usize) -> Vec<(Vec<u32>, Vec<usize>)> {
    let mut batches: Vec<(Vec<u32>, Vec<usize>)> = Vec::new();
    let mut left = tokens_max;
    for sample in samples {
        let length = sample.tokens.len().min(left).min(PASS_TOKENS);
        if length == 0 {
            break;
        }
        left -= length;
        match batches.last_mut() {
            Some((tokens, lengths)) if tokens.len() + length <= PASS_TOKENS => {
                tokens.extend_from_slice(&sample.tokens[..length]);
                lengths.push(length);
            }
            _ => batches.push((sample.tokens[..length].to_vec(), vec![length])),
        }
    }
    batches
}

/// A whole model folder: weights, config and text files.
pub(crate) fn save_model(
    model: &Model,
    tokenizer: &Tokenizer,
    template: &Template,
    directory: &Path,
    save: SaveFormat,
) -> Result<()> {
    let saving = || format!("cannot save the model in {}", directory.display());
    std::fs::create_dir_all(directory).with_context(saving)?;
    model.save(directory, save.format()).with_context(saving)?;
    tokenizer.save(directory).with_context(saving)?;
    template.save(directory).with_context(saving)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prepare::Kind;

    #[test]
    fn calibration_takes_as_many_tokens_as_asked() {
        let samples: Vec<Sample> =
            [1500, 700, 3000, 9].map(|n| Sample::new(vec![1; n], vec![1.0; n], Kind::Plain)).to_vec();
        let lengths = |max| -> Vec<Vec<usize>> {
            calibration_batches(&samples, max).into_iter().map(|(_, lengths)| lengths).collect()
        };
        assert_eq!(lengths(100_000), [vec![1500], vec![700], vec![2048], vec![9]]);
        assert_eq!(lengths(1600), [vec![1500, 100]]);
        assert_eq!(lengths(0), Vec::<Vec<usize>>::new());
    }
}
