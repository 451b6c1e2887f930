CREATE TABLE evaluated (
  source TEXT PRIMARY KEY,
  until_s REAL NOT NULL
);

CREATE TABLE alerts (
  source TEXT NOT NULL,
  rule TEXT NOT NULL,
  labels TEXT NOT NULL,
  since_s REAL NOT NULL,
  firing_s REAL,
  value REAL NOT NULL,
  likely TEXT NOT NULL,
  told INTEGER NOT NULL,
  PRIMARY KEY (source, rule, labels)
);

-- AUTOINCREMENT never gives an id twice: it is part of the message.
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  channel TEXT NOT NULL,
  body TEXT NOT NULL,
  created_s REAL NOT NULL,
  attempts INTEGER NOT NULL,
  due_s REAL NOT NULL,
  dead INTEGER NOT NULL,
  error TEXT NOT NULL
);
