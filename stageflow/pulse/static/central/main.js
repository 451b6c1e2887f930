// Shows the view that the address names, and asks a live server for news.
(() => {
  "use strict";
  const c = central, el = c.el, main = document.querySelector("main");
  // Addresses of panels that alerts and documents may still lead to.
  const OLD = { now: "status", history: "commits", "first-audio": "live", latency: "live", errors: "live", breakers: "live", gate: "trust", load: "trust", figures: "trust" };
  let every = 0, paused = false, timer = 0, shown = "";

  window.centralLive = (seconds) => { every = seconds; };
  window.centralData = (data) => {
    c.ready(data);
    c.render();
    if (every) live();
  };

  c.go = (view, params) => { location.hash = logic.format(view, params); };

  c.render = () => {
    const { view, params } = logic.parse(location.hash), id = c.views[view] ? view : OLD[view] || "status";
    const top = shown === id ? scrollY : 0, focused = document.activeElement && document.activeElement.id;
    c.own = location.hash;
    c.asVirtual(null);
    main.replaceChildren();
    c.charts.sweep();
    if (id !== "status") main.append(el("h1", { class: "view" }, c.views[id].title));
    c.views[id].render(main, params);
    document.title = c.views[id].title + " · Central Pulse · " + c.site.project;
    document.querySelectorAll("header [data-view]").forEach((/** @type {HTMLElement} */ link) => {
      if (link.dataset.view === id) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    });
    document.body.dataset.view = shown = id;
    document.body.dataset.ready = "true";
    scrollTo(0, top);
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus({ preventScroll: true });
    const place = OLD[view] && document.getElementById(view);
    if (place) place.scrollIntoView();
  };

  window.addEventListener("hashchange", () => { if (location.hash !== c.own && c.data) c.render(); });

  function live() {
    const text = document.getElementById("live-text"), pause = document.getElementById("live-pause");
    document.getElementById("live").hidden = false;
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.setAttribute("aria-pressed", String(paused));
      pause.textContent = paused ? "Go on" : "Pause";
      clearTimeout(timer);
      if (!paused) ask();
    });
    ask();

    function ask() {
      if (paused) return;
      fetch("central/live.json", { cache: "no-store" }).then((answer) => answer.json()).then((found) => {
        text.textContent = "Live, as of " + new Date(found.made_at_s * 1000).toLocaleTimeString() + (found.problem ? "; " + found.problem : "") + ". ";
        // Not under somebody's hands: what is being looked at closely stays.
        if (busy()) return;
        c.news(found);
      }, () => {
        text.textContent = "The server does not answer; stageflow pulse serve --store FILE.db starts it. ";
      }).then(() => { timer = setTimeout(ask, every * 1000); });
    }
  }

  // Takes new telemetry; draws it if the view shows some.
  c.news = (found) => {
    Object.assign(c.data, { telemetry: found.telemetry, simulation: found.simulation, made_at_s: found.made_at_s });
    Object.assign(c.data.now, { alerts: found.alerts, evaluated_s: found.evaluated_s });
    if (c.views[shown].live) c.render();
  };

  function busy() {
    const focused = document.activeElement;
    return (focused && focused !== document.body && focused !== main && main.contains(focused)) || main.querySelector("details[open], .plot:hover") !== null;
  }
})();
