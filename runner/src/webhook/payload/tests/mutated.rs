//! Every member of every payload, one at a time, missing, null, or of each other type: what needs it says so by its name, and
//! everything else means what it meant.

use super::*;

/// An event, a payload of the shape that GitHub's have, and the members without which nothing can be done.
fn events() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let repository = json!({
        "id": 1, "node_id": "R_1", "name": "shop", "full_name": "acme/shop", "private": true, "fork": false, "description": null,
        "owner": {"login": "acme", "id": 2, "type": "Organization", "site_admin": false}, "topics": [], "license": null,
        "clone_url": "https://github.com/acme/shop.git", "default_branch": "main", "pushed_at": 1_700_000_000, "size": 3,
    });
    let sender = json!({"login": "ada", "id": 3, "type": "User", "site_admin": false});
    let whole = |more: Value| {
        let mut payload =
            json!({"repository": repository, "sender": sender, "installation": {"id": 4, "node_id": "x"}});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        payload
    };
    let account = json!({"login": "acme", "id": 2, "type": "Organization"});
    let listed = json!([{"id": 1, "full_name": "acme/shop", "private": true}]);
    vec![
        ("push", whole(push()), &["/ref", "/before", "/after", "/repository", "/repository/full_name"][..]),
        (
            "pull_request",
            whole(pull_request()),
            &[
                "/action",
                "/pull_request",
                "/pull_request/head",
                "/pull_request/head/ref",
                "/pull_request/head/sha",
                "/pull_request/base",
                "/pull_request/base/ref",
                "/pull_request/base/sha",
                "/repository",
                "/repository/full_name",
            ],
        ),
        (
            "issue_comment",
            whole(json!({
                "action": "created",
                "issue": {"number": 7, "title": "x", "user": sender, "pull_request": {"url": "x"}, "labels": [], "body": null},
                "comment": {
                    "id": 5, "created_at": "2024-01-01T00:00:05Z", "user": sender, "body": "/segue rerun",
                    "author_association": "MEMBER", "performed_via_github_app": null,
                },
            })),
            &["/action", "/issue", "/issue/number", "/comment", "/repository", "/repository/full_name"],
        ),
        (
            "check_run",
            whole(json!({
                "action": "requested_action", "requested_action": {"identifier": "rerun-failed"},
                "check_run": {"id": 5, "head_sha": A, "external_id": "1.1.", "conclusion": null, "app": {"id": 1}},
            })),
            &[
                "/action",
                "/requested_action",
                "/requested_action/identifier",
                "/check_run",
                "/check_run/id",
                "/repository",
                "/repository/full_name",
            ],
        ),
        (
            "check_suite",
            whole(json!({
                "action": "rerequested",
                "check_suite": {"id": 5, "head_sha": A, "head_branch": null, "before": null, "after": null, "pull_requests": []},
            })),
            &["/action", "/check_suite", "/check_suite/head_sha", "/repository", "/repository/full_name"],
        ),
        (
            "repository_dispatch",
            whole(json!({"action": "go", "branch": "main", "client_payload": {"a": 1}})),
            &["/action", "/repository", "/repository/full_name"],
        ),
        ("ping", whole(json!({"zen": "Speak like a human.", "hook_id": 1, "hook": {"type": "App"}})), &[]),
        (
            "repository",
            whole(json!({"action": "renamed", "changes": {"repository": {"name": {"from": "store"}}}})),
            &[],
        ),
        (
            "repository",
            whole(json!({
                "action": "transferred", "changes": {"owner": {"from": {"organization": {"login": "octo"}, "user": null}}},
            })),
            &[],
        ),
        (
            "installation",
            json!({"action": "suspend", "installation": {"id": 4, "account": account}, "repositories": listed, "sender": sender}),
            &[],
        ),
        (
            "installation_repositories",
            json!({
                "action": "removed", "installation": {"id": 4, "account": account}, "repository_selection": "selected",
                "repositories_added": [], "repositories_removed": listed, "requester": null, "sender": sender,
            }),
            &[],
        ),
        (
            "installation_target",
            json!({"action": "renamed", "account": account, "changes": {"login": {"from": "octo"}}, "target_type": "Organization"}),
            &[],
        ),
        ("deployment_status", whole(json!({"action": "created", "deployment": {"id": 1}})), &[]),
    ]
}

/// The pointers of every member.
fn members(of: &Value, at: &str, found: &mut Vec<String>) {
    for (key, value) in of.as_object().into_iter().flatten() {
        let pointer = format!("{at}/{key}");
        members(value, &pointer, found);
        found.push(pointer);
    }
}

