//! Identifiers. A function's name says nothing of what it does (the description must be read), and a quarter of the
//! names is kept for tests.
//!
//! Two names in five are invented ("vomesa"). A small model that meets sixty names learns sixty names: it then answers
//! with one of them where a test has another. Thousands of names that mean nothing can only be copied from the
//! question, and what copies those copies every other.

use std::sync::LazyLock;

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

/// Invented words of two or three open syllables: pronounceable, lower case, and no word of Python or of our programs.
static INVENTED: LazyLock<Vec<String>> = LazyLock::new(|| {
    const ONSETS: &[&str] = &[
        "b", "d", "f", "g", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "ch", "dr", "fl", "gr", "kr",
        "pl", "qu", "sh", "sk", "st", "th", "tr",
    ];
    const VOWELS: &[&str] = &["a", "e", "i", "o", "u"];
    let mut rng = Rng::new(0x1A7E_E201);
    let mut words: Vec<String> = (0..INVENTED_COUNT)
        .map(|_| (0..rng.range(2, 3)).flat_map(|_| [*rng.choose(ONSETS), *rng.choose(VOWELS)]).collect())
        .collect();
    words.sort_unstable();
    words.dedup();
    let roles = [Role::Number, Role::Numbers, Role::Text, Role::Words, Role::Table];
    words.retain(|word| !roles.iter().any(|&role| parameters(role).split([' ', ':']).any(|listed| listed == word)));
    words
});

const INVENTED_COUNT: usize = 6000;

/// An invented word.
pub(crate) fn invented(rng: &mut Rng, reserved: bool) -> &'static str {
    loop {
        let word = rng.choose(&INVENTED).as_str();
        if is_reserved(word) == reserved {
            return word;
        }
    }
}

/// Invented collections with their elements: the element is the word, the collection its plural.
static INVENTED_PLURALS: LazyLock<Vec<String>> =
    LazyLock::new(|| INVENTED.iter().map(|word| format!("{word}s")).collect());

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
        let noun = if rng.chance(0.4) { invented(rng, reserved) } else { rng.choose(nouns(returns)) };
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
        let noun = *rng.choose(nouns);
        let quality =
            if rng.chance(0.5) { capitalised(invented(rng, reserved)) } else { (*rng.choose(QUALITIES)).to_owned() };
        let name = format!("{quality}{noun}");
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
    if rng.chance(0.4) {
        return invented_parameter(rng, role, reserved);
    }
    let (open, kept) = parameters(role).split_once(" | ").expect("the names of a role have a bar");
    let names: Vec<&'static str> = if reserved { kept } else { open }.split(' ').collect();
    let chosen = names[rng.below(names.len())];
    let (name, element) = chosen.split_once(':').unwrap_or((chosen, ""));
    Parameter { name, element }
}

fn invented_parameter(rng: &mut Rng, role: Role, reserved: bool) -> Parameter {
    let word = invented(rng, reserved);
    match role {
        Role::Number | Role::Table => Parameter { name: word, element: "" },
        Role::Text => Parameter { name: word, element: "char" },
        Role::Numbers | Role::Words => {
            let index = INVENTED.binary_search_by(|other| other.as_str().cmp(word)).expect("the word is from the list");
            Parameter { name: &INVENTED_PLURALS[index], element: word }
        }
    }
}

/// The word with its first letter in upper case.
pub(crate) fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
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
