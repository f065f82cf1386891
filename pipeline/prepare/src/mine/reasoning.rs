//! Reasoning: from what people wrote beside their code. Remarks inside of a function are the steps that lead from its
//! description to its body, and each that gives a reason answers why a line is there; a description is the
//! documentation of a function; a message that gives reasons says why a change was made.

use super::Desk;
use super::change::Work;
use super::episode::{Episode, MinedKind, conversation};
use super::function::{Function, Remark, is_sentence};
use super::lines::{names_in, unified};
use super::message::{REASONS, has_phrase};
use super::replay::numbers;
use super::syntax::{Language, Syntax};
use numeric::Rng;
use std::collections::BTreeSet;

/// A body worth thinking about.
const LINES_MIN: usize = 6;
const LINES_MAX: usize = 80;
/// A description that says something.
const DESCRIPTION_CHARACTERS_MIN: usize = 60;
const DESCRIPTION_CHARACTERS_MAX: usize = 1_500;
const REMARKS_MIN: usize = 2;
const REMARKS_MAX: usize = 12;
/// A file that is shown around a function which is to be written.
const FILE_LINES_MAX: usize = 500;
/// Questions about the lines of one function.
const QUESTIONS_MAX: usize = 2;
/// A remark that could be an answer.
const ANSWER_CHARACTERS_MIN: usize = 40;
/// A line of code that is quoted.
const QUOTED_CHARACTERS_MAX: usize = 120;
/// Words of a remark that tell why something is so, beside those of messages.
const EXPLAINING: [&str; 12] = [
    "so",
    "must",
    "cannot",
    "can't",
    "never",
    "already",
    "needs",
    "unless",
    "even if",
    "not yet",
    "as long as",
    "nobody",
];
/// Lines of a diff that is asked about.
const DIFF_LINES_MAX: usize = 60;
const CONTEXT_LINES: usize = 5;

/// What a function is for becomes its code, by the steps that its remarks tell; without remarks, the code becomes what
/// it is for.
pub(super) fn from_function(
    desk: &Desk,
    (path, syntax): (&str, &Syntax),
    function: &Function,
    rng: &mut Rng,
) -> Result<Episode, &'static str> {
    let Some(documentation) = &function.documentation else { return Err("no description") };
    let characters = documentation.text.chars().count();
    let first = documentation.text.lines().next().unwrap_or_default();
    if !(DESCRIPTION_CHARACTERS_MIN..=DESCRIPTION_CHARACTERS_MAX).contains(&characters) || !is_sentence(first) {
        return Err("poor description");
    }
    if !(LINES_MIN..=LINES_MAX).contains(&function.lines) {
        return Err("too short or too long");
    }
    let fence = syntax.language.name();
    let has_steps = (REMARKS_MIN..=REMARKS_MAX).contains(&function.remarks.len());
    let (form, document) = if has_steps {
        let steps: Vec<String> =
            function.remarks.iter().enumerate().map(|(index, remark)| step(index + 1, remark)).collect();
        let request = implement(path, syntax, function, &documentation.text, rng);
        let rest = format!("{}{}", &syntax.text[..function.whole.start], &syntax.text[function.whole.end..]);
        if rest.lines().count() > FILE_LINES_MAX {
            return Err("the file is too long to be shown");
        }
        // What a function can use is all around it.
        let request =
            format!("This is `{path}` without one function:\n\n```{fence}\n{}\n```\n\n{request}", rest.trim_end());
        let answer = format!("```{fence}\n{}\n```", dedented(syntax.text[function.whole.clone()].trim_end()));
        ("steps", conversation(&request, Some(steps.join("\n")), &answer))
    } else {
        let code = without(syntax, function);
        if !is_seen(&documentation.text, &code) {
            return Err("names what is not shown");
        }
        let name = &function.name;
        let request = match rng.below(3) {
            0 => format!("What should the documentation of `{name}` say?\n\n```{fence}\n{code}\n```"),
            1 => format!("Document this function from `{path}`.\n\n```{fence}\n{code}\n```"),
            _ => format!("```{fence}\n{code}\n```\n\nWrite the documentation of `{name}`."),
        };
        ("description", conversation(&request, None, &documentation.text))
    };
    Ok(Episode {
        kind: MinedKind::Reasoning,
        form,
        document,
        silent: Vec::new(),
        commit: desk.commit.clone(),
        path: path.to_owned(),
        language: Some(fence),
    })
}

