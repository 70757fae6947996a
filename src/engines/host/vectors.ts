/**
 * Products of ONNX Runtime's that go wrong: the kernel of FusedMatMul reads a transposed A by its rows where B is a vector, and
 * MatmulTransposeFusion makes such a FusedMatMul of every MatMul behind a Transpose, whatever it multiplies by.
 */
import { shapeOfType, typeAt } from "../../ir/graph.js";
import type { Graph, Node, ValueId } from "../../ir/types.js";

/** A product whose A is transposed, or may be by the time ONNX Runtime fuses. */
interface TurnedProduct {
  readonly node: Node;
  readonly a: ValueId;
  readonly b: ValueId;
  /** Rank of B; undefined where it is not known. */
  readonly rank: number | undefined;
}

/** The products of a graph, without its bodies, whose A is or may be transposed and whose B may be a vector. `captured`: as for `turnedValues`. */
export function vectorProducts(g: Graph, captured: readonly ValueId[] = g.captures): readonly TurnedProduct[] {
  const products = g.nodes.flatMap((node): TurnedProduct[] => {
    const [a, b] = node.ins;
    if (!multiplies(node) || a === undefined || b === undefined) return [];
    const rank = shapeOfType(typeAt(g, b))?.length;
    return rank === undefined || (rank === 1 && shapeOfType(typeAt(g, a))?.length !== 1) ? [{ node, a, b, rank }] : [];
  });
  if (products.length === 0) return products;
  const turned = turnedValues(g, captured);
  return products.filter(({ node, a }) => flag(node, "transA") || turned.has(a));
}

const multiplies = (n: Node): boolean => (n.op === "MatMul" && n.domain === "") || (n.op === "FusedMatMul" && n.domain === "com.microsoft");
/** Whether an attribute of FusedMatMul is set. */
export const flag = (n: Node, name: string): boolean => {
  const a = n.attrs[name];
  return a?.kind === "int" && Number(a.value) !== 0;
};

/**
 * What is computed from a Transpose: ONNX Runtime moves it along through other operators, as far as that pays. It also puts the branch of an If
 * whose condition it knows into the graph around it: an If may give something transposed, and its branches capture it (`captured`).
 */
export function turnedValues(g: Graph, captured: readonly ValueId[]): ReadonlySet<ValueId> {
  const turned = new Set(captured);
  for (const n of g.nodes) {
    if (n.op !== "Transpose" && n.op !== "If" && !n.ins.some((v) => v !== undefined && turned.has(v))) continue;
    for (const v of n.outs) if (v !== undefined) turned.add(v);
  }
  return turned;
}
