//! Events of the YAML parser into the tree, with a stack of our own: depth costs no stack.

use std::{collections::HashMap, ops::Range, rc::Rc};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};

use super::{Content, Entry, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, Scalar, ScalarKind};
use crate::diagnostic::{Code, Findings};

const MERGE_KEY: &str = "<<";

pub(super) fn build(findings: &mut Findings<'_>) -> Option<Rc<Node>> {
    let text = findings.source.text;
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {MAX_BYTES} bytes, which are the limit");
        findings.error(Code::YamlLimit, &(0..0), message, Some("split it into several files".into()));
        return None;
    }
    // whoever read the file has put this in the place of bytes that are none
    if let Some(at) = text.find([char::REPLACEMENT_CHARACTER, '\0']) {
        let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
        let help = Some("save the file as UTF-8".into());
        findings.error(Code::YamlSyntax, &(at..end), "this is no text in UTF-8", help);
        return None;
    }
    let mut builder = Builder {
        offsets: Offsets { text, ascii: text.is_ascii(), characters: 0, bytes: 0 },
        findings,
        stack: Vec::new(),
        anchors: HashMap::new(),
        root: None,
        nodes: 0,
        documents: 0,
    };
    for event in Parser::new_from_str(text) {
        let proceed = match event {
            Ok((event, span)) => {
                let start = builder.offsets.byte(span.start.index());
                let end = builder.offsets.byte(span.end.index()).max(start);
                builder.event(event, start..end)
            }
            Err(error) => builder.refuse_syntax(&error),
        };
        proceed?;
    }
    builder.root
}

struct Builder<'f, 's> {
    findings: &'f mut Findings<'s>,
    offsets: Offsets<'s>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
    nodes: usize,
    documents: usize,
}

/// A list or mapping that is not closed yet.
struct Open {
    start: usize,
    anchor: usize,
    weight: usize,
    collection: Collection,
}

enum Collection {
    Sequence(Vec<Rc<Node>>),
    Mapping { entries: Vec<Entry>, lines: HashMap<String, usize>, key: Option<Key>, merges: Vec<Rc<Node>> },
}

/// A key that waits for its value.
enum Key {
    Named(String, Range<usize>),
    Merge,
    /// Refused already; its value is read and dropped.
    Refused,
}

impl Builder<'_, '_> {
    /// `None` ends the reading: a limit was passed, or a second document begins.
    fn event(&mut self, event: Event<'_>, span: Range<usize>) -> Option<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = self.kind(&text, style, tag.as_deref(), &span);
                let scalar = Scalar { text: text.into_owned(), kind };
                self.charge(1, &span)?;
                let merges = style == ScalarStyle::Plain && scalar.text == MERGE_KEY;
                let node = Rc::new(Node { content: Content::Scalar(scalar), span, weight: 1 });
                self.complete(node, anchor, merges);
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => {
                    self.charge(node.weight, &span)?;
                    self.complete(node, 0, false);
                }
                None => {
                    self.findings.error(
                        Code::YamlUnsupported,
                        &span,
                        "this alias stands within what it refers to, so it would never end",
                        Some("write the value out here".into()),
                    );
                    return None;
                }
            },
            Event::SequenceStart(anchor, tag) => {
                self.open(Collection::Sequence(Vec::new()), anchor, tag.as_deref(), &span)?
            }
            Event::MappingStart(anchor, tag) => {
                let mapping =
                    Collection::Mapping { entries: Vec::new(), lines: HashMap::new(), key: None, merges: Vec::new() };
                self.open(mapping, anchor, tag.as_deref(), &span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span.end)?,
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.findings.error(
                        Code::YamlUnsupported,
                        &span,
                        "a second document begins here, and a file holds one",
                        Some("move it to a file of its own".into()),
                    );
                    return None;
                }
            }
            Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {}
        }
        Some(())
    }

    fn kind(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Range<usize>) -> ScalarKind {
        self.check_tag(tag, span);
        match tag {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => ScalarKind::String,
            _ if style == ScalarStyle::Plain => ScalarKind::of_plain(text),
            _ => ScalarKind::String,
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, span: &Range<usize>) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let message = format!("the tag `{}{}` means nothing here", tag.handle, tag.suffix);
            self.findings.error(Code::YamlUnsupported, span, message, Some("leave the tag out".into()));
        }
    }

    fn open(&mut self, collection: Collection, anchor: usize, tag: Option<&Tag>, span: &Range<usize>) -> Option<()> {
        self.check_tag(tag, span);
        self.charge(1, span)?;
        if self.stack.len() >= MAX_DEPTH {
            let message = format!("lists and mappings are nested more than {MAX_DEPTH} levels deep");
            self.findings.error(Code::YamlLimit, span, message, None);
            return None;
        }
        self.stack.push(Open { start: span.start, anchor, weight: 1, collection });
        Some(())
    }

    fn close(&mut self, end: usize) -> Option<()> {
        let open = self.stack.pop()?;
        let mut weight = open.weight;
        let content = match open.collection {
            Collection::Sequence(items) => Content::Sequence(items),
            Collection::Mapping { mut entries, lines, merges, .. } => {
                let added = self.merge(&mut entries, lines, &merges)?;
                weight += added;
                Content::Mapping(entries)
            }
        };
        let node = Rc::new(Node { content, span: open.start..end.max(open.start), weight });
        self.complete(node, open.anchor, false);
        Some(())
    }

    /// Adds what merge keys bring; what the mapping says itself, and what came first, wins. Gives the weight added.
    fn merge(
        &mut self,
        entries: &mut Vec<Entry>,
        mut seen: HashMap<String, usize>,
        merges: &[Rc<Node>],
    ) -> Option<usize> {
        let mut added = 0;
        for source in merges {
            let Content::Mapping(from) = &source.content else { continue };
            for entry in from {
                if !seen.contains_key(&entry.key) {
                    self.charge(entry.value.weight, &source.span)?;
                    added += entry.value.weight;
                    seen.insert(entry.key.clone(), 0);
                    let Entry { key, key_span, value } = entry;
                    entries.push(Entry { key: key.clone(), key_span: key_span.clone(), value: Rc::clone(value) });
                }
            }
        }
        Some(added)
    }

    fn complete(&mut self, node: Rc<Node>, anchor: usize, is_merge: bool) {
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        open.weight += node.weight;
        match &mut open.collection {
            Collection::Sequence(items) => items.push(node),
            Collection::Mapping { entries, lines, key, merges } => match key.take() {
                None => *key = Some(read_key(&node, is_merge, lines, self.findings)),
                Some(Key::Named(key, key_span)) => entries.push(Entry { key, key_span, value: node }),
                Some(Key::Merge) => collect_merges(&node, merges, self.findings),
                Some(Key::Refused) => {}
            },
        }
    }

    fn charge(&mut self, nodes: usize, span: &Range<usize>) -> Option<()> {
        self.nodes += nodes;
        if self.nodes <= MAX_NODES {
            return Some(());
        }
        let message = format!("the file holds more than {MAX_NODES} values, counting what aliases repeat");
        self.findings.error(Code::YamlLimit, span, message, None);
        None
    }

    fn refuse_syntax(&mut self, error: &ScanError) -> Option<()> {
        let start = self.offsets.byte(error.marker().index());
        let text = &self.findings.source.text[start..];
        let span = start..start + text.chars().next().filter(|c| *c != '\n').map_or(0, char::len_utf8);
        let info = error.info();
        let code = if info.contains("recursion limit") { Code::YamlLimit } else { Code::YamlSyntax };
        let message = match code {
            Code::YamlLimit => format!("lists and mappings are nested more than {MAX_DEPTH} levels deep"),
            _ => format!("this is not YAML: {info}"),
        };
        self.findings.error(code, &span, message, hint(info).map(Into::into));
        None
    }
}

