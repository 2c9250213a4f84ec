//! `on`: what starts a pipeline.

mod call;
mod filters;
mod inputs;
mod schedule;

use std::ops::Range;

pub(crate) use self::{call::TYPES as CALL_TYPES, inputs::TYPES as INPUT_TYPES};
use super::{
    model::{Callable, CommentFilter, Dispatch, PullRequestFilter, PushFilter, RepositoryDispatchFilter, Triggers},
    reader::{Keys, Reader},
};
use crate::{
    diagnostic::Code,
    document::{Content, Entry, Node},
    nearest::did_you_mean,
};

pub(crate) const EVENTS: [&str; 7] =
    ["push", "pull_request", "schedule", "workflow_dispatch", "workflow_call", "repository_dispatch", "issue_comment"];
const PUSH: Keys =
    Keys { known: &["branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore"], later: &[] };
const PULL_REQUEST: Keys =
    Keys { known: &["types", "branches", "branches-ignore", "paths", "paths-ignore", "repeat-push"], later: &[] };
const DISPATCH: Keys = Keys { known: &["inputs"], later: &[] };
const REPOSITORY_DISPATCH: Keys = Keys { known: &["types"], later: &[] };
const ISSUE_COMMENT: Keys = Keys { known: &["types"], later: &[] };
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
/// What can happen to a comment.
pub(crate) const COMMENT_TYPES: [&str; 3] = ["created", "edited", "deleted"];
/// The longest `event_type` of a repository dispatch, in characters.
const LONGEST_TYPE: usize = 100;

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
            "workflow_call" => triggers.workflow_call = Some(Callable::default()),
            "repository_dispatch" => triggers.repository_dispatch = Some(RepositoryDispatchFilter::default()),
            "issue_comment" => triggers.issue_comment = Some(self.all_comments(&node.span)),
            "schedule" => {
                let help = "write a mapping: `on: { schedule: [{ cron: \"30 5 * * 1-5\" }] }`";
                self.findings.error(Code::MissingKey, &node.span, "`schedule` says no time", Some(help.into()));
            }
            _ => self.strange_event(&name, &node.span),
        }
    }

    fn event(&mut self, entry: &Entry, triggers: &mut Triggers) {
        let node = &*entry.value;
        match entry.key.as_str() {
            "push" => triggers.push = Some(self.push(node)),
            "pull_request" => triggers.pull_request = Some(self.pull_request(node)),
            "schedule" => triggers.schedule = self.schedules(entry),
            "workflow_dispatch" => triggers.workflow_dispatch = Some(self.dispatch(node)),
            "workflow_call" => triggers.workflow_call = Some(self.workflow_call(node)),
            "repository_dispatch" => triggers.repository_dispatch = Some(self.repository_dispatch(node)),
            "issue_comment" => triggers.issue_comment = Some(self.issue_comment(entry)),
            name => self.strange_event(name, &entry.key_span),
        }
    }

    fn strange_event(&mut self, name: &str, span: &Range<usize>) {
        let (message, help) = if name == "pull_request_target" {
            let help = "use `pull_request`: a fork's pull request runs the pipeline of the base branch, without secrets, after approval";
            ("`pull_request_target` does not exist here".to_owned(), help.to_owned())
        } else {
            let help = did_you_mean(name, EVENTS).unwrap_or_else(|| format!("events: {}", EVENTS.join(", ")));
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
        let repeat_push = node.get("repeat-push").and_then(|node| self.boolean(node, "repeat-push")).unwrap_or(false);
        PullRequestFilter {
            types: self.types(node),
            branches: self.filter(node, "branches", "branches-ignore"),
            paths: self.filter(node, "paths", "paths-ignore"),
            repeat_push,
        }
    }

    fn dispatch(&mut self, node: &Node) -> Dispatch {
        if node.is_null() || !self.keys(node, "`workflow_dispatch`", &DISPATCH) {
            return Dispatch::default();
        }
        Dispatch { inputs: self.typed_inputs(node, &inputs::BY_HAND) }
    }

    fn repository_dispatch(&mut self, node: &Node) -> RepositoryDispatchFilter {
        if node.is_null() || !self.keys(node, "`repository_dispatch`", &REPOSITORY_DISPATCH) {
            return RepositoryDispatchFilter::default();
        }
        let Some(entry) = node.entry("types") else { return RepositoryDispatchFilter::default() };
        let types = self.plain_list(&entry.value, "types");
        self.not_empty(entry, &types);
        for (name, span) in types.iter().filter(|(name, _)| name.chars().count() > LONGEST_TYPE) {
            let message =
                format!("a type has {} characters, and {LONGEST_TYPE} are GitHub's limit", name.chars().count());
            self.findings.error(Code::InvalidValue, span, message, None);
        }
        RepositoryDispatchFilter { types: Some(types.into_iter().map(|(name, _)| name).collect()) }
    }

    fn issue_comment(&mut self, entry: &Entry) -> CommentFilter {
        let mut filter = self.all_comments(&entry.key_span);
        let node = &*entry.value;
        if node.is_null() || !self.keys(node, "`issue_comment`", &ISSUE_COMMENT) {
            return filter;
        }
        let Some(entry) = node.entry("types") else { return filter };
        let types = self.plain_list(&entry.value, "types");
        self.not_empty(entry, &types);
        for (name, span) in types.iter().filter(|(name, _)| !COMMENT_TYPES.contains(&name.as_str())) {
            let help =
                did_you_mean(name, COMMENT_TYPES).unwrap_or_else(|| format!("types: {}", COMMENT_TYPES.join(", ")));
            let message = format!("`{name}` is nothing that happens to a comment");
            self.findings.error(Code::InvalidValue, span, message, Some(help));
        }
        filter.types = types.into_iter().map(|(name, _)| name).collect();
        filter
    }

    /// Any comment; with the warning that none starts anything yet.
    fn all_comments(&mut self, span: &Range<usize>) -> CommentFilter {
        let message = "comments start no pipeline yet";
        let help = Some("it can stay: `segue explain --event issue_comment` says what a comment asks for".into());
        self.findings.warning(Code::NotSupportedYet, span, message.to_owned(), help);
        CommentFilter { types: COMMENT_TYPES.map(String::from).to_vec() }
    }

    fn not_empty(&mut self, entry: &Entry, types: &[(String, Range<usize>)]) {
        if types.is_empty() && !self.findings.has_errors() {
            let help = Some("name some, or leave `types` out".into());
            self.findings.error(Code::InvalidValue, &entry.key_span, "`types` is empty, so nothing would start", help);
        }
    }

    fn types(&mut self, owner: &Node) -> Vec<String> {
        let Some(entry) = owner.entry("types") else { return all_pull_requests().types };
        let types = self.plain_list(&entry.value, "types");
        self.not_empty(entry, &types);
        for (name, span) in types.iter().filter(|(name, _)| !TYPES.contains(&name.as_str())) {
            let help = did_you_mean(name, TYPES).unwrap_or_else(|| format!("types: {}", TYPES.join(", ")));
            let message = format!("`{name}` is nothing that happens to a pull request");
            self.findings.error(Code::InvalidValue, span, message, Some(help));
        }
        types.into_iter().map(|(name, _)| name).collect()
    }
}

fn all_pull_requests() -> PullRequestFilter {
    PullRequestFilter {
        types: DEFAULT_TYPES.map(String::from).to_vec(),
        branches: None,
        paths: None,
        repeat_push: false,
    }
}
