-- Rollouts that GitHub shows as deployments: a row for each, whose version rises in the transaction of every change of the rollout.
CREATE TABLE github_deployments (
    rollout_id    BIGINT NOT NULL PRIMARY KEY REFERENCES rollouts (id) ON DELETE CASCADE,
    version       BIGINT NOT NULL,
    shown         BIGINT NOT NULL DEFAULT 0,    -- the version that GitHub shows
    deployment_id BIGINT,                       -- GitHub's number; NULL: not known yet
    announced     BIGINT NOT NULL DEFAULT 0,    -- 1: it may be there already
    told          TEXT   NOT NULL DEFAULT '',   -- digest of its newest status
    next_try_at   BIGINT NOT NULL,
    taken_until   BIGINT NOT NULL DEFAULT 0,    -- a server is at it until then
    tries         BIGINT NOT NULL DEFAULT 0,
    error         TEXT
);
CREATE INDEX github_deployments_due ON github_deployments (next_try_at) WHERE version > shown;
