//! Packing against TRL's own answers (`fixtures/trl`), and what must hold for any lengths.

use numeric::Rng;
use prepare::pack::{Packing, pack};
use serde_json::Value;

fn fixture(name: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/trl/").to_string() + name;
    serde_json::from_str(&std::fs::read_to_string(&path).expect("fixture is there")).expect("fixture is JSON")
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().expect("array").iter().map(|n| n.as_u64().expect("number") as usize).collect()
}

#[test]
fn bins_equal_those_of_trl() {
    let cases = fixture("bfd_cases.json");
    let cases = cases.as_array().expect("array");
    assert_eq!(cases.len(), 45);
    for case in cases {
        let packing = match case["strategy"].as_str() {
            Some("bfd") => Packing::BestFit,
            Some("bfd_split") => Packing::BestFitSplit,
            Some("wrapped") => Packing::Wrapped,
            other => panic!("unknown strategy {other:?}"),
        };
        let lengths = numbers(&case["lengths"]);
        let firsts: Vec<usize> =
            lengths.iter().scan(0, |next, length| Some(std::mem::replace(next, *next + length))).collect();
        let bins = pack(&lengths, case["seq_length"].as_u64().expect("number") as usize, packing);
        let ids: Vec<Vec<usize>> = bins
            .iter()
            .map(|bin| bin.iter().flat_map(|p| (0..p.length).map(|i| firsts[p.sample] + p.start + i)).collect())
            .collect();
        let expected: Vec<Vec<usize>> = case["bins"].as_array().expect("array").iter().map(numbers).collect();
        assert_eq!(ids, expected, "{} at {} for {lengths:?}", case["strategy"], case["seq_length"]);
        if let Some(expected) = case["seq_lengths"].as_array() {
            let pieces: Vec<Vec<usize>> = bins.iter().map(|bin| bin.iter().map(|p| p.length).collect()).collect();
            assert_eq!(pieces, expected.iter().map(numbers).collect::<Vec<_>>());
        }
    }
}

#[test]
fn every_token_lands_once_and_no_bin_overflows() {
    let mut rng = Rng::new(11);
    for round in 0..40 {
        let lengths: Vec<usize> = (0..rng.below(80)).map(|_| rng.below(70)).collect();
        let sequence_length = 1 + rng.below(50);
        for packing in [Packing::BestFit, Packing::BestFitSplit, Packing::NextFit, Packing::Wrapped] {
            let bins = pack(&lengths, sequence_length, packing);
            let mut seen: Vec<Vec<bool>> = lengths.iter().map(|&length| vec![false; length]).collect();
            for bin in &bins {
                assert!(bin.iter().map(|p| p.length).sum::<usize>() <= sequence_length);
                assert!(!bin.is_empty() && bin.iter().all(|p| p.length > 0));
                for piece in bin {
                    for token in &mut seen[piece.sample][piece.start..piece.start + piece.length] {
                        assert!(!std::mem::replace(token, true), "round {round}: a token landed twice");
                    }
                }
            }
            for (sample, tokens) in seen.iter().enumerate() {
                let wanted = if packing.truncates() { sequence_length } else { usize::MAX };
                assert_eq!(tokens.iter().filter(|&&t| t).count(), lengths[sample].min(wanted));
            }
        }
    }
}

#[test]
fn next_fit_keeps_the_order() {
    let bins = pack(&[3, 4, 9, 2, 2, 3, 1], 7, Packing::NextFit);
    let lengths: Vec<Vec<(usize, usize)>> =
        bins.iter().map(|b| b.iter().map(|p| (p.sample, p.length)).collect()).collect();
    assert_eq!(lengths, [vec![(0, 3), (1, 4)], vec![(2, 7)], vec![(3, 2), (4, 2), (5, 3)], vec![(6, 1)]]);
}
