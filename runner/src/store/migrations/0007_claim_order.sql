-- The order of claims: within a set of labels by priority, in each priority from repository to repository, there by age. So each look
-- of a claim is a seek, however much is queued.
DROP INDEX jobs_queued;
CREATE INDEX jobs_queued ON jobs (labels, priority, repository, queued_at, id) WHERE status = 'queued';
