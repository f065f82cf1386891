//! Adapters of fused experts, as PEFT's `target_parameters` lays them out.
//!
//! E experts, r rank. The parameter `mlp.experts.gate_up_proj` is `[E, 2I, H]` and `down_proj` `[E, H, I]`. For one of
//! them A is `[E·r, in]` with row e·r + j, and B is `[out, r·E]` with column j·E + e. Where both are adapted their
//! wrappers nest: the first, which is gate_up_proj, lies under `experts.base_layer`. PEFT before 0.19 took the second
//! axis for the inputs and the third for the outputs, and so has both factors the other way round.

use super::peft::PeftConfig;
use crate::ModelError;
use formats::{Tensor, TensorFile};

/// How the adapters of fused experts lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertLayout {
    /// As PEFT has them since 0.19.
    Peft19,
    /// As PEFT had them before: A belongs to the outputs, B to the inputs.
    Peft18,
    /// As in PEFT 0.19, but column e·r + j of B belongs to expert e: what some trainers wrote by mistake.
    ExpertMajor,
}

impl ExpertLayout {
    pub const ALL: [Self; 3] = [Self::Peft19, Self::Peft18, Self::ExpertMajor];

    /// As a command line says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft19 => "peft-0.19",
            Self::Peft18 => "peft-0.18",
            Self::ExpertMajor => "expert-major",
        }
    }
}

/// One of the two parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fused {
    GateUp,
    Down,
}

impl Fused {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }

    /// Inputs and outputs.
    fn widths(self, sizes: &Sizes) -> (usize, usize) {
        match self {
            Self::GateUp => (sizes.hidden, 2 * sizes.inner),
            Self::Down => (sizes.inner, sizes.hidden),
        }
    }
}

/// Of a layer's experts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) experts: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
}

/// A fused adapter that was found and understood: factors of each expert in our order.
pub(crate) struct FusedFactors {
    pub(crate) fused: Fused,
    pub(crate) rank: usize,
    pub(crate) scale: f64,
    /// `[E, r, in]`.
    pub(crate) a: Vec<f32>,
    /// `[E, out, r]`.
    pub(crate) b: Vec<f32>,
    /// The two tensors' names.
    pub(crate) names: [String; 2],
}

struct Pair<'a> {
    names: [String; 2],
    a: Tensor<'a>,
    b: Tensor<'a>,
}

impl<'a> Pair<'a> {
    fn find(file: &'a TensorFile, bank: &str) -> Result<Option<Self>, ModelError> {
        let names = ["A", "B"].map(|side| format!("{bank}.lora_{side}.weight"));
        if names.iter().all(|name| !file.contains(name)) {
            return Ok(None);
        }
        Ok(Some(Self { a: file.get(&names[0])?, b: file.get(&names[1])?, names }))
    }

    /// Whether it can be an adapter of this parameter in this layout.
    fn fits(&self, fused: Fused, layout: ExpertLayout, sizes: &Sizes) -> bool {
        let (inputs, outputs) = fused.widths(sizes);
        let (of_a, of_b) = if layout == ExpertLayout::Peft18 { (outputs, inputs) } else { (inputs, outputs) };
        matches!((self.a.shape, self.b.shape), (&[wide, a], &[b, wide_too])
            if a == of_a && b == of_b && wide == wide_too && wide > 0 && wide.is_multiple_of(sizes.experts))
    }
}

/// The adapters of a layer's fused experts, `bank` being `base_model.model.….mlp.experts`.
pub(crate) fn read(
    file: &TensorFile,
    bank: &str,
    sizes: &Sizes,
    config: &PeftConfig,
    declared: Option<ExpertLayout>,
) -> Result<Vec<FusedFactors>, ModelError> {
    let inner = Pair::find(file, &format!("{bank}.base_layer"))?;
    let Some(outer) = Pair::find(file, bank)? else {
        return match inner {
            None => Ok(Vec::new()),
            Some(inner) => Err(ModelError::Adapter(format!(
                "{} is there without the adapter around it, {bank}.lora_A.weight",
                inner.names[0]
            ))),
        };
    };
    let named = |fused: Fused| config.parameters.iter().any(|parameter| parameter.ends_with(fused.name()));
    let mut candidates = match &inner {
        Some(_) => vec![vec![Fused::GateUp, Fused::Down], vec![Fused::Down, Fused::GateUp]],
        None => vec![vec![Fused::GateUp], vec![Fused::Down]],
    };
    if inner.is_none() && named(Fused::GateUp) != named(Fused::Down) {
        candidates.retain(|order| named(order[0]));
    }
    let pairs: Vec<Pair> = inner.into_iter().chain([outer]).collect();
    let (order, layout) = choose(&pairs, &candidates, sizes, config, declared)?;
    order.into_iter().zip(pairs).map(|(fused, pair)| factors(pair, fused, layout, sizes, bank, config)).collect()
}

