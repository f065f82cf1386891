//! What a teacher asks of a training pass, against finite differences and against the pass in other chunks.

use models::{
    Asked, CHUNK_TOKENS, Examples, FeedForward, GradientOptions, Guidance, LayerStream, Layers, Loading, Model,
    OutputGuide, Quantization, Questions, Record, RouterGuide, StreamGuide, Taught, guided_gradients, teach,
};
use numeric::{Format, Rng};
use ops::{Buffer, Divergence, Gradients, Precision, Says, Teacher};
use std::path::PathBuf;

const CASES: [&str; 3] = ["qwen3", "qwen3_moe", "qwen3_next"];
const LENGTHS: [usize; 3] = [9, 31, 5];

fn open(case: &str) -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case);
    Model::open(&path, Loading::F32).expect("the oracle's model opens")
}

/// The model with every number moved a little.
fn moved(model: &Model) -> Model {
    let mut moved = model.clone();
    let mut rng = Rng::new(11);
    for parameter in moved.parameters_mut() {
        parameter.matrix.as_f32_mut().iter_mut().for_each(|value| *value *= 1.0 + 0.2 * rng.normal() as f32);
    }
    moved
}

struct Batch {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    output_weights: Vec<f32>,
    rows: Vec<usize>,
}

impl Batch {
    fn new(vocabulary: usize) -> Self {
        let total: usize = LENGTHS.iter().sum();
        let token = |i: usize| ((i * 7919 + i * i) % vocabulary) as u32;
        Self {
            tokens: (0..total).map(token).collect(),
            targets: (0..total).map(|i| token(i + 1)).collect(),
            weights: (0..total).map(|i| [1.0, 0.0, 0.5][i % 3] / total as f32).collect(),
            output_weights: (0..total).map(|i| [0.0, 1.5, 0.5, 1.0][i % 4] / total as f32).collect(),
            rows: (0..total).step_by(3).collect(),
        }
    }

    fn examples(&self) -> Examples<'_> {
        Examples { tokens: &self.tokens, lengths: &LENGTHS, targets: &self.targets, weights: &self.weights }
    }
}

fn options(chunk_tokens: usize, checkpoint_layers: bool) -> GradientOptions {
    let precision = Precision::F32;
    GradientOptions { precision, chunk_tokens, checkpoint_layers, auxiliary_coefficient: 0.0, dropout_seed: None }
}

/// Which of the objectives a pass has.
#[derive(Debug, Clone, Copy)]
struct Terms {
    cross_entropy: f32,
    output: Option<Divergence>,
    routers: f32,
    squares: f32,
    gram: f32,
}

const NONE: Terms = Terms { cross_entropy: 0.0, output: None, routers: 0.0, squares: 0.0, gram: 0.0 };

fn run(
    (student, teacher): (&Model, &Model),
    taught: &Taught,
    batch: &Batch,
    terms: Terms,
    options: &GradientOptions,
) -> (Record, Gradients) {
    let hidden = taught.hidden.as_ref().expect("it was asked for");
    let says = |divergence| Says::Hidden { hidden, head: teacher.weights.head(), divergence };
    let output = terms.output.map(|divergence| OutputGuide {
        teacher: Teacher { says: says(divergence), temperature: 1.5 },
        weights: &batch.output_weights,
    });
    let routers = taught.routers.iter().filter(|_| terms.routers > 0.0).map(|routed| RouterGuide {
        layer: routed.layer,
        probabilities: &routed.probabilities,
        weight: terms.routers,
    });
    let streams = taught.streams.iter().filter(|_| terms.squares + terms.gram > 0.0).map(|(layer, stream)| {
        StreamGuide { layer: *layer, teacher: stream, squares: terms.squares, gram: terms.gram, rows: &batch.rows }
    });
    let (routers, streams) = (routers.collect(), streams.collect());
    let guidance = Guidance { cross_entropy: terms.cross_entropy, output, routers, streams };
    let mut gradients = Gradients::default();
    let record = guided_gradients(student, &batch.examples(), &guidance, options, &mut gradients);
    (record, gradients)
}

