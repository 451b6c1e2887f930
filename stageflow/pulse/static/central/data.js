// The data of the pages, made ready: commits, series, stages, and verdicts by their name.
central.ready = (data) => {
  "use strict";
  const c = central, el = c.el, h = data.history, hashes = [], times = [];
  for (let n = 0; n < h.hashes.length; n += h.hash_length) hashes.push(h.hashes.slice(n, n + h.hash_length));
  h.at_s.reduce((sum, step) => { times.push(sum + step); return sum + step; }, 0);
  const byName = new Map(), waiting = {}, pieces = {};
  h.series.forEach((series, number) => {
    let at = 0;
    series.number = number;
    series.x = series.at.map((step) => (at += step));
    series.tails = {};
    series.noise = logic.noise(series.recent);
    series.change = logic.change(series.recent);
    byName.set(series.name, series);
  });
  h.series.forEach((series) => {
    const tail = / (P95|P99)$/.exec(series.name), of = tail && byName.get(series.name.slice(0, -4));
    if (of) { of.tails[tail[1]] = series; series.tailOf = of; }
  });
  const now = data.now, wrong = new Map();
  now.known.forEach((row) => wrong.set(row.series, { state: "warn", text: "known", row }));
  now.budgets.forEach((row) => wrong.set(row.series, { state: "bad", text: "✗ over budget", row }));
  now.regressions.forEach((row) => wrong.set(row.series, { state: "bad", text: "✗ regression", row }));

  // One verdict, everywhere: as the gate and the budgets have it.
  function verdictOf(series) {
    if (wrong.has(series.name)) return wrong.get(series.name);
    if (series.budget) return { state: "good", text: "✓ within budget" };
    return series.signal === "history" ? { state: "", text: "not judged" } : { state: "good", text: "✓ steady" };
  }

  window.centralPiece = (delivered) => {
    pieces[delivered.number] = delivered;
    (waiting[delivered.number] || []).forEach((done) => done(delivered));
    delete waiting[delivered.number];
  };
  // One piece of the history in full: subjects and values of h.piece commits.
  function piece(number, done) {
    if (pieces[number]) return void done(pieces[number]);
    if (waiting[number]) return void waiting[number].push(done);
    waiting[number] = [done];
    document.head.append(el("script", { src: "central/commits-" + number + ".json.js" }));
  }

  function link(at) {
    const text = hashes[at];
    return c.site.grid ? el("a", { class: "hash", href: "commits.html#" + text }, text) : el("span", { class: "hash" }, text);
  }

  // The numbers of all commits whose hash begins with a text.
  function named(text) {
    const start = text.trim().toLowerCase().slice(0, h.hash_length);
    return start ? hashes.flatMap((hash, n) => (hash.startsWith(start) ? [n] : [])) : [];
  }

  c.data = data;
  c.commits = { hashes, times, pieces, piece, link, named, byName, verdictOf, series: h.series.filter((series) => !series.tailOf) };
};
// Of running pipelines: the key of a row, its name, and the name of what is timed first.
central.key = (row) => [row.pipeline, row.stage, row.stream].filter(Boolean).join("/");
central.named = (row) => logic.clipped(row.pipeline) + (row.stage ? " · " + logic.clipped(row.stage) : " (whole turn)");
central.firstNamed = (row) => logic.clipped(row.pipeline) + (row.stage ? " · " + logic.clipped(row.stage) + " → " + logic.clipped(row.stream) : " (first audio)");
// A percentile, which is read from a histogram; of few samples it is a guess, and says so.
central.percentile = (value, count, percent) => {
  const c = central;
  if (value === null) return "–";
  const text = "≈ " + logic.number(value, "ms");
  if (!logic.isFew(count, percent)) return text;
  return c.el("span", { class: "quiet", title: "Only " + logic.plural(count, "sample") + ": a guess" }, text, " *");
};
central.noTelemetry = () => {
  const c = central;
  return c.empty("There is no telemetry to show. ", c.run("stageflow run PIPELINE --telemetry FILE.db"), " records a turn, a SQLiteSink those of a pipeline of your own; ",
    c.run("stageflow pulse build --store FILE.db"), " shows the file here, ", c.run("stageflow pulse serve --store FILE.db"), " shows it live.");
};
// Columns of a chart from rows [step, value, …]; points stand in the middle of their step, and a
// step without a row breaks the line.
central.byStep = (t, rows, columns) => {
  const data = Array.from({ length: columns + 1 }, () => []);
  let next = rows.length ? rows[0][0] : 0;
  rows.forEach((row) => {
    if (row[0] > next) { data[0].push(t.start_s + (next + 0.5) * t.step_s); for (let m = 1; m <= columns; m++) data[m].push(null); }
    data[0].push(t.start_s + (row[0] + 0.5) * t.step_s);
    for (let m = 1; m <= columns; m++) data[m].push(row[m] === undefined ? null : row[m]);
    next = row[0] + 1;
  });
  return data;
};
// The share of failures by step: [step, share].
central.rates = (stage) => {
  const failed = new Map();
  Object.values(stage.codes).forEach((pairs) => pairs.forEach(([at, count]) => failed.set(at, (failed.get(at) || 0) + count)));
  return stage.ended.map(([at, ended]) => [at, ended ? (failed.get(at) || 0) / ended : null]);
};
