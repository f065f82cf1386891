//! Mining, on repositories that are made here: what is kept is true to the tree, what must not be learnt is not there.

mod repositories;

use prepare::{MineRecipe, MineReport, MinedKind, PrepareError, Unwatched, mine};
use repositories::Folder;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn recipe(repository: &Path) -> MineRecipe {
    MineRecipe { repositories: vec![repository.to_owned()], ..MineRecipe::default() }
}

fn mined(folder: &Folder, recipe: &MineRecipe) -> (MineReport, BTreeMap<String, Vec<Value>>) {
    let out = folder.path().join("mined");
    let report = mine(recipe, &out, None, &Unwatched).unwrap_or_else(|error| panic!("{error}"));
    let read = |kind: MinedKind| {
        let text = std::fs::read_to_string(out.join(format!("{}.jsonl", kind.name()))).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        (kind.name().to_owned(), lines)
    };
    (report, MinedKind::ALL.map(read).into_iter().collect())
}

fn text_of<'a>(message: &'a Value, key: &str) -> &'a str {
    message.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The calls of an episode, each with its result; none where the episode ends with the call.
fn calls(episode: &Value) -> Vec<(String, Value, Option<String>)> {
    let messages = episode["messages"].as_array().expect("messages");
    let mut calls = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let function = &call["function"];
            assert!(function["arguments"].is_object(), "arguments are an object: {call}");
            let result =
                messages.get(index + 1).filter(|next| next["role"] == "tool").map(|next| text_of(next, "content"));
            calls.push((
                text_of(function, "name").to_owned(),
                function["arguments"].clone(),
                result.map(str::to_owned),
            ));
        }
    }
    calls
}

/// Plays the edits of an episode on the files as they were.
fn played(mut files: BTreeMap<String, String>, episode: &Value) -> BTreeMap<String, String> {
    for (name, arguments, result) in calls(episode) {
        let path = text_of(&arguments, "path").to_owned();
        match name.as_str() {
            "read_file" if arguments.get("first_line").is_none() => {
                assert_eq!(files[&path].trim_end(), result.expect("a reading has a result"), "{path}");
            }
            "read_file" => {
                let [first, last] =
                    ["first_line", "last_line"].map(|key| arguments[key].as_u64().expect("a number") as usize);
                let lines: Vec<&str> = files[&path].lines().collect();
                assert_eq!(lines[first - 1..last].join("\n"), result.expect("a reading has a result"), "{path}");
            }
            "search" => {
                for line in result.expect("a search has a result").lines().filter(|line| !line.starts_with("and ")) {
                    let mut parts = line.splitn(3, ':');
                    let (path, number) = (parts.next().expect("a path"), parts.next().expect("a line"));
                    let number: usize = number.parse().expect("a number");
                    let shown = parts.next().expect("the line").trim();
                    assert_eq!(files[path].lines().nth(number - 1).map(str::trim), Some(shown));
                    assert!(shown.contains(text_of(&arguments, "text")));
                }
            }
            "edit" => {
                let (old, new) = (text_of(&arguments, "old"), text_of(&arguments, "new"));
                let text = files.get_mut(&path).expect("only files that are there are edited");
                assert_eq!(text.matches(old).count(), 1, "{old:?} in {path}");
                *text = text.replacen(old, new, 1);
            }
            "write_file" => drop(files.insert(path, text_of(&arguments, "text").to_owned())),
            "delete_file" => assert!(files.remove(&path).is_some()),
            "list_files" => assert!(result.is_some_and(|result| !result.is_empty())),
            "run_tests" => assert_eq!(result, None, "nobody ran them"),
            other => panic!("no tool is called {other}"),
        }
    }
    files
}

