/**
 * Mutated GraphDefs, SavedModels and checkpoints, imported: a coded error or a graph that verifies, quickly. TF_MUTANTS says how many (default 200),
 * TF_SEED where the generator starts; failures print both. `npm run test:fuzz` compiles and runs many more in processes of their own.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { compile } from "../../../src/compile.js";
import { PartitaError } from "../../../src/diagnostics.js";
import { detectBytes } from "../../../src/import/index.js";
import { importTf } from "../../../src/import/tf/index.js";
import { bytesOf } from "../../../src/ir/payload.js";
import { verify } from "../../../src/ir/verify.js";
import { inferGraph } from "../../../src/ops/infer.js";
import { generator } from "../../../src/runtime/measure.js";
import { seedOf } from "../../fuzz/mutants.js";
import { readMessage, writeMessage } from "../../fuzz/proto.js";
import { prepareTensorFlow, tensorflowMutant } from "../../fuzz/tensorflow.js";
import { ownGraphs, ownSavedModels } from "../../fuzz/tf-bases.js";

const COUNT = Number(process.env["TF_MUTANTS"] ?? 200);
const SEED = Number(process.env["TF_SEED"] ?? 1);
const LIMIT_MS = 10_000;
const folder = mkdtempSync(join(tmpdir(), "partita-tf-mutants-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("mutants are refused with a code, or read soundly", { timeout: 600_000 }, async () => {
  const prepared = await prepareTensorFlow(join(folder, "tensorflow"), undefined);
  const counts = new Map<string, number>();
  for (let i = 0; i < COUNT; i++) {
    const m = tensorflowMutant(prepared, generator(seedOf(SEED, i)));
    const what = `mutant ${i} of TF_SEED=${SEED} (${m.base}; ${m.how})`;
    const start = performance.now();
    let outcome = "read";
    try {
      const g = importTf(m.model, m.outputs === undefined ? {} : { outputs: m.outputs });
      verify(g);
      for (const c of g.constants.values()) if (c.data.kind === "lazy" && c.data.length < 1 << 20) bytesOf(c);
      inferGraph(g);
    } catch (error) {
      if (!(error instanceof PartitaError) || error.exit === 70 || error.code === "P1402")
        throw new Error(`${what}: ${error instanceof Error ? error.stack : error}`, { cause: error });
      expect(m.demand, `${what}: ${error.message}`).not.toBe("same");
      outcome = error.code;
    }
    counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
    expect(performance.now() - start, what).toBeLessThan(LIMIT_MS);
  }
  console.log(`${COUNT} mutants:`, JSON.stringify(Object.fromEntries([...counts].sort())));
  expect(counts.size).toBeGreaterThan(10);
});

it("devices, pipes and folders in the place of a checkpoint's files are refused, not read", async () => {
  for (const file of ["variables.index", "variables.data-00000-of-00001"])
    for (const [kind, put] of [
      ["device", (path: string) => symlinkSync("/dev/zero", path)],
      ["folder", (path: string) => mkdirSync(path)],
    ] as const) {
      const at = join(folder, `${kind}-${file}`);
      const [model] = ownSavedModels(at);
      const path = join(model?.path ?? "", "variables", file);
      rmSync(path);
      put(path);
      await expect(compile(model?.path ?? ""), `${file} as a ${kind}`).rejects.toThrow(/^P1313 .*not a regular file/);
    }
});

it("a GraphDef is told from an ONNX model whatever field comes first", async () => {
  const [, , base] = ownGraphs();
  const tree = readMessage(base?.bytes ?? new Uint8Array(), "tfGraph");
  // The library before the nodes.
  tree.fields.reverse();
  expect(tree.fields[0]?.number).toBe(2);
  const bytes = writeMessage(tree);
  expect(detectBytes(bytes)).toBe("graphdef");
  writeFileSync(join(folder, "reversed.pb"), bytes);
  for (const model of [bytes, join(folder, "reversed.pb")]) expect((await compile(model)).outputs.length).toBeGreaterThan(0);
  expect(detectBytes(Uint8Array.from([0x12, 1, 0x61, 8, 7]))).toBe("onnx");
  expect(detectBytes(Uint8Array.from([0x12, 1, 0x61, 0x3a, 0]))).toBe("onnx");
  expect(detectBytes(Uint8Array.from([0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]))).toBe("onnx");
  expect(detectBytes(new Uint8Array(2))).toBe("onnx");
});
