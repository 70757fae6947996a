/** The whole models of the data sets, each with the feeds and results its framework gave. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { importOnnx } from "../../src/import/onnx/index.js";
import { valueAt } from "../../src/ir/graph.js";
import { readNpz } from "../../src/npz.js";
import { Tensor } from "../../src/tensor.js";
import { dataDir } from "./data.js";

export interface Model {
  /** `real/yunet_s_320_320`, `torch/espcn`. */
  readonly name: string;
  readonly path: string;
}
export interface Recorded {
  readonly feeds: Readonly<Record<string, Tensor>>;
  readonly expected: Readonly<Record<string, Tensor>>;
}

/** All ONNX models of the sets, in order of name; empty without data. */
export function onnxModels(): readonly Model[] {
  return ["real", "torch"].flatMap((set) => {
    const root = dataDir(set);
    if (root === undefined) return [];
    return readdirSync(root)
      .sort()
      .flatMap((folder) =>
        readdirSync(join(root, folder))
          .filter((f) => f.endsWith(".onnx"))
          .map((f) => ({ name: `${set}/${folder}`, path: join(root, folder, f) })),
      );
  });
}

/** The recorded run beside a model: `in|name` and `out|name`, or `in_0`, `out_0` in the graph's order. Undefined where there is none. */
export function recordedRun(model: Model): Recorded | undefined {
  const path = join(model.path, "../io.npz");
  if (!existsSync(path)) return undefined;
  const arrays = readNpz(path);
  const g = importOnnx(model.path);
  const pick = (ids: readonly number[], prefix: string): Record<string, Tensor> =>
    Object.fromEntries(
      ids.map((v, i) => {
        const { name } = valueAt(g, v as never);
        const found = arrays.get(`${prefix}|${name}`) ?? arrays.get(`${prefix}_${i}`);
        if (found === undefined) throw new Error(`${path} has nothing for '${name}'`);
        return [name, found];
      }),
    );
  return { feeds: pick(g.inputs, "in"), expected: pick(g.outputs, "out") };
}

/** Ones of the declared dims (1 for dynamic ones), for models without a recorded run. */
export function onesFor(model: Model): Readonly<Record<string, Tensor>> {
  const g = importOnnx(model.path);
  return Object.fromEntries(
    g.inputs.map((v) => {
      const { name, type } = valueAt(g, v);
      if (type.kind !== "tensor" || type.shape === undefined || type.dtype === "string")
        throw new Error(`'${name}' cannot be fed with ones`);
      const dims = type.shape.map((d) => (typeof d === "number" ? d : 1));
      return [name, new Tensor(type.dtype as "float32", new Array<number>(dims.reduce((a, b) => a * b, 1)).fill(1), dims)];
    }),
  );
}
