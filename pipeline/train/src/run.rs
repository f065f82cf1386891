//! The loop: batch → gradients → clip → AdamW → metrics → checkpoint. One page; the pieces stand beside it.

use crate::best::Best;
use crate::checkpoint::{self, Keep, Learners};
use crate::error::TrainError;
use crate::event::{Begin, Ending, Event, Progress, Step, Validation};
use crate::metrics::{self, METRICS, Metrics};
use crate::objective::{Companion, Objective, StepWork};
use crate::optimizer::Optimizer;
use crate::recipe::{Method, ResultModel, TrainPrecision, TrainRecipe};
use crate::report::{self, REPORT};
use crate::schedule::Schedule;
use crate::tally::{Tally, add_counts, shares};
use crate::tensorboard::EventFile;
use crate::{Identity, RunState};
use models::adapter;
use models::{Examples, FeedForwardKind, GradientOptions, Model, losses};
use numeric::Rng;
use ops::{Gradients, Precision};
use prepare::{Batch, Cursor, Loader, Sample, fingerprint};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Updates that may be skipped in a row, because something was no number, before a run gives up.
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
    /// Files that the caller will write there when the run is done, by size: room is looked for beforehand.
    pub result_bytes: &'a [u64],
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
    /// The last one, of the model that the run ends with.
    pub validation: Option<Validation>,
    /// The lowest loss, and of which step, where the recipe asks for that model.
    pub best: Option<Best>,
    pub seconds: f64,
}

/// Trains `model` in place. With a LoRA the adapters are attached here and left for the caller to merge or save.
pub fn train(
    run: &Run<'_>,
    model: &mut Model,
    objective: &mut dyn Objective,
    progress: &mut dyn Progress,
) -> Result<Summary, TrainError> {
    let summary = run_to_end(run, model, objective, progress);
    // A step's memory waits for the next step, and there is none.
    ops::buffer::release();
    summary
}

fn run_to_end(
    run: &Run<'_>,
    model: &mut Model,
    objective: &mut dyn Objective,
    progress: &mut dyn Progress,
) -> Result<Summary, TrainError> {
    let mut session = Session::open(run, (model, &mut *objective), progress)?;
    if session.is_new {
        session.look_before(model, objective)?;
    }
    while !session.is_over() {
        if run.cancelled.load(Ordering::Relaxed) || !session.step(model, objective)? {
            session.save(model, objective)?;
            return session.end(Ending::Interrupted);
        }
        session.look_around(model, objective)?;
    }
    session.finish(model)
}

struct Session<'a, 'p> {
    run: &'a Run<'a>,
    state: RunState,
    /// Whether nothing was resumed.
    is_new: bool,
    schedule: Schedule,
    loader: Loader<'a>,
    optimizer: Optimizer,
    gradients: Gradients,
    metrics: Metrics,
    events: EventFile,
    progress: &'p mut dyn Progress,
    /// When this call began, and how long the run had been going by then.
    began: Instant,
    seconds_before: f64,
    /// The step of the newest checkpoint.
    saved: Option<usize>,
    loss: Option<f64>,
    validation: Option<Validation>,
}

impl<'a, 'p> Session<'a, 'p> {
    fn open(
        run: &'a Run<'a>,
        (model, objective): (&mut Model, &mut dyn Objective),
        progress: &'p mut dyn Progress,
    ) -> Result<Self, TrainError> {
        let recipe = run.recipe;
        recipe.check()?;
        check_samples(run, model)?;
        attach(recipe, model)?;
        std::fs::create_dir_all(run.directory).map_err(|source| TrainError::Io {
            action: "create",
            path: run.directory.to_owned(),
            source,
        })?;
        let kept = recipe.keep_last + usize::from(recipe.result == ResultModel::Best);
        let companion = objective.companion();
        checkpoint::check_room(run.directory, model, companion.as_deref(), kept, run.result_bytes)?;

        let settings = recipe.loader_settings();
        let first = Loader::new(run.samples, settings, Cursor::default());
        let steps = recipe.total_steps(first.epoch_sequences());
        let mut parameters = model.parameters();
        parameters.extend(companion.iter().flat_map(|companion| companion.parameters()));
        let identity = Identity::new(recipe.identity(), fingerprint(run.samples), &parameters, steps);
        let mut optimizer = Optimizer::new(&model.parameters(), recipe);
        let resumed = checkpoint::resume(run.directory, &identity, (&mut *model, &mut optimizer), companion)?;
        let saved = resumed.as_ref().map(|state| state.step);
        let state = resumed.unwrap_or_else(|| RunState::fresh(identity, recipe.warmup_steps));
        let loader = if state.step == 0 { first } else { Loader::new(run.samples, settings, state.cursor) };
        let path = run.directory.join(METRICS);
        let metrics = Metrics::open(&path, state.metrics_bytes)?;
        let mut session = Self {
            run,
            is_new: saved.is_none(),
            schedule: recipe.schedule(steps),
            loader,
            optimizer,
            gradients: Gradients::default(),
            metrics,
            events: EventFile::create(run.directory, &metrics::read(&path)?, now())?,
            progress,
            began: Instant::now(),
            seconds_before: state.seconds,
            saved,
            loss: None,
            validation: None,
            state,
        };
        session.begin(model)?;
        Ok(session)
    }

