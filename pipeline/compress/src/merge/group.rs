//! One group: made into one expert in every way that the recipe allows, measured, and taken or left.

use super::algebra::NotPositive;
use super::align::{Activations, Alignment, align};
use super::neurons::{Neurons, hidden};
use super::outcome::{Combination, GroupOutcome};
use super::router::{self, BiasDirection, Row};
use super::rows::{GroupRows, Routed, squared_error};
use super::{Held, MergeRecipe, Refit, RouterRow, Working, combine, mixture, refit};
use crate::LayerStatistics;
use crate::plan::Merge;
use ops::{Buffer, Expert, Moe};

/// What a group is made from.
pub(super) struct Group<'a> {
    /// The layer as it was.
    pub(super) moe: &'a Moe,
    pub(super) statistics: &'a LayerStatistics,
    pub(super) recipe: &'a MergeRecipe,
    pub(super) merge: &'a Merge,
    pub(super) calibration: &'a Buffer,
    pub(super) routed: &'a Routed,
    pub(super) bias: &'a BiasDirection,
}

/// An expert that could stand for the group.
struct Candidate {
    expert: Expert,
    combination: Combination,
    ranks: [usize; 3],
    lambda: f64,
}

/// The best that was measured.
struct Best {
    error: f64,
    candidate: usize,
    router: RouterRow,
    said: Buffer,
}

/// The members, in one order where the recipe wants that.
struct Aligned {
    neurons: Vec<Neurons>,
    alignments: Vec<Alignment>,
    /// Their activations on the group's rows.
    hidden: Vec<Buffer>,
}

