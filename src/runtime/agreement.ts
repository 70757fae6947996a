/**
 * How far an engine's INT8 is from the reference arithmetic (quantize/arithmetic.ts): a segment's outputs beside those of the host engine, whose integers
 * are that arithmetic's, counted in quantization steps.
 */
import { producersOf } from "../ir/graph.js";
import { typedOf } from "../ir/payload.js";
import type { Graph } from "../ir/types.js";
import type { TensorLike } from "../tensor.js";

/** Elements of float outputs. A difference of half a step or more is one: the element is nearest to another step. */
export interface Agreement {
  readonly elements: number;
  readonly mismatchPpm: number;
  /** The largest difference, in steps; absent where one is not finite. */
  readonly maxSteps?: number | undefined;
}

/**
 * Outputs in the graph's order. An output that comes out of a DequantizeLinear is counted in its scale (the largest, where channels have their own); any
 * other in 1/127 of the largest magnitude that is expected of it. Undefined where no output is float32.
 */
export function agreementOf(g: Graph, found: readonly TensorLike[], expected: readonly TensorLike[]): Agreement | undefined {
  const producers = producersOf(g);
  let [elements, mismatches, most] = [0, 0, 0];
  for (const [i, id] of g.outputs.entries()) {
    const [a, b] = [found[i]?.data, expected[i]?.data];
    if (!(a instanceof Float32Array) || !(b instanceof Float32Array)) continue;
    const producer = producers[id];
    const scale = producer?.op === "DequantizeLinear" ? producer.ins[1] : undefined;
    const constant = scale === undefined ? undefined : g.constants.get(scale);
    const step = constant?.dtype === "float32" ? largest(typedOf(constant) as Float32Array) : largest(b) / 127;
    elements += b.length;
    for (let k = 0; k < b.length; k++) {
      const difference = Math.abs((a[k] as number) - (b[k] as number)) / (step > 0 ? step : 1);
      if (!(difference < 0.5)) mismatches++;
      most = Number.isFinite(difference) ? Math.max(most, difference) : Number.POSITIVE_INFINITY;
    }
  }
  if (elements === 0) return undefined;
  const steps = Number.isFinite(most) ? { maxSteps: Math.round(1000 * most) / 1000 } : {};
  return { elements, mismatchPpm: Math.round((1e6 * mismatches) / elements), ...steps };
}

const largest = (values: Float32Array): number => values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
