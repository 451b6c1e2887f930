// Panel: so many turns a second for minutes on end, and what became of the process.
central.panels.push(function (data) {
  "use strict";
  if (!data.load) return;
  var c = central, el = c.el, loads = data.load.loads, place = c.section("load", "Steady load", "Load");
  data.load.notes.forEach(function (note) { place.append(el("p", { class: "warn-text" }, note)); });
  if (!loads.length) {
    place.append(c.empty("No load has been carried here. ", c.run(data.load.command), " starts one, and records what became of it."));
    return;
  }
  var newest = loads[loads.length - 1], latency = newest.latency_ms;
  function tile(title, value, state, note) {
    return el("div", { class: "tile " + state }, title, el("b", {}, value), el("span", { class: "quiet" }, note));
  }
  function signed(share) { return (share > 0 ? "+" : "") + c.percent(share); }

  place.append(
    el("p", { class: newest.faults.length ? "bad-text" : "good-text" }, newest.faults.length ? "✗ " + newest.faults.join("; ") + "." : "✓ The newest load was carried, and nothing grew."),
    el("div", { class: "tiles" },
      tile("Carried", c.count(Math.round(newest.carried_hz)) + " turns/s", newest.faults.length ? "bad" : "good", "of " + c.count(newest.rate_hz) + " for " + c.span(newest.seconds) + ", " + c.time(newest.at_s).textContent),
      tile("Latency P50", c.number(latency[0], "ms"), "", "P95 " + c.number(latency[1], "ms") + ", P99 " + c.number(latency[2], "ms") + ", longest " + c.number(latency[3], "ms")),
      tile("CPU", c.percent(newest.cpu_share) + " of a core", "", newest.cpus + " cores, Python " + newest.python),
      tile("Memory", signed(newest.memory_growth), newest.memory_growth > 0.05 ? "bad" : "good", "from after the warm-up to the end; 5 % is allowed"),
      tile("Left behind", newest.tasks + " tasks, " + newest.files + " files", newest.tasks || newest.files ? "bad" : "good", "more than before the load")));
  place.append(c.behind("The newest loads", function () {
    return c.table("", [["When"], ["Commit"], ["Asked", true], ["For", true], ["Carried", true], ["Failed", true], ["P50", true], ["P99", true], ["CPU of a core", true], ["Memory", true], ["Verdict"]], loads.slice().reverse().map(function (l) {
      return [c.time(l.at_s), l.commit ? el("span", { class: "hash" }, l.commit.slice(0, 10)) : "–", c.count(l.rate_hz) + " /s", c.span(l.seconds), c.count(Math.round(l.carried_hz)) + " /s", c.count(l.failed),
        c.number(l.latency_ms[0], "ms"), c.number(l.latency_ms[2], "ms"), c.percent(l.cpu_share), signed(l.memory_growth),
        el("span", { class: l.faults.length ? "bad-text" : "good-text" }, l.faults.length ? "✗ " + l.faults.join("; ") : "✓ carried")];
    }), true);
  }));
});