#[test]
fn replays_lead_to_what_each_commit_made() {
    let folder = Folder::new("replay");
    let repository = folder.calculator();
    let (report, lines) = mined(&folder, &recipe(&repository));
    assert_eq!(report.repositories[0].licence, "MIT");
    let mut enacted = BTreeSet::new();
    for episode in lines["replay"].iter().chain(&lines["debugging"]).filter(|one| one["form"] != "mutant") {
        let commit = text_of(episode, "source").rsplit('@').next().expect("a commit").to_owned();
        let before = folder.files_at(&repository, &format!("{commit}^"));
        assert_eq!(played(before, episode), folder.files_at(&repository, &commit), "{commit}");
        enacted.insert(folder.subject(&repository, &commit));
    }
    let wanted = ["Add division with a clear error", "fix: stop before the end of the list (#7)", "Split parsing off"];
    for subject in wanted {
        assert!(enacted.contains(subject), "{subject} is not among {enacted:?}");
    }
    for subject in ["wip", "Bump version to 2", "Rename the parser", "Add a picture"] {
        assert!(!enacted.contains(subject), "{subject} was enacted");
    }
    let dropped = &report.kinds[&MinedKind::Replay].dropped;
    for why in ["poor message", "renames files", "by a bot", "first commit", "not text"] {
        assert!(dropped.contains_key(why), "{why} is not among {dropped:?}");
    }
    let tally = &report.kinds[&MinedKind::Replay];
    assert_eq!(tally.candidates, tally.kept + tally.dropped.values().sum::<usize>());
}

#[test]
fn an_episode_ends_with_what_is_known() {
    let folder = Folder::new("end");
    let repository = folder.calculator();
    let (_, lines) = mined(&folder, &recipe(&repository));
    let adding = lines["replay"]
        .iter()
        .find(|one| text_of(&one["messages"][0], "content").contains("division"))
        .expect("it is there");
    let all = calls(adding);
    let (name, arguments, result) = all.last().expect("calls");
    assert_eq!(
        (name.as_str(), text_of(arguments, "command"), result),
        ("run_tests", "python -m pytest tests/test_calculator.py", &None)
    );
    assert_eq!(all.iter().filter(|(name, ..)| name == "run_tests").count(), 1);
    let request = text_of(&adding["messages"][0], "content");
    assert!(!request.contains("Signed-off-by") && !request.contains('@') && !request.contains("#12"), "{request}");
    let names: Vec<&str> =
        adding["tools"].as_array().expect("tools").iter().map(|tool| text_of(&tool["function"], "name")).collect();
    assert!(all.iter().all(|(name, ..)| names.contains(&name.as_str())));
}

#[test]
fn a_fix_is_debugging_and_shows_what_a_review_should_have_said() {
    let folder = Folder::new("review");
    let repository = folder.calculator();
    let (report, lines) = mined(&folder, &recipe(&repository));
    let fix = lines["debugging"].iter().find(|one| one["form"] == "fix").expect("the fix");
    let request = text_of(&fix["messages"][0], "content");
    assert!(request.contains("top before the end of the list") && !request.contains("#7"), "{request}");

    let review = lines["review"].iter().find(|one| one["form"] == "fixed_later").expect("a review");
    let [request, answer] = [0usize, 1].map(|index| text_of(&review["messages"][index], "content"));
    assert!(request.contains("+    for i in range(len(numbers) + 1):"), "{request}");
    let lines_of_answer: Vec<&str> = answer.lines().collect();
    assert_eq!(lines_of_answer[0], "request changes");
    let commit = text_of(review, "source").rsplit('@').next().expect("a commit");
    let (path, rest) = lines_of_answer[2].trim_start_matches('`').split_once(':').expect("a place");
    let number: usize = rest.split('`').next().expect("a number").parse().expect("a number");
    let shown = folder.files_at(&repository, commit)[path].lines().nth(number - 1).map(str::trim).map(str::to_owned);
    assert_eq!(shown.as_deref(), Some("for i in range(len(numbers) + 1):"));
    assert!(
        answer.contains("\n-    for i in range(len(numbers) + 1):\n+    for i in range(len(numbers)):\n"),
        "{answer}"
    );

    let approvals = lines["review"].iter().filter(|one| one["form"] == "settled").count();
    let tally = &report.kinds[&MinedKind::Review];
    assert!(approvals as f64 <= 0.3 * tally.kept as f64, "{approvals} of {}", tally.kept);
    let none = MineRecipe { approvals_max: 0.0, ..recipe(&repository) };
    assert!(mined(&folder, &none).1["review"].iter().all(|one| one["form"] != "settled"));
    let many = MineRecipe { approvals_max: 0.9, ..recipe(&repository) };
    let approved: Vec<Value> =
        mined(&folder, &many).1["review"].iter().filter(|one| one["form"] == "settled").cloned().collect();
    assert!(!approved.is_empty());
    for one in approved {
        // Either the message names all that is touched, or there is a test: never a file of its output.
        let answer = text_of(&one["messages"][1], "content");
        let is_grounded = ["The change keeps to what it says: ", "Tests come with it: `test_"];
        let reason = answer.strip_prefix("approve\n\n").expect(answer);
        assert!(is_grounded.iter().any(|start| reason.starts_with(start)), "{one}");
    }
}

