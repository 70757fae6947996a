/**
 * Products that read one operand and differ in their constant weights become one product over the weights side by side: a wide product fills the
 * device where three narrow ones do not, and its operand is read once. The parts are views of the result.
 */
import { Editor } from "../../ir/edit.js";
import { bytesOf, int64Constant, payloadLength } from "../../ir/payload.js";
import type { Constant, Graph, Node, ValueId } from "../../ir/types.js";

interface Part {
  readonly product: Node;
  /** What turns the sums of an integer product real: one scale per column. */
  readonly scale: { readonly node: Node; readonly constant: Constant } | undefined;
  /** The addition of a constant vector behind it, if there is one. */
  readonly add: Node | undefined;
  readonly weight: Constant;
  readonly bias: Constant | undefined;
}

export function mergeProducts(g: Graph): Graph {
  const uses = new Map<ValueId, Node[]>();
  for (const n of g.nodes) {
    for (const v of n.ins) {
      if (v === undefined) continue;
      const users = uses.get(v);
      if (users === undefined) uses.set(v, [n]);
      else users.push(n);
    }
  }
  const outputs = new Set(g.outputs);
  const groups = new Map<string, Part[]>();
  for (const n of g.nodes) {
    const [a, b] = n.ins;
    const integer = n.op === "MatMulInteger" && n.ins.length === 2;
    if ((n.op !== "MatMul" && !integer) || n.domain !== "" || a === undefined || b === undefined || g.constants.has(a)) continue;
    const weight = g.constants.get(b);
    const [y] = n.outs;
    if (weight === undefined || weight.dims.length !== 2 || y === undefined) continue;
    const single = (v: ValueId, op: string): Node | undefined => {
      const [only, second] = uses.get(v) ?? [];
      return only?.op === op && only.domain === "" && second === undefined && !outputs.has(v) ? only : undefined;
    };
    const vectorOf = (v: ValueId | undefined, dtype: string): Constant | undefined => {
      const c = v === undefined ? undefined : g.constants.get(v);
      return c !== undefined && c.dims.length === 1 && c.dims[0] === weight.dims[1] && c.dtype === dtype ? c : undefined;
    };
    const dequantizer = integer ? single(y, "DequantizeLinear") : undefined;
    const scales = dequantizer?.ins.length === 2 ? vectorOf(dequantizer.ins[1], "float32") : undefined;
    if (integer && (scales === undefined || dequantizer?.outs[0] === undefined)) continue;
    const result = dequantizer?.outs[0] ?? y;
    const other = single(result, "Add");
    const bias = vectorOf(
      other?.ins.find((v) => v !== result),
      integer ? "float32" : weight.dtype,
    );
    const key = `${n.op} ${a} ${weight.dims[0]} ${weight.dtype} ${bias !== undefined}`;
    const part: Part = {
      product: n,
      scale: dequantizer === undefined || scales === undefined ? undefined : { node: dequantizer, constant: scales },
      add: bias === undefined ? undefined : other,
      weight,
      bias,
    };
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [part]);
    else group.push(part);
  }
  const wide = [...groups.values()].filter((parts) => parts.length > 1);
  if (wide.length === 0) return g;
  const e = new Editor(g);
  for (const parts of wide) {
    const [first] = parts as [Part, ...Part[]];
    const stem = first.product.name;
    const weight = e.addConstant(`${stem}.merged`, beside(parts.map((p) => p.weight)));
    const [a] = first.product.ins;
    const origin = parts.flatMap((p) => [p.product, p.scale?.node, p.add]).flatMap((n) => (n === undefined ? [] : (n.origin ?? [n.name])));
    let [y] = e.add({ op: first.product.op, ins: [a, weight], outs: 1, name: `${stem}.merged`, origin }).outs;
    if (first.scale !== undefined) {
      const scale = e.addConstant(`${stem}.merged.scale`, beside(parts.flatMap((p) => (p.scale === undefined ? [] : [p.scale.constant]))));
      const { attrs } = first.scale.node;
      [y] = e.add({ op: "DequantizeLinear", ins: [y, scale], outs: 1, name: `${stem}.merged.scale`, origin, attrs }).outs;
    }
    if (first.bias !== undefined) {
      const bias = e.addConstant(`${stem}.merged.bias`, beside(parts.map((p) => p.bias as Constant)));
      [y] = e.add({ op: "Add", ins: [y, bias], outs: 1, name: `${stem}.merged.add`, origin }).outs;
    }
    const sizes = e.addConstant(`${stem}.sizes`, int64Constant(parts.map((p) => p.weight.dims[1] as number)));
    const results = parts.map((p) => (p.add ?? p.scale?.node ?? p.product).outs[0]);
    for (const p of parts) {
      e.remove(p.product.id);
      if (p.scale !== undefined) e.remove(p.scale.node.id);
      if (p.add !== undefined) e.remove(p.add.id);
    }
    e.add({ op: "Split", ins: [y, sizes], outs: results, name: `${stem}.split`, origin, attrs: { axis: { kind: "int", value: -1 } } });
  }
  return e.finish();
}

/** Constants of equal leading dims, joined along the last. */
function beside(parts: readonly Constant[]): Constant {
  const [first] = parts as [Constant, ...Constant[]];
  const rows = first.dims.length === 1 ? 1 : (first.dims[0] as number);
  const columns = parts.map((p) => p.dims.at(-1) as number);
  const total = columns.reduce((a, b) => a + b, 0);
  const dims = first.dims.length === 1 ? [total] : [rows, total];
  const read = (): Uint8Array => {
    const sources = parts.map((p) => bytesOf(p));
    const size = (sources[0]?.length ?? 0) / (rows * (columns[0] as number));
    const out = new Uint8Array(rows * total * size);
    for (let r = 0, at = 0; r < rows; r++) {
      for (const [i, s] of sources.entries()) {
        const width = (columns[i] as number) * size;
        out.set(s.subarray(r * width, (r + 1) * width), at);
        at += width;
      }
    }
    return out;
  };
  const length = parts.reduce((n, p) => n + payloadLength(p.data), 0);
  return { dtype: first.dtype, dims, data: { kind: "lazy", length, read } };
}
