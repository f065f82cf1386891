//! Plans as TOML.

use super::{LayerPlan, Plan, PlanError};
use formats::FormatsError;
use std::fmt::{Display, Write};
use std::path::Path;

const HEAD: &str = "\
# What becomes of the experts of every mixture layer. Each expert has one place: `keep`, `drop`, or `from` of a merge
# into one that stays. Edit it, and give it to `lateen compress MODEL --plan THIS --out FOLDER`.
# Super-experts must stay as they are. Saliency and tokens are for the reader: entry e is of expert e.
";

impl Plan {
    /// The file's text.
    pub fn to_toml(&self) -> String {
        let mut text = HEAD.to_owned();
        self.layers.iter().for_each(|layer| layer.write(&mut text));
        text
    }

    /// Reads what [`Plan::to_toml`] wrote, or what was made of it. Keys that it does not know are refused.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    pub fn save(&self, path: &Path) -> Result<(), FormatsError> {
        formats::write_atomically(path, |file| file.write_all(self.to_toml().as_bytes()))
    }

    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let problem = |problem: String| PlanError::File { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
        Self::from_toml(&text).map_err(problem)
    }
}

impl LayerPlan {
    fn write(&self, text: &mut String) {
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!("\n[[layer]]\nlayer = {}", self.layer));
        line(format!("keep = [{}]", listed(&self.keep)));
        line(format!("drop = [{}]", listed(&self.drop)));
        if !self.super_experts.is_empty() {
            line(format!("super_experts = [{}]", listed(&self.super_experts)));
        }
        if !self.saliency.is_empty() {
            let saliency: Vec<String> = self.saliency.iter().map(|value| format!("{value:?}")).collect();
            line(format!("saliency = [{}]", saliency.join(", ")));
        }
        if !self.tokens.is_empty() {
            line(format!("tokens = [{}]", listed(&self.tokens)));
        }
        for merge in &self.merge {
            line(format!("\n[[layer.merge]]\ninto = {}\nfrom = [{}]", merge.into, listed(&merge.from)));
        }
    }
}

fn listed(values: &[impl Display]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(text, "{separator}{value}").expect("a string takes everything");
    }
    text
}
