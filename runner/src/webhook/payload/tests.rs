mod mutated;

use serde_json::{Value, json};

use super::*;

const A: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";
const B: &str = "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c";
const ZERO: &str = "0000000000000000000000000000000000000000";

fn push() -> Value {
    json!({
        "ref": "refs/heads/main", "before": A, "after": B, "created": false, "deleted": false, "forced": false,
        "base_ref": null, "compare": "https://github.com/acme/shop/compare/6113728f27ae...0d1a26e67d8f",
        "commits": [{"id": B, "message": "Sell more", "added": [], "removed": [], "modified": ["a"]}],
        "head_commit": {"id": B, "message": "Sell more", "author": {"name": "Ada", "email": "a@example.com"}},
        "repository": {"id": 1, "name": "shop", "full_name": "acme/shop", "description": null, "fork": false,
            "clone_url": "https://github.com/acme/shop.git", "default_branch": "main", "license": null},
        "pusher": {"name": "ada", "email": "a@example.com"},
        "sender": {"login": "ada", "id": 2, "site_admin": false},
    })
}

fn pull_request() -> Value {
    json!({
        "action": "synchronize", "number": 7, "before": A, "after": B,
        "pull_request": {
            "number": 7, "state": "open", "title": "Sell more", "body": null, "draft": false, "merged_at": null,
            "head": {"label": "ada:more", "ref": "more", "sha": B, "repo": {"full_name": "acme/shop"}},
            "base": {"label": "acme:main", "ref": "main", "sha": A, "repo": {"full_name": "acme/shop"}},
        },
        "repository": {"full_name": "acme/shop", "clone_url": "https://github.com/acme/shop.git"},
        "sender": {"login": "ada"},
    })
}

/// Reads a payload after changing one place of it (a JSON pointer); `None` removes the place. Both readers must agree.
fn read_changed(event: &str, mut payload: Value, pointer: &str, to: Option<Value>) -> Result<Meaning, String> {
    if !pointer.is_empty() {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = payload.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match to {
            Some(value) => parent.insert(key.into(), value),
            None => parent.remove(key),
        };
    }
    let text = payload.to_string();
    let from_slice = read_slice(event, text.as_bytes()).map_err(|error| error.to_string());
    assert_eq!(from_slice, read(event, text.as_bytes()).map_err(|error| error.to_string()));
    from_slice
}

fn trigger(meaning: Result<Meaning, String>) -> Trigger {
    match meaning {
        Ok(Meaning::Trigger(trigger)) => *trigger,
        other => panic!("{other:?}"),
    }
}

