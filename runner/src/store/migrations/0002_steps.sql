-- What steps say, and what they keep between runs.

ALTER TABLE steps ADD COLUMN annotations_json TEXT;          -- Vec<Annotation>; NULL: none
ALTER TABLE steps ADD COLUMN summary_bytes BIGINT NOT NULL DEFAULT 0;

-- What steps wrote into $SEGUE_STEP_SUMMARY, masked.
CREATE TABLE step_summaries (
    job_id   TEXT   NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    text     TEXT   NOT NULL,
    PRIMARY KEY (job_id, position)
);

-- Until when an artifact is kept, where its step said so.
ALTER TABLE artifacts ADD COLUMN expires_at BIGINT;
CREATE INDEX artifacts_expiring ON artifacts (expires_at) WHERE expires_at IS NOT NULL;

-- Caches, by what may read them: the ref that made them, and whether its code was the repository's own. A key stays as it is.
CREATE TABLE caches (
    repository TEXT   NOT NULL,
    scope      TEXT   NOT NULL,               -- the ref
    trusted    BIGINT NOT NULL,
    version    TEXT   NOT NULL,               -- digest of the paths
    cache_key  TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    bytes      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL,
    PRIMARY KEY (repository, scope, trusted, version, cache_key)
);
CREATE INDEX caches_by_use ON caches (repository, used_at);
CREATE INDEX caches_of_digest ON caches (digest);
