"use strict";
(function () {
  function el(tag, props, parent) {
    const e = Object.assign(document.createElement(tag), props || {});
    if (parent) parent.append(e);
    return e;
  }
  // A row that sorts and hides as one: a table body with two lines, or one line.
  function units(table) {
    const pairs = table.querySelectorAll("tbody.pair");
    return pairs.length ? [...pairs] : [...table.tBodies[0].rows];
  }
  function cell(unit, i) {
    const row = unit.rows ? unit.rows[0] : unit;
    return row.cells[i];
  }
  function key(c) {
    const text = c.dataset.v || c.textContent.trim();
    const m = /^(-?[\d,]+(?:\.\d+)?)(?: ?(s|ms|\/s))?$/.exec(text);
    return m ? parseFloat(m[1].replace(/,/g, "")) : text;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return -1;
    if (typeof b === "number") return 1;
    return a.localeCompare(b, undefined, { numeric: true });
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((th, i) => {
      const b = el("button", { type: "button", textContent: th.textContent, title: "sort by " + th.textContent });
      th.replaceChildren(b);
      b.onclick = () => {
        const down = th.getAttribute("aria-sort") === "ascending";
        for (const o of table.tHead.rows[0].cells) o.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", down ? "descending" : "ascending");
        const list = units(table);
        const parent = list.length ? list[0].parentNode : null;
        list.map(u => [key(cell(u, i)), u])
          .sort((a, b) => compare(a[0], b[0]) * (down ? -1 : 1))
          .forEach(p => parent.append(p[1]));
      };
    });
  }
  for (const table of document.querySelectorAll("table.searchable")) {
    const tools = el("div", { className: "tools" });
    const box = table.closest(".scroll") || table;
    box.before(tools);
    const label = el("label", { textContent: "Search " }, tools);
    const input = el("input", { type: "search", placeholder: table.dataset.hint || "" }, label);
    const selects = [];
    [...table.tHead.rows[0].cells].forEach((th, i) => {
      if (!th.dataset.filter) return;
      const l = el("label", { textContent: th.textContent.trim() + " " }, tools);
      const s = el("select", {}, l);
      el("option", { value: "", textContent: "all" }, s);
      for (const v of [...new Set(units(table).map(u => cell(u, i).textContent.trim()))].sort())
        el("option", { value: v, textContent: v }, s);
      selects.push([i, s]);
    });
    const out = el("output", {}, tools);
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      const all = units(table);
      for (const u of all) {
        const text = u.textContent.toLowerCase();
        const hit = words.every(w => text.includes(w)) && selects.every(([i, s]) => !s.value || cell(u, i).textContent.trim() === s.value);
        u.hidden = !hit;
        if (hit) shown++;
      }
      out.textContent = shown === all.length ? "" : shown + " of " + all.length + " shown";
    };
    input.oninput = apply;
    for (const [, s] of selects) s.onchange = apply;
  }
  // A link into something that is folded or filtered away unfolds it.
  function reveal() {
    let id = "";
    try { id = decodeURIComponent(location.hash.slice(1)); } catch { return; }
    const target = id && document.getElementById(id);
    if (!target || target.tagName === "SECTION") return;
    target.hidden = false;
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    target.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", reveal);
  reveal();
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const d of closed) d.open = true;
  });
  addEventListener("afterprint", () => { for (const d of closed) d.open = false; });
})();
