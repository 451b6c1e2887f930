// A line through one point is no line: without this, a benchmark that has a single measured commit
// is an empty box on the grid. A flot plugin that shows such a point as a point.
(function ($) {
  "use strict";
  function showLonePoint(_plot, series, data) {
    var values = data.filter(function (point) {
      return point && point[1] !== null;
    });
    if (values.length === 1) {
      series.points.show = true;
    }
  }
  $.plot.plugins.push({
    init: function (plot) {
      plot.hooks.processRawData.push(showLonePoint);
    },
    name: "lonePoints",
    version: "1.0",
  });
})(jQuery);
