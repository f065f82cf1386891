//! How P begins, is fitted, and learns beside a student.

use super::fit::{Layer, spread};
use super::*;
use crate::objective::distill::{Teacher, teacher::Resident};
use models::{Asked, Config, FeedForward, Layers, Lineage, Questions, teach};
use prepare::Batch;

fn teacher() -> Model {
    let text = include_str!("../../../../../../fixtures/oracle/qwen3_moe/config.json");
    Model::random(Config::from_json(text).expect("the oracle's config reads"), 3)
}

/// The teacher without some experts, in another order.
fn without(teacher: &Model, keep: &[usize]) -> (Model, Lineage) {
    let mut student = teacher.clone();
    for layer in &mut student.weights.layers {
        let FeedForward::Moe(moe) = &mut layer.feed_forward else { continue };
        let all = moe.routed.experts.clone();
        moe.routed.experts = keep.iter().map(|&expert| all[expert].clone()).collect();
    }
    let counts = teacher.config.expert_counts();
    student.config.set_expert_counts(&vec![keep.len(); counts.len()]);
    let place = |expert| keep.iter().position(|&kept| kept == expert);
    (student, Lineage { layers: counts.iter().map(|&count| (0..count).map(place).collect()).collect() })
}

fn batch(teacher: &Model) -> Batch {
    let tokens: Vec<u32> = (0..90).map(|i| (i * 7 % teacher.config.vocab_size) as u32).collect();
    Batch { targets: tokens.clone(), weights: vec![1.0; 90], tokens, lengths: vec![50, 40], ..Batch::default() }
}

/// Every `stride`-th row.
fn rows(stride: usize) -> Vec<usize> {
    (0..90).step_by(stride).collect()
}

fn routed(teacher: &Model, rows: &[usize]) -> Vec<Routed> {
    let batch = batch(teacher);
    let questions = Questions { routers: true, inputs: rows.to_vec(), ..Questions::default() };
    let asked = Asked { tokens: &batch.tokens, lengths: &batch.lengths, questions: &questions };
    let mut taught = teach(Layers::Resident(teacher), &[asked], 64, &mut |_, _, _| ()).expect("it is in memory");
    taught.remove(0).routers
}

fn mixed(teacher: &Model, rows: &[usize]) -> Vec<Mixed> {
    let questions = Questions { inputs: rows.to_vec(), ..Questions::default() };
    let mut resident = Resident { model: teacher, chunk_tokens: 64 };
    let lesson = resident.teach(&[(&batch(teacher), &questions)]).expect("it is in memory").remove(0);
    assert!(lesson.output.is_none() && lesson.routers.is_empty() && lesson.streams.is_empty());
    lesson.mixed
}

fn fit((teacher, student): (&Model, &Model), lineage: &Lineage, recipe: ProjectionRecipe) -> Projection {
    let rows = rows(2);
    let layers = routed(teacher, &rows).into_iter().zip(&lineage.layers);
    let fitted = layers.map(|(routed, lineage)| {
        let both = [moe(teacher, routed.layer), moe(student, routed.layer)];
        Fitted::of(both, lineage, &routed, &rows, &recipe)
    });
    let recipe = DistillRecipe { projection: recipe.clone(), ..DistillRecipe::default() };
    Projection::new(fitted.collect(), &recipe, &TrainRecipe::default())
}

