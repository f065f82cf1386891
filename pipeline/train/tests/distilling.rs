//! A pruned student and its teacher: the distance falls, runs resume bit for bit, each objective is measured, caches
//! know what they are of.

mod tiny;

use models::{FeedForward, Lineage, Model};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tiny::{Folder, model, recipe, samples};
use train::event::{Ending, Event, Progress, Silent, Step};
use train::objective::distill::cache;
use train::objective::distill::{
    CacheKey, CacheRecipe, Cached, Keep, Resident, SelfCorrection, StudentDivergence, Students, Teacher, Weight,
    check_pair, fit_projection,
};
use train::{DistillRecipe, Distillation, Method, Run, Summary, TrainError, TrainRecipe, metrics};

static NEVER: AtomicBool = AtomicBool::new(false);

/// A teacher that knows the data, and the same without two of its six experts in every layer.
fn pair() -> (Model, Model, Lineage) {
    let mut teacher = model(3);
    let folder = Folder::new(&format!("teacher-{:?}", std::thread::current().id()));
    let data = samples(60, 1);
    let run = Run {
        title: "teacher",
        recipe: &TrainRecipe { accumulation: 1, ..recipe(60) },
        samples: &data,
        validation: &[],
        directory: &folder.0,
        result_bytes: &[],
        cancelled: &NEVER,
    };
    train::train(&run, &mut teacher, &mut train::Supervised, &mut Silent).expect("a teacher");
    let keep = [0, 2, 3, 5];
    let mut student = teacher.clone();
    for layer in &mut student.weights.layers {
        let FeedForward::Moe(moe) = &mut layer.feed_forward else { continue };
        let router = &mut moe.routed.router.weight;
        let width = router.matrix.columns;
        let rows = keep.iter().flat_map(|&expert| router.values()[expert * width..(expert + 1) * width].to_vec());
        let rows: Vec<f32> = rows.collect();
        router.matrix = numeric::Matrix::from_f32(keep.len(), width, rows);
        router.shape = vec![keep.len(), width];
        moe.routed.experts = keep.iter().map(|&expert| moe.routed.experts[expert].clone()).collect();
    }
    student.config.set_expert_counts(&[4; 4]);
    student.renumber();
    let place = |expert| keep.iter().position(|&kept| kept == expert);
    (teacher, student, Lineage { layers: vec![(0..6).map(place).collect(); 4] })
}

fn all_terms() -> DistillRecipe {
    DistillRecipe {
        hidden: Weight::constant(0.2),
        gram: Weight::constant(0.5),
        gram_tokens: 32,
        self_correction: Some(SelfCorrection { max_tokens: 6, ..SelfCorrection::default() }),
        ..DistillRecipe::default()
    }
}

fn learn(
    (teacher, student, lineage): (&Model, &mut Model, &Lineage),
    recipe: &TrainRecipe,
    distill: &DistillRecipe,
    directory: &Path,
    (progress, cancelled): (&mut dyn Progress, &AtomicBool),
) -> Result<Summary, TrainError> {
    let (data, held_out) = (samples(60, 1), samples(10, 2));
    distill.check(recipe)?;
    check_pair(distill, &teacher.config, &student.config)?;
    let projection = fit_projection(distill, (teacher, &*student), lineage, (&data, recipe.sequence_length));
    let mut resident = Resident { model: teacher, chunk_tokens: 64 };
    let mut objective = Distillation::new(Students {
        recipe: distill.clone(),
        teacher: &mut resident,
        projection,
        student: &student.config,
        stop: vec![0],
        seed: recipe.seed,
    });
    let run = Run {
        title: "distill",
        recipe,
        samples: &data,
        validation: &held_out,
        directory,
        result_bytes: &[],
        cancelled,
    };
    train::train(&run, student, &mut objective, progress)
}

fn steps(directory: &Path) -> Vec<Step> {
    let events = metrics::read(&directory.join("metrics.jsonl")).expect("metrics");
    events.into_iter().filter_map(|e| if let Event::Step(step) = e { Some(step) } else { None }).collect()
}

fn bits(model: &Model) -> Vec<u32> {
    model.parameters().iter().flat_map(|parameter| parameter.values()).map(|value| value.to_bits()).collect()
}