fn read_key(node: &Node, is_merge: bool, lines: &mut HashMap<String, usize>, findings: &mut Findings<'_>) -> Key {
    let Some(scalar) = node.scalar() else {
        let help = Some("write a text as key".into());
        findings.error(Code::YamlUnsupported, &node.span, format!("a key cannot be {}", node.kind()), help);
        return Key::Refused;
    };
    let line = findings.source.line(node.span.start);
    if let Some(first) = lines.insert(scalar.text.clone(), line) {
        lines.insert(scalar.text.clone(), first);
        let message = format!("the key `{}` stands here a second time, the first is in line {first}", scalar.text);
        findings.error(
            Code::DuplicateKey,
            &node.span,
            message,
            Some("remove one, or put both values under one key".into()),
        );
        return Key::Refused;
    }
    if is_merge { Key::Merge } else { Key::Named(scalar.text.clone(), node.span.clone()) }
}

fn collect_merges(node: &Rc<Node>, merges: &mut Vec<Rc<Node>>, findings: &mut Findings<'_>) {
    match &node.content {
        Content::Mapping(_) => merges.push(Rc::clone(node)),
        Content::Sequence(items) if items.iter().all(|item| matches!(item.content, Content::Mapping(_))) => {
            merges.extend(items.iter().cloned());
        }
        _ => findings.error(
            Code::WrongType,
            &node.span,
            format!("the merge key `<<` takes a mapping or a list of mappings, and this is {}", node.kind()),
            Some("name an anchor that stands on a mapping: `<<: *defaults`".into()),
        ),
    }
}

/// What to do about the parser's more common complaints.
fn hint(info: &str) -> Option<&'static str> {
    const HINTS: [(&str, &str); 7] = [
        ("mapping values are not allowed", "put a text that holds `: ` in quotes"),
        ("did not find expected key", "check the indentation: keys of one mapping stand in one column"),
        ("did not find expected '-'", "check the indentation: the items of one list stand in one column"),
        ("tab", "indent with spaces; YAML does not allow tabs there"),
        ("unknown anchor", "define it before with `&name`, or put a text that begins with `*` in quotes"),
        ("escape", "write a backslash twice, or use single quotes, in which it is an ordinary character"),
        ("quoted scalar", "close the quote"),
    ];
    HINTS.iter().find(|(part, _)| info.contains(part)).map(|(_, hint)| *hint)
}

/// Characters, in which the parser counts, into bytes. Moves from the last answer, as questions come nearly in order.
struct Offsets<'s> {
    text: &'s str,
    ascii: bool,
    characters: usize,
    bytes: usize,
}

impl Offsets<'_> {
    fn byte(&mut self, character: usize) -> usize {
        if self.ascii {
            return character.min(self.text.len());
        }
        while self.characters < character {
            let Some(next) = self.text[self.bytes..].chars().next() else { break };
            self.characters += 1;
            self.bytes += next.len_utf8();
        }
        while self.characters > character {
            let Some(last) = self.text[..self.bytes].chars().next_back() else { break };
            self.characters -= 1;
            self.bytes -= last.len_utf8();
        }
        self.bytes
    }
}
