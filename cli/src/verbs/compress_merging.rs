//! `lateen compress --merge`: experts become part of others, layer by layer, from folder to folder.

use super::compress::{Bar, Observed, Work, check_memory, save_text, stopped};
use crate::stages::{Shrunk, pass_lineage_on, split};
use crate::terminal::say;
use anyhow::{Context, Result};
use compress::{Calibration, GroupSize, LayerOutcome, LayerStatistics, MergePlan, MergeRewrite, Plan, Tokens};
use evaluate::table::bytes_in_words;
use models::RewriteStep;
use std::sync::atomic::Ordering;

impl Work {
    /// Merges layer by layer, and writes what comes of it.
    pub(super) fn merge(&self, plan: &Plan, observed: &Observed) -> Result<()> {
        let (outline, out) = (self.stream.outline(), self.arguments.out());
        let packs = observed.calibrations();
        let [calibration, held_out] = split(&packs)?;
        self.check_merging(plan, &observed.statistics, [&calibration, &held_out])?;
        save_text(&self.from, out)?;
        let recipe = self.arguments.merge_recipe();
        let job = MergeRewrite {
            from: &self.stream,
            out,
            plan,
            statistics: &observed.statistics,
            tokens: Tokens { calibration: &calibration, held_out: &held_out },
            recipe: &recipe,
            quantization: self.arguments.recipe().map(|recipe| recipe.quantization()),
        };
        let mut meter = Bar::new();
        let mut watch = |step: RewriteStep| {
            let layer = step.done.saturating_sub(1);
            meter.show("merging", (step.done, step.total), step.bytes_read, "after", layer);
            !self.cancelled.load(Ordering::Relaxed)
        };
        let mut beside = |outcomes: Vec<LayerOutcome>| {
            let (shrunk, source) = (Shrunk::merged(plan.clone(), outcomes), &outline.config);
            shrunk.save(out)?;
            Ok(pass_lineage_on(&self.from, out, source, Some(&shrunk.lineage(&source.expert_counts())))?)
        };
        stopped(compress::rewrite_merged(&job, &mut beside, &mut watch))
            .with_context(|| format!("cannot write the model to {}", out.display()))
    }

    fn check_merging(&self, plan: &Plan, statistics: &[LayerStatistics], packs: [&Vec<Calibration>; 2]) -> Result<()> {
        let lengths = packs.map(|packs| packs.iter().map(|pack| pack.lengths.to_vec()).collect::<Vec<_>>());
        let rows = lengths[0].iter().flatten().sum();
        let group = GroupSize::of(plan, statistics, rows);
        let (outline, loading) = (self.stream.outline(), self.stream.loading());
        let lengths = [&lengths[0][..], &lengths[1][..]];
        let memory = MergePlan::of(outline, loading, lengths, &self.counts(Some(plan)), group);
        let place = self.from.display().to_string();
        check_memory("merging experts of", &place, memory.total(), self.memory, &merging_in_words(&memory))?;
        say(&format!("merging takes {}", merging_in_words(&memory)));
        Ok(())
    }
}

fn merging_in_words(plan: &MergePlan) -> String {
    let words = |bytes: usize| bytes_in_words(bytes as u64);
    format!(
        "{} at most (largest layer {}, what comes into it {}, a mixture being merged {}, activations {}, embedding or \
         head {}, statistics {}, program {}; hidden states {} on disk)",
        words(plan.total()),
        words(plan.layer),
        words(plan.rows),
        words(plan.working),
        words(plan.activations),
        words(plan.ends),
        words(plan.statistics),
        words(plan.program),
        words(plan.states),
    )
}
