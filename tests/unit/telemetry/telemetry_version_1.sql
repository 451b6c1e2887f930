BEGIN TRANSACTION;
CREATE TABLE breaker_changes (
  id INTEGER PRIMARY KEY,
  at_s REAL NOT NULL,
  provider TEXT NOT NULL,
  source TEXT NOT NULL,
  before TEXT NOT NULL,
  after TEXT NOT NULL,
  reason TEXT NOT NULL,
  pipeline TEXT NOT NULL,
  stage TEXT NOT NULL,
  run_id TEXT NOT NULL
);
CREATE TABLE dead_letters (
  letter_id TEXT PRIMARY KEY,
  at_s REAL NOT NULL,
  pipeline TEXT NOT NULL,
  run_id TEXT NOT NULL,
  failed_stage TEXT,
  provider TEXT,
  error_code TEXT NOT NULL,
  replayed_s REAL,
  replay_run_id TEXT
);
CREATE TABLE events (
  run INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  kind INTEGER NOT NULL,
  offset_ms REAL NOT NULL,
  duration_ms REAL,
  error_code TEXT,
  detail TEXT,
  PRIMARY KEY (run, sequence)
) WITHOUT ROWID;
INSERT INTO "events" VALUES(1,1,1,0.0,NULL,NULL,'{"pipeline":"p","correlation_id":null}');
INSERT INTO "events" VALUES(1,2,2,0.0,NULL,NULL,NULL);
INSERT INTO "events" VALUES(1,3,3,0.0,0.0,'boom','{"error_message":"it was boom"}');
INSERT INTO "events" VALUES(1,4,4,0.0,0.0,'boom','{"error_message":"it was boom","failed_stage":"a"}');
CREATE TABLE kinds (
  id INTEGER PRIMARY KEY,
  type TEXT NOT NULL UNIQUE,
  stage TEXT
);
INSERT INTO "kinds" VALUES(1,'pipeline.started',NULL);
INSERT INTO "kinds" VALUES(2,'stage.a.started','a');
INSERT INTO "kinds" VALUES(3,'stage.a.failed','a');
INSERT INTO "kinds" VALUES(4,'pipeline.failed',NULL);
CREATE TABLE rollups (
  span_s INTEGER NOT NULL,
  start_s INTEGER NOT NULL,
  series INTEGER NOT NULL,
  bucket INTEGER NOT NULL,
  count INTEGER NOT NULL,
  run INTEGER NOT NULL,
  PRIMARY KEY (span_s, start_s, series, bucket)
) WITHOUT ROWID;
INSERT INTO "rollups" VALUES(60,1767268800,1,0,1,1);
INSERT INTO "rollups" VALUES(60,1767268800,2,0,1,1);
INSERT INTO "rollups" VALUES(3600,1767268800,1,0,1,1);
INSERT INTO "rollups" VALUES(3600,1767268800,2,0,1,1);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  pipeline TEXT NOT NULL,
  source TEXT NOT NULL,
  started_s REAL NOT NULL,
  status TEXT NOT NULL,
  duration_ms REAL,
  failed_stage TEXT,
  error_code TEXT
);
INSERT INTO "runs" VALUES(1,'kept','p','here',1767268800.0,'failed',0.0,'a','boom');
CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  pipeline TEXT NOT NULL,
  stage TEXT NOT NULL,
  outcome TEXT NOT NULL,
  error_code TEXT NOT NULL,
  UNIQUE (pipeline, stage, outcome, error_code)
);
INSERT INTO "series" VALUES(1,'p','a','failed','boom');
INSERT INTO "series" VALUES(2,'p','','failed','boom');
CREATE INDEX runs_by_run_id ON runs (run_id);
CREATE INDEX runs_by_start ON runs (started_s);
CREATE INDEX breaker_changes_by_time ON breaker_changes (at_s);
CREATE INDEX breaker_changes_by_breaker ON breaker_changes (provider, source, at_s);
CREATE INDEX dead_letters_by_time ON dead_letters (at_s);
CREATE INDEX dead_letters_waiting ON dead_letters (at_s) WHERE replayed_s IS NULL;
CREATE VIEW stage_events AS
  SELECT runs.run_id, runs.pipeline, kinds.stage, kinds.type, events.sequence,
    runs.started_s + events.offset_ms / 1000.0 AS at_s,
    events.duration_ms, events.error_code, events.detail
  FROM events JOIN runs ON runs.id = events.run JOIN kinds ON kinds.id = events.kind
  WHERE kinds.stage IS NOT NULL;
COMMIT;
