//! Many sessions, one forward pass at a time.
//!
//! Every pass takes one token of each sequence and fills the rest of its budget with prompt tokens of those that still
//! prefill, oldest first. Buffers are therefore as large as the batch in flight, however long the contexts.

use crate::EngineError;
use crate::sample::Sampler;
use crate::session::{Finish, Generation, Request, Session, Timings};
use models::{KvFormat, Model, State};
use ops::{Infer, Precision};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// How passes are made.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub precision: Precision,
    /// Tokens in one pass.
    pub pass_tokens: usize,
    /// Sequences at a time.
    pub sequences: usize,
    /// How the sessions that are made here keep keys and values.
    pub kv: KvFormat,
}

impl Default for Settings {
    fn default() -> Self {
        Self { precision: Precision::F32, pass_tokens: 512, sequences: 64, kv: KvFormat::default() }
    }
}

/// What a pass brought about; `ticket` is what the caller named the session.
pub enum Event {
    /// A pass took in some of a prompt: `done` of the `total` tokens that have to be computed are.
    Prompt {
        ticket: usize,
        done: usize,
        total: usize,
    },
    Token {
        ticket: usize,
        token: u32,
    },
    Finished {
        ticket: usize,
        session: Session,
        generation: Generation,
    },
}

/// A sequence in flight. Its state lies in [`Batch::states`], because a pass wants the states side by side.
struct Slot {
    ticket: usize,
    session: Parked,
    request: Request,
    sampler: Sampler,
    generated: Vec<u32>,
    admitted: Instant,
    first_token: Option<Instant>,
    prefill_tokens: usize,
    decode_tokens: usize,
}

/// A [`Session`] without its state.
struct Parked {
    tokens: Vec<u32>,
    pending: Vec<u32>,
    logits: Vec<f32>,
    context_max: usize,
}

/// Sessions that advance together. `slots` and `states` are parallel and stay in the order of admission, which is the
/// order in which prompts get their share of a pass.
pub struct Batch<'m> {
    model: &'m Model,
    settings: Settings,
    slots: Vec<Slot>,
    states: Vec<State>,
}

impl<'m> Batch<'m> {
    pub fn new(model: &'m Model, settings: Settings) -> Self {
        assert!(settings.sequences > 0, "a batch holds at least one sequence");
        assert!(settings.pass_tokens >= settings.sequences, "a pass has room for one token of each sequence");
        Self { model, settings, slots: Vec::new(), states: Vec::new() }
    }

