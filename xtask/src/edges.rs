//! Which crate may use which: nouns below, verbs above, and outside libraries declared in one place.

use crate::Finding;
use std::path::Path;
use toml::{Table, Value};

/// A crate, and those of ours that it may use. A noun never uses a verb; a verb uses earlier verbs only.
/// A new crate or a new edge is a line here, and that line is what a reviewer argues about.
const ALLOWED: &[(&str, &[&str])] = &[
    // Nouns.
    ("numeric", &[]),
    ("kernels", &["numeric"]),
    ("ops", &["numeric", "kernels"]),
    ("formats", &["numeric"]),
    ("text", &[]),
    ("models", &["numeric", "kernels", "ops", "formats"]),
    ("engine", &["numeric", "kernels", "ops", "models"]),
    // Tasks need random numbers and speak in chat messages; they know nothing of models.
    ("environment", &["numeric", "text"]),
    // Verbs, in their order.
    ("prepare", &["numeric", "formats", "text", "environment"]),
    ("train", &["numeric", "kernels", "ops", "formats", "text", "models", "engine", "environment", "prepare"]),
    (
        "compress",
        &["numeric", "kernels", "ops", "formats", "text", "models", "engine", "environment", "prepare", "train"],
    ),
    (
        "evaluate",
        &[
            "numeric",
            "kernels",
            "ops",
            "formats",
            "text",
            "models",
            "engine",
            "environment",
            "prepare",
            "train",
            "compress",
        ],
    ),
    (
        "lateen",
        &[
            "numeric",
            "kernels",
            "ops",
            "formats",
            "text",
            "models",
            "engine",
            "environment",
            "prepare",
            "train",
            "compress",
            "evaluate",
        ],
    ),
    ("xtask", &[]),
];

/// Libraries that only some crates may use: an error type of everything belongs where errors are shown.
const RESERVED: &[(&str, &[&str])] = &[("anyhow", &["lateen"]), ("clap", &["lateen"])];

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks one crate's Cargo.toml.
pub(crate) fn check_crate(path: &Path, text: &str) -> Vec<Finding> {
    let finding = |message: String| Finding { place: path.display().to_string(), message };
    let manifest: Table = match text.parse() {
        Ok(manifest) => manifest,
        Err(error) => return vec![finding(format!("does not parse: {error}"))],
    };
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str).unwrap_or("");
    let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
        return vec![finding(format!("the crate {name:?} is not in the table of edges in xtask/src/edges.rs"))];
    };
    let mut findings = Vec::new();
    if manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool) != Some(true) {
        findings.push(finding("does not take the workspace's lints: add [lints] workspace = true".to_owned()));
    }
    for (dependency, from_workspace) in dependencies(&manifest) {
        let ours = ALLOWED.iter().any(|(crate_name, _)| *crate_name == dependency);
        if ours && !allowed.contains(&dependency.as_str()) {
            findings.push(finding(format!("{name} may not use {dependency}; it may use {allowed:?}")));
        }
        if let Some((_, users)) = RESERVED.iter().find(|(library, _)| *library == dependency)
            && !users.contains(&name)
        {
            findings.push(finding(format!("{dependency} is for {users:?} only")));
        }
        if !from_workspace {
            let message = format!("{dependency} must be declared in the root and used with workspace = true");
            findings.push(finding(message));
        }
    }
    findings
}

/// Every dependency with whether it is the workspace's, those under `[target.…]` too.
fn dependencies(manifest: &Table) -> Vec<(String, bool)> {
    let per_target = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|targets| targets.values());
    let tables = per_target.filter_map(Value::as_table).chain([manifest]);
    let sections = tables.flat_map(|table| SECTIONS.iter().filter_map(|section| table.get(*section)?.as_table()));
    let from_workspace = |value: &Value| value.get("workspace").and_then(Value::as_bool) == Some(true);
    sections.flatten().map(|(name, value)| (name.clone(), from_workspace(value))).collect()
}

/// Every outside library of the root manifest is explained in ARCHITECTURE.md.
pub(crate) fn check_explained(root_manifest: &str, architecture: &str) -> Vec<Finding> {
    let place = "Cargo.toml".to_owned();
    let Ok(manifest) = root_manifest.parse::<Table>() else {
        return vec![Finding { place, message: "does not parse".to_owned() }];
    };
    let declared =
        manifest.get("workspace").and_then(|workspace| workspace.get("dependencies")).and_then(Value::as_table);
    let outside = declared.into_iter().flatten().filter(|(_, value)| value.get("path").is_none());
    outside
        .filter(|(name, _)| !architecture.contains(&format!("`{name}`")))
        .map(|(name, _)| {
            let message = format!("the dependency `{name}` is not explained in ARCHITECTURE.md");
            Finding { place: place.clone(), message }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, rest: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}");
        check_crate(Path::new("x/Cargo.toml"), &text).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn the_order_of_the_table_allows_only_what_stands_above() {
        for (at, (name, allowed)) in ALLOWED.iter().enumerate() {
            for used in *allowed {
                let position =
                    ALLOWED.iter().position(|(other, _)| other == used).expect("only known crates are listed");
                assert!(position < at, "{name} uses {used}, which comes later");
            }
        }
    }

    #[test]
    fn a_noun_may_not_use_a_verb_even_in_tests() {
        assert_eq!(messages("models", "[dependencies]\nops.workspace = true"), [""; 0]);
        let found = messages("models", "[dev-dependencies]\ntrain = { workspace = true }");
        assert!(found[0].contains("models may not use train"), "{found:?}");
        let found = messages("train", "[target.'cfg(unix)'.dependencies]\nevaluate.workspace = true");
        assert!(found[0].contains("train may not use evaluate"), "{found:?}");
    }

    #[test]
    fn versions_stand_in_the_root_and_anyhow_in_the_program() {
        let found = messages("ops", "[dependencies]\nrayon = \"1\"");
        assert!(found[0].contains("rayon must be declared in the root"), "{found:?}");
        let found = messages("ops", "[dependencies]\nanyhow.workspace = true");
        assert!(found[0].contains("anyhow is for"), "{found:?}");
        assert!(messages("attic", "")[0].contains("not in the table"));
        let bare = check_crate(Path::new("x"), "[package]\nname = \"ops\"");
        assert!(bare[0].message.contains("lints"), "{:?}", bare[0].message);
    }

    #[test]
    fn each_library_is_explained() {
        let root = "[workspace.dependencies]\nops = { path = \"machine/ops\" }\nrayon = \"1\"\nhalf = \"2\"\n";
        let found = check_explained(root, "| `half` | half floats |");
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("`rayon`"));
    }
}
