-- Adds series of streams. SQLite can change a UNIQUE constraint only with a new table. The default
-- lets processes that still write version 1 go on.

CREATE TABLE new_series (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  stage TEXT NOT NULL,
  stream TEXT NOT NULL DEFAULT '',
  outcome TEXT NOT NULL,
  error_code TEXT NOT NULL,
  UNIQUE (pipeline, stage, stream, outcome, error_code)
);

INSERT INTO new_series
  SELECT id, pipeline, stage, '', outcome, error_code FROM series ORDER BY id;

DROP TABLE series;
ALTER TABLE new_series RENAME TO series;
