/** The end of a template's kernel: what happens to neighbouring results between the sums and the store, as text. */
import { Block, type EarlyRead } from "./block.js";
import { add, type Index, product, scale, variable } from "./indexing.js";
import { ParameterList, store, type Tail } from "./loops.js";
import { PRELUDE, storage } from "./storage.js";
import type { EpilogueText } from "./templates/index.js";
import type { View } from "./view.js";

/** What a template does with V neighbouring results: the operator's own end, the nodes fused behind it, and the store. */
export function epilogueOf(
  columns: number,
  out: View,
  tail: Tail,
  own: (scope: Block, m: Index, n: Index, acc: string, batch: Index) => { readonly index: readonly Index[]; readonly value: string },
  rows: number,
  batchDims: readonly number[],
): { readonly text: EpilogueText; readonly parameters: ParameterList; readonly out: View } {
  const parameters = new ParameterList();
  const write = (V: number): { readonly body: string; readonly early: readonly EarlyRead[] } => {
    const b = new Block(parameters);
    // A residual is large and its address known from the start: it is fetched while the product is still being summed.
    const early = b.readEarly((view) => !view.buffer.startsWith("weight"), ["m", "nv", "b"]);
    b.line(`const int nv = n / ${V};`);
    const done = Array.from({ length: V }, (_, k) => {
      const n = add(scale(variable("nv", columns / V - 1), V), k);
      const { index, value } = own(
        b,
        variable("m", rows - 1),
        n,
        b.let("float", `acc[${k}]`),
        variable("b", Math.max(product(batchDims) - 1, 0)),
      );
      return tail(b, index, value);
    });
    store(
      b,
      out,
      done.map((d) => d.index),
      done.map((d) => d.value),
    );
    return { body: b.render().join("\n"), early };
  };
  const width = 16 / storage(out.dtype).bytes;
  let vector = Math.min(8, width);
  while (vector > 1 && columns % vector !== 0) vector /= 2;
  // Every width names the same parameters in the same order: the text of one is written now, to know them.
  const reads = write(vector).early.length > 0;
  const type = storage(out.dtype).type;
  const early: EpilogueText["early"] = reads
    ? {
        type: (V) =>
          `struct { ${write(V)
            .early.map((e, i) => `${e.type} p${i};`)
            .join(" ")} }`,
        body: (V) =>
          `  const int nv = n / ${V};\n  return {${write(V)
            .early.map((e) => e.load)
            .join(", ")}};`,
      }
    : undefined;
  return {
    text: {
      prelude: PRELUDE,
      params: [...parameters.declarations(), `${type}* __restrict__ out`],
      body: (V) => write(V).body,
      vector,
      ...(early === undefined ? {} : { early }),
    },
    parameters,
    out,
  };
}