impl Group<'_> {
    /// Merges the group in `working` if that measures better than dropping its members.
    pub(super) fn carry_out(&self, working: &mut Working, held: &mut Held) -> Result<GroupOutcome, NotPositive> {
        let members: Vec<usize> = [self.merge.into].into_iter().chain(self.merge.from.iter().copied()).collect();
        let place = working.place(self.merge.into);
        let rows = GroupRows::gather(self.calibration, self.routed, self.moe, &members);
        let aligned = self.align(&members, &rows);
        let candidates = self.candidates(&members, &aligned, &rows, &working.moe.experts[place])?;
        let routers = self.router_rows(&members, &rows, &working.moe, place);
        let touched = touched(working, held, &members, place, &routers);
        let held_rows = GroupRows::gather(held.x, &held.routed, self.moe, &members);
        let energy = held.energy(&touched);
        let error_dropped = held.error(&touched);
        let x = held.x.gathered(&touched);
        let mut best: Option<Best> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            for (router, row) in &routers {
                let old = working.exchange(place, candidate.expert.clone(), row.clone());
                let said = mixture(&x, &working.moe);
                working.exchange(place, old.0, old.1);
                let error = squared_error(&said, &held.wanted, &touched) / energy;
                if best.as_ref().is_none_or(|best| error < best.error) {
                    best = Some(Best { error, candidate: index, router: *router, said });
                }
            }
        }
        let best = best.expect("there is always an average, and a row of the router");
        let candidate = &candidates[best.candidate];
        let merged = !self.recipe.check || best.error <= (1.0 - self.recipe.gain_min) * error_dropped;
        // Where dropping costs nothing there is nothing to gain.
        let merged = merged && (!self.recipe.check || error_dropped > 0.0);
        let distances = aligned.alignments[1..].iter();
        let mean = |sum: f64| sum / self.merge.from.len() as f64;
        let outcome = GroupOutcome {
            into: self.merge.into,
            from: self.merge.from.clone(),
            merged,
            rows: touched.len(),
            error_dropped,
            error_merged: best.error,
            error_tied: refit::tied_error(&candidate.expert, &held_rows) / energy,
            router: best.router,
            combination: candidate.combination,
            ranks: candidate.ranks,
            distance_before: mean(distances.clone().map(Alignment::relative_before).sum()),
            distance_after: mean(distances.map(Alignment::relative_after).sum()),
            lambda: candidate.lambda,
        };
        if merged {
            let (_, row) = routers.into_iter().find(|(router, _)| *router == best.router).expect("it was measured");
            working.exchange(place, candidates.into_iter().nth(best.candidate).expect("it was measured").expert, row);
            let put = |(from, &to): (usize, &usize)| held.current.row_mut(to).copy_from_slice(best.said.row(from));
            touched.iter().enumerate().for_each(put);
        }
        Ok(outcome)
    }

    fn align(&self, members: &[usize], rows: &GroupRows) -> Aligned {
        let of_member = |&member: &usize| Neurons::of(&self.moe.experts[member]);
        let raw: Vec<Neurons> = members.iter().map(of_member).collect();
        let step = rows.x.rows.div_ceil(self.recipe.activation_rows.max(1)).max(1);
        let shared: Vec<usize> = (0..rows.x.rows).step_by(step).collect();
        let shared = rows.x.gathered(&shared);
        // Activations of balanced neurons: signs and scales are theirs.
        let balanced = |neurons: &Neurons| neurons.clone().into_expert(&self.moe.experts[members[0]]);
        let on_shared: Vec<Buffer> = raw.iter().map(|neurons| hidden(&balanced(neurons), &shared)).collect();
        let share = if shared.rows == 0 { 0.0 } else { self.recipe.activation_share };
        let aligned = super::each((0..members.len()).collect(), |k| {
            if k == 0 || !self.recipe.align {
                return Alignment::identity(&raw[0], &raw[k]);
            }
            let activations = Activations { centroid: &on_shared[0], member: &on_shared[k], share };
            align(&raw[0], &raw[k], (share > 0.0).then_some(activations))
        });
        let neurons: Vec<Neurons> = raw.iter().zip(&aligned).map(|(raw, alignment)| alignment.apply(raw)).collect();
        let hidden = neurons.iter().map(|neurons| hidden(&balanced(neurons), &rows.x)).collect();
        Aligned { neurons, alignments: aligned, hidden }
    }

    /// Every expert that could stand for the group, fitted.
    fn candidates(
        &self,
        members: &[usize],
        aligned: &Aligned,
        rows: &GroupRows,
        named: &Expert,
    ) -> Result<Vec<Candidate>, NotPositive> {
        let recipe = self.recipe;
        let weights = combine::importance(members, &aligned.alignments, self.statistics, recipe.importance);
        let merged = combine::average(&aligned.neurons, &weights);
        let m = merged.count;
        let mut filtered = merged.clone();
        let ranks = combine::filter(&mut filtered, &aligned.neurons, (&rows.x, &aligned.hidden), recipe.energy);
        let mut made = vec![(merged, Combination::Average, [m; 3])];
        if ranks != [m; 3] {
            made.push((filtered, Combination::Average, ranks));
        }
        if recipe.select {
            made.push((combine::selection(&aligned.neurons, &aligned.hidden, rows), Combination::Selection, [m; 3]));
        }
        let fitted = made.into_iter().map(|(neurons, combination, ranks)| {
            let mut expert = neurons.into_expert(named);
            let lambda = match recipe.refit {
                Refit::None => 0.0,
                Refit::Members | Refit::Layer => refit::refit_members(&mut expert, rows, recipe.ridge)?,
            };
            Ok(Candidate { expert, combination, ranks, lambda })
        });
        fitted.collect()
    }

    /// The rows of the router that the recipe allows.
    fn router_rows(&self, members: &[usize], rows: &GroupRows, now: &Moe, place: usize) -> Vec<(RouterRow, Row)> {
        let centroid = || (RouterRow::Centroid, Row::of(&now.router, place));
        let weighted = || {
            let mass = |&member: &usize| self.statistics.experts[member].gate_mass;
            let total: f64 = members.iter().map(mass).sum();
            let even = 1.0 / members.len() as f64;
            let share = |member: &usize| if total > 0.0 { mass(member) / total } else { even };
            let shares: Vec<f64> = members.iter().map(share).collect();
            let row = router::weighted(self.moe, members, &shares, (self.routed, &rows.rows), self.bias);
            (RouterRow::Weighted, row)
        };
        match self.recipe.router {
            RouterRow::Centroid => vec![centroid()],
            RouterRow::Weighted => vec![weighted()],
            RouterRow::Measured => vec![centroid(), weighted()],
        }
    }
}

/// The held-out rows that may come out differently: those that chose a member before, that choose what stands for the
/// group now, or that would with one of these rows of the router.
fn touched(
    working: &mut Working,
    held: &Held,
    members: &[usize],
    place: usize,
    routers: &[(RouterRow, Row)],
) -> Vec<usize> {
    let now = Row::of(&working.moe.router, place);
    let mut is_touched: Vec<bool> = (0..held.x.rows).map(|row| held.routed.chose_any(row, members)).collect();
    for row in [&now].into_iter().chain(routers.iter().map(|(_, row)| row)) {
        let old = row.clone().exchange(&mut working.moe.router, place);
        let routed = Routed::of(held.x, &working.moe);
        old.exchange(&mut working.moe.router, place);
        is_touched.iter_mut().enumerate().for_each(|(row, touched)| *touched |= routed.chose_any(row, &[place]));
    }
    (0..held.x.rows).filter(|&row| is_touched[row]).collect()
}
