// Draws all panels once the data are there, and the panels of running pipelines again as they come.
(function () {
  "use strict";
  var c = central, every = 0, paused = false, timer = 0, LIVE = ["drawNow", "drawFirstAudio", "drawLatency", "drawErrors", "drawBreakers"];

  window.centralLive = function (seconds) { every = seconds; };

  window.centralData = function (data) {
    c.data = data;
    if (!data.beside_asv) document.querySelectorAll(".beside-asv").forEach(function (link) { link.hidden = true; });
    document.getElementById("made").replaceChildren("Made ", c.time(data.made_at_s));
    c.panels.forEach(function (panel) { panel(data); });
    running();
    if (location.hash) { var place = document.getElementById(location.hash.slice(1)); if (place) place.scrollIntoView(); }
    document.body.dataset.ready = "true";
    if (every) live();
  };

  function running() { LIVE.forEach(function (name) { c[name](); }); }

  function live() {
    var text = document.getElementById("live-text"), pause = document.getElementById("live-pause");
    document.getElementById("live").hidden = false;
    pause.addEventListener("click", function () {
      paused = !paused;
      pause.setAttribute("aria-pressed", String(paused));
      pause.textContent = paused ? "Go on" : "Pause";
      clearTimeout(timer);
      if (!paused) ask();
    });
    ask();

    function ask() {
      if (paused) return;
      fetch("central/live.json", { cache: "no-store" }).then(function (answer) { return answer.json(); }).then(function (found) {
        text.textContent = "Live, as of " + c.date(found.made_at_s, { hour: "2-digit", minute: "2-digit", second: "2-digit" }) + (found.problem ? "; " + found.problem : "") + ". ";
        // Not under somebody's hands: what is being looked at closely stays.
        if (busy()) return;
        c.data.telemetry = found.telemetry;
        c.data.now.alerts = found.alerts;
        running();
      }, function () {
        text.textContent = "The server does not answer; stageflow pulse serve --store FILE.db starts it. ";
      }).then(function () { timer = setTimeout(ask, every * 1000); });
    }
  }

  function busy() {
    var focused = document.activeElement;
    return ["first-audio", "latency", "errors", "breakers"].some(function (id) {
      var place = document.getElementById(id);
      return (focused && focused !== document.body && place.contains(focused)) || place.querySelector("details[open], .plot:hover") !== null;
    });
  }
})();
