//! `on`: what starts a pipeline.

use super::{
    model::{Dispatch, PullRequestFilter, PushFilter, RefFilter, Triggers},
    reader::{Keys, Reader},
};
use crate::{
    diagnostic::Code,
    document::{Content, Entry, Node},
    filter::Patterns,
    nearest::did_you_mean,
};

pub(crate) const EVENTS: [&str; 3] = ["push", "pull_request", "workflow_dispatch"];
const LATER_EVENTS: [&str; 4] = ["schedule", "repository_dispatch", "issue_comment", "workflow_call"];
const PUSH: Keys =
    Keys { known: &["branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore"], later: &[] };
const PULL_REQUEST: Keys =
    Keys { known: &["types", "branches", "branches-ignore", "paths", "paths-ignore"], later: &[] };
const DISPATCH: Keys = Keys { known: &[], later: &["inputs"] };
/// What can happen to a pull request, as GitHub calls it.
pub(crate) const TYPES: [&str; 20] = [
    "assigned",
    "auto_merge_disabled",
    "auto_merge_enabled",
    "closed",
    "converted_to_draft",
    "demilestoned",
    "dequeued",
    "edited",
    "enqueued",
    "labeled",
    "locked",
    "milestoned",
    "opened",
    "ready_for_review",
    "reopened",
    "review_request_removed",
    "review_requested",
    "synchronize",
    "unassigned",
    "unlabeled",
];
const DEFAULT_TYPES: [&str; 3] = ["opened", "synchronize", "reopened"];

impl Reader<'_, '_> {
    /// `on:`; an event's name, a list of them, or a mapping with filters.
    pub(super) fn triggers(&mut self, entry: &Entry) -> Option<Triggers> {
        let node = &*entry.value;
        let mut triggers = Triggers::default();
        match &node.content {
            Content::Scalar(_) if node.is_null() => {
                self.missing_event(entry);
                return None;
            }
            Content::Scalar(_) => self.plain_event(node, &mut triggers),
            Content::Sequence(items) if items.is_empty() => self.missing_event(entry),
            Content::Sequence(items) => items.iter().for_each(|item| self.plain_event(item, &mut triggers)),
            Content::Mapping(events) if events.is_empty() => self.missing_event(entry),
            Content::Mapping(events) => events.iter().for_each(|event| self.event(event, &mut triggers)),
        }
        Some(triggers)
    }

    fn missing_event(&mut self, entry: &Entry) {
        let help = format!("name what starts the pipeline: {}", EVENTS.join(", "));
        self.findings.error(Code::InvalidValue, &entry.key_span, "`on` names no event", Some(help));
    }

    fn plain_event(&mut self, node: &Node, triggers: &mut Triggers) {
        let Some(name) = self.plain(node, "on") else { return };
        match name.as_str() {
            "push" => triggers.push = Some(PushFilter::default()),
            "pull_request" => triggers.pull_request = Some(all_pull_requests()),
            "workflow_dispatch" => triggers.workflow_dispatch = Some(Dispatch::default()),
            _ => self.strange_event(&name, &node.span),
        }
    }

    fn event(&mut self, entry: &Entry, triggers: &mut Triggers) {
        let node = &*entry.value;
        match entry.key.as_str() {
            "push" => triggers.push = Some(self.push(node)),
            "pull_request" => triggers.pull_request = Some(self.pull_request(node)),
            "workflow_dispatch" => {
                if !node.is_null() {
                    self.keys(node, "`workflow_dispatch`", &DISPATCH);
                }
                triggers.workflow_dispatch = Some(Dispatch::default());
            }
            name => self.strange_event(name, &entry.key_span),
        }
    }

    fn strange_event(&mut self, name: &str, span: &std::ops::Range<usize>) {
        if LATER_EVENTS.contains(&name) {
            let help = Some("remove it; this version would not act on it".into());
            self.findings.error(Code::NotSupportedYet, span, format!("the event `{name}` is not supported yet"), help);
            return;
        }
        let (message, help) = if name == "pull_request_target" {
            let help = "use `pull_request`: a fork's pull request runs the pipeline of the base branch, without secrets, after approval";
            ("`pull_request_target` does not exist here".to_owned(), help.to_owned())
        } else {
            let known = || EVENTS.into_iter().chain(LATER_EVENTS);
            let help = did_you_mean(name, known()).unwrap_or_else(|| format!("events: {}", EVENTS.join(", ")));
            (format!("there is no event `{name}`"), help)
        };
        self.findings.error(Code::UnknownKey, span, message, Some(help));
    }

