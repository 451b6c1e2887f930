// A uPlot chart that fits its place, follows the colour scheme, and is zoomed by mouse, touch or keys.
central.charts = (function () {
  "use strict";
  var c = central, alive = [];

  // Draws a chart into a new figure.
  //   label: what it shows, for those who do not see it; data: as uPlot takes it; height in pixels
  //   options: of uPlot, made anew for each colour scheme; onzoom(min, max), onpoint(index), onenter(index)
  function draw(given) {
    var plot = c.el("div", { class: "plot", tabindex: "0", role: "img", "aria-label": given.label + " Keys: arrows move, plus and minus zoom, 0 shows all." });
    var reset = c.el("button", { type: "button", disabled: true, onclick: function () { all(); } }, "Show all");
    var near = c.el("button", { type: "button", onclick: function () { zoom(0.5); } }, "Zoom in");
    var far = c.el("button", { type: "button", disabled: true, onclick: function () { zoom(2); } }, "Zoom out");
    var figure = c.el("figure", {}, plot, c.el("div", { class: "tools" }, near, far, reset));
    var chart = { figure: figure, u: null, data: given.data, at: null, set: set, select: select, zoomTo: zoomTo };
    var whole = given.range || extent(given.data[0]);

    function make() {
      var scale = chart.u ? { min: chart.u.scales.x.min, max: chart.u.scales.x.max } : null;
      if (chart.u) chart.u.destroy();
      var options = given.options();
      options.width = Math.max(plot.clientWidth, 200);
      options.height = given.height || 260;
      options.legend = { show: false };
      options.cursor = Object.assign({ y: false, drag: { x: true, y: false, dist: 8 } }, options.cursor);
      options.hooks = options.hooks || {};
      options.hooks.setCursor = [function (u) { if (u.cursor.idx !== null && u.cursor.left >= 0) point(u.cursor.idx); }];
      options.hooks.setScale = [function (u, key) { if (key === "x") zoomed(u); }];
      chart.u = new uPlot(options, chart.data, plot);
      if (scale) chart.u.setScale("x", scale);
    }

    function zoomed(u) {
      var min = u.scales.x.min, max = u.scales.x.max;
      var full = max - min >= (whole[1] - whole[0]) * 0.999;
      reset.disabled = far.disabled = full;
      if (given.onzoom) given.onzoom(min, max, full);
    }

    function all() { zoomTo(whole[0], whole[1]); }
    function zoomTo(min, max) { chart.u.setScale("x", { min: Math.max(min, whole[0]), max: Math.min(max, whole[1]) }); }

    function zoom(factor) {
      var x = chart.u.scales.x, data = chart.data[0];
      var middle = chart.at === null || data[chart.at] < x.min || data[chart.at] > x.max ? (x.min + x.max) / 2 : data[chart.at];
      var half = Math.max((x.max - x.min) * factor, given.least || 0) / 2;
      zoomTo(middle - half, middle + half);
    }

    function point(index) {
      if (index === chart.at) return;
      chart.at = index;
      if (given.onpoint) given.onpoint(index);
    }

    function select(index) {
      index = Math.max(0, Math.min(chart.data[0].length - 1, index));
      var value = chart.data[0][index], x = chart.u.scales.x;
      if (value < x.min || value > x.max) {
        var half = (x.max - x.min) / 2;
        zoomTo(value - half, value + half);
      }
      chart.u.setCursor({ left: chart.u.valToPos(value, "x"), top: 10 }, false);
      point(index);
    }

    function set(data) {
      var kept = chart.at === null ? null : chart.data[0][chart.at];
      chart.data = data;
      var min = chart.u.scales.x.min, max = chart.u.scales.x.max;
      chart.u.setData(data, false);
      chart.u.setScale("x", { min: min, max: max });
      chart.at = kept === null ? null : data[0].indexOf(kept);
      if (chart.at === -1) chart.at = null;
    }

    plot.addEventListener("keydown", function (event) {
      var last = chart.data[0].length - 1, at = chart.at === null ? last + 1 : chart.at;
      var keys = {
        ArrowLeft: function () { select(at - 1); }, ArrowRight: function () { select(at + 1); },
        Home: function () { select(0); }, End: function () { select(last); },
        "+": function () { zoom(0.5); }, "=": function () { zoom(0.5); }, "-": function () { zoom(2); }, 0: all,
        Enter: function () { if (given.onenter && chart.at !== null) given.onenter(chart.at); },
      };
      if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) { keys[event.key](); event.preventDefault(); }
    });
    plot.addEventListener("dblclick", all);
    if (given.onenter) {
      var downAt = 0;
      plot.addEventListener("pointerdown", function (event) { downAt = event.clientX; });
      plot.addEventListener("click", function (event) {
        if (Math.abs(event.clientX - downAt) < 5 && chart.at !== null && given.onclick) given.onclick(chart.at);
      });
    }
    chart.start = function () {
      make();
      new ResizeObserver(function () {
        var width = plot.clientWidth;
        if (width > 0 && Math.abs(width - chart.u.width) > 1) chart.u.setSize({ width: width, height: chart.u.height });
      }).observe(plot);
    };
    chart.make = make;
    chart.gone = function () { return !document.contains(plot); };
    alive = alive.filter(function (other) { return !other.gone(); });
    alive.push(chart);
    return chart;
  }

  function extent(xs) { return xs.length ? [xs[0], xs[xs.length - 1]] : [0, 1]; }

  function axis(more) {
    return Object.assign({
      stroke: c.color("quiet"), font: "12px system-ui", labelFont: "12px system-ui",
      grid: { stroke: c.color("line"), width: 1 }, ticks: { stroke: c.color("line"), width: 1 },
    }, more);
  }

  // As wide as the longest label needs; from its second round on it stays, so that it comes to rest.
  function wide(u, values, index, round) {
    var one = u.axes[index];
    if (round > 1) return one._size;
    u.ctx.font = one.font[0];
    var longest = Math.max.apply(null, [0].concat((values || []).map(function (text) { return u.ctx.measureText(text || "").width; })));
    return Math.ceil(one.ticks.size + one.gap + longest / devicePixelRatio + 2);
  }

  // Marks of a logarithmic axis at 1, 2 and 5 of each power of ten, or at 1 alone if there are many.
  function powers(u, index, low, high) {
    var marks = [], many = high / low > 2e3;
    for (var power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      (many ? [1] : [1, 2, 3, 5]).forEach(function (m) { var at = m * Math.pow(10, power); if (at >= low && at <= high) marks.push(at); });
    return marks;
  }

  // The range of x: at first the whole, which is wider than the points, and then what is zoomed to.
  function whole(low, high) {
    return function (u, min, max) {
      var xs = u.data[0];
      return !xs.length || min >= max || (min === xs[0] && max === xs[xs.length - 1]) ? [low, high] : [min, max];
    };
  }

  function timeAxis(lengthS) {
    var long = lengthS > 2 * 86400, DAY = 86400;
    var options = long ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
    return axis({ space: 70, incrs: long ? [1, 2, 7, 14, 28, 91, 182, 364].map(function (n) { return n * DAY; }) : undefined, values: function (u, splits) { return splits.map(function (s) { return c.date(s, options); }); } });
  }

  // A chart of what comes one after another, in crowds and pauses: its points stand evenly, not by time.
  //   label, onpoint: as those of draw; times: of the points; lines: [{ values, color }]; unit; incrs of y
  function inOrder(given) {
    var count = given.times.length;
    return draw({
      label: given.label, data: [given.times.map(function (at, n) { return n; })].concat(given.lines.map(function (line) { return line.values; })),
      height: 180, range: [-0.5, count - 0.5], least: 4, onpoint: given.onpoint,
      options: function () {
        return {
          scales: { x: { time: false, range: whole(-0.5, count - 0.5) }, y: { range: function (u, min, max) { return [0, max * 1.1 || 1]; } } },
          axes: [axis({ space: 90, incrs: [1, 2, 5, 10, 20, 50, 100], values: function (u, splits) { return splits.map(function (n) { return n in given.times ? c.date(given.times[n], { month: "short", day: "numeric" }) : ""; }); } }),
            axis({ size: wide, incrs: given.incrs, values: function (u, splits) { return splits.map(function (v) { return c.short(v, given.unit); }); } })],
          series: [{}].concat(given.lines.map(function (line) { return { stroke: c.color(line.color), width: 1.5, points: { show: count < 100, size: 6 } }; })),
        };
      },
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () {
    alive.forEach(function (chart) { if (!chart.gone()) chart.make(); });
  });

  return { draw: draw, inOrder: inOrder, axis: axis, timeAxis: timeAxis, whole: whole, wide: wide, powers: powers };
})();
