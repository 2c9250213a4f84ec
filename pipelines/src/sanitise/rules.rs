//! What is to become of a column, and of a value in it.

use std::collections::HashSet;

use hmac::{Hmac, KeyInit as _, Mac as _};
use indexmap::IndexMap;
use regex::bytes::{Regex, RegexBuilder};
use segue_schemas::sync::{MAX_RULES, ServiceSync, SetTo, SyncCount, SyncEmails, SyncFormat, SyncRule};
use sha2::Sha256;

/// What may take the memory of a regular expression, in bytes.
const MAX_EXPRESSION: usize = 1 << 20;

/// The most columns of which is told how often something was replaced; the others are told together.
const MAX_COUNTED: usize = 1000;

/// What looks like an e-mail address, in whatever text it stands.
const EMAIL: &str = r#"[^\s@<>",;:()\[\]\\]+@[A-Za-z0-9\x80-\xff-]+(?:\.[A-Za-z0-9\x80-\xff-]+)+"#;

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{list} {}: {message}", index + 1)]
pub struct Mistake {
    /// `rules` or `keep`.
    pub list: &'static str,
    /// Which of them, from 0.
    pub index: usize,
    /// The key that it is about; empty for an item of `keep`.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to write.
    pub help: &'static str,
}

/// Everything that is wrong with the rules of a service.
#[must_use]
pub fn mistakes(sync: &ServiceSync) -> Vec<Mistake> {
    let rules = sync.rules.iter().enumerate().filter_map(|(index, rule)| Rule::new(sync.format, index, rule).err());
    let kept = sync.keep.iter().enumerate().filter_map(|(index, name)| {
        let wrong = Pattern::new(sync.format, name).err()?;
        Some(Mistake { list: "keep", index, key: "", message: wrong.0, help: wrong.1 })
    });
    let many = [("rules", sync.rules.len()), ("keep", sync.keep.len())].into_iter().filter(|(_, n)| *n > MAX_RULES);
    let many = many.map(|(list, n)| {
        let message = format!("there are {n}, and {MAX_RULES} are the limit");
        Mistake { list, index: MAX_RULES, key: "", message, help: "take some together with `*`" }
    });
    rules.chain(kept).chain(many).collect()
}

/// A column's name as a rule has it.
#[derive(Debug, Clone)]
struct Pattern {
    parts: Vec<String>,
    format: SyncFormat,
}

impl Pattern {
    fn new(format: SyncFormat, text: &str) -> Result<Self, (String, &'static str)> {
        let parts: Vec<String> = match format {
            SyncFormat::Csv => vec![text.to_owned()],
            SyncFormat::Sql | SyncFormat::Jsonl => text.split('.').map(str::to_owned).collect(),
        };
        let shown = text.escape_debug();
        if parts.iter().any(|part| part.is_empty()) {
            return Err((
                format!("`{shown}` names no column"),
                "write `TABLE.COLUMN`; of CSV the column, of JSON lines the path",
            ));
        }
        if format == SyncFormat::Sql && !(2..=3).contains(&parts.len()) {
            return Err((
                format!("`{shown}` names no column of a table"),
                "write `TABLE.COLUMN` or `SCHEMA.TABLE.COLUMN`",
            ));
        }
        Ok(Self { parts, format })
    }

    fn matches(&self, path: &[String]) -> bool {
        let path = match self.format {
            // without its schema
            SyncFormat::Sql => &path[path.len().saturating_sub(self.parts.len())..],
            SyncFormat::Csv | SyncFormat::Jsonl => path,
        };
        self.parts.len() == path.len() && self.parts.iter().zip(path).all(|(part, name)| part == "*" || part == name)
    }
}

/// What takes the place of something.
#[derive(Debug, Clone)]
enum How {
    Set(SetTo),
    Value(String),
}

#[derive(Debug)]
struct Rule {
    column: Option<Pattern>,
    matching: Option<Regex>,
    how: How,
    is_optional: bool,
    name: String,
    is_used: bool,
}

