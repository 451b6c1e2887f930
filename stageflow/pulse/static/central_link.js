// Puts the frame of all pages around asv's page, lets it follow the theme, and names its parts for
// those who hear it.
(function ($) {
  "use strict";
  document.documentElement.classList.add("asv");
  document.documentElement.lang = "en";
  ["logic.js", "base.js", "shell.js"].forEach(function (name) {
    var script = document.createElement("script");
    script.src = "central/" + name;
    script.async = false;
    document.head.append(script);
  });
  var viewport = document.createElement("meta");
  viewport.name = "viewport";
  viewport.content = "width=device-width, initial-scale=1";
  var style = document.createElement("link");
  style.rel = "stylesheet";
  style.href = "central/pulse.css";
  document.head.append(viewport, style);

  document.addEventListener("DOMContentLoaded", function () {
    var main = document.createElement("main"), title = document.createElement("h1");
    main.id = "main";
    main.tabIndex = -1;
    title.className = "skip";
    title.textContent = "All benchmarks";
    main.append(title);
    document.querySelectorAll("#nav, body > [id$=-display]").forEach(function (part) {
      part.id === "nav" ? part.setAttribute("aria-label", "Benchmarks") : main.append(part);
    });
    document.body.append(main);
    document.getElementById("range").setAttribute("aria-label", "Commits");
    document.querySelectorAll(".asv-navigation, [id$=-body]").forEach(function (part) { part.setAttribute("tabindex", "0"); });
    // The last column of a table of regressions.
    new MutationObserver(function () {
      main.querySelectorAll("th:empty").forEach(function (cell) { cell.textContent = "Ignore"; });
    }).observe(main, { childList: true, subtree: true });
  });

  // A table that comes late writes its order into the address of the page that is shown by then,
  // and a graph takes each parameter that it does not know for a choice that nothing fits.
  Object.defineProperty($, "asv", {
    configurable: true,
    set: function (asv) {
      Object.defineProperty($, "asv", { value: asv, writable: true });
      var format = asv.format_hash_string, register = asv.register_page;
      asv.format_hash_string = function (info) {
        var params = $.extend({}, info.params);
        if (!/^(summarylist|regressions)$/.test(info.location)) drop(params);
        return format({ location: info.location, params: params });
      };
      asv.register_page = function (name, show) {
        register(name, name !== "graphdisplay" ? show : function (params) { drop(params); show(params); });
      };
    },
  });
  function drop(params) {
    delete params.sort;
    delete params.dir;
  }
})(jQuery);
