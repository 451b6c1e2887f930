// Panel: what a person waits for: the first audio of a turn, and the first items before it.
central.drawFirstAudio = function () {
  "use strict";
  var c = central, el = c.el, t = c.data.telemetry, firsts = (t && t.firsts) || [], place = c.body("first-audio");
  place.replaceChildren();
  if (!firsts.length) {
    place.append(t ? c.empty("No stream has been read in ", { command: t.store }, ". ", c.run("stageflow run PIPELINE --telemetry FILE.db"), " records a turn.") : c.noTelemetry());
    return;
  }
  place.append(c.origin(t), el("p", { class: "quiet" }, "First audio is timed from the start of the turn, the first item of a stream from the start of its stage."));
  c.durations(place, t, {
    rows: firsts, caption: "Running pipelines", columns: ["First", "Times"], what: "Time to first", state: "first",
    named: function (row) { return row.pipeline + (row.stage ? " · " + row.stage + " → " + row.stream : " (first audio)"); },
  });
};
