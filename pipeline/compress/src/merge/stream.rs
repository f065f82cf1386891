//! A model that may be larger than memory, merged from folder to folder: one layer in memory, hidden states on disk.
//!
//! Layers are merged in order and written one to a file; a file that is there is not made again. What goes into the
//! next layer is on disk before the layer is, so a job that was cut short goes on with the first layer that is missing.

use super::walk::{Walk, observed};
use super::{LayerOutcome, MergeRecipe, Tokens, merge_layer};
use crate::{CompressError, LayerPlan, LayerStatistics, Plan};
use formats::{hash_bytes, read_json, write_json};
use models::{Config, FeedForward, LayerStream, LayerWeights, Quantization, Rewrite, RewriteStep, rewrite_model};
use std::path::{Path, PathBuf};

/// What is to be made.
pub struct MergeRewrite<'a> {
    pub from: &'a LayerStream,
    /// The folder to make, or to go on with.
    pub out: &'a Path,
    pub plan: &'a Plan,
    /// Of the model's mixtures.
    pub statistics: &'a [LayerStatistics],
    pub tokens: Tokens<'a>,
    pub recipe: &'a MergeRecipe,
    /// To what linear maps are rounded afterwards.
    pub quantization: Option<Quantization>,
}

/// Where states and outcomes wait, inside the new folder.
const WORKING: &str = "merging";

impl MergeRewrite<'_> {
    /// The result's configuration.
    fn config(&self) -> Config {
        let mut config = self.from.outline().config.clone();
        config.set_expert_counts(&self.plan.expert_counts(config.layers.len()));
        config
    }

    /// All that decides what becomes of the model, beside the model itself.
    fn key(&self) -> String {
        let mut told = format!("{}\n{:?}\n", self.plan.to_toml(), self.recipe).into_bytes();
        for (pack, is_held_out) in self.tokens.packs() {
            told.push(u8::from(is_held_out));
            pack.lengths.iter().for_each(|length| told.extend((*length as u64).to_le_bytes()));
            pack.tokens.iter().for_each(|token| told.extend(token.to_le_bytes()));
        }
        hash_bytes(&told)
    }
}

/// Carries out the plan as [`super::carry_out`] does, and writes the model; plain weights are bf16. Gives what became
/// of every mixture to `beside`, which writes it beside the model before that is one. The same call goes on where it
/// was stopped or killed.
pub fn rewrite_merged(
    job: &MergeRewrite,
    beside: &mut dyn FnMut(Vec<LayerOutcome>) -> Result<(), CompressError>,
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<(), CompressError> {
    job.plan.check(job.from.outline())?;
    let (config, key, folder) = (job.config(), job.key(), job.out.join(WORKING));
    // A file for each layer: what is there when the job is cut short is whole files.
    let rewrite = Rewrite {
        quantization: job.quantization,
        shard_bytes_max: 0,
        ..Rewrite::new(job.from, &config, job.out, &key)
    };
    let walk = Walk::new(&job.from.outline().config, job.tokens, Some(&folder))?;
    let outcomes = || {
        let read = |planned: &LayerPlan| read_json(outcome_path(&folder, planned.layer));
        Ok::<Vec<LayerOutcome>, CompressError>(job.plan.layers.iter().map(read).collect::<Result<_, _>>()?)
    };
    let mut merging = Merging { job, walk, folder: &folder };
    let mut layer = |index: usize, layer: LayerWeights| merging.layer(index, layer);
    rewrite_model(&rewrite, &mut layer, &mut || beside(outcomes()?), watch)?;
    merging.walk.clear();
    Ok(())
}

fn outcome_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("layer-{index:04}.json"))
}

struct Merging<'a> {
    job: &'a MergeRewrite<'a>,
    walk: Walk<'a>,
    folder: &'a Path,
}

impl Merging<'_> {
    fn layer(&mut self, index: usize, mut layer: LayerWeights) -> Result<LayerWeights, CompressError> {
        let config = &self.job.from.outline().config;
        if !self.walk.is_before(index) {
            if index > 0 {
                let problem = format!("what goes into layer {index} is gone: remove the new folder, and begin again");
                return Err(CompressError::Calibration(problem));
            }
            self.walk.embed(&self.job.from.embedding()?)?;
        }
        if let Some(before) = index.checked_sub(1) {
            // The layer before is in its file.
            self.walk.forget(before);
        }
        let rows = self.walk.inputs(config, index, &layer)?;
        if let FeedForward::Moe(moe) = &mut layer.feed_forward {
            let planned = self.job.plan.layers.iter().find(|planned| planned.layer == index);
            let planned = planned.expect("the plan was checked against the model");
            let observed = observed(self.job.statistics, index)?;
            let (merged, outcome) = merge_layer(&moe.routed, planned, observed, &rows, self.job.recipe)?;
            moe.routed = merged;
            write_json(outcome_path(self.folder, index), &outcome)?;
        }
        drop(rows);
        // Nobody asks what comes out of the last.
        if index + 1 < config.layers.len() {
            self.walk.step(config, index, &layer)?;
        }
        Ok(layer)
    }
}
