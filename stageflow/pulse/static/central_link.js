// Puts the frame of all pages around asv's page, and lets it follow the theme.
(function () {
  "use strict";
  document.documentElement.classList.add("asv");
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
})();
