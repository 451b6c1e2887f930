// Panel: what is wrong now, each finding with its runbook section.
central.drawNow = function () {
  "use strict";
  var c = central, el = c.el, data = c.data, now = data.now, place = c.body("now");
  var telemetry = data.telemetry, alerts = now.alerts;
  var live = ((telemetry && telemetry.over) || []).map(function (row) {
    return Object.assign({}, row, { metric: row.metric + ", in " + telemetry.store, figure: row.figure.toUpperCase() });
  });
  var over = now.budgets.concat(live), waiting = telemetry && !telemetry.simulated ? telemetry.letters.waiting : null;
  var judged = now.kept + now.budgets.length;

  function tile(title, value, state, note) {
    return el("div", { class: "tile " + state }, title, el("b", {}, value), el("span", { class: "quiet" }, note));
  }
  function state(number, known) { return !known ? "" : number ? "bad" : "good"; }
  function sign(number, known) { return !known ? "not known" : (number ? "✗ " : "✓ ") + c.count(number); }

  place.replaceChildren(el("div", { class: "tiles" },
    tile("Budgets exceeded", sign(over.length, judged || live.length), state(over.length, judged || live.length), judged ? "of " + judged + " measured; " + now.unknown + " not measured" : "no budget is measured"),
    tile("Regressions open", sign(now.regressions.length, data.history.series.length), state(now.regressions.length, data.history.series.length), now.known.length + " known and accepted"),
    tile("Alerts firing", sign((alerts || []).length, alerts !== null), state((alerts || []).length, alerts !== null), alerts === null ? "not evaluated" : "at the last evaluation"),
    tile("Dead letters waiting", sign(waiting, waiting !== null), waiting ? "warn" : state(0, waiting !== null), waiting === null ? "no telemetry" : "of " + c.count(telemetry.letters.count) + " in the time shown")));

  now.notes.forEach(function (note) { place.append(el("p", { class: "warn-text" }, note)); });
  if (alerts === null) place.append(c.empty("Alerts are not evaluated. ", c.run("stageflow pulse alert --store FILE.db"), " evaluates the rules on a file of telemetry."));
  else if (alerts.length) place.append(el("h3", {}, "Alerts that fire"), c.table("", [["Alert"], ["What"], ["Since"], ["What to do"]],
    alerts.map(function (a) { return [a.rule, a.what, c.time(a.since_s), c.runbook(a.runbook)]; })));

  if (over.length) place.append(el("h3", {}, "Budgets exceeded"), c.table("", [["Budget"], ["Figure"], ["Measured", true], ["Budget", true], ["Over by", true], ["What to do"]],
    over.map(function (b) {
      return [el("span", {}, b.metric, el("br"), el("code", { class: "quiet" }, b.series)), b.figure, c.number(b.measured, b.unit), c.number(b.limit, b.unit),
        el("span", { class: "bad-text" }, b.limit ? "+" + Number(((b.measured / b.limit - 1) * 100).toFixed(1)) + " %" : "from 0"), c.runbook(b.runbook)];
    })));
  else if (!judged) place.append(c.empty("No budget has been measured. ", c.run("stageflow pulse bench"), " measures the newest commits, ", c.run("stageflow pulse gate"), " also times them."));

  function regressions(rows) {
    return c.table("", [["Series"], ["Since"], ["Before", true], ["Now", true], ["Increase", true], ["What to do"]], rows.map(function (r) {
      return [el("button", { type: "button", class: "plain", onclick: function () { c.commits.show(r.series); location.hash = "history"; } }, c.name(r.series)),
        el("span", {}, c.commits.link(r.at), " ", c.date(c.commits.times[r.at], { year: "numeric", month: "short", day: "numeric" })),
        c.number(r.before, r.unit), c.number(r.after, r.unit),
        el("span", { class: "bad-text" }, r.ratio === null ? "▲ from 0" : "▲ +" + Number(((r.ratio - 1) * 100).toFixed(1)) + " %"), c.runbook(r.runbook)];
    }));
  }
  if (now.regressions.length) place.append(el("h3", {}, "Regressions open"), el("p", { class: "quiet" }, "Steps that the gate would fail, among the newest measured commits, that nothing has taken back since."), regressions(now.regressions));
  if (now.known.length) place.append(el("h3", {}, "Regressions known"), regressions(now.known));
  if (now.accepted.length) place.append(el("h3", {}, "Accepted"), c.table("benchmarks/accepted.toml", [["Series"], ["Up to", true], ["Reason"], ["Until"], ["Owner"]],
    now.accepted.map(function (a) {
      return [a.series, a.up_to === null ? "any" : "× " + a.up_to, a.reason, el("span", { class: a.counts ? null : "bad-text" }, c.date(Date.parse(a.until + "T12:00") / 1000, { year: "numeric", month: "short", day: "numeric" }) + (a.counts ? "" : ": over")), a.owner];
    })));
  if (judged && !over.length && !now.regressions.length && !(alerts || []).length) place.append(el("p", { class: "good-text" }, "✓ Nothing that is measured is wrong."));
};