    pub fn is_full(&self) -> bool {
        self.slots.len() >= self.settings.sequences
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes a session in, which has to be synced to its prompt.
    pub fn admit(&mut self, ticket: usize, session: Session, request: Request) -> Result<(), EngineError> {
        assert!(!self.is_full(), "the batch is full: ask is_full() before admit()");
        let Session { state, tokens, pending, logits, context_max } = session;
        if pending.is_empty() && logits.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let sampler = Sampler::new(request.sampling.clone())?;
        self.slots.push(Slot {
            ticket,
            prefill_tokens: pending.len(),
            session: Parked { tokens, pending, logits, context_max },
            request,
            sampler,
            generated: Vec::new(),
            admitted: Instant::now(),
            first_token: None,
            decode_tokens: 0,
        });
        self.states.push(state);
        Ok(())
    }

    /// Runs one pass, samples for every sequence whose prompt is complete, and hands out the finished ones. Where a
    /// session came with its prompt computed already, its first token is sampled instead of a pass.
    pub fn step(&mut self) -> Result<Vec<Event>, EngineError> {
        let mut events = Vec::new();
        if self.slots.iter().all(|slot| !slot.session.pending.is_empty()) {
            self.pass(&mut events);
        }
        let mut at = 0;
        while at < self.slots.len() {
            match self.slots[at].sample(&mut events)? {
                None => at += 1,
                Some(finish) => {
                    let state = self.states.remove(at);
                    events.push(self.slots.remove(at).finish(state, finish));
                }
            }
        }
        Ok(events)
    }

    /// Ends every sequence where it stands.
    pub fn cancel(&mut self) -> Vec<Event> {
        let slots = self.slots.drain(..).zip(self.states.drain(..));
        slots.map(|(slot, state)| slot.finish(state, Finish::Cancelled)).collect()
    }

    /// Ends one sequence where it stands.
    pub fn cancel_one(&mut self, ticket: usize) -> Option<Event> {
        let at = self.slots.iter().position(|slot| slot.ticket == ticket)?;
        let state = self.states.remove(at);
        Some(self.slots.remove(at).finish(state, Finish::Cancelled))
    }

    fn pass(&mut self, events: &mut Vec<Event>) {
        let lengths = self.lengths();
        if lengths.is_empty() {
            return;
        }
        let mut tokens = Vec::with_capacity(lengths.iter().sum());
        let mut rows = Vec::new();
        let mut complete = Vec::new();
        for (at, (slot, &length)) in self.slots.iter_mut().zip(&lengths).enumerate() {
            let session = &mut slot.session;
            tokens.extend_from_slice(&session.pending[..length]);
            session.tokens.extend(session.pending.drain(..length));
            slot.decode_tokens += usize::from(slot.first_token.is_some());
            if slot.first_token.is_none() {
                let (ticket, total) = (slot.ticket, slot.prefill_tokens);
                events.push(Event::Prompt { ticket, done: total - session.pending.len(), total });
            }
            // Logits of a sequence that is not complete are never asked for.
            if session.pending.is_empty() {
                rows.push(tokens.len() - 1);
                complete.push(at);
            }
        }
        let mut executor = Infer::new(self.settings.precision);
        let hidden = models::hidden(&mut executor, self.model, &mut self.states, &tokens, &lengths);
        if rows.is_empty() {
            return;
        }
        let logits = models::logits(&mut executor, self.model, &hidden, &rows);
        for (row, &at) in complete.iter().enumerate() {
            let kept = &mut self.slots[at].session.logits;
            kept.clear();
            kept.extend_from_slice(logits.row(row));
        }
    }

    /// Tokens of each sequence in the next pass: at least one.
    fn lengths(&self) -> Vec<usize> {
        let mut left = self.settings.pass_tokens.saturating_sub(self.slots.len());
        let mut lengths: Vec<usize> = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let length = slot.session.pending.len().min(left + 1);
            left -= length - 1;
            lengths.push(length);
        }
        lengths
    }
}

impl Slot {
    /// Draws the next token if the prompt is complete, and says whether that ends the text.
    fn sample(&mut self, events: &mut Vec<Event>) -> Result<Option<Finish>, EngineError> {
        if !self.session.pending.is_empty() {
            return Ok(None);
        }
        self.first_token.get_or_insert_with(Instant::now);
        if self.request.max_tokens == 0 {
            return Ok(Some(Finish::Length));
        }
        let token = self.sampler.choose(&self.session.logits, &self.session.tokens)?;
        if self.request.stop.contains(&token) {
            return Ok(Some(Finish::Stop(token)));
        }
        self.generated.push(token);
        events.push(Event::Token { ticket: self.ticket, token });
        if self.generated.len() >= self.request.max_tokens {
            return Ok(Some(Finish::Length));
        }
        if self.session.tokens.len() >= self.session.context_max {
            return Ok(Some(Finish::ContextFull));
        }
        self.session.pending.push(token);
        Ok(None)
    }

    /// The session goes back without the token that was sampled last, which was never computed: its logits are those
    /// that the token was drawn from.
    fn finish(self, state: State, finish: Finish) -> Event {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let timings = Timings {
            prefill_tokens: self.prefill_tokens,
            prefill: first - self.admitted,
            decode_tokens: self.decode_tokens,
            decode: now - first,
        };
        let Parked { tokens, logits, context_max, .. } = self.session;
        let session = Session { state, tokens, pending: Vec::new(), logits, context_max };
        let generation = Generation { tokens: self.generated, finish, timings };
        Event::Finished { ticket: self.ticket, session, generation }
    }
}

