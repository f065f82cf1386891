//! A model with other experts, made from folder to folder with one layer in memory.

use crate::CompressError;
use models::{
    Config, FeedForward, LayerStream, LayerwisePlan, LayerwiseSettings, Loading, Model, Quantization, Rewrite,
    RewriteStep, rewrite_model,
};
use numeric::{Format, bf16};
use ops::{Moe, Parameter};
use std::path::Path;

/// What is to be made.
pub struct ExpertRewrite<'a> {
    pub from: &'a LayerStream,
    /// The folder to make, or to go on with.
    pub out: &'a Path,
    /// Experts that each layer will have; of dense layers any number.
    pub expert_counts: &'a [usize],
    /// All that decides what becomes of experts, for telling this job from another: the plan's text.
    pub key: &'a str,
    /// The format of what is not quantized.
    pub plain: Format,
    /// To what linear maps are rounded afterwards.
    pub quantization: Option<Quantization>,
}

impl ExpertRewrite<'_> {
    /// The result's configuration.
    pub fn config(&self) -> Config {
        let mut config = self.from.outline().config.clone();
        config.set_expert_counts(self.expert_counts);
        config
    }
}

/// Writes the model in which `experts` has made something else of each mixture, given its layer. Files that are
/// done are kept when it is stopped or killed, and the same call goes on.
pub fn rewrite_experts(
    job: &ExpertRewrite,
    experts: &mut dyn FnMut(usize, Moe) -> Result<Moe, CompressError>,
    watch: &mut dyn FnMut(RewriteStep) -> bool,
) -> Result<(), CompressError> {
    let config = job.config();
    let mut rewrite = Rewrite::new(job.from, &config, job.out, job.key);
    rewrite.plain = job.plain;
    rewrite.quantization = job.quantization;
    rewrite_model(
        &rewrite,
        &mut |index, mut layer| {
            if let FeedForward::Moe(mut weights) = layer.feed_forward {
                weights.routed = experts(index, weights.routed)?;
                assert_eq!(weights.routed.experts.len(), job.expert_counts[index], "layer {index}: another count");
                layer.feed_forward = FeedForward::Moe(weights);
            }
            Ok(layer)
        },
        &mut || Ok(()),
        watch,
    )
}

/// The bytes of memory that it takes at most: a layer as it is read, and the largest weight in the forms that it has
/// while it is written.
pub fn rewrite_memory(outline: &Model, loading: Loading) -> usize {
    let settings = LayerwiseSettings { batches: &[], backward: 0, is_resident: false, threads: 1 };
    let plan = LayerwisePlan::of(outline, loading, &settings);
    let written = |parameter: &Parameter| {
        // As it is read, in f32, and as the file will have it.
        let numbers = parameter.matrix.rows * parameter.matrix.columns;
        parameter.matrix.bytes() + numbers * (size_of::<f32>() + size_of::<bf16>())
    };
    let mut largest = 0;
    for layer in &outline.weights.layers {
        layer.visit(&mut |parameter| largest = largest.max(written(parameter)));
    }
    let ends = written(&outline.weights.embedding.weight).max(written(&outline.weights.head().weight));
    plan.program + (plan.layer + largest).max(ends)
}
