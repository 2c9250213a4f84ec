use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::testing::{PIPELINE, Stand};

const FILE: &str = ".segue/pipelines/ci.yml";
const TWO_JOBS: &str = "on: push\njobs:\n  one:\n    runs-on: linux\n    steps:\n      - run: 'true'\n  two:\n    \
                        runs-on: linux\n    steps:\n      - run: 'true'\n";

/// What a worker with a token of its own says.
struct Worker<'a> {
    stand: &'a Stand,
    token: String,
    name: &'static str,
}

impl<'a> Worker<'a> {
    async fn with_new_token(stand: &'a Stand, name: &'static str, labels: Value) -> Self {
        let made = stand.admin(Method::POST, "/api/v1/worker-tokens").json(&json!({"name": name, "labels": labels}));
        let made = made.send().await.unwrap();
        assert_eq!(made.status(), 201);
        let token = made.json::<Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
        Self { stand, token, name }
    }

    async fn says(&self, path: &str, body: Value) -> Response {
        says(self.stand, &self.token, path, body).await
    }

    async fn registers(&self, labels: &[&str]) -> Response {
        let name = self.name;
        let body = json!({"worker": name, "incarnation": "1", "labels": labels, "capacity": 5, "version": "0"});
        self.says("register", body).await
    }

    async fn asks(&self) -> Response {
        let body = json!({"worker": self.name, "incarnation": "1", "labels": ["linux"], "wait_ms": 0});
        self.says("jobs/claim", body).await
    }

    async fn claims(&self) -> Value {
        let answer = self.asks().await;
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }
}

async fn says(stand: &Stand, token: &str, path: &str, body: Value) -> Response {
    let request = stand.anonymous(Method::POST, &format!("/api/v1/worker/{path}")).bearer_auth(token);
    request.json(&body).send().await.unwrap()
}

