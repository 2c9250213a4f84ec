-- The whole state of a control plane. TEXT and BIGINT alone, `$1` parameters, no function of one database: the same
-- statements run on SQLite and on PostgreSQL. Times are milliseconds since 1970, UTC; booleans are 0 and 1; a column
-- that ends in _json holds a document of the type that its comment names.

-- Numbers that are given out one after the other.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counters (name, value) VALUES ('delivery', 0), ('run', 0), ('release', 0), ('rollout', 0), ('notification', 0);

-- The inbox: every webhook that was accepted, by GitHub's GUID.
CREATE TABLE deliveries (
    id            TEXT   NOT NULL PRIMARY KEY,
    position      BIGINT NOT NULL UNIQUE,     -- in the order of their acceptance
    event         TEXT   NOT NULL,
    repository    TEXT,
    received_at   BIGINT NOT NULL,
    payload       TEXT,                       -- up to 256 KiB
    payload_file  TEXT,                       -- name below deliveries/, above that
    payload_bytes BIGINT NOT NULL,
    trigger_json  TEXT,                       -- Trigger; NULL for what starts nothing
    state         TEXT   NOT NULL,            -- accepted, planned, ignored, failed
    reason        TEXT,
    tries         BIGINT NOT NULL DEFAULT 0,
    next_try_at   BIGINT NOT NULL DEFAULT 0,
    settled_at    BIGINT
);
CREATE INDEX deliveries_received ON deliveries (received_at);

-- What must still be told to somebody outside this transaction: one bell per row, cleared when it was answered.
CREATE TABLE outbox (
    kind       TEXT   NOT NULL,               -- delivery
    subject    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (kind, subject)
);
CREATE INDEX outbox_age ON outbox (kind, created_at, subject);

-- One run set for each identity of work, however it was learned.
CREATE TABLE work_identities (
    repository    TEXT   NOT NULL,
    event         TEXT   NOT NULL,
    git_ref       TEXT   NOT NULL,
    before_commit TEXT   NOT NULL,
    after_commit  TEXT   NOT NULL,
    delivery_id   TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (repository, event, git_ref, before_commit, after_commit)
);

CREATE TABLE runs (
    id               BIGINT NOT NULL PRIMARY KEY,
    repository       TEXT   NOT NULL,
    pipeline         TEXT   NOT NULL,
    file             TEXT   NOT NULL,
    event            TEXT   NOT NULL,
    git_ref          TEXT   NOT NULL,
    commit_sha       TEXT   NOT NULL,
    title            TEXT   NOT NULL,
    actor            TEXT   NOT NULL,
    trusted          BIGINT NOT NULL,
    status           TEXT   NOT NULL,
    reason           TEXT,
    attempt          BIGINT NOT NULL,
    delivery_id      TEXT,
    trigger_json     TEXT   NOT NULL,         -- Trigger
    env_json         TEXT   NOT NULL,         -- IndexMap<String, String>: env of the pipeline
    diagnostics      TEXT,                    -- as shown to a person, for a pipeline that can't be planned
    cancel_requested BIGINT NOT NULL DEFAULT 0,
    cancelled_by     TEXT,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    ended_at         BIGINT
);
CREATE INDEX runs_of_repository ON runs (repository, id);
CREATE INDEX runs_of_pipeline ON runs (repository, pipeline, git_ref, id);
CREATE INDEX runs_by_age ON runs (ended_at);
CREATE INDEX runs_of_delivery ON runs (delivery_id);

CREATE TABLE attempts (
    run_id       BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    attempt      BIGINT NOT NULL,
    kind         TEXT   NOT NULL,             -- first, whole, failed
    requested_by TEXT   NOT NULL,
    status       TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    started_at   BIGINT,
    ended_at     BIGINT,
    PRIMARY KEY (run_id, attempt)
);