#[test]
fn a_fault_put_into_a_settled_change_is_seen_in_its_diff() {
    let folder = Folder::new("planted");
    let repository = folder.settled();
    let (mut reviewed, mut approved) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..8 {
        let kinds = vec![MinedKind::Review];
        let recipe = MineRecipe { seed, kinds, review_mutants_max: 1.0, approvals_max: 0.5, ..recipe(&repository) };
        let (report, lines) = mined(&folder, &recipe);
        let tally = &report.kinds[&MinedKind::Review];
        assert_eq!(tally.candidates, tally.kept + tally.dropped.values().sum::<usize>());
        assert_eq!(tally.dropped.get("no code in a language that is known"), Some(&10), "notes have none: {tally:?}");
        let commit = |one: &Value| text_of(one, "source").rsplit('@').next().expect("a commit").to_owned();
        let (mutants, settled): (Vec<&Value>, Vec<&Value>) =
            lines["review"].iter().partition(|one| one["form"] == "mutant");
        let both = settled.iter().filter(|one| mutants.iter().any(|other| commit(one) == commit(other))).count();
        assert_eq!(both, 0, "a change is not approved that was shown with a fault");
        approved.extend(settled.into_iter().map(|one| folder.subject(&repository, &commit(one))));
        for one in mutants {
            let commit = commit(one);
            let [request, answer] = [0usize, 1].map(|index| text_of(&one["messages"][index], "content"));
            let rest = answer.strip_prefix("request changes\n\n`").expect(answer);
            let (place, rest) = rest.split_once("`: `").expect(answer);
            let (faulty, rest) = rest.split_once("`\n").expect(answer);
            let (path, number) = place.split_once(':').expect("a place");
            let right = folder.files_at(&repository, &commit)[path]
                .lines()
                .nth(number.parse::<usize>().expect("a number") - 1)
                .expect("the line is there")
                .to_owned();
            let mend = rest.split_once("```diff\n").expect("a correction").1.strip_suffix("```").expect(answer);
            assert_ne!(right.trim(), faulty);
            assert!(mend.starts_with('-') && mend.ends_with(&format!("\n+{right}\n")), "{mend}");
            assert!(mend.lines().count() == 2 && mend.contains(faulty), "{mend}");
            let added: Vec<&str> = request.lines().filter_map(|line| line.strip_prefix('+')).collect();
            assert!(added.iter().any(|line| line.trim() == faulty), "{faulty} is not in {request}");
            assert!(!added.contains(&right.as_str()), "what is right is not shown: {right}");
            assert!(!rest.starts_with("The "), "there is something that tells: {rest}");
            // All of the function, however long the file.
            assert!(request.contains("+    return") && request.lines().count() < 140, "{request}");
            reviewed.insert(folder.subject(&repository, &commit));
        }
        let none = MineRecipe { review_mutants_max: 0.0, ..recipe };
        assert!(mined(&folder, &none).1["review"].is_empty(), "without requests there are no approvals");
    }
    assert_eq!(reviewed.into_iter().collect::<Vec<_>>(), ["Join two sorted lists", "Parts of lists"]);
    assert_eq!(approved.into_iter().collect::<Vec<_>>(), ["Join two sorted lists"]);
}

