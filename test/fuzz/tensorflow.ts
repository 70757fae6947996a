/**
 * Mutated GraphDefs, SavedModels and checkpoints. Harmless changes must not change a result; hostile ones end in a coded error or in what the
 * importer's graph gives without passes; a damaged checkpoint is noticed, or gives what it gave.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { compile } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { readTable } from "../../src/import/tf/bundle.js";
import { importTf } from "../../src/import/tf/index.js";
import { bodiesOf, valueAt } from "../../src/ir/graph.js";
import type { Graph } from "../../src/ir/types.js";
import { lookup } from "../../src/ops/registry.js";
import { randomFeeds } from "../../src/runtime/measure.js";
import type { Tensor, TensorLike } from "../../src/tensor.js";
import { runGraph } from "../../src/testing.js";
import { table } from "../support/tf-graph.js";
import { fieldsOf, intField, type Message, messageField, messagesOf, readMessage, textField, textOf, walk, writeMessage } from "./proto.js";
import { describeDifference } from "./reference.js";
import { ownGraphs, ownSavedModels, realGraphs, type TfBase } from "./tf-bases.js";
import { below, harmless, hostile, pick, type Random, scramble } from "./tf-mutate.js";
import type { Outcome } from "./types.js";

type Results = Readonly<Record<string, TensorLike>>;
interface Prepared {
  readonly graphs: readonly TfBase[];
  readonly saved: readonly { readonly name: string; readonly path: string; readonly feeds: Results; readonly expected: Results }[];
  readonly folder: string;
}
export interface TfMutant {
  readonly model: Uint8Array | string;
  readonly base: string;
  readonly how: string;
  readonly outputs: readonly string[] | undefined;
  readonly feeds: Results | undefined;
  /** `same`: the results are those expected; `noticed`: they are, or the damage is named; `free`: whatever the changed model says. */
  readonly demand: "same" | "noticed" | "free";
  readonly expected: Results | undefined;
}

const RUN_LIMIT_MS = 2000;
/** Elements a feed may have: beyond this a mutant is only compiled. */
const FEED_LIMIT = 1 << 18;

async function resultsOf(
  model: Uint8Array | string,
  outputs: readonly string[] | undefined,
  feeds: Results,
): Promise<Record<string, Tensor>> {
  const program = await compile(model, { target: "host", ...(outputs === undefined ? {} : { outputs }) });
  await using session = await program.createSession({ threads: 1 });
  return await session.run(feeds);
}

export async function prepareTensorFlow(folder: string, data: string | undefined): Promise<Prepared> {
  mkdirSync(folder, { recursive: true });
  const graphs: TfBase[] = [];
  for (const g of ownGraphs()) {
    const expected = await resultsOf(g.bytes, undefined, g.feeds);
    graphs.push({ ...g, expected, outputs: Object.keys(expected) });
  }
  const saved = [];
  for (const s of ownSavedModels(folder)) saved.push({ ...s, expected: await resultsOf(s.path, undefined, s.feeds) });
  return { graphs: [...graphs, ...(data === undefined ? [] : realGraphs(data))], saved, folder };
}

export function tensorflowMutant(p: Prepared, next: Random): TfMutant {
  return next() < 0.55 ? graphMutant(p, next) : savedMutant(p, next);
}

function graphMutant(p: Prepared, next: Random): TfMutant {
  const own = p.graphs.filter((g) => !g.name.includes("/"));
  const base = pick(next, next() < 0.4 ? own : p.graphs) as TfBase;
  const r = next();
  if (r < 0.15)
    return {
      model: scramble(base.bytes, next),
      base: base.name,
      how: "bytes",
      outputs: base.outputs,
      feeds: undefined,
      demand: "free",
      expected: undefined,
    };
  const tree = readMessage(base.bytes, "tfGraph");
  if (r < 0.35) {
    const kept = new Set([...Object.keys(base.feeds), ...(base.outputs ?? [])].map((n) => n.replace(/:\d+$/, "")));
    const how = `harmless: ${harmless(tree, next, kept)}`;
    return {
      model: writeMessage(tree),
      base: base.name,
      how,
      outputs: base.outputs,
      feeds: base.feeds,
      demand: "same",
      expected: base.expected,
    };
  }
  const how = hostile(tree, next);
  return {
    model: writeMessage(tree),
    base: base.name,
    how,
    outputs: next() < 0.7 ? undefined : base.outputs,
    feeds: undefined,
    demand: "free",
    expected: undefined,
  };
}