CREATE TABLE jobs (
    id               TEXT   NOT NULL PRIMARY KEY,
    run_id           BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    attempt          BIGINT NOT NULL,
    position         BIGINT NOT NULL,
    job_key          TEXT   NOT NULL,
    name             TEXT   NOT NULL,
    repository       TEXT   NOT NULL,
    labels           TEXT   NOT NULL,         -- sorted, joined by commas
    environment      TEXT,
    priority         BIGINT NOT NULL,
    plan_json        TEXT   NOT NULL,         -- JobPlan
    status           TEXT   NOT NULL,
    reason           TEXT,
    failure_class    TEXT,
    outputs_json     TEXT   NOT NULL DEFAULT '{}',
    epoch            BIGINT NOT NULL DEFAULT 0,
    worker           TEXT,                    -- the last one to hold it
    incarnation      TEXT,
    lease_until      BIGINT,
    deadline         BIGINT,                  -- its worker must have ended it by then; two leases past its time-out
    heard_at         BIGINT,
    tries            BIGINT NOT NULL DEFAULT 0,
    ran_ms           BIGINT NOT NULL DEFAULT 0, -- under leases that have ended
    cancel_requested BIGINT NOT NULL DEFAULT 0,
    next_step        BIGINT,                  -- where it goes on; NULL: from the beginning
    waiting_step     BIGINT,                  -- the step that waits for the rollout
    rollout_id       BIGINT,                  -- what it waits for
    skip_cause       TEXT,                    -- SkipCause: what its skip means for the jobs after it
    carried_from     TEXT,                    -- the job of an earlier attempt whose end this one took over
    created_at       BIGINT NOT NULL,
    queued_at        BIGINT,
    leased_at        BIGINT,
    started_at       BIGINT,
    ended_at         BIGINT,
    UNIQUE (run_id, attempt, job_key)
);
CREATE INDEX jobs_queued ON jobs (labels, repository, priority DESC, queued_at, id) WHERE status = 'queued';
CREATE INDEX jobs_held ON jobs (worker, repository) WHERE status IN ('leased', 'running');
CREATE INDEX jobs_lease ON jobs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX jobs_open ON jobs (status, queued_at) WHERE status IN ('queued', 'waiting', 'recovering');

CREATE TABLE steps (
    job_id       TEXT   NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position     BIGINT NOT NULL,
    name         TEXT   NOT NULL,
    status       TEXT   NOT NULL,
    outcome      TEXT,
    exit_code    BIGINT,
    reason       TEXT,
    outputs_json TEXT   NOT NULL,
    started_at   BIGINT,
    ended_at     BIGINT,
    log_start    BIGINT NOT NULL,
    log_end      BIGINT NOT NULL,
    PRIMARY KEY (job_id, position)
);

-- Where each job's log lies. How long it is, is what its file says while the job runs.
CREATE TABLE logs (
    job_id     TEXT   NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    path       TEXT   NOT NULL,               -- below logs/
    bytes      BIGINT NOT NULL,               -- as last reported by the worker
    created_at BIGINT NOT NULL,
    closed_at  BIGINT,
    removed_at BIGINT
);
CREATE INDEX logs_kept ON logs (closed_at) WHERE removed_at IS NULL;

-- Contents in the artifact store.
CREATE TABLE blobs (
    digest     TEXT   NOT NULL PRIMARY KEY,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL
);

-- Names that the jobs of an attempt gave to contents.
CREATE TABLE artifacts (
    run_id     BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    attempt    BIGINT NOT NULL,
    name       TEXT   NOT NULL,
    job_id     TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, attempt, name)
);
CREATE INDEX artifacts_of_digest ON artifacts (digest);

CREATE TABLE releases (
    id         BIGINT NOT NULL PRIMARY KEY,
    repository TEXT   NOT NULL,
    service    TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    commit_sha TEXT   NOT NULL,
    run_id     BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (repository, service, digest, commit_sha)
);
CREATE INDEX releases_of_digest ON releases (digest);

-- What serves where.
CREATE TABLE current_releases (
    environment TEXT   NOT NULL,
    service     TEXT   NOT NULL,
    release_id  BIGINT NOT NULL REFERENCES releases (id),
    previous_id BIGINT REFERENCES releases (id),
    rollout_id  BIGINT NOT NULL,
    since       BIGINT NOT NULL,
    PRIMARY KEY (environment, service)
);

-- Releases that have served an environment, by the git tag that names each.
CREATE TABLE rollback_points (
    tag         TEXT   NOT NULL PRIMARY KEY,
    environment TEXT   NOT NULL,
    service     TEXT   NOT NULL,
    release_id  BIGINT NOT NULL REFERENCES releases (id),
    rollout_id  BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    tagged      TEXT   NOT NULL DEFAULT 'wanted', -- wanted, done, refused: the git tag in the repository
    tag_error   TEXT,
    UNIQUE (environment, service, release_id)
);
CREATE INDEX rollback_points_newest ON rollback_points (environment, service, created_at);