/// Places that the assistant looks at and learns to, although nothing had named them.
fn guessed(episode: &Value) -> Vec<String> {
    let messages = episode["messages"].as_array().expect("messages");
    let (mut named, mut guessed) = (text_of(&messages[0], "content").to_owned(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let path = text_of(&call["function"]["arguments"], "path");
            let is_look = ["list_files", "read_file", "search"].contains(&text_of(&call["function"], "name"));
            if is_look && path != "." && !named.contains(path) && message["weight"] != 0.0 {
                guessed.push(path.to_owned());
            }
            let shown = messages.get(index + 1).map_or("", |next| text_of(next, "content"));
            named.push_str(shown);
            if call["function"]["name"] == "list_files" {
                let folder = if path == "." { String::new() } else { format!("{path}/") };
                shown.lines().for_each(|name| named.push_str(&format!("\n{folder}{name}")));
            }
        }
    }
    guessed
}

#[test]
fn only_places_that_something_named_are_learnt() {
    let folder = Folder::new("places");
    let mut seen = 0;
    for repository in [folder.calculator(), folder.quiet()] {
        let (_, lines) = mined(&folder, &recipe(&repository));
        for episode in lines["replay"].iter().chain(&lines["debugging"]) {
            seen += usize::from(text_of(episode, "path").contains('/'));
            assert_eq!(guessed(episode), Vec::<String>::new(), "{episode}");
        }
    }
    assert!(seen > 2, "some were below the top");
}

#[test]
fn a_history_without_the_word_fix_is_debugged_and_reviewed() {
    let folder = Folder::new("quiet");
    let repository = folder.quiet();
    let (_, lines) = mined(&folder, &recipe(&repository));
    let fix = lines["debugging"].iter().find(|one| one["form"] == "fix").expect("the one with a test");
    let request = text_of(&fix["messages"][0], "content");
    assert!(request.contains("Items leave a queue in the order in which they came"), "{request}");
    assert!(!request.starts_with("Bug:") && !request.starts_with("This is wrong"), "it says what holds: {request}");
    let last = fix["messages"].as_array().and_then(|all| all.last()).expect("messages");
    assert!(text_of(last, "content").ends_with("the new ones among them."), "{last}");

    // What was changed without a fault, or a test that shows one, is no ground.
    let faults: Vec<&Value> = lines["review"].iter().filter(|one| one["form"] != "settled").collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    let (faulty, mended) = ("return self.items.pop()", "return self.items.pop(0)");
    let review = faults[0];
    assert_eq!(review["form"], "fixed_later");
    let [request, answer] = [0usize, 1].map(|index| text_of(&review["messages"][index], "content"));
    assert!(request.contains("This is the part in `src/queues/queue.py`") && request.contains("Queues of every sort"));
    assert!(request.contains(&format!("+        {faulty}\n")) && !request.contains(mended), "{request}");
    assert!(request.lines().count() < 150, "a part of the file: {request}");
    assert!(
        answer.contains(&format!("-        {faulty}\n+        {mended}\n"))
            && answer.contains("What should hold here: Items leave"),
        "{answer}"
    );
    let commit = text_of(review, "source").rsplit('@').next().expect("a commit").to_owned();
    assert_eq!(folder.subject(&repository, &commit), "Queues of every sort");
    let at = answer.lines().nth(2).and_then(|line| line.split([':', '`']).nth(2)).expect("a line");
    let at: usize = at.parse().expect("a number");
    let text = folder.files_at(&repository, &commit)["src/queues/queue.py"].clone();
    assert_eq!(text.lines().nth(at - 1).map(str::trim), Some(faulty));
}

