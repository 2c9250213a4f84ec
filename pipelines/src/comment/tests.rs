use proptest::prelude::*;

use super::*;

#[test]
fn commands_are_lines_that_begin_with_the_word() {
    let rollback = |service: Option<&str>| Command::Rollback {
        environment: "production".into(),
        service: service.map(str::to_owned),
    };
    for (body, wanted) in [
        ("/segue rerun", Command::Rerun),
        ("Fails by chance.\r\n\r\n/segue  rerun \r\n", Command::Rerun),
        ("/segue rerun deploy", Command::RerunAndDeploy),
        ("   /segue\tcancel", Command::Cancel),
        ("/segue deploy staging", Command::Deploy { environment: "staging".into() }),
        ("/segue rollback production", rollback(None)),
        ("/segue rollback production web", rollback(Some("web"))),
        ("/segue approve", Command::Approve { commit: None }),
        ("/segue approve 0123abc", Command::Approve { commit: Some("0123abc".into()) }),
        ("/segue bypass  the shop\tis down", Command::Bypass { reason: "the shop is down".into() }),
        ("```\n/segue cancel\n```\n/segue preview", Command::Preview),
        ("> /segue cancel\n\n/segue rerun\nthanks", Command::Rerun),
        ("```rust\n/segue cancel\n````\n/segue rerun", Command::Rerun),
        ("``` a ` b\n/segue rerun", Command::Rerun),
        ("<!-- a --> b\n/segue rerun", Command::Rerun),
        ("<pre>/segue cancel</pre>\n/segue rerun", Command::Rerun),
        ("<present>\n/segue rerun", Command::Rerun),
    ] {
        assert_eq!(command(body), Some(Ok(wanted)), "{body}");
    }
}

#[test]
fn what_only_speaks_of_commands_is_none() {
    for body in [
        "",
        "try /segue rerun",
        "- /segue rerun",
        "**/segue rerun**",
        "`/segue rerun`",
        "[/segue rerun](http://evil)",
        "> /segue rerun",
        " > > /segue rerun",
        "```\n/segue cancel\n```",
        "```\n/segue cancel",
        "~~~\n```\n/segue cancel\n~~~",
        "````\n```\n/segue cancel\n````",
        "```\n``` no end\n/segue cancel",
        "    /segue cancel",
        "\t/segue cancel",
        "<!--\n/segue rollback production\n-->",
        "text <!-- a\n/segue rollback production",
        "<PRE lang=x>\n\n/segue cancel\n</pre>",
        "/seguerun",
        "/segue\u{200b} rerun",
        "\u{202e}/segue rerun",
        "/Segue rerun",
    ] {
        assert_eq!(command(body), None, "{body}");
    }
}

#[test]
fn a_command_that_cannot_be_read_says_what_to_write() {
    for (body, words) in [
        ("/segue", "names no command"),
        ("/segue rerum", "did you mean `rerun`?"),
        ("/segue bypass", "say why"),
        ("/segue deploy", "say one environment"),
        ("/segue deploy a b", "say one environment"),
        ("/segue rollback", "say one environment, and a service"),
        ("/segue deploy ../x", "cannot name an environment"),
        ("/segue rollback a $(x)", "cannot name a service"),
        ("/segue approve HEAD", "is no commit"),
        ("/segue approve abc123", "at least 7"),
        ("/segue cancel all", "takes nothing more"),
        ("/segue rerun\n/segue cancel", "holds 2 commands"),
    ] {
        let problem = command(body).unwrap().unwrap_err();
        assert!(problem.contains(words), "{body}: {problem}");
    }
    let long = command(&format!("/segue {}", "a".repeat(60_000))).unwrap().unwrap_err();
    assert!(long.len() < 300, "what is repeated is bounded");
}

#[test]
fn an_answer_says_what_came_of_it_and_is_no_command() {
    let outcome = Outcome::new(Verdict::Refused, "nothing waits\n/segue approve\n@ada <b>");
    let text = reply(7, "mona[bot]", Some(&Command::Cancel), &outcome);
    assert_eq!(
        text,
        "<!-- segue-answer:7 -->\nNothing was done of what mona\\[bot\\] asked, to cancel what runs: nothing waits  \n/segue \
         approve  \n@\u{200b}ada \\<b\\>.\n"
    );
    assert_eq!(command(&text), None, "whatever stands in it");
    assert!(is_answer(&text) && !is_answer(&format!("see {text}")));
    let reactions = [Verdict::Done, Verdict::Refused, Verdict::Stranger, Verdict::Unclear].map(Verdict::reaction);
    assert_eq!(reactions, ["+1", "-1", "-1", "confused"]);
}

proptest! {
    /// No text breaks it off, and no answer is a command or grows without bound.
    #[test]
    fn any_text_is_read_and_answered(body in "(?s)(/segue |```|~~~|<!--|-->|>|\n|rerun|\\PC){0,40}") {
        if let Some(Err(problem)) = command(&body) {
            let answer = reply(1, &body, None, &Outcome::new(Verdict::Unclear, problem));
            prop_assert!(command(&answer).is_none() && answer.len() < 60_000);
        }
    }

    /// What is quoted or fenced as a whole commands nothing.
    #[test]
    fn a_quotation_commands_nothing(body in "(/segue rerun|a|```|\n){0,20}") {
        let quoted: String = body.lines().map(|line| format!("> {line}\n")).collect();
        prop_assert_eq!(command(&quoted), None);
        prop_assert_eq!(command(&format!("~~~~\n{body}\n~~~~")), None);
    }
}
