//! Adapters out of a PEFT directory: every tensor must find its place, every target its tensors.

use super::experts::{self, ExpertLayout, Fused, FusedFactors, Sizes};
use super::peft::{CONFIG, PREFIX, PeftConfig, TENSORS};
use super::places::{Adapters, PROJECTIONS, Place, Scaling, places};
use super::whole;
use crate::weights::{DeltaColumns, DeltaInput, Mixer, Weights};
use crate::{Model, ModelError};
use formats::TensorFile;
use numeric::Matrix;
use std::collections::BTreeSet;
use std::path::Path;

/// What a directory does not say by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Import {
    /// How adapters of fused experts lie; unsaid, what their shapes and PEFT's version tell.
    pub expert_layout: Option<ExpertLayout>,
}

/// Reads a PEFT directory onto a model, whose own parameters are frozen. Returns how many weights are adapted.
pub fn load_peft(model: &mut Model, directory: &Path, import: &Import) -> Result<usize, ModelError> {
    let adapters = read(model, directory, import)?;
    model.weights.visit_mut(&mut |parameter| parameter.trained = false);
    adapters.attach(&mut model.weights);
    model.renumber();
    Ok(adapters.weights())
}

/// The adapters that a directory has for a model, whose numbers need not be there.
pub(crate) fn read(model: &Model, directory: &Path, import: &Import) -> Result<Adapters, ModelError> {
    let weights = &model.weights;
    let config = PeftConfig::read(directory)?;
    let path = directory.join(TENSORS);
    if !path.is_file() {
        let hint = match directory.join("adapter_model.bin").is_file() {
            true => "; adapter_model.bin can run code when it is read: load it with PEFT and save it again",
            false => "",
        };
        return Err(ModelError::Adapter(format!("{} holds no {TENSORS}{hint}", directory.display())));
    }
    let file = TensorFile::open(path)?;
    let mut reader =
        Reader { file: &file, config: &config, import, taken: BTreeSet::new(), adapters: Adapters::default() };
    let all = places(weights);
    all.iter().filter(|place| place.experts.is_none()).try_for_each(|place| reader.single(place))?;
    let banks: Vec<&Place> = all.iter().filter(|place| place.experts.is_some()).collect();
    banks.chunks_exact(3).try_for_each(|banks| reader.banks([banks[0], banks[1], banks[2]]))?;
    reader.split_inputs(weights)?;
    reader.whole_modules(model)?;
    reader.check_taken()?;
    reader.check_targets(&all)?;
    reader.check_whole(weights)?;
    Ok(reader.adapters)
}

/// The factors of one weight.
struct Pair {
    rank: usize,
    scale: f64,
    /// `[rank, in]`.
    a: Vec<f32>,
    /// `[out, rank]`.
    b: Vec<f32>,
}

struct Reader<'a> {
    file: &'a TensorFile,
    config: &'a PeftConfig,
    import: &'a Import,
    /// Names of tensors that found their place.
    taken: BTreeSet<String>,
    adapters: Adapters,
}

