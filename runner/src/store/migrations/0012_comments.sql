-- Commands that people wrote below pull requests: what is to be done of each, and what GitHub is to be told came of it.
CREATE TABLE github_comments (
    repository  TEXT   NOT NULL,
    comment_id  BIGINT NOT NULL,
    number      BIGINT NOT NULL,              -- of the pull request
    author      TEXT   NOT NULL,
    asks_json   TEXT   NOT NULL,              -- the command, or why it can't be read
    written_at  BIGINT NOT NULL,              -- by GitHub's clock
    delivery_id TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    awaits      TEXT,                         -- the delivery that it made, of which the outcome is not known yet
    verdict     TEXT,                         -- how it ended; NULL: not done yet
    outcome     TEXT,                         -- in words
    announced   BIGINT NOT NULL DEFAULT 0,    -- 1: its answer may be there already
    next_try_at BIGINT NOT NULL,
    tries       BIGINT NOT NULL DEFAULT 0,
    told_at     BIGINT,
    error       TEXT,
    PRIMARY KEY (repository, comment_id)
);
CREATE INDEX github_comments_due ON github_comments (next_try_at) WHERE told_at IS NULL;
CREATE INDEX github_comments_age ON github_comments (created_at);
