//! What teachers are asked, and how: no more than counts, from memory or from disk, or from what was kept of them on
//! disk, which knows what it is of.

#[path = "tiny/pair.rs"]
mod pair;
mod tiny;

use models::{LayerStream, Layers, Loading, Model, Quantization, Questions};
use numeric::Format;
use ops::Linear;
use pair::{NEVER, all_terms, bits, learn_from, mean, pair, steps};
use prepare::Batch;
use std::sync::atomic::AtomicBool;
use tiny::{Folder, recipe, samples};
use train::event::{Progress, Silent, Step};
use train::objective::distill::{
    CacheKey, CacheRecipe, Cached, Keep, Lesson, ProjectionRecipe, Resident, SelfCorrection, Streamed, Students,
    Teacher, Weight, cache,
};
use train::{DistillRecipe, Distillation, Run, TrainError, TrainRecipe};

/// Notes what it is asked, and how often.
struct Asking<'t> {
    teacher: &'t mut dyn Teacher,
    at_a_time: usize,
    /// Of each call, of each micro-batch.
    asked: Vec<Vec<Questions>>,
}

impl Teacher for Asking<'_> {
    fn teach(&mut self, asked: &[(&Batch, &Questions)]) -> Result<Vec<Lesson>, TrainError> {
        self.asked.push(asked.iter().map(|(_, questions)| (*questions).clone()).collect());
        self.teacher.teach(asked)
    }

    fn head(&self) -> Option<&Linear> {
        self.teacher.head()
    }

    fn at_a_time(&self) -> usize {
        self.at_a_time
    }
}

#[test]
fn a_term_that_counts_nothing_asks_nothing() {
    let (teacher, pruned, lineage) = pair();
    let recipe = TrainRecipe { packing: prepare::Packing::NextFit, ..recipe(5) };
    let (none, one) = (Weight::constant(0.0), Weight::constant(1.0));
    let off = DistillRecipe { output: none, routers: none, hidden: none, gram: none, ..DistillRecipe::default() };
    let until_half = Weight { start: 1.0, end: 0.0, after: 0.0, over: 0.5 };
    let correction = SelfCorrection { max_tokens: 4, weight: until_half, ..SelfCorrection::default() };
    let still = ProjectionRecipe { rate: 0.0, ..ProjectionRecipe::default() };
    // Output, routers, rows of mixtures, compared layers: of the first step and of the last.
    type Asked = [Option<[bool; 4]>; 2];
    let cases: [(&str, DistillRecipe, Asked); 8] = [
        ("output", DistillRecipe { output: one, ..off.clone() }, [Some([true, false, false, false]); 2]),
        ("routers", DistillRecipe { routers: one, ..off.clone() }, [Some([false, true, true, false]); 2]),
        (
            "routers-fixed",
            DistillRecipe { routers: one, projection: still, ..off.clone() },
            [Some([false, true, false, false]); 2],
        ),
        ("hidden", DistillRecipe { hidden: one, ..off.clone() }, [Some([false, false, false, true]); 2]),
        ("gram", DistillRecipe { gram: one, ..off.clone() }, [Some([false, false, false, true]); 2]),
        ("output-ends", DistillRecipe { output: until_half, ..off.clone() }, [Some([true, false, false, false]), None]),
        (
            "hidden-ends",
            DistillRecipe { output: one, hidden: until_half, ..off.clone() },
            [Some([true, false, false, true]), Some([true, false, false, false])],
        ),
        ("own", DistillRecipe { self_correction: Some(correction), ..off }, [Some([true, false, false, false]), None]),
    ];
    for (name, distill, wanted) in cases {
        let folder = Folder::new(&format!("distill-asks-{name}"));
        let mut resident = Resident { model: &teacher, chunk_tokens: 64 };
        let mut asking = Asking { teacher: &mut resident, at_a_time: 1, asked: Vec::new() };
        let layers = Layers::Resident(&teacher);
        let mut student = pruned.clone();
        let watched: (&mut dyn Progress, &AtomicBool) = (&mut Silent, &NEVER);
        learn_from(&mut asking, (layers, &mut student, &lineage), &recipe, &distill, &folder.0, watched).expect(name);
        let of = |questions: &Questions| {
            [questions.output, questions.routers, !questions.inputs.is_empty(), !questions.layers.is_empty()]
        };
        let calls: Vec<[bool; 4]> = asking.asked.iter().flatten().map(of).collect();
        let ends = wanted[1].is_none();
        // Two micro-batches in each of five steps; of those that the student writes one.
        let count = if name == "own" {
            2
        } else if ends {
            4
        } else {
            10
        };
        assert_eq!(calls.len(), count, "{name}: {calls:?}");
        assert_eq!(Some(calls[0]), wanted[0], "{name}");
        assert!(ends || Some(calls[9]) == wanted[1], "{name}: {calls:?}");
        let terms = &steps(&folder.0)[4].terms;
        assert!(!ends || terms.keys().all(|term| term == "cross_entropy"), "{name}: {terms:?}");
    }
}

/// A folder with the teacher's weights, to be read layer by layer.
fn stored(teacher: &Model, name: &str) -> Folder {
    let folder = Folder::new(name);
    std::fs::create_dir_all(&folder.0).expect("a folder");
    teacher.save(&folder.0, Format::F32).expect("it is written");
    folder
}