CREATE TABLE rollouts (
    id           BIGINT NOT NULL PRIMARY KEY,
    environment  TEXT   NOT NULL,
    service      TEXT   NOT NULL,
    repository   TEXT   NOT NULL,
    release_id   BIGINT NOT NULL REFERENCES releases (id),
    digest       TEXT   NOT NULL,
    spec_json    TEXT   NOT NULL,             -- RolloutSpec
    is_rollback  BIGINT NOT NULL,
    requested_by TEXT   NOT NULL,
    run_id       BIGINT,
    job_id       TEXT,
    step         BIGINT,
    status       TEXT   NOT NULL,
    active       BIGINT NOT NULL,             -- 1 from its first claim to its end: it holds the slot of its pair
    weight       BIGINT NOT NULL DEFAULT 0,
    stage        BIGINT NOT NULL DEFAULT 0,
    reason       TEXT,
    verdict_json TEXT,
    state_json   TEXT,
    epoch        BIGINT NOT NULL DEFAULT 0,
    worker       TEXT,
    incarnation  TEXT,
    lease_until  BIGINT,
    heard_at     BIGINT,
    not_before   BIGINT NOT NULL DEFAULT 0,   -- not claimable earlier
    command      TEXT,                        -- RolloutCommand
    command_by   TEXT,
    created_at   BIGINT NOT NULL,
    started_at   BIGINT,
    ended_at     BIGINT,
    UNIQUE (job_id, step)
);
-- One mutator per environment and service.
CREATE UNIQUE INDEX rollouts_slot ON rollouts (environment, service) WHERE active = 1;
CREATE INDEX rollouts_open ON rollouts (environment, service, is_rollback DESC, id) WHERE ended_at IS NULL;
CREATE INDEX rollouts_lease ON rollouts (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX rollouts_of_pair ON rollouts (environment, service, id);
CREATE INDEX rollouts_of_digest ON rollouts (digest, environment);

CREATE TABLE rollout_journal (
    rollout_id  BIGINT NOT NULL REFERENCES rollouts (id) ON DELETE CASCADE,
    sequence    BIGINT NOT NULL,
    epoch       BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    kind        TEXT   NOT NULL,
    host        TEXT,
    detail_json TEXT   NOT NULL,
    PRIMARY KEY (rollout_id, sequence)
);

-- The highest epoch given out per pair; it rises over all rollouts of the pair and never falls.
CREATE TABLE epochs (
    environment TEXT   NOT NULL,
    service     TEXT   NOT NULL,
    epoch       BIGINT NOT NULL,
    PRIMARY KEY (environment, service)
);

-- A person's yes, for one run at one commit; environment '' is the yes to run foreign code at all.
CREATE TABLE approvals (
    run_id      BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    environment TEXT   NOT NULL,
    commit_sha  TEXT   NOT NULL,
    approver    TEXT   NOT NULL,
    at          BIGINT NOT NULL,
    PRIMARY KEY (run_id, environment, commit_sha, approver)
);

CREATE TABLE workers (
    id            TEXT   NOT NULL PRIMARY KEY,
    incarnation   TEXT   NOT NULL,
    labels        TEXT   NOT NULL,
    capacity      BIGINT NOT NULL,
    version       TEXT   NOT NULL,
    registered_at BIGINT NOT NULL,
    heard_at      BIGINT NOT NULL
);

-- Bearer tokens, by the SHA-256 of the token; the token itself is nowhere here.
CREATE TABLE tokens (
    hash       TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL,
    kind       TEXT   NOT NULL,               -- admin, worker
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

-- Ciphertexts alone; the key lies outside the data directory.
CREATE TABLE secrets (
    repository  TEXT   NOT NULL,              -- '': all repositories
    environment TEXT   NOT NULL,              -- '': every job of the repository
    name        TEXT   NOT NULL,
    sealed      TEXT   NOT NULL,              -- base64 of nonce and ciphertext
    updated_by  TEXT   NOT NULL,
    updated_at  BIGINT NOT NULL,
    PRIMARY KEY (repository, environment, name)
);

-- What people are to be told; one row for each thing that happened.
CREATE TABLE notifications (
    id          BIGINT NOT NULL PRIMARY KEY,
    event       TEXT   NOT NULL,              -- NotificationEvent
    dedupe_key  TEXT   NOT NULL UNIQUE,
    run_id      BIGINT,
    rollout_id  BIGINT,
    detail_json TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    told_json   TEXT   NOT NULL DEFAULT '[]', -- names of the receivers that have it
    tries       BIGINT NOT NULL DEFAULT 0,
    next_try_at BIGINT NOT NULL,
    done_at     BIGINT,
    error       TEXT
);
CREATE INDEX notifications_due ON notifications (next_try_at) WHERE done_at IS NULL;