/// Words of languages that stand in a description whether or not they stand in the code.
const KNOWN: [&str; 12] =
    ["None", "Some", "Ok", "Err", "true", "false", "self", "Self", "NaN", "null", "True", "False"];

/// Whether all that a text names as code (in backquotes), calls by one large letter or counts can be seen in the code.
/// What stands elsewhere nobody could write who sees the function alone.
fn is_seen(text: &str, code: &str) -> bool {
    let words: BTreeSet<&str> = names_in(code).collect();
    let is_word = |word: &str| words.contains(word) || KNOWN.contains(&word) || word.starts_with(char::is_numeric);
    // Every other part is between backquotes.
    let is_named = text.split('`').skip(1).step_by(2).all(|quoted| names_in(quoted).all(is_word));
    let is_letter = |word: &str| word.len() == 1 && word.starts_with(|c: char| c.is_ascii_uppercase());
    let letters = names_in(text).filter(|word| is_letter(word) && !["A", "I"].contains(word));
    is_named && letters.into_iter().all(is_word) && numbers(text).is_subset(&numbers(code))
}

/// A remark as a step: with the line that it is about, without which it often says nothing.
fn step(number: usize, remark: &Remark) -> String {
    match remark.code.as_ref().filter(|code| code.chars().count() <= QUOTED_CHARACTERS_MAX) {
        Some(code) => format!("{number}. `{code}`: {}", remark.text),
        None => format!("{number}. {}", remark.text),
    }
}

/// Remarks that give a reason, as answers to why the line below them is as it is. The function is shown without the
/// remark.
pub(super) fn from_remarks(
    desk: &Desk,
    (path, syntax): (&str, &Syntax),
    function: &Function,
    rng: &mut Rng,
) -> Vec<Episode> {
    let fence = syntax.language.name();
    let mut episodes = Vec::new();
    for remark in &function.remarks {
        let Some(code) = &remark.code else { continue };
        let lower = remark.text.to_lowercase();
        let explains = REASONS.iter().chain(&EXPLAINING).any(|word| has_phrase(&lower, word));
        let is_fit = remark.text.chars().count() >= ANSWER_CHARACTERS_MIN
            && code.chars().count() <= QUOTED_CHARACTERS_MAX
            && function.own.start <= remark.bytes.start
            && !remark.text.contains("SAFETY:");
        if !explains || !is_fit || episodes.len() == QUESTIONS_MAX {
            continue;
        }
        // The line end goes with it.
        let rest = &syntax.text[remark.bytes.end + 1..function.own.end];
        let shown = dedented(format!("{}{rest}", &syntax.text[function.own.start..remark.bytes.start]).trim_end());
        if !is_seen(&remark.text, &shown) {
            continue;
        }
        let name = &function.name;
        let request = match rng.below(3) {
            0 => format!("Why is there `{code}` in `{name}`?\n\n```{fence}\n{shown}\n```"),
            1 => format!("```{fence}\n{shown}\n```\n\nThis is `{name}` of `{path}`. What is the reason for `{code}`?"),
            _ => format!("Give the reason for `{code}` in this function.\n\n```{fence}\n{shown}\n```"),
        };
        episodes.push(Episode {
            kind: MinedKind::Reasoning,
            form: "remark",
            document: conversation(&request, None, &remark.text),
            silent: Vec::new(),
            commit: desk.commit.clone(),
            path: path.to_owned(),
            language: Some(fence),
        });
    }
    episodes
}

