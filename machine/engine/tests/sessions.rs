//! Sessions and batches on a small random hybrid model: whatever the order of computation, the tokens are the same.

use engine::{
    Batch, EngineError, Event, Finish, Generation, Job, Progress, Request, Sampling, Session, Settings, generate,
    generate_many,
};
use models::{Config, KvFormat, Model};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

const CONFIG: &str = r#"{
  "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "dtype": "float32",
  "attention_bias": false, "decoder_sparse_step": 1, "head_dim": 16, "hidden_act": "silu", "hidden_size": 32,
  "intermediate_size": 48, "layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4,
  "linear_key_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 8,
  "max_position_embeddings": 256, "mlp_only_layers": [], "moe_intermediate_size": 16, "norm_topk_prob": true,
  "num_attention_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2,
  "num_key_value_heads": 1, "partial_rotary_factor": 0.25, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
  "shared_expert_intermediate_size": 16, "tie_word_embeddings": false, "vocab_size": 97
}"#;

fn model() -> Model {
    Model::random(Config::from_json(CONFIG).expect("the configuration is valid"), 5)
}

fn prompt(length: usize, seed: u32) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 31 + seed * 17 + i * i) % 97).collect()
}

fn greedy(max_tokens: usize) -> Request {
    Request { sampling: Sampling::greedy(), max_tokens, stop: Vec::new() }
}

fn small_passes() -> Settings {
    Settings { pass_tokens: 3, sequences: 2, ..Settings::default() }
}

fn run(model: &Model, settings: Settings, session: &mut Session, request: &Request) -> Generation {
    let never = AtomicBool::new(false);
    generate(model, settings, session, request, &never, |_| ControlFlow::Continue(())).expect("it generates")
}

fn alone(model: &Model, settings: Settings, prompt: &[u32], request: &Request) -> Generation {
    let mut session = Session::new(&model.config, KvFormat::F32);
    session.sync(&model.config, prompt).expect("the prompt is valid");
    run(model, settings, &mut session, request)
}

#[test]
fn the_size_of_a_pass_does_not_change_the_text() {
    let model = model();
    let whole = alone(&model, Settings::default(), &prompt(29, 1), &greedy(12));
    let pieces = alone(&model, small_passes(), &prompt(29, 1), &greedy(12));
    assert_eq!(whole.tokens, pieces.tokens);
    assert_eq!((whole.tokens.len(), whole.finish), (12, Finish::Length));
    assert_eq!(whole.timings.prefill_tokens, 29);
    assert_eq!(whole.timings.decode_tokens, 11, "the first token comes with the prompt");
}

#[test]
fn company_does_not_change_the_text() {
    let model = model();
    let jobs: Vec<Job> = (0..7)
        .map(|i| Job { prompt: prompt(5 + 3 * i, i as u32), request: greedy(4 + i) })
        .chain((0..3).map(|seed| Job {
            prompt: prompt(11, 40),
            request: Request { sampling: Sampling::with_temperature(1.0, seed), ..greedy(9) },
        }))
        .collect();
    for settings in [Settings::default(), Settings { pass_tokens: 7, sequences: 3, ..Settings::default() }] {
        let mut found: Vec<Option<Generation>> = vec![None; jobs.len()];
        let never = AtomicBool::new(false);
        generate_many(&model, settings, &jobs, &never, |job, generation| {
            assert!(found[job].replace(generation).is_none(), "job {job} finished twice");
        })
        .expect("it generates");
        for (job, found) in jobs.iter().zip(found) {
            let wanted = alone(&model, Settings::default(), &job.prompt, &job.request);
            assert_eq!(found.map(|generation| generation.tokens), Some(wanted.tokens));
        }
    }
}

