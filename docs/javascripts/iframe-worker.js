// A page from disk may start no worker, which the search is: a hidden frame does its work.
(() => {
  "use strict";
  if (location.protocol !== "file:") return;
  // In the frame: scripts load one after another, and answers go to the page.
  const BEGIN = `<script>
    self.postMessage = (data) => self.answer(data);
    self.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, failed) => {
      const script = document.createElement("script");
      Object.assign(script, { src: url, onload: done, onerror: failed });
      document.body.append(script);
    })), Promise.resolve());
  </script>`;
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "Search";
      this.frame.srcdoc = `${BEGIN}<script src="${url}"></script>`;
      this.ready = new Promise((done) => { this.frame.onload = done; });
      document.body.append(this.frame);
    }
    postMessage(data) {
      this.ready.then(() => {
        const there = this.frame.contentWindow;
        there.answer = (answer) => this.dispatchEvent(new MessageEvent("message", { data: answer }));
        there.dispatchEvent(new there.MessageEvent("message", { data }));
      });
    }
    terminate() { this.frame.remove(); }
  };
})();
