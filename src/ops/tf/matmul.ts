/** Matrix products, biases, contractions. */
import { defineTfOp, type TfBuilder, type TfNode, type Val } from "./define.js";
import { addBias, fusedTail, transposed } from "./helpers.js";
import { type Compute, compute } from "./kernels.js";

/** ONNX Runtime multiplies by an empty inner dim as well; integers narrower than 32 bits are summed in 32, as TensorFlow's products are. */
function product(n: TfNode, b: TfBuilder, k: Compute, x: Val, y: Val): Val {
  if (x.dtype === y.dtype) return k("MatMul", [x, y]);
  const out = n.type("Tout", x.dtype);
  return k("MatMul", [b.cast(x, out), b.cast(y, out)]);
}

export const matMul = defineTfOp({
  name: "MatMul",
  to: ["MatMul", "Transpose"],
  lower: (n, b) => {
    const side = (i: 0 | 1, flag: string): Val => (n.bool(flag, false) ? b.transpose(n.in(i), [1, 0]) : n.in(i));
    return product(n, b, compute(n, b), side(0, "transpose_a"), side(1, "transpose_b"));
  },
});
export const batchMatMul = defineTfOp({
  names: ["BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"],
  to: ["MatMul", "Transpose"],
  lower: (n, b) => {
    const side = (i: 0 | 1, flag: string): Val => (n.bool(flag, false) ? transposed(b, n.in(i)) : n.in(i));
    return product(n, b, compute(n, b), side(0, "adj_x"), side(1, "adj_y"));
  },
});
export const sparseMatMul = defineTfOp({
  name: "SparseMatMul",
  to: ["MatMul", "Transpose", "Cast"],
  lower: (n, b) => {
    const side = (i: 0 | 1, flag: string): Val => {
      const x = b.cast(n.in(i), "float32");
      return n.bool(flag, false) ? b.transpose(x, [1, 0]) : x;
    };
    return b.op("MatMul", [side(0, "transpose_a"), side(1, "transpose_b")]);
  },
});
export const einsum = defineTfOp({
  name: "Einsum",
  to: ["Einsum", "ReduceSum"],
  lower: (n, b) => compute(n, b)("Einsum", n.list(0), { equation: n.string("equation").replaceAll(" ", "") }),
});

export const biasAdd = defineTfOp({
  names: ["BiasAdd", "BiasAddV1"],
  to: ["Add", "Unsqueeze"],
  lower: (n, b) => addBias(n, b, n.in(0), n.in(1), n.string("data_format", "NHWC").startsWith("NC")),
});
/** MatMul, bias and activation that TensorFlow's optimizer has joined. */
export const fusedMatMul = defineTfOp({
  name: "_FusedMatMul",
  to: ["MatMul", "Add", "Relu", "Clip", "Elu", "LeakyRelu", "Tanh", "Sigmoid", "Gelu", "Transpose"],
  lower: (n, b) => {
    const k = compute(n, b);
    const side = (i: 0 | 1, flag: string): Val => (n.bool(flag, false) ? b.transpose(n.in(i), [1, 0]) : n.in(i));
    return fusedTail(n, b, product(n, b, k, side(0, "transpose_a"), side(1, "transpose_b")), false, 2);
  },
});
