-- Whether the failure of the step that waits for a rollout is allowed, as the worker found when it began to wait. NULL: as planned.
ALTER TABLE jobs ADD COLUMN waiting_may_fail BIGINT;