impl Rule {
    fn new(format: SyncFormat, index: usize, rule: &SyncRule) -> Result<Self, Mistake> {
        let mistake = |key, message, help| Mistake { list: "rules", index, key, message, help };
        let how = match (&rule.set, &rule.value) {
            (Some(set), None) => How::Set(*set),
            (None, Some(value)) if value.contains('\0') => {
                return Err(mistake("value", "a text can't hold a zero byte".into(), "take it out"));
            }
            (None, Some(value)) => How::Value(value.clone()),
            (None, None) => {
                let message = "the rule does not say what takes the place of what".into();
                return Err(mistake(
                    "set",
                    message,
                    "write `set: email` (or `empty`, `hash`, `phone`, `name`, `drop-row`), or `value: TEXT`",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(mistake("value", "`set` and `value` are both given".into(), "take one of the two out"));
            }
        };
        if rule.column.is_none() && rule.matching.is_none() {
            let help = "write `column: TABLE.COLUMN`, or `matching` with a regular expression";
            return Err(mistake("column", "the rule names neither a column nor what it looks for".into(), help));
        }
        let column = rule.column.as_deref().map(|text| Pattern::new(format, text)).transpose();
        let column = column.map_err(|(message, help)| mistake("column", message, help))?;
        let matching = rule.matching.as_deref().map(expression).transpose();
        let matching = matching.map_err(|problem| {
            mistake("matching", problem, "it works on bytes: `\\d`, `\\w` and `\\s` are those of ASCII")
        })?;
        if matching.as_ref().is_some_and(|regex| regex.is_match(b"")) {
            let message = "the expression matches nothing at all, and so at every place".into();
            return Err(mistake("matching", message, "write one that needs at least a character"));
        }
        let name = match &rule.column {
            Some(column) => format!("rule {} (`{}`)", index + 1, column.escape_debug()),
            None => format!("rule {} (`matching`)", index + 1),
        };
        Ok(Self { column, matching, how, is_optional: rule.optional, name, is_used: false })
    }

    const fn is_dropping(&self) -> bool {
        matches!(self.how, How::Set(SetTo::DropRow))
    }
}

fn expression(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).unicode(false).size_limit(MAX_EXPRESSION).build();
    built.map_err(|error| {
        let said = error.to_string();
        let why = said.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("`{}` is no regular expression: {why}", text.escape_debug())
    })
}

/// How it was decided what becomes of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decided {
    /// A rule names it.
    ByRule,
    /// It is to be kept.
    Kept,
    /// By its name.
    ByName,
    /// Not at all.
    Not,
}

/// What becomes of the values of a column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) decided: Decided,
    /// What replaces each value whole.
    pub(super) whole: Option<Act>,
    /// What replaces parts of a value, one after the other.
    parts: Vec<Act>,
    /// Whether a rule names it that replaces parts of it only, by which nobody has decided what becomes of the rest.
    is_partly: bool,
}

impl Column {
    /// What becomes of it where it lies in another one: of what nobody has named, what becomes of that; and what is looked for there is
    /// looked for here.
    pub(super) fn within(mut self, outer: &Self) -> Self {
        if self.decided == Decided::Not {
            (self.decided, self.whole) = (outer.decided, outer.whole);
        }
        self.is_partly |= outer.is_partly;
        let is_look = |act: &Act| matches!(act.by, By::Look);
        if self.decided != Decided::Not {
            self.parts.retain(|act| !is_look(act));
        }
        for act in outer.parts.iter().filter(|act| !is_look(act)) {
            if !self.parts.contains(act) {
                self.parts.push(*act);
            }
        }
        self
    }
}

/// One thing that is done: by which rule, and what it is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Act {
    by: By,
    counted: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rule(usize),
    Name(SetTo),
    /// Whatever looks like an e-mail address, in a column of which nobody has said anything.
    Look,
}

/// What becomes of a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    Same,
    Null,
    Text(Vec<u8>),
    /// Its row goes.
    Drop,
}

