// What all pages share: elements, moments in the chosen zone, tables, empty states, preferences.
const central = (() => {
  "use strict";

  // Makes an element: attributes by name ("on…" are listeners), then its content.
  function el(tag, attributes, ...content) {
    const made = document.createElement(tag);
    Object.entries(attributes || {}).forEach(([name, value]) => {
      if (value === null || value === undefined || value === false) return;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    });
    content.flat().forEach((child) => { if (child !== null && child !== undefined) made.append(child); });
    return made;
  }

  function svg(path, width, height, label) {
    const made = el("span", label ? { role: "img", "aria-label": label } : {});
    // The parser knows the namespace; the path is made of numbers.
    made.innerHTML = '<svg class="spark" aria-hidden="true" width="' + width + '" height="' + height + '"><path d="' + path + '"/></svg>';
    return made;
  }

  function spark(values, label) { return svg(logic.sparkline(values, 96, 22), 96, 22, label); }

  // ── preferences, which an address may override ──

  function stored(name, fallback) {
    try { return localStorage.getItem("pulse-" + name) || fallback; } catch { return fallback; }
  }
  function store(name, value) {
    try { localStorage.setItem("pulse-" + name, value); } catch { /* a browser without storage forgets */ }
  }

  const given = logic.parse(location.hash).params;
  const prefs = { zone: given.zone || stored("zone", "local"), theme: given.theme || stored("theme", "auto") };

  // ── moments ──

  const FULL = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" };
  let virtual = null;

  // Within a simulation, moments are offsets from its start: its hours are not those of a calendar.
  function asVirtual(startS) { virtual = startS; }

  function date(atS, options) {
    if (virtual !== null) {
      const minutes = Math.round((atS - virtual) / 60), size = Math.abs(minutes);
      return (minutes < 0 ? "−" : "+") + Math.floor(size / 60) + ":" + String(size % 60).padStart(2, "0") + " h";
    }
    const zone = prefs.zone === "utc" ? { timeZone: "UTC" } : {};
    return new Date(atS * 1000).toLocaleString(undefined, { ...(options || FULL), ...zone });
  }

  function day(atS) { return date(atS, { year: "numeric", month: "short", day: "numeric" }); }

  function time(atS) {
    return virtual === null ? el("time", { datetime: new Date(atS * 1000).toISOString() }, date(atS)) : el("span", {}, date(atS));
  }

  function ago(atS) {
    const seconds = Date.now() / 1000 - atS;
    return seconds < 60 ? "just now" : logic.span(seconds < 5400 ? Math.round(seconds / 60) * 60 : Math.round(seconds / 3600) * 3600) + " ago";
  }

  const count = (value) => value.toLocaleString("en");

  // ── tables ──

  // A table that becomes cards on a phone. Columns: { title, number, sort, hint }; sort is a function
  // of a row. Rows are anything; cells(row) gives their contents, of which the first is the heading.
  //   caption; chosen(row); page: rows shown at first; filter(row): its text to search;
  //   state: name of the state in the address that keeps search and order
  function grid(options) {
    const { columns, rows, cells } = options, page = options.page || 50;
    const kept = options.state ? c.params() : {};
    let order = kept[options.state + "_sort"] || "", search = (kept[options.state] || "").toLowerCase(), shown = page;
    const body = el("tbody", {}), head = el("tr", {}), foot = el("p", { class: "quiet more" });
    const table = el("table", { class: "cards" }, el("thead", {}, head), body);
    const frame = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": options.label || options.caption }, table);
    const field = options.filter && rows.length > 8 ? el("input", { type: "search", value: search, placeholder: options.placeholder || "Filter", "aria-label": options.placeholder || "Filter",
      oninput: () => { search = field.value.toLowerCase(); shown = page; keep(); fill(); } }) : null;

    function keep() {
      if (options.state) c.keep({ [options.state]: search || null, [options.state + "_sort"]: order || null });
    }
    function sorted() {
      const words = search.split(/\s+/).filter(Boolean);
      const found = words.length ? rows.filter((row) => { const text = options.filter(row).toLowerCase(); return words.every((word) => text.includes(word)); }) : rows.slice();
      const column = columns[Math.abs(parseInt(order, 10)) - 1];
      if (!column || !column.sort) return found;
      const sign = order.startsWith("-") ? -1 : 1;
      const rank = (value) => (value === null || value === undefined || Number.isNaN(value) ? null : value);
      return found.map((row) => [rank(column.sort(row)), row]).sort(([a], [b]) => (a === null ? (b === null ? 0 : 1) : b === null ? -1 : a < b ? -sign : a > b ? sign : 0)).map(([, row]) => row);
    }
    function fill() {
      const found = sorted();
      head.replaceChildren(...columns.map((column, n) => {
        const own = order.replace("-", "") === String(n + 1);
        const title = column.sort ? el("button", { type: "button", class: "sort", onclick: () => { order = own ? (order.startsWith("-") ? order.slice(1) : "-" + order) : (column.number ? "-" : "") + (n + 1); keep(); fill(); } }, column.title, own ? (order.startsWith("-") ? " ▼" : " ▲") : "") : column.title;
        return el("th", { scope: "col", class: column.number ? "n" : null, title: column.hint, "aria-sort": own ? (order.startsWith("-") ? "descending" : "ascending") : null }, title);
      }));
      body.replaceChildren(...found.slice(0, shown).map((row) => {
        const made = el("tr", { class: options.chosen && options.chosen(row) ? "chosen" : null });
        cells(row).forEach((cell, n) => {
          made.append(n ? el("td", { class: (columns[n].number ? "n" : "") + (cell === "–" ? " none" : ""), "data-title": columns[n].title }, cell) : el("th", { scope: "row" }, cell));
        });
        return made;
      }));
      foot.replaceChildren(...(search ? [count(found.length) + " of " + count(rows.length) + " match. "] : []));
      if (found.length > shown) foot.append(count(shown) + " of " + count(found.length) + " shown. ", el("button", { type: "button", onclick: () => { shown += page; fill(); } }, "Show " + Math.min(page, found.length - shown) + " more"));
    }
    fill();
    const tools = el("div", { class: "tools" }, field, options.tools, rows.length > 5 ? copyTable() : null);
    return el("div", { class: "grid" }, options.caption ? el("p", { class: "quiet" }, options.caption) : null, tools.children.length ? tools : null, frame, foot);

    function copyTable() {
      return el("button", { type: "button", class: "small", onclick: (event) => {
        const text = (node) => node.textContent.trim().replace(/\s+/g, " ");
        const lines = [columns.map((column) => column.title)].concat(sorted().map((row) => cells(row).map((cell) => text(el("td", {}, cell)))));
        copy(lines.map((line) => line.join("\t")).join("\n"), event.currentTarget);
      } }, "Copy table");
    }
  }

  // A table of few rows: columns are [title, is it a number], rows lists of cells.
  function table(caption, columns, rows) {
    return grid({ caption, label: caption || "Table", rows, cells: (row) => row, page: 200, columns: columns.map(([title, number]) => ({ title, number })), chosen: (row) => row.chosen });
  }

  function copy(text, button) {
    const done = () => { const before = button.textContent; button.textContent = "Copied"; setTimeout(() => { button.textContent = before; }, 1500); };
    const old = () => {
      const area = el("textarea", { class: "skip" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      done();
    };
    if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).then(done, old);
    else old();
  }

  // A long name that may be broken after its dots, underscores and brackets.
  function name(text) {
    return logic.clipped(text).split(/(?<=[._(\/])/).flatMap((part, n) => (n ? [el("wbr"), part] : [part]));
  }

  // What is behind a heading, made when somebody opens it.
  function behind(title, make, open) {
    const made = el("details", {}, el("summary", {}, title));
    made.addEventListener("toggle", () => { if (made.open && made.children.length === 1) made.append(make()); });
    if (open) made.open = true;
    return made;
  }

  const run = (command) => ({ command });

  // Says how to get what is not there: text, and in between commands.
  function empty(...parts) {
    return el("p", { class: "empty" }, parts.map((part) => (typeof part === "string" ? part : el("code", {}, part.command))));
  }

  function runbook(section) {
    return section ? el("a", { href: "runbook.html#" + section }, "runbook: " + section) : "–";
  }

  function tile(title, value, state, note) {
    return el("div", { class: "tile " + state }, title, el("b", {}, value), el("span", { class: "quiet" }, note));
  }

  // A part of a page; returns its body.
  function section(place, id, title, ...beside) {
    const body = el("div", { class: "body" });
    place.append(el("section", { id, "aria-labelledby": id + "-title" }, el("div", { class: "head" }, el("h2", { id: id + "-title" }, title), ...beside), body));
    return body;
  }

  // A colour of the theme as a browser computes it, which a canvas understands.
  let probe = null, colors = {};
  function color(name) {
    if (colors[name]) return colors[name];
    if (!probe) document.body.append((probe = el("span", { hidden: true })));
    probe.style.color = "var(--" + name + ")";
    return (colors[name] = getComputedStyle(probe).color);
  }
  function freshColors() { colors = {}; }

  const c = { el, spark, stored, store, prefs, date, day, time, ago, asVirtual, count, grid, table, copy, name, behind, run, empty,
    runbook, tile, section, color, freshColors, views: {}, data: null, site: {}, params: () => logic.parse(location.hash).params,
    // Writes state into the address without a step in the browser's history.
    keep: (changes) => {
      const { view, params } = logic.parse(location.hash);
      c.own = logic.format(view || "status", { ...params, ...changes });
      try { history.replaceState(null, "", c.own); } catch { location.replace(c.own); }
    },
    link: (view, params) => c.home + logic.format(view, { ...params, zone: given.zone && prefs.zone }),
    home: "", own: null };
  return c;
})();
