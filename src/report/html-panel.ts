/** The page's script, second part: search, details, tables, start. Text reaches the page as text only. */
import { LONG_CELL } from "./html-parts.js";

export const PANEL_SCRIPT = String.raw`
const units = ["", "k", "M", "G", "T", "P"];
function human(x, unit) {
  let i = 0;
  while (x >= 1000 && i < 5) {
    x /= 1000;
    i++;
  }
  return (Number.isInteger(x) || x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2)) + " " + units[i] + (unit || "");
}
const humanUs = (us) => (us >= 1e6 ? (us / 1e6).toFixed(2) + " s" : us >= 1000 ? (us / 1000).toFixed(2) + " ms" : us.toFixed(1) + " us");
function el(tag, text, attributes) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  for (const name in attributes || {}) e.setAttribute(name, attributes[name]);
  return e;
}
function list(pairs) {
  const dl = el("dl");
  for (const [term, value] of pairs) {
    if (value === "" || value === undefined) continue;
    dl.append(el("dt", term));
    const dd = el("dd");
    dd.append(value);
    dl.append(dd);
  }
  return dl;
}
const cell = (text) => el("td", text, String(text).length > ${LONG_CELL} ? { class: "text" } : {});
function table(head, rows) {
  const t = el("table"), tr = el("tr");
  for (const h of head) tr.append(el("th", h, { scope: "col" }));
  const thead = el("thead"), tbody = el("tbody");
  thead.append(tr);
  for (const row of rows) {
    const r = el("tr");
    for (const text of row) r.append(cell(text));
    tbody.append(r);
  }
  t.append(thead, tbody);
  return t;
}
function button(text, action) {
  const b = el("button", text, { type: "button" });
  b.addEventListener("click", action);
  return b;
}
const nodeButton = (i) =>
  button(R.strings[G.op[i]] + " " + R.strings[G.name[i]], () => {
    choose({ kind: "node", i });
    zoomNode(i);
  });
function nodeButtons(nodes, most) {
  const span = el("span", undefined, { class: "buttons" });
  for (const i of Array.from(nodes).slice(0, most)) span.append(nodeButton(i));
  if (nodes.length > most) span.append(" and " + (nodes.length - most) + " more");
  return nodes.length === 0 ? "none" : span;
}

function choose(what) {
  selected = what;
  const detail = $("detail");
  detail.replaceChildren();
  if (!what) detail.append(el("p", "Nothing chosen."));
  else if (what.kind === "group") describeGroup(detail, what.i);
  else describeNode(detail, what.i);
  draw();
}
function describeGroup(detail, g) {
  const s = R.segments[g];
  if (!s) {
    detail.append(el("h3", "Taken away by passes"), el("p", G.first[g + 1] - G.first[g] + " nodes that were folded, merged or dead."));
    return;
  }
  const h = el("h3", s.name);
  h.append(" ", button("Open", () => zoomGroup(g)));
  detail.append(h);
  detail.append(
    list([
      ["engine", s.engine],
      ["nodes", String(s.nodes)],
      ["work", human(s.flops, "FLOP") + ", " + human(s.bytes, "B")],
      ["weights", human(s.weightsBytes, "B")],
      ["estimate", humanUs(s.estimatedUs)],
      ...(s.times && s.times.length > 0 ? [["measured", s.times.map((t) => t.engine + " " + humanUs(t.us)).join(", ")]] : []),
      ...(s.int8 ? [["TensorRT's int8", s.int8.mismatchPpm + " ppm of " + s.int8.elements + " elements differ from the reference arithmetic" + (s.int8.maxSteps === undefined ? ", not all finite" : ", by " + s.int8.maxSteps + " steps at most")]] : []),
      ["operators", Object.entries(s.ops).map(([op, n]) => (n > 1 ? op + " x" + n : op)).join(", ")],
    ]),
  );
  const tensors = (title, ts) => {
    if (ts.length === 0) return;
    detail.append(el("h4", title + " (" + ts.length + ")"), table(["tensor", "type", "bytes"], ts.slice(0, 100).map((t) => [t.name, t.type, human(t.bytes, "B")])));
  };
  tensors("Inputs", s.inputs);
  tensors("Outputs", s.outputs);
  if (s.layers && s.layers.length > 0) {
    const slow = [...s.layers].sort((a, b) => (b.us || 0) - (a.us || 0)).slice(0, 100);
    detail.append(el("h4", "Layers (" + s.layers.length + ")"), table(["layer", "time"], slow.map((l) => [l.name, l.us === undefined ? "" : humanUs(l.us)])));
  }
  if (s.inspection !== undefined) {
    const more = el("details");
    more.append(el("summary", "The engine's own description"), el("pre", JSON.stringify(s.inspection, null, 1)));
    detail.append(more);
  }
  if (s.source) {
    const more = el("details");
    more.append(el("summary", "Emitted source"), el("pre", s.source));
    detail.append(more);
  }
  detail.append(el("h4", "Nodes"), nodeButtons(G.members.subarray(G.first[g], G.first[g + 1]), 60));
}
function describeNode(detail, i) {
  detail.append(el("h3", R.strings[G.op[i]] + " " + R.strings[G.name[i]]));
  if (G.isBefore) {
    const s = R.segments[G.group[i]];
    detail.append(list([["what became of it", s ? "it runs in " + s.name : "a pass took it away"], ["reads from", nodeButtons(sourcesOf(i), 12)], ["read by", nodeButtons(readersOf(i), 12)]]));
    return;
  }
  const s = R.segments[G.group[i]];
  const notOn = R.notOn[i] < 0 ? [] : JSON.parse(R.lists[R.notOn[i]]);
  detail.append(
    list([
      ["runs in", button(s.name, () => { choose({ kind: "group", i: G.group[i] }); zoomGroup(G.group[i]); })],
      ["from", (R.origin[i] || []).join(", ")],
      ["inputs", R.lists[R.inputs[i]].split("\n").map((t) => t || "left out").join(", ")],
      ["output", R.strings[R.output[i]]],
      ["work", human(R.flops[i], "FLOP") + ", " + human(R.bytes[i], "B") + "; estimate " + humanUs(R.us[i])],
      ["reads from", nodeButtons(sourcesOf(i), 12)],
      ["read by", nodeButtons(readersOf(i), 12)],
    ]),
  );
  for (const r of notOn) {
    const p = el("p", undefined, { class: "reason" });
    p.append(el("b", "Not on " + r.engine + ": "), r.why + ".");
    if (r.fix) p.append(" To change it: " + r.fix + ".");
    const gain = R.gains.find((x) => x[0] === r.engine && x[1] === r.why);
    if (gain && gain[2] > 0) p.append(" Without this reason" + (gain[3] > 1 ? " for all " + gain[3] + " nodes" : "") + " a run would take " + humanUs(gain[2]) + " less by the estimate.");
    detail.append(p);
  }
  const weights = R.weights[i];
  if (weights) {
    const f = (x) => String(Number(x.toPrecision(4)));
    detail.append(
      el("h4", "Weights"),
      list(
        weights.map((w) => {
          const g = w.figures;
          const shape = w.type + ", " + human(w.bytes, "B");
          return [w.name, g ? shape + "; min " + f(g.min) + ", max " + f(g.max) + ", mean " + f(g.mean) + ", std " + f(g.std) + ", zeros " + (100 * g.zeros).toFixed(1) + " % (of " + g.sampled + " elements)" : shape];
        }),
      ),
    );
  }
}

let lower = null, query = "", searching = false;
/** Searches with the next frame, so that fast typing is one search. */
function search(text) {
  query = text.trim().toLowerCase();
  if (searching) return;
  searching = true;
  requestAnimationFrame(() => {
    searching = false;
    find();
  });
}
function find() {
  const results = $("results");
  results.replaceChildren();
  found = { mark: new Uint8Array(G.n), list: [] };
  if (query === "") {
    $("hits").textContent = "";
    draw();
    return;
  }
  lower ??= R.strings.map((s) => s.toLowerCase());
  const matching = new Uint8Array(lower.length);
  for (let s = 0; s < lower.length; s++) if (lower[s].includes(query)) matching[s] = 1;
  for (let i = 0; i < G.n; i++) if (matching[G.name[i]] === 1 || matching[G.op[i]] === 1) found.mark[i] = 1;
  if (!G.isBefore) for (const i in R.origin) if (R.origin[i].some((o) => o.toLowerCase().includes(query))) found.mark[i] = 1;
  for (let i = 0; i < G.n; i++) if (found.mark[i] === 1) found.list.push(i);
  const groups = R.segments.flatMap((s, g) => (s.name.includes(query) ? [g] : [])).slice(0, 5);
  const count = found.list.length;
  $("hits").textContent = count === 0 && groups.length === 0 ? "nothing found" : count + (count === 1 ? " node" : " nodes");
  const item = (content) => {
    const li = el("li");
    li.append(content);
    results.append(li);
  };
  for (const g of groups) item(button(R.segments[g].name, () => { choose({ kind: "group", i: g }); zoomGroup(g); }));
  for (const i of found.list.slice(0, 30)) item(nodeButton(i));
  draw();
}

function show(which) {
  const graph = which === "before" ? R.before : R.now;
  if (!graph) return;
  G = which === "before" ? (R.preparedBefore ??= prepare(graph, true)) : (R.preparedNow ??= prepare(graph, false));
  selected = null;
  fit();
  find();
}

/** Table rows beyond those that the page came with, a few hundred at a time. */
function grow(id, rows) {
  const body = $(id).tBodies[0], more = $(id + "-more");
  if (!more) return;
  more.addEventListener("click", () => {
    const next = rows.slice(body.rows.length, body.rows.length + 500);
    for (const row of next) {
      const tr = el("tr");
      for (const text of row) tr.append(cell(text));
      body.append(tr);
    }
    if (body.rows.length >= rows.length) more.remove();
  });
}

function start() {
  readTheme();
  R = JSON.parse($("data").textContent);
  show("now");
  $("search").addEventListener("input", (e) => search(e.target.value));
  $("search").addEventListener("keydown", (e) => {
    if (e.key === "Enter") {
      find();
      const first = $("results").querySelector("button");
      if (first) first.click();
    } else if (e.key === "Escape") {
      e.target.value = "";
      search("");
    }
  });
  $("color").addEventListener("change", (e) => {
    colorBy = e.target.value;
    draw();
  });
  const which = $("which");
  if (which) which.addEventListener("change", (e) => show(e.target.value));
  $("fit").addEventListener("click", fit);
  $("segments").addEventListener("click", (e) => {
    const row = e.target.closest("tr[data-segment]");
    if (!row || !e.target.closest("button")) return;
    if (G.isBefore) {
      show("now");
      $("which").value = "now";
    }
    const i = Number(row.dataset.segment);
    choose({ kind: "group", i });
    zoomGroup(i);
    canvas.scrollIntoView({ block: "nearest" });
    canvas.focus({ preventScroll: true });
  });
  grow("segments", R.segments.map((s) => [s.name, s.engine, String(s.nodes), human(s.flops), human(s.bytes, "B"), human(s.weightsBytes, "B"), humanUs(s.estimatedUs), String(s.inputs.length), String(s.outputs.length), Object.entries(s.ops).map(([op, n]) => (n > 1 ? op + " x" + n : op)).join(", ")]));
  document.addEventListener("keydown", (e) => {
    if (e.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      e.preventDefault();
      $("search").focus();
    }
  });
  new ResizeObserver(() => draw()).observe(canvas);
  for (const query of ["(prefers-color-scheme: dark)", "print"])
    matchMedia(query).addEventListener("change", () => {
      readTheme();
      paint(); // At once: a page is printed before its next frame.
    });
  document.documentElement.dataset.ready = "yes";
  // What the first search and the first click on a node need is made while nobody waits.
  setTimeout(() => {
    lower ??= R.strings.map((s) => s.toLowerCase());
    setTimeout(() => G.n > 0 && readersOf(0), 0);
  }, 50);
}
// The page is painted before its data is read.
requestAnimationFrame(() => setTimeout(start, 0));
`;