/// The rules of one stream, and what they have done.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    keep: Vec<Pattern>,
    is_strict: bool,
    emails: SyncEmails,
    key: [u8; 32],
    look: Regex,
    /// Every part of a name that stands in a rule or under `keep`: what is called so is no secret.
    written: HashSet<String>,
    counts: IndexMap<String, u64>,
}

impl Rules {
    pub(super) fn new(sync: &ServiceSync, key: [u8; 32]) -> Result<Self, Mistake> {
        if let Some(mistake) = mistakes(sync).into_iter().next() {
            return Err(mistake);
        }
        let all = sync.rules.iter().enumerate();
        let rules: Vec<Rule> =
            all.map(|(index, rule)| Rule::new(sync.format, index, rule)).collect::<Result<_, _>>()?;
        let keep: Vec<Pattern> = sync.keep.iter().filter_map(|name| Pattern::new(sync.format, name).ok()).collect();
        let patterns = rules.iter().filter_map(|rule| rule.column.as_ref()).chain(&keep);
        let written = patterns.flat_map(|pattern| pattern.parts.iter().cloned()).collect();
        let look = expression(EMAIL);
        let look = look.map_err(|message| Mistake { list: "rules", index: 0, key: "matching", message, help: "" })?;
        let counts = IndexMap::new();
        Ok(Self { rules, keep, is_strict: sync.strict, emails: sync.emails, key, look, written, counts })
    }

    /// What becomes of the column at a path: its schema, its table and its name; or the keys that lead to it. `shown`: what it is called
    /// in what is told.
    pub(super) fn column(&mut self, path: &[String], shown: &str) -> Column {
        let mut column = Column { decided: Decided::Not, whole: None, parts: Vec::new(), is_partly: false };
        for index in 0..self.rules.len() {
            let rule = &mut self.rules[index];
            if !rule.column.as_ref().is_some_and(|pattern| pattern.matches(path)) {
                continue;
            }
            rule.is_used = true;
            let is_partly = rule.matching.is_some();
            let act = Act { by: By::Rule(index), counted: self.counted(index) };
            if is_partly {
                column.parts.push(act);
                column.is_partly = true;
            } else if column.whole.is_none() {
                column.whole = Some(act);
                column.decided = Decided::ByRule;
            }
        }
        if column.decided == Decided::Not && self.keep.iter().any(|pattern| pattern.matches(path)) {
            column.decided = Decided::Kept;
        }
        if column.decided == Decided::Not
            && let Some(set) = path.last().and_then(|name| looks_like(name))
        {
            column.decided = Decided::ByName;
            let counted = self.count_under(format!("{shown} (by its name)"));
            column.whole = Some(Act { by: By::Name(set), counted });
        }
        self.add_general(&mut column);
        if column.decided == Decided::Not && !self.is_strict {
            let counted = self.count_under("e-mail addresses in columns that nobody has named".into());
            column.parts.push(Act { by: By::Look, counted });
        }
        column
    }

    /// What becomes of the keys of an object, which are no column's values: what is looked for everywhere is looked for in them as well.
    pub(super) fn keys(&mut self, outer: Option<&Column>) -> Column {
        let decided = if self.is_left(outer) { Decided::Kept } else { Decided::Not };
        let mut column = Column { decided, whole: None, parts: Vec::new(), is_partly: false };
        self.add_general(&mut column);
        if decided == Decided::Not {
            let counted = self.count_under("e-mail addresses in keys".into());
            column.parts.push(Act { by: By::Look, counted });
        }
        if let Some(outer) = outer {
            column = column.within(outer);
            column.whole = None;
        }
        column
    }

    /// Refuses a key that may be data itself.
    pub(super) fn admit_key(&self, outer: Option<&Column>, key: &str) -> bool {
        !self.is_strict || self.is_left(outer) || self.is_written(key) || is_name(key)
    }

    /// Whether it stands in a rule, or under `keep`.
    pub(super) fn is_written(&self, name: &str) -> bool {
        name != "*" && self.written.contains(name)
    }