/// The order of the wrappers and the layout that the shapes allow; where they allow both layouts, the one of the
/// version that wrote the file.
fn choose(
    pairs: &[Pair],
    candidates: &[Vec<Fused>],
    sizes: &Sizes,
    config: &PeftConfig,
    declared: Option<ExpertLayout>,
) -> Result<(Vec<Fused>, ExpertLayout), ModelError> {
    let layouts = declared.map_or(vec![ExpertLayout::Peft19, ExpertLayout::Peft18], |layout| vec![layout]);
    let by_version = |version: (u32, u32)| {
        if version >= (0, 19) { ExpertLayout::Peft19 } else { ExpertLayout::Peft18 }
    };
    let mut possible = Vec::new();
    for order in candidates {
        let fits = |layout| pairs.iter().zip(order).all(|(pair, &fused)| pair.fits(fused, layout, sizes));
        possible.extend(layouts.iter().filter(|&&layout| fits(layout)).map(|&layout| (order, layout)));
        // The usual order of wrappers is only doubted where it cannot be.
        if !possible.is_empty() && pairs.len() == 2 {
            break;
        }
    }
    let pair = &pairs[0];
    match possible.as_slice() {
        [] => {
            let (a, b) = (pair.a.shape, pair.b.shape);
            let Sizes { experts, hidden, inner } = sizes;
            let declared = declared.map_or(String::new(), |layout| format!(" as {}", layout.name()));
            Err(ModelError::Adapter(format!(
                "{} is {a:?} with B {b:?}, which cannot be{declared} for {experts} experts of {inner} × {hidden}: \
                 the adapter was made for another model, or lies differently than --expert-layout says",
                pair.names[0]
            )))
        }
        [(order, layout)] => Ok(((*order).clone(), *layout)),
        several => {
            let wanted = config.version.map(by_version);
            let mut left = several.iter().filter(|(_, layout)| Some(*layout) == wanted);
            match (left.next(), left.next()) {
                (Some((order, layout)), None) => Ok(((*order).clone(), *layout)),
                _ => Err(ModelError::Adapter(format!(
                    "{} can be read in more than one way, because the experts' widths do not tell inputs from outputs \
                     and {} does not say which version of PEFT wrote it: declare --expert-layout {} or {}",
                    pair.names[0],
                    super::peft::CONFIG,
                    ExpertLayout::Peft19.name(),
                    ExpertLayout::Peft18.name()
                ))),
            }
        }
    }
}

fn factors(
    pair: Pair,
    fused: Fused,
    layout: ExpertLayout,
    sizes: &Sizes,
    bank: &str,
    config: &PeftConfig,
) -> Result<FusedFactors, ModelError> {
    let experts = sizes.experts;
    let rank = pair.a.shape[0] / experts;
    let module = bank.trim_start_matches(super::peft::PREFIX);
    let (said, alpha) = config.of(&format!("{module}.{}", fused.name()));
    if said != rank {
        return Err(ModelError::Adapter(format!(
            "{} has rank {rank} for {experts} experts, {} says {said}",
            pair.names[0],
            super::peft::CONFIG
        )));
    }
    let (inputs, outputs) = fused.widths(sizes);
    let (stored_a, stored_b) = (pair.a.to_f32(), pair.b.to_f32());
    let of_a = |expert: usize, j: usize| &stored_a[(expert * rank + j) * pair.a.shape[1]..][..pair.a.shape[1]];
    let column = |expert: usize, j: usize| match layout {
        ExpertLayout::ExpertMajor => expert * rank + j,
        _ => j * experts + expert,
    };
    let of_b = |row: usize, expert: usize, j: usize| stored_b[row * rank * experts + column(expert, j)];
    let mut a = Vec::with_capacity(experts * rank * inputs);
    let mut b = Vec::with_capacity(experts * outputs * rank);
    for expert in 0..experts {
        if layout == ExpertLayout::Peft18 {
            (0..rank).for_each(|j| a.extend((0..inputs).map(|input| of_b(input, expert, j))));
            (0..outputs).for_each(|output| b.extend((0..rank).map(|j| of_a(expert, j)[output])));
        } else {
            (0..rank).for_each(|j| a.extend_from_slice(of_a(expert, j)));
            (0..outputs).for_each(|output| b.extend((0..rank).map(|j| of_b(output, expert, j))));
        }
    }
    Ok(FusedFactors { fused, rank, scale: config.scale(rank, alpha), a, b, names: pair.names })
}
