//! Identifiers. A function's name says nothing of what it does (the description must be read), and a quarter of the
//! names is kept for tests; their words are all seen in training, in other company.

use numeric::Rng;

use crate::split::hash;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Number,
    Numbers,
    Text,
    Words,
    Table,
}

const VERBS: &[&str] = &[
    "get", "find", "make", "compute", "build", "apply", "derive", "give", "fetch", "take", "form", "work_out",
    "produce", "report", "obtain", "prepare",
];
const QUALITIES: &[&str] = &[
    "new", "final", "next", "main", "raw", "safe", "basic", "full", "daily", "local", "extra", "current", "first",
    "old", "shared", "simple",
];

fn nouns(role: Role) -> &'static [&'static str] {
    match role {
        Role::Number => &[
            "value", "score", "total", "number", "amount", "level", "rate", "price", "size", "rank", "speed", "weight",
        ],
        Role::Numbers => &[
            "values", "scores", "totals", "numbers", "amounts", "levels", "rates", "prices", "series", "weights",
            "sizes",
        ],
        Role::Text => &["text", "label", "title", "name", "line", "code", "tag", "message", "word", "note"],
        Role::Words => &["words", "labels", "titles", "names", "lines", "codes", "tags", "messages", "notes"],
        Role::Table => &["table", "index", "counts", "groups", "stock", "map", "record", "entries"],
    }
}

/// Whether a function name is kept out of training.
pub(crate) fn is_reserved(function: &str) -> bool {
    hash(&["name", function]).is_multiple_of(4)
}

/// A name for a function that returns a thing of this role.
pub(crate) fn function(rng: &mut Rng, returns: Role, reserved: bool) -> String {
    loop {
        let verb = rng.choose(VERBS);
        let noun = rng.choose(nouns(returns));
        let name = match rng.below(3) {
            0 => format!("{verb}_{noun}"),
            _ => format!("{verb}_{}_{noun}", rng.choose(QUALITIES)),
        };
        if is_reserved(&name) == reserved {
            return name;
        }
    }
}

/// A name for a class, built like a function's.
pub(crate) fn class(rng: &mut Rng, nouns: &[&str], reserved: bool) -> String {
    const QUALITIES: &[&str] = &[
        "Simple", "Basic", "Daily", "Local", "Shared", "Main", "Safe", "Small", "Quick", "Open", "Plain", "Game",
        "Home", "Team", "City", "Shop", "Club", "Lab", "Farm", "School",
    ];
    loop {
        let name = format!("{}{}", rng.choose(QUALITIES), rng.choose(nouns));
        if is_reserved(&name) == reserved {
            return name;
        }
    }
}

/// A parameter and, where it is a collection, the name of one element.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) element: &'static str,
}

/// Names in the order of use; after the bar they are kept for tests. A collection has its element behind a colon.
fn parameters(role: Role) -> &'static str {
    match role {
        Role::Number => "n x value number amount score level points size k price | rate speed weight",
        Role::Numbers => {
            "numbers:number values:value scores:score amounts:amount items:item prices:price ages:age points:point \
             levels:level | rates:rate sizes:size weights:weight"
        }
        Role::Text => {
            "text:char s:char word:char name:char label:char line:char title:char code:char | note:char \
                message:char tag:char"
        }
        Role::Words => "words:word names:name labels:label tags:tag lines:line codes:code | titles:title notes:note",
        Role::Table => "table scores prices stock counts ages points | record entries",
    }
}

pub(crate) fn parameter(rng: &mut Rng, role: Role, reserved: bool) -> Parameter {
    let (open, kept) = parameters(role).split_once(" | ").expect("the names of a role have a bar");
    let names: Vec<&'static str> = if reserved { kept } else { open }.split(' ').collect();
    let chosen = names[rng.below(names.len())];
    let (name, element) = chosen.split_once(':').unwrap_or((chosen, ""));
    Parameter { name, element }
}

/// Lower-case words for the inside of strings: inputs, labels, separators of no further meaning.
pub(crate) const WORDS: &[&str] = &[
    "red", "blue", "green", "cat", "dog", "bird", "sun", "moon", "star", "tree", "river", "stone", "apple", "lemon",
    "grape", "table", "chair", "lamp", "book", "paper", "salt", "sugar", "bread", "milk", "rain", "snow", "wind",
    "fire", "gold", "iron", "north", "south", "east", "west", "hill", "lake", "boat", "train", "road", "house", "door",
    "key", "coin", "card", "bell", "drum", "horse", "sheep", "ant", "owl", "banana", "orange", "level", "noon",
    "letter", "summer",
];

/// First names, for inputs and as keys of tables.
pub(crate) const PEOPLE: &[&str] = &[
    "ada", "bob", "cleo", "dan", "eve", "finn", "gus", "hana", "ivy", "jon", "kim", "leo", "mia", "nora", "otto", "pia",
];
