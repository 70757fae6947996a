/** The ONNX backend suite through import, normalisation and export, on ONNX Runtime at level basic. */
import { type ChildProcess, fork } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { valueAt } from "../../src/ir/graph.js";
import { halfToNumber } from "../../src/ir/numeric.js";
import { inferGraph } from "../../src/ops/infer.js";
import { isTensorDType, type Tensor } from "../../src/tensor.js";
import { readProto } from "./onnx-tensors.js";

export type Outcome =
  | { readonly kind: "pass" }
  | { readonly kind: "skip"; readonly why: string }
  | { readonly kind: "fail"; readonly stage: "import" | "run" | "compare" | "crash"; readonly why: string };

interface Plain {
  readonly type: string;
  readonly data: ArrayLike<number | bigint | string>;
  readonly dims: readonly number[];
}
interface Reply {
  readonly id: number;
  readonly results?: readonly Readonly<Record<string, Plain | undefined>>[];
  readonly error?: string;
}

/** One child process at a time, replaced when it dies. */
export class OrtProcess {
  #child: ChildProcess | undefined;
  #id = 0;

  run(model: Uint8Array, runs: readonly Readonly<Record<string, Plain>>[], timeoutMs = 60_000): Promise<Reply | "crashed"> {
    const id = this.#id++;
    this.#child ??= fork(new URL("./ort-child.mjs", import.meta.url), {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    const child = this.#child;
    return new Promise((resolve) => {
      const done = (r: Reply | "crashed"): void => {
        clearTimeout(timer);
        child.removeAllListeners();
        if (r === "crashed") {
          child.kill("SIGKILL");
          this.#child = undefined;
        }
        resolve(r);
      };
      const timer = setTimeout(() => done("crashed"), timeoutMs);
      child.on("message", (m) => done(m as Reply));
      child.on("error", () => done("crashed"));
      child.on("exit", () => done("crashed"));
      child.send({ id, model, runs });
    });
  }
  close(): void {
    this.#child?.kill("SIGKILL");
    this.#child = undefined;
  }
}

/** numpy.allclose with the suite's tolerances; integers and strings are equal. */
function difference(actual: Plain, expected: Tensor, rtol: number, atol: number): string | undefined {
  if (actual.type !== expected.type) return `type ${actual.type}, expected ${expected.type}`;
  if (actual.dims.length !== expected.dims.length || actual.dims.some((d, i) => d !== expected.dims[i]))
    return `dims [${actual.dims}], expected [${expected.dims}]`;
  const float = expected.type.startsWith("float");
  const half = expected.type === "float16";
  for (let i = 0; i < expected.data.length; i++) {
    const [a, e] = [actual.data[i], expected.data[i]];
    if (!float) {
      if (expected.type === "bool" ? Boolean(a) !== Boolean(e) : a !== e) return `element ${i} is ${a}, expected ${e}`;
      continue;
    }
    const [x, y] =
      half && actual.data instanceof Uint16Array
        ? [halfToNumber(Number(a)), halfToNumber(Number(e))]
        : [Number(a), half ? halfToNumber(Number(e)) : Number(e)];
    if (x === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
    if (!(Math.abs(x - y) <= atol + rtol * Math.abs(y))) return `element ${i} is ${x}, expected ${y}`;
  }
  return undefined;
}

/** Runs one test folder. */
export async function runCase(dir: string, ort: OrtProcess, rtol: number, atol: number): Promise<Outcome> {
  let model: Uint8Array;
  let graph: ReturnType<typeof importOnnx>;
  try {
    graph = importOnnx(join(dir, "model.onnx"));
    model = encodeOnnx(graph);
    // The operators' own rules must accept what the suite holds legal.
    inferGraph(graph);
  } catch (error) {
    return { kind: "fail", stage: "import", why: String(error instanceof Error ? error.message : error) };
  }
  const runs: Record<string, Plain>[] = [];
  const expected: ReadonlyMap<string, Tensor>[] = [];
  for (const set of readdirSync(dir)
    .filter((f) => f.startsWith("test_data_set_"))
    .sort()) {
    const feeds: Record<string, Plain> = {};
    for (const [i, v] of graph.inputs.entries()) {
      const { name, type } = valueAt(graph, v);
      const path = join(dir, set, `input_${i}.pb`);
      if (!existsSync(path)) continue;
      const value = readProto(readFileSync(path), type);
      if (value.kind !== "tensor")
        return { kind: "skip", why: `input of ${value.kind === "foreign" ? `type ${value.dtype}` : `kind ${type.kind}`}` };
      feeds[name] = { type: value.tensor.type, data: value.tensor.data as ArrayLike<number | bigint | string>, dims: value.tensor.dims };
    }
    const wants = new Map<string, Tensor>();
    for (const [i, v] of graph.outputs.entries()) {
      const { name, type } = valueAt(graph, v);
      if (type.kind === "tensor" && !isTensorDType(type.dtype)) return { kind: "skip", why: `output of type ${type.dtype}` };
      const path = join(dir, set, `output_${i}.pb`);
      if (!existsSync(path)) continue;
      const value = readProto(readFileSync(path), type);
      if (value.kind !== "tensor")
        return { kind: "skip", why: `output of ${value.kind === "foreign" ? `type ${value.dtype}` : `kind ${type.kind}`}` };
      wants.set(name, value.tensor);
    }
    runs.push(feeds);
    expected.push(wants);
  }
  const reply = await ort.run(model, runs);
  if (reply === "crashed") return { kind: "fail", stage: "crash", why: "ONNX Runtime ended its process" };
  if (reply.results === undefined) return { kind: "fail", stage: "run", why: reply.error ?? "" };
  for (const [k, wants] of expected.entries()) {
    for (const [name, want] of wants) {
      const has = reply.results[k]?.[name];
      if (has === undefined) return { kind: "fail", stage: "compare", why: `no output '${name}'` };
      const wrong = difference(has, want, rtol, atol);
      if (wrong !== undefined) return { kind: "fail", stage: "compare", why: `'${name}': ${wrong}` };
    }
  }
  return { kind: "pass" };
}
