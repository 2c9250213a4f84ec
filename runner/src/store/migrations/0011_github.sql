-- What GitHub is to be told of: a row for each run, whose version rises in the transaction of every change of the run.
CREATE TABLE github_runs (
    run_id      BIGINT NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    version     BIGINT NOT NULL,
    shown       BIGINT NOT NULL DEFAULT 0,    -- the version that GitHub shows
    next_try_at BIGINT NOT NULL,
    taken_until BIGINT NOT NULL DEFAULT 0,    -- a server is at it until then
    tries       BIGINT NOT NULL DEFAULT 0,
    error       TEXT
);
CREATE INDEX github_runs_due ON github_runs (next_try_at) WHERE version > shown;

-- Pipelines that a filter left out of a change, which GitHub is to be told of too.
CREATE TABLE github_left_out (
    repository  TEXT   NOT NULL,
    commit_sha  TEXT   NOT NULL,
    file        TEXT   NOT NULL,
    pipeline    TEXT   NOT NULL,
    reason      TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    next_try_at BIGINT NOT NULL,
    tries       BIGINT NOT NULL DEFAULT 0,
    told_at     BIGINT,
    error       TEXT,
    PRIMARY KEY (repository, commit_sha, file)
);
CREATE INDEX github_left_out_due ON github_left_out (next_try_at) WHERE told_at IS NULL;
CREATE INDEX github_left_out_age ON github_left_out (created_at);

-- What GitHub shows: a row for each check of an attempt, written before GitHub is asked to make it.
CREATE TABLE github_checks (
    run_id      BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    attempt     BIGINT NOT NULL,
    job_key     TEXT   NOT NULL,              -- '': the pipeline
    check_id    BIGINT,                       -- GitHub's number; NULL: not known yet, or it is a status
    shown       TEXT   NOT NULL DEFAULT '',   -- digest of what it shows
    annotations BIGINT NOT NULL DEFAULT 0,    -- how many of them it has
    PRIMARY KEY (run_id, attempt, job_key)
);
CREATE INDEX github_checks_of_id ON github_checks (check_id) WHERE check_id IS NOT NULL;
