// How far the figures are to be trusted: the gate's self-test and runs, steady load, figures of providers.
central.views.trust = {
  title: "Trust",
  render(place, params) {
    "use strict";
    const c = central, el = c.el, g = c.data.gate, EXITS = { 0: "OK", 1: "regression", 2: "bad arguments", 3: "over budget", 4: "insufficient data", 5: "a benchmark broke", 6: "set-up failed", 130: "interrupted" };
    const hash = (text) => el("span", { class: "hash" }, text.slice(0, 10));
    if (g.selftest_command) selftest(c.section(place, "selftest", "The gate's self-test"));
    runs(c.section(place, "gate", "Runs of the gate"));
    if (c.data.load) load(c.section(place, "load", "Steady load"));
    if (c.data.figures) figures(c.section(place, "figures", c.data.figures.title));

    function share(rate) { return rate.of ? logic.percent(rate.happened / rate.of) + " (" + rate.happened + " of " + rate.of + ")" : "none"; }

    function selftest(body) {
      const found = g.selftest;
      if (!found) { body.append(c.empty("The gate has not been tried on code whose truth is known. ", c.run(g.selftest_command), " does so.")); return; }
      const right = found.faults.filter((one) => one.expected === one.found).length, all = right === found.faults.length;
      body.append(el("p", { class: "quiet" }, "Of ", c.time(Date.parse(found.at) / 1000), ", commit ", hash(found.commit), ", " + found.series + " series, " + found.machine.cpus + " CPUs, Python " + found.machine.python + "."),
        el("p", { class: all ? "good-text" : "bad-text" }, (all ? "✓ " : "✗ ") + right + " of " + found.faults.length + " faults of the gate's own end with the right exit code."),
        c.table("Identical code: how often it alarms falsely. The load is that of the whole machine, over one CPU.", [["Machine"], ["Load", true], ["Real comparisons", true], ["Resampled", true], ["Named slower", true]], found.identical.map((one) => {
          // A word for the load is only believed if the load was what the word says.
          const busy = one.load > found.machine.cpus && one.condition === "quiet";
          return [busy ? el("span", { class: "warn-text" }, one.condition + ", but loaded") : one.condition, String(Number(one.load.toFixed(1))) + " of " + found.machine.cpus, share(one.alarms), share(one.resampled), share(one.named)];
        })),
        c.table("Planted defects: how often they are found", [["Layer"], ["Series"], ["Planted", true], ["Failed the gate", true], ["Failed or named", true]], found.planted.map((one) => [one.layer, c.name(one.series), one.planted === null ? "from 0" : logic.signed(one.planted), share(one.failed), share(one.caught)])));
    }

    function runs(body) {
      g.notes.forEach((note) => body.append(el("p", { class: "warn-text" }, note)));
      if (!g.runs.length) { body.append(c.empty("No run of the gate is on record here. ", c.run("stageflow pulse gate"), " judges this commit, and records the run.")); return; }
      const last = g.runs[g.runs.length - 1], word = (code) => EXITS[code] || String(code);
      body.append(el("div", { class: "tiles" }, c.tile("Runs on record", c.count(g.count), "", Object.keys(g.exits).map((code) => g.exits[code] + " " + word(code)).join(", ")),
        c.tile("Newest", word(last[3]), last[3] ? "bad" : "good", c.date(last[0])), c.tile("Wall time of the newest", logic.number(last[4], "s"), "", "median " + logic.number(logic.median(g.runs.map((r) => r[4])), "s"))));
      if (g.runs.length > 1) {
        const chart = c.charts.inOrder({ label: "Wall time of " + g.runs.length + " runs of the gate, newest " + logic.number(last[4], "s") + ".", times: g.runs.map((r) => r[0]), unit: "s", title: "wall time",
          lines: [{ values: g.runs.map((r) => r[4]), text: "wall time of a run", color: "accent" }], tell: (n) => [c.time(g.runs[n][0]), ": ", el("b", {}, logic.number(g.runs[n][4], "s")), ", " + word(g.runs[n][3])] });
        body.append(chart.figure);
        chart.start();
      }
      body.append(c.behind("The newest runs", () => c.table("", [["When"], ["Base"], ["Head"], ["Verdict"], ["Wall time", true]], g.runs.slice().reverse().map((r) => [c.time(r[0]), r[1] ? hash(r[1]) : "–", hash(r[2]), el("span", { class: r[3] ? "bad-text" : "good-text" }, r[3] + ": " + word(r[3])), logic.number(r[4], "s")]))));
    }

    function load(body) {
      const loads = c.data.load.loads, newest = loads[loads.length - 1];
      c.data.load.notes.forEach((note) => body.append(el("p", { class: "warn-text" }, note)));
      if (!newest) { body.append(c.empty("No load has been carried here. ", c.run(c.data.load.command), " starts one, and records what became of it.")); return; }
      const ms = (n) => logic.number(newest.latency_ms[n], "ms");
      body.append(el("p", { class: newest.faults.length ? "bad-text" : "good-text" }, newest.faults.length ? "✗ " + newest.faults.join("; ") + "." : "✓ The newest load was carried, and nothing grew."),
        el("div", { class: "tiles" },
          c.tile("Carried", c.count(Math.round(newest.carried_hz)) + " turns/s", newest.faults.length ? "bad" : "good", "of " + c.count(newest.rate_hz) + " for " + logic.span(newest.seconds) + ", " + c.date(newest.at_s)),
          c.tile("Latency P50", ms(0), "", "P95 " + ms(1) + ", P99 " + ms(2) + ", longest " + ms(3)), c.tile("CPU", logic.percent(newest.cpu_share) + " of a core", "", newest.cpus + " cores, Python " + newest.python),
          c.tile("Memory", logic.signed(newest.memory_growth), newest.memory_growth > 0.05 ? "bad" : "good", "from after the warm-up to the end; 5 % is allowed"), c.tile("Left behind", newest.tasks + " tasks, " + newest.files + " files", newest.tasks || newest.files ? "bad" : "good", "more than before the load")),
        c.behind("The newest loads", () => c.table("", [["When"], ["Commit"], ["Asked", true], ["For", true], ["Carried", true], ["Failed", true], ["P50", true], ["P99", true], ["CPU of a core", true], ["Memory", true], ["Verdict"]], loads.slice().reverse().map((l) => [c.time(l.at_s), l.commit ? hash(l.commit) : "–", c.count(l.rate_hz) + " /s", logic.span(l.seconds), c.count(Math.round(l.carried_hz)) + " /s", c.count(l.failed),
          logic.number(l.latency_ms[0], "ms"), logic.number(l.latency_ms[2], "ms"), logic.percent(l.cpu_share), logic.signed(l.memory_growth), el("span", { class: l.faults.length ? "bad-text" : "good-text" }, l.faults.length ? "✗ " + l.faults.join("; ") : "✓ carried")]))));
    }

    function figures(body) {
      const v = c.data.figures, last = v.runs.length - 1, by = Object.fromEntries(v.figures.map((f) => [f.name, f]));
      v.notes.forEach((note) => body.append(el("p", { class: "warn-text" }, note)));
      if (last < 0) { body.append(c.empty("Nothing has been measured here. ", c.run(v.command), " measures and records these figures.")); return; }
      const said = (f, value) => (value !== null && f.unit === "errors/word" ? logic.percent(value) : logic.number(value, f.unit));
      const tail = (f) => (f.p95[last] === null ? [] : ["P95 " + said(f, f.p95[last])]);
      const before = (f) => f.values.slice(0, last).reverse().find((value) => value !== null) ?? null;
      const chosen = by[params.figure] || v.figures[0];
      body.append(el("p", { class: "quiet" }, "Newest of " + c.count(last + 1) + ": ", c.time(v.runs[last].at_s), ", commit ", hash(v.runs[last].commit), ", " + v.machine.num_cpu + " cores of " + v.machine.cpu + ", Python " + v.python + "."),
        el("div", { class: "tiles" }, v.figures.filter((f) => f.tile).map((f) => {
          const other = by[f.beside], beside = other ? [[f.beside_title + " " + said(other, other.values[last])].concat(tail(other)).join(", ")] : [];
          return c.tile(f.title, said(f, f.values[last]), "", (f.note ? [f.note] : []).concat(tail(f), beside).join("; "));
        })),
        c.grid({ label: v.title, caption: "Choose a figure to draw it", rows: v.figures, page: 40, chosen: (f) => f === chosen,
          columns: [{ title: "Figure" }, { title: "Newest", number: true }, { title: "P95", number: true }, { title: "Before", number: true }, { title: "Change", number: true }],
          cells: (f) => {
            const now = f.values[last], then = before(f);
            return [el("a", { href: c.link("trust", { ...params, figure: f.name }) }, f.title), said(f, now), said(f, f.p95[last]), said(f, then), now === null || !then ? "–" : logic.signed(now / then - 1)];
          } }));
      const spread = chosen.p95.some((value) => value !== null);
      const chart = c.charts.inOrder({ label: chosen.title + " in " + v.runs.length + " runs, newest " + said(chosen, chosen.values[last]) + ".", times: v.runs.map((r) => r.at_s), unit: chosen.unit, title: chosen.unit,
        lines: [{ values: chosen.values, text: spread ? "median" : chosen.unit, color: "p50" }].concat(spread ? [{ values: chosen.p95, text: "P95", color: "p95", dash: [7, 3] }] : []),
        tell: (n) => [c.time(v.runs[n].at_s), ", ", hash(v.runs[n].commit), ": ", el("b", {}, said(chosen, chosen.values[n])), chosen.p95[n] === null ? "" : ", P95 " + said(chosen, chosen.p95[n])] });
      body.append(el("h3", {}, "Run after run: " + chosen.title), chart.figure);
      chart.start();
    }
  },
};
