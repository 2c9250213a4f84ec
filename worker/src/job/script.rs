//! From a step's `shell:` to a command line.

use super::error::StepError;

/// What stands for the script's file in a command line.
const FILE: &str = "{0}";

/// The command line that runs `file` in this shell: `bash`, `sh`, `python`, or a template with `{0}`. A pipe fails with
/// any of its commands, and a script with the first command that fails.
///
/// # Errors
/// [`StepError::Configuration`] for a template without `{0}`.
pub fn command_line(shell: &str, file: &str) -> Result<Vec<String>, StepError> {
    let template: Vec<&str> = match shell.trim() {
        "" | "bash" => vec!["bash", "--noprofile", "--norc", "-eo", "pipefail", FILE],
        "sh" => vec!["sh", "-e", FILE],
        "python" => vec!["python3", FILE],
        other => other.split_ascii_whitespace().collect(),
    };
    if !template.iter().any(|word| word.contains(FILE)) {
        return Err(StepError::Configuration(format!(
            "`shell: {shell}` does not say where the script's file goes; write `{{0}}` in its place, such as `{shell} {{0}}`"
        )));
    }
    Ok(template.into_iter().map(|word| word.replace(FILE, file)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_becomes_a_command_line() {
        for (shell, expected) in [
            ("bash", "bash --noprofile --norc -eo pipefail /s"),
            ("sh", "sh -e /s"),
            ("python", "python3 /s"),
            ("perl -w {0} x", "perl -w /s x"),
        ] {
            assert_eq!(command_line(shell, "/s").unwrap().join(" "), expected);
        }
        let error = command_line("fish", "/s").unwrap_err().to_string();
        assert!(error.contains("such as `fish {0}`"), "{error}");
    }
}
