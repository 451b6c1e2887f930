// The page of commits: the one that the address names, and a list that loads as it is read.
(() => {
  "use strict";
  const c = central, el = c.el, pieces = {}, waiting = {}, commit = document.getElementById("commit"), all = document.getElementById("all");
  let log = { hashes: "", length: 8, piece: 1 }, count = 0, loaded = 0;

  window.centralLogPiece = (piece) => {
    pieces[piece.number] = piece.commits;
    (waiting[piece.number] || []).forEach((done) => done(piece.commits));
    delete waiting[piece.number];
  };
  window.centralLog = (found) => {
    log = found;
    count = log.hashes.length / log.length;
    show();
    more();
  };
  function piece(number, done) {
    if (pieces[number]) return void done(pieces[number]);
    if (waiting[number]) return void waiting[number].push(done);
    waiting[number] = [done];
    document.head.append(el("script", { src: "central/log-" + number + ".json.js" }));
  }

  function show() {
    const text = location.hash.slice(1).toLowerCase(), start = text.slice(0, log.length);
    commit.replaceChildren();
    if (!text) return;
    let at = -1;
    for (let n = 0; n < count && at < 0; n++) if (log.hashes.slice(n * log.length, (n + 1) * log.length).startsWith(start)) at = n;
    if (at < 0) { commit.append(el("p", { class: "note" }, "No measured commit begins with “" + text + "”.")); return; }
    piece(Math.floor(at / log.piece), (commits) => {
      const [hash, author, atS, message, stat] = commits[at % log.piece], [subject, ...body] = message.split("\n");
      const other = (n, title) => (n < 0 || n >= count ? null : el("a", { href: "#" + log.hashes.slice(n * log.length, (n + 1) * log.length) }, title));
      commit.replaceChildren(el("section", { class: "commit chosen", "aria-labelledby": "subject" },
        el("h2", { id: "subject" }, subject), el("p", { class: "quiet" }, el("code", {}, hash), " · " + author + ", ", c.time(atS)), el("p", { class: "body" }, body.join("\n").trim()),
        stat ? el("pre", { tabindex: "0", "aria-label": "Changed files" }, stat) : null,
        el("p", { class: "tools" }, other(at - 1, "Newer"), other(at + 1, "Older"), el("a", { href: "index.html" + logic.format("commits", { a: log.hashes.slice((at + 1) * log.length, (at + 2) * log.length), b: hash.slice(0, log.length) }) }, "Compare with the one before"))));
    });
  }

  function more() {
    if (loaded * log.piece >= count) return;
    piece(loaded++, list);
  }

  function list() {
    document.body.dataset.ready = "true";
    const rows = Object.values(pieces).flat(), rest = Math.ceil(count / log.piece) - loaded;
    all.replaceChildren(c.grid({
      label: "Measured commits", rows, page: 50, placeholder: "Filter by hash, author or message", filter: (row) => row[0] + " " + row[1] + " " + row[3],
      columns: [{ title: "Commit" }, { title: "Subject", sort: (row) => row[3] }, { title: "Author", sort: (row) => row[1] }, { title: "Date", sort: (row) => row[2] }],
      cells: (row) => [el("a", { class: "hash", href: "#" + row[0].slice(0, log.length) }, row[0].slice(0, log.length)), row[3].split("\n")[0], row[1], c.time(row[2])],
    }));
    if (rest > 0) all.append(el("p", { class: "more" }, el("button", { type: "button", onclick: (event) => { event.currentTarget.disabled = true; load(rest); } }, "Load the other " + (count - rows.length).toLocaleString("en") + " commits")));
  }

  function load(rest) {
    let missing = rest;
    for (let n = 0; n < rest; n++) piece(loaded++, () => { if (--missing === 0) list(); });
  }

  c.render = () => { show(); list(); };
  window.addEventListener("hashchange", () => { show(); scrollTo(0, 0); });
})();
