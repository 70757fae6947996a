/** One model, one report: whatever the order of nodes in the file, the numbering of values, the runs beside it, and the seeds of the engine's hashes. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { report } from "../../src/compile.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { readsOf } from "../../src/ir/graph.js";
import { canonicalOrder } from "../../src/ir/order.js";
import type { Graph, Node, ValueId } from "../../src/ir/types.js";
import { verify } from "../../src/ir/verify.js";
import { generator } from "../../src/runtime/measure.js";
import { randomGraph } from "../partition/random.js";
import { dataDir } from "../support/data.js";
import { largeGraph } from "./models.js";

/** The same graph as another file would list it: any topological order of the nodes, any order of the constants. */
function shuffled(g: Graph, next: () => number): Graph {
  const missing = new Map<Node, number>();
  const readers = new Map<ValueId, Node[]>();
  const made = new Set(g.nodes.flatMap((n) => n.outs));
  for (const n of g.nodes) {
    const reads = [...new Set(readsOf(n))].filter((v) => made.has(v));
    missing.set(n, reads.length);
    for (const v of reads) readers.set(v, [...(readers.get(v) ?? []), n]);
  }
  const ready = g.nodes.filter((n) => missing.get(n) === 0);
  const order: Node[] = [];
  while (ready.length > 0) {
    const [n] = ready.splice(Math.floor(next() * ready.length), 1);
    if (n === undefined) break;
    order.push(n);
    for (const v of n.outs)
      for (const r of v === undefined ? [] : (readers.get(v) ?? [])) {
        missing.set(r, (missing.get(r) ?? 0) - 1);
        if (missing.get(r) === 0) ready.push(r);
      }
  }
  const constants = [...g.constants].map((c) => ({ c, key: next() })).sort((a, b) => a.key - b.key);
  return { ...g, nodes: order, constants: new Map(constants.map(({ c }) => c)) };
}
const json = async (bytes: Uint8Array): Promise<string> =>
  JSON.stringify((await report(bytes, { target: ["tensorrt", "cuda"], minimumSegmentSize: 2 })).toJSON());

describe("a report's bytes", () => {
  it("do not depend on the order of nodes, on value numbers, or on other runs", async () => {
    const next = generator(3);
    for (const g of [largeGraph(300), ...Array.from({ length: 20 }, () => randomGraph(next, 40))]) {
      const listings = [g, shuffled(g, next), shuffled(g, next)].map((x) => encodeOnnx(x));
      const [first, ...others] = await Promise.all(listings.map(json));
      for (const other of others) expect(other).toBe(first);
    }
  });

  const data = dataDir("torch");
  it.skipIf(data === undefined)(
    `nor on the listing of real models${data === undefined ? " (skipped: PARTITA_TEST_DATA is not set)" : ""}`,
    async () => {
      const next = generator(4);
      for (const name of ["yolo8_nms/legacy.onnx", "ssdlite320/legacy.onnx", "hf_bert/dynamo.onnx", "gru_tagger/legacy.onnx"]) {
        const g = await importOnnx(join(data ?? "", name));
        const [a, b] = [encodeOnnx(g), encodeOnnx(shuffled(g, next))];
        expect(await json(b), name).toBe(await json(a));
      }
    },
    60_000,
  );

  const cli = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
  it.skipIf(!existsSync(cli))(
    `nor on hash seeds or threads${existsSync(cli) ? "" : " (skipped: run `npm run build` first)"}`,
    () => {
      const folder = mkdtempSync(join(tmpdir(), "partita-seeds-"));
      try {
        const model = join(folder, "model.onnx");
        writeFileSync(model, encodeOnnx(largeGraph(400)));
        const run = (flags: readonly string[], env: Record<string, string>): string =>
          execFileSync(process.execPath, [...flags, cli, "report", model, "--target", "cuda", "--json"], {
            encoding: "utf8",
            stdio: ["ignore", "pipe", "ignore"],
            env: { ...process.env, ...env },
          });
        const first = run(["--hash-seed=1"], { UV_THREADPOOL_SIZE: "1" });
        expect(run(["--hash-seed=987654"], { UV_THREADPOOL_SIZE: "8" })).toBe(first);
        expect(JSON.parse(first).schema).toBe("partita.report/1");
        expect(readFileSync(model).length).toBeGreaterThan(0);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
    60_000,
  );

  it("come from one order of nodes for every listing", () => {
    const next = generator(5);
    for (let i = 0; i < 200; i++) {
      const g = randomGraph(next, 1 + Math.floor(next() * 30));
      const [a, b] = [canonicalOrder(g), canonicalOrder(shuffled(g, next))];
      verify(a);
      expect(b.nodes.map((n) => n.name)).toEqual(a.nodes.map((n) => n.name));
    }
  });
});
