//! `permissions` of a pipeline or a job: GitHub's scopes and levels
//! (<https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#permissions>).

use indexmap::IndexMap;
use segue_schemas::plan::{Access, Permissions};

use super::reader::Reader;
use crate::{
    diagnostic::Code,
    document::{Content, Node},
    nearest::did_you_mean,
};

/// The scopes. All but two can be read and written.
pub(crate) const SCOPES: [&str; 16] = [
    "actions",
    "artifact-metadata",
    "attestations",
    "checks",
    "contents",
    "deployments",
    "discussions",
    "id-token",
    "issues",
    "models",
    "packages",
    "pages",
    "pull-requests",
    "repository-projects",
    "security-events",
    "statuses",
];

impl Reader<'_, '_> {
    /// `read-all`, `write-all`, or a mapping from scopes to `read`, `write`, `none`; scopes that it does not name have none.
    pub(super) fn permissions(&mut self, node: &Node) -> Option<Permissions> {
        let help =
            || Some("write `read-all`, `write-all`, `{}`, or scopes: `permissions: { contents: read }`".to_owned());
        match &node.content {
            Content::Mapping(entries) => {
                let mut scopes = IndexMap::new();
                for entry in entries {
                    let scope = entry.key.as_str();
                    if !SCOPES.contains(&scope) {
                        let known =
                            did_you_mean(scope, SCOPES).unwrap_or_else(|| format!("known: {}", SCOPES.join(", ")));
                        let message = format!("there is no permission `{scope}`");
                        self.findings.error(Code::UnknownKey, &entry.key_span, message, Some(known));
                        continue;
                    }
                    if let Some(access) = self.access(scope, &entry.value) {
                        scopes.insert(scope.to_owned(), access);
                    }
                }
                Some(Permissions::Scopes(scopes))
            }
            Content::Scalar(scalar) => match scalar.text.as_str() {
                "read-all" => Some(Permissions::ReadAll),
                "write-all" => Some(Permissions::WriteAll),
                other => {
                    let message = format!("`{other}` says nothing about permissions");
                    self.findings.error(Code::InvalidValue, &node.span, message, help());
                    None
                }
            },
            Content::Sequence(_) => {
                self.wrong_type(node, "`permissions`", "a mapping from scopes to `read`, `write` or `none`");
                None
            }
        }
    }

    fn access(&mut self, scope: &str, node: &Node) -> Option<Access> {
        let word = self.plain(node, scope)?;
        let (access, levels) = match (scope, word.as_str()) {
            (_, "none") => (Some(Access::None), ""),
            ("id-token", "write") => (Some(Access::Write), ""),
            ("id-token", _) => (None, "`write` or `none`"),
            ("models", "read") => (Some(Access::Read), ""),
            ("models", _) => (None, "`read` or `none`"),
            (_, "read") => (Some(Access::Read), ""),
            (_, "write") => (Some(Access::Write), ""),
            _ => (None, "`read`, `write` or `none`"),
        };
        if access.is_none() {
            let message = format!("`{scope}` is `{word}`, where {levels} is expected");
            self.findings.error(Code::InvalidValue, &node.span, message, None);
        }
        access
    }
}
