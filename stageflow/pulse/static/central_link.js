// Puts Central Pulse into the navigation of asv's page.
$(function () {
  "use strict";
  var link = $("<a>", { href: "central.html", text: "Central Pulse" });
  $("<li>", { id: "nav-li-central" }).append(link).insertBefore("#nav-li-graphdisplay");
});