    fn begin(&mut self, model: &Model) -> Result<(), TrainError> {
        let (recipe, samples) = (self.run.recipe, self.run.samples);
        let parameters = model.parameters();
        let count = |trained_only: bool| {
            let wanted = parameters.iter().filter(|p| p.trained || !trained_only);
            wanted.map(|p| p.matrix.rows * p.matrix.columns).sum()
        };
        let begin = Begin {
            step: self.state.step,
            steps: self.steps(),
            parameters: count(false),
            trained_parameters: count(true),
            samples: samples.len(),
            tokens: samples.iter().map(|sample| sample.tokens.len()).sum(),
            trained_tokens: samples.iter().map(Sample::trained_tokens).sum(),
            validation_samples: self.run.validation.len(),
            batch_tokens: recipe.batch_tokens,
            auxiliary_coefficient: recipe.auxiliary_coefficient,
            method: recipe.method.in_words(),
            started: now(),
            seconds: self.seconds_before,
        };
        let sparse = self.state.watch.data(begin.tokens, begin.trained_tokens);
        self.record(Event::Begin(begin))?;
        sparse.map_or(Ok(()), |warning| self.record(warning))
    }

    fn steps(&self) -> usize {
        self.state.identity.steps
    }

    fn has_lost_patience(&self) -> bool {
        let patience = self.run.recipe.patience;
        patience > 0 && self.state.best.is_some_and(|best| best.since >= patience)
    }

    fn is_over(&self) -> bool {
        self.state.step >= self.steps() || self.has_lost_patience()
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.began.elapsed().as_secs_f64()
    }

    /// One optimizer step; `false` if it was given up on the way, with nothing changed, because the run is to stop.
    fn step(&mut self, model: &mut Model, objective: &mut dyn Objective) -> Result<bool, TrainError> {
        let recipe = self.run.recipe;
        let began = Instant::now();
        let batches: Vec<Batch> = (0..recipe.accumulation).map(|_| self.loader.next_batch()).collect();
        let weight: f64 = batches.iter().map(Batch::total_weight).sum();
        self.gradients.clear();
        objective.companion().into_iter().for_each(Companion::clear);
        let mut tally = Tally::default();
        let options: Vec<GradientOptions> = (0..batches.len())
            .map(|index| {
                let dropout_seed = Some(dropout_seed(recipe.seed, self.state.step, index));
                GradientOptions { dropout_seed, ..gradient_options(recipe, model) }
            })
            .collect();
        let step_weight = weight.max(f64::MIN_POSITIVE);
        let (step, steps, cancelled) = (self.state.step, self.steps(), self.run.cancelled);
        let own: Vec<usize> = (0..batches.len()).collect();
        let work = StepWork { batches: &batches, own: &own, step_weight, options: &options, step, steps, cancelled };
        let Some(measured) = objective.step(model, &work, &mut self.gradients)? else { return Ok(false) };
        batches.iter().zip(&measured).for_each(|(batch, measured)| tally.add_measured(batch, measured));
        let norm = self.optimizer.gradient_norm(&model.parameters(), &self.gradients);
        let learning_rate = self.schedule.rate(self.state.step);
        let spikes = recipe.skip_spikes > 0.0 && self.state.watch.norm_ratio(norm) > recipe.skip_spikes;
        let skipped = spikes || !tally.loss().is_finite() || !norm.is_finite();
        if !skipped && weight > 0.0 {
            self.optimizer.update(model.parameters_mut(), &mut self.gradients, norm, learning_rate);
            objective.companion().into_iter().for_each(|companion| companion.update(learning_rate));
        }
        self.state.step += 1;
        self.state.updates = self.optimizer.updates();
        self.state.cursor = self.loader.cursor();
        add_counts(&mut self.state.expert_counts, &tally.expert_counts);
        self.loss = Some(tally.loss());
        let entropies = tally.router_entropies();
        let step = Step {
            step: self.state.step,
            loss: tally.loss(),
            losses: tally.losses(),
            terms: tally.terms(),
            learning_rate,
            gradient_norm: norm,
            skipped,
            expert_imbalance: tally.expert_imbalance(),
            router_entropy: entropies.iter().sum::<f32>() as f64 / entropies.len().max(1) as f64,
            tokens: tally.tokens,
            trained_tokens: tally.trained_tokens,
            tokens_per_second: tally.tokens as f64 / began.elapsed().as_secs_f64().max(1e-9),
            seconds: self.seconds(),
            epoch: self.state.cursor.epoch,
            peak_memory_bytes: self.progress.peak_memory_bytes(),
        };
        self.record(Event::Step(step.clone()))?;
        self.warn(&step)?;
        self.record_load(model, entropies)?;
        Ok(true)
    }

