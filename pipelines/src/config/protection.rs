//! What can be wrong with the protection rules of an environment.

use std::ops::Range;

use segue_schemas::config::EnvironmentConfig;

use crate::{
    document::{self, Node},
    filter::Patterns,
    protection::{Freeze, FreezeFault, LONGEST_WAIT, MOST_FREEZES, MOST_REVIEWERS, required_approvals},
};

/// Something wrong, and where.
pub(super) struct ProtectionFault {
    /// Where it stands.
    pub(super) span: Range<usize>,
    /// What is wrong.
    pub(super) message: String,
    /// What to write.
    pub(super) help: Option<String>,
}

/// Everything that is wrong with the rules of an environment; `node` is where they stand.
pub(super) fn protection_faults(environment: &EnvironmentConfig, node: &Node) -> Vec<ProtectionFault> {
    let mut faults = reviewers(environment, node);
    for (key, patterns) in [("branches", &environment.branches), ("tags", &environment.tags)] {
        if let Err((index, error)) = Patterns::parse(patterns) {
            faults.push(ProtectionFault { span: item(node, key, index), message: error.to_string(), help: None });
        }
    }
    if environment.wait_timer.is_some_and(|wait| wait.0 > LONGEST_WAIT) {
        faults.push(ProtectionFault {
            span: document::place(node, &["wait-timer"]),
            message: "a job can wait for 30 days at most".into(),
            help: Some("write a duration such as `10m`".into()),
        });
    }
    if environment.freeze.len() > MOST_FREEZES {
        faults.push(too_many(node, "freeze", MOST_FREEZES));
    }
    for (index, freeze) in environment.freeze.iter().enumerate().take(MOST_FREEZES) {
        let Err(FreezeFault { key, message, help }) = Freeze::parse(freeze) else { continue };
        let written = node.get("freeze").and_then(|list| list.items().get(index));
        let path: &[&str] = if key.is_empty() { &[] } else { &[key] };
        let span = written.map_or_else(|| item(node, "freeze", index), |freeze| document::place(freeze, path));
        faults.push(ProtectionFault { span, message, help: Some(help) });
    }
    faults.sort_by_key(|fault| fault.span.start);
    faults
}

fn reviewers(environment: &EnvironmentConfig, node: &Node) -> Vec<ProtectionFault> {
    let reviewers = &environment.reviewers;
    let mut faults = Vec::new();
    for (index, name) in reviewers.iter().enumerate().take(MOST_REVIEWERS) {
        let is_again = reviewers[..index].iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_reviewer(name) && !is_again {
            continue;
        }
        let (message, help) = if is_again {
            (format!("`{name}` is named twice"), "remove one")
        } else {
            (format!("`{name}` is no account and no team of GitHub"), "write `ada`, or `organization/team`")
        };
        faults.push(ProtectionFault { span: item(node, "reviewers", index), message, help: Some(help.into()) });
    }
    if reviewers.len() > MOST_REVIEWERS {
        faults.push(too_many(node, "reviewers", MOST_REVIEWERS));
    }
    let required = required_approvals(environment) as usize;
    let has_team = reviewers.iter().any(|name| name.contains('/'));
    if required > MOST_REVIEWERS || (!reviewers.is_empty() && !has_team && required > reviewers.len()) {
        let message = if required > MOST_REVIEWERS {
            format!("{required} approvals are asked for, and {MOST_REVIEWERS} are the limit")
        } else {
            format!(
                "{required} approvals are asked for, and only {} may give one: nothing could ever start",
                reviewers.len()
            )
        };
        let help = Some("name more `reviewers`, or ask for fewer approvals".into());
        faults.push(ProtectionFault { span: document::place(node, &["required-approvals"]), message, help });
    }
    faults
}

/// An account's name, or an organization's and a team's; both become parts of paths.
fn is_reviewer(name: &str) -> bool {
    let is_word = |word: &str| {
        (1..=100).contains(&word.len())
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && word.bytes().any(|b| b != b'.')
    };
    match name.split_once('/') {
        Some((organization, team)) => is_word(organization) && is_word(team),
        None => is_word(name),
    }
}

fn too_many(node: &Node, key: &str, limit: usize) -> ProtectionFault {
    ProtectionFault {
        span: item(node, key, limit),
        message: format!("`{key}` has more than {limit} entries"),
        help: None,
    }
}

fn item(node: &Node, key: &str, index: usize) -> Range<usize> {
    let list = node.get(key);
    let found = list.and_then(|list| list.items().get(index)).map(|item| item.span.clone());
    found.unwrap_or_else(|| document::place(node, &[key]))
}