fn kind(meaning: &Meaning) -> &'static str {
    match meaning {
        Meaning::Trigger(_) => "trigger",
        Meaning::Asks(_) => "asks",
        Meaning::Comment(..) => "comment",
        Meaning::Upkeep(upkeep) => {
            assert!(!upkeep.reason.is_empty());
            "upkeep"
        }
        Meaning::Ignored { reason, .. } => {
            assert!(!reason.is_empty(), "nothing is dropped without a word");
            "ignored"
        }
    }
}

#[test]
fn nothing_that_is_null_missing_or_of_another_type_costs_more_than_itself() {
    let others = [
        None,
        Some(Value::Null),
        Some(json!("\u{0}x\n")),
        Some(json!("")),
        Some(json!(0)),
        Some(json!(-1)),
        Some(json!(1.5e300)),
        Some(json!(u64::MAX)),
        Some(json!(true)),
        Some(json!([null, [], {"full_name": 5}])),
        Some(json!({"from": null, "login": [], "full_name": {}})),
    ];
    for (event, payload, needed) in events() {
        let before = read_changed(event, payload.clone(), "", None).unwrap();
        let mut pointers = Vec::new();
        members(&payload, "", &mut pointers);
        assert!(needed.iter().all(|pointer| pointers.iter().any(|known| known == pointer)), "{event}: {pointers:?}");
        for pointer in &pointers {
            for to in &others {
                let result = read_changed(event, payload.clone(), pointer, to.clone());
                let told = format!("{event} {pointer} {to:?}: {result:?}");
                if !needed.contains(&pointer.as_str()) {
                    // a branch's name that can't be is told where it becomes part of a ref
                    let is_branch = ["/branch", "/repository/default_branch"].contains(&pointer.as_str());
                    match &result {
                        Ok(meaning) => assert_eq!(kind(meaning), kind(&before), "{told}"),
                        Err(error) => assert!(is_branch && error.contains("default_branch"), "{told}"),
                    }
                    continue;
                }
                let path = pointer[1..].replace('/', ".");
                match result {
                    Err(error) => assert!(error.contains(&path), "{told}"),
                    // an action or a button that nobody knows
                    Ok(meaning) => {
                        kind(&meaning);
                    }
                }
            }
        }
    }
}

#[test]
fn what_happens_to_repositories_and_installations_says_what_it_is_and_whom_it_concerns() {
    let upkeep = |event: &str, payload: Value| match read_changed(event, payload, "", None) {
        Ok(Meaning::Upkeep(upkeep)) => upkeep,
        other => panic!("{event}: {other:?}"),
    };
    let of = |action: &str, changes: Value| {
        upkeep("repository", json!({"action": action, "changes": changes, "repository": {"full_name": "acme/shop"}}))
    };
    let renamed = of("renamed", json!({"repository": {"name": {"from": "store"}}}));
    assert_eq!(renamed.reason, "acme/store is called acme/shop now");
    assert!(renamed.concerns("acme/store") && renamed.concerns("Acme/Shop") && !renamed.concerns("acme/other"));
    let moved = of("transferred", json!({"owner": {"from": {"user": {"login": "octo"}}}}));
    assert_eq!(
        (moved.reason.as_str(), moved.concerns("octo/shop")),
        ("octo/shop has moved, and is acme/shop now", true)
    );
    assert!(
        of("renamed", json!({"repository": {"name": {"from": "../.."}}})).reason.starts_with("a repository is called")
    );
    assert_eq!(of("edited", json!({})).remedy, None);

    let account = json!({"account": {"login": "acme"}});
    let gone = upkeep("installation", json!({"action": "deleted", "installation": account}));
    assert!(gone.concerns("acme/shop") && !gone.concerns("acme2/shop") && gone.remedy.is_some(), "{gone:?}");
    let nobody = upkeep("installation", json!({"action": "deleted"}));
    assert_eq!((nobody.reason.as_str(), nobody.concerns("acme/shop")), ("the App was uninstalled", false));

    let listed: Vec<Value> = (0..30).map(|n| json!({"full_name": format!("acme/r{n}")})).collect();
    let removed = upkeep("installation_repositories", json!({"action": "removed", "repositories_removed": listed}));
    assert!(
        removed.concerns("acme/r0") && removed.concerns("acme/r19") && !removed.concerns("acme/r20"),
        "it is bounded"
    );
    let added = upkeep("installation_repositories", json!({"action": "added", "repositories_added": listed}));
    assert!(added.remedy.is_none() && added.reason.contains("installed for acme/r0, acme/r1"), "{added:?}");

    let target = json!({"action": "renamed", "account": {"login": "new"}, "changes": {"login": {"from": "acme"}}});
    let target = upkeep("installation_target", target);
    assert_eq!(target.reason, "acme is called new now, and so are its repositories");
    assert!(target.concerns("acme/shop"));
}
