-- An alert is one JSON object, so that it can have further fields.
CREATE TABLE new_alerts (
  source TEXT NOT NULL,
  body TEXT NOT NULL
);

INSERT INTO new_alerts
  SELECT source, json_object(
    'rule', rule, 'labels', json(labels), 'since_s', since_s, 'firing_s', firing_s,
    'ended_s', NULL, 'value', value, 'likely', likely, 'told', told
  ) FROM alerts;
DROP TABLE alerts;
ALTER TABLE new_alerts RENAME TO alerts;
