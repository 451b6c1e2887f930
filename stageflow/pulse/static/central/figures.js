// Panel: figures that a program of the project measures by itself, newest and over time.
central.panels.push(function (data) {
  "use strict";
  if (!data.figures) return;
  var c = central, el = c.el, v = data.figures, runs = v.runs, last = runs.length - 1, place = c.section("figures", v.title, v.link);
  v.notes.forEach(function (note) { place.append(el("p", { class: "warn-text" }, note)); });
  if (!runs.length) {
    place.append(c.empty("Nothing has been measured here. ", c.run(v.command), " measures and records these figures."));
    return;
  }
  var rows = el("div", {}), holder = el("div", {}), by = {};
  v.figures.forEach(function (f) { by[f.name] = f; });
  place.append(
    el("p", { class: "quiet" }, "Newest of " + c.count(runs.length) + ": ", c.time(runs[last].at_s), ", commit ", el("span", { class: "hash" }, runs[last].commit.slice(0, 10)), ", " + v.machine.num_cpu + " cores of " + v.machine.cpu + ", Python " + v.python + "."),
    el("div", { class: "tiles" }, v.figures.filter(function (f) { return f.tile; }).map(tile)),
    rows, holder);
  pick(v.figures[0]);

  function said(f, value) { return value !== null && f.unit === "errors/word" ? c.percent(value) : c.number(value, f.unit); }
  function tail(f) { return f.p95[last] === null ? [] : ["P95 " + said(f, f.p95[last])]; }
  function tile(f) {
    var other = by[f.beside];
    var beside = other ? [[f.beside_title + " " + said(other, other.values[last])].concat(tail(other)).join(", ")] : [];
    var note = (f.note ? [f.note] : []).concat(tail(f), beside).join("; ");
    return el("div", { class: "tile" }, f.title, el("b", {}, said(f, f.values[last])), el("span", { class: "quiet" }, note));
  }
  function before(f) {
    for (var n = last - 1; n >= 0; n--) if (f.values[n] !== null) return f.values[n];
    return null;
  }

  function pick(chosen) {
    rows.replaceChildren(c.table("Choose a figure to draw it", [["Figure"], ["Newest", true], ["P95", true], ["Before", true], ["Change", true]], v.figures.map(function (f) {
      var now = f.values[last], then = before(f);
      var row = [el("button", { type: "button", class: "plain", onclick: function () { pick(f); } }, f.title), said(f, now), said(f, f.p95[last]), said(f, then),
        now === null || !then ? "–" : (now > then ? "+" : "") + c.percent(now / then - 1)];
      row.chosen = f === chosen;
      return row;
    }), true));
    draw(chosen);
  }

  function draw(f) {
    var readout = el("p", { class: "readout", role: "status" }), spread = f.p95.some(function (value) { return value !== null; });
    var chart = c.charts.inOrder({
      label: f.title + " in " + runs.length + " runs, newest " + said(f, f.values[last]) + ".", times: runs.map(function (r) { return r.at_s; }), unit: f.unit,
      lines: [{ values: f.values, color: "p50" }].concat(spread ? [{ values: f.p95, color: "p95" }] : []), onpoint: tell,
    });
    holder.replaceChildren(el("h3", {}, "Run after run: " + f.title), c.legend([{ text: spread ? "median" : f.unit, color: "var(--p50)" }].concat(spread ? [{ text: "P95", color: "var(--p95)" }] : [])), chart.figure, readout);
    chart.start();
    tell(last);

    function tell(n) {
      readout.replaceChildren(c.time(runs[n].at_s), ", ", el("span", { class: "hash" }, runs[n].commit.slice(0, 10)), ": ", el("b", {}, said(f, f.values[n])), f.p95[n] === null ? "" : ", P95 " + said(f, f.p95[n]));
    }
  }
});
