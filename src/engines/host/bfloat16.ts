/**
 * bfloat16 at a segment's edge: ONNX Runtime's Node.js binding has no such tensors, so they cross as float32, which holds each of their values
 * exactly, and a Cast inside the segment does the rest.
 */
import { onnxNumber } from "../../ir/dtypes.js";
import { Editor } from "../../ir/edit.js";
import { typeAt } from "../../ir/graph.js";
import type { Attr, DType, Graph, TensorType, ValueId } from "../../ir/types.js";
import { Tensor, type TensorLike } from "../../tensor.js";

const to = (dtype: DType): Readonly<Record<string, Attr>> => ({ to: { kind: "int", value: onnxNumber(dtype) } });
export const isBfloat16 = (g: Graph, v: ValueId): boolean => {
  const t = typeAt(g, v);
  return t.kind === "tensor" && t.dtype === "bfloat16";
};

/** The graph with float32 where it takes or gives bfloat16, under the same names. */
export function carried(g: Graph): Graph {
  if (![...g.inputs, ...g.outputs].some((v) => isBfloat16(g, v))) return g;
  const e = new Editor(g);
  e.setOutputs(
    g.outputs.map((v) => {
      if (!isBfloat16(g, v)) return v;
      const { name } = e.value(v);
      e.rename(v, e.freshName(`${name}/bfloat16`));
      const out = e.declare(name, { ...(typeAt(g, v) as TensorType), dtype: "float32" });
      e.add({ op: "Cast", ins: [v], outs: [out], name: `${name}/cast`, attrs: to("float32") });
      return out;
    }),
  );
  for (const v of g.inputs) {
    if (!isBfloat16(g, v)) continue;
    const type = typeAt(g, v) as TensorType;
    const { name } = e.value(v);
    const own = e.declare(`${name}/bfloat16`, type);
    e.replaceUses(v, own);
    e.setType(v, { ...type, dtype: "float32" });
    e.add({ op: "Cast", ins: [v], outs: [own], name: `${name}/cast`, attrs: to("bfloat16") });
  }
  return e.finish();
}

/** bfloat16 as float32: the same bits, with zeros below. */
export function widened(t: TensorLike): Tensor<"float32"> {
  const bits = t.data as Uint16Array;
  const wide = new Uint32Array(bits.length);
  for (let i = 0; i < wide.length; i++) wide[i] = (bits[i] as number) << 16;
  return new Tensor("float32", new Float32Array(wide.buffer), t.dims);
}
/** float32 that holds values of bfloat16 alone, as bfloat16. */
export function narrowed(t: Tensor): Tensor<"bfloat16"> {
  const d = t.data as Float32Array;
  const wide = new Uint32Array(d.buffer, d.byteOffset, d.length);
  const bits = new Uint16Array(wide.length);
  for (let i = 0; i < bits.length; i++) bits[i] = (wide[i] as number) >>> 16;
  return new Tensor("bfloat16", bits, t.dims);
}
