// Beside a published site, the documentation has the links of its other pages, too.
(() => {
  "use strict";
  const docs = new URL("../", document.currentScript.src);
  if (!docs.pathname.endsWith("/docs/")) return;
  addEventListener("DOMContentLoaded", () => {
    const nav = document.createElement("nav"), style = document.createElement("style");
    nav.setAttribute("aria-label", "Central Pulse");
    nav.className = "pulse-frame";
    [["Status", "index.html#status"], ["Commits", "index.html#commits"], ["Live", "index.html#live"], ["Trust", "index.html#trust"], ["All benchmarks", "benchmarks.html"], ["Docs", "docs/index.html"]].forEach(([text, path]) => {
      const link = document.createElement("a");
      link.href = new URL("../" + path, docs);
      link.textContent = text;
      if (text === "Docs") link.setAttribute("aria-current", "page");
      nav.append(link);
    });
    style.textContent = ".pulse-frame { display: flex; flex-wrap: wrap; gap: 0 1.2rem; padding: 0.3rem 1rem; font-size: 0.7rem; background: var(--md-default-bg-color); }"
      + " .pulse-frame a { color: var(--md-typeset-a-color); text-decoration: underline; line-height: 24px; } .pulse-frame a[aria-current] { font-weight: 700; }";
    document.head.append(style);
    document.body.prepend(nav);
  });
})();
