/** A graph of any size for reports: modules of four branches, one operator in ten one that the CUDA engine does not take. */
import { Editor } from "../../src/ir/edit.js";
import type { Graph, ValueId } from "../../src/ir/types.js";
import { generator } from "../../src/runtime/measure.js";

export function largeGraph(size: number): Graph {
  const draft = new Editor({ name: "large", opsets: { "": 18 } });
  const type = { kind: "tensor", dtype: "float32", shape: [1, 64, 14, 14] } as const;
  const next = generator(11);
  let x: ValueId = draft.addInput("x", type);
  let count = 0;
  const add = (stage: string, ins: readonly ValueId[]): ValueId => {
    const i = count++;
    const cast = ins.length === 1 && next() < 0.1;
    const op = ins.length > 1 ? "Sum" : cast ? "BitCast" : ["Relu", "Sigmoid", "Exp", "Tanh"][i % 4];
    const node = draft.add({
      op: op ?? "Relu",
      name: `${stage}/${(op ?? "relu").toLowerCase()}_${i}`,
      ins,
      outs: [draft.declare(`t${i}`, type)],
      ...(cast ? { attrs: { to: { kind: "int", value: 1 } as const } } : {}),
    });
    return node.outs[0] as ValueId;
  };
  for (let m = 0; count < size; m++) {
    const name = `module_${m}`;
    const branch = (k: number): ValueId => {
      let y = x;
      for (let j = 0; j <= k; j++) y = add(`${name}/branch_${k}`, [y]);
      return y;
    };
    x = add(name, [branch(0), branch(1), branch(2), branch(3)]);
  }
  draft.setOutputs([x]);
  return draft.finish();
}
