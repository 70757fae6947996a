/** Losses: a model exported with its training head still runs. */
import { FLOATS64, hostOnly } from "./answers.js";
import { absent, defineOp, dtypeOf, optInt, optional, shapeOf, tensor, word } from "./define.js";
import { aText, fed, random } from "./samples.js";
import { fact, perInput } from "./shapes.js";

const on = hostOnly("losses belong to training", "export the model without its loss");
const reduction = word("mean", "none", "mean", "sum");
export const negativeLogLikelihoodLoss = defineOp({
  name: "NegativeLogLikelihoodLoss",
  doc: "Weighted negative log likelihood of target classes.",
  reads: { onnx: [{ since: 12 }] },
  in: { x: tensor("T"), target: tensor(), weight: optional("T") },
  out: { y: tensor("T") },
  types: { T: FLOATS64 },
  attrs: { ignore_index: optInt(), reduction },
  role: "compute",
  infer: (at) => [fact(dtypeOf(at.in.x), at.attrs.reduction === "none" ? shapeOf(at.in.target) : [])],
  cost: perInput(2),
  int8: absent("a loss"),
  on,
  *samples() {
    yield { name: "mean", in: { x: random("float32", 3, 5), target: fed("int64", [3], [1, 0, 4]) } };
    yield {
      name: "none",
      in: { x: random("float32", 2, 3, 2), target: fed("int64", [2, 2], [1, 0, 2, 2]) },
      attrs: { reduction: aText("none") },
    };
  },
});
export const softmaxCrossEntropyLoss = defineOp({
  name: "SoftmaxCrossEntropyLoss",
  doc: "Cross entropy of scores against target classes; optionally the log probabilities.",
  reads: { onnx: [{ since: 12 }] },
  in: { x: tensor("T"), target: tensor(), weight: optional("T") },
  out: { y: tensor("T"), logProb: optional("T") },
  types: { T: FLOATS64 },
  attrs: { ignore_index: optInt(), reduction },
  role: "compute",
  infer: (at) => [
    fact(dtypeOf(at.in.x), at.attrs.reduction === "none" ? shapeOf(at.in.target) : []),
    fact(dtypeOf(at.in.x), shapeOf(at.in.x)),
  ],
  cost: perInput(12),
  int8: absent("a loss"),
  on,
  *samples() {
    yield { name: "mean", in: { x: random("float32", 3, 5), target: fed("int64", [3], [1, 0, 4]) }, outs: 2 };
  },
});