/// The mean of a term over some steps.
fn mean(steps: &[Step], term: &str) -> f64 {
    steps.iter().map(|step| step.terms[term]).sum::<f64>() / steps.len() as f64
}

#[test]
fn a_pruned_model_comes_back_to_its_teacher_and_every_objective_is_measured() {
    let (teacher, pruned, lineage) = pair();
    let folder = Folder::new("distill-all");
    let recipe = TrainRecipe { learning_rate: 3e-3, ..recipe(40) };
    let mut student = pruned.clone();
    let summary = learn((&teacher, &mut student, &lineage), &recipe, &all_terms(), &folder.0, (&mut Silent, &NEVER));
    assert_eq!(summary.expect("a run").ending, Ending::Finished);
    let steps = steps(&folder.0);
    let names: Vec<&str> = steps[0].terms.keys().map(String::as_str).collect();
    assert_eq!(names, ["cross_entropy", "gram", "hidden", "output", "routers", "self_correction"]);
    for term in ["output", "hidden", "self_correction"] {
        let (first, last) = (mean(&steps[..3], term), mean(&steps[28..31], term));
        let share = if term == "self_correction" { 0.9 } else { 0.7 };
        assert!(first > 0.0 && last < share * first, "{term} went from {first} to {last}");
    }
    // The routers' weight is 0 from step 32 on, and what is not asked is not measured.
    assert!(steps[30].terms.contains_key("routers") && !steps[39].terms.contains_key("routers"));
    let page = std::fs::read_to_string(folder.0.join("report.html")).expect("a report");
    assert!(page.contains("Objective: self correction") && page.contains("Objective: output"));
}

#[test]
fn routers_alone_bring_some_of_it_back() {
    let (teacher, pruned, lineage) = pair();
    let folder = Folder::new("distill-routers");
    let recipe = TrainRecipe { method: Method::Routers, learning_rate: 1e-2, ..recipe(30) };
    let distill = DistillRecipe { hidden: Weight::constant(0.0), ..DistillRecipe::default() };
    let mut student = pruned.clone();
    learn((&teacher, &mut student, &lineage), &recipe, &distill, &folder.0, (&mut Silent, &NEVER)).expect("a run");
    let steps = steps(&folder.0);
    let (first, last) = (mean(&steps[..3], "output"), mean(&steps[27..], "output"));
    assert!(last < 0.95 * first, "from {first} to {last}");
    for (before, after) in pruned.parameters().iter().zip(student.parameters()) {
        let moved = before.values() != after.values();
        assert_eq!(moved, before.name.ends_with("mlp.gate.weight"), "{}", before.name);
    }
}

/// Raises the flag when a step is done, as Ctrl-C would.
struct StopAfter<'a>(usize, &'a AtomicBool);

