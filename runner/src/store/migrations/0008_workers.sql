-- Tokens of workers, tokens of leases, and workers that take no new work.
ALTER TABLE tokens ADD COLUMN labels TEXT;            -- what its workers may offer, sorted, joined by commas; NULL: anything
ALTER TABLE tokens ADD COLUMN revoked_at BIGINT;
CREATE UNIQUE INDEX tokens_by_name ON tokens (kind, name) WHERE revoked_at IS NULL;
ALTER TABLE workers ADD COLUMN token TEXT;            -- the name of the token that it registered with; NULL: the server's own
ALTER TABLE workers ADD COLUMN draining_since BIGINT; -- NULL: it takes new work
CREATE INDEX workers_of_token ON workers (token) WHERE token IS NOT NULL;
ALTER TABLE jobs ADD COLUMN token_hash TEXT;          -- SHA-256 of the token that the newest lease came with
CREATE INDEX jobs_going_on ON jobs (worker, queued_at) WHERE status = 'queued' AND next_step IS NOT NULL;
