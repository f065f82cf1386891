//! The page holds every expert and every group, is well formed, escapes what it quotes, and fetches nothing.

use super::*;
use crate::{Divergence, Loss, Perplexity, Rate};
use compress::{Combination, ExpertUse, GroupOutcome, LayerPlan, Merge, RouterRow};

fn report(name: &str, divergence: f64) -> Report {
    let loss = Loss { tokens: 900, nats: 0.2, perplexity: 1.25 + divergence };
    Report {
        model: name.to_owned(),
        bytes: 23_600_000,
        parameters: 11_780_000,
        experts: vec![8; 2],
        perplexity: Some(Perplexity { all: loss, by_kind: [("solve".to_owned(), loss)].into() }),
        divergence: Some(Divergence {
            tokens: 900,
            mean: divergence,
            median: divergence / 2.0,
            quantile_99: 4.0 * divergence,
            maximum: 9.0 * divergence,
            same_top_token: Rate::of(873, 900),
            model: loss,
            teacher: loss,
        }),
        tasks: None,
        speed: None,
    }
}

fn statistics(layer: usize, n_experts: usize) -> LayerStatistics {
    let pair = |at: usize| (at / n_experts, at % n_experts);
    let each = 0..n_experts * n_experts;
    let alike = |(a, b): (usize, usize)| if a == b { 1.0 } else { 0.1 + 0.8 / (1.0 + a.abs_diff(b) as f32) };
    LayerStatistics {
        layer,
        tokens: 1000,
        experts: vec![ExpertUse { tokens: 250, ..ExpertUse::default() }; n_experts],
        together: each.clone().map(|at| if pair(at).0 == pair(at).1 { 250 } else { at as u64 % 90 }).collect(),
        output_similarity: each.map(|at| alike(pair(at))).collect(),
        neuron_fisher: Vec::new(),
        router_entropy: 1.75,
    }
}

fn group(into: usize, from: &[usize], merged: bool) -> GroupOutcome {
    GroupOutcome {
        into,
        from: from.to_vec(),
        merged,
        rows: 40,
        error_dropped: 0.25,
        error_merged: 0.125,
        error_tied: 0.1,
        router: RouterRow::Weighted,
        combination: Combination::Average,
        ranks: [4; 3],
        distance_before: 1.01,
        distance_after: 0.75,
        lambda: 0.1,
    }
}

/// Two layers of `n` experts: four stay, one group is merged, one is refused, one expert is dropped; then a layer that
/// only drops.
fn shrinking(n: usize) -> Shrinking {
    assert!(n >= 8);
    let kept: Vec<usize> = [1, 3, 4, 6].into_iter().chain(8..n).collect();
    let merge = vec![Merge { into: 3, from: vec![0, 7] }, Merge { into: 4, from: vec![2] }];
    let first = LayerPlan {
        layer: 0,
        keep: kept.clone(),
        drop: vec![5],
        super_experts: vec![1],
        saliency: (0..n).map(|e| e as f64 / 8.0).collect(),
        tokens: (0..n as u64).collect(),
        merge,
    };
    let second = LayerPlan { layer: 2, keep: kept, drop: vec![0, 2, 5, 7], ..LayerPlan::default() };
    let groups = vec![group(3, &[0, 7], true), group(4, &[2], false)];
    let outcome = LayerOutcome { layer: 0, error_dropped: 0.2, error: 0.08, refitted: 4, groups };
    Shrinking {
        plan: Plan { layers: vec![first, second] },
        outcomes: vec![outcome],
        statistics: vec![statistics(0, n), statistics(2, n)],
    }
}

fn stage(name: &str, experts: usize, divergence: Option<f64>, shrinking: Option<Shrinking>) -> CompressionStage {
    CompressionStage {
        name: name.to_owned(),
        from: None,
        experts: vec![experts; 2],
        bytes: 1_000_000 * experts as u64,
        report: divergence.map(|divergence| report(name, divergence)),
        shrinking,
    }
}

fn stages() -> Vec<CompressionStage> {
    vec![
        stage("the <base> & all", 8, Some(0.0), None),
        stage("prune", 4, Some(0.5), Some(shrinking(8))),
        stage("routers", 4, Some(0.3), None),
        stage("half", 4, Some(0.1), None),
        stage("prune \"again\"", 4, None, Some(shrinking(9))),
    ]
}

