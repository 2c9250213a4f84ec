//! Values that an outsider chooses. Pasted into a script by `${{ }}` they would be run, so there they are refused.

use crate::expr::{Reference, Step};

/// Parts of `github` that hold the name of a branch.
const BRANCH_NAMES: [&str; 3] = ["head_ref", "ref", "ref_name"];

/// What in `github.event` cannot carry a script: numbers, digests, words out of a closed list, and names whose letters GitHub
/// restricts. All else is somebody's text.
const HARMLESS: [&str; 25] = [
    "action",
    "after",
    "before",
    "changed_files",
    "closed_at",
    "commit_id",
    "created",
    "created_at",
    "deleted",
    "draft",
    "forced",
    "full_name",
    "id",
    "locked",
    "login",
    "mergeable",
    "merged",
    "merged_at",
    "node_id",
    "number",
    "sha",
    "state",
    "timestamp",
    "type",
    "updated_at",
];

/// Whether an outsider chooses what this reads, or a part of it.
pub(super) fn is_untrusted(reference: &Reference) -> bool {
    if !reference.is_in("github") {
        return false;
    }
    let is_one_of = |list: &[&str], name: &str| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    match reference.path.as_slice() {
        [Step::Name(first), rest @ ..] if first.eq_ignore_ascii_case("event") => {
            let is_free =
                matches!(rest.first(), Some(Step::Name(first)) if first.eq_ignore_ascii_case("client_payload"));
            is_free || !matches!(rest.last(), Some(Step::Name(last)) if is_one_of(&HARMLESS, last))
        }
        [Step::Name(first), ..] => is_one_of(&BRANCH_NAMES, first),
        // all of it, or what only the run will know
        _ => true,
    }
}

/// The name of an environment variable to carry it: `TITLE` for `github.event.pull_request.title`.
pub(super) fn variable_for(reference: &Reference) -> String {
    let last = reference.path.iter().rev().find_map(|step| match step {
        Step::Name(name) => Some(name.as_str()),
        Step::All | Step::Computed => None,
    });
    let name = last.unwrap_or(&reference.context);
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(upper).collect();
    // what a shell or a program gives a meaning of its own is not taken
    if name.starts_with(|c: char| c.is_ascii_digit()) || name == "REF" { format!("GIT_{name}") } else { name }
}
