//! What the one comment below a pull request says of its previews.

use segue_schemas::{
    id::{CommitSha, RunId},
    preview::PreviewState,
};

use crate::checks::{is_address, markdown};

/// What the comment begins with, hidden: by it one is found again whose number was lost.
const MARK: &str = "<!-- segue-previews -->";
/// Previews of one pull request that are told of: as many rows are far below the 65,536 characters that GitHub takes.
const MOST: usize = 40;

/// A preview as the comment tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The service that it is a copy of.
    pub service: String,
    /// How it stands.
    pub state: PreviewState,
    /// Where it is.
    pub url: String,
    /// The commit that serves.
    pub commit: Option<CommitSha>,
    /// The commit that is on its way to serve.
    pub coming: Option<CommitSha>,
    /// Why it stands as it does.
    pub reason: Option<String>,
    /// The run that asked for it last.
    pub run: Option<RunId>,
    /// Where that run's log can be seen.
    pub log: Option<String>,
}

/// The comment, in Markdown. What people wrote stands in it as it is: nothing is followed, nobody is called, no command is given.
#[must_use]
pub fn comment(previews: &[Told], is_open: bool) -> String {
    let mut text = format!(
        "{MARK}\n**{}**\n\n| service | state | commit | address | log |\n| --- | --- | --- | --- | --- |\n",
        if previews.len() == 1 { "Preview" } else { "Previews" }
    );
    for one in previews.iter().take(MOST) {
        text += &row(one);
    }
    if previews.len() > MOST {
        text += &format!("\nand {} more, which `segue previews` lists.\n", previews.len() - MOST);
    }
    if is_open && previews.iter().any(|one| one.state == PreviewState::Gone) {
        text += "\nA comment with `/segue preview` brings back what was taken away.\n";
    }
    text
}

/// Whether a comment is one of these, by what it begins with; anybody may write that.
#[must_use]
pub fn is_comment(body: &str) -> bool {
    body.trim_start().starts_with(MARK)
}

fn row(one: &Told) -> String {
    let because = |words: &str| match &one.reason {
        Some(reason) => format!("{words}: {}", markdown::cell(reason)),
        None => words.to_owned(),
    };
    let state = match (one.state, &one.coming) {
        (PreviewState::Starting, _) => "is on its way".into(),
        (PreviewState::Serving | PreviewState::Asleep, Some(next)) => {
            format!("serves, and `{}` is on its way", next.short())
        }
        (PreviewState::Serving, None) if one.reason.is_some() => because("serves, and a newer commit does not"),
        (PreviewState::Asleep, None) => "is asleep, until the next request".into(),
        (PreviewState::Serving, None) => "serves".into(),
        (PreviewState::Failed, _) => because("did not become ready"),
        (PreviewState::Removing, _) => because("is taken away"),
        (PreviewState::Gone, _) => because("was taken away"),
    };
    let commit = one.commit.as_ref().or(one.coming.as_ref()).filter(|_| one.state.is_there());
    let commit = commit.map(|commit| format!("`{}`", commit.short())).unwrap_or_default();
    let address = match one.state.is_there() {
        true if is_address(&one.url) => format!("<{}>", one.url),
        true => markdown::cell(&one.url),
        false => String::new(),
    };
    let log = match (one.run, &one.log) {
        (Some(run), Some(log)) if is_address(log) => format!("[run {run}](<{log}>)"),
        (Some(run), _) => format!("run {run}"),
        (None, _) => String::new(),
    };
    format!("| {} | {state} | {commit} | {address} | {log} |\n", markdown::cell(&one.service))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::comment::command;

    fn told(state: PreviewState) -> Told {
        Told {
            service: "web".into(),
            state,
            url: "http://pr-7-web.preview.localhost:8322".into(),
            commit: Some("a".repeat(40).parse().unwrap()),
            coming: None,
            reason: None,
            run: Some(RunId(12)),
            log: Some("https://github.com/acme/shop/runs/5".into()),
        }
    }

    #[test]
    fn a_comment_says_where_each_is_and_how_it_stands() {
        let next = Some("b".repeat(40).parse().unwrap());
        let why = Some("#7 was closed".to_owned());
        let all = [
            told(PreviewState::Serving),
            Told { service: "api".into(), coming: next.clone(), ..told(PreviewState::Serving) },
            Told { commit: None, coming: next, log: None, ..told(PreviewState::Starting) },
            Told { reason: Some("port 1 | 2\nis taken".into()), ..told(PreviewState::Serving) },
            Told { commit: None, reason: Some("<b>".into()), url: "javascript:x".into(), ..told(PreviewState::Failed) },
            Told { reason: why.clone(), ..told(PreviewState::Removing) },
            Told { reason: why, ..told(PreviewState::Gone) },
        ];
        let at = "<http://pr-7-web.preview.localhost:8322>";
        let log = "[run 12](<https://github.com/acme/shop/runs/5>)";
        let rows = [
            format!("| web | serves | `aaaaaaaaaa` | {at} | {log} |"),
            format!("| api | serves, and `bbbbbbbbbb` is on its way | `aaaaaaaaaa` | {at} | {log} |"),
            format!("| web | is on its way | `bbbbbbbbbb` | {at} | run 12 |"),
            format!(
                "| web | serves, and a newer commit does not: port 1 \\| 2 is taken | `aaaaaaaaaa` | {at} | {log} |"
            ),
            format!("| web | did not become ready: \\<b\\> |  | javascript:x | {log} |"),
            format!("| web | is taken away: \\#7 was closed |  |  | {log} |"),
            format!("| web | was taken away: \\#7 was closed |  |  | {log} |"),
        ];
        for (one, row) in all.iter().zip(&rows) {
            let text = comment(std::slice::from_ref(one), false);
            assert!(text.ends_with(&format!("{row}\n")), "{text}\n{row}");
            assert!(is_comment(&text) && text.contains("**Preview**"), "{text}");
        }
        let text = comment(&all, true);
        assert!(text.contains("**Previews**") && text.contains("`/segue preview` brings back"), "{text}");
        assert_eq!(
            comment(&vec![all[0].clone(); 500], true).lines().filter(|line| line.starts_with("| web")).count(),
            MOST
        );
    }

    proptest! {
        #[test]
        fn nothing_that_people_wrote_becomes_a_row_a_command_or_markup(
            service in "(?s)(/segue rerun|\\||\n|@ada|<b>|\\PC){0,20}",
            reason in "(?s)(/segue cancel|\\||\n|```|-->|\\PC){0,30}",
            url in "(http://|>|\\||\n|\\PC){0,10}",
        ) {
            let one = Told { service, reason: Some(reason), url, ..told(PreviewState::Failed) };
            let text = comment(&[one.clone(), one], true);
            prop_assert_eq!(command(&text), None);
            prop_assert_eq!(text.lines().count(), 7, "{}", text);
            for line in text.lines().skip(5).take(2) {
                prop_assert_eq!(line.replace("\\\\", "").replace("\\|", "").matches('|').count(), 6, "{}", line);
            }
            prop_assert!(!text.contains("@ada") && text.len() < 20_000);
        }
    }
}
