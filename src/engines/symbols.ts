/** The open dims of a segment's inputs as symbols that the dims of feeds give numbers for. */
import { axisSymbol, isStatic, isUnknown, substitute, symbolsOf } from "../ir/dims.js";
import { valueAt } from "../ir/graph.js";
import type { Dim, Graph } from "../ir/types.js";
import { type Inferred, inferGraph } from "../ops/infer.js";

export interface OpenSegment extends Inferred {
  /** In the order of the inputs. */
  readonly symbols: readonly string[];
  /** Numbers for the symbols; undefined for dims that the segment does not take. */
  bind(dims: readonly (readonly number[])[]): ReadonlyMap<string, number> | undefined;
}

/** d = scale * symbol + offset. */
interface Linear {
  readonly symbol: string;
  readonly scale: number;
  readonly offset: number;
}
function linear(d: Dim): Linear | undefined {
  const [symbol, ...more] = isStatic(d) || isUnknown(d) ? [] : symbolsOf(d);
  if (symbol === undefined || more.length > 0) return undefined;
  const [x0, x1, x2] = [0, 1, 2].map((n) => substitute(d, new Map([[symbol, n]])));
  if (typeof x0 !== "number" || typeof x1 !== "number" || typeof x2 !== "number") return undefined;
  const scale = x1 - x0;
  // Two equal steps do not make an expression linear; one with a call in it is not.
  return scale >= 1 && x2 - x1 === scale && !/[(]/.test(String(d)) ? { symbol, scale, offset: x0 } : undefined;
}

/** Dims that no symbol of the inputs explains get symbols of their own, `input_axis`. */
export function openSegment(segment: Graph): OpenSegment {
  const first = inferGraph(segment);
  const typed = (g: Graph) =>
    g.inputs.map((v) => {
      const { name, type } = valueAt(g, v);
      return { name, dims: type.kind === "tensor" ? (type.shape ?? []) : [] };
    });
  const inputs = typed(first.graph);
  const solved = new Set(inputs.flatMap(({ dims }) => dims.flatMap((d) => linear(d)?.symbol ?? [])));
  const shapes: Record<string, readonly Dim[]> = {};
  for (const { name, dims } of inputs) {
    const own = dims.map((d, i) => {
      const known = isStatic(d) || (!isUnknown(d) && symbolsOf(d).every((s) => solved.has(s)));
      return known ? d : axisSymbol(name, i);
    });
    if (own.some((d, i) => d !== dims[i])) shapes[name] = own;
  }
  const inferred = Object.keys(shapes).length === 0 ? first : inferGraph(first.graph, { shapes });
  const ports = typed(inferred.graph);
  const symbols = [...new Set(ports.flatMap(({ dims }) => dims.flatMap((d) => symbolsOf(d))))];
  return {
    ...inferred,
    symbols,
    bind(dims) {
      const found = new Map<string, number>();
      ports.forEach((p, k) =>
        p.dims.forEach((d, i) => {
          const l = linear(d);
          const n = ((dims[k]?.[i] ?? Number.NaN) - (l?.offset ?? 0)) / (l?.scale ?? 1);
          if (l !== undefined && !found.has(l.symbol)) found.set(l.symbol, n);
        }),
      );
      const fits = ports.every(
        (p, k) => p.dims.length === dims[k]?.length && p.dims.every((d, i) => substitute(d, found) === dims[k]?.[i]),
      );
      return fits && [...found.values()].every((n) => Number.isSafeInteger(n) && n >= 0) ? found : undefined;
    },
  };
}

/** Dims with numbers for their symbols; undefined where one stays open. */
export function boundDims(dims: readonly Dim[] | undefined, bindings: ReadonlyMap<string, number>): readonly number[] | undefined {
  const bound = dims?.map((d) => substitute(d, bindings));
  return bound?.every((d) => typeof d === "number") === true ? bound : undefined;
}