fn reason(meaning: Result<Meaning, String>) -> String {
    match meaning {
        Ok(Meaning::Ignored { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_push_becomes_a_trigger() {
    let trigger = trigger(read_changed("push", push(), "", None));
    assert_eq!((trigger.repository.as_str(), trigger.actor.as_str()), ("acme/shop", "ada"));
    assert_eq!(trigger.clone_url.as_deref(), Some("https://github.com/acme/shop.git"));
    let expected = Event::Push {
        r#ref: "refs/heads/main".into(),
        before: A.parse().unwrap(),
        after: B.parse().unwrap(),
        message: "Sell more".into(),
        forced: false,
    };
    assert_eq!(trigger.event, expected);
}

#[test]
fn of_a_tag_the_commit_counts_and_not_the_tags_own_object() {
    let mut payload = push();
    payload["ref"] = json!("refs/tags/v1.2.0");
    payload["after"] = json!("c".repeat(40));
    let after = |payload: &Value| match trigger(read_changed("push", payload.clone(), "", None)).event {
        Event::Push { after, .. } => after.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(after(&payload), B);
    payload["head_commit"] = Value::Null;
    assert_eq!(after(&payload), "c".repeat(40));
    payload["head_commit"] = json!({"id": B});
    payload["ref"] = json!("refs/heads/main");
    assert_eq!(after(&payload), "c".repeat(40), "a branch's push says itself what it brings");
}

#[test]
fn a_pull_request_becomes_a_trigger() {
    let trigger = trigger(read_changed("pull_request", pull_request(), "", None));
    let Event::PullRequest { action, number, title, head_ref, head, head_repository, base_ref, base, draft, .. } =
        &trigger.event
    else {
        panic!("{trigger:?}");
    };
    assert_eq!((action.as_str(), *number, title.as_str(), *draft), ("synchronize", 7, "Sell more", false));
    assert_eq!((head_ref.as_str(), head.as_str(), base_ref.as_str(), base.as_str()), ("more", B, "main", A));
    assert_eq!(head_repository.as_deref(), Some("acme/shop"));
    assert!(!trigger.event.is_from_fork(&trigger.repository));
}

#[test]
fn whose_work_it_is_is_known_by_accounts() {
    let by = |author: Value, committer: Value| {
        let head = json!({"message": "m", "author": author, "committer": committer});
        trigger(read_changed("push", push(), "/head_commit", Some(head))).authors
    };
    let named = |name: &str| json!({"name": "Somebody", "username": name});
    assert_eq!(by(named("ada"), named("grace")), ["ada", "grace"]);
    assert_eq!(by(named("ada"), named("ada")), ["ada"]);
    assert_eq!(by(named("ada"), named("web-flow")), ["ada"]);
    assert_eq!(by(named("../x"), json!({"name": "no account"})), [""; 0]);
    assert_eq!(by(json!(7), Value::Null), [""; 0]);
    let opened = read_changed("pull_request", pull_request(), "/pull_request/user", Some(json!({"login": "eve"})));
    assert_eq!(trigger(opened).authors, ["eve"]);
}

#[test]
fn what_may_be_null_or_missing_is_done_without() {
    for (event, payload, pointer) in [
        ("push", push(), "/head_commit"),
        ("push", push(), "/head_commit/message"),
        ("push", push(), "/forced"),
        ("push", push(), "/pusher"),
        ("push", push(), "/sender"),
        ("push", push(), "/commits"),
        ("push", push(), "/repository/clone_url"),
        ("pull_request", pull_request(), "/number"),
        ("pull_request", pull_request(), "/pull_request/title"),
        ("pull_request", pull_request(), "/pull_request/draft"),
        ("pull_request", pull_request(), "/pull_request/head/repo"),
        ("pull_request", pull_request(), "/sender"),
    ] {
        for to in [None, Some(Value::Null)] {
            let result = read_changed(event, payload.clone(), pointer, to.clone());
            assert!(matches!(result, Ok(Meaning::Trigger(_))), "{event} {pointer} {to:?}: {result:?}");
        }
    }
}

#[test]
fn a_fork_that_was_deleted_still_counts_as_a_fork() {
    let trigger = trigger(read_changed("pull_request", pull_request(), "/pull_request/head/repo", Some(Value::Null)));
    assert!(trigger.event.is_from_fork(&trigger.repository));
}

#[test]
fn the_pusher_stands_in_for_a_missing_sender() {
    assert_eq!(trigger(read_changed("push", push(), "/sender", None)).actor, "ada");
    let mut payload = push();
    payload["pusher"] = Value::Null;
    assert_eq!(trigger(read_changed("push", payload, "/sender", Some(Value::Null))).actor, "unknown");
}

#[test]
fn a_missing_or_unusable_field_is_named() {
    let cases = [
        ("push", push(), "/ref", None, "the payload has no `ref`"),
        ("push", push(), "/before", None, "the payload has no `before`"),
        ("push", push(), "/after", Some(Value::Null), "the payload has no `after`"),
        ("push", push(), "/after", Some(json!("main")), "`after` of the payload can't be used"),
        ("push", push(), "/ref", Some(json!(5)), "`ref` of the payload is a number, not a text"),
        ("push", push(), "/ref", Some(json!("refs/heads/$(touch x)")), "`ref` of the payload can't be used"),
        ("push", push(), "/repository", None, "the payload has no `repository`"),
        ("push", push(), "/repository", Some(json!([1])), "`repository` of the payload is a list, not an object"),
        ("push", push(), "/repository/full_name", None, "the payload has no `repository.full_name`"),
        ("push", push(), "/repository/full_name", Some(json!("../../etc")), "`repository.full_name` of the payload"),
        ("pull_request", pull_request(), "/action", None, "the payload has no `action`"),
        ("pull_request", pull_request(), "/pull_request", Some(json!("x")), "`pull_request` of the payload is a text"),
        ("pull_request", pull_request(), "/pull_request/head", None, "the payload has no `pull_request.head`"),
        ("pull_request", pull_request(), "/pull_request/head/sha", None, "the payload has no `pull_request.head.sha`"),
        ("pull_request", pull_request(), "/pull_request/base/ref", None, "the payload has no `pull_request.base.ref`"),
        ("push", json!([]), "", None, "`the top level` of the payload is a list, not an object"),
        ("issues", json!("x"), "", None, "`the top level` of the payload is a text, not an object"),
    ];
    for (event, payload, pointer, to, expected) in cases {
        let error = read_changed(event, payload, pointer, to).unwrap_err();
        assert!(error.starts_with(expected), "{event} {pointer}: {error}");
    }
}

#[test]
fn what_starts_nothing_says_why() {
    let deleted = read_changed("push", push(), "/after", Some(json!(ZERO)));
    assert_eq!(reason(deleted), "`refs/heads/main` was deleted");
    let tag = read_changed("push", push(), "/ref", Some(json!("refs/tags/rollback-20260728-093015")));
    assert!(reason(tag).contains("rollback point"));
    let notes = read_changed("push", push(), "/ref", Some(json!("refs/notes/commits")));
    assert!(reason(notes).contains("neither a branch nor a tag"));
    let issues = read_changed("issues", push(), "", None);
    assert_eq!(reason(issues), "nothing is run for the event `issues`");
    let ping = read_changed("ping", json!({"zen": "Keep it logically awesome.", "hook_id": 1}), "", None);
    assert!(reason(ping).contains("Keep it logically awesome."));
    assert_eq!(
        read_changed("issues", json!({"repository": {"full_name": "../.."}}), "", None),
        Ok(Meaning::Ignored { repository: None, reason: "nothing is run for the event `issues`".into() })
    );
}

#[test]
fn unreadable_json_is_refused() {
    let deep = "[".repeat(100_000);
    for text in ["", "{", "payload=%7B%7D", "{\"ref\": \"x\"} trailing", "\u{feff}{}", &deep] {
        assert!(matches!(read_slice("push", text.as_bytes()), Err(PayloadError::Json(_))), "{text:.40}");
        assert!(matches!(read("push", text.as_bytes()), Err(PayloadError::Json(_))), "{text:.40}");
    }
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let long = "ä".repeat(20_000);
    let trigger = trigger(read_changed("push", push(), "/head_commit/message", Some(json!(long))));
    let Event::Push { message, .. } = trigger.event else { panic!() };
    assert_eq!(message.len(), 16 * 1024);
}

#[test]
fn rollback_tags_are_told_from_other_tags() {
    for tag in ["refs/tags/rollback-20260728-093015", "refs/tags/rollback-20260728-093015-2"] {
        assert!(is_rollback_tag(tag), "{tag}");
    }
    for tag in [
        "refs/tags/v1",
        "refs/tags/rollback-",
        "refs/tags/rollback-2026-1",
        "refs/heads/rollback-20260728-093015",
        "refs/tags/rollback-20260728-093015-x",
        "refs/tags/rollback-20260728-093015-",
        "refs/tags/rollback-20260728x093015",
    ] {
        assert!(!is_rollback_tag(tag), "{tag}");
    }
}

#[test]
fn a_repository_dispatch_is_of_the_default_branch_and_keeps_its_payload() {
    let mut payload = json!({
        "action": "deploy", "branch": "trunk", "client_payload": {"version": 3, "deep": {"list": [1, null]}},
        "repository": {"full_name": "octo/app", "default_branch": "main"}, "sender": {"login": "mona"},
    });
    let read = |payload: &Value| read_slice("repository_dispatch", payload.to_string().as_bytes());
    let Meaning::Trigger(trigger) = read(&payload).unwrap() else { panic!() };
    assert_eq!(
        trigger.event,
        Event::RepositoryDispatch {
            r#ref: "refs/heads/trunk".into(),
            commit: CommitSha::zero(),
            action: "deploy".into(),
            client_payload: json!({"version": 3, "deep": {"list": [1, null]}}),
        }
    );
    payload["branch"] = Value::Null;
    let Meaning::Trigger(trigger) = read(&payload).unwrap() else { panic!() };
    assert_eq!(trigger.event.git_ref(), "refs/heads/main");
    payload["client_payload"] = json!({"text": "x".repeat(70_000)});
    assert!(read(&payload).unwrap_err().to_string().contains("65535"), "it is bounded");
}

#[test]
fn a_comment_is_read_whether_below_an_issue_or_a_pull_request() {
    let payload = |pull_request: Value| {
        json!({
            "action": "created", "issue": {"number": 7, "pull_request": pull_request},
            "comment": {
                "id": 5, "created_at": "2024-01-01T00:00:05Z", "user": {"login": "mona", "type": "User"},
                "body": "/segue rerun", "author_association": "MEMBER",
            },
            "repository": {"full_name": "octo/app", "default_branch": "main"}, "sender": {"login": "mona"},
        })
    };
    for (pull_request, wanted) in [(json!({"url": "x"}), true), (Value::Null, false)] {
        let read = read_slice("issue_comment", payload(pull_request).to_string().as_bytes()).unwrap();
        let Meaning::Comment(trigger, written) = read else { panic!() };
        let at = Some(segue_schemas::time::Timestamp(1_704_067_205_000));
        assert_eq!(written, Written { id: Some(5), at, author: Some("mona".into()), is_bot: false });
        let Event::IssueComment { number, is_pull_request, body, author_association, .. } = trigger.event else {
            panic!()
        };
        assert_eq!((number, is_pull_request), (7, wanted));
        assert_eq!((body.as_str(), author_association.as_str()), ("/segue rerun", "MEMBER"));
    }
    let mut strange = payload(Value::Null);
    strange["comment"] = json!({"id": "5", "created_at": 1, "user": {"login": "a/../b", "type": "Bot"}});
    let read = read_slice("issue_comment", strange.to_string().as_bytes()).unwrap();
    let Meaning::Comment(_, written) = read else { panic!() };
    assert_eq!(written, Written { is_bot: true, ..Written::default() }, "what can't be is missing");
}
