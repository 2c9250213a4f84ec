-- Pull requests as they were last told of, by webhooks or when GitHub was asked: the newest word of each, whenever it came.
CREATE TABLE pulls (
    repository TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    open       BIGINT NOT NULL,
    head       TEXT   NOT NULL,
    before     TEXT,                          -- the head before, where that was told
    reopened   BIGINT NOT NULL,               -- 1: the word was that it was opened again
    updated_at BIGINT NOT NULL,               -- by GitHub's clock
    heard_at   BIGINT NOT NULL,
    PRIMARY KEY (repository, number)
);
CREATE INDEX pulls_age ON pulls (heard_at);

-- Their previews: each is a service of its own in the environment `preview`, under its name.
CREATE TABLE previews (
    name       TEXT   NOT NULL PRIMARY KEY,
    repository TEXT   NOT NULL,
    number     BIGINT NOT NULL,
    service    TEXT   NOT NULL,
    state      TEXT   NOT NULL,
    url        TEXT   NOT NULL,
    fork       BIGINT NOT NULL,
    commit_sha TEXT,                          -- what serves; NULL: nothing did yet
    run_id     BIGINT,                        -- the run that asked for it last
    rollout_id BIGINT,                        -- the newest rollout
    reason     TEXT,
    created_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL,               -- the newest push, or the last that was known to use it
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX previews_of_pull ON previews (repository, number, service);
CREATE INDEX previews_there ON previews (expires_at) WHERE state <> 'gone';

-- The comment below each pull request that tells of its previews.
CREATE TABLE github_previews (
    repository  TEXT   NOT NULL,
    number      BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    shown       BIGINT NOT NULL DEFAULT 0,    -- the version that GitHub shows
    comment_id  BIGINT,                       -- GitHub's number; NULL: not known yet
    announced   BIGINT NOT NULL DEFAULT 0,    -- 1: it may be there already
    told        TEXT   NOT NULL DEFAULT '',   -- digest of what it says
    next_try_at BIGINT NOT NULL,
    taken_until BIGINT NOT NULL DEFAULT 0,    -- a server is at it until then
    tries       BIGINT NOT NULL DEFAULT 0,
    error       TEXT,
    PRIMARY KEY (repository, number)
);
CREATE INDEX github_previews_due ON github_previews (next_try_at) WHERE version > shown;
