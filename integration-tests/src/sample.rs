//! The repository of the stories: a service that says its version, with the pipeline that takes it to production.

/// The pipeline from test to production.
pub const PIPELINE: &str = r#"name: release
on:
  push:
    branches: [main]
jobs:
  test:
    runs-on: [linux]
    steps:
      - uses: segue/checkout
      - run: '"$SAMPLE_SERVICE" sample-service --config service.yml --check'
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
  build:
    needs: [test]
    runs-on: [linux]
    steps:
      - uses: segue/checkout
      - run: |
          mkdir dist
          cp service.yml dist/
          cp "$SAMPLE_SERVICE" dist/sample-service
        env:
          SAMPLE_SERVICE: ${{ vars.SAMPLE_SERVICE }}
      - uses: segue/upload-artifact
        with: {name: api, path: dist}
  staging:
    needs: [build]
    runs-on: [linux]
    environment: staging
    steps:
      - uses: segue/checkout
      - uses: segue/deploy
        with: {service: api, artifact: api}
  production:
    needs: [staging]
    runs-on: [linux]
    environment: production
    steps:
      - uses: segue/checkout
      - uses: segue/canary
        with:
          service: api
          artifact: api
          stages: "10,50,100"
          stage-duration: STAGE
          min-requests: "20"
"#;

/// The service's own file. Short times, so that stories are short.
pub const SERVICE: &str = r#"command: [./sample-service, sample-service, --config, service.yml]
health: {path: /healthz, tries: 100, interval: 100ms, timeout: 2s}
warm-up: [{path: /healthz, count: 3}]
drain: 10s
keep-warm: 60s
"#;

/// The service as a container, which notes in a volume which release was begun, and no more of its file.
pub const NOTING: &str = r#"command:
  - sh
  - -c
  - echo $SEGUE_RELEASE >> /kept/orders; exec /app/sample-service sample-service --config /app/service.yml --address 0.0.0.0
container: {port: 8000, volumes: ["kept:/kept"]}
resources: {memory: 256MiB, pids: 100}
health: {path: /healthz, tries: 100, interval: 100ms, timeout: 2s}
drain: 10s
"#;

/// How what it notes is backed up in staging.
pub const NOTES_KEPT: &str = r#"backup:
  run: cat /kept/orders > $SEGUE_BACKUP_FILE
  restore: cat > /kept/new; mv /kept/new /kept/orders
  environments: [staging]
"#;

/// The host name by which the proxy knows the service in an environment.
#[must_use]
pub fn host_name(environment: &str) -> String {
    format!("api.{environment}.localhost")
}

/// The pipeline with stages of the given duration, such as `1s`.
#[must_use]
pub fn pipeline(stage_duration: &str) -> String {
    PIPELINE.replace("STAGE", stage_duration)
}

/// The pipeline that deploys to production with these inputs, such as `strategy: rolling, pause: 1s`.
#[must_use]
pub fn deployed(inputs: &str) -> String {
    let (before, _) = PIPELINE.rsplit_once("      - uses: segue/canary").unwrap_or_default();
    format!("{before}      - uses: segue/deploy\n        with: {{service: api, artifact: api, {inputs}}}\n")
}

/// A pipeline that brings the service to staging at once, by `segue/deploy` or `segue/canary` with further inputs, such as `strategy: rolling`.
#[must_use]
pub fn to_staging(action: &str, inputs: &str) -> String {
    let inputs: String = if inputs.is_empty() { String::new() } else { format!(", {inputs}") };
    format!(
        r#"on: push
jobs:
  staging:
    environment: staging
    steps:
      - uses: segue/checkout
      - run: mkdir dist; cp service.yml dist/; cp "$SAMPLE_SERVICE" dist/sample-service
        env: {{ SAMPLE_SERVICE: "${{{{ vars.SAMPLE_SERVICE }}}}" }}
      - uses: {action}
        with: {{ service: api, path: dist{inputs} }}
"#
    )
}

/// A version of the service; `failing` is the share of production's requests that it fails.
#[must_use]
pub fn service_yml(version: &str, failing: f64) -> String {
    format!("version: \"{version}\"\nlatency: 1ms\nfail-share: {{production: {failing}}}\n")
}