#[test]
fn what_nobody_could_do_from_its_message_is_not_enacted() {
    let folder = Folder::new("unfit");
    let repository = folder.quiet();
    let (report, lines) = mined(&folder, &recipe(&repository));
    let dropped = &report.kinds[&MinedKind::Replay].dropped;
    for why in ["layout and comments for the most part", "figures that nobody could know"] {
        assert_eq!(dropped.get(why), Some(&1), "{dropped:?}");
    }
    let is_it = |one: &&Value| text_of(&one["messages"][0], "content").contains("it was cleared");
    let cleared = lines["replay"].iter().find(is_it).expect("it is there");
    // A file that was only laid out anew is shown, and neither learnt nor planned.
    let edits = cleared["messages"].as_array().expect("messages").iter().filter_map(|message| {
        let call = &message.get("tool_calls")?[0]["function"];
        let path = text_of(&call["arguments"], "path").to_owned();
        ["edit", "write_file"]
            .contains(&text_of(call, "name"))
            .then(|| (path, message["weight"] == 0.0, text_of(message, "reasoning_content")))
    });
    let edits: BTreeMap<String, (bool, &str)> =
        edits.map(|(path, is_silent, thought)| (path, (is_silent, thought))).collect();
    let paths: Vec<(&str, bool)> = edits.iter().map(|(path, &(is_silent, _))| (path.as_str(), is_silent)).collect();
    let wanted = [("src/queues/queue.py", false), ("src/queues/sort_1.py", false), ("src/queues/sort_2.py", true)];
    assert_eq!(paths, wanted);
    assert!(
        edits["src/queues/queue.py"].1.contains("sort_1.py") && !cleared.to_string().contains("- `src/queues/sort_2")
    );
}

#[test]
fn a_remark_that_gives_a_reason_answers_why() {
    let folder = Folder::new("remark");
    let repository = folder.quiet();
    let (_, lines) = mined(&folder, &recipe(&repository));
    let why = lines["reasoning"].iter().find(|one| one["form"] == "remark").expect("one is there");
    let [request, answer] = [0usize, 1].map(|index| text_of(&why["messages"][index], "content"));
    assert!(answer.starts_with("An empty queue must not stop its reader, because other"), "{answer}");
    assert!(request.contains("`if not self.items:`") && !request.contains("An empty queue"), "{request}");
    assert!(request.contains("def take(self):\n    if not self.items:\n        return None\n"), "{request}");
}

#[test]
fn mutants_are_shown_and_never_said() {
    let folder = Folder::new("mutants");
    let repository = folder.calculator();
    let head = folder.files_at(&repository, "HEAD");
    let mut seen = 0;
    for seed in 0..15 {
        let kinds = vec![MinedKind::Debugging];
        let (_, lines) = mined(&folder, &MineRecipe { seed, kinds, ..recipe(&repository) });
        for episode in lines["debugging"].iter().filter(|one| one["form"] == "mutant") {
            seen += 1;
            let path = text_of(episode, "path").to_owned();
            let messages = episode["messages"].as_array().expect("messages");
            let shown =
                messages.iter().rfind(|one| one["role"] == "tool" && one["content"] != "ok").expect("a reading");
            let faulty = text_of(shown, "content");
            assert_ne!(faulty, head[&path].trim_end(), "the tool shows the fault");
            let before = BTreeMap::from([(path.clone(), format!("{faulty}\n"))]);
            let after = played(before, episode);
            assert_eq!(after[&path].trim_end(), head[&path].trim_end(), "the edit gives what was right");
        }
    }
    assert!(seen >= 4, "only {seen} mutants");
}

#[test]
fn holes_are_parts_of_files_in_every_language() {
    let folder = Folder::new("fim");
    let repository = folder.languages();
    let kinds = vec![MinedKind::Fim, MinedKind::Reasoning];
    let (report, lines) = mined(&folder, &MineRecipe { kinds, any_licence: true, ..recipe(&repository) });
    let head = folder.files_at(&repository, "HEAD");
    let mut languages = BTreeSet::new();
    for hole in &lines["fim"] {
        let (path, middle) = (text_of(hole, "path"), text_of(hole, "middle"));
        assert_eq!(head[path], format!("{}{middle}{}", text_of(hole, "prefix"), text_of(hole, "suffix")));
        let words = middle.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count();
        assert!(words >= 2 && hole["kind"] == "fim", "{middle:?} is no work");
        languages.insert(text_of(hole, "language").to_owned());
    }
    let wanted = ["c", "cpp", "go", "java", "javascript", "python", "rust", "typescript"];
    assert_eq!(languages, wanted.map(str::to_owned).into_iter().collect());
    assert_eq!(report.repositories[0].files, 8, "the generated, the vendored and the minified are left alone");

    let steps = lines["reasoning"].iter().find(|one| one["form"] == "steps").expect("one with steps");
    let (request, answer) = (text_of(&steps["messages"][0], "content"), &steps["messages"][1]);
    let path = text_of(steps, "path");
    assert!(request.starts_with(&format!("This is `{path}` without one function:\n")), "{request}");
    let body = text_of(answer, "content").trim_start_matches("```").lines().nth(2).expect("a line");
    assert!(!request.contains(body), "what is to be written is not shown: {body}");
    assert!(text_of(answer, "reasoning_content").starts_with("1. "), "{answer}");
    assert!(text_of(answer, "content").starts_with("```"), "{answer}");
    let told = lines["reasoning"].iter().find(|one| one["form"] == "description").expect("one with a description");
    let (request, answer) = (text_of(&told["messages"][0], "content"), text_of(&told["messages"][1], "content"));
    assert!(!request.contains(answer.lines().next().expect("a line")), "the answer is not in the question: {request}");
}

