//! The loop: batch → gradients → clip → AdamW → metrics → checkpoint. One page; the pieces stand beside it.

use crate::error::TrainError;
use crate::event::{Begin, Ending, Event, Progress, Step, Validation};
use crate::metrics::{METRICS, Metrics};
use crate::objective::Objective;
use crate::optimizer::Optimizer;
use crate::recipe::{Method, TrainPrecision, TrainRecipe};
use crate::report::{self, REPORT};
use crate::schedule::Schedule;
use crate::tally::{Tally, add_counts, shares};
use crate::{Identity, RunState, checkpoint};
use models::adapter;
use models::{Examples, FeedForwardKind, GradientOptions, Model, losses};
use numeric::Rng;
use ops::{Gradients, Precision};
use prepare::{Batch, Cursor, Loader, Sample, fingerprint};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Updates that may be skipped in a row before a run gives up.
const SKIPPED_MAX: usize = 5;
/// Records of the experts' load in one run, about.
const LOAD_RECORDS: usize = 50;

/// Everything a run is given.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Of the report.
    pub title: &'a str,
    pub recipe: &'a TrainRecipe,
    pub samples: &'a [Sample],
    /// Never trained on. May be empty.
    pub validation: &'a [Sample],
    /// Where metrics, report and checkpoints go; a run that was interrupted there is continued.
    pub directory: &'a Path,
    /// Set by Ctrl-C: the run saves itself and returns.
    pub cancelled: &'a AtomicBool,
}

/// How it went.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub ending: Ending,
    pub step: usize,
    /// Of the last step that was taken in this call.
    pub loss: Option<f64>,
    pub validation: Option<Validation>,
    pub seconds: f64,
}

/// Trains `model` in place. With a LoRA the adapters are attached here and left for the caller to merge or save.
pub fn train(
    run: &Run<'_>,
    model: &mut Model,
    objective: &mut dyn Objective,
    progress: &mut dyn Progress,
) -> Result<Summary, TrainError> {
    let recipe = run.recipe;
    let mut session = Session::open(run, model, progress)?;
    while session.state.step < session.steps() {
        if run.cancelled.load(Ordering::Relaxed) {
            session.save(model)?;
            return session.end(Ending::Interrupted);
        }
        session.step(model, objective)?;
        let (step, last) = (session.state.step, session.state.step == session.steps());
        if last || (recipe.evaluate_every > 0 && step.is_multiple_of(recipe.evaluate_every)) {
            session.validate(model)?;
        }
        if last || (recipe.save_every > 0 && step.is_multiple_of(recipe.save_every)) {
            session.save(model)?;
        }
    }
    session.end(Ending::Finished)
}

struct Session<'a, 'p> {
    run: &'a Run<'a>,
    state: RunState,
    schedule: Schedule,
    loader: Loader<'a>,
    optimizer: Optimizer,
    gradients: Gradients,
    metrics: Metrics,
    progress: &'p mut dyn Progress,
    /// When this call began, and how long the run had been going by then.
    began: Instant,
    seconds_before: f64,
    loss: Option<f64>,
    validation: Option<Validation>,
}

impl<'a, 'p> Session<'a, 'p> {
    fn open(run: &'a Run<'a>, model: &mut Model, progress: &'p mut dyn Progress) -> Result<Self, TrainError> {
        let recipe = run.recipe;
        recipe.check()?;
        check_samples(run, model)?;
        attach(recipe, model)?;
        std::fs::create_dir_all(run.directory).map_err(|source| TrainError::Io {
            action: "create",
            path: run.directory.to_owned(),
            source,
        })?;

        let settings = recipe.loader_settings();
        let first = Loader::new(run.samples, settings, Cursor::default());
        let steps = recipe.total_steps(first.epoch_sequences());
        let identity = Identity::new(recipe.identity(), fingerprint(run.samples), model, steps);
        let mut optimizer = Optimizer::new(model, recipe);
        let resumed = checkpoint::resume(run.directory, &identity, model, &mut optimizer)?;
        let state = resumed.unwrap_or_else(|| RunState::fresh(identity));
        let loader = if state.step == 0 { first } else { Loader::new(run.samples, settings, state.cursor) };
        let metrics = Metrics::open(&run.directory.join(METRICS), state.metrics_bytes)?;
        let mut session = Self {
            run,
            schedule: recipe.schedule(steps),
            loader,
            optimizer,
            gradients: Gradients::default(),
            metrics,
            progress,
            began: Instant::now(),
            seconds_before: state.seconds,
            loss: None,
            validation: None,
            state,
        };
        session.begin(model)?;
        Ok(session)
    }

