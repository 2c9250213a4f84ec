//! Standard output and error, which a script has apart, in one log: whole lines of the one between whole lines of the other. What is cut
//! elsewhere would put a part of one line into another, and a secret that is written in two parts could not be told there. Pure.

/// Bytes of one stream that wait for the end of the other's line, at most.
const MAX_HELD_BYTES: usize = 256 * 1024;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Output,
    Error,
}

impl Stream {
    const fn other(self) -> Self {
        match self {
            Self::Output => Self::Error,
            Self::Error => Self::Output,
        }
    }
}

/// What of the two streams has come.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Whose line has begun in the log and has not ended there.
    open: Option<Stream>,
    /// What the other has said since.
    held: Vec<u8>,
}

impl Lines {
    /// Takes in what a stream said, and lets go what is next in the log.
    pub(super) fn take(&mut self, from: Stream, said: &[u8], out: &mut Vec<u8>) {
        if self.open.is_some_and(|open| open != from) {
            self.held.extend_from_slice(said);
            if self.held.len() > MAX_HELD_BYTES {
                self.let_go(out);
            }
            return;
        }
        let ended = memchr::memrchr(b'\n', said).map_or(0, |at| at + 1);
        let (lines, begun) = said.split_at(ended);
        out.extend_from_slice(lines);
        if !lines.is_empty() {
            self.open = None;
            self.give_held(from.other(), out);
        }
        if begun.is_empty() {
            return;
        }
        if self.open.is_some_and(|open| open != from) {
            self.held.extend_from_slice(begun);
        } else {
            out.extend_from_slice(begun);
            self.open = Some(from);
        }
    }

    /// Whose line has begun and has not ended.
    pub(super) const fn open(&self) -> Option<Stream> {
        self.open
    }

    /// Whether something waits for the end of the other's line.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets go what waits, and ends the line that it waited for.
    pub(super) fn let_go(&mut self, out: &mut Vec<u8>) {
        let Some(open) = self.open.filter(|_| self.is_holding()) else { return };
        out.push(b'\n');
        self.open = None;
        self.give_held(open.other(), out);
    }

    fn give_held(&mut self, of: Stream, out: &mut Vec<u8>) {
        if self.held.last().is_some_and(|last| *last != b'\n') {
            self.open = Some(of);
        }
        out.append(&mut self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, MAX_HELD_BYTES, Stream::*};

    fn told(said: &[(super::Stream, &str)]) -> (String, Lines) {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for (from, text) in said {
            lines.take(*from, text.as_bytes(), &mut out);
        }
        (String::from_utf8(out).unwrap(), lines)
    }

    #[test]
    fn what_one_stream_alone_says_goes_on_at_once() {
        let (text, lines) = told(&[(Output, "a"), (Output, "b\nc"), (Output, "\n")]);
        assert_eq!(text, "ab\nc\n");
        assert!(!lines.is_holding());
    }

    #[test]
    fn a_line_that_is_cut_stays_whole_while_the_other_speaks() {
        let (text, lines) = told(&[(Output, "the secr"), (Error, "warning\n"), (Output, "et\nnext\n")]);
        assert_eq!(text, "the secret\nnext\nwarning\n");
        assert!(!lines.is_holding());
    }

    #[test]
    fn two_lines_that_are_cut_take_turns() {
        let said = [(Output, "o1"), (Error, "e1"), (Output, "\no2"), (Error, "\n"), (Output, "\n")];
        let (text, lines) = told(&said);
        assert_eq!(text, "o1\ne1\no2\n");
        assert!(!lines.is_holding());
    }

    #[test]
    fn what_waits_too_long_or_is_too_much_ends_the_line_that_it_waits_for() {
        let (mut text, mut lines) = told(&[(Output, "progress 50 %"), (Error, "trouble")]);
        assert_eq!(text, "progress 50 %");
        assert!(lines.is_holding());
        let mut out = Vec::new();
        lines.let_go(&mut out);
        lines.let_go(&mut out);
        lines.take(Error, b"!\n", &mut out);
        lines.take(Output, b" done\n", &mut out);
        text.push_str(std::str::from_utf8(&out).unwrap());
        assert_eq!(text, "progress 50 %\ntrouble!\n done\n");

        let much = "x".repeat(MAX_HELD_BYTES + 1);
        let (text, lines) = told(&[(Error, "?"), (Output, &much)]);
        assert_eq!(text, format!("?\n{much}"));
        assert!(!lines.is_holding());
    }

    proptest::proptest! {
        /// However the two are cut, each byte of both comes once and in its order, and lines of both are whole.
        #[test]
        fn nothing_is_lost_or_torn(pieces in proptest::collection::vec((proptest::bool::ANY, "[ab\n]{0,4}"), 0..40)) {
            let (mut lines, mut out) = (Lines::default(), Vec::new());
            let mut said = [String::new(), String::new()];
            for (is_error, text) in &pieces {
                // told apart by their letters: the one in capitals
                let (from, text) = if *is_error { (Error, text.to_uppercase()) } else { (Output, text.clone()) };
                said[usize::from(*is_error)].push_str(&text);
                lines.take(from, text.as_bytes(), &mut out);
            }
            lines.let_go(&mut out);
            let text = String::from_utf8(out).unwrap();
            for line in text.lines() {
                let is_one = line.chars().all(char::is_lowercase) || line.chars().all(char::is_uppercase);
                proptest::prop_assert!(is_one, "{:?} has parts of both", line);
            }
            let of = |is_mine: fn(char) -> bool| text.chars().filter(|c| is_mine(*c)).collect::<String>();
            let letters = |text: &str| text.replace('\n', "");
            proptest::prop_assert_eq!(of(char::is_lowercase), letters(&said[0]));
            proptest::prop_assert_eq!(of(char::is_uppercase), letters(&said[1]));
            let whole = |text: &str| text.matches('\n').count();
            let added = whole(&text) - whole(&said[0]) - whole(&said[1]);
            proptest::prop_assert!(added <= 1, "{} line ends too many", added);
        }
    }
}