#[test]
fn a_session_keeps_what_is_a_prefix_and_starts_again_otherwise() {
    let model = model();
    let mut session = Session::new(&model.config, KvFormat::F32);
    let first = prompt(20, 3);
    assert_eq!(session.sync(&model.config, &first).expect("valid").fresh, 20);
    let one = run(&model, Settings::default(), &mut session, &greedy(6));

    let longer = [first.clone(), one.tokens.clone(), vec![5, 6, 7]].concat();
    let reused = session.sync(&model.config, &longer).expect("valid");
    // The last generated token was never computed.
    assert_eq!((reused.kept, reused.fresh), (25, 4));
    let two = run(&model, Settings::default(), &mut session, &greedy(6));
    assert_eq!(two.tokens, alone(&model, Settings::default(), &longer, &greedy(6)).tokens);

    let reused = session.sync(&model.config, &first).expect("valid");
    assert_eq!((reused.kept, reused.fresh), (0, 20), "a recurrent state does not go back");
    assert_eq!(run(&model, Settings::default(), &mut session, &greedy(6)).tokens, one.tokens);
}

#[test]
fn the_same_prompt_twice_computes_nothing_the_second_time() {
    let model = model();
    let mut session = Session::new(&model.config, KvFormat::F32);
    session.sync(&model.config, &prompt(9, 2)).expect("valid");
    run(&model, Settings::default(), &mut session, &greedy(0));
    let reused = session.sync(&model.config, &prompt(9, 2)).expect("valid");
    assert_eq!((reused.kept, reused.fresh), (9, 0));
    let found = run(&model, Settings::default(), &mut session, &greedy(5));
    assert_eq!(found.tokens, alone(&model, Settings::default(), &prompt(9, 2), &greedy(5)).tokens);
}

#[test]
fn a_stop_token_ends_the_text_and_stays_out_of_it() {
    let model = model();
    let free = alone(&model, Settings::default(), &prompt(13, 8), &greedy(10));
    let stop = free.tokens[4];
    let first = free.tokens.iter().position(|&token| token == stop).expect("it is there");
    let stopped = alone(&model, Settings::default(), &prompt(13, 8), &Request { stop: vec![stop], ..greedy(10) });
    assert_eq!(stopped.finish, Finish::Stop(stop));
    assert_eq!(stopped.tokens, free.tokens[..first]);
}

#[test]
fn an_interrupted_text_continues_where_it_stopped() {
    let model = model();
    let wanted = alone(&model, Settings::default(), &prompt(17, 4), &greedy(10)).tokens;
    let mut session = Session::new(&model.config, KvFormat::F32);
    session.sync(&model.config, &prompt(17, 4)).expect("valid");
    let cancel = AtomicBool::new(false);
    let mut seen = 0;
    let part = generate(&model, Settings::default(), &mut session, &greedy(10), &cancel, |progress| {
        seen += usize::from(matches!(progress, Progress::Token(_)));
        cancel.store(seen == 4, Ordering::Relaxed);
        ControlFlow::Continue(())
    })
    .expect("it generates");
    assert_eq!((part.finish, part.tokens.as_slice()), (Finish::Cancelled, &wanted[..4]));
    let so_far = [prompt(17, 4), part.tokens].concat();
    let reused = session.sync(&model.config, &so_far).expect("valid");
    assert!(reused.kept >= 17, "the prompt is kept: {reused:?}");
    assert_eq!(run(&model, Settings::default(), &mut session, &greedy(6)).tokens, wanted[4..]);
}

