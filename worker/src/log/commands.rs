//! Finds workflow commands in a step's output. Masks hold from there on, annotations are gathered, groups take the runner's own
//! form; what a line of a log may not ask for is said to be ignored.

use memchr::{memchr, memmem::Finder};
use segue_schemas::annotation::{Annotation, AnnotationLevel};

use super::{
    command::{self, Command},
    mask::Masker,
};

const BEGIN: &[u8] = b"::";
/// A longer line is read as a command as far as this; what follows of it is text, or left out after a mask.
const MAX_LINE: usize = 64 * 1024;
/// White space before a command that is passed over.
const MAX_INDENT: usize = 32;
/// Annotations of one kind between two marks; the rest is counted. As at GitHub.
const MAX_OF_A_KIND: usize = 10;

/// Stands before a [`Masker`].
#[derive(Debug)]
pub struct Commands {
    finder: Finder<'static>,
    /// The beginning of what may be a command, until its line is complete.
    held: Vec<u8>,
    at_line_start: bool,
    /// Within a line that is left out.
    swallowing: bool,
    /// What ends the time in which commands are text.
    stopped: Option<String>,
    found: Found,
}

/// What lines asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Masks, in order.
    pub masks: Vec<String>,
    /// Annotations, in order; not masked yet.
    pub annotations: Vec<Annotation>,
    /// Annotations that were too many.
    pub dropped: usize,
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            finder: Finder::new(BEGIN),
            held: Vec::new(),
            at_line_start: true,
            swallowing: false,
            stopped: None,
            found: Found::default(),
        }
    }
}

impl Commands {
    /// Takes output in and gives it on, without the commands.
    pub fn push(&mut self, input: &[u8], masker: &mut Masker, out: &mut Vec<u8>) {
        let joined;
        let mut rest = if self.held.is_empty() {
            input
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(input);
            joined = held;
            &joined
        };
        while !rest.is_empty() {
            if self.swallowing {
                let end = memchr(b'\n', rest);
                rest = end.map_or(&[], |end| &rest[end + 1..]);
                self.swallowing = end.is_none();
                self.at_line_start = end.is_some();
                continue;
            }
            let Some(at) = self.next_command(rest) else {
                let held_from = rest.len() - self.partial_command(rest);
                self.give(&rest[..held_from], masker, out);
                self.held.extend_from_slice(&rest[held_from..]);
                return;
            };
            self.give(&rest[..at], masker, out);
            rest = &rest[at..];
            match memchr(b'\n', rest) {
                Some(end) => {
                    self.line(&rest[..end], &rest[end..=end], masker, out);
                    rest = &rest[end + 1..];
                }
                None if rest.len() > MAX_LINE => {
                    self.long_line(rest, masker, out);
                    return;
                }
                None => {
                    self.held.extend_from_slice(rest);
                    return;
                }
            }
        }
    }

    /// No more output for now: what is held is a command without its line's end, or text.
    pub fn end(&mut self, masker: &mut Masker, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.line(&held, b"", masker, out);
        }
        self.swallowing = false;
    }

    /// Says that a line was written past this one.
    pub const fn line_written(&mut self) {
        self.at_line_start = true;
    }

    /// What was found since the last call. A step that stopped commands has stopped its own alone.
    pub fn take_found(&mut self) -> Found {
        self.stopped = None;
        std::mem::take(&mut self.found)
    }

    /// Where the next line begins that may be a command.
    fn next_command(&self, text: &[u8]) -> Option<usize> {
        self.finder.find_iter(text).find_map(|at| self.line_start(text, at))
    }

    /// Where the line of a position begins, if only white space stands before it.
    fn line_start(&self, text: &[u8], at: usize) -> Option<usize> {
        let indent = text[..at].iter().rev().take(MAX_INDENT).take_while(|b| matches!(b, b' ' | b'\t')).count();
        let start = at - indent;
        let begins = if start == 0 { self.at_line_start } else { text[start - 1] == b'\n' };
        begins.then_some(start)
    }

    /// How many bytes at the end may be the beginning of a command.
    fn partial_command(&self, text: &[u8]) -> usize {
        let colon = usize::from(text.last() == Some(&b':'));
        self.line_start(text, text.len() - colon).map_or(0, |start| text.len() - start)
    }

    fn line(&mut self, line: &[u8], end: &[u8], masker: &mut Masker, out: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        if let Some(token) = &self.stopped {
            if text.trim().strip_prefix("::").and_then(|rest| rest.strip_suffix("::")) == Some(token) {
                self.stopped = None;
                self.at_line_start = true;
            } else {
                self.give(line, masker, out);
                self.give(end, masker, out);
            }
            return;
        }
        match command::parse(text) {
            None => {
                self.give(line, masker, out);
                self.give(end, masker, out);
            }
            Some(command) => {
                let shown = self.perform(command, masker);
                if let Some(shown) = shown {
                    self.give(shown.as_bytes(), masker, out);
                    self.give(end, masker, out);
                }
                self.at_line_start = true;
            }
        }
    }

    fn long_line(&mut self, line: &[u8], masker: &mut Masker, out: &mut Vec<u8>) {
        let (head, rest) = line.split_at(MAX_LINE);
        match command::parse(&String::from_utf8_lossy(head)) {
            Some(command @ Command::Mask(_)) if self.stopped.is_none() => {
                self.perform(command, masker);
                self.swallowing = true;
            }
            _ => {
                self.give(head, masker, out);
                self.give(rest, masker, out);
            }
        }
    }

    /// Does what a command asks for; the line that is shown in its place.
    fn perform(&mut self, command: Command, masker: &mut Masker) -> Option<String> {
        match command {
            Command::Mask(text) => {
                masker.add([text.as_str()]);
                if !text.trim().is_empty() {
                    self.found.masks.push(text);
                }
                None
            }
            Command::Annotate(annotation) => {
                let shown = format!("##[{}]{}", annotation.level.as_str(), annotation.message);
                self.remember(annotation);
                Some(shown)
            }
            Command::Show(line) => Some(line),
            Command::Stop(token) => {
                self.stopped = Some(token);
                None
            }
            Command::Nothing => None,
            Command::Refused(why) => {
                let shown = format!("##[warning]{why}");
                let known = self.found.annotations.iter().any(|annotation| annotation.message == why);
                if !known {
                    self.remember(warning(why));
                }
                Some(shown)
            }
        }
    }

    fn remember(&mut self, annotation: Annotation) {
        let same = self.found.annotations.iter().filter(|known| known.level == annotation.level).count();
        if same < MAX_OF_A_KIND {
            self.found.annotations.push(annotation);
        } else {
            self.found.dropped += 1;
        }
    }

    fn give(&mut self, text: &[u8], masker: &mut Masker, out: &mut Vec<u8>) {
        if let Some(last) = text.last() {
            self.at_line_start = *last == b'\n';
            masker.push(text, out);
        }
    }
}

