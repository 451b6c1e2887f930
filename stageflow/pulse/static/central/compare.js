// Part of the history: any two commits beside each other.
central.compare = { pick: function () {} };
central.panels.push(function (data) {
  "use strict";
  var c = central, el = c.el, h = data.history, place = c.body("history");
  if (!h.series.length) return;
  var commits = c.commits, last = commits.hashes.length - 1, next = "a";
  var chosen = { a: Math.max(0, last - 1), b: last };
  var inputs = {}, result = el("div", { "aria-live": "polite" });
  var list = el("datalist", { id: "commit-list" });
  for (var at = last; at >= 0 && at > last - 100; at--) list.append(el("option", { value: commits.hashes[at] }, c.date(commits.times[at])));
  var only = el("input", { type: "checkbox", checked: true, onchange: show });

  function field(key, text) {
    inputs[key] = el("input", { type: "text", list: "commit-list", spellcheck: "false", autocomplete: "off", size: 12, value: commits.hashes[chosen[key]], onchange: function () { typed(key); } });
    return el("label", {}, text, inputs[key]);
  }
  place.append(el("h3", {}, "Compare two commits"),
    el("p", { class: "quiet" }, "Click two points of the chart, or write the beginnings of two hashes."),
    el("div", { class: "tools" }, field("a", "Before"), field("b", "After"), el("label", { class: "inline" }, only, "only what differs"), list), result);

  central.compare.pick = function (number) {
    set(next, number);
    next = next === "a" ? "b" : "a";
  };

  function typed(key) {
    var text = inputs[key].value.trim().toLowerCase(), hash = text.slice(0, h.hash_length);
    var found = text ? commits.hashes.reduce(function (all, one, n) { return one.startsWith(hash) ? all.concat(n) : all; }, []) : [];
    if (found.length !== 1) {
      result.replaceChildren(el("p", { class: "bad-text" }, found.length ? "“" + text + "” begins " + found.length + " hashes; write more of it." : "No measured commit begins with “" + text + "”; hover a point of the chart to see its hash."));
      return;
    }
    set(key, found[0]);
  }

  function set(key, number) {
    chosen[key] = number;
    inputs[key].value = commits.hashes[number];
    show();
  }

  function show() {
    var a = chosen.a, b = chosen.b;
    commits.piece(Math.floor(a / h.piece), function (before) {
      commits.piece(Math.floor(b / h.piece), function (after) { if (chosen.a === a && chosen.b === b) differences(before, after); });
    });
  }

  function differences(before, after) {
    var a = chosen.a % h.piece, b = chosen.b % h.piece, same = 0, rows = [];
    h.series.forEach(function (series, n) {
      var x = before.values[n][a], y = after.values[n][b];
      if (x === null && y === null) return;
      if (x === y && only.checked) { same++; return; }
      rows.push({ name: series.name, unit: series.unit, beyond: beyond(series.signal), x: x, y: y, ratio: x !== null && y !== null ? (x ? y / x : y ? Infinity : 1) : null });
    });
    rows.sort(function (one, other) { return weight(other) - weight(one); });
    result.replaceChildren(
      el("p", {}, commits.link(chosen.a), " " + before.subjects[a] + " → ", commits.link(chosen.b), " " + after.subjects[b]),
      rows.length ? c.table(rows.length + " series" + (same ? ", " + same + " more are equal" : "") + "; the greatest increase first", [["Series"], ["Before", true], ["After", true], ["Change", true]],
        rows.map(function (row) {
          return [el("span", {}, c.name(row.name)), c.number(row.x, row.unit), c.number(row.y, row.unit), told(row)];
        }), true) : el("p", { class: "empty" }, same ? "All " + same + " series measured on both are equal." : "Nothing was measured on these two."));
  }

  // From which ratio on a difference is more than scatter: as the gate has it.
  function beyond(signal) {
    if (signal === "exact") return 1;
    return !h.limits ? Infinity : signal === "counted" ? h.limits.counted_warn : h.limits.timed_fail;
  }

  function weight(row) { return row.ratio === null ? -1 : row.ratio; }

  function told(row) {
    if (row.ratio === null) return row.x === null ? "new" : "gone";
    if (row.ratio === Infinity) return el("span", { class: "bad-text" }, "▲ from 0");
    var change = Number(((row.ratio - 1) * 100).toFixed(1));
    return el("span", { class: row.ratio > row.beyond ? "bad-text" : 1 / row.ratio > row.beyond ? "good-text" : null }, change > 0 ? "▲ +" + change + " %" : change < 0 ? "▼ −" + -change + " %" : row.ratio === 1 ? "=" : "≈ 0 %");
  }
  show();
});
