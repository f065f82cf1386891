//! Secrets and addresses that stand in code and messages by mistake: they become placeholders before anything is
//! made of a text, so that no part of an episode can hold them.
//!
//! Forms are those that the issuers document (prefix, alphabet, length). What has no form is found by where it stands:
//! a literal with high entropy that is assigned to something called a password, a token or a key.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How many of each sort were replaced.
pub(super) type Found = BTreeMap<&'static str, usize>;

/// A token by its beginning: what follows is of the alphabet, and at least this long.
struct Form {
    start: &'static str,
    rest_min: usize,
    sort: &'static str,
    /// Only capital letters and digits, as in AWS key ids.
    is_upper: bool,
}

const fn form(start: &'static str, rest_min: usize, sort: &'static str) -> Form {
    Form { start, rest_min, sort, is_upper: false }
}

const fn upper(start: &'static str, rest_min: usize, sort: &'static str) -> Form {
    Form { start, rest_min, sort, is_upper: true }
}

const FORMS: [Form; 36] = [
    upper("AKIA", 16, "aws_key"),
    upper("ASIA", 16, "aws_key"),
    upper("ABIA", 16, "aws_key"),
    upper("ACCA", 16, "aws_key"),
    upper("AROA", 16, "aws_key"),
    upper("AIDA", 16, "aws_key"),
    form("ghp_", 36, "github_token"),
    form("gho_", 36, "github_token"),
    form("ghu_", 36, "github_token"),
    form("ghs_", 36, "github_token"),
    form("ghr_", 36, "github_token"),
    form("github_pat_", 22, "github_token"),
    form("glpat-", 20, "gitlab_token"),
    form("xoxb-", 20, "slack_token"),
    form("xoxp-", 20, "slack_token"),
    form("xoxa-", 20, "slack_token"),
    form("xoxr-", 20, "slack_token"),
    form("xoxs-", 20, "slack_token"),
    form("xapp-", 20, "slack_token"),
    form("hooks.slack.com/services/T", 20, "slack_token"),
    form("AIza", 35, "google_key"),
    form("ya29.", 30, "google_key"),
    form("GOCSPX-", 24, "google_key"),
    form("sk_live_", 20, "api_key"),
    form("rk_live_", 20, "api_key"),
    form("sk-ant-", 30, "api_key"),
    form("sk-proj-", 30, "api_key"),
    form("sk-", 40, "api_key"),
    form("hf_", 34, "api_key"),
    form("npm_", 36, "api_key"),
    form("pypi-AgEI", 40, "api_key"),
    form("SG.", 60, "api_key"),
    form("dop_v1_", 60, "api_key"),
    form("shpat_", 32, "api_key"),
    form("AGE-SECRET-KEY-1", 50, "private_key"),
    form("eyJ", 40, "jwt"),
];

/// Parts of names that hold something secret.
const SECRET_NAMES: [&str; 14] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "access_key",
    "accesskey",
    "private_key",
    "privatekey",
    "credential",
    "auth_key",
    "client_key",
];
const SECRET_CHARACTERS_MIN: usize = 12;
/// Bits of entropy a character, from which on a literal looks drawn and not written.
const ENTROPY_MIN: f64 = 3.4;

/// Folders that people have at home: a path through one of them is on somebody's disk, and no route of a site.
const HOME_FOLDERS: [&str; 24] = [
    ".cache",
    ".cargo",
    ".config",
    ".local",
    ".npm",
    ".pyenv",
    ".rustup",
    ".ssh",
    ".venv",
    "anaconda3",
    "code",
    "desktop",
    "dev",
    "documents",
    "downloads",
    "git",
    "github",
    "library",
    "miniconda3",
    "projects",
    "repos",
    "src",
    "work",
    "workspace",
];
/// Names of users that are nobody's.
const NOBODY: [&str; 14] = [
    "user", "username", "me", "you", "runner", "vscode", "ubuntu", "node", "app", "appuser", "jovyan", "shared",
    "public", "somebody",
];

/// Domains that belong to nobody (RFC 2606, RFC 6761), and the user of addresses that are no mail.
const RESERVED_DOMAINS: [&str; 9] =
    ["example.com", "example.org", "example.net", ".example", ".test", ".invalid", ".localhost", "localhost", ".local"];

/// Domains of addresses beside those of countries.
const TOP_DOMAINS: [&str; 22] = [
    "com", "org", "net", "edu", "gov", "mil", "int", "info", "biz", "name", "dev", "app", "tech", "cloud", "online",
    "email", "xyz", "site", "corp", "internal", "lan", "home",
];