/// What the gradients are of.
fn objective(record: &Record, batch: &Batch, terms: Terms, taught: &Taught) -> f64 {
    let weighted = |losses: &[f32], weights: &[f32]| -> f64 {
        losses.iter().zip(weights).map(|(&loss, &weight)| f64::from(loss) * f64::from(weight)).sum()
    };
    let guided = &record.guided;
    let layers = (taught.routers.len() * batch.tokens.len()) as f64;
    f64::from(terms.cross_entropy) * weighted(&record.losses, &batch.weights)
        + weighted(&guided.output, &batch.output_weights)
        + f64::from(terms.routers) * layers * guided.routers.unwrap_or(0.0)
        + f64::from(terms.squares) * taught.streams.len() as f64 * guided.squares.unwrap_or(0.0)
        + f64::from(terms.gram) * taught.streams.len() as f64 * guided.gram.unwrap_or(0.0)
}

fn taught(teacher: &Model, batch: &Batch, chunk_tokens: usize) -> Taught {
    let layers = vec![0, teacher.config.layers.len() - 1];
    let questions = Questions { output: true, routers: true, inputs: (0..batch.tokens.len()).collect(), layers };
    let asked = Asked { tokens: &batch.tokens, lengths: &LENGTHS, questions: &questions };
    ask(Layers::Resident(teacher), &[asked], chunk_tokens).remove(0)
}

fn ask(layers: Layers, asked: &[Asked], chunk_tokens: usize) -> Vec<Taught> {
    teach(layers, asked, chunk_tokens, &mut |_, _, _| ()).expect("the layers are there")
}

/// The model with every expert chosen by every token: where a token changes its experts there is no slope.
fn all_chosen(mut model: Model) -> Model {
    for layer in &mut model.weights.layers {
        if let FeedForward::Moe(moe) = &mut layer.feed_forward {
            moe.routed.top_k = moe.routed.experts.len();
        }
    }
    model
}

/// A small step of all parameters, by chance and along their gradients.
fn step(student: &Model, gradients: &Gradients) -> Vec<Vec<f32>> {
    let mut rng = Rng::new(3);
    let most = |values: &[f32]| values.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let of = |parameter: &&ops::Parameter| -> Vec<f32> {
        let zeros = vec![0.0; parameter.values().len()];
        let gradient = gradients.get(parameter.id).unwrap_or(&zeros);
        let (size, slope) = (3e-5 * most(parameter.values()), most(gradient).max(f32::MIN_POSITIVE));
        gradient.iter().map(|g| size * (0.5 * rng.normal() as f32 + g / slope)).collect()
    };
    student.parameters().iter().map(of).collect()
}

/// The student some steps away.
fn stepped(student: &Model, step: &[Vec<f32>], factor: f32) -> Model {
    let mut moved = student.clone();
    for (parameter, step) in moved.parameters_mut().into_iter().zip(step) {
        let values = parameter.matrix.as_f32_mut().iter_mut().zip(step);
        values.for_each(|(value, step)| *value += factor * step);
    }
    moved
}

