//! GitHub's names, and what they are here.

use crate::actions;

/// What becomes of an action.
pub(super) enum Fate {
    /// It has the same name here.
    Same,
    /// It has another.
    Renamed { name: String, help: String },
    /// There is none.
    None { what: String, help: String },
}

/// Actions that have an equivalent: GitHub's name without its version, and the name here.
const ACTIONS: [(&str, &str); 7] = [
    ("actions/checkout", "segue/checkout"),
    ("actions/cache", "segue/cache"),
    ("actions/cache/restore", "segue/cache"),
    ("actions/cache/save", "segue/cache"),
    ("actions/upload-artifact", "segue/upload-artifact"),
    ("actions/download-artifact", "segue/download-artifact"),
    ("Swatinem/rust-cache", "segue/setup-rust-cache"),
];

/// The variables of a step that name its command files, and their names here.
pub(super) const FILES: [(&str, &str); 4] = [
    ("GITHUB_OUTPUT", "SEGUE_OUTPUT"),
    ("GITHUB_ENV", "SEGUE_ENV"),
    ("GITHUB_PATH", "SEGUE_PATH"),
    ("GITHUB_STEP_SUMMARY", "SEGUE_STEP_SUMMARY"),
];

/// What a script may say that does nothing here: the words, what they mean, and what to write.
pub(super) const SCRIPT_WORDS: [(&str, &str, &str); 4] = [
    ("::set-output", "nothing that a log line says sets an output", "write `name=value` to the file `$SEGUE_OUTPUT`"),
    ("::set-env", "nothing that a log line says sets a variable", "write `NAME=value` to the file `$SEGUE_ENV`"),
    ("::add-path", "nothing that a log line says changes the path", "write the folder to the file `$SEGUE_PATH`"),
    ("::save-state", "steps keep no state", "write a file in the workspace"),
];

/// What becomes of `uses`.
pub(super) fn action(uses: &str) -> Fate {
    let (bare, _version) = uses.split_once('@').unwrap_or((uses, ""));
    if exists(uses) || uses.starts_with("./.segue/") {
        return Fate::Same;
    }
    if let Some((_, name)) = ACTIONS.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(bare)) {
        return if exists(name) {
            Fate::Renamed { name: (*name).into(), help: format!("write `uses: {name}`") }
        } else {
            Fate::None {
                what: format!("`{uses}` would be `{name}`, which this version does not have"),
                help: "remove the step".into(),
            }
        };
    }
    if let Some(rest) = uses.strip_prefix("./") {
        let name = rest.rsplit('/').find(|part| !part.is_empty()).unwrap_or(rest);
        let is_pipeline = name.ends_with(".yml") || name.ends_with(".yaml");
        let folder = if is_pipeline { "pipelines" } else { "actions" };
        let ours = format!("./.segue/{folder}/{name}");
        return Fate::Renamed { help: format!("move it there, and write `uses: {ours}`"), name: ours };
    }
    let what = if uses.starts_with("docker://") {
        format!("`{uses}` is an image, and actions of images do not run here")
    } else {
        format!("there is no action `{uses}`; none are fetched from GitHub")
    };
    let help = if bare.contains("/setup-") || bare.contains("toolchain") {
        "install the tool on the workers, or in a step with `run`"
    } else {
        "do it in a step with `run`, or in an action of your own in `.segue/actions`"
    };
    Fate::None { what, help: help.into() }
}

fn exists(name: &str) -> bool {
    actions::find(name).is_some() || actions::library(name).is_some()
}

/// What to do about inputs that people give often and that are not needed here.
pub(super) fn input_help(action: &str, input: &str) -> Option<&'static str> {
    match (action, input) {
        ("segue/checkout", "fetch-depth") => Some("remove it: the whole history is at hand, from the mirror"),
        ("segue/checkout", "token" | "ssh-key" | "persist-credentials") => {
            Some("remove it: the server fetches with its own right (`repositories` in segue.yaml)")
        }
        ("segue/checkout", "repository") => Some("clone the other repository in a step with `run`"),
        _ => None,
    }
}