/// Every element that is opened is closed, in order, and attributes are quoted.
fn assert_well_formed(page: &str) {
    const VOID: [&str; 2] = ["meta", "br"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>").expect("a document");
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<'), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().expect("a name");
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "</{name}> closes what was opened last"),
            (false, false) if !VOID.contains(&name) => open.push(name),
            _ => {}
        }
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style").expect("it is closed")..];
        } else {
            rest = &rest[end + 1..];
        }
    }
    assert_eq!(open, [""; 0], "nothing stays open");
    for at in page.match_indices('&').map(|(at, _)| at) {
        let entity = &page[at..(at + 6).min(page.len())];
        assert!(["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|known| entity.starts_with(known)), "{entity}");
    }
}

#[test]
fn a_page_is_well_formed_and_says_what_was_measured() {
    let page = compression_page("A < B", &stages());
    assert_well_formed(&page);
    for wanted in [
        "A &lt; B",
        "2 rounds: 8 → 4 → 4",
        "the &lt;base&gt; &amp; all of 8.0 MB became prune &quot;again&quot; of 4.0 MB",
        "Round 2: prune &quot;again&quot;",
        "<td>half (after recovery)</td>",
        "<td>routers (recovery)</td>",
        "<td>0.1000</td><td>1.350</td><td>97.0 %</td>",
        "KL from the teacher, nats a token",
        "round 1: 0.50",
        "round 1: 0.10",
        "<td>20.00 %</td><td>8.00 %</td><td>1.010 → 0.750</td>",
    ] {
        assert!(page.contains(wanted), "missing {wanted:?}");
    }
    for foreign in ["http://", "https://", "<script", "<link", "url(", "<base>", "NaN", "inf"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

/// Two rounds in a line, and one that starts where the first did.
#[test]
fn a_round_begins_with_the_model_that_it_was_made_from() {
    let from = |from: &str, stage: CompressionStage| CompressionStage { from: Some(from.to_owned()), ..stage };
    let stages = [
        stage("base", 8, Some(0.0), None),
        from("base", stage("half", 4, Some(0.5), Some(shrinking(8)))),
        from("half", stage("routers", 4, Some(0.3), None)),
        from("routers", stage("whole", 4, Some(0.1), None)),
        from("base", stage("at once", 2, Some(1.5), Some(shrinking(8)))),
        from("whole", stage("quarter", 2, Some(0.7), Some(shrinking(8)))),
        // Two ways of bringing the same model back.
        from("at once", stage("one way", 2, Some(0.9), None)),
        from("at once", stage("another", 2, Some(0.8), None)),
        from("quarter", stage("last", 2, Some(0.2), None)),
        from("a stranger", stage("strange", 2, Some(0.4), Some(shrinking(8)))),
    ];
    let found = rounds(&stages);
    let name = |stage: &CompressionStage| stage.name.clone();
    let told: Vec<_> = found
        .iter()
        .map(|round| {
            let recovery: Vec<String> = round.recovery.iter().map(|&stage| name(stage)).collect();
            (name(round.pruned), round.number, round.start.map(name).unwrap_or_default(), recovery.join(", "))
        })
        .collect();
    let wanted = [
        ("half", 1, "base", "routers, whole"),
        ("at once", 1, "base", "one way, another"),
        ("quarter", 2, "whole", "last"),
        ("strange", 1, "", ""),
    ];
    let wanted =
        wanted.map(|(name, number, start, recovery)| (name.to_owned(), number, start.to_owned(), recovery.to_owned()));
    assert_eq!(told, wanted);
    let page = compression_page("branches", &stages);
    assert_well_formed(&page);
    for wanted in [
        "2 rounds: 8 → 4 → 2. base of 8.0 MB became last of 2.0 MB.",
        "one round: 8 → 2. base of 8.0 MB became another of 2.0 MB.",
        "one round: 8 → 2.",
        "Round 1: at once",
        "Round 2: quarter",
        "<td>routers (recovery)</td>",
        "<td>one way (after recovery)</td>",
        "<td>another (after recovery)</td>",
        "after recovery, to quarter</span>",
        "before recovery, to at once</span>",
    ] {
        assert!(page.contains(wanted), "missing {wanted:?}");
    }
}

#[test]
fn every_expert_and_every_group_is_there() {
    let page = compression_page("all", &stages());
    for layer in [0, 2] {
        // Twice: in both rounds.
        for expert in 0..8 {
            assert_eq!(
                page.matches(&format!("<title>layer {layer}, expert {expert}: ")).count(),
                2,
                "{layer} {expert}"
            );
        }
    }
    for (what, count) in [
        ("expert 0: merged into 3; the layer's output changes by 12.50 % if the group is merged, by 25.00 %", 2),
        ("expert 2: dropped, as merging it into 4 measured no better", 2),
        ("expert 3: stays, with others merged into it", 2),
        ("expert 4: stays; saliency 0.5000; chosen by 4 tokens", 2),
        ("expert 1: stays; a super-expert", 2),
        ("layer 2, expert 0: dropped</title>", 2),
        ("rect class=\"super\"", 2),
        ("similarity of outputs</h2>", 4),
        ("co-activation</h2>", 4),
        // The group in the map of experts and in both maps of its layer.
        ("rect class=\"outline\"", 6),
    ] {
        assert_eq!(page.matches(what).count(), count, "{what}");
    }
}

#[test]
fn what_was_merged_stands_together() {
    let shrinking = shrinking(8);
    let layers: Vec<LayerFates<'_>> =
        shrinking.plan.layers.iter().map(|plan| LayerFates::of(plan, &shrinking.outcomes)).collect();
    assert_eq!((layers[0].order.as_slice(), layers[0].staying), (&[3, 0, 7, 1, 4, 6, 2, 5][..], 6));
    let groups: Vec<usize> = layers[0].groups.iter().cloned().flatten().collect();
    assert_eq!((layers[0].groups.len(), groups), (1, vec![0, 1, 2]));
    assert_eq!((layers[1].order.as_slice(), layers[1].staying), (&[1, 3, 4, 6, 0, 2, 5, 7][..], 4));
    // Without what was measured it is as planned.
    let planned = LayerFates::of(&shrinking.plan.layers[0], &[]);
    assert_eq!(planned.groups, [0..3, 3..5]);
    assert_eq!(planned.order, [3, 0, 7, 4, 2, 1, 6, 5]);
}

#[test]
fn many_experts_and_none_that_were_compared_make_a_page_too() {
    let mut many = shrinking(300);
    many.statistics[1].output_similarity.fill(0.0);
    let page = compression_page("many", &[stage("only", 296, None, Some(many))]);
    assert_well_formed(&page);
    assert_eq!(page.matches("<title>layer 0, expert ").count(), 300);
    assert!(page.contains("A cell is the mean over 4 by 4 experts") && page.len() < 600_000, "{}", page.len());
    assert_eq!(page.matches("similarity of outputs</h2>").count(), 1, "of the second layer none were compared");
    assert!(compression_page("none", &[stage("only", 8, None, None)]).contains("No experts were taken away."));
}