#[test]
fn a_prompt_that_is_interrupted_keeps_what_was_computed() {
    let model = model();
    let mut batch = Batch::new(&model, Settings { pass_tokens: 8, sequences: 1, ..Settings::default() });
    let mut session = Session::new(&model.config, KvFormat::F32);
    session.sync(&model.config, &prompt(20, 6)).expect("valid");
    batch.admit(3, session, greedy(4)).expect("it is synced");
    let events = batch.step().expect("it runs");
    assert!(matches!(events.as_slice(), [Event::Prompt { ticket: 3, done: 8, total: 20 }]));
    let Some(Event::Finished { ticket: 3, mut session, generation }) = batch.cancel_one(3) else {
        panic!("the session did not come back");
    };
    assert!(generation.tokens.is_empty() && batch.is_empty());
    let reused = session.sync(&model.config, &prompt(20, 6)).expect("valid");
    assert_eq!((reused.kept, reused.fresh), (8, 12));
    let wanted = alone(&model, Settings::default(), &prompt(20, 6), &greedy(4));
    assert_eq!(run(&model, Settings::default(), &mut session, &greedy(4)).tokens, wanted.tokens);
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let model = model();
    let mut session = Session::new(&model.config, KvFormat::F32);
    assert_eq!(session.sync(&model.config, &[]), Err(EngineError::EmptyPrompt));
    let unknown = EngineError::UnknownToken { token: 97, position: 1, vocabulary: 97 };
    assert_eq!(session.sync(&model.config, &[0, 97]), Err(unknown));
    let long = EngineError::PromptTooLong { found: 257, wanted: 256 };
    assert_eq!(session.sync(&model.config, &prompt(257, 1)), Err(long));
    let mut batch = Batch::new(&model, Settings::default());
    assert_eq!(batch.admit(0, session, greedy(1)), Err(EngineError::EmptyPrompt));
}

#[test]
fn a_full_context_ends_the_text() {
    let model = model();
    let found = alone(&model, Settings::default(), &prompt(250, 1), &greedy(50));
    // Six more positions, and one token more that would need the seventh.
    assert_eq!((found.finish, found.tokens.len()), (Finish::ContextFull, 7));
}

#[test]
fn a_session_takes_what_is_planned_for_it() {
    let model = model();
    let mut session = Session::new(&model.config, KvFormat::F32).limited(30);
    let long = EngineError::PromptTooLong { found: 31, wanted: 30 };
    assert_eq!(session.sync(&model.config, &prompt(31, 1)), Err(long.clone()));
    session.sync(&model.config, &prompt(25, 1)).expect("it fits");
    let found = run(&model, Settings::default(), &mut session, &greedy(50));
    assert_eq!((found.finish, found.tokens.len()), (Finish::ContextFull, 6));
    assert_eq!(session.tokens().len(), 30);
    assert_eq!(session.sync(&model.config, &prompt(31, 2)), Err(long), "the limit stays");
    assert_eq!(Session::new(&model.config, KvFormat::F32).limited(1 << 20).context_max(), 256);
}

/// A prompt of many passes is told pass by pass, and ends between two of them.
#[test]
fn a_long_prompt_says_how_far_it_is_and_stops_when_asked() {
    let model = model();
    let settings = Settings { pass_tokens: 8, ..Settings::default() };
    let never = AtomicBool::new(false);
    let mut told = Vec::new();
    let mut hear = |until: usize| {
        let mut session = Session::new(&model.config, KvFormat::F32);
        session.sync(&model.config, &prompt(20, 6)).expect("valid");
        told.clear();
        let generation = generate(&model, settings, &mut session, &greedy(1), &never, |progress| {
            told.push(progress);
            if told.len() == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (generation.expect("it runs").finish, session.tokens().len(), told.clone())
    };
    let passes = [8, 16, 20].map(|done| Progress::Prompt { done, total: 20 });
    let (finish, tokens, whole) = hear(100);
    assert_eq!((finish, tokens, &whole[..3]), (Finish::Length, 20, &passes[..]));
    assert!(matches!(whole[3..], [Progress::Token(_)]));
    assert_eq!(hear(2), (Finish::Cancelled, 16, passes[..2].to_vec()));
}

#[test]
fn jobs_stop_when_asked() {
    let model = model();
    let jobs = vec![Job { prompt: prompt(5, 1), request: greedy(5) }; 4];
    let mut finished = 0;
    generate_many(&model, Settings::default(), &jobs, &AtomicBool::new(true), |_, _| finished += 1).expect("it stops");
    assert_eq!(finished, 0);
}
