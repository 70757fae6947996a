/** Whole models: the framework's own results through the whole line, bit identity without passes, text round trip, sound plans. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { describe, expect, it } from "vitest";
import { compile, load, plan } from "../../src/compile.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { isStaticShape } from "../../src/ir/dims.js";
import { shapeOfType, typeAt } from "../../src/ir/graph.js";
import { graphHash } from "../../src/ir/hash.js";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import type { Constant } from "../../src/ir/types.js";
import { check } from "../../src/partition/check.js";
import type { Tensor } from "../../src/tensor.js";
import { compareTensors } from "../support/compare.js";
import { NO_DATA } from "../support/data.js";
import { type Model, onesFor, onnxModels, recordedRun } from "../support/models.js";

const models = onnxModels();
/** Random weights tie the scores, so which of equal boxes comes first is arbitrary: dims and sorted scores are compared. */
const TIED = new Set(["torch/ssdlite320"]);

/** ONNX Runtime by itself, at the level its results are the reference at. */
async function reference(
  model: string | Uint8Array,
  feeds: Readonly<Record<string, Tensor>>,
): Promise<Readonly<Record<string, { readonly type: string; readonly data: unknown; readonly dims: readonly number[] }>>> {
  const options = { graphOptimizationLevel: "basic", logSeverityLevel: 4 } as const;
  const session =
    typeof model === "string" ? await ort.InferenceSession.create(model, options) : await ort.InferenceSession.create(model, options);
  const out = await session.run(
    Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, new ort.Tensor(t.type as "float32", t.data as never, t.dims)])),
  );
  await session.release();
  return Object.fromEntries(
    Object.entries(out).map(([name, t]) => {
      const tensor = t as ort.Tensor;
      return [name, { type: tensor.type, data: tensor.data, dims: tensor.dims }];
    }),
  );
}
const bitsOf = (data: unknown): unknown =>
  ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("latin1") : data;
const sorted = (t: Tensor): number[] => Array.from(t.data as ArrayLike<number | bigint>, Number).sort((a, b) => a - b);

const isDynamic = (m: Model): boolean => {
  const g = importOnnx(m.path);
  return g.inputs.some((v) => !isStaticShape(shapeOfType(typeAt(g, v))));
};
function agrees(m: Model, out: Readonly<Record<string, Tensor>>, expected: Readonly<Record<string, Tensor>>): void {
  expect(Object.keys(out).sort()).toEqual(Object.keys(expected).sort());
  for (const [name, want] of Object.entries(expected)) {
    const has = out[name] as Tensor;
    if (TIED.has(m.name)) {
      expect([has.type, has.dims]).toEqual([want.type, want.dims]);
      if (want.dims.length === 1 && want.type === "float32") {
        const [a, b] = [sorted(has), sorted(want)];
        const worst = Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number))));
        expect(worst, name).toBeLessThan(1e-3 * (b.at(-1) as number));
      }
      continue;
    }
    const c = compareTensors(has, want, { rtolOfMax: 1e-3, atol: 1e-6 });
    expect(c.ok, `${name}: ${c.message}`).toBe(true);
  }
}

it.skipIf(models.length === 0)(`finds the models (skipped when ${NO_DATA})`, () => {
  expect(models.length).toBeGreaterThanOrEqual(38);
});

describe.each(models.map((m) => ({ title: m.name, m })))("$title", ({ m }: { m: Model }) => {
  const recorded = recordedRun(m);
  const dynamic = isDynamic(m);
  it
    .skipIf(recorded === undefined)
    .each([["as it stands", false], ...(dynamic && recorded !== undefined ? ([["with its shapes fixed", true]] as const) : [])] as const)(
    "reproduces the recorded results, %s",
    async (_, fixed) => {
      if (recorded === undefined) return;
      const shapes = Object.fromEntries(Object.entries(recorded.feeds).map(([name, t]) => [name, t.dims]));
      let program = await compile(m.path, { target: "host", verify: true, ...(fixed ? { shapes } : {}) });
      const folder = mkdtempSync(join(tmpdir(), "partita-models-"));
      try {
        // The largest models would only measure the disk.
        if (statSync(m.path).size < 64 * 2 ** 20) {
          await program.save(join(folder, "model.partita"));
          program = await load(join(folder, "model.partita"));
        }
        const session = await program.createSession();
        const out = await session.run(recorded.feeds);
        await session.dispose();
        agrees(m, out, recorded.expected);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    },
  );

  it("without passes, import then export changes no bit", async () => {
    const feeds = recordedRun(m)?.feeds ?? onesFor(m);
    const [before, after] = [await reference(m.path, feeds), await reference(encodeOnnx(importOnnx(m.path)), feeds)];
    expect(Object.keys(after)).toEqual(Object.keys(before));
    for (const [name, want] of Object.entries(before)) {
      const has = after[name];
      expect([has?.type, has?.dims], name).toEqual([want.type, want.dims]);
      expect(bitsOf(has?.data) === bitsOf(want.data), name).toBe(true);
    }
  });

  it("reads back from its text", () => {
    const g = importOnnx(m.path);
    const blobs = new Map<string, Constant>();
    const text = print(g, { blobs });
    const again = parse(text, { blobs });
    expect(print(again, { blobs: new Map() }) === text).toBe(true);
    expect(graphHash(again)).toBe(graphHash(g));
  });

  it.each(["cuda", "tensorrt"] as const)("has a sound plan for %s", async (target) => {
    const feeds = recordedRun(m)?.feeds;
    const shapes = feeds === undefined ? {} : Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, t.dims]));
    for (const options of [{ target }, { target, shapes }]) {
      const planned = await plan(m.path, options);
      check(planned.inferred.graph, planned.partition.segments);
    }
  });
});