    fn begin(&mut self, model: &Model) -> Result<(), TrainError> {
        let parameters = model.parameters();
        let count = |trained_only: bool| {
            let wanted = parameters.iter().filter(|p| p.trained || !trained_only);
            wanted.map(|p| p.matrix.rows * p.matrix.columns).sum()
        };
        self.record(Event::Begin(Begin {
            step: self.state.step,
            steps: self.steps(),
            parameters: count(false),
            trained_parameters: count(true),
            samples: self.run.samples.len(),
            trained_tokens: self.run.samples.iter().map(Sample::trained_tokens).sum(),
            validation_samples: self.run.validation.len(),
            batch_tokens: self.run.recipe.batch_tokens,
            auxiliary_coefficient: self.run.recipe.auxiliary_coefficient,
        }))
    }

    fn steps(&self) -> usize {
        self.state.identity.steps
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    /// One optimizer step.
    fn step(&mut self, model: &mut Model, objective: &mut dyn Objective) -> Result<(), TrainError> {
        let recipe = self.run.recipe;
        let began = Instant::now();
        let batches: Vec<Batch> = (0..recipe.accumulation).map(|_| self.loader.next_batch()).collect();
        let weight: f64 = batches.iter().map(Batch::total_weight).sum();
        self.gradients.clear();
        let mut tally = Tally::default();
        for (index, batch) in batches.iter().enumerate() {
            let dropout_seed = Some(dropout_seed(recipe.seed, self.state.step, index));
            let options = GradientOptions { dropout_seed, ..gradient_options(recipe, model) };
            let measured =
                objective.gradients(model, batch, weight.max(f64::MIN_POSITIVE), &options, &mut self.gradients);
            tally.add(batch, &measured.losses, &measured.expert_counts);
        }
        let norm = self.optimizer.gradient_norm(model, &self.gradients);
        let learning_rate = self.schedule.rate(self.state.step);
        let sound = tally.loss().is_finite() && norm.is_finite();
        if sound && weight > 0.0 {
            self.optimizer.update(model, &mut self.gradients, norm, learning_rate);
        }
        self.state.step += 1;
        self.state.updates = self.optimizer.updates();
        self.state.cursor = self.loader.cursor();
        add_counts(&mut self.state.expert_counts, &tally.expert_counts);
        self.loss = Some(tally.loss());
        let speed = tally.tokens as f64 / began.elapsed().as_secs_f64().max(1e-9);
        self.record(Event::Step(Step {
            step: self.state.step,
            loss: tally.loss(),
            losses: tally.losses(),
            learning_rate,
            gradient_norm: norm,
            expert_imbalance: tally.expert_imbalance(),
            tokens: tally.tokens,
            trained_tokens: tally.trained_tokens,
            tokens_per_second: speed,
            seconds: self.seconds(),
            epoch: self.state.cursor.epoch,
        }))?;
        self.look(tally.loss(), norm)
    }

    /// Warnings, the record of the experts' load, and giving up.
    fn look(&mut self, loss: f64, norm: f64) -> Result<(), TrainError> {
        let step = self.state.step;
        if let Some(warning) = self.state.watch.step(step, if norm.is_finite() { loss } else { f64::NAN }) {
            self.record(warning)?;
        }
        self.state.skipped = if loss.is_finite() && norm.is_finite() { 0 } else { self.state.skipped + 1 };
        if self.state.skipped >= SKIPPED_MAX {
            let what = if loss.is_finite() { "gradient" } else { "loss" };
            return Err(TrainError::Diverged { step, what, times: self.state.skipped });
        }
        let due = step == self.steps() || step.is_multiple_of((self.steps() / LOAD_RECORDS).max(1));
        if due && !self.state.expert_counts.is_empty() {
            let layers = shares(&std::mem::take(&mut self.state.expert_counts));
            self.record(Event::ExpertLoad { step, layers })?;
        }
        Ok(())
    }

    fn validate(&mut self, model: &Model) -> Result<(), TrainError> {
        if self.run.validation.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let tally = measure(model, self.run.validation, self.run.recipe);
        let validation = Validation {
            step: self.state.step,
            loss: tally.loss(),
            losses: tally.losses(),
            seconds: began.elapsed().as_secs_f64(),
        };
        self.validation = Some(validation.clone());
        self.record(Event::Validation(validation))?;
        if let Some(warning) = self.state.watch.validation(self.state.step, tally.loss()) {
            self.record(warning)?;
        }
        Ok(())
    }

    fn save(&mut self, model: &Model) -> Result<(), TrainError> {
        self.record(Event::Checkpoint { step: self.state.step })?;
        self.state.metrics_bytes = self.metrics.bytes();
        self.state.seconds = self.seconds();
        checkpoint::save(self.run.directory, &self.state, model, &self.optimizer, self.run.recipe.keep_last)?;
        self.report()
    }

    fn end(mut self, ending: Ending) -> Result<Summary, TrainError> {
        let (step, seconds) = (self.state.step, self.seconds());
        self.record(Event::End { step, outcome: ending, seconds })?;
        self.report()?;
        Ok(Summary { ending, step, loss: self.loss, validation: self.validation, seconds })
    }

    fn report(&self) -> Result<(), TrainError> {
        report::write(self.run.title, &self.run.directory.join(METRICS), &self.run.directory.join(REPORT))
    }

    fn record(&mut self, event: Event) -> Result<(), TrainError> {
        self.metrics.write(&event)?;
        self.progress.record(&event);
        Ok(())
    }
}

/// The losses of held-out samples, packed as training packs them.
fn measure(model: &Model, samples: &[Sample], recipe: &TrainRecipe) -> Tally {
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.tokens.len()).collect();
    let bins = prepare::pack(&lengths, recipe.sequence_length, recipe.packing);
    let mut tally = Tally::default();
    for bins in bins.chunks(recipe.loader_settings().sequences) {
        let batch = Batch::of_pieces(samples, bins.iter().flatten().copied());
        let examples = Examples {
            tokens: &batch.tokens,
            lengths: &batch.lengths,
            targets: &batch.targets,
            weights: &batch.weights,
        };
        tally.add(&batch, &losses(model, &examples, recipe.chunk_tokens), &[]);
    }
    tally
}