/// Replaces what must not be learnt. The addresses of authors are known; others are found by their form.
pub(super) fn scrub(text: &str, authors: &BTreeSet<String>, found: &mut Found) -> String {
    let mut spans: Vec<(Range<usize>, &'static str)> = Vec::new();
    private_keys(text, &mut spans);
    tokens(text, &mut spans);
    address_credentials(text, &mut spans);
    assignments(text, &mut spans);
    mails(text, authors, &mut spans);
    homes(text, authors, &mut spans);
    if spans.is_empty() {
        return text.to_owned();
    }
    spans.sort_by_key(|(span, _)| (span.start, std::cmp::Reverse(span.end)));
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (span, sort) in spans {
        if span.start < at {
            continue;
        }
        out.push_str(&text[at..span.start]);
        out.push_str(placeholder(sort));
        at = span.end;
        *found.entry(sort).or_default() += 1;
    }
    out.push_str(&text[at..]);
    out
}

fn placeholder(sort: &str) -> &'static str {
    match sort {
        "mail" => "someone@example.com",
        "credentials" => "user:REDACTED",
        "home_folder" => "user",
        "private_key" => "REDACTED PRIVATE KEY",
        _ => "REDACTED",
    }
}

/// From `-----BEGIN … PRIVATE KEY` to its end, or as long as lines look like a key.
fn private_keys(text: &str, spans: &mut Vec<(Range<usize>, &'static str)>) {
    let mut from = 0;
    while let Some(at) = text[from..].find("-----BEGIN ").map(|at| at + from) {
        let head_end = text[at..].find('\n').map_or(text.len(), |end| at + end);
        from = at + 11;
        if !text[at..head_end].contains("PRIVATE KEY") {
            continue;
        }
        let rest = &text[from..];
        let end = rest.find("-----END ").map(|end| from + end).and_then(|end| {
            let tail = text[end + 9..].find("-----")?;
            // An end that is far away belongs to something else.
            (tail < 60 && end - at < 20_000).then_some(end + 9 + tail + 5)
        });
        let end = end.unwrap_or(head_end);
        // A pattern that looks for keys names the marks alone.
        let inside = text[at..end].bytes().filter(u8::is_ascii_alphanumeric).count();
        if inside > 120 {
            spans.push((at..end, "private_key"));
        }
        from = end.max(from);
    }
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn tokens(text: &str, spans: &mut Vec<(Range<usize>, &'static str)>) {
    let bytes = text.as_bytes();
    for form in &FORMS {
        for (at, _) in text.match_indices(form.start) {
            if at > 0 && is_token_byte(bytes[at - 1]) {
                continue;
            }
            let rest = &bytes[at + form.start.len()..];
            let belongs = |byte: u8| match form.is_upper {
                true => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
                false => is_token_byte(byte) || matches!(byte, b'.' | b'/') && form.start.contains(['.', '/']),
            };
            let length = rest.iter().take_while(|&&byte| belongs(byte)).count();
            let end = at + form.start.len() + length;
            let span = match form.sort {
                "jwt" => jwt(text, at),
                "aws_key" => (length == form.rest_min).then_some(at..end),
                _ => (length >= form.rest_min && is_drawn(&text[at + form.start.len()..end])).then_some(at..end),
            };
            spans.extend(span.map(|span| (span, form.sort)));
        }
    }
}

/// Three parts in base64url, the first of which is a JSON object.
fn jwt(text: &str, at: usize) -> Option<Range<usize>> {
    let length = text[at..].bytes().take_while(|&byte| is_token_byte(byte) || byte == b'.').count();
    let parts: Vec<&str> = text[at..at + length].split('.').collect();
    let is_whole = parts.len() >= 3 && parts[0].len() >= 10 && parts[1].starts_with("eyJ") && parts[2].len() >= 20;
    is_whole.then_some(at..at + length)
}

/// Not a word with underscores, and not the same letters over and over.
fn is_drawn(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit()) && entropy(text) >= 2.5
}

/// Shannon's entropy of the characters of a text, in bits a character.
fn entropy(text: &str) -> f64 {
    let mut counts = [0usize; 256];
    text.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let total = text.len().max(1) as f64;
    counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / total).map(|p| -p * p.log2()).sum()
}

/// A name and a password in an address, before its host, unless a variable stands there.
fn address_credentials(text: &str, spans: &mut Vec<(Range<usize>, &'static str)>) {
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let ends = |c: char| c.is_whitespace() || "/\"'`<>{}$\\)(,|".contains(c);
        let end = text[start..].find(ends).map_or(text.len(), |end| start + end);
        let Some((user, _)) = text[start..end].rsplit_once('@') else { continue };
        let Some((_, password)) = user.split_once(':') else { continue };
        if !password.is_empty() && !password.starts_with("REDACTED") {
            spans.push((start..start + user.len(), "credentials"));
        }
    }
}

/// `name = "value"`, `"name": "value"`, `NAME=value` at a line's end: where the name tells of a secret and the value
/// looks drawn.
fn assignments(text: &str, spans: &mut Vec<(Range<usize>, &'static str)>) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        for name in SECRET_NAMES {
            for (at, _) in lower.match_indices(name) {
                if let Some(value) = assigned(line, at + name.len()) {
                    spans.push((start + value.start..start + value.end, "assigned_secret"));
                }
            }
        }
        start += line.len();
    }
}

