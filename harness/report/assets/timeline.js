(function () {
  const svg = document.getElementById("timeline"), source = document.getElementById("data");
  if (!svg || !source) return;
  const d = JSON.parse(source.textContent);
  const L = d.left, R = d.right, NS = svg.namespaceURI;
  const height = svg.viewBox.baseVal.height;
  const items = [...svg.querySelectorAll("[data-a]")].map(e => {
    const o = { e: e, a: +e.dataset.a, b: e.dataset.b === undefined ? null : +e.dataset.b, y: e.dataset.y };
    if (o.b !== null) {
      o.rect = e.querySelector("rect");
      o.texts = [...e.querySelectorAll("text")].map(t => [t, t.textContent.length * 6.3 + 6]);
    }
    return o;
  });
  let from = 0, to = d.span;
  const x = t => L + (t - from) / (to - from) * (R - L);
  const back = px => from + (px - L) / (R - L) * (to - from);

  function step(span) {
    const raw = span / 10;
    for (let unit = 0.001; ; unit *= 10)
      for (const m of [1, 2, 5]) if (m * unit >= raw) return m * unit;
  }
  function ticks() {
    const g = document.getElementById("ticks"), s = step(to - from);
    const digits = Math.max(0, Math.min(6, Math.ceil(3 - Math.log10(s) - 1e-9)));
    const parts = [];
    for (let t = Math.ceil(from / s) * s; t <= to + 1e-9; t += s) {
      const px = x(t), label = (t / 1000).toFixed(digits) + " s";
      const line = document.createElementNS(NS, "line");
      line.setAttribute("x1", px); line.setAttribute("x2", px); line.setAttribute("y1", 16); line.setAttribute("y2", height - 18);
      parts.push(line);
      if (px + 2 + label.length * 5.8 > R) continue;
      for (const y of [11, height - 6]) {
        const text = document.createElementNS(NS, "text");
        text.setAttribute("x", px + 2); text.setAttribute("y", y); text.textContent = label;
        parts.push(text);
      }
    }
    g.replaceChildren(...parts);
  }
  function nice(v) {
    if (v <= 1) return 1;
    const p = 10 ** Math.floor(Math.log10(v));
    for (const m of [1, 2, 4, 10]) if (m * p >= v) return m * p;
    return 10 * p;
  }
  const level = () => (to - from) < d.span * 0.6 ? d.levels[1] : d.levels[0];
  function rates() {
    const g = document.getElementById("rates"), s = level();
    const y0 = +g.dataset.y, h = +g.dataset.h;
    const lo = Math.max(0, Math.floor(from / s.w)), hi = Math.min(s.ok.length, Math.ceil(to / s.w));
    let top = 0;
    for (let i = lo; i < hi; i++) top = Math.max(top, s.ok[i] + s.ind[i] + s.failed[i]);
    top = nice(top / s.w * 1000);
    const place = n => (y0 + h - n / s.w * 1000 / top * h).toFixed(1);
    const below = new Array(hi).fill(0);
    for (const [cls, vals] of [["ok", s.ok], ["ind", s.ind], ["failed", s.failed]]) {
      let path = "";
      for (let i = lo; i < hi; i++) {
        const l = x(i * s.w).toFixed(1);
        if (vals[i]) path += "M" + l + "," + place(below[i] + vals[i]) + "H" + x((i + 1) * s.w).toFixed(1) + "V" + place(below[i]) + "H" + l + "Z";
        below[i] += vals[i];
      }
      g.querySelector("." + cls).setAttribute("d", path || "M0,0");
    }
    [top, top / 2, 0].forEach((v, i) => {
      document.getElementById("rates-" + i).textContent = i === 2 ? "0" : Math.floor(v).toLocaleString("en-US") + "/s";
    });
  }
  function latency() {
    const g = document.getElementById("latency"), s = level();
    const y0 = +g.dataset.y, h = +g.dataset.h;
    const place = ms => y0 + h - Math.min(1, Math.max(0, Math.log10(Math.max(ms, 1e-9)) / 4)) * h;
    const lo = Math.max(0, Math.floor(from / s.w)), hi = Math.min(s.p50.length, Math.ceil(to / s.w));
    let band = "", top = "";
    for (let i = lo; i < hi; i++) {
      if (s.p50[i] < 0) continue;
      const a = x(i * s.w).toFixed(1), b = x((i + 1) * s.w).toFixed(1);
      band += "M" + a + "," + (place(s.p99[i]) - 0.5).toFixed(1) + "H" + b + "V" + (place(s.p50[i]) + 0.5).toFixed(1) + "H" + a + "Z";
      top += "M" + a + "," + place(s.max[i]).toFixed(1) + "H" + b;
    }
    g.querySelector(".band").setAttribute("d", band || "M0,0");
    g.querySelector(".top").setAttribute("d", top || "M0,0");
  }
  function draw() {
    for (const o of items) {
      const a = x(o.a);
      if (o.b === null) {
        if (o.e.tagName === "text") o.e.setAttribute("x", Math.max(L + 4, a + 4));
        else o.e.setAttribute("transform", "translate(" + a.toFixed(1) + " " + o.y + ")");
        if (o.e.tagName === "a") o.e.style.display = a < L - 4 || a > R + 4 ? "none" : "";
        continue;
      }
      const b = x(o.b), seen = b >= L && a <= R;
      o.e.style.display = seen ? "" : "none";
      if (!seen) continue;
      // What lies far outside the window is cut, so that no renderer meets huge numbers.
      const l = Math.max(a, L - 50), r = Math.min(Math.max(b, a + 1.2), R + 50);
      o.rect.setAttribute("x", l.toFixed(1));
      o.rect.setAttribute("width", Math.max(r - l, 1.2).toFixed(1));
      const tl = Math.max(a, L), room = Math.min(b, R) - tl;
      let shown = false;
      for (const [t, need] of o.texts) {
        const fits = !shown && need <= room;
        t.setAttribute("x", (tl + 4).toFixed(1));
        t.setAttribute("class", fits ? "" : "no");
        shown = shown || fits;
      }
    }
    ticks(); rates(); latency();
    info.textContent = (to - from) < d.span - 1e-6 ? (from / 1000).toFixed(3) + " s to " + (to / 1000).toFixed(3) + " s" : "the whole run";
  }
  let pending = false;
  function later() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; draw(); });
  }
  function view(a, b) {
    const width = Math.min(Math.max(b - a, Math.min(1, d.span)), d.span); // a millisecond at least
    a = Math.min(Math.max(a, 0), d.span - width);
    from = a; to = a + width;
    later();
  }
  const zoom = (f, at) => { const c = at === undefined ? (from + to) / 2 : at; view(c - (c - from) * f, c + (to - c) * f); };
  const pan = f => view(from + (to - from) * f, to + (to - from) * f);

  const tools = document.getElementById("timetools");
  tools.hidden = false;
  const button = (text, title, act) => {
    const b = document.createElement("button");
    b.type = "button"; b.textContent = text; b.title = title; b.setAttribute("aria-label", title); b.onclick = act;
    tools.append(b);
  };
  button("+", "zoom in", () => zoom(0.5));
  button("−", "zoom out", () => zoom(2));
  button("◀", "earlier", () => pan(-0.3));
  button("▶", "later", () => pan(0.3));
  button("whole run", "show the whole run", () => view(0, d.span));
  const bad = items.filter(o => o.e.tagName === "a").map(o => o.a).sort((a, b) => a - b);
  if (bad.length) button("anomalies", "zoom to the anomalies", () => {
    const a = bad[0], b = bad[bad.length - 1], pad = Math.max((b - a) * 0.15, Math.min(500, d.span / 20));
    view(a - pad, b + pad);
  });
  const info = document.createElement("output");
  tools.append(info);
  const hint = document.createElement("span");
  hint.className = "dim";
  hint.textContent = "Drag to pan, Ctrl and wheel or double click to zoom; keys + − ← → 0.";
  tools.append(hint);

  const place = ev => { const r = svg.getBoundingClientRect(); return (ev.clientX - r.left) / r.width * svg.viewBox.baseVal.width; };
  svg.addEventListener("wheel", ev => {
    if (!ev.ctrlKey && !ev.metaKey) return;
    ev.preventDefault();
    zoom(ev.deltaY > 0 ? 1.25 : 0.8, back(place(ev)));
  }, { passive: false });
  svg.addEventListener("dblclick", ev => { zoom(0.4, back(place(ev))); });
  let drag = null;
  svg.addEventListener("pointerdown", ev => { if (ev.button === 0 && !ev.target.closest("a")) drag = { x: place(ev), from: from, to: to }; });
  addEventListener("pointerup", () => { drag = null; });
  const cursor = document.getElementById("cursor");
  svg.addEventListener("pointermove", ev => {
    const px = place(ev);
    if (drag) {
      const dt = (drag.x - px) / (R - L) * (drag.to - drag.from);
      view(drag.from + dt, drag.to + dt);
      return;
    }
    if (px < L || px > R) return;
    cursor.setAttribute("x1", px); cursor.setAttribute("x2", px);
    const t = back(px), s = level(), i = Math.floor(t / s.w);
    if (i < 0 || i >= s.ok.length) return;
    const rate = n => Math.round(n / s.w * 1000).toLocaleString("en-US");
    info.textContent = (t / 1000).toFixed(3) + " s: " + rate(s.ok[i]) + " ok/s, " + rate(s.ind[i]) + " indeterminate/s, " + rate(s.failed[i]) + " failed/s" +
      (s.p50[i] >= 0 ? ", median " + s.p50[i] + " ms, 99 % " + s.p99[i] + " ms" : "");
  });
  svg.setAttribute("tabindex", "0");
  svg.addEventListener("keydown", ev => {
    const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "ArrowLeft": () => pan(-0.2), "ArrowRight": () => pan(0.2), "0": () => view(0, d.span) }[ev.key];
    if (!act || ev.ctrlKey || ev.metaKey || ev.altKey) return;
    ev.preventDefault();
    act();
  });
  draw();
})();
