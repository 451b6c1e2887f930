// Panel: which share of a stage's ends were failures, by code, over time.
central.drawErrors = function () {
  "use strict";
  var c = central, el = c.el, t = c.data.telemetry, place = c.body("errors"), SHOWN = 5;
  place.replaceChildren();
  var stages = ((t && t.stages) || []).filter(function (s) { return s.ended.length; });
  if (!stages.length) { place.append(c.noTelemetry()); return; }
  stages.forEach(function (s) {
    s.failed = s.outcomes.failed || 0;
    s.count = s.failed + (s.outcomes.completed || 0);
    s.sums = Object.keys(s.codes).map(function (code) { return [code, s.codes[code].reduce(function (sum, pair) { return sum + pair[1]; }, 0)]; }).sort(function (a, b) { return b[1] - a[1]; });
  });
  var worst = stages.filter(function (s) { return s.stage; }).concat(stages).reduce(function (a, b) { return rate(b) > rate(a) ? b : a; });
  var rows = el("div", {}), holder = el("div", {});
  place.append(c.origin(t), rows, holder);
  pick(stages.find(function (s) { return c.key(s) === c.state.errors; }) || worst);

  function rate(s) { return s.count ? s.failed / s.count : 0; }

  function pick(stage) {
    c.state.errors = c.key(stage);
    rows.replaceChildren(c.table("Share of failures among what ended, " + c.stretch(t) + "; choose a row to draw it", [["Stage"], ["Ended", true], ["Failed", true], ["Error rate", true], ["By code"]],
      stages.map(function (s) {
        var row = [el("button", { type: "button", class: "plain", onclick: function () { pick(s); } }, c.named(s)), c.count(s.count), c.count(s.failed),
          c.percent(rate(s)), s.sums.length ? el("span", { class: "codes" }, s.sums.slice(0, SHOWN).map(function (pair) { return pair[0] + " " + c.count(pair[1]); }).join(", ") + (s.sums.length > SHOWN ? ", …" : "")) : "–"];
        row.chosen = s === stage;
        return row;
      }), true));
    draw(stage);
  }

  function draw(stage) {
    var shown = stage.sums.slice(0, SHOWN).map(function (pair) { return pair[0]; }), rest = stage.sums.slice(SHOWN).map(function (pair) { return pair[0]; });
    var names = shown.concat(rest.length ? [rest.length + " other codes"] : []);
    var failed = shown.map(function (code) { return new Map(stage.codes[code]); });
    if (rest.length) {
      var others = new Map();
      rest.forEach(function (code) { stage.codes[code].forEach(function (pair) { others.set(pair[0], (others.get(pair[0]) || 0) + pair[1]); }); });
      failed.push(others);
    }
    var byStep = stage.ended.map(function (pair) {
      var counts = failed.map(function (of) { return of.get(pair[0]) || 0; }), sum = counts.reduce(function (a, b) { return a + b; }, 0);
      return [pair[0], pair[1] ? sum / pair[1] : null].concat(counts.map(function (n) { return pair[1] ? n / pair[1] : null; }));
    });
    var readout = el("p", { class: "readout", role: "status" });
    var data = c.byStep(t, byStep, names.length + 1), few = data[0].length < 30, end = t.start_s + t.steps * t.step_s;
    var chart = c.charts.draw({
      label: "Error rate of " + c.named(stage) + ", " + c.percent(rate(stage)) + " over all.",
      data: data, height: 220, range: [t.start_s, end], least: 4 * t.step_s,
      options: function () {
        return {
          scales: { x: { range: c.charts.whole(t.start_s, end) }, y: { range: function (u, min, max) { return [0, Math.min(1, Math.max(max * 1.1 || 0, 0.01))]; } } },
          axes: [c.charts.timeAxis(t.steps * t.step_s), c.charts.axis({ size: c.charts.wide, values: function (u, splits) { return splits.map(c.percent); } })],
          series: [{}, { stroke: c.color("text"), width: 2, points: { show: few, size: 5 } }].concat(names.map(function (name, n) { return { stroke: c.color("c" + (n + 1)), width: 1.5, points: { show: few, size: 5 } }; })),
        };
      },
      onpoint: tell,
    });
    holder.replaceChildren(el("h3", {}, "Over time: " + c.named(stage)),
      c.legend([{ text: "all errors", color: "var(--text)" }].concat(names.map(function (name, n) { return { text: name, color: "var(--c" + (n + 1) + ")" }; }))),
      chart.figure, readout,
      c.behind("The numbers, step by step", function () {
        return c.table("", [["From"], ["Ended", true], ["Error rate", true]].concat(names.map(function (name) { return [name, true]; })), byStep.map(function (row, n) {
          return [c.date(t.start_s + row[0] * t.step_s), c.count(stage.ended[n][1])].concat(row.slice(1).map(c.percent));
        }).reverse(), true);
      }));
    chart.start();
    tell(data[0].length - 1);

    function tell(index) {
      readout.replaceChildren(c.time(data[0][index] - t.step_s / 2), " + " + c.span(t.step_s) + ": ", el("b", {}, c.percent(data[1][index])),
        names.map(function (name, n) { return data[n + 2][index] ? ", " + name + " " + c.percent(data[n + 2][index]) : ""; }).join(""));
    }
  }
};
