//! The pages of `docs/diagnostics.md`, which ship inside the binary.

use segue_pipelines::diagnostic::Code;

use super::super::ending::{Exit, Failure};
use crate::cli::out::say;

const PAGE: &str = include_str!("../../../../docs/diagnostics.md");

/// Prints what a code means.
///
/// # Errors
/// There is no such code (exit code 2).
pub fn print(code: &str) -> Result<Exit, Failure> {
    let Some(section) = section(code) else {
        let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        return Err(Failure::usage(format_args!("there is no diagnostic `{code}`"))
            .remedy(format_args!("the codes are {}", codes.join(", "))));
    };
    say!("{section}");
    Ok(Exit::Done)
}

/// From the code's heading to the next.
fn section(code: &str) -> Option<&'static str> {
    let heading = format!("\n## `{code}`\n");
    let start = PAGE.find(&heading)? + 1;
    let length = PAGE[start..].find("\n## ").unwrap_or(PAGE.len() - start);
    Some(PAGE[start..start + length].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page() {
        for code in Code::ALL {
            let section = section(code.as_str()).unwrap_or_default();
            assert!(section.contains("**Instead:**"), "{code}: {section}");
            assert_eq!(section.matches("\n## ").count(), 0, "{code}: {section}");
        }
        assert_eq!(section("no-such-code"), None);
    }
}
