// Panel: what each series cost over the commits, with budget, steps, and a link from each point.
central.panels.push(function (data) {
  "use strict";
  var c = central, el = c.el, h = data.history, place = c.body("history");
  var hashes = [], times = [];
  for (var n = 0; n < h.hashes.length; n += h.hash_length) hashes.push(h.hashes.slice(n, n + h.hash_length));
  h.at_s.reduce(function (sum, step) { times.push(sum + step); return sum + step; }, 0);
  c.commits = { hashes: hashes, times: times, pieces: {}, piece: piece, link: link, show: show };

  // One piece of the history in full: subjects and values of h.piece commits.
  var waiting = {};
  window.centralPiece = function (delivered) {
    c.commits.pieces[delivered.number] = delivered;
    (waiting[delivered.number] || []).forEach(function (done) { done(delivered); });
    delete waiting[delivered.number];
  };
  function piece(number, done) {
    if (c.commits.pieces[number]) return done(c.commits.pieces[number]);
    if (waiting[number]) return void waiting[number].push(done);
    waiting[number] = [done];
    document.head.append(el("script", { src: "central/commits-" + number + ".json.js" }));
  }

  function link(at) {
    var text = hashes[at];
    return data.beside_asv ? el("a", { class: "hash", href: "commits.html#" + text }, text) : el("span", { class: "hash" }, text);
  }

  place.replaceChildren();
  if (!h.series.length) {
    place.append(c.empty("No commit of this branch has been measured. ", c.run("stageflow pulse bench"), " measures the newest ones and publishes them here."));
    return;
  }

  h.series.forEach(function (series, number) {
    series.number = number;
    series.area = area(series.name);
    var sum = 0;
    series.x = series.at.map(function (step) { return (sum += step); });
  });
  function area(name) {
    var inner = /\('([a-z_]+)\./.exec(name);
    return inner ? inner[1] : name.split(".")[0] === "exact" || name.split(".")[0] === "counted" ? name.split(".")[1].toLowerCase() : name.split(".")[0];
  }
  var RANK = { counted: 0, exact: 1, timed: 2, history: 3 };
  var builds = h.series.filter(function (s) { return s.area === "build"; }).sort(function (a, b) { return (b.unit === "instructions") - (a.unit === "instructions") || RANK[a.signal] - RANK[b.signal] || (a.name < b.name ? -1 : 1); });
  var others = h.series.filter(function (s) { return s.area !== "build"; });
  var preferred = builds.find(function (s) { return /build\.complex/.test(s.name); }) || builds[0] || others[0];

  place.append(el("p", { class: "quiet" }, c.count(hashes.length) + " commits, " + c.count(h.series.length) + " series, measured on " + h.machine +
    (h.elsewhere ? "; results of " + h.elsewhere + " other machines or environments are on the benchmark grid" : "") + "."));

  var options = builds.concat(others).map(function (s) {
    return { value: s.name, text: s.name, group: s.area === "build" ? "Pipeline build" : s.area };
  });
  var holder = el("div", {});
  var chooser = c.choice("Series", options, preferred.name, function (name) { show(name); });
  place.append(el("div", { class: "tools" }, chooser), holder);
  var summary = el("div", {});
  place.append(summary);
  show(preferred.name);

  function show(name) {
    var series = h.series.find(function (s) { return s.name === name; });
    if (!series) return;
    chooser.querySelector("select").value = name;
    drawSeries(series);
    drawSummary(series);
  }

  function drawSummary(chosen) {
    var rows = (builds.length ? builds : [chosen]).map(function (s) {
      var value = newest(s), budget = s.budget && s.budget.p50, step = s.steps[s.steps.length - 1];
      var row = [
        el("button", { type: "button", class: "plain", onclick: function () { show(s.name); } }, c.name(s.name)),
        c.number(value, s.unit), budget === null ? "–" : c.number(budget, s.unit),
        budget ? c.percent(value / budget) : "–",
        step ? el("span", {}, change(step), " at ", link(step[0])) : "none found",
      ];
      row.chosen = s === chosen;
      return row;
    });
    summary.replaceChildren(el("h3", {}, builds.length ? "Pipeline build" : "Newest value"),
      c.table("Newest commit; choose a row to draw it", [["Series"], ["Newest", true], ["Budget", true], ["Used", true], ["Last change"]], rows));
  }

  function newest(s) { return s.values[s.values.length - 1]; }

  function change(step) {
    if (!step[1]) return "↑ from 0";
    var ratio = step[2] / step[1] - 1;
    return (ratio > 0 ? "▲ +" : "▼ −") + Math.abs(Number((ratio * 100).toFixed(1))) + " %";
  }

  function drawSeries(series) {
    var budget = series.budget ? series.budget.p50 : null;
    var readout = el("p", { class: "readout", role: "status" });
    var steps = new Map(series.steps.map(function (step) { return [step[0], step]; }));
    var last = hashes.length - 1;
    // Half a commit of room on either side, so that the first and the last point are whole.
    var chart = c.charts.draw({
      label: series.name + " over " + hashes.length + " commits; newest " + c.number(newest(series), series.unit) +
        (budget === null ? "." : ", budget " + c.number(budget, series.unit) + ".") + " " + series.steps.length + " steps.",
      data: values(series.x, series.values), range: [-0.5, last + 0.5], least: 4,
      options: function () { return plotted(series, budget); },
      onzoom: closer, onpoint: tell,
      onclick: function (at) { c.compare.pick(chart.data[0][at]); },
      onenter: function (at) { if (data.beside_asv) location.href = "commits.html#" + hashes[chart.data[0][at]]; },
    });
    holder.replaceChildren(
      c.legend([{ text: series.unit || "value", color: "var(--accent)" }].concat(
        budget === null ? [] : [{ text: "budget " + c.number(budget, series.unit), color: "var(--bad)", class: "dash" }],
        series.steps.length ? [{ text: "▲ step up, ▼ step down", color: "var(--quiet)", class: "dash" }] : [])),
      chart.figure, readout,
      c.behind("The numbers: steps, and what is drawn", function () { return numbers(series); }));
    chart.start();
    c.state.history = chart;
    tell(chart.data[0].length - 1);

    function values(xs, ys) { return [xs, ys].concat(budget === null ? [] : [xs.map(function () { return budget; })]); }

    function tell(index) {
      var at = chart.data[0][index], step = steps.get(at);
      if (at === undefined) return;
      var subject = el("span", {});
      readout.replaceChildren(link(at), " ", c.time(times[at]), ": ", el("b", {}, c.number(chart.data[1][index], series.unit)),
        step ? el("b", { class: step[2] > step[1] ? "bad-text" : "good-text" }, "  " + change(step)) : "", " ", subject);
      var known = c.commits.pieces[Math.floor(at / h.piece)];
      if (known) subject.textContent = known.subjects[at % h.piece];
    }

    var wanted = "";
    function closer(min, max, full) {
      var first = Math.max(0, Math.floor(min)), end = Math.min(last, Math.ceil(max));
      if (full || end - first > 4 * h.piece || series.x.length >= hashes.length) return;
      var parts = [], from = Math.floor(first / h.piece), to = Math.floor(end / h.piece);
      if (wanted === from + "-" + to) return;
      wanted = from + "-" + to;
      for (var number = from; number <= to; number++) piece(number, function (part) {
        parts.push(part);
        if (parts.length === to - from + 1 && wanted === from + "-" + to && !chart.gone()) detailed(from, to);
      });
    }

    // The overview, with its middle replaced by all that was measured there.
    function detailed(from, to) {
      var low = from * h.piece, high = (to + 1) * h.piece, xs = [], ys = [];
      function overview(test) {
        series.x.forEach(function (x, n) { if (test(x)) { xs.push(x); ys.push(series.values[n]); } });
      }
      overview(function (x) { return x < low; });
      for (var number = from; number <= to; number++) c.commits.pieces[number].values[series.number].forEach(function (value, n) {
        if (value !== null) { xs.push(number * h.piece + n); ys.push(value); }
      });
      overview(function (x) { return x >= high; });
      chart.set(values(xs, ys));
    }
  }

  function plotted(series, budget) {
    var few = series.x.length < 120;
    return {
      scales: { x: { time: false, range: c.charts.whole(-0.5, hashes.length - 0.5) }, y: { range: room(budget) } },
      axes: [
        c.charts.axis({ space: 90, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000], values: function (u, splits) {
          var told = splits.filter(function (at) { return Number.isInteger(at) && times[at] !== undefined; });
          // Commits of one day or two are told apart by the hour.
          var close = told.length && times[told[told.length - 1]] - times[told[0]] < 2 * 86400;
          var form = close ? { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" } : { year: "2-digit", month: "short", day: "numeric" };
          return splits.map(function (at) { return told.indexOf(at) < 0 ? "" : c.date(times[at], form); });
        } }),
        c.charts.axis({ size: c.charts.wide, values: function (u, splits) { return splits.map(function (v) { return c.short(v, series.unit); }); } }),
      ],
      series: [{}, { stroke: c.color("accent"), width: 1.5, spanGaps: true, points: { show: few, size: 6 } }].concat(
        budget === null ? [] : [{ stroke: c.color("bad"), width: 1.5, dash: [6, 4], points: { show: false }, spanGaps: true }]),
      hooks: { draw: [function (u) { marks(u, series); }] },
    };
  }

  // From 0 up where that wastes little room; the budget is in sight if it is near.
  function room(budget) {
    return function (u, min, max) {
      var values = u.data[1], low = Infinity, high = -Infinity;
      var from = u.scales.x.min === null ? -1 : u.scales.x.min - 1, to = u.scales.x.max === null ? Infinity : u.scales.x.max + 1;
      for (var n = 0; n < values.length; n++) if (u.data[0][n] >= from && u.data[0][n] <= to) { low = Math.min(low, values[n]); high = Math.max(high, values[n]); }
      if (low > high) { low = min; high = max; }
      if (budget !== null && budget <= high * 3) { high = Math.max(high, budget); low = Math.min(low, budget); }
      if (low >= 0 && low < high * 0.7) low = 0;
      var pad = (high - low || Math.abs(high) || 1) * 0.08;
      return [low === 0 ? 0 : low - pad, high + pad];
    };
  }

  function marks(u, series) {
    var ctx = u.ctx, px = devicePixelRatio || 1;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    series.steps.forEach(function (step) {
      if (step[0] < u.scales.x.min || step[0] > u.scales.x.max) return;
      var x = u.valToPos(step[0], "x", true), up = step[2] > step[1], top = u.bbox.top + 2 * px;
      ctx.strokeStyle = ctx.fillStyle = c.color(up ? "bad" : "good");
      ctx.lineWidth = px;
      ctx.setLineDash([3 * px, 3 * px]);
      ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, u.bbox.top + u.bbox.height); ctx.stroke();
      ctx.setLineDash([]);
      ctx.beginPath();
      var tip = up ? top : top + 9 * px, base = up ? top + 9 * px : top;
      ctx.moveTo(x, tip); ctx.lineTo(x - 5 * px, base); ctx.lineTo(x + 5 * px, base); ctx.fill();
    });
    ctx.restore();
  }

  function numbers(series) {
    var steps = series.steps.map(function (step) {
      return [link(step[0]), c.date(times[step[0]]), c.number(step[1], series.unit), c.number(step[2], series.unit), change(step)];
    });
    var drawn = series.x.map(function (at, n) { return [link(at), c.date(times[at]), c.number(series.values[n], series.unit)]; }).reverse();
    return el("div", {},
      steps.length ? c.table("Steps of " + series.name, [["Commit"], ["Date"], ["Before", true], ["After", true], ["Change", true]], steps) : el("p", {}, "No steps."),
      c.table("Drawn values, newest first" + (drawn.length > 500 ? " (500 of " + c.count(drawn.length) + ")" : ""), [["Commit"], ["Date"], ["Value", true]], drawn.slice(0, 500), true));
  }
});
