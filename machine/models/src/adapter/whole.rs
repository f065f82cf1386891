//! Modules that are trained whole beside adapters, and saved with them: PEFT's `modules_to_save`.
//!
//! In a model with adapters such a module is one whose own parameters are trained. It holds f32 numbers, which stand in
//! the place of the base's and are not added to them.

use super::pattern::Pattern;
use super::places::{is_factor, module};
use crate::{Model, ModelError, ModelType};
use numeric::{Format, Matrix};
use ops::Parameter;

/// The path of the module that a parameter belongs to.
pub(crate) fn module_of(parameter: &str) -> &str {
    parameter.strip_suffix(".bias").unwrap_or(module(parameter))
}

/// Why a parameter cannot be trained beside adapters and given to PEFT, if so.
fn obstacle(parameter: &Parameter) -> Option<String> {
    let name = &parameter.name;
    if module_of(name) == name {
        return Some("it is a number of its layer and no module, which PEFT could not save".to_owned());
    }
    if name.contains(".experts.") {
        return Some("routed experts lie in one tensor each layer; name them in targets, with a high rank".to_owned());
    }
    if parameter.matrix.format().block_columns() > 1 {
        let format = formats::gguf::name_of(parameter.matrix.format());
        return Some(format!("its base is frozen in {format}, and whole modules start from exact numbers"));
    }
    None
}

/// The names of the parameters that `texts` ask for, in the way of targets.
pub(crate) fn chosen(model: &Model, texts: &[String]) -> Result<Vec<String>, ModelError> {
    let parameters = model.parameters();
    let all: Vec<&Parameter> = parameters.into_iter().filter(|parameter| !is_factor(&parameter.name)).collect();
    let mut names = Vec::new();
    for text in texts {
        let pattern = Pattern::new(text)?;
        let matching: Vec<_> = all.iter().filter(|parameter| pattern.matches(module_of(&parameter.name))).collect();
        if matching.is_empty() {
            return Err(ModelError::Adapter(unknown(model, text)));
        }
        for parameter in matching {
            if let Some(why) = obstacle(parameter) {
                let name = &parameter.name;
                return Err(ModelError::Adapter(format!("modules_to_save names {text:?}, which is {name}: {why}")));
            }
            names.push(parameter.name.clone());
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn unknown(model: &Model, text: &str) -> String {
    if text == "lm_head" && model.weights.separate_head.is_none() {
        return "modules_to_save names \"lm_head\", which is the table of tokens in this model: name embed_tokens"
            .to_owned();
    }
    let parameters = model.parameters();
    let own = parameters.iter().filter(|parameter| obstacle(parameter).is_none() && !is_factor(&parameter.name));
    let mut known: Vec<&str> = own.filter_map(|parameter| module_of(&parameter.name).rsplit('.').next()).collect();
    known.sort_unstable();
    known.dedup();
    format!(
        "modules_to_save names {text:?}, and no module of this model is called that; there are {}",
        known.join(", ")
    )
}

/// The parameters that a directory may have whole, without their numbers.
pub(crate) fn outlines(model: &Model) -> impl Iterator<Item = Parameter> + '_ {
    let own = |parameter: &&Parameter| !is_factor(&parameter.name) && !parameter.name.contains(".experts.");
    model.parameters().into_iter().filter(own).map(|parameter| {
        let Matrix { rows, columns, .. } = parameter.matrix;
        let matrix = Matrix::outline(rows, columns, Format::F32, false);
        let (name, shape) = (parameter.name.clone(), parameter.shape.clone());
        Parameter { id: parameter.id, name, shape, trained: true, matrix }
    })
}

/// What is added to a module's numbers as PEFT has them: a GGUF file has the norms of qwen3_next centred on one, and
/// `transformers` on zero.
pub(crate) fn stored_offset(model: &Model, parameter: &str) -> f32 {
    let is_norm = parameter.ends_with("norm.weight") && !parameter.ends_with("linear_attn.norm.weight");
    let is_centred = model.config.model_type == ModelType::Qwen3Next && model.weights.final_norm.offset == 0.0;
    if is_norm && is_centred { 1.0 } else { 0.0 }
}

/// Names for PEFT that mean these modules and no others. It takes every module whose path ends with the text, also
/// within a word: `gate` would mean `shared_expert_gate` too.
pub(crate) fn names(model: &Model, whole: &[&Parameter]) -> Vec<String> {
    let parameters = model.parameters();
    let mut all: Vec<String> = parameters.iter().map(|parameter| module_of(&parameter.name).to_owned()).collect();
    // The modules that hold those, down to the root.
    let mut at = 0;
    while at < all.len() {
        let holder = all[at].rsplit_once('.').map(|(holder, _)| holder.to_owned());
        all.extend(holder.filter(|holder| !all.contains(holder)));
        at += 1;
    }
    let is_saved = |module: &str| whole.iter().any(|parameter| module_of(&parameter.name) == module);
    let means_these = |text: &str| all.iter().filter(|module| module.ends_with(text)).all(|module| is_saved(module));
    let mut names: Vec<String> = Vec::new();
    for parameter in whole {
        let module = module_of(&parameter.name);
        let kind = module.split_once(".layers.").and_then(|(_, rest)| rest.split_once('.')).map(|(_, kind)| kind);
        let last = module.rsplit('.').next();
        let short = [last, kind].into_iter().flatten().find(|text| means_these(text));
        names.push(short.unwrap_or(module).to_owned());
    }
    names.sort();
    names.dedup();
    names
}

/// Marks the parameters of these names as trained, and makes them f32 with `widen`.
pub(crate) fn mark(model: &mut Model, names: &[String], widen: &dyn Fn(&Matrix) -> Matrix) {
    model.weights.visit_mut(&mut |parameter| {
        if names.binary_search(&parameter.name).is_ok() {
            parameter.matrix = widen(&parameter.matrix);
            parameter.trained = true;
        }
    });
}

/// The parameters of a model with adapters that are trained whole.
pub(crate) fn of(model: &Model) -> Vec<&Parameter> {
    let parameters = model.parameters().into_iter();
    parameters.filter(|parameter| parameter.trained && !is_factor(&parameter.name)).collect()
}