#[test]
fn a_teacher_on_disk_teaches_what_one_in_memory_teaches_and_is_read_once_a_step() {
    let (teacher, pruned, lineage) = pair();
    let stored = stored(&teacher, "distill-stored");
    let recipe = TrainRecipe { accumulation: 3, batch_tokens: 384, ..recipe(4) };
    // Packed in blocks too, where what a product gives depends on how it is laid out.
    for loading in [Loading::Packed, Loading::Quantized(Quantization::to(Format::Q8_0))] {
        let resident = Model::open(&stored.0, loading).expect("it opens");
        let stream = LayerStream::open(&stored.0, loading).expect("it opens");
        let mut found = Vec::new();
        let mut in_memory = Resident { model: &resident, chunk_tokens: 64 };
        let mut on_disk = Streamed::new(&stream, 64).expect("it has a head");
        let both: [(&mut dyn Teacher, Layers); 2] =
            [(&mut in_memory, Layers::Resident(&resident)), (&mut on_disk, Layers::Streamed(&stream))];
        for (teacher, layers) in both {
            let folder = Folder::new(&format!("distill-streamed-{}", found.len()));
            let at_a_time = teacher.at_a_time();
            let mut asking = Asking { teacher, at_a_time, asked: Vec::new() };
            let mut student = pruned.clone();
            let watched: (&mut dyn Progress, &AtomicBool) = (&mut Silent, &NEVER);
            let pair = (layers, &mut student, &lineage);
            learn_from(&mut asking, pair, &recipe, &all_terms(), &folder.0, watched).expect("a run");
            let sizes: Vec<usize> = asking.asked.iter().map(Vec::len).collect();
            found.push((bits(&student), steps(&folder.0), sizes));
        }
        let terms = |steps: &[Step]| steps.iter().map(|step| step.terms.clone()).collect::<Vec<_>>();
        assert_eq!(terms(&found[0].1), terms(&found[1].1));
        assert!(found[0].0 == found[1].0, "{loading:?}: the same student");
        assert_eq!((found[0].2.len(), &found[1].2[..]), (12, &[3, 3, 3, 3][..]), "once a step, with all of it");
    }
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

/// What is kept of sequences of a batch, of pieces too, against the teacher itself.
fn compare(cached: &mut Cached, teacher: &Model, data: &[prepare::Sample]) {
    let pieces = [(7, 0, data[7].tokens.len().min(24)), (3, 0, 5), (41, 0, data[41].tokens.len().min(24))];
    let pieces = pieces.map(|(sample, start, length)| prepare::Piece { sample, start, length });
    let batch = prepare::Batch::of_pieces(data, pieces);
    let questions = Questions { output: true, ..Questions::default() };
    let lesson = cached.teach(&[(&batch, &questions)]).expect("it is mapped").remove(0);
    let Some(train::objective::distill::Output::Parts(parts)) = &lesson.output else { panic!("parts") };
    let asked = models::Asked { tokens: &batch.tokens, lengths: &batch.lengths, questions: &questions };
    let taught =
        models::teach(Layers::Resident(teacher), &[asked], 64, &mut |_, _, _| ()).expect("it is in memory").remove(0);
    let hidden = taught.hidden.expect("it was asked for");
    let rows: Vec<usize> = (0..batch.tokens.len()).collect();
    let mut infer = ops::Infer::new(ops::Precision::F32);
    let logits = models::logits(&mut infer, teacher, &hidden, &rows);
    for row in rows {
        let total: f64 = logits.row(row).iter().map(|z| f64::from(z / 1.5).exp()).sum();
        for place in row * 64..(row + 1) * 64 {
            let wanted = f64::from(logits.row(row)[parts.tokens[place] as usize] / 1.5).exp() / total;
            assert!((f64::from(parts.shares[place]) - wanted).abs() < 2e-3, "{} for {wanted}", parts.shares[place]);
        }
        assert_eq!(parts.rest[row], 0.0, "all tokens are kept");
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
    let resident = Layers::Resident(&teacher);
    assert!(cache::write(&path, resident, &key(&data, &all), &NEVER, &mut |tokens| seen += tokens).expect("written"));
    assert_eq!(seen, data.iter().map(|sample| sample.tokens.len()).sum::<usize>());
    let mut cached = Cached::open(&path, &key(&data, &all)).expect("it opens");
    compare(&mut cached, &teacher, &data);
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
    assert!(!cache::write(&path, resident, &key(&data, &all), &cancelled, &mut |_| ()).expect("it stops"));
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
        assert!(cache::write(&path, Layers::Resident(&teacher), &key, &NEVER, &mut |_| ()).expect("written"));
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

#[test]
fn a_teacher_on_disk_leaves_the_cache_that_one_in_memory_leaves() {
    let (teacher, _, _) = pair();
    let data = samples(60, 1);
    let folder = stored(&teacher, "distill-cache-stored");
    let stream = LayerStream::open(&folder.0, Loading::F32).expect("it opens");
    for (keep, tokens) in [(Keep::Top, 9), (Keep::Sampled, 12)] {
        let kept = CacheRecipe { keep, tokens };
        let written = [Layers::Resident(&teacher), Layers::Streamed(&stream)].map(|layers| {
            let path = folder.0.join("cache");
            assert!(cache::write(&path, layers, &key(&data, &kept), &NEVER, &mut |_| ()).expect("written"));
            std::fs::read(&path).expect("it reads")
        });
        assert!(written[0] == written[1], "{keep:?}");
    }
}
