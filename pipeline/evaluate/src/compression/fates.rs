//! What became of every expert of a layer, in an order in which those that became one stand together.

use crate::table::Table;
use compress::{LayerOutcome, LayerPlan, LayerStatistics};
use std::fmt::Write;
use std::ops::Range;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays as it is.
    Kept,
    /// It stays, and others became part of it.
    Centre,
    Member {
        into: usize,
    },
    Dropped,
    /// It was to become part of another, and dropping it measured as good.
    Refused {
        into: usize,
    },
}

pub(super) struct LayerFates<'a> {
    pub(super) plan: &'a LayerPlan,
    pub(super) outcome: Option<&'a LayerOutcome>,
    /// Of each expert.
    pub(super) fates: Vec<Fate>,
    /// Experts by what became of them: the largest groups first, then those that stay alone, then those that go.
    pub(super) order: Vec<usize>,
    /// The places of each group in that order.
    pub(super) groups: Vec<Range<usize>>,
    /// So many of the order live on.
    pub(super) staying: usize,
}

impl<'a> LayerFates<'a> {
    pub(super) fn of(plan: &'a LayerPlan, outcomes: &'a [LayerOutcome]) -> Self {
        let outcome = outcomes.iter().find(|outcome| outcome.layer == plan.layer);
        let planned = plan.merge.iter().map(|merge| (merge.into, &merge.from, true));
        let measured = outcome.into_iter().flat_map(|outcome| &outcome.groups);
        // What was measured has the last word.
        let all = planned.chain(measured.map(|group| (group.into, &group.from, group.merged)));
        let n_experts =
            plan.keep.len() + plan.drop.len() + plan.merge.iter().map(|merge| merge.from.len()).sum::<usize>();
        let mut fates = vec![Fate::Dropped; n_experts];
        plan.keep.iter().for_each(|&expert| fates[expert] = Fate::Kept);
        for (into, from, merged) in all {
            fates[into] = if merged { Fate::Centre } else { Fate::Kept };
            let fate = if merged { Fate::Member { into } } else { Fate::Refused { into } };
            from.iter().for_each(|&expert| fates[expert] = fate);
        }
        let mut layer = Self { plan, outcome, fates, order: Vec::new(), groups: Vec::new(), staying: 0 };
        layer.arrange();
        layer
    }

    fn experts_with(&self, is_wanted: impl Fn(Fate) -> bool) -> Vec<usize> {
        (0..self.fates.len()).filter(|&expert| is_wanted(self.fates[expert])).collect()
    }

    fn arrange(&mut self) {
        let group =
            |&centre: &usize| [vec![centre], self.experts_with(|fate| fate == Fate::Member { into: centre })].concat();
        let mut groups: Vec<Vec<usize>> = self.experts_with(|fate| fate == Fate::Centre).iter().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        let mut order = Vec::with_capacity(self.fates.len());
        for group in groups {
            self.groups.push(order.len()..order.len() + group.len());
            order.extend(group);
        }
        order.extend(self.experts_with(|fate| fate == Fate::Kept));
        self.staying = order.len();
        order.extend(self.experts_with(|fate| matches!(fate, Fate::Refused { .. })));
        order.extend(self.experts_with(|fate| fate == Fate::Dropped));
        self.order = order;
    }

    fn count(&self, is_wanted: impl Fn(Fate) -> bool) -> usize {
        self.fates.iter().filter(|&&fate| is_wanted(fate)).count()
    }

    /// What is said of an expert when it is pointed at.
    fn title(&self, expert: usize) -> String {
        let errors = |centre: usize| {
            let group = self.outcome.and_then(|outcome| outcome.groups.iter().find(|group| group.into == centre));
            group.map_or_else(String::new, |group| {
                let (merged, dropped) = (percent(group.error_merged), percent(group.error_dropped));
                format!(
                    "; the layer's output changes by {merged} if the group is merged, by {dropped} if it is dropped"
                )
            })
        };
        let mut text = format!("layer {}, expert {expert}: ", self.plan.layer);
        text += &match self.fates[expert] {
            Fate::Kept => "stays".to_owned(),
            Fate::Centre => format!("stays, with others merged into it{}", errors(expert)),
            Fate::Member { into } => format!("merged into {into}{}", errors(into)),
            Fate::Dropped => "dropped".to_owned(),
            Fate::Refused { into } => format!("dropped, as merging it into {into} measured no better{}", errors(into)),
        };
        if self.plan.super_experts.contains(&expert) {
            text += "; a super-expert";
        }
        if let Some(saliency) = self.plan.saliency.get(expert) {
            write!(text, "; saliency {saliency:.4}").expect("string");
        }
        if let Some(tokens) = self.plan.tokens.get(expert) {
            write!(text, "; chosen by {tokens} tokens").expect("string");
        }
        text
    }
}

impl Fate {
    /// A class of the style sheet.
    fn class(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Centre => "centre",
            Self::Member { .. } => "member",
            Self::Dropped => "dropped",
            Self::Refused { .. } => "refused",
        }
    }
}

/// A share as `1.23 %`.
fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

const WIDTH: f64 = 1020.0;
const LEFT: f64 = 56.0;
/// Of one expert, at most.
const CELL: f64 = 34.0;
const HEIGHT: f64 = 20.0;
/// Between two lines of experts.
const GAP: f64 = 6.0;
const EXPERTS_IN_A_LINE: usize = 64;

