// A page opened from disk may not fetch files, but it may load scripts. So each data file of the
// site has a twin, X.json.js, which hands the same data to stageflowOffline; jQuery is taught to
// ask for the twin. Served over HTTP, nothing changes.
(function ($) {
  "use strict";
  if (window.location.protocol !== "file:") {
    return;
  }
  var delivered = null;
  window.stageflowOffline = function (data) {
    delivered = data;
  };
  $.ajaxTransport("+json", function (options) {
    var script = document.createElement("script");
    return {
      send: function (_headers, complete) {
        script.onload = function () {
          complete(200, "success", { json: delivered });
          script.remove();
        };
        script.onerror = function () {
          complete(404, "error");
          script.remove();
        };
        script.src = options.url.split("?")[0] + ".js";
        document.head.appendChild(script);
      },
      abort: function () {
        script.onload = script.onerror = null;
        script.remove();
      },
    };
  });
})(jQuery);