#[test]
fn every_term_is_differentiated_rightly() {
    for case in CASES {
        let teacher = open(case);
        let student = all_chosen(moved(&teacher));
        let batch = Batch::new(student.config.vocab_size);
        let taught = taught(&teacher, &batch, CHUNK_TOKENS);
        let output = Some(Divergence::Mixed(0.4));
        let all = Terms { cross_entropy: 0.3, output, routers: 0.01, squares: 0.5, gram: 2.0 };
        for terms in [
            Terms { output: Some(Divergence::Forward), ..NONE },
            Terms { output: Some(Divergence::Reverse), ..NONE },
            Terms { routers: 0.01, ..NONE },
            Terms { squares: 0.5, ..NONE },
            Terms { gram: 2.0, ..NONE },
            all,
        ] {
            let run = |student: &Model| run((student, &teacher), &taught, &batch, terms, &options(CHUNK_TOKENS, false));
            let (_, gradients) = run(&student);
            if taught.routers.is_empty() && terms.routers > 0.0 && terms.output.is_none() {
                let flat = gradients.iter().flat_map(|(_, gradient)| gradient).all(|&value| value == 0.0);
                assert!(flat, "{case}: no routers, nothing to learn");
                continue;
            }
            let step = step(&student, &gradients);
            let [(ahead, _), (behind, _)] = [1.0, -1.0].map(|factor| run(&stepped(&student, &step, factor)));
            let [ahead, behind] = [ahead, behind].map(|record| objective(&record, &batch, terms, &taught));
            let zeros = |parameter: &ops::Parameter| vec![0.0; parameter.values().len()];
            let parameters = student.parameters();
            let along = parameters.iter().zip(&step).map(|(parameter, step)| {
                let gradient = gradients.get(parameter.id).map_or_else(|| zeros(parameter), <[f32]>::to_vec);
                gradient.iter().zip(step).map(|(g, v)| f64::from(*g) * f64::from(*v)).sum::<f64>()
            });
            let (along, slope) = (along.sum::<f64>(), (ahead - behind) / 2.0);
            assert!((along - slope).abs() < 0.04 * slope.abs() + 5e-7, "{case} {terms:?}: {along} for {slope}");
            assert!(slope > 1e-6, "{case} {terms:?}: a step of {slope} tells nothing");
        }
    }
}

fn worst(found: &Gradients, wanted: &Gradients) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let pairs = found.iter().zip(wanted.iter());
    let off = pairs.map(|((_, a), (_, b))| {
        norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-6)
    });
    off.fold(0.0, |worst, off| if off.is_nan() { off } else { f64::max(worst, off) })
}