    /// Whether a text holds what looks like an e-mail address.
    pub(super) fn has_address(&self, text: &[u8]) -> bool {
        self.look.is_match(text)
    }

    fn is_left(&self, outer: Option<&Column>) -> bool {
        outer.is_some_and(|outer| outer.decided == Decided::Kept)
    }

    fn add_general(&mut self, column: &mut Column) {
        for index in 0..self.rules.len() {
            if self.rules[index].column.is_none() {
                let counted = self.counted(index);
                column.parts.push(Act { by: By::Rule(index), counted });
            }
        }
    }

    /// Refuses a column of which nobody has said what is to become of it.
    pub(super) fn admit(&self, column: &Column, shown: impl FnOnce() -> String) -> Result<(), String> {
        if column.decided != Decided::Not || !self.is_strict {
            return Ok(());
        }
        let shown = shown();
        if column.is_partly {
            return Err(format!(
                "{shown} is named by a rule with `matching` alone, which says nothing of the rest of a value: write a rule for all of it, or \
                 keep it as well"
            ));
        }
        Err(format!(
            "{shown} is named neither by a rule nor under `keep`: write a rule for it, or keep it (`strict: false` lets such columns pass)"
        ))
    }

    /// What becomes of a value; an empty one is nothing that could be told.
    pub(super) fn apply(&mut self, column: &Column, value: &[u8]) -> Value {
        // what is looked for is looked for in what it was
        let dropping = column.parts.iter().find(|act| self.drops(**act) && self.regex(**act).is_match(value));
        if let Some(act) = dropping {
            self.count(*act, 1);
            return Value::Drop;
        }
        if let Some(act) = column.whole {
            if self.drops(act) {
                self.count(act, 1);
                return Value::Drop;
            }
            if value.is_empty() {
                return Value::Same;
            }
            self.count(act, 1);
            return self.made(act, value).map_or(Value::Null, Value::Text);
        }
        if value.is_empty() {
            return Value::Same;
        }
        let mut text: Option<Vec<u8>> = None;
        for act in &column.parts {
            if self.drops(*act) {
                continue;
            }
            let current = text.as_deref().unwrap_or(value);
            let (found, made) = self.edited(*act, current);
            if found == 0 {
                continue;
            }
            self.count(*act, found);
            let Some(made) = made else { return Value::Null };
            text = Some(made);
        }
        text.map_or(Value::Same, Value::Text)
    }

    /// How often a rule finds something in a value, and what that is with it replaced; `None`: nothing at all.
    fn edited(&self, act: Act, value: &[u8]) -> (u64, Option<Vec<u8>>) {
        let (mut found, mut text, mut from) = (0, Vec::new(), 0);
        for part in self.regex(act).find_iter(value) {
            found += 1;
            let Some(made) = self.made(act, part.as_bytes()) else { return (found, None) };
            text.extend_from_slice(&value[from..part.start()]);
            text.extend_from_slice(&made);
            from = part.end();
        }
        text.extend_from_slice(&value[from..]);
        (found, Some(text))
    }

    /// Whether a row goes although it has nothing in the column.
    pub(super) fn drops_empty(&mut self, column: &Column) -> bool {
        let Some(act) = column.whole.filter(|act| self.drops(*act)) else { return false };
        self.count(act, 1);
        true
    }

    /// How often each rule has replaced something; or which of them has found no column.
    pub(super) fn finish(self) -> Result<Vec<SyncCount>, String> {
        let lost = self.rules.iter().find(|rule| rule.column.is_some() && !rule.is_used && !rule.is_optional);
        if let Some(rule) = lost {
            return Err(format!(
                "{} finds no column in the data: mend its name, or write `optional: true` where they need not have one",
                rule.name
            ));
        }
        Ok(self.counts.into_iter().map(|(what, count)| SyncCount { what, count }).collect())
    }

    fn regex(&self, act: Act) -> &Regex {
        match act.by {
            By::Rule(index) => self.rules[index].matching.as_ref().unwrap_or(&self.look),
            By::Name(_) | By::Look => &self.look,
        }
    }

