// Importing a SavedModel with 520 MB of variables: time and memory of a fresh process. The weights stay on disk until somebody reads them.
import { fork } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { median, record } from "./record.mjs";

const LAYERS = 130;
const WIDTH = 1000;
const [, , role, path] = process.argv;

if (role === "import") {
  const { importTf } = await import("../dist/import/tf/index.js");
  const start = performance.now();
  const graph = importTf(path);
  const ms = performance.now() - start;
  globalThis.gc?.();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  const peak = process.resourceUsage().maxRSS * 1024;
  process.send({ ms, nodes: graph.nodes.length, heap: heapUsed, external: external + arrayBuffers, peak });
} else {
  const folder = mkdtempSync(join(tmpdir(), "partita-bench-"));
  try {
    await write(folder);
    const once = () =>
      new Promise((resolve, reject) => {
        const child = fork(fileURLToPath(import.meta.url), ["import", folder], { stdio: "inherit", execArgv: ["--expose-gc"] });
        child.once("message", resolve);
        child.once("exit", (code) => (code === 0 ? undefined : reject(new Error(`the import ended with ${code}`))));
      });
    const runs = [];
    for (let i = 0; i < 5; i++) runs.push(await once());
    const megabytes = (key) => Math.round(median(runs.map((r) => r[key])) / 1e6);
    record("saved-model", {
      what: `a SavedModel of ${LAYERS} dense layers of ${WIDTH} x ${WIDTH}, medians of 5 processes`,
      variablesMegabytes: Math.round(statSync(join(folder, "variables/variables.data-00000-of-00001")).size / 1e6),
      seconds: Number((median(runs.map((r) => r.ms)) / 1000).toFixed(3)),
      nodes: runs[0].nodes,
      heapMegabytes: megabytes("heap"),
      buffersMegabytes: megabytes("external"),
      peakMegabytes: megabytes("peak"),
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Writes the SavedModel: graph, index table with one block, one shard. */
async function write(folder) {
  const { Writer } = await import("../dist/import/onnx/wire.js");
  const { crc32c, masked } = await import("../dist/import/tf/crc32c.js");
  const bytes = (f) => {
    const w = new Writer();
    f(w);
    return Buffer.concat(w.chunks());
  };
  const shape = (w, dims) => {
    for (const d of dims) w.message(2, () => w.int64(1, d));
  };
  const kinds = {
    type: (w, t) => w.uint(6, t),
    text: (w, s) => w.string(2, s),
    dims: (w, d) => w.message(7, () => shape(w, d)),
  };
  const node = (w, name, op, inputs, attrs) =>
    w.message(1, () => {
      w.string(1, name);
      w.string(2, op);
      for (const i of inputs) w.string(3, i);
      for (const [key, [kind, value]] of Object.entries(attrs))
        w.message(5, () => {
          w.string(1, key);
          w.message(2, () => kinds[kind](w, value));
        });
    });
  const T = ["type", 1];
  const info = (w, field, key, tensor) =>
    w.message(field, () => {
      w.string(1, key);
      w.message(2, () => w.string(1, tensor));
    });
  const graph = (w) => {
    node(w, "x", "Placeholder", [], { dtype: T, shape: ["dims", [-1, WIDTH]] });
    let at = "x";
    for (let i = 0; i < LAYERS; i++) {
      const s = `dense_${i}`;
      for (const [part, dims] of [
        ["kernel", [WIDTH, WIDTH]],
        ["bias", [WIDTH]],
      ]) {
        node(w, `${s}/${part}`, "VarHandleOp", [], { dtype: T, shape: ["dims", dims], shared_name: ["text", `${s}/${part}`] });
        node(w, `${s}/${part}/Read`, "ReadVariableOp", [`${s}/${part}`], { dtype: T });
      }
      node(w, `${s}/MatMul`, "MatMul", [at, `${s}/kernel/Read`], { T });
      node(w, `${s}/BiasAdd`, "BiasAdd", [`${s}/MatMul`, `${s}/bias/Read`], { T });
      node(w, `${s}/Relu`, "Relu", [`${s}/BiasAdd`], { T });
      at = `${s}/Relu`;
    }
    return at;
  };
  writeFileSync(
    join(folder, "saved_model.pb"),
    bytes((w) => {
      w.uint(1, 1);
      w.message(2, () => {
        w.message(1, () => w.string(4, "serve"));
        let last = "";
        w.message(2, () => {
          last = graph(w);
        });
        w.message(5, () => {
          w.string(1, "serving_default");
          w.message(2, () => {
            info(w, 1, "x", "x:0");
            info(w, 2, "y", `${last}:0`);
          });
        });
      });
    }),
  );
  mkdirSync(join(folder, "variables"));
  const shard = openSync(join(folder, "variables/variables.data-00000-of-00001"), "w");
  const varint = (x) => (x < 128 ? [x] : [(x & 127) | 128, ...varint(Math.floor(x / 128))]);
  const entries = [["", bytes((w) => w.uint(1, 1))]];
  const names = Array.from({ length: LAYERS }, (_, i) => [`dense_${i}/bias`, `dense_${i}/kernel`])
    .flat()
    .sort();
  const sums = new Map();
  let offset = 0;
  for (const name of names) {
    const dims = name.endsWith("kernel") ? [WIDTH, WIDTH] : [WIDTH];
    const data = new Uint8Array(new Float32Array(dims.reduce((a, d) => a * d, 1)).fill(0.001).buffer);
    if (!sums.has(data.length)) sums.set(data.length, masked(crc32c(data)));
    writeSync(shard, data);
    const crc = Buffer.alloc(5);
    crc[0] = (6 << 3) | 5;
    crc.writeUInt32LE(sums.get(data.length), 1);
    entries.push([
      name,
      bytes((w) => {
        w.uint(1, 1);
        w.message(2, () => shape(w, dims));
        w.uint(4, offset);
        w.uint(5, data.length);
        w.raw(crc);
      }),
    ]);
    offset += data.length;
  }
  closeSync(shard);
  const out = [];
  let at = 0;
  const block = (list) => {
    const body = Buffer.concat([
      ...list.flatMap(([k, v]) => [Buffer.from([0, ...varint(k.length), ...varint(v.length)]), Buffer.from(k), v]),
      Buffer.from([0, 0, 0, 0, 1, 0, 0, 0, 0]),
    ]);
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(masked(crc32c(body)));
    out.push(body, crc);
    const handle = [...varint(at), ...varint(body.length - 1)];
    at += body.length + 4;
    return handle;
  };
  const data = block(entries);
  const handles = [...block([]), ...block([["~", Buffer.from(data)]])];
  const footer = Buffer.alloc(48);
  footer.set(handles);
  footer.set([0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb], 40);
  writeFileSync(join(folder, "variables/variables.index"), Buffer.concat([...out, footer]));
}
