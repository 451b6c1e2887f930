// Panel: how well and fast the providers of a machine hear, answer and speak, newest and over time.
central.panels.push(function (data) {
  "use strict";
  var c = central, el = c.el, v = data.voice, runs = v.runs, last = runs.length - 1, place = c.body("voice");
  place.replaceChildren();
  v.notes.forEach(function (note) { place.append(el("p", { class: "warn-text" }, note)); });
  if (!runs.length) {
    place.append(c.empty("Real providers have not been measured here. ", c.run("make voice-figures"), " has this machine's hear, answer and speak, in a minute or two, and records how well they did."));
    return;
  }
  var rows = el("div", {}), holder = el("div", {}), by = {};
  v.figures.forEach(function (f) { by[f.name] = f; });
  place.append(
    el("p", { class: "quiet" }, "Newest of " + c.count(runs.length) + ": ", c.time(runs[last].at_s), ", commit ", el("span", { class: "hash" }, runs[last].commit.slice(0, 10)), ", " + v.machine.num_cpu + " cores of " + v.machine.cpu + ", Python " + v.python + "."),
    el("div", { class: "tiles" },
      tile("turn.streaming.first_audio", function (f) { return "P95 " + said(f, f.p95[last]) + beside("turn.whole.first_audio"); }),
      tile("turn.streaming.total", function (f) { return "P95 " + said(f, f.p95[last]) + beside("turn.whole.total"); }),
      tile("stt.any_words.word_error_rate", function () { return "synthetic voices"; }),
      tile("answers.right_of_typed", function () { return "spoken: " + newest("answers.right_of_spoken"); })),
    rows, holder);
  pick(v.figures[0]);

  function said(f, value) { return value !== null && f.unit === "errors/word" ? c.percent(value) : c.number(value, f.unit); }
  function newest(name) { return by[name] ? said(by[name], by[name].values[last]) : "–"; }
  function beside(name) { return by[name] ? "; whole " + newest(name) + ", P95 " + said(by[name], by[name].p95[last]) : ""; }
  function tile(name, note) {
    var f = by[name];
    return f ? el("div", { class: "tile" }, f.title, el("b", {}, newest(name)), el("span", { class: "quiet" }, note(f))) : null;
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
