//! How a repository's tests are run, as far as its own files show it.

use super::Desk;
use super::change::Work;
use super::git::{Entry, Sort};
use super::path::{extension_of, folder_of, is_test, name_of};
use super::workspace::Workspace;
use crate::error::PrepareError;
use std::collections::BTreeSet;

/// How a change is tested.
pub(super) struct Testing {
    pub(super) command: String,
    /// Files of the change whose tests the command is known to run.
    pub(super) runs: Vec<String>,
}

/// The command that tests a change; none where the tree does not show one.
pub(super) fn testing(desk: &mut Desk, work: &Work) -> Result<Option<Testing>, PrepareError> {
    let touched: Vec<&str> = work.files.iter().map(|file| file.path.as_str()).collect();
    let left: Vec<&str> = work.files.iter().filter(|file| file.new.is_some()).map(|file| file.path.as_str()).collect();
    let tests = |extensions: &[&str]| -> Vec<String> {
        let is_one = |path: &&&str| is_test(path) && extensions.contains(&extension_of(path).as_str());
        left.iter().filter(is_one).map(|path| (*path).to_owned()).collect()
    };
    let mut workspace = desk.workspace(&work.tree);
    let top = workspace.repository.entries(&work.tree)?;
    let has = |name: &str| is_there(&top, name);
    let extension = extension_of(work.main_path());
    let by_language = match extension.as_str() {
        "rs" if has("Cargo.toml") => Some(cargo(&mut workspace, &touched)?),
        "go" if has("go.mod") => Some(go(&touched)),
        "js" | "jsx" | "mjs" | "cjs" | "ts" | "tsx" | "vue" | "svelte" if has("package.json") => {
            let runs = tests(&["js", "jsx", "mjs", "cjs", "ts", "tsx"]);
            package(&mut workspace, &top)?.map(|command| Testing { command, runs })
        }
        "py" => {
            let runs = tests(&["py"]);
            python(&mut workspace, &top, &runs)?.map(|command| Testing { command, runs })
        }
        "java" | "kt" => {
            let tools = [
                ("pom.xml", "mvn test"),
                ("gradlew", "./gradlew test"),
                ("build.gradle", "gradle test"),
                ("build.gradle.kts", "gradle test"),
            ];
            let command = tools.into_iter().find(|(file, _)| has(file)).map(|(_, command)| command.to_owned());
            command.map(|command| Testing { command, runs: tests(&["java", "kt"]) })
        }
        _ => None,
    };
    match by_language {
        Some(testing) => Ok(Some(testing)),
        // What a rule of a makefile runs is not looked into.
        None => Ok(make(&mut workspace, &top)?.map(|command| Testing { command, runs: Vec::new() })),
    }
}

fn is_there(entries: &[Entry], name: &str) -> bool {
    entries.iter().any(|entry| entry.name == name && entry.sort == Sort::File)
}

/// The tests of every package that is touched.
fn cargo(workspace: &mut Workspace, touched: &[&str]) -> Result<Testing, PrepareError> {
    let (mut packages, mut is_top) = (Vec::new(), false);
    for path in touched.iter().filter(|path| extension_of(path) != "md") {
        match package_of(workspace, path)? {
            Some(name) if packages.contains(&name) => {}
            Some(name) => packages.push(name),
            // Recipes and the like, which no package holds, need none.
            None => is_top |= extension_of(path) == "rs",
        }
    }
    let command = match (is_top, packages.as_slice()) {
        (_, []) => "cargo test".to_owned(),
        (true, _) => "cargo test --workspace".to_owned(),
        (false, packages) => format!("cargo test -p {}", packages.join(" -p ")),
    };
    // Examples and benchmarks are built with the tests, and not run.
    let runs = |path: &&&str| {
        extension_of(path) == "rs" && !path.split('/').any(|part| ["examples", "benches"].contains(&part))
    };
    Ok(Testing { command, runs: touched.iter().filter(runs).map(|path| (*path).to_owned()).collect() })
}

/// The package that a file is in, where it is not the one at the top.
fn package_of(workspace: &mut Workspace, path: &str) -> Result<Option<String>, PrepareError> {
    let mut folder = folder_of(path);
    while !folder.is_empty() {
        if let Some(text) = workspace.text(&format!("{folder}/Cargo.toml"))? {
            let table: Option<toml::Table> = text.parse().ok();
            return Ok(table.and_then(|table| Some(table.get("package")?.get("name")?.as_str()?.to_owned())));
        }
        folder = folder_of(folder);
    }
    Ok(None)
}

fn go(touched: &[&str]) -> Testing {
    let code: Vec<&str> = touched.iter().copied().filter(|path| extension_of(path) == "go").collect();
    let folders: BTreeSet<String> = code
        .iter()
        .map(|path| match folder_of(path) {
            "" => ".".to_owned(),
            folder => format!("./{folder}/..."),
        })
        .collect();
    let command = format!("go test {}", folders.into_iter().collect::<Vec<_>>().join(" "));
    Testing { command, runs: code.into_iter().map(str::to_owned).collect() }
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