impl Reader<'_> {
    /// What the file has for the module at this path.
    fn pair(&mut self, module: &str, inputs: usize, outputs: usize) -> Result<Option<Pair>, ModelError> {
        let names = ["A", "B"].map(|side| format!("{PREFIX}{module}.lora_{side}.weight"));
        match names.each_ref().map(|name| self.file.contains(name)) {
            [false, false] => return Ok(None),
            [true, true] => {}
            [has_a, _] => {
                let (there, missing) = if has_a { (&names[0], &names[1]) } else { (&names[1], &names[0]) };
                return Err(ModelError::Adapter(format!("{there} is there without {missing}")));
            }
        }
        let [a, b] = [self.file.get(&names[0])?, self.file.get(&names[1])?];
        let (rank, alpha) = self.config.of(module);
        // A parameter that is the weight of a module is called by that.
        let (rank, alpha) = match self.config.parameters.is_empty() {
            true => (rank, alpha),
            false if self.names_weight(module) => self.config.of(&format!("{module}.weight")),
            false => (rank, alpha),
        };
        for (name, tensor, wanted) in [(&names[0], &a, [rank, inputs]), (&names[1], &b, [outputs, rank])] {
            if tensor.shape != wanted {
                let (wanted, found) = (wanted.to_vec(), tensor.shape.to_vec());
                return Err(ModelError::Shape { name: name.clone(), wanted, found });
            }
        }
        let pair = Pair { rank, scale: self.config.scale(rank, alpha), a: a.to_f32(), b: b.to_f32() };
        self.taken.extend(names);
        Ok(Some(pair))
    }

    fn names_weight(&self, module: &str) -> bool {
        let weight = format!("{module}.weight");
        self.config
            .parameters
            .iter()
            .any(|parameter| weight == *parameter || weight.ends_with(&format!(".{parameter}")))
    }

    fn scaling(&self, scale: f64, rank: usize) -> Scaling {
        Scaling {
            alpha: self.config.alpha_of(scale, rank) as f32,
            rank_stabilized: self.config.rank_stabilized,
            dropout: self.config.dropout,
        }
    }

    fn put(&mut self, place: &Place, pair: Pair) {
        let Pair { rank, scale, a, b } = pair;
        let scaling = self.scaling(scale, rank);
        let shapes = [vec![rank, place.inputs], vec![place.outputs, rank]];
        let [of_a, of_b] = shapes;
        self.adapters.put(place.clone(), place.adapter([(of_a, a), (of_b, b)], scaling));
    }

    fn single(&mut self, place: &Place) -> Result<(), ModelError> {
        let pair = self.pair(&place.name, place.inputs, place.outputs)?;
        pair.into_iter().for_each(|pair| self.put(place, pair));
        Ok(())
    }

    /// The three projections of a layer's experts, each expert for itself or all in one.
    fn banks(&mut self, banks: [&Place; 3]) -> Result<(), ModelError> {
        let mut is_single = false;
        for place in banks {
            let experts = place.experts.unwrap_or_default();
            let pairs: Vec<Option<Pair>> = (0..experts)
                .map(|expert| self.pair(&place.module_of(expert), place.inputs, place.outputs))
                .collect::<Result<_, _>>()?;
            is_single |= pairs.iter().any(Option::is_some);
            self.put_bank(place, pairs);
        }
        let [gate, _, down] = banks;
        let (bank, _) = gate.bank().expect("a bank has a name");
        let bank = format!("{PREFIX}{bank}");
        let sizes = Sizes { experts: gate.experts.unwrap_or_default(), hidden: gate.inputs, inner: down.inputs };
        for found in experts::read(self.file, &bank, &sizes, self.config, self.import.expert_layout)? {
            if is_single {
                return Err(ModelError::Adapter(format!(
                    "{} adapts all experts of a layer at once, and other tensors single ones",
                    found.names[0]
                )));
            }
            self.taken.extend(found.names.iter().cloned());
            match found.fused {
                Fused::Down => self.put_fused(down, found.rank, found.scale, found.a, found.b),
                Fused::GateUp => self.put_gate_up([banks[0], banks[1]], found),
            }
        }
        Ok(())
    }

    /// Experts of different ranks, or without an adapter, are filled up with zeros, which add nothing and learn
    /// nothing.
    fn put_bank(&mut self, place: &Place, pairs: Vec<Option<Pair>>) {
        let Some(scale) = pairs.iter().flatten().map(|pair| pair.scale).next() else { return };
        let rank = pairs.iter().flatten().map(|pair| pair.rank).max().unwrap_or(0);
        let mut a = vec![0.0; pairs.len() * rank * place.inputs];
        let mut b = vec![0.0; pairs.len() * place.outputs * rank];
        let into = a.chunks_exact_mut(rank * place.inputs).zip(b.chunks_exact_mut(place.outputs * rank));
        for ((a, b), pair) in into.zip(&pairs) {
            let Some(pair) = pair else { continue };
            a[..pair.a.len()].copy_from_slice(&pair.a);
            let factor = (pair.scale / scale) as f32;
            for (to, from) in b.chunks_exact_mut(rank).zip(pair.b.chunks_exact(pair.rank)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = factor * from);
            }
        }
        self.put_fused(place, rank, scale, a, b);
    }

    fn put_fused(&mut self, place: &Place, rank: usize, scale: f64, a: Vec<f32>, b: Vec<f32>) {
        let experts = place.experts.unwrap_or_default();
        let scaling = self.scaling(scale, rank);
        let factors = [(vec![experts, rank, place.inputs], a), (vec![experts, place.outputs, rank], b)];
        self.adapters.put(place.clone(), place.adapter(factors, scaling));
    }

    /// Gate and up have one A in PEFT: each gets a copy, or its half where the other half is not its own.
    fn put_gate_up(&mut self, places: [&Place; 2], found: FusedFactors) {
        let FusedFactors { rank, scale, a, b, .. } = found;
        let (inner, hidden) = (places[0].outputs, places[0].inputs);
        let half = |part: usize| -> Vec<f32> {
            let experts = b.chunks_exact(2 * inner * rank);
            experts.flat_map(|expert| &expert[part * inner * rank..(part + 1) * inner * rank]).copied().collect()
        };
        let halves = [half(0), half(1)];
        if !is_block_diagonal(&halves, rank) {
            let [gate, up] = halves;
            self.put_fused(places[0], rank, scale, a.clone(), gate);
            return self.put_fused(places[1], rank, scale, a, up);
        }
        for (part, (place, b)) in places.into_iter().zip(halves).enumerate() {
            let own = rank / 2;
            let rows = a.chunks_exact(rank * hidden);
            let a = rows.flat_map(|a| &a[part * own * hidden..(part + 1) * own * hidden]).copied().collect();
            let b = b.chunks_exact(rank).flat_map(|row| &row[part * own..(part + 1) * own]).copied().collect();
            self.put_fused(place, own, scale, a, b);
        }
    }

    /// A delta layer's input projection where a model has it in two parts: both have its A, and their rows of its B.
    fn split_inputs(&mut self, weights: &Weights) -> Result<(), ModelError> {
        for layer in &weights.layers {
            let Mixer::Delta(delta) = &layer.mixer else { continue };
            let DeltaInput::Split { qkv, z } = &delta.input else { continue };
            let name = super::places::module(&qkv.weight.name);
            let whole = format!("{name}z");
            let outputs = qkv.output_width() + z.output_width();
            let Some(pair) = self.pair(&whole, qkv.input_width(), outputs)? else { continue };
            let columns = DeltaColumns::of(&delta.gates.shape);
            for (map, rows) in [(qkv, &columns.qkv), (z, &columns.z)] {
                let place = Place {
                    name: super::places::module(&map.weight.name).to_owned(),
                    inputs: map.input_width(),
                    outputs: map.output_width(),
                    experts: None,
                };
                let row = |row: usize| &pair.b[row * pair.rank..(row + 1) * pair.rank];
                let b = rows.indices().flat_map(row).copied().collect();
                self.put(&place, Pair { rank: pair.rank, scale: pair.scale, a: pair.a.clone(), b });
            }
        }
        Ok(())
    }

    /// Modules that were trained whole, which stand beside the adapters under their own names.
    fn whole_modules(&mut self, model: &Model) -> Result<(), ModelError> {
        for mut parameter in whole::outlines(model) {
            let name = format!("{PREFIX}{}", parameter.name);
            if !self.file.contains(&name) {
                continue;
            }
            let tensor = self.file.get(&name)?;
            if tensor.shape != parameter.shape {
                let (wanted, found) = (parameter.shape, tensor.shape.to_vec());
                return Err(ModelError::Shape { name, wanted, found });
            }
            let mut values = tensor.to_f32();
            let offset = whole::stored_offset(model, &parameter.name);
            values.iter_mut().for_each(|value| *value += offset);
            let (rows, columns) = (parameter.matrix.rows, parameter.matrix.columns);
            parameter.matrix = Matrix::from_f32(rows, columns, values);
            self.adapters.put_whole(parameter);
            self.taken.insert(name);
        }
        match model.weights.separate_head {
            None => self.tied_head(),
            Some(_) => Ok(()),
        }
    }

    /// Where the table of tokens is the head too, PEFT has both, and they must be the same.
    fn tied_head(&mut self) -> Result<(), ModelError> {
        let [table, head] = ["model.embed_tokens.weight", "lm_head.weight"].map(|name| format!("{PREFIX}{name}"));
        match [&table, &head].map(|name| self.file.contains(name)) {
            [false, false] => return Ok(()),
            [true, true] if self.file.get(&table)?.to_f32() == self.file.get(&head)?.to_f32() => {
                self.taken.insert(head);
                return Ok(());
            }
            _ => {}
        }
        Err(ModelError::Adapter(
            "this model's table of tokens is its head too, and the adapter has another one for each: train it with \
             ensure_weight_tying = true"
                .into(),
        ))
    }

    /// What is said to be saved whole and is not there would silently be the base's.
    fn check_whole(&self, weights: &Weights) -> Result<(), ModelError> {
        let mut names = Vec::new();
        weights.visit(&mut |parameter| names.push(whole::module_of(&parameter.name)));
        for module in &self.config.whole {
            let is_meant = |name: &str| name.ends_with(module.as_str());
            let is_there = self.adapters.whole_names().any(|name| is_meant(whole::module_of(name)));
            if names.iter().any(|name| is_meant(name)) && !is_there {
                return Err(ModelError::Adapter(format!(
                    "{CONFIG} says that {module} was trained whole, and {TENSORS} holds no tensor for it"
                )));
            }
        }
        Ok(())
    }

    fn check_taken(&self) -> Result<(), ModelError> {
        let left: Vec<&str> = self.file.names().filter(|name| !self.taken.contains(*name)).collect();
        let Some(first) = left.first() else {
            return match self.adapters.is_empty() {
                true => Err(ModelError::Adapter(format!("{TENSORS} holds no tensors"))),
                false => Ok(()),
            };
        };
        let why = match first {
            name if name.contains("lora_magnitude") => "DoRA is not supported",
            name if name.contains("lora_embedding") => "adapters of embeddings are not supported",
            name if !name.starts_with(PREFIX) => "the names of PEFT begin with base_model.model.",
            name if !name.contains(".lora_") => "this model has no such module, or has it in another layout",
            _ => "the adapter was made for another model",
        };
        let (count, all) = (left.len(), self.file.len());
        Err(ModelError::Adapter(format!(
            "{count} of {all} tensors fit no module of this model, such as {first}: {why}"
        )))
    }

    /// A target without any tensor would be silently left out.
    fn check_targets(&self, places: &[Place]) -> Result<(), ModelError> {
        if self.config.leaves_out {
            return Ok(());
        }
        let missing = |text: &str| {
            let message = format!("{CONFIG} says that {text} is adapted, and {TENSORS} holds no tensor for it");
            Err(ModelError::Adapter(message))
        };
        let is_adapted = |name: &str| self.adapters.of_weight(&format!("{name}.weight")).is_some();
        for pattern in &self.config.targets {
            let names: Vec<String> = places.iter().map(|place| place.module_of(0)).collect();
            let matching: Vec<&String> = names.iter().filter(|name| pattern.matches(name)).collect();
            if !matching.is_empty() && !matching.iter().any(|name| is_adapted(name)) {
                return missing(pattern.text());
            }
        }
        for parameter in &self.config.parameters {
            let fused = [("experts.gate_up_proj", &PROJECTIONS[..2]), ("experts.down_proj", &PROJECTIONS[2..])];
            let Some((_, projections)) = fused.iter().find(|(name, _)| parameter.ends_with(name)) else { continue };
            let mut adapted = self.adapters.iter().filter_map(|(place, _)| place.bank());
            if !adapted.any(|(_, projection)| projections.contains(&projection)) {
                return missing(parameter);
            }
        }
        Ok(())
    }
}

/// Whether gate's rows of B use the first half of the ranks alone and up's the second: two adapters side by side.
fn is_block_diagonal([gate, up]: &[Vec<f32>; 2], rank: usize) -> bool {
    let half = rank / 2;
    let all_zero = |b: &[f32], second: bool| {
        let columns = if second { half..rank } else { 0..half };
        b.chunks_exact(rank).all(|row| row[columns.clone()].iter().all(|&value| value == 0.0))
    };
    let has_both = !all_zero(gate, false) && !all_zero(up, true);
    rank.is_multiple_of(2) && has_both && all_zero(gate, true) && all_zero(up, false)
}
