//! How a repository's tests are run, as far as its own files show it.

use super::Desk;
use super::change::Work;
use super::git::{Entry, Sort};
use super::path::{extension_of, folder_of, is_test, name_of};
use super::workspace::Workspace;
use crate::error::PrepareError;

/// The command that tests a change; none where the tree does not show one.
pub(super) fn test_command(desk: &mut Desk, work: &Work) -> Result<Option<String>, PrepareError> {
    let path = work.main_path().to_owned();
    let tested: Vec<String> = work
        .files
        .iter()
        .filter(|file| file.new.is_some() && is_test(&file.path))
        .map(|file| file.path.clone())
        .collect();
    let mut workspace = desk.workspace(&work.tree);
    let top = workspace.repository.entries(&work.tree)?;
    let has = |name: &str| is_there(&top, name);
    let by_language = match extension_of(&path).as_str() {
        "rs" if has("Cargo.toml") => Some(cargo(&mut workspace, &path)?),
        "go" if has("go.mod") => Some(go(&path)),
        "js" | "jsx" | "mjs" | "cjs" | "ts" | "tsx" | "vue" | "svelte" if has("package.json") => {
            package(&mut workspace, &top)?
        }
        "py" => python(&mut workspace, &top, &tested)?,
        "java" | "kt" if has("pom.xml") => Some("mvn test".to_owned()),
        "java" | "kt" if has("gradlew") => Some("./gradlew test".to_owned()),
        "java" | "kt" if has("build.gradle") || has("build.gradle.kts") => Some("gradle test".to_owned()),
        _ => None,
    };
    match by_language {
        Some(command) => Ok(Some(command)),
        None => make(&mut workspace, &top),
    }
}

fn is_there(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|entry| entry.name == name && entry.sort == Sort::File)
}

/// The package that a file is in, where it is not the one at the top.
fn cargo(workspace: &mut Workspace, path: &str) -> Result<String, PrepareError> {
    let mut folder = folder_of(path);
    while !folder.is_empty() {
        if let Some(text) = workspace.text(&format!("{folder}/Cargo.toml"))? {
            let table: Option<toml::Table> = text.parse().ok();
            let name = table.and_then(|table| Some(table.get("package")?.get("name")?.as_str()?.to_owned()));
            return Ok(name.map_or_else(|| "cargo test".to_owned(), |name| format!("cargo test -p {name}")));
        }
        folder = folder_of(folder);
    }
    Ok("cargo test".to_owned())
}

fn go(path: &str) -> String {
    match folder_of(path) {
        "" => "go test .".to_owned(),
        folder => format!("go test ./{folder}/..."),
    }
}

fn package(workspace: &mut Workspace, top: &[Entry]) -> Result<Option<String>, PrepareError> {
    let Some(text) = workspace.text("package.json")? else { return Ok(None) };
    let value: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let script = value.as_ref().and_then(|value| value.get("scripts")?.get("test")?.as_str());
    // What `npm init` writes.
    if script.is_none_or(|script| script.contains("no test specified")) {
        return Ok(None);
    }
    let managers = [("pnpm-lock.yaml", "pnpm test"), ("yarn.lock", "yarn test"), ("bun.lock", "bun run test")];
    let manager = managers.into_iter().find(|(lock, _)| is_there(top, lock)).map_or("npm test", |(_, command)| command);
    Ok(Some(manager.to_owned()))
}

fn python(workspace: &mut Workspace, top: &[Entry], tested: &[String]) -> Result<Option<String>, PrepareError> {
    let mut is_pytest = ["pytest.ini", "conftest.py"].iter().any(|name| is_there(top, name));
    for name in ["pyproject.toml", "setup.cfg", "tox.ini", "requirements-dev.txt"] {
        is_pytest |= workspace.text(name)?.is_some_and(|text| text.contains("pytest"));
    }
    let files: Vec<&str> = tested.iter().map(String::as_str).filter(|path| extension_of(path) == "py").collect();
    let has_tests =
        top.iter().any(|entry| entry.sort == Sort::Folder && ["tests", "test"].contains(&entry.name.as_str()));
    Ok(match (is_pytest, files.as_slice()) {
        (true, []) => Some("python -m pytest".to_owned()),
        (true, files) => Some(format!("python -m pytest {}", files.join(" "))),
        (false, _) if has_tests => Some("python -m unittest".to_owned()),
        _ => None,
    })
}

fn make(workspace: &mut Workspace, top: &[Entry]) -> Result<Option<String>, PrepareError> {
    for (file, command) in [("Makefile", "make"), ("makefile", "make"), ("justfile", "just"), ("Justfile", "just")] {
        if !top.iter().any(|entry| entry.name == name_of(file)) {
            continue;
        }
        let text = workspace.text(file)?.unwrap_or_default();
        for target in ["test", "tests", "check"] {
            if text.lines().any(|line| line.strip_prefix(target).is_some_and(|rest| rest.starts_with([':', ' ']))) {
                return Ok(Some(format!("{command} {target}")));
            }
        }
    }
    Ok(None)
}