fn warning(message: String) -> Annotation {
    Annotation::new(AnnotationLevel::Warning, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(pieces: &[&[u8]]) -> (String, Found) {
        let (mut commands, mut masker, mut out) = (Commands::default(), Masker::default(), Vec::new());
        for piece in pieces {
            commands.push(piece, &mut masker, &mut out);
        }
        commands.end(&mut masker, &mut out);
        masker.finish(&mut out);
        (String::from_utf8(out).unwrap(), commands.take_found())
    }

    #[test]
    fn a_mask_holds_from_its_line_on() {
        let (text, found) =
            shown(&[b"a s3cret\n::add-mask::s3cret\r\nb s3cret\nno ::add-mask::here\n  ::add-mask::last"]);
        assert_eq!(text, "a s3cret\nb ***\nno ::add-mask::here\n");
        assert_eq!(found.masks, ["s3cret", "last"]);
        let long = format!("::add-mask::{}\nafter", "x".repeat(100_000));
        assert_eq!(shown(&[long.as_bytes()]).0, "after");
    }

    #[test]
    fn commands_take_the_runners_form() {
        let (text, found) =
            shown(&[b"::group::Build\ncc a.c\n::endgroup::\n::error file=a.c,line=3::broken\n::unknown::x\n"]);
        assert_eq!(text, "##[group]Build\ncc a.c\n##[endgroup]\n##[error]broken\n::unknown::x\n");
        assert_eq!(found.annotations.len(), 1);
        assert_eq!(found.annotations[0].file.as_deref(), Some("a.c"));
    }

    #[test]
    fn nothing_in_a_log_sets_an_output() {
        let (text, found) = shown(&[b"::set-output name=a::1\n::set-output name=b::2\n"]);
        assert_eq!(text.matches("##[warning]`::set-output::` is ignored").count(), 2);
        assert_eq!(found.annotations.len(), 1, "told once");
    }

    #[test]
    fn stopped_commands_are_text() {
        let (text, found) = shown(&[b"::stop-commands::t0k\n::error::x\n::add-mask::y\n::t0k::\n::error::z\n"]);
        assert_eq!(text, "::error::x\n::add-mask::y\n##[error]z\n");
        assert_eq!((found.masks.len(), found.annotations.len()), (0, 1));
    }

    #[test]
    fn annotations_are_bounded() {
        let lines = "::warning::w\n".repeat(25) + &"::error::e\n".repeat(3);
        let (text, found) = shown(&[lines.as_bytes()]);
        assert_eq!(text.lines().count(), 28);
        assert_eq!((found.annotations.len(), found.dropped), (13, 15));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            lines in prop::collection::vec(prop::sample::select(vec![
                "::add-mask::abc", "abc def", "::add-", "", "x ::add-mask::q", "::add-mask::def", ":", "xdefx", "  ",
                " \t::error file=a::abc", "::stop-commands::t", "::t::", "::group::def", "a::b",
            ]), 0..8),
            cuts in prop::collection::vec(0_usize..150, 0..10),
        ) {
            let text = lines.join("\n");
            let whole = shown(&[text.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(shown(&pieces), whole);
        }
    }
}