fn of<'a>(claim: &'a Value, field: &str) -> &'a str {
    claim[field].as_str().unwrap()
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    (status, response.json::<Value>().await.unwrap()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_lease_opens_its_job_under_its_epoch_and_nothing_else() {
    let stand = Stand::start().await;
    stand.push("one", &[(FILE, TWO_JOBS)]).await;
    stand.settled("one").await;
    let worker = Worker::with_new_token(&stand, "builder", json!(["linux"])).await;
    assert_eq!(worker.registers(&["linux"]).await.status(), 200);
    let (claim, other) = (worker.claims().await, worker.claims().await);
    let (job, token) = (of(&claim, "job"), of(&claim, "token"));

    let renew = format!("jobs/{job}/renew");
    assert_eq!(says(&stand, token, &renew, json!({"epoch": 1, "wait_ms": 0})).await.status(), 200);
    assert_eq!(
        code(says(&stand, token, &renew, json!({"epoch": 2, "wait_ms": 0})).await).await,
        (409, "stale_epoch".into())
    );
    let foreign = format!("jobs/{}/renew", of(&other, "job"));
    assert_eq!(code(says(&stand, token, &foreign, json!({"epoch": 1, "wait_ms": 0})).await).await.0, 403);
    let register = json!({"worker": "x", "incarnation": "1", "labels": ["linux"], "capacity": 1, "version": "0"});
    assert_eq!(code(says(&stand, token, "register", register).await).await.0, 403);
    let runs = stand.anonymous(Method::GET, "/api/v1/runs");
    assert_eq!(runs.bearer_auth(token).send().await.unwrap().status(), 401, "people's API");
    let made_up = format!("sj_{job}_AAAA");
    assert_eq!(
        code(says(&stand, &made_up, &renew, json!({"epoch": 1, "wait_ms": 0})).await).await,
        (409, "stale_epoch".into())
    );

    // given back and claimed again: the old lease's token is nobody's
    let back = json!({"epoch": 1, "steps": [], "log_bytes": 0, "reason": "test"});
    assert_eq!(says(&stand, token, &format!("jobs/{job}/hand-back"), back).await.status(), 200);
    let again = worker.claims().await;
    assert_eq!((of(&again, "job"), &again["epoch"]), (job, &json!(2)));
    for epoch in [1, 2] {
        let late = says(&stand, token, &renew, json!({"epoch": epoch, "wait_ms": 0})).await;
        assert_eq!(code(late).await, (409, "stale_epoch".into()));
    }
    let artifacts = stand.anonymous(Method::GET, &format!("/api/v1/worker/jobs/{job}/artifacts"));
    assert_eq!(artifacts.bearer_auth(token).send().await.unwrap().status(), 409);
    let artifacts = stand.anonymous(Method::GET, &format!("/api/v1/worker/jobs/{job}/artifacts"));
    assert_eq!(artifacts.bearer_auth(of(&again, "token")).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workers_token_speaks_for_its_own_workers_and_labels_and_can_be_taken_back() {
    let stand = Stand::start().await;
    stand.push("one", &[(FILE, PIPELINE)]).await;
    stand.settled("one").await;
    let worker = Worker::with_new_token(&stand, "builder", json!(["linux"])).await;
    let other = Worker::with_new_token(&stand, "other", Value::Null).await;
    let twice = stand.admin(Method::POST, "/api/v1/worker-tokens").json(&json!({"name": "builder"}));
    assert_eq!(twice.send().await.unwrap().status(), 409);

    let refused = worker.registers(&["linux", "gpu"]).await;
    assert_eq!(refused.status(), 422);
    assert!(refused.text().await.unwrap().contains("may not offer the label `gpu`"));
    let refused = worker.registers(&["linux", "gpu:2x81559"]).await;
    assert!(refused.text().await.unwrap().contains("may not offer the label `gpu:2x81559`"), "nor GPUs");
    assert_eq!(code(worker.asks().await).await, (409, "stale_worker".into()));
    assert_eq!(worker.registers(&["linux"]).await.status(), 200);
    assert_eq!(other.registers(&["linux"]).await.status(), 200);
    // under another's name
    let thief = Worker { stand: &stand, token: other.token.clone(), name: "builder" };
    assert_eq!(code(thief.asks().await).await, (409, "stale_worker".into()));
    let body = json!({"worker": "builder", "incarnation": "2", "labels": ["linux"], "capacity": 5, "version": "0"});
    assert_eq!(thief.says("register", body).await.status(), 422);

    let claim = worker.claims().await;
    let renew = format!("jobs/{}/renew", of(&claim, "job"));
    assert_eq!(code(other.says(&renew, json!({"epoch": 1, "wait_ms": 0})).await).await.0, 403);
    assert_eq!(worker.says(&renew, json!({"epoch": 1, "wait_ms": 0})).await.status(), 200);
    let shown = stand.get("/api/v1/workers").await;
    assert_eq!(shown["items"][0]["token"], "builder");
    assert_eq!(shown["items"][0]["holds"][0]["key"], "test");

    let revoked = stand.admin(Method::DELETE, "/api/v1/worker-tokens/builder").send().await.unwrap();
    assert_eq!(revoked.json::<Value>().await.unwrap()["workers"], json!(["builder"]));
    assert_eq!(worker.asks().await.status(), 401);
    assert_eq!(worker.registers(&["linux"]).await.status(), 401);
    let late = says(&stand, of(&claim, "token"), &renew, json!({"epoch": 1, "wait_ms": 0})).await;
    assert_eq!(code(late).await, (409, "stale_epoch".into()));
    assert_eq!(stand.get("/api/v1/workers").await["items"][0]["status"], "revoked");
    // its job is another's now
    let claim = other.claims().await;
    assert_eq!(claim["epoch"], 2);
    let listed = stand.get("/api/v1/worker-tokens").await.to_string();
    assert!(!listed.contains(&worker.token) && !listed.contains(&other.token), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_drains_ends_what_it_has_and_takes_nothing_new() {
    let mut stand = Stand::start().await;
    stand.push("one", &[(FILE, TWO_JOBS)]).await;
    stand.settled("one").await;
    let claim = stand.claim().await.unwrap();
    let drain = stand.admin(Method::PUT, "/api/v1/workers/w1/drain").json(&()).send().await.unwrap();
    assert_eq!(drain.status(), 204);
    let config = stand.stop().await;
    stand.serve(config).await;
    assert_eq!(stand.claim().await, None, "it drains, also after a restart of the server");
    let shown = stand.get("/api/v1/workers").await;
    assert_eq!(shown["items"][0]["status"], "draining");
    assert_eq!(shown["items"][0]["holds"][0]["job"], claim["job"]);

    // what it has begun it goes on with: nobody else has the workspace
    let steps = json!([{"index": 0, "name": "x", "status": "succeeded"}]);
    let back = json!({"epoch": 1, "next_step": 1, "steps": steps, "log_bytes": 0, "reason": "test"});
    let path = format!("/api/v1/worker/jobs/{}/hand-back", of(&claim, "job"));
    let answer = stand.worker(Method::POST, &path).json(&back).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let again = stand.claim().await.unwrap();
    assert_eq!((&again["job"], &again["epoch"]), (&claim["job"], &json!(2)));
    assert_eq!(stand.claim().await, None);

    assert_eq!(stand.admin(Method::DELETE, "/api/v1/workers/w1/drain").send().await.unwrap().status(), 204);
    assert!(stand.claim().await.is_some(), "it takes work again");
    let stranger = stand.admin(Method::PUT, "/api/v1/workers/nobody/drain").json(&()).send().await.unwrap();
    assert_eq!(stranger.status(), 404);
}
