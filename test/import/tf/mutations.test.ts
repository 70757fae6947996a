/**
 * Mutated GraphDefs, SavedModels and checkpoints: a coded error or a graph that verifies, quickly. TF_MUTANTS says how many of each kind
 * (default 150), TF_SEED where the generator starts; failures print both. More bases where PARTITA_TEST_DATA is set.
 */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { PartitaError } from "../../../src/diagnostics.js";
import { importTf } from "../../../src/import/tf/index.js";
import { bytesOf } from "../../../src/ir/payload.js";
import type { Graph } from "../../../src/ir/types.js";
import { verify } from "../../../src/ir/verify.js";
import { inferGraph } from "../../../src/ops/infer.js";
import { allTfOps } from "../../../src/ops/tf/registry.js";
import { dataDir } from "../../support/data.js";
import {
  bool,
  constant,
  FLOAT,
  type FunctionSpec,
  float,
  func,
  graphDef,
  INT32,
  int,
  type NodeSpec,
  node,
  placeholder,
  shape,
  tensor,
  text,
  type,
  writeSavedModel,
} from "../../support/tf-graph.js";

const COUNT = Number(process.env["TF_MUTANTS"] ?? 150);
const SEED = Number(process.env["TF_SEED"] ?? 1);
const LIMIT_MS = 10_000;
const folder = mkdtempSync(join(tmpdir(), "partita-tf-mutants-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Random = (n: number) => number;
/** mulberry32. */
function random(seed: number): Random {
  let a = seed >>> 0;
  return (n) => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4294967296) * n);
  };
}
const T = type(FLOAT);
const I = type(INT32);
const bases: readonly { readonly nodes: readonly NodeSpec[]; readonly functions?: readonly FunctionSpec[] }[] = [
  {
    nodes: [
      placeholder("x", FLOAT, [-1, 8, 8, 3]),
      constant("w", FLOAT, [3, 3, 3, 4], [0.5]),
      node("conv", "Conv2D", ["x", "w"], {
        T,
        strides: (w) => w.message(1, () => [1, 1, 1, 1].forEach((s) => w.uint(3, s))),
        padding: text("SAME"),
      }),
      node("act", "Relu6", ["conv"], { T }),
      constant("axes", INT32, [2], [1, 2]),
      node("mean", "Mean", ["act", "axes"], { T, Tidx: I, keep_dims: bool(false) }),
      constant("dims", INT32, [2], [-1, 4]),
      node("flat", "Reshape", ["mean", "dims"], { T, Tshape: I }),
      constant("k", INT32, [], [2]),
      node("top", "TopKV2", ["flat", "k"], { T }),
      node("soft", "Softmax", ["flat"], { T }),
      node("clip", "LeakyRelu", ["soft"], { T, alpha: float(0.2) }),
    ],
  },
  {
    nodes: [
      placeholder("x", FLOAT, []),
      placeholder("n", INT32, []),
      constant("zero", INT32, [], [0]),
      ...["i", "v"].map((s) =>
        node(`${s}_enter`, "Enter", [s === "i" ? "zero" : "x"], { T: s === "i" ? I : T, frame_name: text("f"), is_constant: bool(false) }),
      ),
      node("n_enter", "Enter", ["n"], { T: I, frame_name: text("f"), is_constant: bool(true) }),
      node("i", "Merge", ["i_enter", "i_next"], { T: I, N: int(2) }),
      node("v", "Merge", ["v_enter", "v_next"], { T, N: int(2) }),
      node("less", "Less", ["i", "n_enter"], { T: I }),
      node("go", "LoopCond", ["less"]),
      node("i_switch", "Switch", ["i", "go"], { T: I }),
      node("v_switch", "Switch", ["v", "go"], { T }),
      constant("one", INT32, [], [1]),
      node("i_add", "Add", ["i_switch:1", "one"], { T: I }),
      node("v_add", "Add", ["v_switch:1", "v_switch:1"], { T }),
      node("array", "TensorArrayV3", ["n"], { dtype: T, element_shape: shape(undefined) }),
      node("flow_enter", "Enter", ["array:1"], { T, frame_name: text("f") }),
      node("flow", "Merge", ["flow_enter", "flow_next"], { T, N: int(2) }),
      node("flow_switch", "Switch", ["flow", "go"], { T }),
      node("write", "TensorArrayWriteV3", ["array", "i_switch:1", "v_switch:1", "flow_switch:1"], { T }),
      node("flow_next", "NextIteration", ["write"], { T }),
      node("flow_exit", "Exit", ["flow_switch"], { T }),
      node("i_next", "NextIteration", ["i_add"], { T: I }),
      node("v_next", "NextIteration", ["v_add"], { T }),
      node("v_exit", "Exit", ["v_switch"], { T }),
      constant("big", FLOAT, [], [3]),
      node("test", "Greater", ["v_exit", "big"], { T }),
      node("s", "Switch", ["v_exit", "test"], { T }),
      node("neg", "Neg", ["s:1"], { T }),
      node("y", "Merge", ["s", "neg"], { T, N: int(2) }),
      node("read", "TensorArrayReadV3", ["array", "zero", "flow_exit"], { dtype: T }),
    ],
  },
  {
    nodes: [
      placeholder("x", FLOAT, [2]),
      constant("c", INT32, [], [3]),
      node("loop", "While", ["c", "x"], { cond: func("cond"), body: func("body") }),
      node("call", "PartitionedCall", ["loop:1"], { f: func("inner") }),
      node("if", "If", ["c", "call"], { then_branch: func("inner"), else_branch: func("inner") }),
    ],
    functions: [
      { name: "inner", args: [["a", FLOAT]], results: [["r", FLOAT, "s:y:0"]], nodes: [node("s", "Square", ["a"], { T })] },
      {
        name: "cond",
        args: [
          ["i", INT32],
          ["a", FLOAT],
        ],
        results: [["go", 10, "g:z:0"]],
        nodes: [constant("z", INT32, [], [0]), node("g", "Greater", ["i", "z:output:0"], { T: I })],
      },
      {
        name: "body",
        args: [
          ["i", INT32],
          ["a", FLOAT],
        ],
        results: [
          ["i2", INT32, "d:z:0"],
          ["a2", FLOAT, "q:output:0"],
        ],
        nodes: [
          constant("one", INT32, [], [1]),
          node("d", "Sub", ["i", "one:output:0"], { T: I }),
          node("q", "PartitionedCall", ["a"], { f: func("inner") }),
        ],
      },
    ],
  },
];
const operators = allTfOps().map(([name]) => name);
const strange = [0, 1, 2, -1, 3, 7, 255, 65_536, 2 ** 31 - 1, 2 ** 31, -(2 ** 31), 2 ** 40, 2 ** 53 - 1];

