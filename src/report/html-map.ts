/** The page's script, first part: the map. Two levels of boxes on a canvas; what is out of view or too small to read is not drawn. */
export const MAP_SCRIPT = String.raw`
"use strict";
const $ = (id) => document.getElementById(id);
const NODE_W = 132, NODE_H = 34, MAX_OPEN = 6;
let R, G, view = { x: 0, y: 0, k: 1 }, selected = null, found = { mark: new Uint8Array(0), list: [] }, colorBy = "engine", queued = false, theme = null;
const canvas = $("map"), ctx = canvas.getContext("2d");

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  theme = {};
  for (const name of ["bg", "fg", "dim", "line", "panel", "host", "cuda", "tensorrt", "hit", "edge"]) theme[name] = style.getPropertyValue("--" + name).trim();
}

/** What drawing needs beyond the data: members of each group, rows of big groups, readers, colours. */
function prepare(graph, isBefore) {
  const n = graph.group.length, count = graph.boxes.x.length;
  const starts = new Int32Array(count + 1), members = new Int32Array(n);
  for (const g of graph.group) starts[g + 1]++;
  for (let g = 0; g < count; g++) starts[g + 1] += starts[g];
  const fill = starts.slice();
  for (let i = 0; i < n; i++) members[fill[graph.group[i]]++] = i;
  return { ...graph, n, count, first: starts, members, rows: new Map(), isBefore, colors: null, readers: null };
}
const ROW = 512;
/** Members of a group between two heights. Groups of a few nodes are scanned, big ones have their nodes by rows of ROW pixels. */
function between(g, top, bottom, visit) {
  const a = G.first[g], b = G.first[g + 1];
  if (b - a < 400) {
    for (let m = a; m < b; m++) visit(G.members[m]);
    return;
  }
  let rows = G.rows.get(g);
  if (!rows) {
    rows = [];
    for (let m = a; m < b; m++) {
      const i = G.members[m], r = Math.floor((G.y[i] - G.boxes.y[g]) / ROW);
      (rows[r] ??= []).push(i);
    }
    G.rows.set(g, rows);
  }
  const from = Math.max(0, Math.floor((top - NODE_H - G.boxes.y[g]) / ROW)), to = Math.min(rows.length - 1, Math.floor((bottom - G.boxes.y[g]) / ROW));
  for (let r = from; r <= to; r++) if (rows[r]) for (const i of rows[r]) visit(i);
}
function readersOf(i) {
  if (!G.readers) {
    const starts = new Int32Array(G.n + 1), list = new Int32Array(G.after.length);
    for (const a of G.after) starts[a + 1]++;
    for (let v = 0; v < G.n; v++) starts[v + 1] += starts[v];
    const fill = starts.slice();
    for (let v = 0; v < G.n; v++) for (let e = G.starts[v]; e < G.starts[v + 1]; e++) list[fill[G.after[e]]++] = v;
    G.readers = { starts, list };
  }
  return G.readers.list.subarray(G.readers.starts[i], G.readers.starts[i + 1]);
}
const sourcesOf = (i) => G.after.slice(G.starts[i], G.starts[i + 1]);

const typeOf = (text) => text.split("[")[0] || "unknown";
const TYPES = ["float32", "float16", "bfloat16", "int8", "uint8", "int64", "int32", "bool"];
const typeColor = (t) => {
  const i = TYPES.indexOf(t);
  return i < 0 ? theme.dim : "hsl(" + ((i * 47 + 205) % 360) + " 55% 48%)";
};
const heat = (share) => "hsl(" + Math.round(212 - 200 * Math.sqrt(share)) + " 68% 47%)";
const engineOfGroup = (g) => (R.segments[g] ? R.segments[g].engine : "gone");
const engineColor = (e) => theme[e] || theme.dim;

function colours() {
  if (G.colors && G.colors.by === colorBy && G.colors.theme === theme) return G.colors;
  const by = colorBy, nodes = new Array(G.n), groups = new Array(G.count);
  if (by === "engine" || G.isBefore) {
    for (let g = 0; g < G.count; g++) groups[g] = engineColor(engineOfGroup(g));
    for (let i = 0; i < G.n; i++) nodes[i] = groups[G.group[i]];
  } else if (by === "precision") {
    for (let g = 0; g < G.count; g++) {
      const seen = {};
      let best = "unknown";
      for (let m = G.first[g]; m < G.first[g + 1]; m++) {
        const t = typeOf(R.strings[R.output[G.members[m]]]);
        seen[t] = (seen[t] || 0) + 1;
        if (seen[t] > (seen[best] || 0)) best = t;
      }
      groups[g] = typeColor(best);
    }
    for (let i = 0; i < G.n; i++) nodes[i] = typeColor(typeOf(R.strings[R.output[i]]));
  } else {
    const value = by === "time" ? R.us : R.bytes;
    let most = 0;
    for (let i = 0; i < G.n; i++) if (value[i] > most) most = value[i];
    for (let i = 0; i < G.n; i++) nodes[i] = heat(most ? value[i] / most : 0);
    const total = R.segments.map((s) => (by === "time" ? s.estimatedUs : s.bytes)), top = total.reduce((a, b) => Math.max(a, b), 0);
    for (let g = 0; g < G.count; g++) groups[g] = heat(top ? (total[g] || 0) / top : 0);
  }
  return (G.colors = { by, theme, nodes, groups });
}

function extent() {
  let w = 1, h = 1;
  for (let g = 0; g < G.count; g++) {
    if (G.first[g] === G.first[g + 1]) continue;
    w = Math.max(w, G.boxes.x[g] + G.boxes.w[g]);
    h = Math.max(h, G.boxes.y[g] + G.boxes.h[g]);
  }
  return { w, h };
}
function fit() {
  const { w, h } = extent(), W = canvas.clientWidth, H = canvas.clientHeight;
  const k = Math.min(1, (W - 40) / w, (H - 40) / h);
  view = { k, x: (W - w * k) / 2, y: (H - h * k) / 2 };
  draw();
}
function zoomTo(x, y, w, h) {
  const W = canvas.clientWidth, H = canvas.clientHeight;
  // A box larger than the window opens at its top, at a size that can be read.
  const k = Math.min(1.2, Math.max(0.5, Math.min((W - 60) / w, (H - 60) / h)));
  view = { k, x: W / 2 - (x + w / 2) * k, y: h * k > H ? 30 - y * k : H / 2 - (y + h / 2) * k };
  if (w * k > W) view.x = 30 - x * k;
  draw();
}
const zoomGroup = (g) => zoomTo(G.boxes.x[g], G.boxes.y[g], G.boxes.w[g], G.boxes.h[g]);
const zoomNode = (i) => zoomTo(G.x[i] - 200, G.y[i] - 150, NODE_W + 400, NODE_H + 300);
function zoomBy(factor, px, py) {
  const k = Math.min(4, Math.max(0.0005, view.k * factor)), f = k / view.k;
  view = { k, x: px - (px - view.x) * f, y: py - (py - view.y) * f };
  draw();
}

function draw() {
  if (queued || !G) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    paint();
  });
}
const clip = (text, width, letter) => {
  const room = Math.floor(width / (letter || 6.4));
  return text.length <= room ? text : text.slice(0, Math.max(1, room - 1)) + "\u2026";
};
function paint() {
  const W = canvas.clientWidth, H = canvas.clientHeight, D = devicePixelRatio || 1;
  if (canvas.width !== Math.round(W * D) || canvas.height !== Math.round(H * D)) {
    canvas.width = Math.round(W * D);
    canvas.height = Math.round(H * D);
  }
  const { k } = view, { x: bx, y: by, w: bw, h: bh } = G.boxes, c = colours();
  ctx.setTransform(D, 0, 0, D, 0, 0);
  ctx.clearRect(0, 0, W, H);
  ctx.setTransform(D * k, 0, 0, D * k, D * view.x, D * view.y);
  const x0 = -view.x / k, y0 = -view.y / k, x1 = x0 + W / k, y1 = y0 + H / k;
  ctx.lineWidth = 1 / k;
  ctx.strokeStyle = theme.edge;
  ctx.beginPath();
  for (let e = 0; e < G.edges.length; e += 2) {
    const p = G.edges[e], g = G.edges[e + 1];
    const ax = bx[p] + bw[p] / 2, ay = by[p] + bh[p], cx = bx[g] + bw[g] / 2, cy = by[g];
    if (Math.max(ax, cx) < x0 || Math.min(ax, cx) > x1 || Math.max(ay, cy) < y0 || Math.min(ay, cy) > y1) continue;
    ctx.moveTo(ax, ay);
    ctx.lineTo(cx, cy);
  }
  ctx.stroke();
  const open = NODE_H * k >= MAX_OPEN, words = k > 0.34;
  const visible = [];
  for (let g = 0; g < G.count; g++) {
    if (bx[g] > x1 || bx[g] + bw[g] < x0 || by[g] > y1 || by[g] + bh[g] < y0 || G.first[g] === G.first[g + 1]) continue;
    ctx.fillStyle = open ? theme.bg : c.groups[g];
    ctx.fillRect(bx[g], by[g], bw[g], bh[g]);
    if (open || bw[g] * k > 6) {
      ctx.strokeStyle = selected && selected.kind === "group" && selected.i === g ? theme.hit : c.groups[g];
      ctx.lineWidth = (selected && selected.kind === "group" && selected.i === g ? 3 : 1.5) / k;
      ctx.strokeRect(bx[g], by[g], bw[g], bh[g]);
    }
    const name = R.segments[g] ? R.segments[g].name : "taken away by passes";
    if (open) {
      ctx.fillStyle = c.groups[g];
      ctx.font = "600 15px system-ui,sans-serif";
      ctx.fillText(clip(name, bw[g] - 20, 9), bx[g] + 12, by[g] + 24);
      between(g, y0, y1, (i) => {
        if (G.x[i] < x1 && G.x[i] + NODE_W > x0 && G.y[i] < y1 && G.y[i] + NODE_H > y0) visible.push(i);
      });
    } else if (bw[g] * k > 70 && bh[g] * k > 16) {
      ctx.fillStyle = theme.bg;
      ctx.font = "600 " + 12 / k + "px system-ui,sans-serif";
      ctx.fillText(clip(name + ": " + (G.first[g + 1] - G.first[g]) + " nodes", bw[g] * k - 8), bx[g] + 6 / k, by[g] + 14 / k);
    }
  }
  if (open) {
    ctx.strokeStyle = theme.edge;
    ctx.lineWidth = 1 / k;
    ctx.beginPath();
    for (const i of visible)
      for (let e = G.starts[i]; e < G.starts[i + 1]; e++) {
        const a = G.after[e];
        if (G.group[a] !== G.group[i]) continue;
        ctx.moveTo(G.x[a] + NODE_W / 2, G.y[a] + NODE_H);
        ctx.lineTo(G.x[i] + NODE_W / 2, G.y[i]);
      }
    ctx.stroke();
    for (const i of visible) {
      if (words) {
        ctx.fillStyle = theme.panel;
        ctx.fillRect(G.x[i], G.y[i], NODE_W, NODE_H);
        ctx.fillStyle = c.nodes[i];
        ctx.fillRect(G.x[i], G.y[i], 5, NODE_H);
        ctx.fillStyle = theme.fg;
        ctx.font = "600 12px system-ui,sans-serif";
        ctx.fillText(clip(R.strings[G.op[i]], NODE_W - 14, 7.8), G.x[i] + 10, G.y[i] + 14);
        ctx.fillStyle = theme.dim;
        ctx.font = "10px system-ui,sans-serif";
        ctx.fillText(clip(R.strings[G.name[i]], NODE_W), G.x[i] + 10, G.y[i] + 27);
      } else {
        ctx.fillStyle = c.nodes[i];
        ctx.fillRect(G.x[i], G.y[i], NODE_W, NODE_H);
      }
      const chosen = selected && selected.kind === "node" && selected.i === i;
      if (chosen || found.mark[i] === 1) {
        ctx.strokeStyle = theme.hit;
        ctx.lineWidth = (chosen ? 3 : 2) / k;
        ctx.strokeRect(G.x[i], G.y[i], NODE_W, NODE_H);
      }
    }
  } else if (found.list.length > 0) {
    ctx.fillStyle = theme.hit;
    const r = 5 / k;
    for (const i of found.list.length > 2000 ? found.list.slice(0, 2000) : found.list) {
      ctx.fillRect(G.x[i] + NODE_W / 2 - r, G.y[i] + NODE_H / 2 - r, 2 * r, 2 * r);
    }
  }
  if (selected && selected.kind === "node" && !G.isBefore) {
    const i = selected.i, cx = G.x[i] + NODE_W / 2;
    ctx.strokeStyle = theme.hit;
    ctx.lineWidth = 2 / k;
    ctx.beginPath();
    for (const a of sourcesOf(i)) {
      ctx.moveTo(G.x[a] + NODE_W / 2, G.y[a] + NODE_H);
      ctx.lineTo(cx, G.y[i]);
    }
    let left = 500;
    for (const b of readersOf(i)) {
      if (left-- === 0) break;
      ctx.moveTo(cx, G.y[i] + NODE_H);
      ctx.lineTo(G.x[b] + NODE_W / 2, G.y[b]);
    }
    ctx.stroke();
  }
}

/** What lies under a point of the canvas. */
function hit(px, py) {
  const x = (px - view.x) / view.k, y = (py - view.y) / view.k;
  for (let g = 0; g < G.count; g++) {
    if (x < G.boxes.x[g] || x > G.boxes.x[g] + G.boxes.w[g] || y < G.boxes.y[g] || y > G.boxes.y[g] + G.boxes.h[g]) continue;
    let node = -1;
    if (NODE_H * view.k >= MAX_OPEN)
      between(g, y - NODE_H, y + NODE_H, (i) => {
        if (x >= G.x[i] && x <= G.x[i] + NODE_W && y >= G.y[i] && y <= G.y[i] + NODE_H) node = i;
      });
    return node >= 0 ? { kind: "node", i: node } : { kind: "group", i: g };
  }
  return null;
}

let drag = null;
canvas.addEventListener("pointerdown", (e) => {
  drag = { x: e.clientX, y: e.clientY, vx: view.x, vy: view.y, moved: false };
  canvas.setPointerCapture(e.pointerId);
});
canvas.addEventListener("pointermove", (e) => {
  if (!drag) return;
  const dx = e.clientX - drag.x, dy = e.clientY - drag.y;
  if (Math.abs(dx) + Math.abs(dy) > 4) drag.moved = true;
  if (!drag.moved) return;
  view = { ...view, x: drag.vx + dx, y: drag.vy + dy };
  draw();
});
canvas.addEventListener("pointerup", (e) => {
  const clicked = drag && !drag.moved;
  drag = null;
  if (!clicked || !G) return;
  const box = canvas.getBoundingClientRect();
  choose(hit(e.clientX - box.left, e.clientY - box.top));
});
canvas.addEventListener("dblclick", () => {
  if (selected && selected.kind === "group") zoomGroup(selected.i);
  else if (selected) zoomNode(selected.i);
});
canvas.addEventListener(
  "wheel",
  (e) => {
    e.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoomBy(Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0015)), e.clientX - box.left, e.clientY - box.top);
  },
  { passive: false },
);
canvas.addEventListener("keydown", (e) => {
  const step = e.shiftKey ? 240 : 60, W = canvas.clientWidth, H = canvas.clientHeight;
  const pan = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[e.key];
  if (pan) {
    view = { ...view, x: view.x + pan[0], y: view.y + pan[1] };
    draw();
  } else if (e.key === "+" || e.key === "=") zoomBy(1.3, W / 2, H / 2);
  else if (e.key === "-") zoomBy(1 / 1.3, W / 2, H / 2);
  else if (e.key === "0" || e.key === "Escape") fit();
  else if (e.key === "Enter" && selected) selected.kind === "group" ? zoomGroup(selected.i) : zoomNode(selected.i);
  else if (e.key === "n" || e.key === "p") step1(e.key === "n" ? 1 : -1);
  else return;
  e.preventDefault();
});
/** The next or previous segment, or node of the segment that is open. */
function step1(by) {
  if (selected && selected.kind === "node") {
    const g = G.group[selected.i], list = G.members.subarray(G.first[g], G.first[g + 1]);
    const at = list.indexOf(selected.i) + by;
    if (at >= 0 && at < list.length) choose({ kind: "node", i: list[at] });
  } else {
    const i = selected ? selected.i + by : 0;
    if (i >= 0 && i < G.count) choose({ kind: "group", i });
  }
  if (selected) selected.kind === "node" ? zoomNode(selected.i) : zoomGroup(selected.i);
}
`;
