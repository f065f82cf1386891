//! What is taken out of texts, and what stays. The secrets are made up, and put together here so that no scanner takes
//! this file for a leak.

use super::secret::{Found, scrub};
use std::collections::BTreeSet;

/// Letters and digits as a generator would draw them.
const DRAWN: &str = "q7Rz2LkV9xTbW4nYcE8sHdJ1mGfA0uPo5iXKtQvB3wZyNrMe6hSgDjUaCl";

fn drawn(length: usize) -> String {
    DRAWN[..length].to_owned()
}

fn scrubbed(text: &str) -> (String, Found) {
    let authors = BTreeSet::from(["ann@lab.example".to_owned()]);
    let mut found = Found::new();
    let out = scrub(text, &authors, &mut found);
    (out, found)
}

#[test]
fn forms_of_issuers_are_found_in_any_context() {
    let upper = "Q7RZ2LKV9XTBW4NY";
    let jwt = format!("eyJ{}.eyJ{}.{}", drawn(20), drawn(30), drawn(43));
    let cases = [
        (format!("AKIA{upper}"), "aws_key"),
        (format!("ghp_{}", drawn(36)), "github_token"),
        (format!("github_pat_{}", drawn(40)), "github_token"),
        (format!("xoxb-{}", drawn(40)), "slack_token"),
        (format!("hooks.slack.com/services/T{}/B{}/{}", "0AB12CD34", "0EF56GH78", drawn(24)), "slack_token"),
        (format!("AIza{}", drawn(35)), "google_key"),
        (format!("sk-proj-{}", drawn(48)), "api_key"),
        (format!("hf_{}", drawn(34)), "api_key"),
        (jwt, "jwt"),
    ];
    for (secret, sort) in cases {
        for text in [format!("let key = f(\"{secret}\");\n"), format!("# {secret}\n"), format!("key={secret}")] {
            let (out, found) = scrubbed(&text);
            assert!(!out.contains(&secret[6..]), "{sort} stays in {out}");
            assert!(found.get(sort) == Some(&1), "{text}: {found:?}");
        }
    }
}

#[test]
fn private_keys_go_with_their_bodies() {
    let body = format!("{}\n{}\n{}\n", drawn(58), drawn(57), drawn(40));
    for sort in ["RSA ", "OPENSSH ", "EC ", ""] {
        let text =
            format!("a = '''\n-----BEGIN {sort}PRIVATE KEY-----\n{body}-----END {sort}PRIVATE KEY-----\n'''\nb\n");
        let (out, found) = scrubbed(&text);
        assert_eq!(out, "a = '''\nREDACTED PRIVATE KEY\n'''\nb\n");
        assert_eq!(found["private_key"], 1);
    }
    // Public parts, and code that looks for keys, stay.
    for text in [
        format!("-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n"),
        "if text.startswith('-----BEGIN RSA PRIVATE KEY-----'):\n    return True\n".to_owned(),
    ] {
        assert_eq!(scrubbed(&text).0, text);
    }
}

#[test]
fn what_is_assigned_to_a_secret_name_goes_if_it_looks_drawn() {
    let secret = drawn(24);
    for text in [
        format!("DB_PASSWORD = \"{secret}\"\n"),
        format!("  \"client_secret\": \"{secret}\",\n"),
        format!("apiKey: '{secret}'\n"),
        format!("export AUTH_TOKEN={secret}\n"),
        format!("config[\"api_key\"] = \"{secret}\"\n"),
    ] {
        let (out, found) = scrubbed(&text);
        assert!(!out.contains(&secret) && found.contains_key("assigned_secret"), "{text} → {out}");
    }
    for text in [
        "token = self.lexer.next_token2B()\n",
        "password = \"correct horse battery\"\n",
        "password = os.environ[\"DB_PASSWORD_2024\"]\n",
        "if token == \"identifier_1234567\":\n",
        "token_type = \"bearer\"\n",
        "secret_name = \"${SECRET_NAME_1234}\"\n",
        "max_tokens = 1234567890123\n",
    ] {
        assert_eq!(scrubbed(text).0, text);
    }
}

#[test]
fn credentials_in_addresses_go_and_variables_stay() {
    let (out, found) = scrubbed("url = \"postgres://admin:hunter2@db.internal:5432/x\"\n");
    assert_eq!(out, "url = \"postgres://user:REDACTED@db.internal:5432/x\"\n");
    assert_eq!(found["credentials"], 1);
    for text in ["https://host.org/a:b@c", "postgres://${USER}:${PASSWORD}@db/x", "ssh://git@host.org/x"] {
        assert_eq!(scrubbed(text).0, text);
    }
}

#[test]
fn addresses_of_people_go() {
    let (out, found) = scrubbed("# Ann <ann@lab.example>, Bob <bob.b@uni.edu>. Ask carol@firm.co.uk.\n");
    assert_eq!(out, "# Ann <someone@example.com>, Bob <someone@example.com>. Ask someone@example.com.\n");
    assert_eq!(found["mail"], 3);
    for text in [
        "user@example.com\n",
        "git@github.com:owner/repo\n",
        "icon@2x.png\n",
        "@app.route('/x')\n",
        "a @ b.T\n",
        "query@self.weight\n",
        "x@y\n",
    ] {
        assert_eq!(scrubbed(text).0, text);
    }
}

#[test]
fn a_text_without_secrets_is_what_it_was() {
    let text = include_str!("secret.rs");
    assert_eq!(scrubbed(text).0, text, "the list of forms holds none");
}

#[test]
fn names_of_people_go_from_paths_of_their_homes() {
    for (text, wanted) in [
        ("open('/home/ann/data/x.csv')", "open('/home/user/data/x.csv')"),
        ("root = \"/Users/bea.moss/projects/shop\"", "root = \"/Users/user/projects/shop\""),
        ("C:\\Users\\Bea\\Documents\\x.txt", "C:\\Users\\user\\Documents\\x.txt"),
        ("\"C:\\\\Users\\\\Ann\\\\x.txt\"", "\"C:\\\\Users\\\\user\\\\x.txt\""),
    ] {
        let (out, found) = scrubbed(text);
        assert_eq!((out.as_str(), found.get("home_folder")), (wanted, Some(&1)));
    }
    for text in
        ["/home/user/.cache/x", "get('/home/settings/profile')", "https://a.org/home/bea/src/x", "/Users/List/3"]
    {
        assert_eq!(scrubbed(text).0, text);
    }
}
