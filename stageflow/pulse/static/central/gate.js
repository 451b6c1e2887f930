// Panel: how far the gate is to be trusted, and what its runs cost.
central.panels.push(function (data) {
  "use strict";
  var c = central, el = c.el, g = data.gate, place = c.body("gate");
  var EXITS = { 0: "OK", 1: "regression", 2: "bad arguments", 3: "over budget", 4: "insufficient data", 5: "a benchmark broke", 6: "set-up failed", 130: "interrupted" };
  place.replaceChildren();
  g.notes.forEach(function (note) { place.append(el("p", { class: "warn-text" }, note)); });

  if (g.selftest_command) place.append(el("h3", {}, "Self-test"));
  if (g.selftest) selftest(g.selftest);
  else if (g.selftest_command) place.append(c.empty("The gate has not been tried on code whose truth is known. ", c.run(g.selftest_command), " does so."));

  place.append(el("h3", {}, "Runs"));
  if (g.runs.length) runs();
  else place.append(c.empty("No run of the gate is on record here. ", c.run("stageflow pulse gate"), " judges this commit, and records the run."));

  function share(rate) {
    return rate.of ? c.percent(rate.happened / rate.of) + " (" + rate.happened + " of " + rate.of + ")" : "none";
  }

  function selftest(found) {
    place.append(el("p", { class: "quiet" }, "Of ", c.time(Date.parse(found.at) / 1000), ", commit ", el("span", { class: "hash" }, found.commit.slice(0, 10)), ", " + found.series + " series, " + found.machine.cpus + " CPUs, Python " + found.machine.python + "."));
    place.append(c.table("Identical code: how often it alarms falsely", [["Machine"], ["Load", true], ["Real comparisons", true], ["Resampled", true], ["Named slower", true]], found.identical.map(function (one) {
      return [one.condition, String(Number(one.load.toFixed(1))), share(one.alarms), share(one.resampled), share(one.named)];
    })));
    place.append(c.table("Planted defects: how often they are found", [["Layer"], ["Series"], ["Planted", true], ["Failed the gate", true], ["Failed or named", true]], found.planted.map(function (one) {
      return [one.layer, el("span", { class: "series" }, c.name(one.series)), one.planted === null ? "from 0" : "+" + Number((one.planted * 100).toFixed(1)) + " %", share(one.failed), share(one.caught)];
    }), true));
    var right = found.faults.filter(function (one) { return one.expected === one.found; }).length;
    place.append(el("p", { class: right === found.faults.length ? "good-text" : "bad-text" }, (right === found.faults.length ? "✓ " : "✗ ") + right + " of " + found.faults.length + " faults of the gate's own end with the right exit code."));
  }

  function runs() {
    var last = g.runs[g.runs.length - 1];
    place.append(el("div", { class: "tiles" },
      el("div", { class: "tile" }, "Runs on record", el("b", {}, c.count(g.count)), el("span", { class: "quiet" }, Object.keys(g.exits).map(function (code) { return g.exits[code] + " " + (EXITS[code] || code); }).join(", "))),
      el("div", { class: "tile" }, "Wall time of the newest", el("b", {}, c.number(last[4], "s")), el("span", { class: "quiet" }, EXITS[last[3]] || last[3]))));
    var readout = el("p", { class: "readout", role: "status" });
    if (g.runs.length > 1) {
      var chart = c.charts.inOrder({
        label: "Wall time of " + g.runs.length + " runs of the gate, newest " + c.number(last[4], "s") + ".",
        times: g.runs.map(function (r) { return r[0]; }), lines: [{ values: g.runs.map(function (r) { return r[4]; }), color: "accent" }],
        unit: "s", incrs: [0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1200, 3600, 7200], onpoint: tell,
      });
      place.append(c.legend([{ text: "wall time of a run", color: "var(--accent)" }]), chart.figure, readout);
      chart.start();
      tell(g.runs.length - 1);
    }

    function tell(n) {
      var r = g.runs[n];
      readout.replaceChildren(c.time(r[0]), ": ", el("b", {}, c.number(r[4], "s")), ", " + (EXITS[r[3]] || r[3]));
    }
    place.append(c.behind("The newest runs", function () {
      return c.table("", [["When"], ["Base"], ["Head"], ["Verdict"], ["Wall time", true]], g.runs.slice().reverse().map(function (r) {
        return [c.time(r[0]), r[1] ? el("span", { class: "hash" }, r[1].slice(0, 10)) : "–", el("span", { class: "hash" }, r[2].slice(0, 10)), el("span", { class: r[3] ? "bad-text" : "good-text" }, r[3] + ": " + (EXITS[r[3]] || "")), c.number(r[4], "s")];
      }), true);
    }));
  }
});
