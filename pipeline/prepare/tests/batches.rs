//! Batches: the shift, no leak between sequences, TRL's labels, and exact continuation from a cursor.

use numeric::Rng;
use prepare::batch::{Batch, Cursor, Loader, LoaderSettings, Sample};
use prepare::pack::Piece;
use prepare::{Kind, Packing};
use serde_json::Value;
use std::collections::BTreeMap;

fn sample(first: u32, length: usize) -> Sample {
    Sample::new((first..first + length as u32).collect(), vec![1.0; length], Kind::Solve)
}

fn whole(samples: &[Sample]) -> Vec<Piece> {
    (0..samples.len()).map(|s| Piece { sample: s, start: 0, length: samples[s].tokens.len() }).collect()
}

#[test]
fn targets_shift_inside_each_sequence_and_never_across() {
    let samples = [sample(10, 3), sample(20, 1), sample(30, 2)];
    let batch = Batch::of_pieces(&samples, whole(&samples));
    assert_eq!(batch.tokens, [10, 11, 12, 20, 30, 31]);
    assert_eq!(batch.lengths, [3, 1, 2]);
    assert_eq!(batch.targets, [11, 12, 12, 20, 31, 31]);
    assert_eq!(batch.weights, [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(batch.total_weight(), 3.0);
    assert_eq!(batch.token_kinds().count(), 6);
}

#[test]
fn the_weight_belongs_to_the_predicted_token() {
    let sample = Sample::new(vec![1, 2, 3, 4], vec![9.0, 0.0, 0.5, 1.0], Kind::Chat);
    let batch = Batch::of_pieces(std::slice::from_ref(&sample), [Piece { sample: 0, start: 0, length: 4 }]);
    assert_eq!(batch.weights, [0.0, 0.5, 1.0, 0.0]);
    assert_eq!(sample.trained_tokens(), 2);
    assert_eq!(batch.trained_tokens(), 2);
}

/// TRL concatenates a batch to one row with `labels[t]` for `tokens[t]`; ours predicts the same from the same places.
#[test]
fn predictions_equal_those_of_trl_collation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/trl/packed.json");
    let packed: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("fixture")).expect("JSON");
    for tokenizer in ["full", "tiny"] {
        let numbers =
            |v: &Value| -> Vec<i64> { v.as_array().expect("array").iter().filter_map(Value::as_i64).collect() };
        let mut samples = Vec::new();
        for bin in packed[tokenizer]["bins"].as_array().expect("array") {
            let (ids, labels) = (numbers(&bin["input_ids"]), numbers(&bin["labels"]));
            let mut start = 0;
            for length in numbers(&bin["seq_lengths"]) {
                let range = start..start + length as usize;
                let tokens = ids[range.clone()].iter().map(|&id| id as u32).collect();
                let weights = labels[range.clone()].iter().map(|&l| if l == -100 { 0.0 } else { 1.0 }).collect();
                samples.push(Sample::new(tokens, weights, Kind::Chat));
                start = range.end;
            }
        }
        let batch = Batch::of_pieces(&samples, whole(&samples));
        let ids = numbers(&packed[tokenizer]["collated"]["input_ids"][0]);
        let labels = numbers(&packed[tokenizer]["collated"]["labels"][0]);
        assert_eq!(batch.tokens.iter().map(|&t| i64::from(t)).collect::<Vec<_>>(), ids);
        for i in 0..ids.len() - 1 {
            let ours = if batch.weights[i] > 0.0 { i64::from(batch.targets[i]) } else { -100 };
            assert_eq!(ours, labels[i + 1], "{tokenizer}: prediction from position {i}");
        }
    }
}

fn corpus(seed: u64) -> Vec<Sample> {
    let mut rng = Rng::new(seed);
    (0..60).map(|i| sample(1000 * i, 1 + rng.below(30))).collect()
}

fn settings(packing: Packing) -> LoaderSettings {
    LoaderSettings { sequence_length: 32, sequences: 3, packing, seed: 5 }
}

#[test]
fn a_cursor_continues_exactly_across_epochs() {
    let samples = corpus(1);
    for packing in [Packing::BestFit, Packing::NextFit, Packing::Wrapped] {
        let mut whole = Loader::new(&samples, settings(packing), Cursor::default());
        for stop in [0, 1, 7, 30] {
            let mut first = Loader::new(&samples, settings(packing), Cursor::default());
            (0..stop).for_each(|_| drop(first.next_batch()));
            let text = serde_json::to_string(&first.cursor()).expect("cursor is JSON");
            let cursor: Cursor = serde_json::from_str(&text).expect("cursor reads back");
            let mut second = Loader::new(&samples, settings(packing), cursor);
            for _ in 0..25 {
                assert_eq!(first.next_batch(), second.next_batch());
            }
        }
        (0..40).for_each(|_| drop(whole.next_batch()));
        assert!(whole.cursor().epoch > 1, "the test crosses epochs");
    }
}

#[test]
fn epochs_differ_in_order_and_hold_every_sample_as_often_as_asked() {
    let mut samples = corpus(2);
    samples[0].repeat = 3.0;
    samples[1].repeat = 0.0;
    samples[2].repeat = 0.5;
    let one = LoaderSettings { sequences: 1, ..settings(Packing::BestFit) };
    let mut loader = Loader::new(&samples, one, Cursor::default());
    let mut orders = Vec::new();
    let mut halves = 0;
    for _ in 0..40 {
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        let mut order = Vec::new();
        loop {
            let batch = loader.next_batch();
            let mut start = 0;
            for &length in &batch.lengths {
                *seen.entry(batch.tokens[start] / 1000).or_default() += 1;
                order.push(batch.tokens[start]);
                start += length;
            }
            if loader.cursor().bin == loader.epoch_sequences() {
                break;
            }
        }
        assert_eq!((seen[&0], seen.get(&1), seen[&3]), (3, None, 1));
        halves += seen.get(&2).copied().unwrap_or(0);
        orders.push(order);
    }
    assert_ne!(orders[0], orders[1]);
    assert!((8..=32).contains(&halves), "half of 40 epochs, seen in {halves}");
}
