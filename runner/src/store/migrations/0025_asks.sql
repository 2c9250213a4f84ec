-- What words to a rollout were asked for by, the last of them: one whose answer was lost is asked for again by the same.
ALTER TABLE rollouts ADD COLUMN asks_json TEXT; -- NULL: none yet
