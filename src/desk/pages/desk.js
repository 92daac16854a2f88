// Optional: keeps relative times true, and looks again every 30 seconds while somebody can see the page and does nothing with it.
(function () {
  "use strict";
  var body = document.body;
  var server = Date.parse(body.dataset.now);
  var loaded = performance.now();

  // The same words as the server's: two units at most, cut and not rounded.
  function span(seconds) {
    function two(large, unit, small, sub) {
      return large + " " + unit + (small > 0 ? " " + small + " " + sub : "");
    }
    if (seconds < 60) return seconds + " s";
    if (seconds < 3600) return Math.floor(seconds / 60) + " min";
    if (seconds < 86400) return two(Math.floor(seconds / 3600), "h", Math.floor((seconds % 3600) / 60), "min");
    return two(Math.floor(seconds / 86400), "d", Math.floor((seconds % 86400) / 3600), "h");
  }

  function tell() {
    // Counted from the database's clock, whatever this machine's says.
    var now = server + (performance.now() - loaded);
    document.querySelectorAll("time[data-relative]").forEach(function (element) {
      var away = Math.trunc((Date.parse(element.dateTime) - now) / 1000);
      var shown = element.querySelector(".rel");
      if (shown) shown.textContent = away === 0 ? "now" : away > 0 ? "in " + span(away) : span(-away) + " ago";
    });
  }

  function busy() {
    var active = document.activeElement;
    if (active && active.closest("form, details")) return true;
    if (document.querySelector("main details[open]")) return true;
    if (String(document.getSelection())) return true;
    return Array.prototype.some.call(document.querySelectorAll("main form input, main form textarea"), function (field) {
      return field.type !== "hidden" && field.value !== field.defaultValue;
    });
  }

  // What has just been done is said once.
  var address = new URL(location.href);
  if (address.searchParams.has("done")) {
    address.searchParams.delete("done");
    history.replaceState(null, "", address);
  }

  setInterval(tell, 10000);
  if (!("refresh" in body.dataset)) return;
  var due = loaded + 30000;
  setInterval(function () {
    if (performance.now() < due || document.hidden || busy()) return;
    due = performance.now() + 30000;
    location.reload();
  }, 1000);
})();