/// Asks for a function by its signature and its description.
fn implement(path: &str, syntax: &Syntax, function: &Function, description: &str, rng: &mut Rng) -> String {
    let body = syntax.nodes[function.body].bytes.start;
    let signature = dedented(syntax.text[function.own.start..body].trim_end());
    let fence = syntax.language.name();
    let name = &function.name;
    match rng.below(3) {
        0 => format!("Implement `{name}` in `{path}`.\n\n```{fence}\n{signature}\n```\n\n{description}"),
        1 => format!(
            "Write this function for `{path}`:\n\n```{fence}\n{signature}\n```\n\nIt is described so: {description}"
        ),
        _ => format!("{description}\n\nWrite that as `{name}`:\n\n```{fence}\n{signature}\n```"),
    }
}

/// The function without its description.
fn without(syntax: &Syntax, function: &Function) -> String {
    let Some(documentation) = &function.documentation else { return syntax.text[function.own.clone()].to_owned() };
    let inside = documentation.bytes.start >= function.own.start;
    let code = if inside {
        let start = syntax.indented_start(documentation.bytes.start);
        let rest = &syntax.text[documentation.bytes.end..function.own.end];
        format!("{}{}", &syntax.text[function.own.start..start], rest.trim_start_matches(['\n', '\r']))
    } else {
        syntax.text[function.own.clone()].to_owned()
    };
    dedented(code.trim_end())
}

/// All lines moved to the left as far as the first.
fn dedented(code: &str) -> String {
    let first = code.lines().next().unwrap_or_default();
    let indent = &first[..first.len() - first.trim_start().len()];
    let lines: Vec<&str> = code.lines().map(|line| line.strip_prefix(indent).unwrap_or(line.trim_start())).collect();
    lines.join("\n")
}

/// A small change whose message gives its reasons, asked about.
pub(super) fn from_commit(work: &Work, rng: &mut Rng) -> Result<Episode, &'static str> {
    if !work.words.explains() {
        return Err("gives no reason");
    }
    let code: Vec<_> = work.code().filter(|file| Language::of_path(&file.path).is_some()).collect();
    let changed: usize = code.iter().map(|file| file.changed_lines).sum();
    if code.is_empty() || changed > DIFF_LINES_MAX {
        return Err("diff too long");
    }
    let shown: String = code
        .iter()
        .map(|file| {
            let side = |text: &Option<String>| if text.is_some() { file.path.as_str() } else { "" };
            let (old, new) = (file.old.as_deref().unwrap_or(""), file.new.as_deref().unwrap_or(""));
            unified(side(&file.old), side(&file.new), old, new, CONTEXT_LINES)
        })
        .collect();
    let subject = &work.words.subject;
    let request = match rng.below(3) {
        0 => format!("Why was this changed?\n\n{subject}\n\n```diff\n{shown}```"),
        1 => format!("```diff\n{shown}```\n\nThis is \"{subject}\". What is the reason for it?"),
        _ => format!("Explain the reason for this change: {subject}\n\n```diff\n{shown}```"),
    };
    let path = work.main_path().to_owned();
    Ok(Episode {
        kind: MinedKind::Reasoning,
        form: "reasons",
        document: conversation(&request, None, &work.words.body),
        silent: Vec::new(),
        commit: work.commit.id.clone(),
        language: Language::of_path(&path).map(Language::name),
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_keeps_to_what_is_seen() {
        let code = "fn take(rows: &[f32], count: usize) -> Option<f32> {\n    rows.get(count + 48).copied()\n}\n";
        for (text, wanted) in [
            ("The number `count` rows on, `None` beyond the last.", true),
            ("As [`Self::take`], 48 rows on.", true),
            ("As [`other`] takes it.", false),
            ("The number of `Rows::other`.", false),
            ("A number 64 rows on.", false),
            ("The row of P that comes next.", false),
            ("I take the next row. A row is a number.", true),
        ] {
            assert_eq!(is_seen(text, code), wanted, "{text}");
        }
    }
}