#[test]
fn any_chunks_teach_the_same() {
    let terms = Terms { cross_entropy: 1.0, output: Some(Divergence::Forward), routers: 0.01, squares: 0.5, gram: 2.0 };
    for case in CASES {
        let teacher = open(case);
        let student = moved(&teacher);
        let batch = Batch::new(student.config.vocab_size);
        let whole = taught(&teacher, &batch, CHUNK_TOKENS);
        let (record, gradients) = run((&student, &teacher), &whole, &batch, terms, &options(CHUNK_TOKENS, false));
        for (chunk_tokens, again) in [(CHUNK_TOKENS, true), (4, true), (16, false), (16, true)] {
            let pieces = taught(&teacher, &batch, chunk_tokens);
            let far = |a: &Buffer, b: &Buffer| a.iter().zip(b.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let [of_pieces, of_whole] = [&pieces, &whole].map(|taught| taught.hidden.as_ref().expect("asked for"));
            assert!(far(of_pieces, of_whole) < 1e-3, "{case} by {chunk_tokens}: the teacher's last states");
            for (a, b) in pieces.routers.iter().zip(&whole.routers) {
                assert!(a.layer == b.layer && far(&a.probabilities, &b.probabilities) < 1e-3);
                assert!(a.inputs.rows == batch.tokens.len() && far(&a.inputs, &b.inputs) < 1e-3);
            }
            let options = options(chunk_tokens, again);
            let (found, found_gradients) = run((&student, &teacher), &pieces, &batch, terms, &options);
            let (found, wanted) =
                (objective(&found, &batch, terms, &pieces), objective(&record, &batch, terms, &whole));
            assert!((found - wanted).abs() < 1e-3 * wanted, "{case} by {chunk_tokens}: {found} for {wanted}");
            let off = worst(&found_gradients, &gradients);
            assert!(off < 2e-3, "{case} by {chunk_tokens}, again {again}: a gradient is off by {off}");
        }
    }
}

#[test]
fn a_teacher_asks_nothing_of_itself_and_no_guidance_is_the_plain_pass() {
    for case in CASES {
        let model = open(case);
        let batch = Batch::new(model.config.vocab_size);
        let taught = taught(&model, &batch, CHUNK_TOKENS);
        for divergence in [Divergence::Forward, Divergence::Reverse, Divergence::Mixed(0.5)] {
            let terms = Terms { output: Some(divergence), routers: 0.1, squares: 1.0, gram: 1.0, ..NONE };
            let (record, gradients) = run((&model, &model), &taught, &batch, terms, &options(CHUNK_TOKENS, false));
            let guided = &record.guided;
            assert!(guided.output.iter().all(|loss| loss.abs() < 1e-5), "{case} {divergence:?}");
            assert!(guided.routers.is_none_or(|far| far.abs() < 1e-6), "{case}: {:?}", guided.routers);
            // Who remembers and who forgets may round otherwise.
            assert!(guided.squares.is_some_and(|far| far < 1e-9), "{case}: {:?}", guided.squares);
            assert!(gradients.iter().flat_map(|(_, gradient)| gradient).all(|value| value.abs() < 1e-5), "{case}");
            assert!(record.losses.iter().any(|&loss| loss > 0.0), "the data's own loss is still measured");
        }
        let (found, gradients) = {
            let mut gradients = Gradients::default();
            let options = options(CHUNK_TOKENS, true);
            let record = guided_gradients(&model, &batch.examples(), &Guidance::NONE, &options, &mut gradients);
            (record, gradients)
        };
        let mut plain = Gradients::default();
        let options = options(CHUNK_TOKENS, true);
        let record = models::loss_and_gradients(&model, &batch.examples(), &options, &mut plain);
        assert!(record.losses == found.losses && found.guided.output.is_empty());
        assert!(gradients.iter().zip(plain.iter()).all(|(a, b)| a == b));
    }
}

/// Packed experts are added where they belong, and their routers are seen all the same.
#[test]
fn a_teacher_in_blocks_says_nearly_what_it_was_rounded_from() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/base");
    let exact = Model::open(&path, Loading::F32).expect("the base model opens");
    let tokens: Vec<u32> = (0..80).map(|i| (i * i * 31 % 2000) as u32).collect();
    let questions = Questions { output: true, routers: true, inputs: Vec::new(), layers: vec![3] };
    let asked = [Asked { tokens: &tokens, lengths: &[50, 30], questions: &questions }];
    let wanted = ask(Layers::Resident(&exact), &asked, 64).remove(0);
    for loading in [Loading::Packed, Loading::Stored, Loading::Quantized(Quantization::to(Format::Q8_0))] {
        let teacher = Model::open(&path, loading).expect("the base model opens");
        let found = ask(Layers::Resident(&teacher), &asked, 64).remove(0);
        assert_eq!(found.routers.len(), 8);
        for (found, wanted) in found.routers.iter().zip(&wanted.routers) {
            assert!(found.layer == wanted.layer && found.inputs.rows == 0);
            let pairs = found.probabilities.iter().zip(wanted.probabilities.iter());
            let off = pairs.map(|(a, b)| f64::from(a - b).abs()).sum::<f64>() / tokens.len() as f64;
            assert!(off < 0.1, "{loading:?}, layer {}: {off} of a distribution is elsewhere", found.layer);
        }
        let far = |a: &[f32], b: &[f32]| {
            let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>();
            (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
        };
        let [of_found, of_wanted] = [&found, &wanted].map(|taught| taught.hidden.as_ref().expect("asked for"));
        let (hidden, stream) = (far(of_found, of_wanted), far(&found.streams[0].1, &wanted.streams[0].1));
        assert!(found.streams[0].0 == 3 && hidden < 0.1 && stream < 0.1, "{loading:?}: {hidden}, {stream}");
    }
}

#[test]
fn a_teacher_is_run_no_further_than_it_is_asked() {
    let teacher = open("qwen3_next");
    let (tokens, last) = ((0..40).collect::<Vec<u32>>(), teacher.config.layers.len() - 1);
    let answers = |questions: Questions| {
        let asked = Asked { tokens: &tokens, lengths: &[25, 15], questions: &questions };
        let mut visited = Vec::new();
        let mut visit = |_, moe: &ops::Moe, _: &models::Routed| visited.push(moe.layer);
        let taught = teach(Layers::Resident(&teacher), &[asked], 16, &mut visit).expect("it is in memory").remove(0);
        (taught, visited)
    };
    let all = answers(Questions { output: true, routers: true, inputs: vec![3, 20], layers: vec![0, 1, last] });
    assert_eq!((all.0.hidden.map(|hidden| hidden.rows), all.0.routers.len()), (Some(40), last + 1));
    assert_eq!(all.1, (0..=last).collect::<Vec<_>>());
    let (nothing, visited) = answers(Questions::default());
    assert!(nothing.hidden.is_none() && nothing.routers.is_empty() && nothing.streams.is_empty());
    assert!(visited.is_empty() && Questions::default().ask_nothing());
    // What is above is never looked at: numbers that are none would show.
    let mut broken = teacher.clone();
    for layer in &mut broken.weights.layers[2..] {
        layer.input_norm.weight.matrix.as_f32_mut().fill(f32::NAN);
    }
    broken.weights.final_norm.weight.matrix.as_f32_mut().fill(f32::NAN);
    let questions = Questions { layers: vec![1], ..Questions::default() };
    let asked = [Asked { tokens: &tokens, lengths: &[25, 15], questions: &questions }];
    let below = ask(Layers::Resident(&broken), &asked, 16).remove(0);
    assert!(below.hidden.is_none() && below.streams.len() == 1 && below.streams[0].1[..] == all.0.streams[1].1[..]);
}

/// To the bit, in any format, for several batches at a time with questions of their own.
#[test]
fn a_teacher_read_from_disk_says_what_one_in_memory_says() {
    let oracle = |case: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle").join(case);
    let base = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/base");
    let rounded = Loading::Quantized(Quantization::to(Format::Nvfp4));
    for (path, loading) in [
        (oracle("qwen3_next"), Loading::Packed),
        (oracle("qwen3"), Loading::Packed),
        (oracle("qwen3_moe"), rounded),
        (oracle("gguf/qwen3_moe.q8_0.gguf"), Loading::Packed),
        (oracle("gguf/qwen3_next.f32.gguf"), Loading::F32),
        (oracle("gguf/qwen3_next.q8_0.gguf"), Loading::Packed),
        (base, Loading::Packed),
    ] {
        let model = Model::open(&path, loading).expect("it opens");
        let stream = LayerStream::open(&path, loading).expect("it opens");
        let tokens: Vec<u32> = (0..70).map(|i| (i * i * 31 % 90) as u32).collect();
        let all = Questions { output: true, routers: true, inputs: vec![1, 30, 40], layers: vec![0, 1] };
        let some = Questions { layers: vec![1], ..Questions::default() };
        let asked =
            [(&tokens[..], vec![40, 30], &all), (&tokens[5..30], vec![25], &some), (&tokens[..9], vec![9], &all)];
        let asked: Vec<Asked> =
            asked.iter().map(|(tokens, lengths, questions)| Asked { tokens, lengths, questions }).collect();
        let found = ask(Layers::Streamed(&stream), &asked, 32);
        for (found, asked) in found.iter().zip(asked) {
            let wanted = ask(Layers::Resident(&model), &[asked], 32).remove(0);
            assert_eq!(found.hidden.as_deref(), wanted.hidden.as_deref(), "{path:?}");
            assert!(found.streams.iter().zip(&wanted.streams).all(|(a, b)| a.0 == b.0 && a.1[..] == b.1[..]));
            assert_eq!((found.streams.len(), found.routers.len()), (wanted.streams.len(), wanted.routers.len()));
            for (a, b) in found.routers.iter().zip(&wanted.routers) {
                assert!(
                    a.layer == b.layer && a.probabilities[..] == b.probabilities[..] && a.inputs[..] == b.inputs[..]
                );
            }
        }
        let (found, wanted) = (Layers::Streamed(&stream).head(), Layers::Resident(&model).head());
        let (found, wanted) = (found.expect("a head"), wanted.expect("a head"));
        let hidden = found_hidden(&model, &tokens);
        let mut e = ops::Infer::new(Precision::F32);
        let [a, b] = [&found, &wanted].map(|head| ops::Execute::linear(&mut e, &hidden, head));
        assert!(a[..] == b[..], "{path:?}");
    }
}

fn found_hidden(model: &Model, tokens: &[u32]) -> Buffer {
    let questions = Questions { output: true, ..Questions::default() };
    let asked = Asked { tokens, lengths: &[tokens.len()], questions: &questions };
    ask(Layers::Resident(model), &[asked], 32).remove(0).hidden.expect("asked for")
}
