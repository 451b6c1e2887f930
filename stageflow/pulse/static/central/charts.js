// uPlot charts that fit their place, follow the theme, and share range and cursor with their group.
central.charts = (() => {
  "use strict";
  const c = central, el = c.el;
  let alive = [], groups = 0;

  // Charts of a group show the same range and the same moment.
  //   whole: [low, high] of all; range: what is shown at first, or null; onrange(low, high, full)
  function group(whole, range, onrange) {
    const members = [], followers = [];
    const made = {
      key: "group-" + ++groups, whole, range: range || whole, members, busy: false,
      full: () => made.range[1] - made.range[0] >= (whole[1] - whole[0]) * 0.999,
      set: (low, high) => {
        made.range = [Math.max(low, whole[0]), Math.min(high, whole[1])];
        if (made.range[0] >= made.range[1]) made.range = whole.slice();
        made.busy = true;
        members.forEach((chart) => chart.u && chart.u.setScale("x", { min: made.range[0], max: made.range[1] }));
        made.busy = false;
        followers.forEach((follower) => follower(made.range, null));
        if (onrange) onrange(made.range[0], made.range[1], made.full());
      },
      all: () => made.set(whole[0], whole[1]),
      zoom: (factor, middle) => {
        const [low, high] = made.range, at = middle === null || middle < low || middle > high ? (low + high) / 2 : middle;
        const half = Math.max(((high - low) * factor) / 2, made.least || 0);
        made.set(at - half, at + half);
      },
      follow: (follower) => { followers.push(follower); follower(made.range, null); },
      point: (x) => followers.forEach((follower) => follower(made.range, x)),
      tools: () => {
        const far = el("button", { type: "button", onclick: () => made.zoom(2, null) }, "Zoom out");
        const all = el("button", { type: "button", onclick: made.all }, "Show all");
        made.follow(() => { far.disabled = all.disabled = made.full(); });
        return [el("button", { type: "button", onclick: () => made.zoom(0.5, null) }, "Zoom in"), far, all];
      },
    };
    return made;
  }

  // A chart in a new figure.
  //   label: in words what it shows; data: as uPlot takes it; height in pixels; group
  //   lines: [{ text, color, dash, width, points, fill, aside }]; y, axes: functions of options
  //   tell(index): the reading as content; onclick(x, y value), onenter(x); hooks: of uPlot
  function draw(given) {
    const shared = given.group, reading = el("p", { class: "readout", role: "status" }), tip = el("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    const plot = el("div", { class: "plot", tabindex: "0", role: "img", "aria-label": given.label + " Keys: arrows move, plus and minus zoom, 0 shows all." }, tip);
    const hidden = new Set();
    const legend = el("p", { class: "legend" }, given.lines.map((line, n) => {
      const sign = el("i", { class: line.dash ? (line.dash[0] < 4 ? "dots" : "dash") : "" });
      sign.style.borderColor = "var(--" + line.color + ")";
      const button = el("button", { type: "button", class: "plain", "aria-pressed": "true", title: "Show or hide", onclick: () => {
        if (!hidden.delete(n)) hidden.add(n);
        button.setAttribute("aria-pressed", String(!hidden.has(n)));
        chart.u.setSeries(n + 1, { show: !hidden.has(n) });
      } }, sign, line.text);
      return button;
    }), (given.marks || []).map((mark) => el("span", {}, el("i", { class: mark.class }), mark.text)));
    const figure = el("figure", {}, given.bare ? null : legend, given.bare ? null : reading, plot, given.tools ? el("div", { class: "tools" }, shared.tools()) : null);
    const chart = { figure, u: null, data: given.data, at: null, set, select, group: shared, plot };

    function make() {
      const shown = chart.u ? hidden : new Set();
      if (chart.u) chart.u.destroy();
      const options = {
        width: Math.max(plot.clientWidth, 120), height: given.height || 240, legend: { show: false },
        tzDate: (at) => (c.prefs.zone === "utc" ? uPlot.tzDate(new Date(at * 1000), "Etc/UTC") : new Date(at * 1000)),
        cursor: { y: false, drag: { x: !given.bare, y: false, dist: 8, setScale: false }, sync: given.bare ? undefined : { key: shared.key, setSeries: false }, show: !given.bare, ...(given.cursor || {}) },
        scales: { x: { time: Boolean(given.time), range: () => shared.range }, y: { range: given.y, distr: given.log ? 3 : 1 } },
        axes: given.axes(),
        series: [{}].concat(given.lines.map((line, n) => ({ stroke: c.color(line.color), width: line.width || 1.5, dash: line.dash, show: !shown.has(n), spanGaps: Boolean(line.spans), fill: line.fill && c.color(line.fill), points: { show: Boolean(line.points), size: 5, fill: c.color(line.color) } }))),
        hooks: { ...(given.hooks || {}), setCursor: [moved], setSelect: [selected] },
        padding: [12, 40, 0, 0],
      };
      chart.u = new uPlot(options, chart.data, plot);
    }

    function selected(u) {
      if (u.select.width < 8) return;
      const low = u.posToVal(u.select.left, "x"), high = u.posToVal(u.select.left + u.select.width, "x");
      u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      shared.set(low, high);
    }

    function moved(u) {
      const index = u.cursor.idx;
      if (index === null || index === undefined || u.cursor.left < 0) { tip.hidden = true; return; }
      point(index);
      const hovered = plot.matches(":hover");
      tip.hidden = !hovered;
      if (!hovered) return;
      shared.point(chart.data[0][index]);
      tip.replaceChildren(...[given.tell(index)].flat());
      const left = u.over.offsetLeft + u.cursor.left;
      tip.style.left = left > plot.clientWidth / 2 ? "auto" : left + 14 + "px";
      tip.style.right = left > plot.clientWidth / 2 ? plot.clientWidth - left + 14 + "px" : "auto";
    }

    function point(index) {
      if (index === chart.at) return;
      chart.at = index;
      reading.replaceChildren(...[given.tell(index)].flat());
    }

    function select(index) {
      index = Math.max(0, Math.min(chart.data[0].length - 1, index));
      const value = chart.data[0][index], [low, high] = shared.range;
      if (value < low || value > high) shared.set(value - (high - low) / 2, value + (high - low) / 2);
      chart.u.setCursor({ left: chart.u.valToPos(value, "x"), top: 10 }, false);
      point(index);
    }

    function set(data) {
      const kept = chart.at === null ? null : chart.data[0][chart.at];
      chart.data = data;
      chart.u.setData(data, false);
      chart.u.setScale("x", { min: shared.range[0], max: shared.range[1] });
      chart.at = kept === null ? null : data[0].indexOf(kept);
      if (chart.at === -1) chart.at = null;
    }

    plot.addEventListener("keydown", (event) => {
      const last = chart.data[0].length - 1, at = chart.at === null ? last + 1 : chart.at;
      const middle = chart.at === null ? null : chart.data[0][chart.at];
      const keys = {
        ArrowLeft: () => select(at - 1), ArrowRight: () => select(at + 1), Home: () => select(0), End: () => select(last),
        "+": () => shared.zoom(0.5, middle), "=": () => shared.zoom(0.5, middle), "-": () => shared.zoom(2, middle), 0: shared.all,
        Enter: () => { if (given.onenter && chart.at !== null) given.onenter(chart.data[0][chart.at]); },
      };
      if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { keys[event.key](); event.preventDefault(); }
    });
    plot.addEventListener("dblclick", shared.all);
    plot.addEventListener("pointerleave", () => { tip.hidden = true; shared.point(null); });
    if (given.onclick) {
      let downAt = 0;
      plot.addEventListener("pointerdown", (event) => { downAt = event.clientX; });
      plot.addEventListener("click", (event) => {
        if (Math.abs(event.clientX - downAt) > 5 || chart.at === null) return;
        const box = chart.u.over.getBoundingClientRect();
        given.onclick(chart.data[0][chart.at], chart.u.posToVal(event.clientX - box.left, "x"), chart.u.posToVal(event.clientY - box.top, "y"));
      });
    }
    const observer = new ResizeObserver(() => {
      const width = plot.clientWidth;
      if (width > 0 && chart.u && Math.abs(width - chart.u.width) > 1) chart.u.setSize({ width, height: chart.u.height });
    });
    // Draws it, once its figure is in the document.
    chart.start = () => {
      make();
      observer.observe(plot);
      shared.members.push(chart);
      alive.push(chart);
      if (!given.bare && chart.data[0].length) point(chart.data[0].length - 1);
      return chart;
    };
    chart.make = make;
    chart.destroy = () => {
      observer.disconnect();
      if (chart.u) chart.u.destroy();
      chart.u = null;
      shared.members.splice(shared.members.indexOf(chart), 1);
    };
    return chart;
  }

  // Lets go of the charts that are no longer in the document.
  function sweep() {
    alive = alive.filter((chart) => {
      if (document.contains(chart.plot)) return true;
      chart.destroy();
      return false;
    });
  }

  function repaint() { alive.forEach((chart) => chart.make()); }

  // ── axes ──

  function axis(more) {
    return { stroke: c.color("quiet"), font: "12px system-ui", labelFont: "12px system-ui", labelSize: 18, size: wide, gap: 4,
      grid: { stroke: c.color("line"), width: 1 }, ticks: { stroke: c.color("line"), width: 1, size: 4 }, ...more };
  }

  // As wide as the longest label needs; from its second round on it stays, so that it comes to rest.
  function wide(u, values, index, round) {
    const one = u.axes[index];
    if (round > 1) return one._size;
    u.ctx.font = one.font[0];
    const longest = Math.max(0, ...(values || []).map((text) => u.ctx.measureText(text || "").width));
    return Math.ceil(one.ticks.size + one.gap + longest / devicePixelRatio + 2);
  }

  function values(unit, title) {
    return axis({ label: title, values: (_u, splits) => splits.map((value) => (value === null ? "" : logic.short(value, unit))) });
  }

  // Marks of a logarithmic axis at 1, 2, 3 and 5 of each power of ten, or at 1 alone if there are many.
  function powers(_u, _index, low, high) {
    const marks = [], many = high / low > 2e3;
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      (many ? [1] : [1, 2, 3, 5]).forEach((m) => { const at = m * Math.pow(10, power); if (at >= low && at <= high) marks.push(at); });
    return marks;
  }

  function logValues(unit, title) {
    return axis({ label: title, splits: powers, filter: (_u, splits) => splits, values: (_u, splits) => splits.map((value) => (value === null ? null : logic.number(value, unit))) });
  }

  // How the moments of a range are written: by the day, the minute, or the second if they are close.
  function timeForm(length, step) {
    if (length > 2 * 86400) return { month: "short", day: "numeric" };
    return { hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) };
  }

  function timeAxis() {
    return axis({ size: 36, space: 80, values: (u, splits) => {
      const form = timeForm(u.scales.x.max - u.scales.x.min, splits[1] - splits[0]);
      return logic.distinct(splits.map((at) => c.date(at, form)));
    } });
  }

  // The dates of what stands evenly: commits, runs. `times` are those of the points.
  function dateAxis(times, title) {
    return axis({ size: 36, space: 90, label: title, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000], values: (_u, splits) => {
      const told = splits.filter((at) => Number.isInteger(at) && times[at] !== undefined);
      // Points of one day or two are told apart by the hour.
      const close = told.length && times[told[told.length - 1]] - times[told[0]] < 2 * 86400;
      const form = close ? { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" } : { year: "numeric", month: "short", day: "numeric" };
      return logic.distinct(splits.map((at) => (told.includes(at) ? c.date(times[at], form) : null)));
    } });
  }

  // From 0 up, except closely looked at; limits are in sight if they are near.
  function room(limits, lines) {
    return (u) => {
      const [from, to] = [u.scales.x.min, u.scales.x.max];
      let low = Infinity, high = -Infinity;
      for (let line = 1; line <= (lines || u.data.length - 1); line++)
        for (let n = 0; n < u.data[0].length; n++) {
          const value = u.data[line][n];
          if (value === null || value === undefined || (from !== null && (u.data[0][n] < from - 1 || u.data[0][n] > to + 1))) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      if (low > high) return [0, 1];
      (limits || []).forEach((limit) => { if (limit !== null && limit !== undefined && limit <= high * 3) { high = Math.max(high, limit); low = Math.min(low, limit); } });
      const xs = u.data[0], whole = from === null || (from <= xs[0] && to >= xs[xs.length - 1]);
      if (low >= 0 && (whole || low < high * 0.9)) low = 0;
      const pad = (high - low || Math.abs(high) || 1) * 0.08;
      return [low === 0 ? 0 : low - pad, high + pad];
    };
  }

  // What comes one after another stands evenly.
  //   label; times; lines: [{ values, text, color }]; unit; title; tell(index)
  function inOrder(given) {
    const last = given.times.length - 1, few = last < 100;
    return draw({
      label: given.label, data: [given.times.map((_at, n) => n)].concat(given.lines.map((line) => line.values)), height: 180, tools: true,
      group: group([-0.5, last + 0.5]), lines: given.lines.map((line) => ({ ...line, points: few })), tell: given.tell, y: room(),
      axes: () => [dateAxis(given.times), values(given.unit, given.title)],
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { c.freshColors(); repaint(); });

  return { group, draw, sweep, repaint, inOrder, axis, values, logValues, timeForm, timeAxis, dateAxis, room, alive: () => alive };
})();
