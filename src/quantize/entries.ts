/**
 * Classes of channels of the graph's inputs: no weights make these tensors, so a factor goes into a Mul in front of the quantizer, and comes out of
 * the weights that read the product. Features of different size (cepstral coefficients, columns of a table) share one scale otherwise.
 */
import type { Graph, NodeId, ValueId } from "../ir/types.js";
import { type Fact, shapeOf } from "../ops/define.js";
import { passedSlots } from "./candidates.js";
import { type ChannelClass, consumedAxis } from "./channels.js";

/**
 * One class, without producers, for every tensor that holds elements of the inputs alone and is read by products along an axis of channels.
 * What else reads the tensor goes on reading it as it is.
 */
export function entryClasses(g: Graph, facts: (v: ValueId) => Fact): readonly ChannelClass[] {
  const shape = (v: ValueId) => shapeOf(facts(v));
  const fed = new Set<ValueId>(g.inputs);
  const found = new Map<
    string,
    { readonly value: ValueId; readonly axis: number; readonly channels: number; readonly consumers: NodeId[] }
  >();
  for (const n of g.nodes) {
    const slots = passedSlots(n, g);
    if (slots?.every((slot) => fed.has(n.ins[slot] as ValueId))) for (const v of n.outs) if (v !== undefined) fed.add(v);
    const [x] = n.ins;
    const axis = x === undefined || !fed.has(x) || n.ins.lastIndexOf(x) !== 0 ? undefined : consumedAxis(g, shape, n);
    const channels = x === undefined || axis === undefined ? undefined : shape(x)?.[axis];
    if (x === undefined || axis === undefined || typeof channels !== "number" || channels < 2) continue;
    const key = `${x} ${axis}`;
    const known = found.get(key) ?? { value: x, axis, channels, consumers: [] };
    known.consumers.push(n.id);
    found.set(key, known);
  }
  return [...found.values()].map(({ value, axis, channels, consumers }) => ({
    channels,
    tensors: [{ value, axis }],
    producers: [],
    consumers,
    constants: [],
  }));
}
