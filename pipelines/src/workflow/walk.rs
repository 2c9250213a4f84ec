//! The keys of a workflow, one by one.

use super::{Report, names};
use crate::document::{Content, Entry, Node};

/// Where keys stand that are looked at one by one; below others, a key and all that it holds is one thing.
#[derive(Clone, Copy)]
enum Level {
    Workflow,
    Events,
    Event,
    Jobs,
    Job,
    Step,
}

impl Report<'_> {
    pub(super) fn root(&mut self, root: &Node) {
        self.mapping(root, "", Level::Workflow);
    }

    fn mapping(&mut self, node: &Node, path: &str, level: Level) {
        for entry in node.entries() {
            let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            self.entry(node, entry, &path, level);
        }
    }

    fn entry(&mut self, owner: &Node, entry: &Entry, path: &str, level: Level) {
        let refused = self.problems.iter().any(|problem| problem.span.start == entry.key_span.start);
        match (level, entry.key.as_str()) {
            // a job is a name; what is said of it is said of the job as a whole
            (Level::Jobs, _) => {
                self.problems_at(path, &entry.key_span);
                return self.mapping(&entry.value, path, Level::Job);
            }
            _ if refused => {}
            (Level::Workflow, "on") if is_mapping(&entry.value) => {
                return self.mapping(&entry.value, path, Level::Events);
            }
            (Level::Events, _) if is_mapping(&entry.value) && !entry.value.entries().is_empty() => {
                return self.mapping(&entry.value, path, Level::Event);
            }
            (Level::Workflow, "jobs") if is_mapping(&entry.value) => {
                return self.mapping(&entry.value, path, Level::Jobs);
            }
            (Level::Job, "steps") if matches!(entry.value.content, Content::Sequence(_)) => {
                for (i, step) in entry.value.items().iter().enumerate() {
                    self.mapping(step, &format!("{path}[{i}]"), Level::Step);
                }
                return;
            }
            (Level::Job, "runs-on") => return self.runs_on(entry, path),
            (Level::Step, "with") if owner.get("uses").is_some() => return self.with(owner, entry, path),
            _ => {}
        }
        if matches!((level, entry.key.as_str()), (Level::Step | Level::Job, "uses")) {
            return self.uses(entry, path);
        }
        self.whole(entry, path);
    }

    /// A key with all that it holds.
    fn whole(&mut self, entry: &Entry, path: &str) {
        let told = self.told.len();
        self.secrets(entry, path);
        if entry.key == "run" {
            self.script(entry, path);
        }
        self.problems_at(path, &part(entry));
        if self.told.len() == told {
            self.runs(path, &entry.key_span);
        }
    }

    fn problems_at(&mut self, path: &str, part: &std::ops::Range<usize>) {
        for problem in self.take(part) {
            self.tell_problem(path, problem);
        }
    }

    fn runs_on(&mut self, entry: &Entry, path: &str) {
        let labels: Vec<&str> = match &entry.value.content {
            Content::Scalar(scalar) => vec![scalar.text.as_str()],
            _ => {
                entry.value.items().iter().filter_map(|item| item.scalar()).map(|scalar| scalar.text.as_str()).collect()
            }
        };
        let strange = labels.iter().find(|label| label.starts_with("windows-") || label.starts_with("macos-"));
        if let Some(label) = strange {
            self.take(&part(entry));
            let help = Some("workers run on Linux; leave the job with GitHub".into());
            return self.missing(path, &entry.value.span, &format!("there is no machine `{label}` here"), help);
        }
        let named = labels.iter().find(|label| label.starts_with("ubuntu-") || **label == "self-hosted");
        match named {
            Some(label) => {
                self.take(&part(entry));
                let what = format!("`{label}` is a name of GitHub's");
                let help = "leave `runs-on` out, or name labels that your workers have (`worker.labels` in segue.yaml)";
                self.renamed(path, &entry.value.span, &what, help);
            }
            None => self.whole(entry, path),
        }
    }

    fn uses(&mut self, entry: &Entry, path: &str) {
        let Some(uses) = entry.value.scalar().map(|scalar| scalar.text.as_str()) else {
            return self.whole(entry, path);
        };
        let span = &entry.value.span;
        match names::action(uses) {
            names::Fate::Same => self.whole(entry, path),
            names::Fate::Renamed { name, help } => {
                self.take(&part(entry));
                self.renamed(path, span, &format!("`{uses}` is `{name}` here"), &help);
            }
            names::Fate::None { what, help } => {
                self.take(&part(entry));
                self.missing(path, span, &what, Some(help));
            }
        }
    }

    /// What an action is given: known under the name that the action has here, or not at all.
    fn with(&mut self, step: &Node, entry: &Entry, path: &str) {
        let uses = step.get("uses").and_then(Node::scalar).map_or("", |scalar| scalar.text.as_str());
        let name = match names::action(uses) {
            names::Fate::Renamed { name, .. } => name,
            names::Fate::Same => return self.whole(entry, path),
            names::Fate::None { .. } => {
                self.take(&part(entry));
                return self.missing(path, &entry.key_span, "it goes with its action", None);
            }
        };
        let Some(action) = crate::actions::find(&name) else { return self.whole(entry, path) };
        for input in entry.value.entries() {
            let path = format!("{path}.{}", input.key);
            if action.input(&input.key).is_some() {
                self.whole(input, &path);
                continue;
            }
            self.take(&part(input));
            let known: Vec<&str> = action.inputs.iter().map(|input| input.name).collect();
            let help = names::input_help(&name, &input.key)
                .map_or_else(|| format!("`{name}` takes {}", known.join(", ")), String::from);
            self.missing(&path, &input.key_span, &format!("`{name}` has no input `{}`", input.key), Some(help));
        }
    }

    /// Words of GitHub's in a script.
    fn script(&mut self, entry: &Entry, path: &str) {
        let Some(scalar) = entry.value.scalar() else { return };
        for (word, what, help) in names::SCRIPT_WORDS {
            if let Some(at) = scalar.text.find(word) {
                let span = self.located(entry, at..at + word.len());
                self.missing(path, &span, what, Some((*help).into()));
            }
        }
        for (word, name) in names::FILES {
            if let Some(at) = scalar.text.find(word) {
                let span = self.located(entry, at..at + word.len());
                let what = format!("`{word}` is `{name}` here");
                self.renamed(path, &span, &what, "it can stay: both names are set");
            }
        }
    }

    /// `GITHUB_TOKEN` is made by GitHub for each run.
    fn secrets(&mut self, entry: &Entry, path: &str) {
        let Some(scalar) = entry.value.scalar() else {
            entry.value.entries().iter().for_each(|inner| self.secrets(inner, &format!("{path}.{}", inner.key)));
            return;
        };
        for word in ["secrets.GITHUB_TOKEN", "github.token"] {
            if let Some(at) = scalar.text.find(word) {
                let span = self.located(entry, at..at + word.len());
                self.take(&(span.start..span.start + 1));
                let help = "make a token at GitHub, keep it with `segue secret set NAME`, and read `secrets.NAME`";
                self.missing(
                    path,
                    &span,
                    &format!("no token comes with a run, so `{word}` is empty"),
                    Some(help.into()),
                );
            }
        }
    }

    fn located(&self, entry: &Entry, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let written = self.source.text.get(entry.value.span.clone()).unwrap_or_default();
        let text = entry.value.scalar().map_or("", |scalar| scalar.text.as_str());
        crate::document::locate(text, &range, written, entry.value.span.start)
    }
}

fn is_mapping(node: &Node) -> bool {
    matches!(node.content, Content::Mapping(_))
}

/// A key and all that it holds. What an alias stands for lies elsewhere; then the key alone.
fn part(entry: &Entry) -> std::ops::Range<usize> {
    if entry.value.span.start < entry.key_span.start {
        entry.key_span.clone()
    } else {
        entry.key_span.start..entry.value.span.end
    }
}