const SHARD = "variables/variables.data-00000-of-00001";
const INDEX = "variables/variables.index";

function savedMutant(p: Prepared, next: Random): TfMutant {
  const base = pick(next, p.saved) as Prepared["saved"][number];
  const path = join(p.folder, "mutant");
  rmSync(path, { recursive: true, force: true });
  cpSync(base.path, path, { recursive: true });
  const made = (how: string, demand: TfMutant["demand"]): TfMutant => ({
    model: path,
    base: base.name,
    how,
    outputs: undefined,
    feeds: base.feeds,
    demand,
    expected: base.expected,
  });
  const file = (name: string): string => join(path, name);
  const r = next();
  if (r < 0.25) {
    const tree = readMessage(readFileSync(file("saved_model.pb")), "tfSavedModel");
    const how = hostile(tree, next);
    writeFileSync(file("saved_model.pb"), writeMessage(tree));
    return made(`graph: ${how}`, "free");
  }
  if (r < 0.3) {
    writeFileSync(file("saved_model.pb"), scramble(readFileSync(file("saved_model.pb")), next));
    return made("bytes of the graph", "free");
  }
  if (r < 0.4) {
    const tree = readMessage(readFileSync(file("saved_model.pb")), "tfSavedModel");
    const g = walk(tree).find((m) => m.kind === "tfGraph") as Message;
    // Variables are found by their nodes' names, signatures by their tensors'.
    const how = harmless(g, next, new Set(messagesOf(g, 1).map((n) => textOf(fieldsOf(n, 1)[0]))));
    writeFileSync(file("saved_model.pb"), writeMessage(tree));
    return made(`harmless: ${how}`, "same");
  }
  const name = pick(next, [INDEX, SHARD]) ?? INDEX;
  if (r < 0.6) {
    writeFileSync(file(name), scramble(readFileSync(file(name)), next));
    return made(`bytes of ${name}`, "noticed");
  }
  if (r < 0.7) {
    rmSync(file(name));
    const way = below(next, 4);
    if (way === 0) mkdirSync(file(name));
    else if (way === 1) symlinkSync(pick(next, ["/dev/zero", "/etc/passwd", "nowhere", "."]) ?? "", file(name));
    else if (way === 2) writeFileSync(file(name), "");
    return made(`${name} is missing, a folder, a link or empty`, "noticed");
  }
  return made(`index: ${forgeIndex(file(INDEX), next)}`, "free");
}

/** Changes an entry of the index and makes its checksums right again. */
function forgeIndex(path: string, next: Random): string {
  const entries = [...readTable(readFileSync(path), path)].map(([k, v]): [string, Uint8Array] => [k, v]);
  const at = below(next, entries.length);
  const [key, bytes] = entries[at] as [string, Uint8Array];
  const strange = BigInt(pick(next, [0, 1, 2, 3, 8, 9, 16, 100, 2 ** 31, 2 ** 40, -1, -(2 ** 31)]) ?? 0);
  const way = below(next, 9);
  if (way === 0) entries.splice(at, 1);
  else if (way === 1) entries[at] = [`${key}x`, bytes];
  else if (way === 2) entries[at] = [key, scramble(bytes, next)];
  else if (key === "") {
    const m = readMessage(bytes, "tfBundleHeader");
    m.fields = [intField(pick(next, [1, 2]) ?? 1, strange)];
    entries[at] = [key, writeMessage(m)];
  } else {
    const m = readMessage(bytes, "tfBundleEntry");
    const put = (number: number, f: ReturnType<typeof intField>): void =>
      void (m.fields = [...m.fields.filter((x) => x.number !== number), f]);
    if (way === 3) put(1, intField(1, BigInt(below(next, 30))));
    else if (way === 4) put(2, messageField(2, "tfShape", ...[strange, 2n].map((d) => messageField(2, "tfDim", intField(1, d)))));
    else if (way === 5) put(3, intField(3, strange));
    else if (way === 6) put(4, intField(4, strange));
    else if (way === 7) put(5, intField(5, strange));
    else put(7, textField(7, "\n\u0004\b\u0000\u0010\u0001"));
    entries[at] = [key, writeMessage(m)];
  }
  writeFileSync(path, table(entries));
  return ["drop", "rename", "scramble", "type", "dims", "shard", "offset", "size", "slices"][way] ?? "";
}