/** One to three changes of the structure. */
function mutated(next: Random): Uint8Array {
  const base = bases[next(bases.length)] ?? { nodes: [] };
  const names = base.nodes.map((n) => n.name);
  const change = (list: readonly NodeSpec[], known: readonly string[]): readonly NodeSpec[] => {
    const at = next(list.length);
    const n = list[at];
    if (n === undefined) return list;
    const inputs = [...(n.inputs ?? [])];
    const attrs = { ...n.attrs };
    const key = Object.keys(attrs)[next(Math.max(1, Object.keys(attrs).length))] ?? "T";
    const other = known[next(known.length)] ?? "x";
    const number = strange[next(strange.length)] ?? 0;
    let [name, op] = [n.name, n.op];
    switch (next(12)) {
      case 0:
        inputs[next(Math.max(1, inputs.length))] = other;
        break;
      case 1:
        inputs[next(Math.max(1, inputs.length))] = `${other}:${next(4)}`;
        break;
      case 2:
        inputs.splice(next(Math.max(1, inputs.length)), 1);
        break;
      case 3:
        inputs.splice(next(inputs.length + 1), 0, next(4) === 0 ? `^${other}` : other);
        break;
      case 4:
        op = operators[next(operators.length)] ?? op;
        break;
      case 5:
        delete attrs[key];
        break;
      case 6:
        attrs[key] = type(next(30));
        break;
      case 7:
        attrs[key] = int(number);
        break;
      case 8:
        attrs[key] = shape(next(3) === 0 ? undefined : Array.from({ length: next(5) }, () => strange[next(strange.length)] ?? 1));
        break;
      case 9:
        attrs["value"] = tensor(next(11), [Math.min(Math.abs(number), 70_000), next(3)], [next(9)]);
        break;
      case 10:
        attrs[key] = next(2) === 0 ? func("inner") : text(other);
        break;
      default:
        name = next(3) === 0 ? other : `${name}x`;
    }
    const out = [...list];
    out[at] = { name, op, inputs, attrs };
    return out;
  };
  let nodes = base.nodes;
  let functions = base.functions ?? [];
  for (let k = next(3); k >= 0; k--) {
    if (functions.length > 0 && next(2) === 0) {
      const at = next(functions.length);
      functions = functions.map((f, i) =>
        i === at ? { ...f, nodes: change(f.nodes, ["a", "i", ...f.nodes.map((n) => `${n.name}:${next(2) === 0 ? "y" : "output"}:0`)]) } : f,
      );
    } else nodes = change(nodes, names);
  }
  return graphDef(nodes, functions);
}
/** Changes bytes, drops some, repeats some, cuts the end off. */
function scrambled(base: Uint8Array, next: Random): Uint8Array {
  let out = Uint8Array.prototype.slice.call(base);
  for (let k = next(4); k >= 0; k--) {
    const at = next(out.length);
    switch (next(5)) {
      case 0:
        out[at] = next(256);
        break;
      case 1:
        out[at] = (out[at] ?? 0) ^ (1 << next(8));
        break;
      case 2:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + 1 + next(8))]);
        break;
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(Math.max(0, at - next(40)), at), out.subarray(at)]);
        break;
      default:
        out = next(4) === 0 ? out.subarray(0, at) : out;
    }
  }
  return out;
}

