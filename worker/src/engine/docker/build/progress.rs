//! What of a build is told, step by step: from BuildKit's trace, or from the classic builder's words.
//!
//! The trace is `StatusResponse` of
//! <https://github.com/moby/buildkit/blob/master/api/services/control/control.proto>.

use std::collections::{BTreeSet, HashMap};

use super::proto::{Field, Fields, text};

/// The most steps of a build that are told.
const MAX_STEPS: usize = 10_000;
/// Bytes of a line that is not ended yet.
const MAX_PART: usize = 16 * 1024;
/// The most images that stages begin with.
const MAX_BASES: usize = 100;
const DISK_IS_FULL: &str = "No space left on device";

/// How far a build has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    steps: HashMap<String, Step>,
    /// What the classic builder said since the last end of a line.
    part: String,
    disk_was_full: bool,
    /// The images that stages begin with.
    bases: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Step {
    number: usize,
    named: bool,
    ended: bool,
    /// What it said since the last end of a line.
    part: Vec<u8>,
}

impl Progress {
    /// Whether a step has said that there is no room left.
    pub(super) const fn disk_was_full(&self) -> bool {
        self.disk_was_full
    }

    /// The images that stages began with, as the builder names them: `docker.io/library/debian:13@sha256:...`.
    pub(super) fn bases(&self) -> Vec<String> {
        self.bases.iter().cloned().collect()
    }

    /// The lines of a part of the trace.
    pub(super) fn trace(&mut self, message: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for field in Fields(message) {
            match field {
                Field::Bytes(1, vertex) => self.vertex(vertex, &mut lines),
                Field::Bytes(3, log) => self.log(log, &mut lines),
                _ => {}
            }
        }
        lines
    }

    /// The lines of the classic builder's words.
    pub(super) fn words(&mut self, words: &str) -> Vec<String> {
        self.part.push_str(words);
        let mut lines = Vec::new();
        while let Some(end) = self.part.find('\n') {
            let line: String = self.part.drain(..=end).collect();
            self.disk_was_full |= line.contains(DISK_IS_FULL);
            let line = line.trim_end();
            if !line.is_empty() {
                lines.push(format!("# {line}"));
            }
        }
        if self.part.len() > MAX_PART {
            lines.push(format!("# {}", std::mem::take(&mut self.part)));
        }
        lines
    }

    fn step(&mut self, digest: String) -> Option<&mut Step> {
        let number = self.steps.len() + 1;
        if number > MAX_STEPS && !self.steps.contains_key(&digest) {
            return None;
        }
        Some(self.steps.entry(digest).or_insert_with(|| Step { number, ..Step::default() }))
    }

    fn vertex(&mut self, vertex: &[u8], lines: &mut Vec<String>) {
        let (mut cached, mut started, mut completed) = (false, None, None);
        for field in Fields(vertex) {
            match field {
                Field::Number(4, value) => cached = value != 0,
                Field::Bytes(5, time) => started = Some(nanos(time)),
                Field::Bytes(6, time) => completed = Some(nanos(time)),
                _ => {}
            }
        }
        let (name, error) = (text(vertex, 3).unwrap_or_default(), text(vertex, 7));
        let Some(number) = text(vertex, 1).and_then(|digest| self.step(digest)).map(|step| step.number) else { return };
        if let Some(image) = base(&name).filter(|_| self.bases.len() < MAX_BASES) {
            self.bases.insert(image.to_owned());
        }
        let Some(step) = text(vertex, 1).and_then(|digest| self.step(digest)) else { return };
        if started.is_some() && !step.named {
            step.named = true;
            lines.push(format!("#{number} {}", one_line(&name)));
        }
        let Some(completed) = completed.filter(|_| !step.ended) else { return };
        step.ended = true;
        if !step.part.is_empty() {
            lines.push(said(number, &std::mem::take(&mut step.part)));
        }
        lines.push(match error.filter(|error| !error.is_empty()) {
            Some(error) => format!("#{number} ERROR: {}", one_line(&error)),
            None if cached => format!("#{number} CACHED"),
            None => {
                let tenths = completed.saturating_sub(started.unwrap_or(completed)) / 100_000_000;
                format!("#{number} DONE {}.{} s", tenths / 10, tenths % 10)
            }
        });
    }

    fn log(&mut self, log: &[u8], lines: &mut Vec<String>) {
        let message = Fields(log).find_map(|field| match field {
            Field::Bytes(4, message) => Some(message),
            _ => None,
        });
        let Some(step) = text(log, 1).and_then(|digest| self.step(digest)) else { return };
        let mut full = false;
        for part in message.unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            step.part.extend_from_slice(part);
            if part.ends_with(b"\n") || step.part.len() > MAX_PART {
                let line = said(step.number, &std::mem::take(&mut step.part));
                full |= line.contains(DISK_IS_FULL);
                lines.push(line);
            }
        }
        self.disk_was_full |= full;
    }
}

/// The image of a step like `[stage 1/3] FROM docker.io/library/debian:13@sha256:...`. What a Dockerfile's own lines say is none, whatever
/// they say: the first bracket that is closed is the builder's.
fn base(name: &str) -> Option<&str> {
    let (place, step) = name.strip_prefix('[')?.split_once(']')?;
    let (number, of) = place.rsplit(' ').next()?.split_once('/')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let image = step.strip_prefix(" FROM ")?.split_whitespace().next()?;
    (is_number(number) && is_number(of) && image != "scratch").then_some(image)
}

