// What each series costs over the commits: a list, one series in detail, two commits side by side.
central.views.commits = {
  title: "Commits",
  render(place, params) {
    "use strict";
    const c = central, el = c.el, h = c.data.history, commits = c.commits, last = commits.hashes.length - 1;
    let beside = () => {};
    if (!h.series.length) {
      c.section(place, "history", "Cost over commits").append(c.empty("No commit of this branch has been measured. ", c.run("stageflow pulse bench"), " measures the newest ones and publishes them here."));
      return;
    }
    const series = params.series && commits.byName.get(params.series);
    if (params.series && !series) place.append(el("p", { class: "note" }, "No series is called “" + params.series + "”; it was renamed, or nothing has measured it."));
    if (series) detail(series.tailOf || series);
    else list();
    compare();

    // ── all series ──

    function list() {
      const body = c.section(place, "history", "Cost over commits");
      body.append(el("p", { class: "quiet" }, logic.plural(last + 1, "commit") + ", " + logic.plural(h.series.length, "series").replace(/ss$/, "s") + ", measured on " + h.machine +
        (h.elsewhere ? "; results of " + logic.plural(h.elsewhere, "other machine or environment").replace(/environments$/, "environments") + " are under All benchmarks" : "") + ". Noise is the scatter from commit to commit; a change is of the newest value against the ten before it, ± its 99 % interval."));
      const only = params.only || "", rows = commits.series.filter((s) => !only || (only === "budget" ? s.budget : only === "wrong" ? ["bad", "warn"].includes(commits.verdictOf(s).state) : s.signal === only));
      const kinds = [["", "all series"], ["wrong", "what needs attention"], ["budget", "with a budget"], ["exact", "exact"], ["counted", "counted"], ["timed", "timed"], ["history", "not judged"]];
      const select = el("select", { onchange: () => c.go("commits", { ...c.params(), only: select.value }) }, kinds.map(([value, text]) => el("option", { value, selected: value === only }, text)));
      const rank = { bad: 0, warn: 1, good: 2, "": 3 };
      rows.sort((a, b) => rank[commits.verdictOf(a).state] - rank[commits.verdictOf(b).state] || Number(Boolean(b.budget)) - Number(Boolean(a.budget)) || (a.name < b.name ? -1 : 1));
      body.append(c.grid({
        label: "Series", rows, state: "find", page: 40, placeholder: "Filter by name, unit or verdict", filter: (s) => s.name + " " + s.unit + " " + s.signal + " " + commits.verdictOf(s).text,
        tools: el("label", { class: "inline" }, "Show", select),
        columns: [{ title: "Series", sort: (s) => s.name }, { title: "Course" }, { title: "Newest", number: true, sort: (s) => newest(s) }, { title: "P99", number: true, sort: (s) => s.tails.P99 && newest(s.tails.P99) },
          { title: "Change", number: true, hint: "Against the median of the ten values before, with its 99 % interval", sort: (s) => (s.change ? s.change.share : null) },
          { title: "Budget used", number: true, sort: (s) => used(s) }, { title: "Noise", number: true, hint: "Scatter from one commit to the next, as a standard deviation", sort: (s) => s.noise },
          { title: "Samples", number: true, hint: "Behind the newest value", sort: (s) => s.samples }, { title: "Verdict", sort: (s) => rank[commits.verdictOf(s).state] }],
        cells: (s) => [el("a", { href: c.link("commits", { series: s.name }) }, c.name(s.name)), c.spark(s.recent), shown(s), s.tails.P99 ? logic.number(newest(s.tails.P99), s.unit) : "–", changed(s),
          used(s) === null ? "–" : logic.percent(used(s)), s.noise === null ? "–" : logic.percent(s.noise), s.samples === null ? "1" : c.count(s.samples), verdict(s)],
      }));
    }

    function newest(s) { return s.values[s.values.length - 1]; }
    function shown(s) {
      const text = logic.number(newest(s), s.unit), behind = last - s.x[s.x.length - 1];
      return behind ? el("span", {}, text, el("small", { class: "quiet old" }, " " + logic.plural(behind, "commit") + " ago")) : text;
    }
    function used(s) { return s.budget && s.budget.p50 ? newest(s) / s.budget.p50 : null; }
    function changed(s) {
      if (!s.change) return "–";
      if (!s.change.share && !s.change.within) return "=";
      return logic.signed(s.change.share) + (s.change.within === null ? "" : " ± " + logic.percent(s.change.within));
    }
    function verdict(s) {
      const found = commits.verdictOf(s);
      return el("span", { class: found.state ? found.state + "-text" : "quiet" }, found.text);
    }
    function stepped(step) { return step[1] ? (step[2] > step[1] ? "▲ " : "▼ ") + logic.signed(step[2] / step[1] - 1) : "▲ from 0"; }

    // ── one series ──

    function detail(s) {
      const found = commits.verdictOf(s), tails = Object.keys(s.tails).sort();
      const body = c.section(place, "history", s.name, el("a", { class: "back", href: c.link("commits", { ...params, series: null, at: null }) }, "All series"));
      const lines = [{ text: tails.length ? "P50" : s.unit || "value", of: s, color: tails.length ? "p50" : "accent" }].concat(tails.map((name) => ({ text: name, of: s.tails[name], color: name.toLowerCase(), dash: name === "P95" ? [7, 3] : [2, 3] })));
      const limits = s.budget ? [["P50", s.budget.p50, [6, 4]], ["P99", s.budget.p99, [2, 4]]].filter(([, limit]) => limit !== null) : [];
      const steps = new Map(s.steps.map((step) => [step[0], step])), releases = new Map((h.releases || []).map(([at, name]) => [at, name]));
      body.append(el("div", { class: "facts" },
        fact("Newest", shown(s)), tails.map((name) => fact(name, logic.number(newest(s.tails[name]), s.unit))), fact("Change", changed(s)), fact("Noise", s.noise === null ? "too few values" : logic.percent(s.noise)),
        fact("Samples", s.samples === null ? "1" : c.count(s.samples)), s.budget ? fact("Budget", limits.map(([name, limit]) => name + " " + logic.number(limit, s.unit)).join(", ")) : null,
        s.budget ? fact("Owner", c.data.owners[s.budget.metric]) : null, s.budget ? fact("What to do", c.runbook(s.budget.runbook)) : null, fact("Verdict", el("span", { class: found.state ? found.state + "-text" : null }, found.text))));
      let asked = "";
      const group = c.charts.group([-0.5, last + 0.5], logic.range(params.at), (low, high, full) => { c.keep({ at: full ? null : low.toFixed(2) + ".." + high.toFixed(2) }); closer(low, high, full); });
      group.least = 2;
      const chart = c.charts.draw({
        label: s.name + " over " + logic.plural(last + 1, "commit") + "; newest " + logic.number(newest(s), s.unit) + (s.budget ? ", budget " + logic.number(s.budget.p50, s.unit) : "") + ". " + logic.plural(s.steps.length, "step") + ".",
        data: columns(lines.map((line) => [line.of.x, line.of.values])), height: 300, group, tools: true,
        lines: [...lines.map((line) => ({ ...line, spans: true, points: s.x.length < 120 })), ...limits.map(([name, limit, dash]) => ({ text: "budget of " + name + ", " + logic.number(limit, s.unit), color: "bad", dash }))],
        marks: [s.steps.length ? { class: "dash", text: "▲ step up, ▼ step down" } : null, releases.size ? { class: "dots", text: "⚑ release" } : null, s.noise ? { class: "block band", text: "99 % of its noise" } : null].filter(Boolean),
        y: c.charts.room(limits.map(([, limit]) => limit), lines.length), axes: () => [c.charts.dateAxis(commits.times, "commits, evenly spaced"), c.charts.values(s.unit, s.unit || "value")],
        tell, onenter: open, onclick: (at) => { c.keep({ b: commits.hashes[at], a: params.a || commits.hashes[Math.max(0, at - 1)] }); beside(); },
        hooks: { drawAxes: [(u) => band(u, s)], draw: [(u) => marks(u, s, releases)] },
      });
      body.append(chart.figure);
      chart.start();
      c.chart = chart;
      closer(...group.range, group.full());
      const before = Math.max(0, last - 1);
      body.append(el("p", { class: "quiet" }, "Click a point to compare its commit with the one before; Enter opens the commit. Where the time goes: ", el("code", {}, "stageflow pulse profile OPERATION --base " + commits.hashes[before] + " --head " + commits.hashes[last]), " draws both flame graphs."),
        c.behind("The numbers: steps, and what is drawn", () => numbers(s)));

      function open(at) { if (c.site.grid) location.href = "commits.html#" + commits.hashes[at]; }

      // One column of x, in which each line has its values or a gap.
      function columns(parts) {
        const xs = [...new Set(parts.flatMap(([at]) => at))].sort((a, b) => a - b);
        return [xs].concat(parts.map(([at, values]) => { const by = new Map(at.map((x, n) => [x, values[n]])); return xs.map((x) => (by.has(x) ? by.get(x) : null)); }), limits.map(([, limit]) => xs.map(() => limit)));
      }

      function tell(index) {
        const at = chart.data[0][index], step = steps.get(at), known = at !== undefined && commits.pieces[Math.floor(at / h.piece)];
        if (at === undefined) return "";
        const values = lines.map((line, n) => (chart.data[n + 1][index] === null ? null : (tails.length ? line.text + " " : "") + logic.number(chart.data[n + 1][index], s.unit))).filter(Boolean);
        return [commits.link(at), " ", c.time(commits.times[at]), ": ", el("b", {}, values.join(", ")), step ? el("b", { class: step[2] > step[1] ? "bad-text" : "good-text" }, " " + stepped(step)) : "", releases.has(at) ? " ⚑ " + releases.get(at) : "", known ? " " + known.subjects[at % h.piece] : ""];
      }

      // Looked at closely, all that was measured there is drawn.
      function closer(min, max, full) {
        const first = Math.max(0, Math.floor(min)), end = Math.min(last, Math.ceil(max));
        if (full || end - first > 4 * h.piece || s.x.length >= commits.hashes.length) return;
        const from = Math.floor(first / h.piece), to = Math.floor(end / h.piece), wanted = from + "-" + to;
        if (asked === wanted) return;
        asked = wanted;
        let missing = to - from + 1;
        for (let number = from; number <= to; number++) commits.piece(number, () => {
          if (--missing === 0 && asked === wanted && chart.u) chart.set(columns(lines.map((line) => detailed(line.of, from, to))));
        });
      }

      function detailed(of, from, to) {
        const low = from * h.piece, high = (to + 1) * h.piece, xs = [], ys = [];
        const overview = (test) => of.x.forEach((x, n) => { if (test(x)) { xs.push(x); ys.push(of.values[n]); } });
        overview((x) => x < low);
        for (let number = from; number <= to; number++) commits.pieces[number].values[of.number].forEach((value, n) => { if (value !== null) { xs.push(number * h.piece + n); ys.push(value); } });
        overview((x) => x >= high);
        return [xs, ys];
      }
    }

    function fact(title, value) { return el("div", {}, el("span", { class: "quiet" }, title), el("b", {}, value)); }

    // The band in which 99 % of the values since the last step are expected.
    function band(u, s) {
      if (!s.noise) return;
      const from = s.steps.length ? s.steps[s.steps.length - 1][0] : s.x[Math.max(0, s.x.length - 40)];
      const level = logic.median(s.recent.filter((value) => value !== null).slice(-Math.max(1, last - from + 1))), ctx = u.ctx;
      const left = Math.max(u.valToPos(from, "x", true), u.bbox.left), right = Math.min(u.valToPos(last + 0.5, "x", true), u.bbox.left + u.bbox.width);
      const top = u.valToPos(level * (1 + 2.58 * s.noise), "y", true), bottom = u.valToPos(level * (1 - 2.58 * s.noise), "y", true);
      if (right <= left) return;
      ctx.save();
      ctx.fillStyle = c.color("band");
      ctx.fillRect(left, Math.max(top, u.bbox.top), right - left, Math.max(1, Math.min(bottom, u.bbox.top + u.bbox.height) - Math.max(top, u.bbox.top)));
      ctx.restore();
    }

    function marks(u, s, releases) {
      const ctx = u.ctx, px = devicePixelRatio || 1, top = u.bbox.top + 2 * px, end = u.bbox.top + u.bbox.height;
      const line = (at, color, dash) => {
        const x = u.valToPos(at, "x", true);
        ctx.strokeStyle = ctx.fillStyle = c.color(color);
        ctx.setLineDash(dash.map((n) => n * px));
        ctx.beginPath(); ctx.moveTo(x, top); ctx.lineTo(x, end); ctx.stroke();
        return x;
      };
      const seen = (at) => at >= u.scales.x.min && at <= u.scales.x.max;
      ctx.save();
      ctx.lineWidth = px;
      ctx.font = 11 * px + "px system-ui";
      releases.forEach((name, at) => {
        if (!seen(at)) return;
        const x = line(at, "quiet", [1, 3]), right = x + ctx.measureText(name).width > u.bbox.left + u.bbox.width;
        ctx.textAlign = right ? "right" : "left";
        ctx.fillText("⚑ " + name, x + (right ? -3 : 3) * px, end - 4 * px);
      });
      s.steps.forEach((step) => {
        if (!seen(step[0])) return;
        const up = step[2] > step[1], x = line(step[0], up ? "bad" : "good", [3, 3]), tip = up ? top : top + 9 * px, base = up ? top + 9 * px : top;
        ctx.beginPath(); ctx.moveTo(x, tip); ctx.lineTo(x - 5 * px, base); ctx.lineTo(x + 5 * px, base); ctx.fill();
      });
      ctx.restore();
    }

    function numbers(s) {
      const steps = s.steps.map((step) => [commits.link(step[0]), c.date(commits.times[step[0]]), logic.number(step[1], s.unit), logic.number(step[2], s.unit), stepped(step)]);
      const drawn = s.x.map((at, n) => [commits.link(at), c.date(commits.times[at]), logic.number(s.values[n], s.unit)]).reverse();
      return el("div", {}, steps.length ? c.table("Steps", [["Commit"], ["Date"], ["Before", true], ["After", true], ["Change", true]], steps) : el("p", {}, "No steps."),
        c.table("Drawn values, newest first", [["Commit"], ["Date"], ["Value", true]], drawn));
    }

    // ── two commits ──

    function compare() {
      if (!last) return;
      const body = c.section(place, "compare", "Compare two commits"), result = el("div", { "aria-live": "polite" }), inputs = {};
      const datalist = el("datalist", { id: "commit-list" });
      for (let at = last; at >= 0 && at > last - 50; at--) datalist.append(el("option", { value: commits.hashes[at] }, c.date(commits.times[at])));
      const what = el("select", { onchange: () => { c.keep({ show: what.value === "significant" ? null : what.value }); show(); } },
        [["significant", "significant changes only"], ["different", "all that differs"], ["all", "everything"]].map(([value, text]) => el("option", { value, selected: value === (params.show || "significant") }, text)));
      const field = (key, text, at) => el("label", {}, text, (inputs[key] = el("input", { type: "text", list: "commit-list", spellcheck: "false", autocomplete: "off", size: 12, value: params[key] || commits.hashes[at], onchange: () => { c.keep({ [key]: inputs[key].value.trim() }); show(); } })));
      body.append(el("div", { class: "tools" }, field("a", "Before", Math.max(0, last - 1)), field("b", "After", last), el("label", {}, "Show", what), datalist), result);
      beside = () => { const given = c.params(); inputs.a.value = given.a; inputs.b.value = given.b; show(); body.parentNode.scrollIntoView({ block: "nearest" }); };
      show();

      function chosen(key) {
        const text = inputs[key].value.trim(), found = commits.named(text);
        if (found.length === 1) return found[0];
        result.replaceChildren(el("p", { class: "bad-text" }, found.length ? "“" + text + "” begins " + found.length + " hashes; write more of it." : "No measured commit begins with “" + text + "”; a point of a chart shows its hash."));
        return null;
      }

      function show() {
        const a = chosen("a"), b = a === null ? null : chosen("b");
        if (b === null) return;
        commits.piece(Math.floor(a / h.piece), (before) => commits.piece(Math.floor(b / h.piece), (after) => differences(a, b, before, after)));
      }

      function differences(a, b, before, after) {
        const rows = [];
        let measured = 0;
        h.series.forEach((s, n) => {
          const x = before.values[n][a % h.piece], y = after.values[n][b % h.piece];
          if (x === null && y === null) return;
          measured++;
          const way = logic.significant(x, y, s.signal, h.limits, s.noise);
          if (what.value === "significant" ? !way : what.value === "different" && x === y) return;
          rows.push({ s, x, y, way, ratio: x !== null && y !== null ? (x ? y / x : y ? Infinity : 1) : null });
        });
        rows.sort((one, other) => (other.ratio === null ? -1 : other.ratio) - (one.ratio === null ? -1 : one.ratio));
        const hidden = measured - rows.length, kind = { significant: "within their noise or equal", different: "equal", all: "" }[what.value];
        result.replaceChildren(
          el("p", {}, commits.link(a), " " + before.subjects[a % h.piece] + " → ", commits.link(b), " " + after.subjects[b % h.piece]),
          el("p", { class: "quiet" }, "Both on " + h.machine + ". The load of the machine is not on record: a timed series counts only beyond its limit and its own noise."),
          rows.length ? c.grid({
            caption: logic.plural(rows.length, "row") + (hidden ? ", " + c.count(hidden) + " more " + kind : "") + "; the greatest increase first", rows, label: "Differences", filter: (row) => row.s.name, page: 40,
            columns: [{ title: "Series", sort: (row) => row.s.name }, { title: "Before", number: true }, { title: "After", number: true }, { title: "Change", number: true, sort: (row) => row.ratio }, { title: "Noise", number: true, sort: (row) => row.s.noise }],
            cells: (row) => [el("a", { href: c.link("commits", { series: row.s.name }) }, c.name(row.s.name)), logic.number(row.x, row.s.unit), logic.number(row.y, row.s.unit), told(row), row.s.noise === null ? "–" : logic.percent(row.s.noise)],
          }) : el("p", { class: "empty" }, measured ? "No significant change in the " + c.count(measured) + " series that were measured." : "Nothing was measured on these two."));
      }

      function told({ x, ratio, way, s }) {
        if (ratio === null) return x === null ? "not measured before" : "not measured after";
        const judged = s.signal !== "history", text = ratio === Infinity ? "▲ from 0" : ratio === 1 ? "=" : (ratio > 1 ? "▲ " : "▼ ") + logic.signed(ratio - 1);
        return el("span", { class: way && judged ? (way === "up" ? "bad-text" : "good-text") : null, title: judged ? null : "Not judged by the gate" }, text);
      }
    }
  },
};