/** What a mutant came to, or throws what should not have been thrown. */
function attempt(what: string, read: () => Graph): "read" | string {
  const start = performance.now();
  let outcome: string;
  try {
    const g = read();
    verify(g);
    for (const c of g.constants.values()) if (c.data.kind === "lazy" && c.data.length < 1 << 20) bytesOf(c);
    inferGraph(g);
    outcome = "read";
  } catch (error) {
    if (!(error instanceof PartitaError) || error.code === "P1402" || error.code === "P1410")
      throw new Error(`${what}: ${error instanceof Error ? error.stack : error}`, { cause: error });
    outcome = error.code;
  }
  expect(performance.now() - start, what).toBeLessThan(LIMIT_MS);
  return outcome;
}
function tally(title: string, make: (next: Random) => () => Graph): void {
  const counts = new Map<string, number>();
  for (let i = 0; i < COUNT; i++) {
    const next = random(SEED * 1_000_003 + i);
    const outcome = attempt(`${title} ${i} of TF_SEED=${SEED}`, make(next));
    counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  }
  console.log(
    `${title}:`,
    COUNT,
    JSON.stringify(Object.fromEntries([...counts].sort())),
    `${Math.round(process.memoryUsage().rss / 2 ** 20)} MB`,
  );
  expect(counts.size).toBeGreaterThan(2);
}

it("structures", { timeout: 600_000 }, () => {
  tally("structure", (next) => {
    const bytes = mutated(next);
    return () => importTf(bytes);
  });
});
it("bytes", { timeout: 600_000 }, () => {
  const own = bases.map((b) => graphDef(b.nodes, b.functions));
  const cases = dataDir("tf-cases");
  const real =
    cases === undefined
      ? []
      : readdirSync(cases, { recursive: true, encoding: "utf8" })
          .filter((f) => f.endsWith(".pb"))
          .sort();
  tally("bytes", (next) => {
    const path = next(3) === 0 ? undefined : real[next(Math.max(1, real.length))];
    const file = path === undefined ? undefined : join(cases ?? "", path);
    const base = file !== undefined && statSync(file).size < 50_000 ? readFileSync(file) : (own[next(own.length)] ?? new Uint8Array(0));
    const bytes = scrambled(base, next);
    return () => importTf(bytes);
  });
});
it("SavedModels and checkpoints", { timeout: 600_000 }, () => {
  const base = join(folder, "base");
  writeSavedModel(base, {
    nodes: [
      placeholder("x", FLOAT, [-1, 2]),
      { name: "v", op: "VarHandleOp", attrs: { dtype: T, shape: shape([2]), shared_name: text("v") } },
      node("value", "ReadVariableOp", ["v"], { dtype: T }),
      node("old", "VariableV2", [], { dtype: T, shape: shape([2]) }),
      node("sum", "AddV2", ["x", "value"], { T }),
      node("y", "Mul", ["sum", "old"], { T }),
    ],
    signatures: { serving_default: { inputs: { x: "x:0" }, outputs: { y: "y:0" } } },
    variables: [
      { key: "v", dims: [2], values: [1, 2] },
      { key: "old", dims: [2], values: [3, 4] },
      { key: "other", dims: [1, 3], values: [5, 6, 7] },
    ],
  });
  const files = ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"];
  const target = join(folder, "mutant");
  tally("saved-model", (next) => {
    rmSync(target, { recursive: true, force: true });
    cpSync(base, target, { recursive: true });
    const file = join(target, files[next(files.length)] ?? "");
    if (next(12) === 0) rmSync(file);
    else writeFileSync(file, scrambled(readFileSync(file), next));
    return () => importTf(existsSync(join(target, "saved_model.pb")) ? target : join(target, "saved_model.pb"));
  });
});
