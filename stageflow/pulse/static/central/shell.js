// The frame of every page: navigation, search, zone, theme, a link to what is seen.
(() => {
  "use strict";
  const c = central, el = c.el, THEMES = ["auto", "light", "dark"], root = document.documentElement;
  root.dataset.theme = c.prefs.theme;
  window.pulseSite = (site) => {
    c.site = site;
    const here = document.body.dataset.page || "benchmarks";
    // A page of its own leads back to the entry; the entry only changes what follows the "#".
    c.home = here === "central" ? "" : "index.html";
    const items = [["status", "Status", c.home + "#status"], ["commits", "Commits", c.home + "#commits"], ["live", "Live", c.home + "#live"], ["trust", "Trust", c.home + "#trust"]];
    if (site.grid) items.push(["benchmarks", "All benchmarks", "benchmarks.html"]);
    items.push(site.docs ? ["docs", "Docs", "docs/index.html"] : ["runbook", "Runbook", "runbook.html"]);
    if (site.simulation) items.push(["simulation", "Simulation", c.home + "#simulation"]);
    const links = el("ul", {}, items.map(([id, text, href]) => el("li", {}, el("a", { href, "data-view": id, "aria-current": id === here ? "page" : null }, text))));
    const menu = el("button", { type: "button", class: "menu", "aria-expanded": "false", onclick: () => {
      menu.setAttribute("aria-expanded", String(menu.parentNode.classList.toggle("open")));
    } }, "Menu");
    links.addEventListener("click", () => { menu.parentNode.classList.remove("open"); menu.setAttribute("aria-expanded", "false"); });
    const search = el("input", { type: "search", placeholder: "Search series and stages", "aria-label": "Search series and stages", list: "pulse-names", onfocus: () => names() });
    const form = el("form", { role: "search", onsubmit: (event) => { event.preventDefault(); find(search.value.trim()); } }, search, el("datalist", { id: "pulse-names" }));
    const zone = el("button", { type: "button", title: "Zone of all times", onclick: () => {
      c.prefs.zone = c.prefs.zone === "utc" ? "local" : "utc";
      c.store("zone", c.prefs.zone);
      zone.textContent = zoned();
      if (c.params().zone) c.keep({ zone: c.prefs.zone });
      if (c.render) c.render();
    } }, zoned());
    const theme = el("button", { type: "button", title: "Colours: as the system, light, dark", onclick: () => {
      c.prefs.theme = THEMES[(THEMES.indexOf(c.prefs.theme) + 1) % 3];
      c.store("theme", c.prefs.theme);
      root.dataset.theme = c.prefs.theme;
      theme.textContent = themed();
      c.freshColors();
      if (c.charts) c.charts.repaint();
    } }, themed());
    const copy = el("button", { type: "button", onclick: () => {
      const { view, params } = logic.parse(location.hash);
      // With the zone, so that a reader elsewhere sees the same times.
      const state = here === "central" ? logic.format(view || "status", { ...params, zone: c.prefs.zone === "utc" ? "utc" : null }) : location.hash;
      c.copy(location.href.split("#")[0] + state, copy);
    } }, "Copy link");
    document.body.prepend(
      el("a", { class: "skip", href: "#main", onclick: (event) => { const main = document.querySelector("main"); if (main) { event.preventDefault(); main.focus(); } } }, "Skip to the content"),
      el("header", { class: "shell" },
        el("a", { class: "brand", href: c.home + "#status" }, "Central Pulse", el("small", {}, site.project)),
        menu, el("nav", { "aria-label": "Pages" }, links), form, el("div", { class: "prefs" }, zone, theme, copy)));

    function zoned() { return c.prefs.zone === "utc" ? "UTC" : "Local time"; }
    function themed() { return { auto: "Auto", light: "Light", dark: "Dark" }[c.prefs.theme]; }
    function names() {
      const list = form.querySelector("datalist");
      if (list.children.length || !c.data) return;
      const stages = c.data.telemetry ? c.data.telemetry.stages.map((s) => c.named(s)) : [];
      c.data.history.series.map((s) => s.name).concat(stages).slice(0, 400).forEach((name) => list.append(el("option", { value: name })));
    }
    function find(text) {
      if (!text) return;
      const stage = c.data && c.data.telemetry && c.data.telemetry.stages.find((s) => c.named(s) === text || s.stage === text || s.pipeline === text);
      const series = c.data && c.data.history.series.find((s) => s.name === text);
      if (series) location.href = c.link("commits", { series: series.name });
      else if (stage) location.href = c.link("live", { stage: c.key(stage) });
      else {
        const words = text.toLowerCase();
        const inStages = c.data && c.data.telemetry && c.data.telemetry.stages.some((s) => c.named(s).toLowerCase().includes(words));
        const inSeries = !c.data || c.data.history.series.some((s) => s.name.toLowerCase().includes(words));
        location.href = inStages && !inSeries ? c.link("live", { find: text }) : c.link("commits", { find: text });
      }
    }
  };
  // A page that does not bring what is known of the site asks for it.
  let asked = false;
  addEventListener("DOMContentLoaded", () => ask());
  if (document.readyState !== "loading") ask();
  function ask() { if (!("project" in c.site) && !asked) { asked = true; document.head.append(el("script", { src: "central/site.json.js" })); } }
})();
