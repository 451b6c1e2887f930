// Running pipelines: one range and one cursor over all panels. A simulation has the same panels.
(() => {
  "use strict";
  const c = central, el = c.el, STATES = ["closed", "half_open", "open"], WORDS = ["closed", "half-open", "open"], CODES = 5;

  c.views.live = {
    title: "Live", live: true,
    render(place, params) {
      const t = c.data.telemetry;
      if (t) panels(place, t, params);
      else c.section(place, "latency", "Running pipelines").append(c.noTelemetry());
    },
  };
  c.views.simulation = {
    title: "Simulation", live: true,
    render(place, params) {
      const t = c.data.simulation;
      if (!t) { c.section(place, "latency", "Simulation").append(el("p", { class: "empty" }, "No telemetry of a simulation is shown.")); return; }
      place.append(el("p", { class: "banner" }, el("b", {}, "This is a simulation. "), "These runs were made in virtual time, as a rehearsal; times are counted from its start, and nothing of it counts as wrong now."));
      c.asVirtual(t.start_s);
      panels(place, t, params);
    },
  };

  function panels(place, t, params) {
    const end = t.start_s + t.steps * t.step_s, view = logic.parse(location.hash).view;
    const rows = t.stages.filter((s) => s.percentiles[0] !== null || s.ended.length);
    if (!rows.length) { c.section(place, "latency", "Running pipelines").append(el("p", { class: "empty" }, "No run or stage has ended in ", el("code", {}, t.store), " in the time shown.")); return; }
    rows.forEach((s) => { s.failed = s.outcomes.failed || 0; s.all = s.failed + (s.outcomes.completed || 0); });
    const stage = rows.find((s) => c.key(s) === params.stage) || rows.find((s) => !s.stage) || rows[0];
    const group = c.charts.group([t.start_s, end], logic.range(params.range), (low, high, full) => c.keep({ range: full ? null : Math.round(low) + ".." + Math.round(high) }));
    group.least = 2 * t.step_s;
    c.group = group;

    const few = t.sources.slice(0, 3), rest = t.sources.length - few.length;
    const showing = el("span", {}), bar = el("div", { class: "tools range" }, presets(), group.tools(), showing);
    group.follow(([low, high]) => { showing.textContent = c.date(low) + " to " + c.date(high) + ", in steps of " + logic.span(t.step_s); });
    place.append(el("p", { class: "quiet" }, "From ", el("code", {}, t.store), ", written by " + few.join(", ") + (rest ? " and " + rest + " more" : "") + "."), bar);

    const charts = [];
    choose();
    let cell = logic.range(params.cell) && { step: Number(params.cell.split("..")[0]), row: Number(params.row) };
    charts.push(durations("latency", "Latency: " + c.named(stage), stage, c.named(stage), "Latency"));
    const runs = c.section(place, "runs", "Where the time goes: " + logic.clipped(stage.pipeline));
    shownRuns(cell);
    charts.push(errors());
    const firsts = t.firsts.filter((f) => f.pipeline === stage.pipeline && f.percentiles[0] !== null);
    if (firsts.length) charts.push(first(firsts));
    usage();
    breakers();
    charts.forEach((chart) => chart && chart.start());

    function presets() {
      /** @type {[number, string][]} */
      const ranges = [[900, "15 min"], [3600, "1 h"], [6 * 3600, "6 h"], [86400, "24 h"], [7 * 86400, "7 days"]], found = ranges.filter(([length]) => length < end - t.start_s && length >= 4 * t.step_s);
      return found.map(([length, text]) => el("button", { type: "button", class: "small", onclick: () => group.set(end - length, end) }, "Last " + text));
    }

    // ── pipelines and stages ──

    function choose() {
      const body = c.section(place, "stages", "Pipelines and stages");
      const rate = (s) => (s.all ? s.failed / s.all : null);
      body.append(c.grid({
        label: "Pipelines and stages", caption: "Choose a row to draw it. ≈: read from a histogram, within 2.5 %. *: of too few samples, a guess.", rows, page: 12, state: "find", placeholder: "Filter stages", filter: (s) => c.named(s) + " " + Object.keys(s.codes).join(" "),
        chosen: (s) => s === stage,
        columns: [{ title: "Stage", sort: c.named }, { title: "Course" }, { title: "Ended", number: true, sort: (s) => s.all }, { title: "Errors", number: true, sort: rate }, { title: "P50", number: true, sort: (s) => s.percentiles[0] }, { title: "P95", number: true, sort: (s) => s.percentiles[1] },
          { title: "P99", number: true, sort: (s) => s.percentiles[2] }, { title: "Budget", number: true }, { title: "Verdict" }],
        cells: (s) => [el("a", { href: c.link(view, { ...c.params(), stage: c.key(s), cell: null, row: null }) }, c.named(s)), c.spark(s.by_step.slice(-60).map((step) => step[3])), c.count(s.all), el("span", { class: s.failed ? "bad-text" : null }, logic.percent(rate(s))),
          c.percentile(s.percentiles[0], s.count, 50), c.percentile(s.percentiles[1], s.count, 95), c.percentile(s.percentiles[2], s.count, 99), budget(s), verdict(s)],
      }));
    }

    function budget(s) { return s.budget ? [logic.number(s.budget.p50, "ms"), s.budget.p99 === null ? null : logic.number(s.budget.p99, "ms")].filter(Boolean).join(" / ") : "–"; }
    function verdict(s) {
      if (!s.budget) return "–";
      const over = t.over.filter((row) => row.series === [s.pipeline, s.stage, s.stream].filter(Boolean).join(".") && row.metric === s.budget.metric);
      if (over.length) return el("span", { class: "bad-text" }, "✗ " + over.map((row) => row.figure.toUpperCase()).join(", ") + " over");
      return logic.isFew(s.count, 99) ? el("span", { class: "quiet" }, "too few samples") : el("span", { class: "good-text" }, "✓ within");
    }

    // ── durations, as lines over a heat map ──

    function durations(id, title, one, name, what) {
      const body = c.section(place, id, title), heat = one.heat, data = c.byStep(t, one.by_step, 3), counts = new Map();
      if (!heat.cells.length) { body.append(el("p", { class: "empty" }, "Nothing completed or failed here in the time shown.")); return null; }
      for (let n = 0; n < heat.cells.length; n += 3) counts.set(heat.cells[n], (counts.get(heat.cells[n]) || 0) + heat.cells[n + 2]);
      const limits = one.budget ? [["P50", one.budget.p50, [2, 4]], ["P99", one.budget.p99, [6, 4]]].filter(([, limit]) => limit !== null) : [];
      limits.forEach(([, limit]) => data.push(data[0].map(() => limit)));
      const highest = limits.length ? limits[limits.length - 1][1] : 0, short = data[0].length < 30;
      const chart = c.charts.draw({
        label: what + " of " + name + ", P50 " + logic.number(one.percentiles[0], "ms") + ", P95 " + logic.number(one.percentiles[1], "ms") + ", P99 " + logic.number(one.percentiles[2], "ms") + " of " + c.count(one.count) + ".",
        data, height: 260, group, time: true, log: true,
        lines: [...[["P50", "p50"], ["P95", "p95", [7, 3]], ["P99", "p99", [2, 3]]].map(([text, color, dash]) => ({ text, color, dash, width: 2, points: short })), ...limits.map(([of, limit, dash]) => ({ text: "budget of " + of + ", " + logic.number(limit, "ms"), color: "bad", dash }))],
        marks: [{ class: "block heat", text: "the stronger the colour, the more took that long" + (one.stage || one.stream ? "" : "; click a cell for its runs") }],
        y: () => { const top = heat.bounds_ms[heat.bounds_ms.length - 1]; const low = heat.bounds_ms[0], room = Math.max(1.1, 3 / Math.sqrt(top / low)); return [low / room, Math.max(top * room, highest ? Math.min(highest * 1.2, top * 30) : 0)]; },
        axes: () => [c.charts.timeAxis(), c.charts.logValues("ms", "logarithmic")],
        hooks: { drawAxes: [(u) => cells(u, heat, id === "latency" ? cell : null)] },
        onclick: id === "latency" ? picked : null, tell,
      });
      body.append(chart.figure, c.behind("The numbers, step by step", () => c.table("", [["From"], ["Ended", true], ["P50", true], ["P95", true], ["P99", true]], one.by_step.map((row) => [c.date(t.start_s + row[0] * t.step_s), c.count(counts.get(row[0]) || 0)].concat(row.slice(1).map((value) => logic.number(value, "ms")))).reverse())));
      return chart;

      function picked(_at, x, y) {
        const step = Math.floor((x - t.start_s) / t.step_s), row = heat.bounds_ms.findIndex((bound, n) => bound <= y && y < heat.bounds_ms[n + 1]);
        if (row < 0) return;
        shownRuns((cell = { step, row }));
        chart.u.redraw(false);
        c.keep({ cell: step + ".." + (step + 1), row });
        runs.parentNode.scrollIntoView({ block: "nearest" });
      }
      function tell(index) {
        const d = chart.data, step = Math.round((d[0][index] - t.start_s) / t.step_s - 0.5);
        return [c.time(t.start_s + step * t.step_s), " + " + logic.span(t.step_s) + ": ", el("b", {}, "P50 " + logic.number(d[1][index], "ms") + ", P95 " + logic.number(d[2][index], "ms") + ", P99 " + logic.number(d[3][index], "ms")), " of " + c.count(counts.get(step) || 0)];
      }
    }

    function cells(u, heat, chosen) {
      const ctx = u.ctx, most = heat.cells.reduce((high, value, n) => (n % 3 === 2 ? Math.max(high, value) : high), 0);
      ctx.save();
      ctx.beginPath();
      ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      ctx.clip();
      ctx.fillStyle = c.color("heat");
      const box = (step, row) => {
        const from = t.start_s + step * t.step_s, left = Math.round(u.valToPos(from, "x", true)), right = Math.round(u.valToPos(from + t.step_s, "x", true));
        const low = Math.round(u.valToPos(heat.bounds_ms[row], "y", true)), high = Math.round(u.valToPos(heat.bounds_ms[row + 1], "y", true));
        return [left, high, Math.max(1, right - left), Math.max(1, low - high)];
      };
      for (let n = 0; n < heat.cells.length; n += 3) {
        const from = t.start_s + heat.cells[n] * t.step_s;
        if (from + t.step_s < u.scales.x.min || from > u.scales.x.max) continue;
        // By logarithm: one slow run among a thousand is to be seen.
        ctx.globalAlpha = 0.1 + (0.6 * Math.log1p(heat.cells[n + 2])) / Math.log1p(most);
        ctx.fillRect(...box(heat.cells[n], heat.cells[n + 1]));
      }
      ctx.globalAlpha = 1;
      if (chosen && chosen.row + 1 < heat.bounds_ms.length) {
        ctx.strokeStyle = c.color("text");
        ctx.lineWidth = 2 * (devicePixelRatio || 1);
        ctx.strokeRect(...box(chosen.step, chosen.row));
      }
      ctx.restore();
    }

    // ── single runs ──

    function shownRuns(at) {
      const found = t.runs.find((r) => r.pipeline === stage.pipeline);
      runs.replaceChildren();
      if (!found) return;
      if (at && !Number.isNaN(at.row) && found.examples) ofCell(at, found.examples);
      runs.append(el("p", { class: "quiet" }, "Strong bars (●) are the critical path: what the turn waited for."),
        el("div", { class: "two" }, oneRun("A typical turn (P50)", found.typical), oneRun("A slow turn (P99)", found.slow)));
    }

    // The slowest runs on record of a step and a row of the heat map, and what they have in common.
    function ofCell(at, examples) {
      const turn = rows.find((s) => s.pipeline === stage.pipeline && !s.stage), bounds = turn ? turn.heat.bounds_ms : [];
      const own = stage === turn ? [bounds[at.row], bounds[at.row + 1]] : [0, Infinity];
      const inStep = (run) => Math.floor((run[1] - t.start_s) / t.step_s) === at.step;
      const chosen = examples.filter((run) => inStep(run) && run[2] >= own[0] * 0.97 && run[2] <= own[1] * 1.03);
      const providers = new Map();
      t.breakers.forEach((b) => b.newest.forEach((x) => providers.set(x.pipeline + "/" + x.stage, b.provider)));
      t.letters.newest.forEach((x) => providers.set(x.pipeline + "/" + x.failed_stage, x.provider));
      const dimensions = { "the slowest stage is": (r) => r[7], "they failed in": (r) => r[4], "the error is": (r) => r[5], "the process is": (r) => r[6], "the provider is": (r) => providers.get(stage.pipeline + "/" + (r[4] || r[7])) };
      const shared = logic.common(chosen, examples, dimensions);
      const when = c.date(t.start_s + at.step * t.step_s) + " + " + logic.span(t.step_s);
      const close = el("button", { type: "button", class: "small", onclick: () => { c.keep({ cell: null, row: null }); shownRuns((cell = null)); charts[0].u.redraw(false); } }, "Close");
      runs.append(el("div", { class: "cell" }, el("h3", {}, "Runs of " + when + (stage === turn ? ", " + logic.number(own[0], "ms") + " to " + logic.number(own[1], "ms") : ""), " ", close),
        chosen.length ? el("p", { id: "common" }, shared.length ? ["In common: "].concat(shared.slice(0, 3).flatMap((one, n) => [n ? "; " : "", one.dimension + " ", el("b", {}, one.value), " in " + logic.percent(one.share) + " (" + logic.percent(one.usual) + " of all)"])).concat(".") : "They have nothing in common that others do not have.") : null,
        chosen.length ? c.grid({
          label: "Runs of the cell", rows: chosen.slice(0, 50), page: 8,
          columns: [{ title: "Run" }, { title: "Ended" }, { title: "Took", number: true, sort: (r) => r[2] }, { title: "Status" }, { title: "Slowest stage" }, { title: "Failed in" }, { title: "Code" }, { title: "Process" }],
          cells: (r) => [el("code", {}, r[0]), c.time(r[1]), logic.number(r[2], "ms"), el("span", { class: r[3] === "failed" ? "bad-text" : null }, r[3]), r[7] || "–", r[4] || "–", r[5] || "–", r[6]],
        }) : el("p", { class: "empty" }, "No run of this cell is kept: only the slowest ones of each step are.")));
    }

    function oneRun(title, run) {
      if (!run) return el("div", {}, el("h3", {}, title), el("p", { class: "empty" }, "Its events have been pruned."));
      const total = run.total_ms || 1, SHOWN = 40;
      const bars = run.bars.slice(0, SHOWN).map((bar) => {
        const took = bar.end_ms - bar.start_ms, drawn = el("span", { class: "bar" });
        drawn.style.left = (100 * bar.start_ms) / total + "%";
        drawn.style.width = Math.max(0, (100 * took) / total) + "%";
        return el("li", { class: (bar.critical ? "critical " : "") + bar.status, title: bar.stage + ": " + bar.status + ", from " + logic.number(bar.start_ms, "ms") + " on" + (bar.note ? ": " + bar.note : "") },
          el("span", { class: "name" }, logic.clipped(bar.stage)), el("span", { class: "track", "aria-hidden": "true" }, drawn), el("span", { class: "took" }, (bar.critical ? "● " : "") + (bar.status === "failed" ? "✗ " : "") + logic.number(took, "ms")));
      });
      return el("div", {}, el("h3", {}, title + ": " + logic.number(run.total_ms, "ms") + ", " + run.status),
        el("p", { class: "quiet" }, c.time(run.at_s), " · ", el("code", {}, run.run_id), run.note ? " · " + logic.clipped(run.note) : ""), el("ol", { class: "run" }, bars),
        run.bars.length > SHOWN ? el("p", { class: "quiet" }, c.count(run.bars.length - SHOWN) + " more stages") : null);
    }

    // ── errors by code ──

    function errors() {
      const body = c.section(place, "errors", "Error rate: " + c.named(stage));
      const sums = Object.entries(stage.codes).map(([code, pairs]) => [code, pairs.reduce((sum, [, n]) => sum + n, 0)]).sort((a, b) => b[1] - a[1]);
      body.append(el("p", {}, stage.all ? [el("b", {}, logic.percent(stage.failed / stage.all)), ": " + c.count(stage.failed) + " of " + c.count(stage.all) + " that ended. ", sums.map(([code, n]) => code + " " + c.count(n)).slice(0, 8).join(", ")] : "Nothing has ended."));
      if (!stage.failed) return null;
      const names = sums.slice(0, CODES).map(([code]) => code), others = sums.slice(CODES).map(([code]) => code);
      const counts = names.map((code) => new Map(stage.codes[code]));
      if (others.length) {
        const sum = new Map();
        others.forEach((code) => stage.codes[code].forEach(([at, n]) => sum.set(at, (sum.get(at) || 0) + n)));
        counts.push(sum);
        names.push(logic.plural(others.length, "other code"));
      }
      const rates = c.rates(stage), byStep = stage.ended.map(([at, ended], n) => [at, rates[n][1]].concat(counts.map((of) => (ended ? (of.get(at) || 0) / ended : null))));
      const data = c.byStep(t, byStep, names.length + 1), short = data[0].length < 30;
      const chart = c.charts.draw({
        label: "Error rate of " + c.named(stage) + ", " + logic.percent(stage.failed / stage.all) + " over all.", data, height: 190, group, time: true,
        lines: [{ text: "all errors", color: "text", width: 2, points: short }, ...names.map((text, n) => ({ text, color: "c" + (n + 1), points: short, dash: n ? [4 + 2 * n, 2 + n] : undefined }))],
        y: (_u, _min, max) => [0, Math.min(1, Math.max((max || 0) * 1.1, 0.01))], axes: () => [c.charts.timeAxis(), c.charts.axis({ label: "share of what ended", values: (_u, splits) => splits.map(logic.percent) })],
        tell: (index) => [c.time(chart.data[0][index] - t.step_s / 2), " + " + logic.span(t.step_s) + ": ", el("b", {}, logic.percent(chart.data[1][index])), names.map((name, n) => (chart.data[n + 2][index] ? ", " + name + " " + logic.percent(chart.data[n + 2][index]) : "")).join("")],
      });
      body.append(chart.figure, c.behind("The numbers, step by step", () => c.table("", [["From"], ["Ended", true], ["Error rate", true]].concat(names.map((name) => [name, true])), byStep.map((row, n) => [c.date(t.start_s + row[0] * t.step_s), c.count(stage.ended[n][1])].concat(row.slice(1).map(logic.percent))).reverse())));
      return chart;
    }

    // ── first audio and first items ──

    function first(firsts) {
      const chosen = firsts.find((f) => c.key(f) === params.first) || firsts.find((f) => !f.stage) || firsts[0];
      const chart = durations("firsts", "Time to first: " + c.firstNamed(chosen), chosen, c.firstNamed(chosen), "Time to first");
      document.getElementById("firsts-title").parentElement.after(c.grid({
        label: "Firsts", caption: "First audio is timed from the start of the turn, the first item of a stream from the start of its stage.", rows: firsts, page: 8, chosen: (f) => f === chosen,
        columns: [{ title: "First" }, { title: "Times", number: true }, { title: "P50", number: true }, { title: "P95", number: true }, { title: "P99", number: true }, { title: "Budget", number: true }, { title: "Verdict" }],
        cells: (f) => [el("a", { href: c.link(view, { ...c.params(), first: c.key(f) }) }, c.firstNamed(f)), c.count(f.count), c.percentile(f.percentiles[0], f.count, 50), c.percentile(f.percentiles[1], f.count, 95), c.percentile(f.percentiles[2], f.count, 99), budget(f), verdict(f)],
      }));
      return chart;
    }

    // ── usage of models and speech ──

    function usage() {
      const sums = new Map();
      t.usage.forEach(([pipeline, provider, unit, at, amount]) => {
        const key = [pipeline, provider, unit].join(" · ");
        if (!sums.has(key)) sums.set(key, { key, pipeline, provider, unit, all: 0, course: new Array(t.steps).fill(0) });
        sums.get(key).all += amount;
        sums.get(key).course[at] += amount;
      });
      if (!sums.size) return;
      c.section(place, "usage", "Usage").append(c.grid({
        label: "Usage", caption: "What a UsageInterceptor has reported in the time shown. The cost is in the currency of its prices.", rows: [...sums.values()], page: 12,
        columns: [{ title: "Pipeline", sort: (u) => u.key }, { title: "Provider" }, { title: "Unit" }, { title: "Course" }, { title: "Used", number: true, sort: (u) => u.all }],
        cells: (u) => [c.name(u.pipeline), c.name(u.provider), { audio_s: "seconds of sound" }[u.unit] || u.unit.replace("_", " "), c.spark(u.course.slice(-60)), logic.number(u.all, "")],
      }));
    }

    // ── breakers and dead letters ──

    function breakers() {
      const body = c.section(place, "breakers", "Circuit breakers and dead letters"), letters = t.letters;
      const lanes = t.breakers.slice(), known = lanes.map((b) => b.provider);
      letters.marks.forEach(([provider]) => { if (!known.includes(provider)) { known.push(provider); lanes.push({ provider, segments: [], changes: 0, newest: [] }); } });
      if (!lanes.length) { body.append(el("p", { class: "quiet" }, "No circuit breaker has changed its state and no letter is dead in the time shown. An idle breaker reports nothing, so this is not a proof of health.")); return; }
      body.append(el("p", { class: "legend" }, [["closed", "block closed"], ["half-open", "block half_open"], ["open", "block open"], ["dead letters", "dead"]].map(([text, of]) => el("span", {}, el("i", { class: of }), text))), c.lanes(t, lanes, group, false));
      const changes = t.breakers.flatMap((b) => b.newest).sort((a, b) => b.at_s - a.at_s);
      if (changes.length) body.append(c.behind("The newest changes of state", () => c.table("", [["Provider"], ["When"], ["From"], ["To"], ["Why"], ["Stage"], ["Process"]], changes.map((x) => [x.provider, c.time(x.at_s), x.before.replace("_", "-"), x.after.replace("_", "-"), x.reason, x.pipeline + " · " + x.stage, x.source]))));
      if (letters.count) body.append(c.behind("The newest dead letters (" + c.count(letters.newest.length) + " of " + c.count(letters.count) + "; " + c.count(letters.waiting) + " wait)", () => el("div", {},
        el("p", {}, "To resume one at the stage that failed: ", el("code", {}, "stageflow dlq replay ID --store LETTERS.db")),
        c.table("", [["Letter"], ["When"], ["Pipeline"], ["Failed stage"], ["Provider"], ["Code"], ["State"]], letters.newest.map((x) => [el("code", {}, x.dead_letter_id), c.time(x.at_s), x.pipeline, x.failed_stage || "–", x.provider || "–", x.error_code, x.replayed_s === null ? el("span", { class: "warn-text" }, "waits") : "replayed"])))));
    }
  }

  // The states of breakers in time, with dead letters on them; a group moves their range and cursor.
  c.lanes = (t, lanes, group, small) => {
    const end = t.start_s + t.steps * t.step_s, grid = el("div", { class: small ? "lanes small" : "lanes" });
    const cursors = [], drawn = [];
    lanes.forEach((lane) => {
      const bar = el("div", { class: lane.segments.length ? "lane" : "lane unknown", role: "img", tabindex: small ? null : "0" }), moving = el("div", { class: "moving" }), cursor = el("div", { class: "cursor", hidden: true });
      let open = 0, times = 0, last = 0, dead = 0;
      lane.segments.forEach((segment, n) => {
        const until = n + 1 < lane.segments.length ? lane.segments[n + 1][0] : end;
        last = segment[1];
        if (last === 2) { open += until - segment[0]; times++; }
        if (last) put(moving, el("span", { class: STATES[last], title: WORDS[last] + " from " + c.date(segment[0]) + " for " + logic.span(until - segment[0]) }), segment[0], until);
      });
      const each = Math.max(1, Math.ceil(t.steps / (innerWidth < 640 ? 24 : 60))), places = new Map();
      t.letters.marks.forEach(([provider, at, n]) => {
        if (provider !== lane.provider) return;
        dead += n;
        places.set(Math.floor(at / each), (places.get(Math.floor(at / each)) || 0) + n);
      });
      places.forEach((n, at) => {
        const from = t.start_s + Math.min((at + 0.5) * each, t.steps) * t.step_s;
        put(moving, el("span", { class: "letter", title: logic.plural(n, "dead letter") + " around " + c.date(from) }), from, from);
      });
      const words = (lane.segments.length ? "now " + WORDS[last] + (small ? "" : ", " + (times ? "open " + logic.plural(times, "time") + " for " + logic.span(open) + " in all" : "never open")) : "no breaker has changed") + (dead && !small ? ", " + logic.plural(dead, "dead letter") : "");
      const name = logic.clipped(lane.provider || "no provider");
      bar.setAttribute("aria-label", name + ": " + words);
      bar.append(moving, cursor);
      cursors.push(cursor);
      drawn.push(moving);
      grid.append(el("div", {}, el("b", {}, name), " ", el("small", { class: "quiet" }, words)), bar);
    });
    function put(parent, mark, from, until) {
      mark.style.left = (100 * (from - t.start_s)) / (end - t.start_s) + "%";
      if (until > from) mark.style.width = (100 * (until - from)) / (end - t.start_s) + "%";
      parent.append(mark);
    }
    const ticks = el("div", { class: "ticks", "aria-hidden": "true" });
    grid.append(ticks);
    const move = ([low, high], x) => {
      const width = (end - t.start_s) / (high - low);
      drawn.forEach((moving) => { moving.style.width = 100 * width + "%"; moving.style.left = (-100 * (low - t.start_s)) / (high - low) + "%"; });
      cursors.forEach((cursor) => { cursor.hidden = x === null; if (x !== null) cursor.style.left = (100 * (x - low)) / (high - low) + "%"; });
      if (x !== null) return;
      const COUNT = small || innerWidth < 1000 ? 3 : 7, form = c.charts.timeForm(high - low, (high - low) / (COUNT - 1));
      const labels = logic.distinct(Array.from({ length: COUNT }, (_, n) => c.date(low + ((high - low) * n) / (COUNT - 1), form)));
      ticks.replaceChildren(...labels.map((label, n) => {
        const tick = el("span", {}, label);
        tick.style.left = (100 * n) / (COUNT - 1) + "%";
        return tick;
      }));
    };
    if (group) group.follow(move);
    else move([t.start_s, end], null);
    return grid;
  };
})();
