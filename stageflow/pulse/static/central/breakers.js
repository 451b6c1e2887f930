// Panel: in which state the circuit breakers of each provider have been, with dead letters on it.
central.drawBreakers = function () {
  "use strict";
  var c = central, el = c.el, t = c.data.telemetry, place = c.body("breakers");
  var STATES = ["closed", "half_open", "open"], WORDS = ["closed", "half-open", "open"], SIGNS = innerWidth < 640 ? 24 : 60;
  place.replaceChildren();
  if (!t) { place.append(c.noTelemetry()); return; }
  var end = t.start_s + t.steps * t.step_s, length = end - t.start_s, letters = t.letters;
  var lanes = t.breakers.slice(), known = lanes.map(function (b) { return b.provider; });
  letters.marks.forEach(function (mark) {
    if (known.indexOf(mark[0]) < 0) { known.push(mark[0]); lanes.push({ provider: mark[0], segments: [], changes: 0, newest: [] }); }
  });
  place.append(c.origin(t));
  if (!lanes.length) { place.append(el("p", { class: "good-text" }, "✓ No circuit breaker has changed its state and no letter is dead, " + c.stretch(t) + ".")); return; }

  place.append(c.legend([{ text: "closed", class: "block closed" }, { text: "half-open", class: "block half_open" }, { text: "open", class: "block open" }, { text: "dead letters", class: "dead" }]));
  var grid = el("div", { class: "lanes" });
  lanes.forEach(function (lane) {
    var open = 0, times = 0, last = 0, drawn = el("div", { class: "lane", role: "img", tabindex: "0" });
    lane.segments.forEach(function (segment, n) {
      var until = n + 1 < lane.segments.length ? lane.segments[n + 1][0] : end;
      last = segment[1];
      if (segment[1] === 2) { open += until - segment[0]; times++; }
      if (!segment[1]) return;
      drawn.append(at(el("span", { class: STATES[segment[1]], title: WORDS[segment[1]] + " from " + c.date(segment[0]) + " for " + c.span(until - segment[0]) }), segment[0], until));
    });
    // No closer than signs can stand beside each other.
    var dead = 0, places = new Map(), each = Math.max(1, Math.ceil(t.steps / SIGNS));
    letters.marks.forEach(function (mark) {
      if (mark[0] !== lane.provider) return;
      dead += mark[2];
      var place = Math.floor(mark[1] / each);
      places.set(place, (places.get(place) || 0) + mark[2]);
    });
    places.forEach(function (count, place) {
      var from = t.start_s + Math.min((place + 0.5) * each, t.steps) * t.step_s;
      drawn.append(at(el("span", { class: "letter", title: c.count(count) + (count === 1 ? " dead letter" : " dead letters") + " around " + c.date(from) }), from, from));
    });
    var words = lane.segments.length ? "now " + WORDS[last] + ", " + (times ? "open " + times + (times === 1 ? " time" : " times") + " for " + c.span(open) + " in all" : "never open") : "no breaker has changed";
    if (dead) words += ", " + c.count(dead) + " dead letters";
    var name = lane.provider || "no provider";
    drawn.setAttribute("aria-label", name + ": " + words);
    grid.append(el("div", {}, el("b", {}, name), el("br"), el("small", { class: "quiet" }, words)), drawn);
  });
  var ticks = el("div", { class: "ticks", "aria-hidden": "true" }), COUNT = innerWidth < 640 ? 3 : 7;
  for (var n = 0; n < COUNT; n++) {
    var tick = el("span", {}, c.date(t.start_s + length * n / (COUNT - 1), length > 2 * 86400 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" }));
    tick.style.left = 100 * n / (COUNT - 1) + "%";
    ticks.append(tick);
  }
  grid.append(ticks);
  place.append(grid);

  function at(mark, from, until) {
    mark.style.left = 100 * (from - t.start_s) / length + "%";
    if (until > from) mark.style.width = 100 * (until - from) / length + "%";
    return mark;
  }

  var changes = [].concat.apply([], t.breakers.map(function (b) { return b.newest; })).sort(function (a, b) { return b.at_s - a.at_s; });
  if (changes.length) place.append(c.behind("The newest changes of state", function () {
    return c.table("", [["Provider"], ["When"], ["From"], ["To"], ["Why"], ["Stage"], ["Process"]], changes.map(function (x) {
      return [x.provider, c.time(x.at_s), x.before.replace("_", "-"), x.after.replace("_", "-"), x.reason, x.pipeline + " · " + x.stage, x.source];
    }), true);
  }));
  if (letters.count) place.append(c.behind("The newest dead letters (" + c.count(letters.newest.length) + " of " + c.count(letters.count) + "; " + c.count(letters.waiting) + " wait)", function () {
    return el("div", {}, el("p", {}, "To resume one at the stage that failed: ", el("code", {}, "stageflow dlq replay ID --store LETTERS.db")),
      c.table("", [["Letter"], ["When"], ["Pipeline"], ["Failed stage"], ["Provider"], ["Code"], ["State"]], letters.newest.map(function (x) {
        return [el("code", {}, x.dead_letter_id), c.time(x.at_s), x.pipeline, x.failed_stage || "–", x.provider || "–", x.error_code, x.replayed_s === null ? el("span", { class: "warn-text" }, "waits") : "replayed"];
      }), true));
  }));
};
