//! Finds `::add-mask::VALUE` lines in a step's output: the value is masked from there on, and the line is left out.

use memchr::{memchr, memmem::Finder};

use super::mask::Masker;

const ADD_MASK: &[u8] = b"::add-mask::";
/// A longer value is masked as far as this, and the rest of its line is left out.
const MAX_VALUE: usize = 64 * 1024;

/// Stands before a [`Masker`].
#[derive(Debug)]
pub struct MaskCommands {
    finder: Finder<'static>,
    /// The beginning of what may be a command, until its line is complete.
    held: Vec<u8>,
    at_line_start: bool,
    /// Within a line that is left out.
    swallowing: bool,
    /// Values found, in order.
    found: Vec<String>,
}

impl Default for MaskCommands {
    fn default() -> Self {
        let finder = Finder::new(ADD_MASK);
        Self { finder, held: Vec::new(), at_line_start: true, swallowing: false, found: Vec::new() }
    }
}

impl MaskCommands {
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
                    self.mask(&rest[ADD_MASK.len()..end], masker);
                    rest = &rest[end + 1..];
                }
                None if rest.len() > MAX_VALUE => {
                    self.mask(&rest[ADD_MASK.len()..], masker);
                    self.swallowing = true;
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
        match held.strip_prefix(ADD_MASK) {
            Some(value) => self.mask(value, masker),
            None => self.give(&held, masker, out),
        }
        self.swallowing = false;
    }

    /// Says that a line was written past this one.
    pub const fn line_written(&mut self) {
        self.at_line_start = true;
    }

    /// The values found since the last call.
    pub fn take_found(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found)
    }

    fn next_command(&self, text: &[u8]) -> Option<usize> {
        self.finder.find_iter(text).find(|&at| self.is_line_start(text, at))
    }

    /// How many bytes at the end may be the beginning of a command.
    fn partial_command(&self, text: &[u8]) -> usize {
        (1..ADD_MASK.len().min(text.len() + 1))
            .rev()
            .find(|&length| text.ends_with(&ADD_MASK[..length]) && self.is_line_start(text, text.len() - length))
            .unwrap_or(0)
    }

    fn is_line_start(&self, text: &[u8], at: usize) -> bool {
        if at == 0 { self.at_line_start } else { text[at - 1] == b'\n' }
    }

    fn give(&mut self, text: &[u8], masker: &mut Masker, out: &mut Vec<u8>) {
        if let Some(last) = text.last() {
            self.at_line_start = *last == b'\n';
            masker.push(text, out);
        }
    }

    fn mask(&mut self, value: &[u8], masker: &mut Masker) {
        let value = &value[..value.len().min(MAX_VALUE)];
        let text = String::from_utf8_lossy(value).trim_end_matches('\r').to_owned();
        // The escapes of GitHub's workflow commands.
        let text = text.replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%");
        masker.add([text.as_str()]);
        self.at_line_start = true;
        if !text.trim().is_empty() {
            self.found.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(pieces: &[&[u8]]) -> (String, Vec<String>) {
        let (mut commands, mut masker, mut out) = (MaskCommands::default(), Masker::default(), Vec::new());
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
            shown(&[b"a s3cret\n::add-mask::s3cret\r\nb s3cret\nno ::add-mask::here\n::add-mask::last"]);
        assert_eq!(text, "a s3cret\nb ***\nno ::add-mask::here\n");
        assert_eq!(found, ["s3cret", "last"]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            lines in prop::collection::vec(prop::sample::select(
                vec!["::add-mask::abc", "abc def", "::add-", "", "x ::add-mask::q", "::add-mask::def", ":", "xdefx"]), 0..8),
            cuts in prop::collection::vec(0_usize..100, 0..10),
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