/// Who stays, who became part of whom, and who went: a line for each layer, or some where it has many experts.
pub(super) fn figure(layers: &[LayerFates<'_>]) -> String {
    let most = layers.iter().map(|layer| layer.order.len()).max().unwrap_or(0);
    if most == 0 {
        return String::new();
    }
    let in_a_line = most.min(EXPERTS_IN_A_LINE);
    let cell = ((WIDTH - LEFT) / in_a_line as f64).min(CELL);
    let (mut drawn, mut y) = (String::new(), 1.0);
    for layer in layers {
        write!(drawn, "<text x=\"0\" y=\"{:.1}\">layer {}</text>", y + 0.7 * HEIGHT, layer.plan.layer).expect("string");
        for start in (0..layer.order.len()).step_by(in_a_line) {
            line(&mut drawn, layer, start..layer.order.len().min(start + in_a_line), (cell, y));
            y += HEIGHT + GAP;
        }
        y += GAP;
    }
    let key = |class: &str, text: &str| format!("<span class=\"key\"><i class=\"{class}\"></i>{text}</span>");
    let keys = [
        key("centre", "stays, others merged into it"),
        key("member", "merged"),
        key("kept", "stays alone"),
        key("refused", "dropped, as merging measured no better"),
        key("dropped", "dropped"),
        key("super", "super-expert"),
    ];
    let (title, keys) = ("What became of every expert", keys.concat());
    format!(
        "<figure class=\"wide\"><figcaption><h2>{title}</h2>{keys}</figcaption><svg viewBox=\"0 0 {WIDTH} {y:.0}\" \
         role=\"img\" aria-label=\"{title}\">{drawn}</svg><p class=\"note\">Numbers are those of the model before; \
         framed experts became one.</p></figure>"
    )
}

fn line(drawn: &mut String, layer: &LayerFates<'_>, places: Range<usize>, (cell, y): (f64, f64)) {
    let left = |place: usize| LEFT + (place - places.start) as f64 * cell;
    let size = (0.52 * cell).min(11.0);
    for place in places.clone() {
        let expert = layer.order[place];
        let class = layer.fates[expert].class();
        let (x, width) = (left(place) + 1.5, cell - 3.0);
        let (top, tall, title) = (y + 1.5, HEIGHT - 3.0, layer.title(expert));
        write!(
            drawn,
            "<g><title>{title}</title><rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
             height=\"{tall:.1}\"/>"
        )
        .expect("string");
        if layer.plan.super_experts.contains(&expert) {
            write!(
                drawn,
                "<rect class=\"super\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{tall:.1}\"/>"
            )
            .expect("string");
        }
        let (x, y) = (left(place) + cell / 2.0, y + HEIGHT / 2.0 + 0.36 * size);
        write!(
            drawn,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" \
             style=\"font-size:{size:.1}px\">{expert}</text></g>"
        )
        .expect("string");
    }
    for group in &layer.groups {
        let (start, end) = (group.start.max(places.start), group.end.min(places.end));
        if start < end {
            let (x, width) = (left(start), (end - start) as f64 * cell);
            write!(
                drawn,
                "<rect class=\"outline\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>"
            )
            .expect("string");
        }
    }
}

/// Layer by layer: how many stay and go, and what that did to the layer's output.
pub(super) fn table(layers: &[LayerFates<'_>], statistics: &[LayerStatistics]) -> String {
    let mut table = Table::new(&[
        "layer",
        "experts",
        "stay",
        "groups",
        "merged",
        "merging refused",
        "dropped",
        "super-experts",
        "router entropy (nats a token)",
        "output error, all dropped",
        "output error, as done",
        "distance before → after alignment",
    ]);
    for layer in layers {
        let observed = statistics.iter().find(|found| found.layer == layer.plan.layer);
        let dash = || "—".to_owned();
        let groups = layer.outcome.map_or(&[][..], |outcome| &outcome.groups);
        let mean = |of: fn(&compress::GroupOutcome) -> f64| groups.iter().map(of).sum::<f64>() / groups.len() as f64;
        let distances =
            || format!("{:.3} → {:.3}", mean(|group| group.distance_before), mean(|group| group.distance_after));
        table.push(vec![
            layer.plan.layer.to_string(),
            layer.fates.len().to_string(),
            layer.plan.keep.len().to_string(),
            layer.groups.len().to_string(),
            layer.count(|fate| matches!(fate, Fate::Member { .. })).to_string(),
            layer.count(|fate| matches!(fate, Fate::Refused { .. })).to_string(),
            layer.count(|fate| fate == Fate::Dropped).to_string(),
            layer.plan.super_experts.len().to_string(),
            observed.map_or_else(dash, |found| format!("{:.3}", found.router_entropy)),
            layer.outcome.map_or_else(dash, |outcome| percent(outcome.error_dropped)),
            layer.outcome.map_or_else(dash, |outcome| percent(outcome.error)),
            if groups.is_empty() { dash() } else { distances() },
        ]);
    }
    format!(
        "<figure class=\"wide\"><figcaption><h2>Layers</h2></figcaption><div class=\"scroll\">{}</div><p \
         class=\"note\">Output error: squared error of the layer's output by its squares, on tokens that nothing was \
         fitted on. Distance: of the neurons of merged experts, 0 for equal and about 1 for unrelated \
         ones.</p></figure>",
        table.to_html()
    )
}