/// The balancing loss is defined per layer; the recipe's coefficient is for the mean over layers, and over the step's
/// micro-batches, so that neither depth nor accumulation makes it stronger.
pub fn gradient_options(recipe: &TrainRecipe, model: &Model) -> GradientOptions {
    let layers = model.config.layers.iter().filter(|layer| layer.feed_forward != FeedForwardKind::Dense).count();
    GradientOptions {
        precision: match recipe.precision {
            TrainPrecision::F32 => Precision::F32,
            TrainPrecision::Bf16 => Precision::Bf16,
        },
        chunk_tokens: recipe.chunk_tokens,
        checkpoint_layers: recipe.checkpoint_layers,
        auxiliary_coefficient: recipe.auxiliary_coefficient / (layers.max(1) * recipe.accumulation) as f32,
        dropout_seed: None,
    }
}

/// A number for each micro-batch of a run, the same in a run that was interrupted and resumed.
fn dropout_seed(seed: u64, step: usize, micro_batch: usize) -> u64 {
    Rng::new(seed).fork(step as u64).fork(micro_batch as u64).next_u64()
}

fn attach(recipe: &TrainRecipe, model: &mut Model) -> Result<(), TrainError> {
    let Method::Lora(lora) = &recipe.method else { return Ok(()) };
    if model.has_adapters() {
        return Ok(());
    }
    adapter::attach(model, lora, recipe.seed)?;
    Ok(())
}
}

fn check_samples(run: &Run<'_>, model: &Model) -> Result<(), TrainError> {
    if !run.samples.iter().any(|sample| sample.repeat > 0.0 && sample.trained_tokens() > 0) {
        return Err(TrainError::NoData);
    }
    let vocabulary = model.config.vocab_size;
    let highest = run.samples.iter().chain(run.validation).flat_map(|sample| &sample.tokens).max();
    match highest {
        Some(&token) if token as usize >= vocabulary => Err(TrainError::Vocabulary { token, vocabulary }),
        _ => Ok(()),
    }
}