const isRandom = (g: Graph): boolean =>
  g.nodes.some((n) => lookup(n.domain, n.op)?.random === true || bodiesOf(n).some(({ body }) => isRandom(body.graph)));

export async function tryTensorFlow(
  m: TfMutant,
  i: number,
  mark: (step: string) => void,
): Promise<Omit<Outcome, "i" | "how" | "base" | "ms" | "peak">> {
  let phase = "compile";
  let results: Results;
  let feeds: Results = {};
  const options = m.outputs === undefined ? {} : { outputs: m.outputs };
  try {
    mark("compile");
    const program = await compile(m.model, { target: "host", ...options });
    if (i % 5 === 0) {
      mark("report");
      program.report.toText();
      program.report.toHTML();
    }
    phase = "open";
    mark("open");
    const session = await program.createSession({ threads: 1 });
    let stopped = false;
    try {
      const elements = session.inputs.map((p) => (p.dims ?? []).reduce<number>((a, d) => a * (typeof d === "number" ? d : 3), 1));
      if (elements.some((n) => n > FEED_LIMIT)) return { kind: "compiled, too big to feed", phase, what: "" };
      const names = session.inputs.map((p) => p.name);
      const fits = m.feeds !== undefined && m.demand !== "free";
      feeds = fits ? (m.feeds ?? {}) : randomFeeds(session.inputs, 3, i);
      if (!fits && names.some((n) => !Object.hasOwn(feeds, n))) return { kind: "compiled, odd to feed", phase, what: "" };
      phase = "run";
      mark("run");
      results = await session.run(feeds, { signal: AbortSignal.timeout(RUN_LIMIT_MS) });
    } catch (error) {
      stopped = error instanceof Error && error.name === "TimeoutError";
      if (stopped) return { kind: "run stopped by its signal", phase, what: "", recycle: true };
      throw error;
    } finally {
      if (!stopped) await session.dispose();
    }
  } catch (error) {
    if (!(error instanceof PartitaError))
      return {
        kind: "FAIL",
        phase,
        what: `an error without a code: ${error instanceof Error ? (error.stack ?? error.message).slice(0, 1500) : String(error)}`,
      };
    if (error.exit === 70) return { kind: "FAIL", phase, what: `an internal error: ${error.message.slice(0, 800)}` };
    if (!/^P\d{4} /.test(error.message) || error.fix === "")
      return { kind: "FAIL", phase, what: `an error without a remedy: ${error.message}` };
    if (m.demand === "same") return { kind: "FAIL", phase, what: `a harmless change is refused: ${error.message.slice(0, 800)}` };
    return { kind: `${error.code} at ${phase}`, phase, what: error.message.slice(0, 300) };
  }
  if (m.demand !== "free") {
    const difference = describeDifference(results, m.expected ?? {});
    if (difference === undefined)
      return { kind: m.demand === "same" ? "equal" : "equal, damaged where it does not matter", phase, what: "" };
    return {
      kind: "FAIL",
      phase,
      what: `${m.demand === "same" ? "a harmless change changes the result" : "damage went unnoticed"}: ${difference}`,
    };
  }
  phase = "reference";
  mark("reference");
  const g = importTf(m.model, options);
  if (isRandom(g)) return { kind: "runs, random", phase, what: "" };
  const names = g.outputs.map((v) => valueAt(g, v).name);
  const plain = async (level: "basic" | "all"): Promise<Results> => {
    const out = await runGraph(
      g,
      g.inputs.map((v) => feeds[valueAt(g, v).name] as TensorLike),
      level,
    );
    return Object.fromEntries(names.map((name, k) => [name, out[k] as TensorLike]));
  };
  let theirs: Results;
  try {
    theirs = await plain("basic");
  } catch (error) {
    return { kind: "runs, ONNX Runtime refuses it without passes", phase, what: error instanceof Error ? error.message.slice(0, 300) : "" };
  }
  const difference = describeDifference(results, theirs);
  if (difference === undefined) return { kind: "equal to the graph without passes", phase, what: "" };
  if (describeDifference(await plain("all"), theirs) !== undefined)
    return { kind: "ONNX Runtime's levels disagree", phase, what: difference };
  return { kind: "FAIL", phase, what: `a wrong result: ${difference}` };
}