    /// Warnings, and giving up.
    fn warn(&mut self, step: &Step) -> Result<(), TrainError> {
        for warning in self.state.watch.step(step) {
            self.record(warning)?;
        }
        let sound = step.loss.is_finite() && step.gradient_norm.is_finite();
        self.state.skipped = if sound { 0 } else { self.state.skipped + 1 };
        if self.state.skipped >= SKIPPED_MAX {
            let what = if step.loss.is_finite() { "gradient" } else { "loss" };
            return Err(TrainError::Diverged { step: step.step, what, times: self.state.skipped });
        }
        Ok(())
    }

    /// The experts' load since the last record, now and then.
    fn record_load(&mut self, model: &Model, entropies: Vec<f32>) -> Result<(), TrainError> {
        let step = self.state.step;
        let due = step == self.steps() || step.is_multiple_of((self.steps() / LOAD_RECORDS).max(1));
        if !due || self.state.expert_counts.is_empty() {
            return Ok(());
        }
        let layers = shares(&std::mem::take(&mut self.state.expert_counts));
        let top_k = model.config.experts.map_or(1, |experts| experts.top_k);
        let warning = self.state.watch.experts(step, &layers, top_k);
        self.record(Event::ExpertLoad { step, layers, entropies })?;
        warning.map_or(Ok(()), |warning| self.record(warning))
    }

    /// Before the first step: what the model can do before it learns is what all that follows is compared with.
    fn look_before(&mut self, model: &Model, objective: &mut dyn Objective) -> Result<(), TrainError> {
        let is_best = self.run.recipe.evaluate_every > 0 && self.validate(model)?;
        self.try_tasks(model)?;
        if is_best { self.save(model, objective) } else { Ok(()) }
    }

    /// After a step: validation, tasks and checkpoint, each when it is due.
    fn look_around(&mut self, model: &Model, objective: &mut dyn Objective) -> Result<(), TrainError> {
        let recipe = self.run.recipe;
        let step = self.state.step;
        let last = step == self.steps();
        let due = |every: usize| every > 0 && step.is_multiple_of(every);
        let is_best = (last || due(recipe.evaluate_every)) && self.validate(model)?;
        if due(recipe.tasks_every) || last && recipe.tasks_every > 0 {
            self.try_tasks(model)?;
        }
        // The first step is saved to prove that saving works before hours depend on it.
        if is_best || step == 1 || due(recipe.save_every) || self.is_over() {
            self.save(model, objective)?;
        }
        Ok(())
    }

    /// Whether this is the best model so far, where that is to be the result.
    fn validate(&mut self, model: &Model) -> Result<bool, TrainError> {
        if self.run.validation.is_empty() {
            return Ok(false);
        }
        let (began, step, recipe) = (Instant::now(), self.state.step, self.run.recipe);
        let tally = measure(model, self.run.validation, recipe);
        let seconds = began.elapsed().as_secs_f64();
        let validation = Validation { step, loss: tally.loss(), losses: tally.losses(), seconds };
        let warning = self.state.watch.validation(&validation);
        self.validation = Some(validation.clone());
        self.record(Event::Validation(validation))?;
        if let Some(warning) = warning {
            self.record(warning)?;
        }
        let wanted = recipe.result == ResultModel::Best;
        Ok(wanted && Best::take(&mut self.state.best, step, tally.loss(), recipe.patience_gain))
    }

