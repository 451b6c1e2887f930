// Panel: how long stages and turns take: percentiles beside budgets, a heat map over time, single runs.
central.drawLatency = function () {
  "use strict";
  var c = central, el = c.el, t = c.data.telemetry, place = c.body("latency");
  place.replaceChildren();
  var stages = ((t && t.stages) || []).filter(function (s) { return s.percentiles[0] !== null; });
  if (stages.length) running(); else place.append(c.noTelemetry());
  benchmarks();

  function running() {
    var runs = el("div", {});
    place.append(c.origin(t));
    c.durations(place, t, {
      rows: stages, named: c.named, caption: "Running pipelines", columns: ["Stage", "Ended"], what: "Latency", state: "latency",
      chosen: function (stage) { drawRuns(stage.pipeline); },
    });
    place.append(runs);

    function drawRuns(pipeline) {
      var found = t.runs.find(function (r) { return r.pipeline === pipeline; });
      runs.replaceChildren();
      if (!found || (!found.typical && !found.slow)) return;
      runs.append(el("h3", {}, "Where a turn's time goes: " + pipeline),
        el("p", { class: "quiet" }, "Strong bars are the critical path: what the turn waited for."),
        el("div", { class: "two" }, oneRun("A typical turn (P50)", found.typical), oneRun("A slow turn (P99)", found.slow)));
    }

    function oneRun(title, run) {
      if (!run) return el("div", {}, el("h4", {}, title), el("p", { class: "empty" }, "Its events have been pruned."));
      var total = run.total_ms || 1;
      return el("div", {}, el("h4", {}, title + ": " + c.number(run.total_ms, "ms") + ", " + run.status),
        el("p", { class: "quiet" }, c.time(run.at_s), " · ", el("code", {}, run.run_id), run.note ? " · " + run.note : ""),
        el("ol", { class: "run" }, run.bars.map(function (bar) {
          var took = bar.end_ms - bar.start_ms, drawn = el("span", { class: "bar" });
          drawn.style.left = 100 * bar.start_ms / total + "%";
          drawn.style.width = Math.max(0, 100 * took / total) + "%";
          return el("li", { class: (bar.critical ? "critical " : "") + bar.status, title: bar.stage + ": " + bar.status + ", from " + c.number(bar.start_ms, "ms") + " on" + (bar.note ? ": " + bar.note : "") },
            el("span", { class: "name" }, bar.stage), el("span", { class: "track", "aria-hidden": "true" }, drawn), el("span", { class: "took" }, (bar.critical ? "● " : "") + (bar.status === "failed" ? "✗ " : "") + c.number(took, "ms")));
        })));
    }
  }

  function benchmarks() {
    var measured = c.data.history.series.filter(function (s) { return s.percentiles; });
    place.append(el("h3", {}, "In the benchmarks"));
    if (!measured.length) { place.append(c.empty("No benchmark with enough samples for percentiles has been measured. ", c.run("stageflow pulse bench"), " measures them.")); return; }
    place.append(c.table("Newest measured commit; choose a row to draw its history", [["Kernel or operation"]].concat(c.budgetColumns),
      measured.map(function (s) {
        var named = el("button", { type: "button", class: "plain", onclick: function () { c.commits.show(s.name); location.hash = "history"; } }, c.name(s.name));
        return [named].concat(c.againstBudget(s.percentiles, s.budget, s.unit));
      }), measured.length > 12));
  }
};