    fn drops(&self, act: Act) -> bool {
        matches!(act.by, By::Rule(index) if self.rules[index].is_dropping())
    }

    /// What takes the place of something; `None`: nothing.
    fn made(&self, act: Act, of: &[u8]) -> Option<Vec<u8>> {
        let set = match act.by {
            By::Rule(index) => match &self.rules[index].how {
                How::Value(text) => return Some(text.clone().into_bytes()),
                How::Set(set) => *set,
            },
            By::Name(set) => set,
            By::Look => SetTo::Email,
        };
        let text = match set {
            SetTo::Empty | SetTo::DropRow => return None,
            SetTo::Hash => self.hash(of, 16),
            SetTo::Email if self.emails == SyncEmails::Unique => {
                format!("test+{}@example.com", self.hash(&of.to_ascii_lowercase(), 8))
            }
            SetTo::Email => "test@example.com".into(),
            SetTo::Phone => "555-0123".into(),
            SetTo::Name => "Test User".into(),
        };
        Some(text.into_bytes())
    }

    /// HMAC-SHA256 (RFC 2104), its first bytes: what it was can't be found by trying without the key.
    fn hash(&self, of: &[u8], bytes: usize) -> String {
        use std::fmt::Write as _;
        // a key of any length is taken
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return String::new() };
        mac.update(of);
        mac.finalize().into_bytes().iter().take(bytes).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn counted(&mut self, rule: usize) -> usize {
        let name = self.rules[rule].name.clone();
        self.count_under(name)
    }

    fn count_under(&mut self, what: String) -> usize {
        let is_full = self.counts.len() >= MAX_COUNTED && !self.counts.contains_key(&what);
        let entry = self.counts.entry(if is_full { "other columns".into() } else { what });
        let index = entry.index();
        entry.or_insert(0);
        index
    }

    fn count(&mut self, act: Act, times: u64) {
        if let Some((_, count)) = self.counts.get_index_mut(act.counted) {
            *count += times;
        }
    }
}

/// Whether a key looks like the name of something, and not like data.
fn is_name(key: &str) -> bool {
    (1..=40).contains(&key.len())
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// What a column holds by its name.
pub(super) fn looks_like(name: &str) -> Option<SetTo> {
    const PEOPLE: [&str; 26] = [
        "first",
        "last",
        "full",
        "given",
        "family",
        "middle",
        "sur",
        "nick",
        "display",
        "customer",
        "contact",
        "user",
        "real",
        "maiden",
        "legal",
        "billing",
        "shipping",
        "recipient",
        "owner",
        "holder",
        "cardholder",
        "sender",
        "employee",
        "patient",
        "person",
        "author",
    ];
    let words = words(name);
    let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
    let pair = |first: &str, second: &str| words.windows(2).any(|two| two[0] == first && two[1] == second);
    if has(&["email", "emails", "mail", "mails", "emailaddress", "mailaddress"]) || pair("e", "mail") {
        return Some(SetTo::Email);
    }
    if has(&[
        "phone",
        "phones",
        "telephone",
        "tel",
        "mobile",
        "cellphone",
        "cell",
        "fax",
        "msisdn",
        "phonenumber",
        "telefon",
        "handy",
    ]) {
        return Some(SetTo::Phone);
    }
    let last = words.last().map(String::as_str)?;
    let stem = last.strip_suffix("names").or(last.strip_suffix("name"))?;
    let is_of_person = match (stem, words.len()) {
        ("", 1) => true,
        ("", n) => PEOPLE.contains(&words[n - 2].as_str()),
        (stem, _) => PEOPLE.contains(&stem),
    };
    is_of_person.then_some(SetTo::Name)
}

/// The words of a name: `userEmail`, `user_email`, `User E-Mail`.
fn words(name: &str) -> Vec<String> {
    let (mut words, mut word, mut was_small) = (Vec::new(), String::new(), false);
    for c in name.chars() {
        if (!c.is_alphanumeric() || c.is_uppercase() && was_small) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        was_small = c.is_lowercase() || c.is_ascii_digit();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
