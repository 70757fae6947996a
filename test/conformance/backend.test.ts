/** The ONNX backend suite through the whole line: compile, save, load, run. Every case that ONNX Runtime can run must give the suite's result. */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { importOnnx } from "../../src/import/onnx/index.js";
import { valueAt } from "../../src/ir/graph.js";
import { casesOf, difference, type Plain } from "../support/backend.js";
import { builtPackage } from "../support/built.js";
import { dataDir, dataFile, NO_DATA } from "../support/data.js";
import { onesFor } from "../support/models.js";
import { readProto } from "../support/onnx-tensors.js";
import { ProcessPool } from "../support/pool.js";
import { different, unsupported } from "./deviations.js";

type Outcome = { readonly kind: "passed"; readonly wrapped: boolean } | { readonly kind: "skipped" | "failed"; readonly why: string };

const reasonFor = (error: string): string | undefined => unsupported.find((u) => u.message.test(error))?.why;

const knownFor = (test: string): string | undefined => different.find((d) => d.test.test(test))?.why;

async function outcomeOf(dir: string, pool: ProcessPool): Promise<Outcome> {
  let cases: ReturnType<typeof casesOf>;
  try {
    cases = casesOf(dir);
  } catch (error) {
    return { kind: "failed", why: error instanceof Error ? error.message : String(error) };
  }
  if ("skip" in cases) return { kind: "skipped", why: cases.skip };
  for (const c of cases) {
    const reply = await pool.run<readonly Readonly<Record<string, Plain>>[]>({
      model: c.model,
      runs: [c.feeds],
      options: { target: "host", verify: true },
    });
    if ("crashed" in reply) return { kind: "failed", why: reply.crashed };
    if ("error" in reply) {
      const reason = reasonFor(reply.error);
      return reason === undefined ? { kind: "failed", why: reply.error } : { kind: "skipped", why: `${reason}: ${reply.error}` };
    }
    for (const [name, want] of c.expected) {
      const wrong = difference(reply.result[0]?.[name], want);
      if (wrong !== undefined) return { kind: "failed", why: `'${name}': ${wrong}` };
    }
  }
  return { kind: "passed", wrapped: cases.some((c) => c.wrapped) };
}

const root = dataDir("onnx-backend");
const listed = dataFile("onnx-backend-ort-node-1.30.json");
const reference = listed === undefined ? {} : (JSON.parse(readFileSync(listed, "utf8")) as Record<string, Record<string, string>>);

for (const [category, floor] of [
  ["node", 1512],
  ["pytorch-operator", 35],
  ["pytorch-converted", 79],
  ["simple", 17],
] as const) {
  it.skipIf(root === undefined)(`${category}: compile, save, load, run (skipped when ${NO_DATA})`, async () => {
    const pool = new ProcessPool(new URL("../support/compile-child.mjs", import.meta.url), availableParallelism(), [builtPackage()]);
    const outcomes = new Map<string, Outcome>();
    try {
      const dir = join(root ?? "", category);
      const only = process.env["PARTITA_TEST_ONLY"];
      const names = readdirSync(dir, { withFileTypes: true })
        .filter((f) => f.isDirectory() && (only === undefined || new RegExp(only).test(f.name)))
        .map((f) => f.name);
      await Promise.all(names.map(async (name) => outcomes.set(name, await outcomeOf(join(dir, name), pool))));
    } finally {
      pool.close();
    }
    const of = (kind: Outcome["kind"]): [string, Outcome][] =>
      [...outcomes].filter(([, o]) => o.kind === kind).sort(([a], [b]) => (a < b ? -1 : 1));
    const lines = (kind: "failed" | "skipped"): string =>
      of(kind)
        .map(([name, o]) => {
          const known = kind === "failed" ? knownFor(name) : undefined;
          return `  ${kind} ${name}: ${known === undefined ? "" : `${known}: `}${"why" in o ? o.why.replaceAll(/\s+/g, " ").slice(0, 300) : ""}`;
        })
        .join("\n");
    const passed = of("passed");
    const wrapped = passed.filter(([, o]) => o.kind === "passed" && o.wrapped).length;
    console.log(
      `${category}: ${passed.length} passed (${wrapped} with containers or foreign types at the border), ${of("failed").length} failed, ${of("skipped").length} skipped\n${lines("failed")}\n${lines("skipped")}`,
    );
    expect(listed, "onnx-backend-ort-node-1.30.json lies neither among the data nor beside them").toBeDefined();
    const rewritten = category === "node" ? (reference["node-after-opset-rewrite"] ?? {}) : {};
    const lost = [...Object.entries(reference[category] ?? {}), ...Object.entries(rewritten)]
      .filter(([name, verdict]) => verdict === "pass" && (outcomes.get(name)?.kind ?? "passed") !== "passed")
      .map(([name]) => name);
    expect(lost, "ONNX Runtime passes these on its own").toEqual([]);
    expect(of("failed").flatMap(([name]) => (knownFor(name) === undefined ? [name] : []))).toEqual([]);
    if (process.env["PARTITA_TEST_ONLY"] === undefined) expect(passed.length).toBeGreaterThanOrEqual(floor);
  });
}

/** Architectures whose weights were replaced by constants: their results do not depend on the input. */
it.skipIf(root === undefined)(`light: compile, save, load, run (skipped when ${NO_DATA})`, async () => {
  const pool = new ProcessPool(new URL("../support/compile-child.mjs", import.meta.url), availableParallelism(), [builtPackage()]);
  const dir = join(root ?? "", "light");
  const names = readdirSync(dir).filter((f) => f.endsWith(".onnx"));
  const wrong: string[] = [];
  try {
    for (const name of names) {
      const g = importOnnx(join(dir, name));
      const [output] = g.outputs;
      const type = output === undefined ? undefined : valueAt(g, output);
      const want = readProto(readFileSync(join(dir, name.replace(".onnx", "_output_0.pb"))), type?.type ?? { kind: "unknown" });
      const reply = await pool.run<readonly Readonly<Record<string, Plain>>[]>({
        model: join(dir, name),
        runs: [onesFor({ name, path: join(dir, name) })],
        options: { target: "host", verify: true },
      });
      if (!("result" in reply)) wrong.push(`${name}: ${"error" in reply ? reply.error : reply.crashed}`);
      else if (want.kind === "tensor") {
        const off = difference(reply.result[0]?.[type?.name ?? ""], want.tensor);
        if (off !== undefined) wrong.push(`${name}: ${off}`);
      }
    }
  } finally {
    pool.close();
  }
  console.log(`light: ${names.length - wrong.length} passed, ${wrong.length} failed, 0 skipped\n${wrong.join("\n")}`);
  expect(wrong).toEqual([]);
  expect(names.length).toBeGreaterThanOrEqual(9);
});