impl Progress for StopAfter<'_> {
    fn record(&mut self, event: &Event) {
        if matches!(event, Event::Step(step) if step.step == self.0) {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_run_with_its_own_texts_resumes_bit_for_bit() {
    let (teacher, pruned, lineage) = pair();
    let (whole, cut) = (Folder::new("distill-whole"), Folder::new("distill-cut"));
    let divergence = StudentDivergence::Mixed(0.5);
    let correction = SelfCorrection { max_tokens: 6, divergence, ..SelfCorrection::default() };
    let distill = DistillRecipe { self_correction: Some(correction), ..all_terms() };
    let recipe = TrainRecipe { save_every: 3, ..recipe(10) };
    let mut wanted = pruned.clone();
    learn((&teacher, &mut wanted, &lineage), &recipe, &distill, &whole.0, (&mut Silent, &NEVER)).expect("whole");
    let flag = AtomicBool::new(false);
    let stopped =
        learn((&teacher, &mut pruned.clone(), &lineage), &recipe, &distill, &cut.0, (&mut StopAfter(5, &flag), &flag));
    assert_eq!(stopped.expect("a part").ending, Ending::Interrupted);
    let mut resumed = pruned.clone();
    learn((&teacher, &mut resumed, &lineage), &recipe, &distill, &cut.0, (&mut Silent, &NEVER)).expect("the rest");
    assert!(bits(&resumed) == bits(&wanted));
    let terms = |folder: &Folder| steps(&folder.0).into_iter().map(|step| step.terms).collect::<Vec<_>>();
    assert_eq!(terms(&cut), terms(&whole));
}

#[test]
fn a_step_that_is_given_up_while_writing_is_taken_again() {
    let (teacher, pruned, lineage) = pair();
    let folder = Folder::new("distill-given-up");
    let flag = AtomicBool::new(true);
    let recipe = recipe(4);
    let learnt = |student: &mut Model, flag: &AtomicBool| {
        learn((&teacher, student, &lineage), &recipe, &all_terms(), &folder.0, (&mut Silent, flag)).expect("a run")
    };
    let mut student = pruned.clone();
    assert_eq!((learnt(&mut student, &flag).step, bits(&student) == bits(&pruned)), (0, true));
    assert_eq!(learnt(&mut student, &NEVER).ending, Ending::Finished);
}

#[test]
fn teachers_of_another_kind_are_refused() {
    let (teacher, student, _) = pair();
    let recipe = DistillRecipe::default();
    let mut other = teacher.config.clone();
    other.vocab_size = 65;
    let error = check_pair(&recipe, &other, &student.config).expect_err("another vocabulary").to_string();
    assert!(error.contains("it knows 65 tokens, the student 64"), "{error}");
    let mut other = teacher.config.clone();
    other.layers.pop();
    let error = check_pair(&recipe, &other, &student.config).expect_err("fewer layers").to_string();
    assert!(error.contains("set routers to 0"), "{error}");
    let without = DistillRecipe { routers: Weight::constant(0.0), ..recipe.clone() };
    let error = check_pair(&without, &other, &student.config).expect_err("fewer layers").to_string();
    assert!(error.contains("set hidden and gram to 0"), "{error}");
    let beyond = DistillRecipe { layers: Some(vec![0, 4]), ..recipe };
    let error = check_pair(&beyond, &teacher.config, &student.config).expect_err("no layer 4").to_string();
    assert!(error.contains("names layer 4"), "{error}");
}

fn key<'a>(data: &'a [prepare::Sample], recipe: &'a CacheRecipe) -> CacheKey<'a> {
    CacheKey {
        teacher: "abc".to_owned(),
        vocabulary: 64,
        samples: data,
        sequence_length: 24,
        truncates: false,
        temperature: 1.5,
        recipe,
        seed: 5,
    }
}

#[test]
fn a_cache_says_what_its_teacher_says_and_is_good_for_nothing_else() {
    let (teacher, _, _) = pair();
    let data = samples(60, 1);
    let folder = Folder::new("distill-cache");
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let path = folder.0.join(train::objective::distill::TEACHER_CACHE);
    let all = CacheRecipe { keep: Keep::Top, tokens: 64 };
    let mut seen = 0;
    assert!(cache::write(&path, &teacher, &key(&data, &all), &NEVER, &mut |tokens| seen += tokens).expect("written"));
    assert_eq!(seen, data.iter().map(|sample| sample.tokens.len()).sum::<usize>());
    let mut cached = Cached::open(&path, &key(&data, &all)).expect("it opens");
    // Sequences of a batch, of pieces too, against the teacher itself.
    let pieces = [(7, 0, data[7].tokens.len().min(24)), (3, 0, 5), (41, 0, data[41].tokens.len().min(24))];
    let pieces = pieces.map(|(sample, start, length)| prepare::Piece { sample, start, length });
    let batch = prepare::Batch::of_pieces(&data, pieces);
    let questions = models::Questions::default();
    let lesson = cached.teach(&batch, &questions);
    let train::objective::distill::Output::Parts(parts) = &lesson.output else { panic!("parts") };
    let taught = models::teach(&teacher, &batch.tokens, &batch.lengths, 64, &questions);
    let rows: Vec<usize> = (0..batch.tokens.len()).collect();
    let mut infer = ops::Infer::new(ops::Precision::F32);
    let logits = models::logits(&mut infer, &teacher, &taught.hidden, &rows);
    for row in rows {
        let total: f64 = logits.row(row).iter().map(|z| f64::from(z / 1.5).exp()).sum();
        for place in row * 64..(row + 1) * 64 {
            let wanted = f64::from(logits.row(row)[parts.tokens[place] as usize] / 1.5).exp() / total;
            assert!((f64::from(parts.shares[place]) - wanted).abs() < 2e-3, "{} for {wanted}", parts.shares[place]);
        }
        assert_eq!(parts.rest[row], 0.0, "all tokens are kept");
    }

    let other_data = samples(60, 2);
    let some = CacheRecipe { keep: Keep::Top, tokens: 8 };
    let sampled = CacheRecipe { keep: Keep::Sampled, tokens: 64 };
    for (changed, wanted) in [
        (CacheKey { teacher: "abd".to_owned(), ..key(&data, &all) }, "its teacher is abc"),
        (CacheKey { vocabulary: 65, ..key(&data, &all) }, "its vocabulary is 64"),
        (CacheKey { temperature: 1.0, ..key(&data, &all) }, "its temperature is 1.5"),
        (key(&other_data, &all), "its samples is"),
        (key(&data[..59], &all), "its samples is"),
        (key(&data, &some), "its kept_tokens is 64"),
        (key(&data, &sampled), "its keep is top"),
        (CacheKey { truncates: true, ..key(&data, &all) }, "its sequence_length is 24, cut"),
    ] {
        let error = Cached::open(&path, &changed).err().expect(wanted).to_string();
        assert!(error.contains("Remove the file"), "{error}");
        let facts = ["its samples is", "its tokens is"];
        let is_data = facts.contains(&wanted) && facts.iter().any(|fact| error.contains(fact));
        assert!(error.contains(wanted) || is_data, "{error}, not {wanted}");
    }
    // Half a file is no cache, and a cancelled pass leaves none.
    let bytes = std::fs::read(&path).expect("it reads");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("it is cut");
    assert!(Cached::open(&path, &key(&data, &all)).is_err());
    std::fs::remove_file(&path).expect("it goes");
    let cancelled = AtomicBool::new(true);
    assert!(!cache::write(&path, &teacher, &key(&data, &all), &cancelled, &mut |_| ()).expect("it stops"));
    assert_eq!(std::fs::read_dir(&folder.0).expect("it is there").count(), 0);
}

#[test]
fn a_student_learns_from_a_cache_as_from_its_teacher() {
    let (teacher, pruned, _) = pair();
    let data = samples(60, 1);
    let recipe = TrainRecipe { learning_rate: 3e-3, ..recipe(30) };
    let none = Weight::constant(0.0);
    for (keep, tokens, share) in [(Keep::Top, 8, 0.6), (Keep::Sampled, 12, 0.7)] {
        let kept = CacheRecipe { keep, tokens };
        let distill =
            DistillRecipe { routers: none, hidden: none, cache: Some(kept.clone()), ..DistillRecipe::default() };
        distill.check(&recipe).expect("a sound recipe");
        let folder = Folder::new(&format!("distill-from-cache-{tokens}"));
        std::fs::create_dir_all(&folder.0).expect("a folder");
        let path = folder.0.join("cache.safetensors");
        let sequence_length = recipe.sequence_length;
        let key = CacheKey { sequence_length, truncates: true, temperature: 1.0, ..key(&data, &kept) };
        assert!(cache::write(&path, &teacher, &key, &NEVER, &mut |_| ()).expect("written"));
        let mut cached = Cached::open(&path, &key).expect("it opens");
        let mut student = pruned.clone();
        let mut objective = Distillation::new(Students {
            recipe: distill,
            teacher: &mut cached,
            projection: None,
            student: &student.config,
            stop: Vec::new(),
            seed: recipe.seed,
        });
        let run = Run {
            title: "cached",
            recipe: &recipe,
            samples: &data,
            validation: &[],
            directory: &folder.0,
            result_bytes: &[],
            cancelled: &NEVER,
        };
        train::train(&run, &mut student, &mut objective, &mut Silent).expect("a run");
        let steps = steps(&folder.0);
        let (first, last) = (mean(&steps[..3], "output"), mean(&steps[27..], "output"));
        assert!(last < share * first, "{keep:?}: from {first} to {last}");
    }
}
