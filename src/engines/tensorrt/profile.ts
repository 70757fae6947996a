/** Optimisation profiles: for every input of a segment with an open dim, the dims that TensorRT builds for, from the ranges of the model's inputs. */
import { isStatic, substitute } from "../../ir/dims.js";
import { valueAt } from "../../ir/graph.js";
import type { Dim, Graph, Node, ValueId } from "../../ir/types.js";
import type { Fact } from "../../ops/define.js";
import type { DimRanges } from "../engine.js";
import { openDim, openElements } from "./errors.js";
import type { ProfileRange } from "./native.js";

export const noRanges: DimRanges = { min: new Map(), opt: new Map(), max: new Map() };

/** Inputs whose elements decide the dims of a result, by place. */
const SHAPE_INPUTS: Readonly<Record<string, readonly number[]>> = {
  CenterCropPad: [1],
  ConstantOfShape: [0],
  Expand: [1],
  OneHot: [1],
  Pad: [1, 3],
  Range: [0, 1, 2],
  Reshape: [1],
  Resize: [2, 3],
  Slice: [1, 2, 3, 4],
  Split: [1],
  Squeeze: [1],
  Tile: [1],
  TopK: [1],
  Unsqueeze: [1],
};
/** More elements than a shape can have. */
const MAX_SHAPE = 64;

/** One range an input that needs one; none for a segment of fixed dims. Throws P2230, P2231. */
export function profileOf(g: Graph, facts: (v: ValueId) => Fact, ranges: DimRanges): readonly ProfileRange[] {
  const shapes = shapeInputs(g);
  const found: ProfileRange[] = [];
  for (const v of g.inputs) {
    const { name, type } = valueAt(g, v);
    const dims = type.kind === "tensor" ? (type.shape ?? []) : [];
    if (!dims.every(isStatic)) found.push(range(name, dims, ranges));
    if (!shapes.has(v)) continue;
    const { elements } = facts(v);
    if (elements === undefined || elements.length > MAX_SHAPE || elements.includes("?"))
      throw openElements({ input: name }, { file: g.extra?.file, value: name });
    found.push({ ...range(name, elements, ranges), values: true });
  }
  return found;
}

function range(name: string, dims: readonly Dim[], ranges: DimRanges): ProfileRange {
  const at = (bindings: ReadonlyMap<string, number>): number[] =>
    dims.map((d) => {
      const bound = substitute(d, bindings);
      if (!isStatic(bound)) throw openDim({ input: name, dim: String(d) }, { value: name });
      return bound;
    });
  const [low, opt, high] = [at(ranges.min), at(ranges.opt), at(ranges.max)];
  // A dim may shrink where a symbol grows.
  const least = opt.map((d, i) => Math.min(d, low[i] ?? d, high[i] ?? d));
  const most = opt.map((d, i) => Math.max(d, low[i] ?? d, high[i] ?? d));
  return { name, min: least, opt, max: most };
}

/** Segment inputs that are read as shapes, directly or through arithmetic on integers. */
function shapeInputs(g: Graph): ReadonlySet<ValueId> {
  const producer = new Map<ValueId, Node>();
  for (const n of g.nodes) for (const v of n.outs) if (v !== undefined) producer.set(v, n);
  const inputs = new Set(g.inputs);
  const found = new Set<ValueId>();
  const seen = new Set<ValueId>();
  const visit = (first: ValueId): void => {
    const stack = [first];
    for (let v = stack.pop(); v !== undefined; v = stack.pop()) {
      if (seen.has(v)) continue;
      seen.add(v);
      if (inputs.has(v)) found.add(v);
      const n = producer.get(v);
      // Dims of a tensor are known to TensorRT whatever is in it.
      if (n === undefined || n.op === "Shape" || n.op === "Size") continue;
      for (const u of n.ins) if (u !== undefined) stack.push(u);
    }
  };
  for (const n of g.nodes)
    for (const i of n.domain === "" ? (SHAPE_INPUTS[n.op] ?? []) : []) {
      const v = n.ins[i];
      if (v !== undefined) visit(v);
    }
  return found;
}