/// How far a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A pass is done: so many of the prompt's tokens that had to be computed are.
    Prompt {
        done: usize,
        total: usize,
    },
    Token(u32),
}

/// Continues one session, synced to its prompt, and tells `on_progress` of each pass of the prompt and of each token;
/// `Break` or the flag ends it before the next pass, and the session keeps what was computed. After an error it is
/// empty.
pub fn generate(
    model: &Model,
    settings: Settings,
    session: &mut Session,
    request: &Request,
    cancel: &AtomicBool,
    mut on_progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Generation, EngineError> {
    let mut batch = Batch::new(model, Settings { sequences: 1, ..settings });
    let owned = std::mem::replace(session, session.emptied(&model.config));
    batch.admit(0, owned, request.clone())?;
    loop {
        let mut stop = cancel.load(Ordering::Relaxed);
        let mut events = if stop { Vec::new() } else { batch.step()? };
        for event in &events {
            let progress = match *event {
                Event::Prompt { done, total, .. } => Progress::Prompt { done, total },
                Event::Token { token, .. } => Progress::Token(token),
                Event::Finished { .. } => continue,
            };
            stop |= on_progress(progress).is_break();
        }
        if stop {
            events.extend(batch.cancel());
        }
        for event in events {
            if let Event::Finished { session: back, generation, .. } = event {
                *session = back;
                return Ok(generation);
            }
        }
    }
}

/// A prompt and what to do with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub prompt: Vec<u32>,
    pub request: Request,
}

/// Continues many prompts, as many at a time as the settings allow; `on_finished` gets the job's index. A job whose
/// prompt equals the one before it shares its computed prompt. Returns early when the flag is set; jobs without a call
/// of `on_finished` were not done.
pub fn generate_many(
    model: &Model,
    settings: Settings,
    jobs: &[Job],
    cancel: &AtomicBool,
    mut on_finished: impl FnMut(usize, Generation),
) -> Result<(), EngineError> {
    let mut batch = Batch::new(model, settings);
    let mut waiting = jobs.iter().enumerate().peekable();
    let mut shared: Option<(&[u32], Session)> = None;
    while !(batch.is_empty() && waiting.peek().is_none()) {
        if cancel.load(Ordering::Relaxed) {
            return Ok(());
        }
        while !batch.is_full() && waiting.peek().is_some() {
            let Some((ticket, job)) = waiting.next() else { break };
            let again = waiting.peek().is_some_and(|(_, next)| next.prompt == job.prompt);
            let session = match shared.take() {
                Some((prompt, session)) if prompt == job.prompt => session,
                _ => {
                    let mut session = synced(model, settings.kv, &job.prompt)?;
                    if again {
                        prefill(model, settings, &mut session)?;
                    }
                    session
                }
            };
            if again {
                shared = Some((&job.prompt, session.clone()));
            }
            batch.admit(ticket, session, job.request.clone())?;
        }
        for event in batch.step()? {
            if let Event::Finished { ticket, generation, .. } = event {
                on_finished(ticket, generation);
            }
        }
    }
    Ok(())
}

fn synced(model: &Model, kv: KvFormat, prompt: &[u32]) -> Result<Session, EngineError> {
    let mut session = Session::new(&model.config, kv);
    session.sync(&model.config, prompt)?;
    Ok(session)
}

/// Computes what is pending of a session, so that copies of it can continue without doing so each.
pub fn prefill(model: &Model, settings: Settings, session: &mut Session) -> Result<(), EngineError> {
    let request = Request { sampling: crate::Sampling::greedy(), max_tokens: 0, stop: Vec::new() };
    generate(model, settings, session, &request, &AtomicBool::new(false), |_| ControlFlow::Continue(()))?;
    Ok(())
}
