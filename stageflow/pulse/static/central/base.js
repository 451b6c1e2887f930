// What all panels share: elements, numbers with units, local dates, tables, empty states.
var central = (function () {
  "use strict";

  // Makes an element: attributes by name ("on…" are listeners), then its content.
  function el(tag, attributes) {
    var made = document.createElement(tag);
    Object.entries(attributes || {}).forEach(function (pair) {
      var name = pair[0], value = pair[1];
      if (value === null || value === undefined || value === false) return;
      if (name.slice(0, 2) === "on") made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    });
    Array.prototype.slice.call(arguments, 2).flat().forEach(function (child) {
      if (child !== null && child !== undefined) made.append(child);
    });
    return made;
  }

  var SECONDS = { ns: 1e-9, "µs": 1e-6, us: 1e-6, ms: 1e-3, s: 1, seconds: 1 };
  var BYTES = { bytes: 1, B: 1, kB: 1e3, MB: 1e6 };

  function digits(value) {
    if (value === 0) return "0";
    var size = Math.abs(value);
    var places = size >= 100 ? 0 : size >= 10 ? 1 : 2;
    var rounded = Number(value.toFixed(size < 0.01 ? 4 : places));
    return rounded.toLocaleString("en", { maximumFractionDigits: 4 });
  }

  function scaled(value, scales) {
    var size = Math.abs(value);
    var found = scales.find(function (scale) { return size >= scale[0] * 0.9995; }) || scales[scales.length - 1];
    return digits(value / found[0]) + " " + found[1];
  }

  // A number with its unit, in a size that reads well.
  function number(value, unit) {
    if (value === null || value === undefined) return "–";
    if (unit in SECONDS) {
      if (value === 0) return "0 ms";
      return scaled(value * SECONDS[unit], [[60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]);
    }
    if (unit in BYTES) return scaled(value * BYTES[unit], [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]);
    if (Math.abs(value) >= 1e4) return scaled(value, [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) + (unit ? " " + unit : "");
    return digits(value) + (unit ? " " + unit : "");
  }

  // The same on an axis, where a unit of many letters stands in the legend instead.
  function short(value, unit) { return number(value, unit in SECONDS || unit in BYTES ? unit : ""); }

  function percent(share) {
    if (share === null) return "–";
    var value = share * 100;
    return (value !== 0 && value < 0.01 ? "< 0.01" : Number(value.toFixed(value < 10 ? 2 : 1))) + " %";
  }

  function count(value) { return value.toLocaleString("en"); }

  var DATE = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };

  // A moment in the reader's own zone and language.
  function date(atS, options) {
    return new Date(atS * 1000).toLocaleString(undefined, options || DATE);
  }

  function time(atS) { return el("time", { datetime: new Date(atS * 1000).toISOString() }, date(atS)); }

  function span(seconds) {
    if (seconds < 90) return Math.round(seconds) + " s";
    if (seconds < 5400) return Math.round(seconds / 60) + " min";
    if (seconds < 129600) return digits(seconds / 3600) + " h";
    return digits(seconds / 86400) + " days";
  }

  // A table. Columns: [title, is it a number]; rows: lists of text or elements, the first heads it.
  function table(caption, columns, rows, tall) {
    var head = columns.map(function (column) {
      return el("th", { scope: "col", class: column[1] ? "n" : null }, column[0]);
    });
    var body = rows.map(function (cells) {
      var row = el("tr", { class: cells.chosen ? "chosen" : null });
      cells.forEach(function (cell, n) {
        row.append(n ? el("td", { class: columns[n][1] ? "n" : null }, cell) : el("th", { scope: "row", class: "series" }, cell));
      });
      return row;
    });
    var made = el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body));
    var frame = el("div", { class: tall ? "scroll tall" : "scroll", tabindex: "0", role: "region", "aria-label": caption || "Table" }, made);
    return caption ? el("div", {}, el("p", { class: "quiet" }, caption), frame) : frame;
  }

  // A long name that may be broken after its dots, underscores and brackets.
  function name(text) {
    return text.split(/(?<=[._(])/).flatMap(function (part, n) { return n ? [el("wbr"), part] : [part]; });
  }

  // The numbers behind a chart, made when somebody opens them.
  function behind(title, make) {
    var made = el("details", {}, el("summary", {}, title));
    made.addEventListener("toggle", function () {
      if (made.open && made.children.length === 1) made.append(make());
    });
    return made;
  }

  // Says how to get what is not there: text, and in between commands.
  function empty() {
    var parts = Array.prototype.map.call(arguments, function (part) {
      return typeof part === "string" ? part : el("code", {}, part.command);
    });
    return el("p", { class: "empty" }, parts);
  }

  function run(command) { return { command: command }; }

  function choice(label, options, chosen, onchange) {
    var select = el("select", { onchange: function () { onchange(select.value); } });
    var groups = {};
    options.forEach(function (option) {
      var parent = select;
      if (option.group) {
        parent = groups[option.group] || (groups[option.group] = el("optgroup", { label: option.group }));
        if (!parent.parentNode) select.append(parent);
      }
      parent.append(el("option", { value: option.value, selected: option.value === chosen }, option.text));
    });
    return el("label", {}, label, select);
  }

  function runbook(section) {
    return section ? el("a", { href: "runbook.html#" + section }, "runbook: " + section) : "–";
  }

  function legend(entries) {
    return el("p", { class: "legend" }, entries.map(function (entry) {
      var sign = el("i", { class: entry.class || "" });
      if (entry.color) sign.style.borderColor = entry.color;
      return el("span", {}, sign, entry.text);
    }));
  }

  // Adds a panel that only some projects have, with a link to it; returns its body.
  function section(id, title, link) {
    var inner = el("div", { class: "body" });
    document.querySelector("main").append(el("section", { id: id, "aria-labelledby": id + "-title" }, el("h2", { id: id + "-title" }, title), inner));
    document.querySelector("nav .apart").before(el("li", {}, el("a", { href: "#" + id }, link)));
    return inner;
  }

  function body(id) { return document.querySelector("#" + id + " .body"); }

  function color(name) { return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim(); }

  return {
    el: el, number: number, short: short, percent: percent, count: count, date: date, time: time, span: span,
    table: table, name: name, behind: behind, empty: empty, run: run, choice: choice, runbook: runbook,
    legend: legend, body: body, section: section, color: color, panels: [], state: {}, data: null,
  };
})();
