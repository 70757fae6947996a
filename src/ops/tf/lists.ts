/** TensorArray (TensorFlow 1) and TensorList (2): their state is a tensor, or known elements; see list-values.ts. */
import type { Dim, Shape } from "../../ir/types.js";
import { defineTfOp, type TfNode } from "./define.js";
import {
  concatItems,
  denseItems,
  emptyList,
  gatherItems,
  getItem,
  lengthOf,
  listInput,
  listOfTensor,
  popBack,
  pushBack,
  scatterItems,
  setItem,
  shapeOfTensor,
  splitItems,
} from "./list-values.js";

const attrShape = (n: TfNode): Shape => (n.has("element_shape") ? n.shape("element_shape")?.map((d): Dim => (d < 0 ? "?" : d)) : undefined);

export const tensorArray = defineTfOp({
  names: ["TensorArrayV3", "TensorArrayV2"],
  outs: ["handle", "flow"],
  to: ["ConstantOfShape"],
  why: "no node of its own: the elements written, or one tensor of all of them",
  lower: (n, b) => [
    { kind: "opaque", what: "TensorArray" },
    emptyList(b, n.type("dtype"), n.in(0), attrShape(n), n.bool("dynamic_size", false)),
  ],
});
export const tensorArrayWrite = defineTfOp({
  names: ["TensorArrayWriteV3", "TensorArrayWriteV2"],
  to: ["ScatterND"],
  lower: (n, b) => setItem(n, b, listInput(n, 3), n.in(1), n.in(2)),
});
export const tensorArrayRead = defineTfOp({
  names: ["TensorArrayReadV3", "TensorArrayReadV2"],
  to: ["Gather"],
  lower: (n, b) => getItem(n, b, listInput(n, 2), n.in(1)),
});
export const tensorArrayGather = defineTfOp({
  names: ["TensorArrayGatherV3", "TensorArrayGatherV2"],
  to: ["Gather", "Concat"],
  lower: (n, b) => gatherItems(n, b, listInput(n, 2), n.in(1)),
});
export const tensorArrayScatter = defineTfOp({
  names: ["TensorArrayScatterV3", "TensorArrayScatterV2"],
  to: ["ScatterND"],
  lower: (n, b) => scatterItems(n, b, listInput(n, 3), n.in(1), n.in(2)),
});
export const tensorArraySize = defineTfOp({
  names: ["TensorArraySizeV3", "TensorArraySizeV2"],
  to: ["Shape", "Cast"],
  lower: (n, b) => b.cast(lengthOf(listInput(n, 1)), "int32"),
});
export const tensorArrayConcat = defineTfOp({
  names: ["TensorArrayConcatV3", "TensorArrayConcatV2"],
  outs: ["value", "lengths"],
  to: ["Concat", "Reshape"],
  lower: (n, b) => {
    const { value, lengths } = concatItems(n, b, listInput(n, 1));
    return [value, lengths];
  },
});
export const tensorArraySplit = defineTfOp({
  names: ["TensorArraySplitV3", "TensorArraySplitV2"],
  to: ["Slice", "CumSum", "Gather", "Sub"],
  why: "where the number of parts is known at compile time",
  lower: (n, b) => splitItems(n, b, listInput(n, 3), n.in(1), n.in(2)),
});
export const tensorArrayClose = defineTfOp({
  names: ["TensorArrayCloseV3", "TensorArrayCloseV2"],
  to: [],
  why: "nothing",
  lower: () => [],
});

