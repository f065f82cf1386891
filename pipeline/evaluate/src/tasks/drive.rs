//! All tries through one batch. Judges work on threads of their own: a program that loops for a second must not stop
//! the model.

use super::attempt::{Attempt, Judging, Next};
use super::report::Outcome;
use super::{Subject, TaskProgress, TaskSettings};
use crate::EvaluateError;
use engine::{Batch, EngineError, Event, Generation, Session, prefill};
use environment::{Sandbox, Task, Verdict};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

const JUDGES: usize = 2;
/// Of an answer, this much is kept for the report.
const ANSWER_CHARACTERS_MAX: usize = 1200;

/// What goes to a judge.
struct Case<'t> {
    task: &'t Task,
    judging: Judging,
    outcome: Outcome,
}

pub(super) fn run(
    subject: &Subject<'_>,
    settings: &TaskSettings,
    tasks: &[Task],
    cancel: &AtomicBool,
    progress: &mut dyn FnMut(TaskProgress),
) -> Result<Vec<Outcome>, EvaluateError> {
    thread::scope(|scope| {
        let (cases, waiting) = channel::<Case<'_>>();
        let (verdicts, judged) = channel::<Outcome>();
        let waiting = std::sync::Arc::new(Mutex::new(waiting));
        for _ in 0..JUDGES {
            let (waiting, verdicts) = (waiting.clone(), verdicts.clone());
            scope.spawn(move || judge(subject.sandbox, &waiting, &verdicts));
        }
        drop(verdicts);
        let mut driver = Driver::new(subject, settings, tasks, cases);
        let mut outcomes = Vec::new();
        while driver.step()? {
            if cancel.load(Ordering::Relaxed) {
                return Err(EvaluateError::Cancelled);
            }
            outcomes.extend(judged.try_iter());
            progress(driver.progress(outcomes.len()));
        }
        let (total, generated_tokens) = (driver.total, driver.generated_tokens);
        drop(driver);
        for outcome in judged {
            outcomes.push(outcome);
            progress(TaskProgress { done: outcomes.len() as u64, total, generated_tokens });
        }
        // Threads finish in any order; the report must not depend on it.
        outcomes.sort_by_key(|outcome| (outcome.task, outcome.sample));
        Ok(outcomes)
    })
}

fn judge(sandbox: &Sandbox, waiting: &Mutex<Receiver<Case<'_>>>, verdicts: &Sender<Outcome>) {
    loop {
        let case = waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv();
        let Ok(Case { task, judging, mut outcome }) = case else { return };
        let verdict = match judging {
            Judging::Answer(text) => {
                let verdict = task.judge(sandbox, &text);
                outcome.answer = text.chars().take(ANSWER_CHARACTERS_MAX).collect();
                verdict
            }
            Judging::Repository(repository) => {
                let passed = repository.solved(sandbox);
                let detail = if passed { "the tests pass" } else { "the hidden tests still fail" };
                Verdict { passed, exact: false, detail: detail.into() }
            }
        };
        outcome.passed = verdict.passed;
        outcome.exact = verdict.exact;
        outcome.detail = verdict.detail;
        if verdicts.send(outcome).is_err() {
            return;
        }
    }
}

/// Keeps the batch full.
struct Driver<'a, 't> {
    subject: &'a Subject<'a>,
    settings: &'a TaskSettings,
    tasks: &'t [Task],
    batch: Batch<'a>,
    /// Tries in the batch, by ticket.
    flying: HashMap<usize, Attempt<'t>>,
    /// Agents between two turns, with the session that knows their past.
    between: Vec<(usize, Attempt<'t>, Session)>,
    /// The next try: task by task, the greedy one first.
    next: u64,
    total: u64,
    /// The computed prompt of a task that is tried several times.
    shared: Option<(usize, Session)>,
    cases: Sender<Case<'t>>,
    generated_tokens: u64,
}

impl<'a, 't> Driver<'a, 't> {
    fn new(subject: &'a Subject<'a>, settings: &'a TaskSettings, tasks: &'t [Task], cases: Sender<Case<'t>>) -> Self {
        Self {
            subject,
            settings,
            tasks,
            batch: Batch::new(subject.model, settings.engine),
            flying: HashMap::new(),
            between: Vec::new(),
            next: 0,
            total: tasks.len() as u64 * (1 + settings.samples),
            shared: None,
            cases,
            generated_tokens: 0,
        }
    }

