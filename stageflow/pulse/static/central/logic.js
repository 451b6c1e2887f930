// Computes what the pages show; knows neither the document nor the data's origin.
const logic = (() => {
  "use strict";

  // ── the state in an address: "#view?name=value&name=value" ──

  /** @param {string} hash  @returns {{ view: string, params: Record<string, string> }} */
  function parse(hash) {
    const [view, query] = hash.replace(/^#/, "").split(/\?(.*)/s);
    return { view: view || "", params: Object.fromEntries(new URLSearchParams(query || "")) };
  }

  /** @param {string} view  @param {Record<string, string | number | null | undefined>} params */
  function format(view, params) {
    const given = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
    const query = new URLSearchParams(given.sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, value]) => [name, String(value)])).toString();
    return "#" + view + (query ? "?" + query : "");
  }

  // Two numbers as "1.5..7"; null if they are not an ascending pair.
  /** @param {string | null | undefined} text  @returns {[number, number] | null} */
  function range(text) {
    const parts = /^(-?[\d.]+(?:e[+-]?\d+)?)\.\.(-?[\d.]+(?:e[+-]?\d+)?)$/.exec(text || "");
    const [low, high] = parts ? [Number(parts[1]), Number(parts[2])] : [NaN, NaN];
    return low < high ? [low, high] : null;
  }

  // ── numbers ──

  const SECONDS = { ns: 1e-9, "µs": 1e-6, us: 1e-6, ms: 1e-3, s: 1, seconds: 1 };
  const BYTES = { bytes: 1, B: 1, kB: 1e3, MB: 1e6 };

  /** @param {number} value */
  function digits(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 1e7 || size < 1e-4) {
      const [base, power] = value.toExponential(2).split("e");
      return base + " × 10" + [...String(Number(power))].map((d) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(d)]).join("");
    }
    const places = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.01 ? 2 : 4;
    return Number(value.toFixed(places)).toLocaleString("en", { maximumFractionDigits: 4 });
  }

  /** @param {number} value  @param {[number, string][]} scales */
  function scaled(value, scales) {
    const [factor, unit] = scales.find(([scale]) => Math.abs(value) >= scale * 0.9995) || scales[scales.length - 1];
    return digits(value / factor) + " " + unit;
  }

  // A number with its unit, in a size that reads well.
  /** @param {number | null | undefined} value  @param {string} unit  @returns {string} */
  function number(value, unit) {
    if (value === null || value === undefined) return "–";
    if (unit in SECONDS) {
      const seconds = value * SECONDS[unit], size = Math.abs(seconds);
      if (size >= 60 && size < 1e15) return span(seconds);
      return value === 0 ? "0 ms" : scaled(seconds, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]]);
    }
    if (unit in BYTES) return scaled(value * BYTES[unit], [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]);
    const size = Math.abs(value), after = unit ? " " + unit : "";
    if (size >= 1e4 && size < 1e15) return scaled(value, [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) + after;
    return digits(value) + (value === 1 ? after.replace(/(?<=[a-z]{3})s$/, "") : after);
  }

  // The same on an axis, whose title has a unit of many letters.
  /** @param {number | null | undefined} value  @param {string} unit */
  function short(value, unit) {
    return number(value, unit in SECONDS || unit in BYTES ? unit : "");
  }

  /** @param {number | null | undefined} share */
  function percent(share) {
    if (share === null || share === undefined) return "–";
    const value = share * 100;
    if (value !== 0 && Math.abs(value) < 0.01) return "< 0.01 %";
    return Number(value.toFixed(Math.abs(value) < 10 ? 2 : 1)).toLocaleString("en") + " %";
  }

  // How long something lasts: at most two units.
  /** @param {number} seconds */
  function span(seconds) {
    const size = Math.abs(seconds), sign = seconds < 0 ? "−" : "";
    if (size < 60) return sign + digits(size) + " s";
    /** @type {[number, string][]} */
    const units = [[86400, "days"], [3600, "h"], [60, "min"], [1, "s"]];
    const at = size < 3600 ? 2 : size < 2 * 86400 ? 1 : 0;
    if (at === 0) return sign + digits(size / 86400) + " days";
    const whole = Math.round(size / units[at + 1][0]), per = units[at][0] / units[at + 1][0];
    const rest = whole % per;
    return sign + Math.floor(whole / per) + " " + units[at][1] + (rest ? " " + rest + " " + units[at + 1][1] : "");
  }

  /** @param {number} count  @param {string} noun */
  function plural(count, noun) {
    return count.toLocaleString("en") + " " + noun + (count === 1 ? "" : "s");
  }

  /** @param {number} share  @param {number} [places] */
  function signed(share, places) {
    const value = Number((share * 100).toFixed(places === undefined ? 1 : places));
    return (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toLocaleString("en") + " %";
  }

  // ── series over commits ──

  /** @param {number[]} values */
  function median(values) {
    const sorted = values.slice().sort((a, b) => a - b), middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  }

  // The relative scatter of neighbours, as one standard deviation; a step or an outlier does not
  // count. Null of fewer than five values.
  /** @param {(number | null)[]} values */
  function noise(values) {
    const there = values.filter((value) => value !== null).slice(-40);
    if (there.length < 5) return null;
    const level = Math.abs(median(there));
    const differences = there.slice(1).map((value, n) => Math.abs(value - there[n]));
    return level ? (1.4826 / Math.SQRT2) * median(differences) / level : null;
  }

  const SIGMAS = 2.58; // of 99 %

  // The newest value beside the ones before it: { share, within } with `within` the half width of
  // its interval at 99 %; null if there is nothing to compare with.
  /** @param {(number | null)[]} values  @returns {{ share: number, within: number | null } | null} */
  function change(values) {
    const there = values.filter((value) => value !== null);
    const newest = there[there.length - 1], before = there.slice(-11, -1);
    if (!before.length || median(before) === 0) return null;
    const scatter = noise(values);
    return {
      share: newest / median(before) - 1,
      within: scatter === null ? null : SIGMAS * scatter * Math.sqrt(1 + 1.57 / before.length),
    };
  }

  // Whether two values differ by more than the gate's limit and the series' own scatter.
  //   limits: of the gate, or null; scatter: as of `noise`
  // Returns "up", "down" or "".
  function significant(before, after, signal, limits, scatter) {
    if (before === after || before === null || after === null) return "";
    const way = after > before ? "up" : "down";
    if (signal === "exact" || !(before > 0) || !(after > 0)) return way;
    const limit = Math.log(!limits ? 1 : signal === "counted" ? limits.counted_warn : limits.timed_warn);
    const room = signal === "counted" ? 0 : SIGMAS * Math.SQRT2 * (scatter === null ? 0.05 : scatter);
    return Math.abs(Math.log(after / before)) > Math.max(limit, room) ? way : "";
  }

  // A line through values in a box, as the path of an SVG; gaps break it.
  /** @param {(number | null)[]} values  @param {number} width  @param {number} height */
  function sparkline(values, width, height) {
    const there = values.filter((value) => value !== null);
    if (!there.length) return "";
    const low = Math.min(...there), high = Math.max(...there), room = high - low || 1;
    let path = "", pen = "M";
    values.forEach((value, n) => {
      if (value === null) { pen = "M"; return; }
      const x = values.length > 1 ? (n / (values.length - 1)) * width : width / 2;
      const y = high === low ? height / 2 : height - 1 - ((value - low) / room) * (height - 2);
      path += pen + x.toFixed(1) + " " + y.toFixed(1);
      if (pen === "M" && (n + 1 >= values.length || values[n + 1] === null)) path += "h.1";
      pen = "L";
    });
    return path;
  }

  // ── runs ──

  // What the chosen runs have in common, more than all have: [{ dimension, value, share, usual }].
  //   dimensions: { name: function of a run }
  function common(chosen, all, dimensions) {
    const found = [];
    if (!chosen.length) return found;
    Object.entries(dimensions).forEach(([dimension, of]) => {
      const counts = new Map();
      chosen.forEach((run) => { const value = of(run); if (value) counts.set(value, (counts.get(value) || 0) + 1); });
      counts.forEach((count, value) => {
        const share = count / chosen.length, usual = all.filter((run) => of(run) === value).length / (all.length || 1);
        if (share >= 0.5 && share >= usual + 0.15) found.push({ dimension, value, share, usual });
      });
    });
    return found.sort((a, b) => b.share - b.usual - (a.share - a.usual));
  }

  // The least numbers of samples from which a percentile is more than a guess.
  const LEAST = { 50: 20, 95: 20, 99: 100 };
  /** @param {number | null | undefined} count  @param {number} percentile */
  function isFew(count, percentile) { return count !== null && count !== undefined && count < LEAST[percentile]; }

  // ── the verdict ──

  // What is wrong, in a sentence: parts are [count, one, many]; known: whether anything is judged at all.
  /** @param {[number, string, string][]} parts  @param {boolean} known */
  function verdict(parts, known) {
    const wrong = parts.filter(([count]) => count);
    if (wrong.length) {
      const words = wrong.map(([count, one, many]) => count.toLocaleString("en") + " " + (count === 1 ? one : many));
      const text = words.length > 1 ? words.slice(0, -1).join(", ") + " and " + words[words.length - 1] : words[0];
      return { state: "bad", text: text.charAt(0).toUpperCase() + text.slice(1) };
    }
    return known ? { state: "good", text: "Nothing that is watched is wrong" } : { state: "none", text: "Nothing is watched yet" };
  }

  // A name of any text, short enough for a heading; signs that turn the text around it are shown.
  /** @param {string} text */
  function clipped(text) {
    const signs = [...text].map((sign) => (/[\p{Cc}\u200e\u200f\u202a-\u202e\u2066-\u2069]/u.test(sign) ? "\ufffd" : sign));
    return signs.length > 120 ? signs.slice(0, 80).join("") + " … " + signs.slice(-30).join("") : signs.join("");
  }

  // Labels without a repetition of the one before.
  /** @param {(string | null)[]} labels */
  function distinct(labels) {
    let last = null;
    return labels.map((label) => {
      if (label === last || label === null) return "";
      last = label;
      return label;
    });
  }

  // Markdown of a runbook as blocks: { kind: "p" | "ul" | "ol" | "pre" | "h", text or items }.
  function markdown(text) {
    const blocks = [];
    let code = null, open = null;
    text.split("\n").forEach((line) => {
      if (/^```/.test(line)) {
        if (code) { blocks.push(code); code = null; } else code = { kind: "pre", text: "" };
        open = null;
        return;
      }
      if (code) { code.text += line + "\n"; return; }
      const item = /^\s*(?:[-*]|(\d+)\.)\s+(.*)$/.exec(line), head = /^#+\s+(.*)$/.exec(line);
      if (!line.trim()) open = null;
      else if (head) { blocks.push({ kind: "h", text: head[1] }); open = null; }
      else if (item) {
        const kind = item[1] ? "ol" : "ul";
        if (!open || open.kind !== kind) blocks.push((open = { kind, items: [] }));
        open.items.push(item[2]);
      } else if (open && open.items) open.items[open.items.length - 1] += " " + line.trim();
      else if (open) open.text += " " + line.trim();
      else blocks.push((open = { kind: "p", text: line.trim() }));
    });
    if (code) blocks.push(code);
    return blocks;
  }

  // Parts of a line of Markdown: [kind, text, address] with kind "text", "code", "b" or "a".
  function inline(text) {
    const parts = [], pattern = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(([^)\s]+)\)/g;
    let last = 0;
    for (const found of text.matchAll(pattern)) {
      if (found.index > last) parts.push(["text", text.slice(last, found.index)]);
      if (found[1] !== undefined) parts.push(["code", found[1]]);
      else if (found[2] !== undefined) parts.push(["b", found[2]]);
      else parts.push(["a", found[3], found[4]]);
      last = found.index + found[0].length;
    }
    if (last < text.length) parts.push(["text", text.slice(last)]);
    return parts;
  }

  return { parse, format, range, digits, number, short, percent, span, plural, signed, median, noise, change,
    significant, sparkline, common, isFew, verdict, clipped, distinct, markdown, inline };
})();
