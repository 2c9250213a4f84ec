//! Whether a commit's message asks for no run: `[skip ci]` and its relatives, and the trailer `skip-checks: true`.
//! (<https://docs.github.com/actions/how-tos/manage-workflow-runs/skip-workflow-runs>)

use segue_schemas::trigger::Event;

/// What a message can hold; in any case of letters.
const MARKS: [&str; 6] = ["[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]", "[skip segue]"];
const TRAILER: &str = "skip-checks";

/// Why the event's runs are skipped; only a push and a pull request can ask for that.
pub(super) fn skip_reason(event: &Event) -> Option<String> {
    let (message, whose) = match event {
        Event::Push { message, .. } => (message, "the message of the pushed commit"),
        Event::PullRequest { message, .. } => (message, "the message of the pull request's newest commit"),
        Event::WorkflowDispatch { .. }
        | Event::Schedule { .. }
        | Event::RepositoryDispatch { .. }
        | Event::IssueComment { .. } => return None,
    };
    let lower = message.to_ascii_lowercase();
    if let Some(mark) = MARKS.iter().find(|mark| lower.contains(**mark)) {
        return Some(format!("{whose} says `{mark}`"));
    }
    has_trailer(&lower).then(|| format!("{whose} ends with `{TRAILER}: true`"))
}

/// Whether the last line of the trailers, which stand after an empty line, is the one that is looked for.
fn has_trailer(message: &str) -> bool {
    let mut lines = message.lines().rev().skip_while(|line| line.trim().is_empty());
    let is_trailer = |line: &str| line.split_once(':').is_some_and(|(key, _)| !key.is_empty() && !key.contains(' '));
    let Some((TRAILER, value)) = lines.next().and_then(|line| line.split_once(':')) else { return false };
    // the block of trailers goes up to an empty line; the title is none
    value.trim() == "true" && lines.find(|line| !is_trailer(line)).is_some_and(|line| line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str) -> Option<String> {
        let commit = segue_schemas::id::CommitSha::zero();
        let (before, message) = (commit.clone(), message.to_owned());
        skip_reason(&Event::Push { r#ref: "refs/heads/main".into(), before, after: commit, message, forced: false })
    }

    #[test]
    fn marks_skip_wherever_they_stand() {
        for mark in MARKS {
            assert!(check(&format!("Fix it {mark}")).unwrap().contains(mark));
            assert!(check(&format!("Fix it\n\nBecause {} of it.", mark.to_uppercase())).is_some());
        }
        for message in ["", "Fix it", "[skip]", "[skip  ci]", "skip ci", "[ci] skip", "[skip cid]"] {
            assert_eq!(check(message), None, "{message}");
        }
    }

    #[test]
    fn the_trailer_skips_at_the_end_alone() {
        for message in [
            "Fix it\n\n\nskip-checks: true",
            "Fix it\n\nBecause.\n\n\nskip-checks:true\n",
            "Fix it\n\nSigned-off-by: Ada <ada@example.org>\nskip-checks: true\n\n",
        ] {
            assert!(check(message).unwrap().contains("skip-checks"), "{message}");
        }
        for message in [
            "skip-checks: true",
            "Fix it\nskip-checks: true",
            "Fix it\n\nskip-checks: false",
            "Fix it\n\nskip-checks: true\nSigned-off-by: Ada",
            "Fix it\n\nThis is about\nskip-checks: true",
        ] {
            assert_eq!(check(message), None, "{message}");
        }
    }
}