    fn try_tasks(&mut self, model: &Model) -> Result<(), TrainError> {
        let recipe = self.run.recipe;
        if recipe.tasks_every == 0 {
            return Ok(());
        }
        let began = Instant::now();
        let Some(scores) = self.progress.try_tasks(model, recipe.tasks) else { return Ok(()) };
        self.record(Event::Tasks { step: self.state.step, scores, seconds: began.elapsed().as_secs_f64() })
    }

    fn save(&mut self, model: &Model, objective: &mut dyn Objective) -> Result<(), TrainError> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        self.record(Event::Checkpoint { step })?;
        self.state.metrics_bytes = self.metrics.bytes();
        self.state.seconds = self.seconds();
        let best = self.state.best.map(|best| best.step);
        let keep = Keep { last: self.run.recipe.keep_last, best };
        let companion: Option<&Companion> = objective.companion().map(|companion| &*companion);
        self.state.companion_updates = companion.map_or(0, |companion| companion.optimizer().updates());
        let learners = Learners { model, optimizer: &self.optimizer, companion };
        checkpoint::save(self.run.directory, &self.state, learners, keep)?;
        self.saved = Some(step);
        self.report()
    }

    /// The run is over: its result is put into the model.
    fn finish(mut self, model: &mut Model) -> Result<Summary, TrainError> {
        let step = self.state.step;
        let early = step < self.steps();
        if let Some(best) = self.state.best {
            if best.step != step {
                checkpoint::restore_parameters(self.run.directory, best.step, model)?;
            }
            if best.step == 0
                && let Some(warning) = self.state.watch.no_gain(step, best.loss)
            {
                self.record(warning)?;
            }
        }
        self.end(if early { Ending::StoppedEarly } else { Ending::Finished })
    }

    fn end(mut self, ending: Ending) -> Result<Summary, TrainError> {
        let (step, seconds) = (self.state.step, self.seconds());
        self.record(Event::End { step, outcome: ending, seconds })?;
        self.report()?;
        let (loss, validation, best) = (self.loss, self.validation, self.state.best);
        Ok(Summary { ending, step, loss, validation, best, seconds })
    }

    fn report(&self) -> Result<(), TrainError> {
        report::write(self.run.title, &self.run.directory.join(METRICS), &self.run.directory.join(REPORT))
    }

    fn record(&mut self, event: Event) -> Result<(), TrainError> {
        self.metrics.write(&event)?;
        self.events.write(&event)?;
        self.progress.record(&event);
        Ok(())
    }
}

/// In seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
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
        tally.add(&batch, &losses(model, &examples, recipe.chunk_tokens));
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

/// Makes ready what the recipe trains of a model: adapters, or which parameters learn.
pub fn attach(recipe: &TrainRecipe, model: &mut Model) -> Result<(), TrainError> {
    match &recipe.method {
        Method::Lora(lora) if !model.has_adapters() => _ = adapter::attach(model, lora, recipe.seed)?,
        Method::Routers => train_routers(model)?,
        Method::Lora(_) | Method::Full => {}
    }
    Ok(())
}

/// Marks the routers' rows as trained, and nothing else.
pub(crate) fn train_routers(model: &mut Model) -> Result<(), TrainError> {
    if model.mark_routers() > 0 {
        return Ok(());
    }
    let what = "method = \"routers\" trains what chooses experts, and this model has none".to_owned();
    Err(TrainError::Recipe { what })
}

fn check_samples(run: &Run<'_>, model: &Model) -> Result<(), TrainError> {
    if !run.samples.iter().any(|sample| sample.repeat > 0.0 && sample.trained_tokens() > 0) {
        return Err(TrainError::NoData);
    }
    if run.recipe.result == ResultModel::Best && run.validation.is_empty() {
        let what = "result = \"best\" compares validations, and no data is held out; raise data.validation, or \
                    sequence_length where what would be held out is longer"
            .to_owned();
        return Err(TrainError::Recipe { what });
    }
    let vocabulary = model.config.vocab_size;
    let highest = run.samples.iter().chain(run.validation).flat_map(|sample| &sample.tokens).max();
    match highest {
        Some(&token) if token as usize >= vocabulary => Err(TrainError::Vocabulary { token, vocabulary }),
        _ => Ok(()),
    }
}
