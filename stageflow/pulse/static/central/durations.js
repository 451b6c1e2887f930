// What panels of durations share: a table of percentiles beside budgets, and one of its rows over
// time, as lines and as a heat map.
//   rows: as the data have them; named(row): its name; caption, columns: of the table, of its first two
//   what: that is drawn; state: where the chosen row is kept; chosen(row): is told which one it is
central.durations = function (place, t, given) {
  "use strict";
  var c = central, el = c.el, table = el("div", {}), holder = el("div", {}), kept = c.state[given.state];
  place.append(table, holder);
  pick(given.rows.find(function (row) { return c.key(row) === kept; }) || given.rows[0]);

  function pick(one) {
    c.state[given.state] = c.key(one);
    var columns = [[given.columns[0]], [given.columns[1], true]].concat(c.budgetColumns);
    table.replaceChildren(c.table(given.caption + ", " + c.stretch(t) + "; choose a row to draw it", columns, given.rows.map(function (row) {
      var named = el("button", { type: "button", class: "plain", onclick: function () { pick(row); } }, given.named(row));
      var shown = [named, c.count(row.count)].concat(c.againstBudget(row.percentiles, row.budget, "ms"));
      shown.chosen = row === one;
      return shown;
    }), true));
    draw(one);
    if (given.chosen) given.chosen(one);
  }

  function draw(one) {
    var readout = el("p", { class: "readout", role: "status" }), data = c.byStep(t, one.by_step, 3), heat = one.heat;
    var counts = new Map();
    for (var n = 0; n < heat.cells.length; n += 3) counts.set(heat.cells[n], (counts.get(heat.cells[n]) || 0) + heat.cells[n + 2]);
    var limits = one.budget ? [{ of: "P50", ms: one.budget.p50, dash: [2, 4] }, { of: "P99", ms: one.budget.p99, dash: [6, 4] }].filter(function (l) { return l.ms !== null; }) : [];
    limits.forEach(function (limit) { data.push(data[0].map(function () { return limit.ms; })); });
    var highest = limits.length ? limits[limits.length - 1].ms : 0;
    var chart = c.charts.draw({
      label: given.what + " of " + given.named(one) + ", P50 " + c.number(one.percentiles[0], "ms") + ", P95 " + c.number(one.percentiles[1], "ms") + ", P99 " + c.number(one.percentiles[2], "ms") + ".",
      data: data, height: 300, range: [t.start_s, t.start_s + t.steps * t.step_s], least: 4 * t.step_s,
      options: function () {
        return {
          scales: { x: { range: c.charts.whole(t.start_s, t.start_s + t.steps * t.step_s) },
            y: { distr: 3, range: function () { var top = heat.bounds_ms[heat.bounds_ms.length - 1]; return [heat.bounds_ms[0], highest ? Math.max(top, Math.min(highest * 1.2, top * 30)) : top]; } } },
          axes: [c.charts.timeAxis(t.steps * t.step_s), c.charts.axis({ size: c.charts.wide, splits: c.charts.powers, filter: function (u, splits) { return splits; }, values: function (u, splits) { return splits.map(function (v) { return v === null ? null : c.number(v, "ms"); }); } })],
          series: [{}].concat(["p50", "p95", "p99"].map(function (p) { return { stroke: c.color(p), width: 2, spanGaps: false, points: { show: data[0].length < 30, size: 5 } }; }), limits.map(function (limit) { return { stroke: c.color("bad"), width: 1.5, dash: limit.dash, points: { show: false } }; })),
          hooks: { drawAxes: [function (u) { cells(u, heat); }] },
        };
      },
      onpoint: tell,
    });
    holder.replaceChildren(el("h3", {}, "Over time: " + given.named(one)),
      c.legend([{ text: "P50", color: "var(--p50)" }, { text: "P95", color: "var(--p95)" }, { text: "P99", color: "var(--p99)" }].concat(limits.map(function (limit) { return { text: "budget of " + limit.of + ", " + c.number(limit.ms, "ms"), color: "var(--bad)", class: limit.of === "P50" ? "dots" : "dash" }; }), [{ text: "so many took that long: the darker, the more", class: "block heat" }])),
      chart.figure, readout,
      c.behind("The numbers, step by step", function () {
        return c.table("", [["From"], [given.columns[1], true], ["P50", true], ["P95", true], ["P99", true]], one.by_step.map(function (row) {
          return [c.date(t.start_s + row[0] * t.step_s), c.count(counts.get(row[0]) || 0)].concat(row.slice(1).map(function (v) { return c.number(v, "ms"); }));
        }).reverse(), true);
      }));
    chart.start();
    if (one.by_step.length) tell(chart.data[0].length - 1);

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
};
// Percentiles beside their budget, as cells of a table, and the titles of these.
central.budgetColumns = [["P50", true], ["P95", true], ["P99", true], ["Budget P50", true], ["Budget P99", true], ["Stands"]];
central.againstBudget = function (p, budget, unit) {
  var c = central, bad = budget && (p[0] > budget.p50 || (budget.p99 !== null && p[2] > budget.p99));
  return p.map(function (value) { return c.number(value, unit); }).concat(
    budget ? c.number(budget.p50, unit) : "–", budget && budget.p99 !== null ? c.number(budget.p99, unit) : "–",
    budget ? c.el("span", { class: bad ? "bad-text" : "good-text" }, bad ? "✗ over" : "✓ within") : "–");
};
// What the panels of running pipelines share.
central.key = function (s) { return [s.pipeline, s.stage, s.stream].join("\n"); };
central.named = function (s) { return s.pipeline + (s.stage ? " · " + s.stage : " (whole turn)"); };
central.stretch = function (t) { return central.date(t.start_s) + " to " + central.date(t.start_s + t.steps * t.step_s) + ", in steps of " + central.span(t.step_s); };
central.origin = function (t) {
  var few = t.sources.slice(0, 3), rest = t.sources.length - few.length;
  return central.el("p", { class: "quiet" }, "From ", central.el("code", {}, t.store), ", written by " + few.join(", ") + (rest ? " and " + rest + " more" : "") + (t.simulated ? ". This is a simulation: its times are virtual." : "."));
};
central.noTelemetry = function () {
  return central.empty("There is no telemetry to show. ", central.run("stageflow run PIPELINE --telemetry FILE.db"), " records a turn, a SQLiteSink those of a pipeline of your own; ",
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