    fn push(&mut self, node: &Node) -> PushFilter {
        if node.is_null() || !self.keys(node, "`push`", &PUSH) {
            return PushFilter::default();
        }
        PushFilter {
            branches: self.filter(node, "branches", "branches-ignore"),
            tags: self.filter(node, "tags", "tags-ignore"),
            paths: self.filter(node, "paths", "paths-ignore"),
        }
    }

    fn pull_request(&mut self, node: &Node) -> PullRequestFilter {
        if node.is_null() || !self.keys(node, "`pull_request`", &PULL_REQUEST) {
            return all_pull_requests();
        }
        PullRequestFilter {
            types: self.types(node),
            branches: self.filter(node, "branches", "branches-ignore"),
            paths: self.filter(node, "paths", "paths-ignore"),
        }
    }

    fn types(&mut self, owner: &Node) -> Vec<String> {
        let Some(entry) = owner.entry("types") else { return all_pull_requests().types };
        let types = self.plain_list(&entry.value, "types");
        if types.is_empty() && !self.findings.has_errors() {
            let help = Some("name some, or leave `types` out".into());
            self.findings.error(Code::InvalidValue, &entry.key_span, "`types` is empty, so nothing would start", help);
        }
        for (name, span) in types.iter().filter(|(name, _)| !TYPES.contains(&name.as_str())) {
            let help = did_you_mean(name, TYPES).unwrap_or_else(|| format!("types: {}", TYPES.join(", ")));
            let message = format!("`{name}` is nothing that happens to a pull request");
            self.findings.error(Code::InvalidValue, span, message, Some(help));
        }
        types.into_iter().map(|(name, _)| name).collect()
    }

    /// `key` or `key-ignore`, not both.
    fn filter(&mut self, owner: &Node, key: &str, ignore_key: &str) -> Option<RefFilter> {
        let ignored = owner.entry(ignore_key);
        let Some(entry) = owner.entry(key) else {
            // in a list of what is ignored, `!` has nothing to take out of
            let entry = ignored?;
            let patterns = self.patterns(entry)?;
            if let Some(text) = patterns.texts().find(|text| text.starts_with('!')) {
                let message = format!("`{text}`: `!` has no meaning under `{ignore_key}`");
                let help = Some(format!("use `{key}` with `!` for what is left out"));
                self.findings.error(Code::InvalidValue, &entry.value.span, message, help);
            }
            return Some(RefFilter::Ignore(patterns));
        };
        if let Some(ignored) = ignored {
            let message = format!("`{key}` and `{ignore_key}` exclude each other");
            let help = Some(format!("use `{key}` alone, with `!` before what is left out"));
            self.findings.error(Code::Conflict, &ignored.key_span, message, help);
        }
        self.patterns(entry).map(RefFilter::Only)
    }

    fn patterns(&mut self, entry: &Entry) -> Option<Patterns> {
        let written = self.plain_list(&entry.value, &entry.key);
        let texts: Vec<&str> = written.iter().map(|(text, _)| text.as_str()).collect();
        if texts.is_empty() {
            let help = Some("name a pattern such as `main` or `releases/**`, or leave the key out".into());
            let message = format!("`{}` is empty, so nothing would start", entry.key);
            self.findings.error(Code::InvalidValue, &entry.key_span, message, help);
            return None;
        }
        match Patterns::parse(&texts) {
            Ok(patterns) => Some(patterns),
            Err((index, error)) => {
                let span = written.get(index).map_or(entry.key_span.clone(), |(_, span)| span.clone());
                self.findings.error(Code::InvalidValue, &span, format!("`{}`: {error}", texts[index]), None);
                None
            }
        }
    }
}

fn all_pull_requests() -> PullRequestFilter {
    PullRequestFilter { types: DEFAULT_TYPES.map(String::from).to_vec(), branches: None, paths: None }
}
