-- What servers that share a database keep in it. Logs: where each ends and who writes it, and its chunks, which lie end to end.
CREATE TABLE log_ends (
    job_id TEXT   NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    epoch  BIGINT NOT NULL,
    bytes  BIGINT NOT NULL
);
CREATE TABLE log_chunks (
    job_id  TEXT   NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    start   BIGINT NOT NULL,
    content BYTEA  NOT NULL,
    PRIMARY KEY (job_id, start)
);

-- The server that took a delivery plans it; another one does after a while. NULL: there is one server.
ALTER TABLE deliveries ADD COLUMN server BIGINT;

-- What all servers have in common: who they are together, and the tokens and secrets that open them, sealed.
CREATE TABLE shared (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
