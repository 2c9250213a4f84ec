use serde_json::json;

use super::*;

/// As GitHub's has it, cut down to what the cases need.
fn description() -> Description {
    let whole = json!({
        "openapi": "3.0.3",
        "paths": {
            "/repos/{owner}/{repo}/check-runs": {"post": {
                "parameters": [{"$ref": "#/components/parameters/owner"}],
                "requestBody": {"required": true, "content": {"application/json": {"schema": {
                    "type": "object", "required": ["name", "head_sha"],
                    "properties": {
                        "name": {"type": "string"}, "head_sha": {"type": "string"},
                        "status": {"type": "string", "enum": ["queued", "in_progress", "completed"]},
                        "conclusion": {"type": "string", "nullable": true},
                        "output": {"type": "object", "required": ["title"], "properties": {"title": {"type": "string"}}},
                    },
                    "oneOf": [
                        {"properties": {"status": {"enum": ["completed"]}}, "required": ["status", "conclusion"], "additionalProperties": true},
                        {"properties": {"status": {"enum": ["queued", "in_progress"]}}, "additionalProperties": true},
                    ],
                }}}},
                "responses": {"201": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/run"}}}}},
            }},
            "/repos/{owner}/{repo}/pulls": {"get": {
                "parameters": [
                    {"$ref": "#/components/parameters/owner"},
                    {"name": "state", "in": "query", "schema": {"type": "string", "enum": ["open", "closed", "all"]}},
                    {"name": "per_page", "in": "query", "schema": {"type": "integer", "default": 30}},
                ],
                "responses": {"200": {}},
            }},
            "/repos/{owner}/{repo}/pulls/{number}": {"get": {
                "parameters": [{"name": "number", "in": "path", "required": true, "schema": {"type": "integer"}}],
                "responses": {"200": {}},
            }},
            "/repos/{owner}/{repo}/pulls/comments": {"get": {
                "parameters": [{"name": "since", "in": "query", "required": true, "schema": {"type": "string"}}],
                "responses": {"200": {}},
            }},
        },
        "components": {
            "parameters": {"owner": {"name": "owner", "in": "path", "required": true, "schema": {"type": "string"}}},
            "schemas": {"run": {
                "type": "object", "required": ["id", "url", "parent"],
                "properties": {
                    "id": {"type": "integer"}, "url": {"type": "string", "nullable": true},
                    "parent": {"$ref": "#/components/schemas/run"},
                },
            }},
        },
    });
    Description::new(whole).unwrap()
}

fn asked(method: &str, target: &str, body: Value) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let query = crate::github::answer::query(Some(query));
    description().of_request(&method.parse().unwrap(), &path, &query, &body).join("; ")
}

#[test]
fn a_request_that_breaks_the_description_is_caught() {
    let checks = "/repos/acme/shop/check-runs";
    let good = json!({"name": "ci", "head_sha": "1", "status": "queued", "conclusion": null});
    let with = |more: Value| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let cases = [
        ("POST", checks, good.clone(), ""),
        ("GET", "/repos/acme/shop/pulls?state=open&per_page=100", Value::Null, ""),
        ("GET", "/repos/acme/shop/pulls/7", Value::Null, ""),
        ("GET", "/repos/acme/shop/pulls/comments?since=x", Value::Null, ""),
        ("PUT", checks, good.clone(), "no such operation"),
        ("GET", "/repos/acme/shop/pull", Value::Null, "no such operation"),
        ("POST", checks, Value::Null, "it needs a body"),
        ("POST", checks, json!({"name": "ci"}), "\"head_sha\" is a required property"),
        ("POST", checks, with(json!({"name": 5})), "`/name`: 5 is not of type \"string\""),
        ("POST", checks, with(json!({"status": "done"})), "`/status`: \"done\" is not one of"),
        ("POST", checks, with(json!({"status": "completed", "conclusion": 1})), "`/conclusion`"),
        ("POST", checks, with(json!({"output": {}})), "`/output`: \"title\" is a required property"),
        ("POST", checks, with(json!({"headsha": "1"})), "the body knows no `headsha`"),
        ("GET", "/repos/acme/shop/pulls?stat=open", Value::Null, "the query knows no `stat`"),
        ("GET", "/repos/acme/shop/pulls?state=opened", Value::Null, "`state` can't be opened"),
        ("GET", "/repos/acme/shop/pulls?per_page=all", Value::Null, "`per_page` can't be all"),
        ("GET", "/repos/acme/shop/pulls/seven", Value::Null, "{number} can't be seven"),
        ("GET", "/repos/acme/shop/pulls/comments", Value::Null, "the query has no `since`"),
        ("GET", "/repos/acme/shop/pulls", json!({"a": 1}), "it takes no body"),
    ];
    for (method, target, body, wanted) in cases {
        let told = asked(method, target, body);
        assert_eq!(told.is_empty(), wanted.is_empty(), "{method} {target}: {told}");
        assert!(told.contains(wanted), "{method} {target}: {told}");
    }
}

#[test]
fn an_answer_is_held_against_types_and_statuses_and_may_leave_things_out() {
    let path = ["repos", "acme", "shop", "check-runs"];
    let told = |status, body| description().of_answer(&Method::POST, &path, status, &body).join("; ");
    assert_eq!(told(201, json!({"id": 1, "url": null, "parent": {"id": 2, "parent": {}}})), "");
    assert_eq!(told(422, json!({"message": "no"})), "");
    assert!(told(200, json!({})).contains("was answered 200: it never is"));
    assert!(told(201, json!({"parent": {"id": "2"}})).contains("`/parent/id`"));
}

#[test]
fn what_is_no_description_is_refused() {
    assert!(Description::new(json!({"openapi": "3.0.3"})).is_err());
    assert!(Description::read(Path::new("/nowhere.json")).is_err_and(|error| format!("{error:#}").contains(VARIABLE)));
}

#[tokio::test]
async fn a_stand_in_that_is_held_against_one_notes_what_differs() {
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let there = crate::github::GitHub::start("acme/shop", Path::new("/")).await.unwrap();
    there.hold_against(description());
    let ask = async |path: &str| {
        let request =
            reqwest::Client::new().get(format!("{}{path}", there.url())).bearer_auth(crate::github::PERSONAL_TOKEN);
        request.header("user-agent", "test").send().await.unwrap().status()
    };
    assert_eq!(ask("/repos/acme/shop/pulls?state=open").await, 200);
    assert_eq!(there.take_deviations(), [""; 0]);
    assert_eq!(ask("/repos/acme/shop/pulls?state=unknown").await, 200);
    assert_eq!(ask("/repos/acme/shop/branches/main").await, 404);
    let told = there.take_deviations().join("; ");
    assert!(told.contains("`state` can't be unknown") && told.contains("branches/main: no such operation"), "{told}");
}
