// Names the parts of the pages for those who hear them. Beside a published site, the documentation
// has the links of its other pages, too.
(() => {
  "use strict";
  const docs = new URL("../", document.currentScript.src);
  const name = () => {
    const each = (parts, set) => document.querySelectorAll(parts).forEach(set);
    each("[data-md-component=skip]", (part) => { part.role = "navigation"; part.ariaLabel = "Skip"; });
    each(".md-search[role=dialog]", (part) => { part.ariaLabel = "Search"; });
    each(".md-toggle", (part) => { part.ariaHidden = "true"; part.tabIndex = -1; });
    // Parts of one kind are told apart by their number.
    each(".md-nav .md-nav:not(.md-nav--secondary)", (part, number) => { part.removeAttribute("aria-labelledby"); part.ariaLabel = "Pages " + (number + 1); });
    each(".md-code__nav", (part, number) => { part.ariaLabel = "Code " + (number + 1); });
  };
  addEventListener("DOMContentLoaded", () => {
    name();
    // The theme adds some when it starts.
    addEventListener("load", name);
    if (!docs.pathname.endsWith("/docs/")) return;
    const nav = document.createElement("nav");
    nav.setAttribute("aria-label", "Central Pulse");
    nav.className = "pulse-frame";
    [["Status", "index.html#status"], ["Commits", "index.html#commits"], ["Live", "index.html#live"], ["Trust", "index.html#trust"], ["All benchmarks", "benchmarks.html"], ["Docs", "docs/index.html"]].forEach(([text, path]) => {
      const link = document.createElement("a");
      link.href = new URL("../" + path, docs);
      link.textContent = text;
      if (text === "Docs") link.setAttribute("aria-current", "page");
      nav.append(link);
    });
    document.body.prepend(nav);
  });
})();
