/**
 * TensorFlow graphs against TensorFlow's own values: import, passes, host engine. TF_CASES names a part of the cases (a substring);
 * the summary is printed, with every case that is not right and why.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { compile, plan } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import type { ValueId } from "../../src/ir/types.js";
import { readNpz } from "../../src/npz.js";
import { Tensor } from "../../src/tensor.js";
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
/** Codes that say why a graph cannot run: an operator without lowering, one that no runtime has, a type that cannot cross. */
const VERDICTS: ReadonlySet<string> = new Set(["P1330", "P1334", "P2004", "P2006"]);

/**
 * A matrix [2 rows, k] of values over their indices (made by a TopK that need not sort), its columns in the order of the first half: TensorFlow
 * leaves the order of the k results open, which pairs there are it does not.
 */
function columnsInOrder(t: Tensor): Tensor {
  const [height = 0, k = 0] = t.dims;
  const rows = height / 2;
  const from = t.data as Float32Array;
  const out = Float32Array.from(from);
  for (let r = 0; r < rows; r++) {
    const order = Array.from({ length: k }, (_, c) => c).sort((a, b) => (from[r * k + a] ?? 0) - (from[r * k + b] ?? 0));
    for (const row of [r, r + rows]) for (const [at, c] of order.entries()) out[row * k + at] = from[row * k + c] ?? 0;
  }
  return new Tensor("float32", out, t.dims);
}
/** The case whose TopKV2 has `sorted` false and a k above 1. */
const UNORDERED = "topk/rank2_k5";

/** Compiles and runs a model, and compares every output that the archive has. */
async function check(
  model: string,
  io: ReadonlyMap<string, Tensor>,
  options: {
    readonly random: boolean;
    readonly rtol: number;
    readonly byOrder?: boolean;
    readonly cut?: readonly string[];
    readonly unordered?: boolean;
    /** Takes the results that were compared. */
    readonly results?: Tensor[];
  },
): Promise<Outcome> {
  // The archive of a graph with an audio front end holds what comes out of that: the net is fed from there.
  const cut = new Set(options.cut ?? []);
  const wanted = [...io]
    .filter(([k]) => k.startsWith("out") && !cut.has(k.replace(/^out[|]/, "")))
    .map(([k, t]) => [k.replace(/^out[|]/, ""), t] as const);
  const given = [...io]
    .filter(([k]) => (k.startsWith("in") && cut.size === 0) || cut.has(k.replace(/^out[|]/, "")))
    .map(([k, t]) => [k.replace(/^(in|out)[|]/, ""), t] as const);
  let stage = "compile";
  try {
    const program = await compile(model, {
      target: "host",
      verify: true,
      ...(options.byOrder === true ? {} : { outputs: wanted.map(([k]) => k) }),
      ...(options.cut === undefined && !given.some(([k]) => k === HASHED) ? {} : { inputs: options.cut ?? [HASHED] }),
      shapes: options.byOrder === true ? {} : Object.fromEntries(given.map(([k, t]) => [k, t.dims])),
    });
    stage = "run";
    await using session = await program.createSession({ threads: 1 });
    const feeds = program.inputs.map(({ name }, i) => {
      const t =
        given.find(([k]) => k === name || `${k}:0` === name || k === `${name}:0`)?.[1] ??
        (options.byOrder === true ? given[i]?.[1] : undefined);
      if (t === undefined) throw new Error(`no feed for input '${name}'`);
      return [name, t] as const;
    });
    const results = await session.run(Object.fromEntries(feeds));
    stage = "compare";
    const names = program.outputs.map((p) => p.name);
    for (const [i, [name, expected]] of wanted.entries()) {
      const found = results[options.byOrder === true ? (names[i] ?? "") : name];
      if (found === undefined) return { kind: "wrong", why: `no output '${name}' among ${names.join(", ")}` };
      const [has, want] = options.unordered === true ? [columnsInOrder(found), columnsInOrder(expected)] : [found, expected];
      if (has.type !== want.type || has.dims.join() !== want.dims.join())
        return { kind: "wrong", why: `'${name}' is ${has.type}[${has.dims}], expected ${want.type}[${want.dims}]` };
      options.results?.push(has);
      if (options.random) continue;
      const float = /^b?float/.test(want.type);
      const half = want.type === "float16" || want.type === "bfloat16";
      const c = compareTensors(has, want, { rtolOfMax: float ? (half ? Math.max(options.rtol, 1e-3) : options.rtol) : 0 });
      if (!c.ok) return { kind: "wrong", why: `'${name}': ${c.message}` };
    }
    return { kind: "right", why: "" };
  } catch (error) {
    if (error instanceof PartitaError)
      return { kind: VERDICTS.has(error.code) ? "refused" : "wrong", why: `${stage}: ${error.message.slice(0, 600)}` };
    return { kind: "wrong", why: `${stage}: UNCODED ${error instanceof Error ? (error.stack ?? error.message) : String(error)}` };
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
    const options = { random: info.random, rtol: 1e-4, unordered: name === UNORDERED };
    outcomes.set(name, await check(join(dir, model), readNpz(join(dir, io)), options));
  }
  summary("tf-cases", outcomes);
  const deterministic = [...outcomes].filter(([name]) => list[name]?.random === false);
  const of = (kind: Outcome["kind"]): readonly string[] => deterministic.filter(([, o]) => o.kind === kind).map(([name]) => name);
  console.log(
    `of these ${deterministic.length} deterministic (${deterministic.filter(([name]) => list[name]?.runtime_inputs === true).length} with run-time inputs): ` +
      `${of("right").length} right, coded verdicts: ${of("refused").join(", ") || "none"}`,
  );
  expect([...outcomes].filter(([, o]) => o.kind === "wrong" || o.kind === "partly")).toEqual([]);
  expect(of("refused").length).toBeLessThanOrEqual(deterministic.length / 100);
  // What ends in a verdict is listed for users.
  const page = readFileSync(join(import.meta.dirname, "../../docs/tensorflow.md"), "utf8");
  for (const name of of("refused")) expect(page).toContain(name);
  if (filter === "") expect([outcomes.size, deterministic.length]).toEqual([1085, 1051]);
});

