//! Regular expressions that name modules, with PEFT's meaning: one matches a whole path, or the end of a path after a
//! dot.

use crate::ModelError;
use regex::bytes::{Regex, RegexBuilder};

#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// `q_proj`, `layers\.3\.mlp\..*`: what may stand after a dot.
    pub(crate) fn new(text: &str) -> Result<Self, ModelError> {
        Self::compile(text, format!(r"\A(?:.*\.)?(?:{text})\z"))
    }

    /// The whole path.
    pub(crate) fn whole(text: &str) -> Result<Self, ModelError> {
        Self::compile(text, format!(r"\A(?:{text})\z"))
    }

    fn compile(text: &str, whole: String) -> Result<Self, ModelError> {
        // Names of modules are ASCII: tables of Unicode would only weigh.
        let build = |text: &str| {
            RegexBuilder::new(text).unicode(false).size_limit(1 << 20).build().map_err(|error| {
                let error = error.to_string();
                // The last line says what is wrong, those before it draw the place.
                let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                ModelError::Adapter(format!("{text:?} is not a regular expression that can be read here: {reason}"))
            })
        };
        // By itself first: `a)(b` would be whole in our brackets.
        build(text)?;
        Ok(Self { text: text.to_owned(), regex: build(&whole)? })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn matches(&self, module: &str) -> bool {
        self.regex.is_match(module.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_end_of_a_path_after_a_dot() {
        for (text, module, wanted) in [
            ("q_proj", "model.layers.0.self_attn.q_proj", true),
            ("proj", "model.layers.0.self_attn.q_proj", false),
            ("q_proj|k_proj", "model.layers.0.self_attn.k_proj", true),
            ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", true),
            (r"layers\.[0-3]\..*_proj", "model.layers.3.mlp.down_proj", true),
            (r"layers\.[0-3]\..*_proj", "model.layers.13.mlp.down_proj", false),
            (r".*\.gate_up_proj", "model.layers.1.mlp.experts.gate_up_proj", true),
            ("gate", "model.layers.1.mlp.shared_expert_gate", false),
            ("lm_head", "lm_head", true),
        ] {
            assert_eq!(Pattern::new(text).expect(text).matches(module), wanted, "{text} and {module}");
        }
        assert!(!Pattern::whole("q_proj").expect("it is one").matches("model.layers.0.self_attn.q_proj"));
        assert!(Pattern::new("q_proj)(").is_err());
        let error = Pattern::new("(?=x)q_proj").expect_err("no lookahead").to_string();
        assert!(error.contains("(?=x)q_proj") && error.contains("look-around"), "{error}");
    }
}
