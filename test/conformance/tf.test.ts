/**
 * TensorFlow graphs against TensorFlow's own values: import, passes, host engine. TF_CASES names a part of the cases (a substring);
 * the summary is printed, with every case that is not right and why.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { compile, plan } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { evaluate } from "../../src/engines/host/index.js";
import { importModel } from "../../src/import/index.js";
import { unreadableNodes } from "../../src/import/tf/unreadable.js";
import { valueAt } from "../../src/ir/graph.js";
import type { Shape, ValueId } from "../../src/ir/types.js";
import { readNpz } from "../../src/npz.js";
import { inferGraph } from "../../src/ops/infer.js";
import { runPasses } from "../../src/passes/pass.js";
import { pipeline } from "../../src/passes/pipeline.js";
import { Tensor } from "../../src/tensor.js";
import { runGraph } from "../../src/testing.js";
import { compareTensors } from "../support/compare.js";
import { dataDir } from "../support/data.js";

interface CaseInfo {
  readonly runtime_inputs: boolean;
  readonly random: boolean;
  readonly ops: readonly string[];
}
type Outcome = { readonly kind: "right" | "partly" | "refused" | "wrong"; readonly why: string };
const filter = process.env["TF_CASES"] ?? "";

const HASHED = "StringToHashBucketFast:0";

/** Imports, optimises and runs a model, and compares every output that the archive has. */
async function check(
  model: string,
  io: ReadonlyMap<string, Tensor>,
  options: { readonly random: boolean; readonly rtol: number; readonly byOrder?: boolean; readonly cut?: readonly string[] },
): Promise<Outcome> {
  // The archive of a graph with an audio front end holds what comes out of that: the net is fed from there.
  const cut = new Set(options.cut ?? []);
  const wanted = [...io]
    .filter(([k]) => k.startsWith("out") && !cut.has(k.replace(/^out[|]/, "")))
    .map(([k, t]) => [k.replace(/^out[|]/, ""), t] as const);
  const given = [...io]
    .filter(([k]) => (k.startsWith("in") && cut.size === 0) || cut.has(k.replace(/^out[|]/, "")))
    .map(([k, t]) => [k.replace(/^(in|out)[|]/, ""), t] as const);
  const remarks: string[] = [];
  let stage = "import";
  try {
    const shapes: Record<string, Shape> = Object.fromEntries(given.map(([k, t]) => [k, t.dims]));
    const imported = await importModel(model, {
      ...(options.byOrder === true ? {} : { outputs: wanted.map(([k]) => k) }),
      ...(options.cut === undefined && !given.some(([k]) => k === HASHED) ? {} : { inputs: options.cut ?? [HASHED] }),
      shapes,
      remarks: (r) => remarks.push(r.text),
    });
    const [left] = unreadableNodes(imported);
    if (left !== undefined) return { kind: "refused", why: `${left.op}: ${left.extra?.doc ?? ""}` };
    stage = "passes";
    const typed = inferGraph(imported).graph;
    const { graph } = await runPasses(typed, pipeline, { evaluate, verify: true });
    stage = "run";
    const feeds = graph.inputs.map((v, i) => {
      const { name } = valueAt(graph, v);
      const t =
        given.find(([k]) => k === name || `${k}:0` === name || k === `${name}:0`)?.[1] ??
        (options.byOrder === true ? given[i]?.[1] : undefined);
      if (t === undefined) throw new Error(`no feed for input '${name}'`);
      return t;
    });
    const results = await runGraph(graph, feeds);
    stage = "compare";
    const names = graph.outputs.map((v) => valueAt(graph, v).name);
    for (const [i, [name, want]] of wanted.entries()) {
      const at = options.byOrder === true ? i : names.indexOf(name);
      const has = results[at];
      if (has === undefined) return { kind: "wrong", why: `no output '${name}' among ${names.join(", ")}` };
      if (has.type !== want.type || has.dims.join() !== want.dims.join())
        return { kind: "wrong", why: `'${name}' is ${has.type}[${has.dims}], expected ${want.type}[${want.dims}]` };
      if (options.random) continue;
      const float = want.type.startsWith("float");
      const c = compareTensors(has, want, {
        rtolOfMax: float ? (want.type === "float16" ? Math.max(options.rtol, 1e-3) : options.rtol) : 0,
      });
      if (!c.ok) return { kind: "wrong", why: `'${name}': ${c.message}` };
    }
    return { kind: "right", why: "" };
  } catch (error) {
    const coded =
      error instanceof PartitaError ? error.message : `UNCODED ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
    return { kind: error instanceof PartitaError && error.code === "P1330" ? "refused" : "wrong", why: `${stage}: ${coded.slice(0, 600)}` };
  }
}

/** A model with operators that nothing runs: what does not need them must be right by itself. */
async function checkParts(...[model, io, options]: Parameters<typeof check>): Promise<Outcome> {
  const whole = await check(model, io, options);
  const outs = [...io.keys()].filter((k) => k.startsWith("out|"));
  if (whole.kind !== "refused" || outs.length < 2) return whole;
  const parts: string[] = [];
  for (const out of outs) {
    const rest = new Map([...io].filter(([k]) => k === out || !k.startsWith("out")));
    const part = await check(model, rest, options);
    if (part.kind === "wrong") return part;
    parts.push(`${out.slice(4)} ${part.kind}${part.kind === "refused" ? ` (${part.why})` : ""}`);
  }
  return { kind: "partly", why: parts.join("; ") };
}

function summary(title: string, outcomes: ReadonlyMap<string, Outcome>): void {
  const of = (kind: Outcome["kind"]): string[] => [...outcomes].filter(([, o]) => o.kind === kind).map(([k]) => k);
  for (const [name, o] of outcomes) if (o.kind !== "right") console.log(`${o.kind.toUpperCase()} ${name}: ${o.why}`);
  console.log(
    `${title}: ${outcomes.size} cases, ${of("right").length} right, ${of("partly").length} partly, ${of("refused").length} refused, ${of("wrong").length} wrong`,
  );
}

const cases = dataDir("tf-cases");
it.skipIf(cases === undefined)("tf-cases (skipped when PARTITA_TEST_DATA is not set)", { timeout: 1_200_000 }, async () => {
  const root = cases ?? "";
  const list = JSON.parse(readFileSync(join(root, "cases.json"), "utf8")) as Record<string, CaseInfo>;
  const outcomes = new Map<string, Outcome>();
  for (const [name, info] of Object.entries(list)) {
    if (!name.includes(filter) && !info.ops.includes(filter)) continue;
    const dir = join(root, name);
    const runtime = info.runtime_inputs && existsSync(join(dir, "model_in.pb"));
    const [model, io] = runtime ? ["model_in.pb", "io_in.npz"] : ["model.pb", "io.npz"];
    let tensors: ReadonlyMap<string, Tensor>;
    try {
      tensors = readNpz(join(dir, io));
    } catch (error) {
      outcomes.set(name, { kind: "refused", why: `archive: ${error instanceof Error ? error.message : error}` });
      continue;
    }
    outcomes.set(name, await check(join(dir, model), tensors, { random: info.random, rtol: 1e-4 }));
  }
  summary("tf-cases", outcomes);
  const right = [...outcomes.values()].filter((o) => o.kind === "right").length;
  expect(outcomes.size - right).toBeLessThanOrEqual(Math.ceil(outcomes.size * 0.01));
});

for (const set of ["real_tf", "tf"]) {
  const root = dataDir(set);
  it.skipIf(root === undefined)(`${set} (skipped when PARTITA_TEST_DATA is not set)`, { timeout: 1_200_000 }, async () => {
    const outcomes = new Map<string, Outcome>();
    for (const name of readdirSync(root ?? "").sort()) {
      const dir = join(root ?? "", name);
      if (!name.includes(filter) || !statSync(dir).isDirectory() || !existsSync(join(dir, "io.npz"))) continue;
      const io = new Map(readNpz(join(dir, "io.npz")));
      // Hash buckets of strings are TensorFlow's alone: the graph is cut behind them, and its last output says what they were.
      const buckets = io.get("out|str:0");
      if (buckets?.type === "string") {
        io.set("in|StringToHashBucketFast:0", new Tensor("int64", (buckets.data as readonly string[]).map(BigInt), buckets.dims));
        io.delete("in|s:0");
      }
      for (const form of ["frozen.pb", "frozen_cfv2.pb", "saved_model"]) {
        if (!existsSync(join(dir, form))) continue;
        const byOrder = ![...io.keys()].some((k) => k.includes("|"));
        outcomes.set(
          `${name}/${form}`,
          await checkParts(join(dir, form), io, {
            random: false,
            rtol: 1e-3,
            byOrder,
            ...(io.has("out|Mfcc:0") ? { cut: ["Mfcc:0"] } : {}),
          }),
        );
      }
    }
    summary(set, outcomes);
    expect([...outcomes].filter(([, o]) => o.kind !== "right")).toEqual([]);
  });
}

const zoo = dataDir("tf");
it.skipIf(zoo === undefined)(
  "convolutional nets keep transposes at the graph's edge alone, and run in as few engine segments as can be (skipped when PARTITA_TEST_DATA is not set)",
  { timeout: 600_000 },
  async () => {
    for (const name of ["MobileNetV2", "ResNet50V2", "InceptionV3", "NASNetMobile"]) {
      for (const target of ["cuda", "tensorrt"] as const) {
        const { inferred, report } = await plan(join(zoo ?? "", name, "frozen.pb"), { target });
        const { graph } = inferred;
        const inner = graph.nodes.filter(
          (n) => n.op === "Transpose" && !graph.inputs.includes(n.ins[0] as ValueId) && !graph.outputs.includes(n.outs[0] as ValueId),
        );
        expect(
          inner.map((n) => n.name),
          name,
        ).toEqual([]);
        const { quality } = report.toJSON();
        console.log(
          `${name} for ${target}: ${inner.length} transposes inside, ${quality.engineSegments} engine segments (lower bound ${quality.lowerBound}), ${(100 * quality.flopsCovered).toFixed(2)} % of the FLOPs`,
        );
        expect(quality.flopsCovered, name).toBeGreaterThanOrEqual(0.99);
        expect(quality.engineSegments, name).toBe(quality.lowerBound);
      }
    }
  },
);

const digits = dataDir("digits");
it.skipIf(digits === undefined)(
  "digits: frozen graph and SavedModel reach the trained accuracy with the framework's logits (skipped when PARTITA_TEST_DATA is not set)",
  { timeout: 600_000 },
  async () => {
    const root = digits ?? "";
    const data = readNpz(join(root, "data.npz"));
    const [x, y] = [data.get("x_test"), data.get("y_test")];
    if (x === undefined || y === undefined) throw new Error("the archive holds no test set");
    for (const [name, accuracy] of [
      ["resnet", 0.9944],
      ["mobilenet", 0.9981],
      ["vit", 0.9944],
    ] as const) {
      const want = readNpz(join(root, `${name}_ref.npz`)).get("test_logits");
      for (const form of [`${name}.pb`, `${name}_saved_model`]) {
        const program = await compile(join(root, form));
        await using session = await program.createSession();
        // One channel: channels-first images are channels-last ones.
        const images = new Tensor("float32", x.data as Float32Array, [x.dims[0] ?? 0, 16, 16, 1]);
        const [logits] = Object.values(await session.run({ x: images }));
        if (logits === undefined || want === undefined) throw new Error("no logits");
        const compared = compareTensors(logits, want, { rtolOfMax: 1e-4 });
        let right = 0;
        y.data.forEach((label: unknown, i: number) => {
          const row = Array.from(logits.data.slice(10 * i, 10 * i + 10) as Float32Array);
          if (row.indexOf(Math.max(...row)) === Number(label)) right++;
        });
        console.log(`digits ${form}: accuracy ${(right / y.data.length).toFixed(4)}, ${compared.message}`);
        expect(compared.ok, compared.message).toBe(true);
        expect(right / y.data.length).toBeGreaterThanOrEqual(accuracy);
      }
    }
  },
);
