// Panel: how long stages and turns take: percentiles beside budgets, a heat map over time, single runs.
central.drawLatency = function () {
  "use strict";
  var c = central, el = c.el, t = c.data.telemetry, place = c.body("latency");
  place.replaceChildren();
  var stages = ((t && t.stages) || []).filter(function (s) { return s.percentiles[0] !== null; });
  if (stages.length) running(); else place.append(c.noTelemetry());
  benchmarks();

  function running() {
    var chosen = stages.find(function (s) { return c.key(s) === c.state.latency; }) || stages[0];
    var holder = el("div", {}), rows = el("div", {}), runs = el("div", {});
    place.append(c.origin(t), rows, holder, runs);
    pick(chosen);

    function pick(stage) {
      c.state.latency = c.key(stage);
      rows.replaceChildren(c.table("Running pipelines, " + c.stretch(t) + "; choose a row to draw it", [["Stage"], ["Ended", true], ["P50", true], ["P95", true], ["P99", true], ["Budget P50", true], ["Budget P99", true], ["Stands"]],
        stages.map(function (s) {
          var p = s.percentiles, b = s.budget, ended = (s.outcomes.completed || 0) + (s.outcomes.failed || 0);
          var bad = b && (p[0] > b.p50 || (b.p99 !== null && p[2] > b.p99));
          var row = [el("button", { type: "button", class: "plain", onclick: function () { pick(s); } }, c.named(s)), c.count(ended), c.number(p[0], "ms"), c.number(p[1], "ms"), c.number(p[2], "ms"),
            b ? c.number(b.p50, "ms") : "–", b && b.p99 !== null ? c.number(b.p99, "ms") : "–",
            b ? el("span", { class: bad ? "bad-text" : "good-text" }, bad ? "✗ over" : "✓ within") : "–"];
          row.chosen = s === stage;
          return row;
        }), true));
      drawHeat(stage);
      drawRuns(stage.pipeline);
    }

    function drawHeat(stage) {
      var readout = el("p", { class: "readout", role: "status" }), data = c.byStep(t, stage.by_step, 3), heat = stage.heat;
      var counts = new Map();
      for (var n = 0; n < heat.cells.length; n += 3) counts.set(heat.cells[n], (counts.get(heat.cells[n]) || 0) + heat.cells[n + 2]);
      var budget = stage.budget && stage.budget.p99;
      if (budget) data.push(data[0].map(function () { return budget; }));
      var chart = c.charts.draw({
        label: "Latency of " + c.named(stage) + ", P50 " + c.number(stage.percentiles[0], "ms") + ", P95 " + c.number(stage.percentiles[1], "ms") + ", P99 " + c.number(stage.percentiles[2], "ms") + ".",
        data: data, height: 300, range: [t.start_s, t.start_s + t.steps * t.step_s], least: 4 * t.step_s,
        options: function () {
          return {
            scales: { x: { range: c.charts.whole(t.start_s, t.start_s + t.steps * t.step_s) },
              y: { distr: 3, range: function () { var top = heat.bounds_ms[heat.bounds_ms.length - 1]; return [heat.bounds_ms[0], budget ? Math.max(top, Math.min(budget * 1.2, top * 30)) : top]; } } },
            axes: [c.charts.timeAxis(t.steps * t.step_s), c.charts.axis({ size: c.charts.wide, splits: c.charts.powers, filter: function (u, splits) { return splits; }, values: function (u, splits) { return splits.map(function (v) { return v === null ? null : c.number(v, "ms"); }); } })],
            series: [{}].concat(["p50", "p95", "p99"].map(function (p) { return { stroke: c.color(p), width: 2, spanGaps: false, points: { show: data[0].length < 30, size: 5 } }; }), budget ? [{ stroke: c.color("bad"), width: 1.5, dash: [6, 4], points: { show: false } }] : []),
            hooks: { drawAxes: [function (u) { cells(u, heat); }] },
          };
        },
        onpoint: tell,
      });
      holder.replaceChildren(el("h3", {}, "Over time: " + c.named(stage)),
        c.legend([{ text: "P50", color: "var(--p50)" }, { text: "P95", color: "var(--p95)" }, { text: "P99", color: "var(--p99)" }].concat(budget ? [{ text: "budget of P99, " + c.number(budget, "ms"), color: "var(--bad)", class: "dash" }] : [], [{ text: "so many took that long: the darker, the more", class: "block heat" }])),
        chart.figure, readout,
        c.behind("The numbers, step by step", function () {
          return c.table("", [["From"], ["Ended", true], ["P50", true], ["P95", true], ["P99", true]], stage.by_step.map(function (row) {
            return [c.date(t.start_s + row[0] * t.step_s), c.count(counts.get(row[0]) || 0)].concat(row.slice(1).map(function (v) { return c.number(v, "ms"); }));
          }).reverse(), true);
        }));
      chart.start();
      c.state.heat = chart;
      if (stage.by_step.length) tell(chart.data[0].length - 1);

      function tell(index) {
        var step = Math.round((chart.data[0][index] - t.start_s) / t.step_s - 0.5), d = chart.data;
        readout.replaceChildren(c.time(t.start_s + step * t.step_s), " + " + c.span(t.step_s) + ": ", el("b", {}, "P50 " + c.number(d[1][index], "ms") + ", P95 " + c.number(d[2][index], "ms") + ", P99 " + c.number(d[3][index], "ms")), " of " + c.count(counts.get(step) || 0));
      }
    }

    function cells(u, heat) {
      var ctx = u.ctx, most = 0, rgb = c.color("heat");
      for (var n = 2; n < heat.cells.length; n += 3) most = Math.max(most, heat.cells[n]);
      ctx.save();
      ctx.beginPath();
      ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      ctx.clip();
      for (n = 0; n < heat.cells.length; n += 3) {
        var from = t.start_s + heat.cells[n] * t.step_s, row = heat.cells[n + 1];
        if (from + t.step_s < u.scales.x.min || from > u.scales.x.max) continue;
        var left = Math.round(u.valToPos(from, "x", true)), right = Math.round(u.valToPos(from + t.step_s, "x", true));
        var low = Math.round(u.valToPos(heat.bounds_ms[row], "y", true)), high = Math.round(u.valToPos(heat.bounds_ms[row + 1], "y", true));
        // By logarithm: one slow run among a thousand is to be seen.
        ctx.fillStyle = "rgba(" + rgb + "," + (0.1 + 0.6 * Math.log1p(heat.cells[n + 2]) / Math.log1p(most)).toFixed(3) + ")";
        ctx.fillRect(left, high, Math.max(1, right - left), Math.max(1, low - high));
      }
      ctx.restore();
    }

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
    if (!measured.length) { place.append(c.empty("No benchmark with enough samples for percentiles has been measured. ", c.run("make bench"), " measures them.")); return; }
    place.append(c.table("Newest measured commit; choose a row to draw its history", [["Kernel or operation"], ["P50", true], ["P95", true], ["P99", true], ["Budget P50", true], ["Budget P99", true], ["Stands"]],
      measured.map(function (s) {
        var b = s.budget, p = s.percentiles, bad = b && (p[0] > b.p50 || (b.p99 !== null && p[2] > b.p99));
        return [el("button", { type: "button", class: "plain", onclick: function () { c.commits.show(s.name); location.hash = "history"; } }, c.name(s.name)), c.number(p[0], s.unit), c.number(p[1], s.unit), c.number(p[2], s.unit),
          b ? c.number(b.p50, s.unit) : "–", b && b.p99 !== null ? c.number(b.p99, s.unit) : "–", b ? el("span", { class: bad ? "bad-text" : "good-text" }, bad ? "✗ over" : "✓ within") : "–"];
      }), measured.length > 12));
  }
};
// What the panels of running pipelines share.
central.key = function (s) { return s.pipeline + "\n" + s.stage; };
central.named = function (s) { return s.pipeline + (s.stage ? " · " + s.stage : " (whole turn)"); };
central.stretch = function (t) { return central.date(t.start_s) + " to " + central.date(t.start_s + t.steps * t.step_s) + ", in steps of " + central.span(t.step_s); };
central.origin = function (t) {
  var few = t.sources.slice(0, 3), rest = t.sources.length - few.length;
  return central.el("p", { class: "quiet" }, "From ", central.el("code", {}, t.store), ", written by " + few.join(", ") + (rest ? " and " + rest + " more" : "") + ".");
};
central.noTelemetry = function () {
  return central.empty("There is no telemetry to show. ", central.run("stageflow run voice --telemetry FILE.db"), " records a turn, a SQLiteSink those of a pipeline of your own; ",
    central.run("stageflow pulse build --store FILE.db"), " shows the file here, ", central.run("stageflow pulse serve --store FILE.db"), " shows it live.");
};
// Columns of a chart from rows [step, value, …]; points stand in the middle of their step, and a
// step without a row breaks the line.
central.byStep = function (t, rows, columns) {
  var data = [];
  for (var n = 0; n <= columns; n++) data.push([]);
  var next = rows.length ? rows[0][0] : 0;
  rows.forEach(function (row) {
    if (row[0] > next) { data[0].push(t.start_s + (next + 0.5) * t.step_s); for (var m = 1; m <= columns; m++) data[m].push(null); }
    data[0].push(t.start_s + (row[0] + 0.5) * t.step_s);
    for (m = 1; m <= columns; m++) data[m].push(row[m] === undefined ? null : row[m]);
    next = row[0] + 1;
  });
  return data;
};
