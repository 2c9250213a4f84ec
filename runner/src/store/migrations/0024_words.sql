-- A person's word to a rollout has a number: told again it is the same word, and counts once.
ALTER TABLE rollouts ADD COLUMN word BIGINT; -- of `command`; NULL: it was said before words had numbers
INSERT INTO counters (name, value) VALUES ('word', 0);
