// The entry: whether anything is wrong, what needs somebody, and four small charts.
central.views.status = {
  title: "Status",
  live: true,
  render(place) {
    "use strict";
    const c = central, el = c.el, data = c.data, now = data.now, t = data.telemetry, h = data.history, alerts = now.alerts;
    const over = now.budgets.concat((t && t.over) || []), waiting = t ? t.letters.waiting : 0;
    const judged = now.kept + now.budgets.length, known = judged || t || alerts !== null;
    const verdict = logic.verdict([
      [over.length, "budget exceeded", "budgets exceeded"], [now.regressions.length, "open regression", "open regressions"],
      [(alerts || []).length, "firing alert", "firing alerts"], [waiting, "waiting dead letter", "waiting dead letters"],
    ], Boolean(known));
    place.append(el("div", { class: "verdict " + verdict.state }, el("h1", {}, { good: "✓ ", bad: "✗ ", none: "" }[verdict.state] + verdict.text + "."), el("p", { class: "quiet", id: "verdict-of" }, basis())));
    now.notes.forEach((note) => place.append(el("p", { class: "note" }, note)));

    const rows = attention();
    if (rows.length) {
      const body = c.section(place, "attention", "Needs attention");
      const SHOWN = innerHeight > 800 ? 5 : 4;
      body.append(list(rows.slice(0, SHOWN)));
      if (rows.length > SHOWN) body.append(c.behind(logic.plural(rows.length - SHOWN, "more finding"), () => list(rows.slice(SHOWN))));
    }
    charts();
    const rest = el("div", { class: "folds" });
    place.append(rest);
    const missing = absent();
    if (missing.length) rest.append(c.behind("Not collected here: " + missing.map(([what]) => what).join(", "), () => el("ul", { class: "missing" }, missing.map(([what, ...parts]) => el("li", {}, el("b", {}, what), ": ", c.empty(...parts))))));
    const settled = now.known.length + now.accepted.length;
    if (settled) rest.append(c.behind(logic.plural(settled, "known or accepted change"), accepted));

    // What the verdict rests on, and how old each part is.
    function basis() {
      const parts = [];
      if (c.commits.times.length) {
        const newest = c.commits.times.length - 1;
        parts.push(["budgets of ", c.commits.link(newest), ", " + c.date(c.commits.times[newest])]);
        if (judged) parts[parts.length - 1].push(" (" + c.count(judged) + " kept or exceeded, " + c.count(now.unknown) + " not measured)");
      }
      if (t) {
        const end = Math.min(t.start_s + t.steps * t.step_s, data.made_at_s), old = data.made_at_s - end > 86400;
        parts.push([el("span", { class: old ? "warn-text" : null }, "telemetry until " + c.date(end) + (old ? ", which is old" : ""))]);
      }
      if (alerts !== null && now.evaluated_s) {
        const old = data.made_at_s - now.evaluated_s > 900;
        parts.push([el("span", { class: old ? "warn-text" : null }, "alerts evaluated until " + c.date(now.evaluated_s) + (old ? ", which is old" : ""))]);
      }
      return ["As of ", c.time(data.made_at_s), parts.length ? ": " : "."].concat(parts.flatMap((part, n) => (n ? ["; ", ...part] : part)));
    }

    function attention() {
      const found = (alerts || []).map((a) => ({ kind: "alert", name: a.rule, text: a.what, since: a.since_s, owner: a.owner, runbook: a.runbook, href: c.link("live", { stage: a.labels.pipeline }), spark: course(a) }));
      over.forEach((b) => {
        const series = c.commits.byName.get(b.series), stage = !series && t && t.stages.concat(t.firsts).find((s) => [s.pipeline, s.stage, s.stream].filter(Boolean).join(".") === b.series);
        const more = b.limit ? ", " + logic.signed(b.measured / b.limit - 1) : "";
        found.push({ kind: "budget", name: b.metric, text: (b.figure === "value" ? "" : b.figure.toUpperCase() + " ") + logic.number(b.measured, b.unit) + ", budget " + logic.number(b.limit, b.unit) + more + (series ? "" : " (running)"),
          since: null, owner: data.owners[b.metric], runbook: b.runbook, href: series ? c.link("commits", { series: b.series }) : c.link("live", { stage: stage && c.key(stage) }),
          spark: series ? series.recent : stage ? stage.by_step.slice(-60).map((step) => step[3]) : [] });
      });
      now.regressions.forEach((r) => {
        const series = c.commits.byName.get(r.series);
        found.push({ kind: "regression", name: r.series, text: [logic.number(r.before, r.unit) + " → " + logic.number(r.after, r.unit) + " (" + (r.ratio === null ? "from 0" : logic.signed(r.ratio - 1)) + ") at ", c.commits.link(r.at)],
          since: c.commits.times[r.at], owner: series && series.budget ? data.owners[series.budget.metric] : null, runbook: r.runbook, href: c.link("commits", { series: r.series }), spark: series ? series.recent : [] });
      });
      if (waiting) found.push({ kind: "dead letters", name: c.count(waiting) + " waiting", text: ["resume one with ", el("code", {}, "stageflow dlq replay ID --store LETTERS.db")], since: null, owner: null, runbook: null, href: c.link("live"), spark: [] });
      return found;
    }

    // What an alert is about, as it went: its pipeline's P99 or share of failures.
    function course(a) {
      const of = (rows) => (t ? rows(t).find((s) => !s.stage && s.pipeline === a.labels.pipeline) : undefined);
      const timed = a.kind === "latency" ? of((all) => all.stages) : a.kind === "first_audio" ? of((all) => all.firsts) : undefined;
      const failing = a.kind.endsWith("_rate") ? of((all) => all.stages) : undefined;
      return (timed ? timed.by_step.map((step) => step[3]) : failing ? c.rates(failing).map((rate) => rate[1]) : []).slice(-60);
    }

    function list(some) {
      return el("ul", { class: "findings" }, some.map((row) => el("li", {},
        el("span", { class: "kind" }, row.kind),
        el("div", { class: "what" }, el("a", { href: row.href }, c.name(row.name)), el("span", {}, row.text)),
        row.spark.length > 1 ? c.spark(row.spark, "Its course, newest on the right") : el("span", { class: "spark" }),
        el("span", { class: "quiet since" }, row.since ? "since " + c.date(row.since) : ""),
        el("span", { class: "owner" }, row.owner ? ["owner ", el("b", {}, row.owner)] : ""),
        row.runbook ? c.runbook(row.runbook) : el("span", {}))));
    }

    // The configured series, else those with tails or a budget; then errors and breakers.
    function chosen() {
      const given = (data.charts || []).map((chart) => ({ title: chart.title, series: c.commits.byName.get(chart.series) })).filter((chart) => chart.series);
      if (given.length) return given.slice(0, 4);
      const rank = (s) => (s.tails.P99 ? 0 : 2) + (s.budget ? 0 : 1);
      return c.commits.series.filter((s) => s.recent.length).sort((a, b) => rank(a) - rank(b)).slice(0, 2).map((series) => ({ title: series.name, series }));
    }

    function charts() {
      const tiles = el("div", { class: "small-charts" }), later = [];
      chosen().forEach((one) => later.push(over_commits(tiles, one)));
      if (t && t.stages.length) { later.push(errors(tiles)); breakers(tiles); }
      if (tiles.children.length) place.append(tiles);
      later.forEach((chart) => chart && chart.start());
    }

    function card(tiles, title, value, note, href) {
      const body = el("div", { class: "chart" });
      tiles.append(el("section", { class: "card" }, el("h2", {}, el("a", { href }, c.name(title))), el("p", {}, el("b", {}, value), " ", el("span", { class: "quiet" }, note)), body));
      return body;
    }

    function over_commits(tiles, { title, series }) {
      const value = series.values[series.values.length - 1], tails = ["P95", "P99"].filter((name) => series.tails[name]);
      const lines = [{ name: "P50", of: series, color: tails.length ? "p50" : "accent" }].concat(tails.map((name) => ({ name, of: series.tails[name], color: name.toLowerCase() })));
      const note = [tails.length ? "P50" : "newest"].concat(tails.map((name) => name + " " + logic.number(last(series.tails[name].values), series.unit))).join(", ");
      const body = card(tiles, title, logic.number(value, series.unit), note, c.link("commits", { series: series.name }));
      const xs = [...new Set(lines.flatMap((line) => line.of.x))].sort((a, b) => a - b);
      const data = [xs].concat(lines.map((line) => { const at = new Map(line.of.x.map((x, n) => [x, line.of.values[n]])); return xs.map((x) => (at.has(x) ? at.get(x) : null)); }));
      const limits = series.budget ? [series.budget.p50, series.budget.p99].filter((limit) => limit !== null) : [];
      limits.forEach((limit) => data.push(xs.map(() => limit)));
      const chart = c.charts.draw({
        bare: true, label: title + " over " + logic.plural(h.at_s.length, "commit") + ", newest " + logic.number(value, series.unit) + ".", data, height: 150, group: c.charts.group([-0.5, h.at_s.length - 0.5]),
        lines: [...lines.map((line) => ({ text: line.name, color: line.color, spans: true, dash: { P95: [7, 3], P99: [2, 3] }[line.name], points: xs.length < 30 })), ...limits.map(() => ({ text: "budget", color: "bad", dash: [6, 4], width: 1 }))],
        y: c.charts.room(limits, lines.length), tell: () => "", axes: () => [c.charts.dateAxis(c.commits.times), c.charts.values(series.unit)],
      });
      body.append(chart.figure);
      return chart;
    }

    function errors(tiles) {
      const all = t.stages.filter((s) => s.ended.length), turn = all.filter((s) => !s.stage).sort((a, b) => b.ended.length - a.ended.length)[0] || all[0];
      if (!turn) return null;
      const failed = turn.outcomes.failed || 0, ended = failed + (turn.outcomes.completed || 0);
      const body = card(tiles, "Error rate", logic.percent(ended ? failed / ended : null), turn.pipeline + ", " + c.count(failed) + " of " + c.count(ended), c.link("live", { stage: c.key(turn) }));
      const chart = c.charts.draw({
        bare: true, time: true, label: "Error rate of " + turn.pipeline + ", " + logic.percent(failed / ended) + " over all.", data: c.byStep(t, c.rates(turn), 1), height: 150,
        group: c.charts.group([t.start_s, t.start_s + t.steps * t.step_s]), lines: [{ text: "errors", color: "bad", fill: "bad-fill", points: turn.ended.length < 30 }],
        y: (_u, _min, max) => [0, Math.min(1, Math.max((max || 0) * 1.15, 0.01))], tell: () => "",
        axes: () => [c.charts.timeAxis(), c.charts.axis({ values: (_u, splits) => splits.map(logic.percent) })],
      });
      body.append(chart.figure);
      return chart;
    }

    function breakers(tiles) {
      const open = t.breakers.filter((b) => b.segments.length && b.segments[b.segments.length - 1][1]).length;
      const body = card(tiles, "Breakers", t.breakers.length ? (open ? "✗ " + open + " not closed" : "✓ all closed") : "no change", t.breakers.length ? logic.plural(t.breakers.length, "provider") : "in the time shown", c.link("live"));
      if (t.breakers.length) body.append(c.lanes(t, t.breakers.slice(0, 4), null, true));
      else body.append(el("p", { class: "quiet" }, "No circuit breaker has changed its state; an idle breaker reports nothing."));
    }

    function last(values) { return values[values.length - 1]; }

    function absent() {
      const found = [];
      if (!h.series.length) found.push(["measured commits", c.run("stageflow pulse bench"), " measures the newest ones and publishes them."]);
      else if (!judged) found.push(["budgets", c.run("stageflow pulse bench"), " measures the newest commits, ", c.run("stageflow pulse gate"), " also times them."]);
      if (!t) found.push(["telemetry", c.run("stageflow run PIPELINE --telemetry FILE.db"), " records a turn, ", c.run("stageflow pulse serve --store FILE.db"), " shows it live."]);
      if (alerts === null) found.push(["alerts", c.run("stageflow pulse alert --store FILE.db"), " evaluates the rules on a file of telemetry."]);
      if (!data.gate.runs.length) found.push(["gate runs", c.run("stageflow pulse gate"), " judges this commit, and records the run."]);
      if (data.load && !data.load.loads.length) found.push(["load", c.run(data.load.command), " starts one, and records what became of it."]);
      if (data.figures && !data.figures.runs.length) found.push([data.figures.link.toLowerCase(), c.run(data.figures.command), " measures and records these figures."]);
      return found;
    }

    function accepted() {
      const made = el("div", {});
      if (now.known.length) made.append(c.table("Regressions that are known", [["Series"], ["Since"], ["Before", true], ["Now", true], ["Change", true]], now.known.map((r) => [el("a", { href: c.link("commits", { series: r.series }) }, c.name(r.series)), c.commits.link(r.at), logic.number(r.before, r.unit), logic.number(r.after, r.unit), r.ratio === null ? "from 0" : logic.signed(r.ratio - 1)])));
      if (now.accepted.length) made.append(c.table("benchmarks/accepted.toml", [["Series"], ["Up to", true], ["Reason"], ["Until"], ["Owner"]], now.accepted.map((a) => [c.name(a.series), a.up_to === null ? "any" : "× " + a.up_to, a.reason, el("span", { class: a.counts ? null : "bad-text" }, a.until + (a.counts ? "" : ": over")), a.owner])));
      return made;
    }
  },
};