export const tensorListReserve = defineTfOp({
  name: "TensorListReserve",
  to: ["ConstantOfShape"],
  why: "no node of its own: the elements set, or one tensor of all of them",
  lower: (n, b) => emptyList(b, n.type("element_dtype"), n.in(1), shapeOfTensor(n.in(0)), false),
});
export const emptyTensorList = defineTfOp({
  name: "EmptyTensorList",
  to: ["ConstantOfShape"],
  why: "no node of its own",
  lower: (n, b) => emptyList(b, n.type("element_dtype"), b.int64(0), shapeOfTensor(n.in(0)), true),
});
export const tensorListFromTensor = defineTfOp({
  name: "TensorListFromTensor",
  to: [],
  why: "its operand",
  lower: (n, b) => listOfTensor(b, n.in(0), { element: shapeOfTensor(n.in(1)), grows: false }),
});
export const tensorListSetItem = defineTfOp({
  name: "TensorListSetItem",
  to: ["ScatterND"],
  lower: (n, b) => {
    const list = listInput(n, 0);
    return setItem(n, b, n.bool("resize_if_index_out_of_bounds", false) ? { ...list, grows: true } : list, n.in(1), n.in(2));
  },
});
export const tensorListGetItem = defineTfOp({
  name: "TensorListGetItem",
  to: ["Gather"],
  lower: (n, b) => getItem(n, b, listInput(n, 0), n.in(1)),
});
export const tensorListPushBack = defineTfOp({
  name: "TensorListPushBack",
  to: ["Concat"],
  lower: (n, b) => pushBack(b, listInput(n, 0), n.in(1)),
});
export const tensorListPopBack = defineTfOp({
  name: "TensorListPopBack",
  outs: ["output_handle", "tensor"],
  to: ["Slice"],
  lower: (n, b) => {
    const { list, last } = popBack(n, b, listInput(n, 0));
    return [list, last];
  },
});
export const tensorListStack = defineTfOp({
  name: "TensorListStack",
  to: ["Concat"],
  lower: (n, b) => {
    const list = listInput(n, 0);
    // Where nothing was written, the operand says the shape.
    const given = shapeOfTensor(n.in(1));
    return (
      denseItems(b, given === undefined ? list : { ...list, element: given }) ??
      n.refuse("a list is stacked before anything was written to it, and its elements' shape is not declared")
    );
  },
});
export const tensorListGather = defineTfOp({
  name: "TensorListGather",
  to: ["Gather"],
  lower: (n, b) => gatherItems(n, b, listInput(n, 0), n.in(1)),
});
export const tensorListScatter = defineTfOp({
  names: ["TensorListScatter", "TensorListScatterV2"],
  to: ["ScatterND"],
  lower: (n, b) => {
    const indices = n.in(1);
    const asked = n.ins.length > 3 ? n.in(3) : undefined;
    const most = b.add(b.op("ReduceMax", [b.cast(indices, "int64")], { keepdims: 0 }), b.int64(1));
    const size = asked === undefined || (asked.numbers?.[0] ?? -1) < 0 ? most : asked;
    return scatterItems(n, b, emptyList(b, n.in(0).dtype, size, shapeOfTensor(n.in(2)), false), indices, n.in(0));
  },
});
export const tensorListScatterInto = defineTfOp({
  name: "TensorListScatterIntoExistingList",
  to: ["ScatterND"],
  lower: (n, b) => scatterItems(n, b, listInput(n, 0), n.in(2), n.in(1)),
});
export const tensorListLength = defineTfOp({
  name: "TensorListLength",
  to: ["Shape", "Cast"],
  lower: (n, b) => b.cast(lengthOf(listInput(n, 0)), "int32"),
});
export const tensorListConcat = defineTfOp({
  names: ["TensorListConcat", "TensorListConcatV2"],
  outs: ["tensor", "lengths"],
  to: ["Concat", "Reshape"],
  lower: (n, b) => {
    const { value, lengths } = concatItems(n, b, listInput(n, 0));
    return [value, lengths];
  },
});
export const tensorListSplit = defineTfOp({
  name: "TensorListSplit",
  to: ["Slice", "CumSum", "Gather", "Sub"],
  why: "where the number of parts is known at compile time",
  lower: (n, b) => splitItems(n, b, emptyList(b, n.in(0).dtype, b.int64(0), shapeOfTensor(n.in(1)), false), n.in(0), n.in(2)),
});
export const tensorListElementShape = defineTfOp({
  name: "TensorListElementShape",
  to: ["Shape", "Cast"],
  lower: (n, b) => {
    const items = denseItems(b, listInput(n, 0)) ?? n.refuse("the shape of a list's elements is not known");
    return b.cast(b.op("Shape", [items], { start: 1 }), n.type("shape_type", "int64"));
  },
});