/// The value that is assigned to the name that goes through `from`, if it looks like a secret.
fn assigned(line: &str, from: usize) -> Option<Range<usize>> {
    let name_end = line[from..].find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').map(|end| from + end)?;
    let rest = &line[name_end..];
    let sign = rest.trim_start_matches(['"', '\'', ']', ' ', '\t']);
    let after = [":=", "=>", "=", ":"].iter().find_map(|mark| sign.strip_prefix(mark))?;
    // A comparison assigns nothing.
    if after.starts_with('=') {
        return None;
    }
    let value = after.trim_start_matches([' ', '\t']);
    let start = line.len() - value.len();
    let quote = value.chars().next().filter(|quote| "\"'`".contains(*quote));
    let (start, length) = match quote {
        Some(quote) => (start + 1, value[1..].find(quote)?),
        None => {
            let word = value.trim_end();
            let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_');
            let mixed = word.bytes().any(|byte| byte.is_ascii_digit())
                && word.bytes().any(|byte| byte.is_ascii_uppercase())
                && word.bytes().any(|byte| byte.is_ascii_lowercase());
            (word.bytes().all(is_bare) && mixed).then_some((start, word.len()))?
        }
    };
    let literal = &line[start..start + length];
    let is_solid = !literal.contains(|c: char| c.is_whitespace() || "${}<>()%".contains(c)) && literal.is_ascii();
    let is_secret = literal.len() >= SECRET_CHARACTERS_MIN
        && is_solid
        && literal.bytes().any(|byte| byte.is_ascii_digit())
        && literal.bytes().any(|byte| byte.is_ascii_alphabetic())
        && entropy(literal) >= ENTROPY_MIN
        && !literal.contains("://");
    is_secret.then_some(start..start + length)
}

/// Addresses of people: those of the authors wherever they stand, and others unless their domain is nobody's.
fn mails(text: &str, authors: &BTreeSet<String>, spans: &mut Vec<(Range<usize>, &'static str)>) {
    let is_local = |c: char| c.is_ascii_alphanumeric() || "._%+-".contains(c);
    let is_domain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    for (at, _) in text.match_indices('@') {
        let local = text[..at].chars().rev().take_while(|&c| is_local(c)).count();
        let domain = text[at + 1..].chars().take_while(|&c| is_domain(c)).count();
        let domain_text = text[at + 1..at + 1 + domain].trim_end_matches(['.', '-']);
        let range = at - local..at + 1 + domain_text.len();
        let mail = &text[range.clone()];
        let top = domain_text.rsplit('.').next().unwrap_or_default();
        let has_form = local > 0
            && domain_text.contains('.')
            && top.len() >= 2
            && top.bytes().all(|byte| byte.is_ascii_alphabetic())
            && !text[at + 1 + domain_text.len()..].starts_with(['(', '/', ':', '@']);
        let lower = domain_text.to_lowercase();
        // A product of matrices looks like an address: `query@self.weight`.
        let is_mail = has_form && (top.len() == 2 || TOP_DOMAINS.contains(&top.to_lowercase().as_str()));
        let is_reserved = RESERVED_DOMAINS.iter().any(|reserved| lower.ends_with(reserved));
        let is_account = text[..at].ends_with("git") && local == 3;
        // An image at another density is no address: `icon@2x.png`.
        let is_file = lower.starts_with(|c: char| c.is_ascii_digit());
        if authors.contains(&mail.to_lowercase()) || is_mail && !is_account && !is_reserved && !is_file {
            spans.push((range, "mail"));
        }
    }
}

/// The names of people in paths of their disks: where the name is an author's, or what follows is in everybody's home.
fn homes(text: &str, authors: &BTreeSet<String>, spans: &mut Vec<(Range<usize>, &'static str)>) {
    for (start, slash) in [("/home/", "/"), ("/Users/", "/"), ("\\Users\\", "\\"), ("\\\\Users\\\\", "\\\\")] {
        for (at, _) in text.match_indices(start) {
            let from = at + start.len();
            let is_part = |c: char| c.is_alphanumeric() || "._-".contains(c);
            let length = text[from..].find(|c: char| !is_part(c)).unwrap_or(text.len() - from);
            let name = text[from..from + length].to_lowercase();
            let next = text[from + length..].strip_prefix(slash).unwrap_or_default();
            let next: String = next.chars().take_while(|&c| is_part(c)).flat_map(char::to_lowercase).collect();
            // Addresses have hosts before their paths.
            let is_of_site = start.starts_with('/') && text[..at].ends_with(is_part);
            let is_author = authors
                .iter()
                .filter_map(|mail| mail.split('@').next())
                .any(|local| local == name || local.rsplit('+').next().is_some_and(|account| account == name));
            let is_somebody = !name.is_empty() && !NOBODY.contains(&name.as_str());
            if is_somebody && !is_of_site && (is_author || HOME_FOLDERS.contains(&next.as_str())) {
                spans.push((from..from + length, "home_folder"));
            }
        }
    }
}