#[test]
fn secrets_and_addresses_never_reach_a_file() {
    let folder = Folder::new("secrets");
    let (repository, secrets) = folder.leaky();
    let (report, lines) = mined(&folder, &recipe(&repository));
    assert!(lines.values().map(Vec::len).sum::<usize>() > 0, "something was mined");
    let all: String = lines.values().flatten().map(Value::to_string).collect();
    for secret in &secrets {
        assert!(!all.contains(secret.as_str()), "{secret} is in an episode");
    }
    for sort in ["github_token", "mail", "assigned_secret", "private_key"] {
        assert!(report.scrubbed.contains_key(sort), "{:?}", report.scrubbed);
    }
}

#[test]
fn what_may_not_be_learnt_from_is_passed_over() {
    let folder = Folder::new("licence");
    let repository = folder.gpl();
    let out = folder.path().join("mined");
    let error = mine(&recipe(&repository), &out, None, &Unwatched).expect_err("a GPL").to_string();
    assert!(error.contains("GPL-3.0") && error.contains("--any-licence"), "{error}");
    assert_eq!(std::fs::read_dir(&out).map(Iterator::count).unwrap_or(0), 0, "nothing half done is left");
    let own = MineRecipe { any_licence: true, ..recipe(&repository) };
    assert!(mine(&own, &out, None, &Unwatched).expect("one's own").kept() > 0);
}

#[test]
fn the_same_seed_gives_the_same_files_and_another_does_not() {
    let folder = Folder::new("seed");
    let repository = folder.calculator();
    let written = |seed: u64, is_packed: bool| {
        let out = folder.path().join("mined");
        let recipe = MineRecipe { seed, is_packed, ..recipe(&repository) };
        let report = mine(&recipe, &out, None, &Unwatched).expect("it works");
        report.written.iter().map(|path| std::fs::read(path).expect("it was written")).collect::<Vec<_>>()
    };
    let (plain, packed) = (written(1, false), written(1, true));
    assert_eq!(plain, written(1, false));
    assert_ne!(plain, written(2, false));
    for (plain, packed) in plain.iter().zip(&packed) {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut text)
            .expect("it unpacks");
        assert_eq!(&text, plain);
    }
}

#[test]
fn a_hostile_repository_runs_nothing() {
    let folder = Folder::new("hostile");
    let (repository, traces) = folder.hostile();
    let own = MineRecipe { any_licence: true, ..recipe(&repository) };
    let (_, lines) = mined(&folder, &own);
    assert!(!lines["fim"].is_empty());
    for trace in traces {
        assert!(!trace.exists(), "{} was made", trace.display());
    }
    let all: String = lines.values().flatten().map(Value::to_string).collect();
    assert!(!all.contains("outside.py"), "a path that leads out of the tree");
}

#[test]
fn what_cannot_be_mined_says_why() {
    let folder = Folder::new("wrong");
    let out = folder.path().join("mined");
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).expect("it can be made");
    let said = |path: &Path| mine(&recipe(path), &out, None, &Unwatched).expect_err("it is none").to_string();
    assert!(said(&folder.path().join("nowhere")).contains("not a folder"));
    assert!(said(&empty).contains("not a git repository"), "{}", said(&empty));
    assert!(said(&folder.unborn()).contains("no commit yet"));
    let none = MineRecipe::default();
    assert!(matches!(mine(&none, &out, None, &Unwatched), Err(PrepareError::Mining { .. })));
}