for (const set of ["real_tf", "tf"]) {
  const root = dataDir(set);
  it.skipIf(root === undefined)(`${set} (skipped when PARTITA_TEST_DATA is not set)`, { timeout: 1_200_000 }, async () => {
    const outcomes = new Map<string, Outcome>();
    const twins: string[] = [];
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
      const forms: Tensor[][] = [];
      for (const form of ["frozen.pb", "frozen_cfv2.pb", "saved_model"]) {
        if (!existsSync(join(dir, form))) continue;
        const results: Tensor[] = [];
        const byOrder = ![...io.keys()].some((k) => k.includes("|"));
        outcomes.set(
          `${name}/${form}`,
          await checkParts(join(dir, form), io, {
            random: false,
            rtol: 1e-3,
            byOrder,
            results,
            ...(io.has("out|Mfcc:0") ? { cut: ["Mfcc:0"] } : {}),
          }),
        );
        forms.push(results);
      }
      // What was frozen from a SavedModel computes what the SavedModel computes.
      const [first, ...others] = forms;
      for (const other of others) {
        expect(other.length, name).toBe(first?.length);
        for (const [i, t] of other.entries()) {
          const c = compareTensors(t, first?.[i] as Tensor, { rtolOfMax: 1e-6 });
          expect(c.ok, `${name}, the two forms: ${c.message}`).toBe(true);
        }
      }
      if (others.length > 0) twins.push(name);
    }
    if (twins.length > 0) console.log(`${set}: frozen form and SavedModel agree for ${twins.join(", ")}`);
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