/// The largest difference between two layers' P.
fn far(a: &Projection, b: &Projection, layer: usize) -> f32 {
    let (a, b) = (a.matrix(layer), b.matrix(layer));
    let pairs = a.into_iter().flatten().zip(b.into_iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_permutation_is_taken_as_it_is() {
    let teacher = teacher();
    let experts = teacher.config.expert_counts()[0];
    let order: Vec<usize> = (0..experts).rev().collect();
    let (student, lineage) = without(&teacher, &order);
    let mut projection = fit((&teacher, &student), &lineage, ProjectionRecipe::default());
    for routed in routed(&teacher, &[]) {
        let targets = projection.targets(routed.layer, &routed.probabilities);
        for row in 0..targets.rows {
            let turned: Vec<f32> = routed.probabilities.row(row).iter().rev().copied().collect();
            assert!(targets.row(row).iter().zip(&turned).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }
    assert!(projection.missed.is_empty() && !projection.learns());
    assert_eq!(projection.learn(&mixed(&teacher, &rows(9)), &student, 1.0), None);
}

#[test]
fn a_fit_misses_less_and_stays_near_what_is_known() {
    let teacher = teacher();
    let experts = teacher.config.expert_counts()[0];
    let keep: Vec<usize> = (0..experts).step_by(2).collect();
    let (student, lineage) = without(&teacher, &keep);
    let fit = |steps, anchor| {
        let recipe = ProjectionRecipe { steps, anchor, ..ProjectionRecipe::default() };
        fit((&teacher, &student), &lineage, recipe)
    };
    let (before, fitted, held) = (fit(0, 0.1), fit(150, 0.01), fit(150, 1e6));
    for (place, (routed, &[first, last])) in routed(&teacher, &[]).iter().zip(&fitted.missed).enumerate() {
        assert!(first == before.missed[place][1] && last < first, "layer {place}: {first} to {last}");
        let matrix = fitted.matrix(routed.layer).expect("it was fitted");
        for e in 0..experts {
            let column: Vec<f32> = (0..keep.len()).map(|s| matrix[s * experts + e]).collect();
            assert!((column.iter().sum::<f32>() - 1.0).abs() < 1e-5 && column.iter().all(|&share| share >= 0.0));
            assert!(lineage.layers[place][e].is_none_or(|kept| column[kept] > 0.9), "{column:?}");
        }
        let moved = far(&fitted, &before, routed.layer);
        assert!(far(&held, &before, routed.layer) < 0.1 * moved + 1e-3, "the anchor holds");
    }
}

#[test]
fn what_was_dropped_goes_half_to_what_it_is_like() {
    let column = spread(&[0.1, 0.9, 0.2, -0.5]);
    assert!((column[1] - 0.5).abs() < 1e-6 && column[2] > column[0] && column[0] > column[3], "{column:?}");
    assert!((column.iter().sum::<f64>() - 1.0).abs() < 1e-9);
}

/// Of what is missed, by each share.
#[test]
fn slopes_are_those_of_differences() {
    let teacher = teacher();
    let (student, lineage) = without(&teacher, &[0, 3]);
    let rows = rows(5);
    let routed = routed(&teacher, &rows).remove(0);
    let layer = Layer::look([moe(&teacher, routed.layer), moe(&student, routed.layer)], &routed, &rows);
    let mut columns = layer.begin(&lineage.layers[0]);
    let slopes = layer.slopes(&columns);
    for e in 0..columns.len() {
        for s in 0..2 {
            let value = columns[e][s];
            let mut at = |value| {
                columns[e][s] = value;
                layer.missed(&columns)
            };
            let slope = (at(value + 1e-3) - at(value - 1e-3)) / 2e-3;
            at(value);
            assert!((slopes[e][s] - slope).abs() < 1e-6 + 1e-4 * slope.abs(), "{} for {slope}", slopes[e][s]);
        }
    }
}

/// Of what is missed and of the anchor together, by each logit, with student experts that have moved since the fit.
#[test]
fn a_step_learns_by_the_slopes_of_differences() {
    let teacher = teacher();
    let (mut student, lineage) = without(&teacher, &[0, 3, 5]);
    let begun = fit((&teacher, &student), &lineage, ProjectionRecipe::default());
    for parameter in student.parameters_mut() {
        parameter.matrix.as_f32_mut().iter_mut().enumerate().for_each(|(i, value)| *value *= [1.2, 0.7, 1.0][i % 3]);
    }
    let mixed = mixed(&teacher, &rows(9));
    for (anchor, share) in [(0.0, 1.0), (0.5, 1.0), (20.0, 0.25)] {
        let mut projection = Projection { anchor, ..begun.clone() };
        // Away from the fit, where the anchor pulls.
        for (i, parameter) in projection.companion.parameters_mut().into_iter().enumerate() {
            let logits = parameter.matrix.as_f32_mut().iter_mut().enumerate();
            logits.for_each(|(j, logit)| *logit += ((7 * i + 3 * j) % 5) as f32 * 0.3);
        }
        let shares = projection.learn(&mixed, &student, share).expect("it learns");
        assert!(shares.missed > 0.0 && shares.drift > 0.01, "{shares:?}");
        let gradients = projection.companion.gradients.clone();
        let layers = projection.companion.parameters().len();
        for place in 0..layers {
            let parameter = projection.companion.parameters()[place].clone();
            let gradient = gradients.get(parameter.id).expect("it was taught").to_vec();
            for (index, &found) in gradient.iter().enumerate() {
                let mut at = |by: f32| {
                    projection.companion.parameters_mut()[place].matrix.as_f32_mut()[index] += by;
                    let shares = projection.learn(&mixed, &student, 0.0).expect("it learns");
                    shares.missed + anchor * shares.drift
                };
                // Both are means over layers, of which one has moved.
                let (above, below) = (at(2e-2), at(-4e-2));
                at(2e-2);
                let slope = share * layers as f64 * (above - below) / 4e-2;
                assert!((f64::from(found) - slope).abs() < 2e-5 + 5e-3 * slope.abs(), "{found} for {slope}, {anchor}");
            }
        }
    }
}

#[test]
fn a_projection_follows_experts_that_move_and_its_anchor_holds_it() {
    let teacher = teacher();
    let all_but_one: Vec<usize> = (0..teacher.config.expert_counts()[0] - 1).collect();
    let (student, lineage) = without(&teacher, &all_but_one);
    let rate = TrainRecipe::default().learning_rate;
    let begun = fit((&teacher, &student), &lineage, ProjectionRecipe { rate, ..ProjectionRecipe::default() });
    let mixed = mixed(&teacher, &rows(3));
    let unmoved = begun.clone().learn(&mixed, &student, 0.0).expect("it learns").missed;
    let mut moved = student;
    // Two of the experts change places: what the fit knows of them is wrong now.
    for layer in &mut moved.weights.layers {
        let FeedForward::Moe(moe) = &mut layer.feed_forward else { continue };
        moe.routed.experts.swap(0, 1);
    }
    let follow = |anchor: f64| {
        let mut projection = Projection { anchor, ..begun.clone() };
        let mut shares = Vec::new();
        for _ in 0..60 {
            projection.companion.clear();
            shares.push(projection.learn(&mixed, &moved, 1.0).expect("it learns"));
            projection.companion.update(0.2);
            projection.refresh();
        }
        (projection, shares)
    };
    let (free, shares) = follow(0.0);
    assert!(shares[0].drift.abs() < 1e-12, "it begins at the fit: {:?}", shares[0]);
    let lost = |step: usize| shares[step].missed - unmoved;
    assert!(lost(0) > 0.0 && lost(59) < 0.3 * lost(0), "{unmoved}, then {:?} to {:?}", shares[0], shares[59]);
    let (held, held_shares) = follow(100.0);
    assert!(held_shares[59].drift < 0.05 * shares[59].drift, "{:?} beside {:?}", held_shares[59], shares[59]);
    for layer in mixed.iter().map(|mixed| mixed.layer) {
        assert!(far(&free, &begun, layer) > 0.3, "{}", far(&free, &begun, layer));
        assert!(far(&held, &begun, layer) < 0.2, "{}", far(&held, &begun, layer));
    }
}

#[test]
fn another_process_gets_the_same_projection() {
    let teacher = teacher();
    let (student, lineage) = without(&teacher, &[1, 2, 5]);
    let recipe = DistillRecipe::default();
    let projection = fit((&teacher, &student), &lineage, recipe.projection.clone());
    let mut message = Message::default();
    projection.put(&mut message);
    let mut reading = Reading::new(message.bytes());
    let mut taken = Projection::take(&mut reading, &recipe, &TrainRecipe::default());
    reading.end();
    for (own, other) in projection.layers.iter().zip(&taken.layers) {
        assert_eq!((own.layer, own.learnt), (other.layer, other.learnt));
        assert_eq!(own.map.weight.values(), other.map.weight.values());
    }
    let mixed = mixed(&teacher, &rows(9));
    assert_eq!(taken.learn(&mixed, &student, 1.0), projection.clone().learn(&mixed, &student, 1.0));
}
