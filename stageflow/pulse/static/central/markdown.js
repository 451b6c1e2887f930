// Shows the Markdown of a page as what it means.
(() => {
  "use strict";
  const el = central.el, line = (text) => logic.inline(text).map(([kind, shown, address]) => {
    if (kind === "text") return shown;
    // Addresses within the repository lead nowhere from here, except to another section.
    if (kind === "a") return /^(https?:|#)/.test(address) ? el("a", { href: address }, shown) : shown;
    return el(kind, {}, shown);
  });
  document.querySelectorAll(".markdown").forEach((place) => {
    place.replaceChildren(...logic.markdown(place.textContent).map((block) => {
      if (block.items) return el(block.kind, {}, block.items.map((item) => el("li", {}, line(item))));
      return block.kind === "pre" ? el("pre", { tabindex: "0" }, block.text) : el(block.kind === "h" ? "h3" : "p", {}, line(block.text));
    }));
  });
})();