/// A line of a step's; of one that a carriage return wrote over, what stood there last.
fn said(number: usize, line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end();
    format!("#{number} {}", line.rsplit('\r').next().unwrap_or(line))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn nanos(time: &[u8]) -> u64 {
    Fields(time).fold(0, |sum, field| match field {
        Field::Number(1, seconds) => sum + seconds.saturating_mul(1_000_000_000),
        Field::Number(2, nanos) => sum + nanos,
        _ => sum,
    })
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::{super::proto::put_bytes, *};

    #[test]
    fn a_stage_names_its_base() {
        let digest = "docker.io/library/debian:13@sha256:0123";
        for (name, expected) in [
            (format!("[1/3] FROM {digest}"), Some(digest)),
            (format!("[made 1/2] FROM {digest}"), Some(digest)),
            ("[made 2/2] RUN echo FROM x".to_owned(), None),
            ("[internal] load metadata for docker.io/library/debian:13".to_owned(), None),
            ("[1/1] FROM scratch".to_owned(), None),
            (format!("[linux/arm64 made 1/2] FROM {digest}"), Some(digest)),
            (format!("[ 1/12] FROM {digest}"), Some(digest)),
            // lines of the Dockerfile that look like it
            (format!("[2/3] RUN echo \"] FROM {digest}\""), None),
            (format!("[2/3] RUN echo [1/3] FROM {digest}"), None),
            (format!("[made] FROM {digest}"), None),
            (format!("[internal] FROM {digest}"), None),
            (format!("[] FROM {digest}"), None),
            (format!("RUN echo [1/3] FROM {digest}"), None),
        ] {
            assert_eq!(base(&name), expected, "{name}");
        }
    }

    /// What Docker 20.10.24 sent of `RUN ["/bin/busybox", "echo", "hello"]`.
    const LOG: &str = "GmAKR3NoYTI1NjowYTJhODAzZWE0M2MxN2I1ZmQxZTMzYmE3NGE3MTU1OWFkYjg2MDllZmJkZGY2MTgyMzEwZDNjMDE4MjE5YmZhEgsI34aK2AYQ54TGexgBIgZoZWxsbwo=";
    /// And of the context, from its beginning to its end.
    const CONTEXT: [&str; 3] = [
        "Cm8KR3NoYTI1Njo1ZmQzYTZjYjIzMzg1YTg0NTY0MjYyMGQ0MzM2NjFlOWNmNTdjZTk0OWQyMDQwMzUyMGE1YjNjODdjMTJmODg5GiRbaW50ZXJuYWxdIGxvYWQgcmVtb3RlIGJ1aWxkIGNvbnRleHQ=",
        "Cn0KR3NoYTI1Njo1ZmQzYTZjYjIzMzg1YTg0NTY0MjYyMGQ0MzM2NjFlOWNmNTdjZTk0OWQyMDQwMzUyMGE1YjNjODdjMTJmODg5GiRbaW50ZXJuYWxdIGxvYWQgcmVtb3RlIGJ1aWxkIGNvbnRleHQqDAjehorYBhC6tozJAQ==",
        "CosBCkdzaGEyNTY6NWZkM2E2Y2IyMzM4NWE4NDU2NDI2MjBkNDMzNjYxZTljZjU3Y2U5NDlkMjA0MDM1MjBhNWIzYzg3YzEyZjg4ORokW2ludGVybmFsXSBsb2FkIHJlbW90ZSBidWlsZCBjb250ZXh0KgwI3oaK2AYQuraMyQEyDAjehorYBhDG1fnzAQ==",
    ];

    fn log(digest: &str, message: &[u8]) -> Vec<u8> {
        let (mut log, mut whole) = (Vec::new(), Vec::new());
        put_bytes(&mut log, 1, digest.as_bytes());
        put_bytes(&mut log, 4, message);
        put_bytes(&mut whole, 3, &log);
        whole
    }

    #[test]
    fn a_trace_of_the_real_engine_is_told_once_a_step() {
        let mut progress = Progress::default();
        let told: Vec<String> = CONTEXT
            .iter()
            .chain([&CONTEXT[2], &LOG])
            .flat_map(|part| progress.trace(&STANDARD.decode(part).unwrap()))
            .collect();
        assert_eq!(told, ["#1 [internal] load remote build context", "#1 DONE 0.0 s", "#2 hello"]);
    }

    #[test]
    fn lines_are_told_whole_and_within_bounds() {
        let mut progress = Progress::default();
        assert!(progress.trace(&log("a", b"one ")).is_empty());
        assert_eq!(progress.trace(&log("a", b"line\n10%\r100%\nrest")), ["#1 one line", "#1 100%"]);
        assert_eq!(progress.trace(&log("b", &vec![b'x'; MAX_PART + 1])).len(), 1);
        assert!(!progress.disk_was_full());
        progress.trace(&log("a", b"cp: No space left on device\n"));
        assert!(progress.disk_was_full());
        assert!(progress.trace(b"\xff\xff").is_empty());
        assert_eq!(progress.words("Step 1/2 : FROM x\n ---> 12"), ["# Step 1/2 : FROM x"]);
        assert_eq!(progress.words("34\n"), ["#  ---> 1234"]);
    }
}