    fn progress(&self, judged: usize) -> TaskProgress {
        TaskProgress { done: judged as u64, total: self.total, generated_tokens: self.generated_tokens }
    }

    /// One pass of the batch; false when all tries have gone to the judges.
    fn step(&mut self) -> Result<bool, EvaluateError> {
        while !self.batch.is_full() {
            match self.between.pop() {
                Some((ticket, attempt, session)) => self.admit(ticket, attempt, session)?,
                None if self.next < self.total => self.begin()?,
                None => break,
            }
        }
        if self.batch.is_empty() && self.between.is_empty() {
            return Ok(self.next < self.total);
        }
        for event in self.batch.step()? {
            if let Event::Finished { ticket, session, generation } = event {
                self.finished(ticket, session, &generation)?;
            }
        }
        Ok(true)
    }

    fn admit(&mut self, ticket: usize, attempt: Attempt<'t>, session: Session) -> Result<(), EvaluateError> {
        self.batch.admit(ticket, session, attempt.request(self.subject, self.settings))?;
        self.flying.insert(ticket, attempt);
        Ok(())
    }

    /// Takes the next try up.
    fn begin(&mut self) -> Result<(), EvaluateError> {
        let tries = 1 + self.settings.samples;
        let (task_index, sample) = ((self.next / tries) as usize, (self.next % tries).checked_sub(1));
        let ticket = self.next as usize;
        self.next += 1;
        let task = &self.tasks[task_index];
        let (mut attempt, prompt) = Attempt::begin(self.subject, self.settings, task, task_index, sample)?;
        let shared = self.shared.as_ref().filter(|(of, _)| *of == task_index).map(|(_, session)| session.clone());
        let session = match shared {
            Some(session) => session,
            None => {
                let mut session = Session::new(&self.subject.model.config, self.settings.engine.kv);
                if !self.sync(&mut session, &mut attempt, &prompt)? {
                    return Ok(());
                }
                if tries > 1 {
                    prefill(self.subject.model, self.settings.engine, &mut session)?;
                    self.shared = Some((task_index, session.clone()));
                }
                session
            }
        };
        self.admit(ticket, attempt, session)
    }

    /// Whether the prompt fits; if not, the try ends here and what there is is judged.
    fn sync(
        &mut self,
        session: &mut Session,
        attempt: &mut Attempt<'t>,
        prompt: &[u32],
    ) -> Result<bool, EvaluateError> {
        match session.sync(&self.subject.model.config, prompt) {
            Ok(_) => Ok(true),
            Err(EngineError::PromptTooLong { .. }) => {
                attempt.cut_short = true;
                let judging = attempt.give_up();
                self.submit(attempt, judging);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn finished(&mut self, ticket: usize, mut session: Session, generation: &Generation) -> Result<(), EvaluateError> {
        self.generated_tokens += generation.tokens.len() as u64;
        let mut attempt = self.flying.remove(&ticket).expect("a ticket in the batch has its attempt");
        match attempt.advance(self.subject, self.settings, generation)? {
            Next::Judge(judging) => self.submit(&attempt, judging),
            Next::Continue(prompt) => {
                if self.sync(&mut session, &mut attempt, &prompt)? {
                    self.between.push((ticket, attempt, session));
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, attempt: &Attempt<'t>, judging: Judging) {
        let outcome = Outcome {
            task: attempt.task_index,
            sample: attempt.sample,
            tokens: attempt.tokens,
            turns: attempt.turns,
            cut_short: attempt.cut_short,
            ..Outcome::default()
        };
        // Judges live as long as the driver; if one has panicked, the scope passes the panic on.
        let _ = self.cases.send(Case { task: attempt.task, judging, outcome });
    }
}
