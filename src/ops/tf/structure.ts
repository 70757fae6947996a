/** What holds a graph together: constants, inputs, variables, identities, calls and control flow. */
import { defineTfOp } from "./define.js";

export const constant = defineTfOp({ name: "Const", to: [], lower: (n, b) => b.constant(n.tensor("value")) });
export const placeholder = defineTfOp({
  names: ["Placeholder", "PlaceholderV2"],
  to: [],
  structure: "a graph input",
});
export const placeholderWithDefault = defineTfOp({
  name: "PlaceholderWithDefault",
  to: [],
  why: "its default, unless it is among `inputs`",
  lower: (n) => n.ins[0] ?? n.in(0),
});
export const identity = defineTfOp({
  names: ["Identity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics", "EnsureShape", "_Retval"],
  to: [],
  why: "its operand",
  lower: (n) => n.ins[0] ?? n.in(0),
});
export const identityN = defineTfOp({ names: ["IdentityN", "_IdentityN"], to: [], why: "its operands", lower: (n) => n.ins });
export const noResults = defineTfOp({
  names: ["NoOp", "Assert", "Print", "PrintV2", "ControlTrigger"],
  to: [],
  why: "has no results; nothing checks or prints at run time",
  lower: (n) => (n.op === "Print" ? [n.in(0)] : []),
});

export const variable = defineTfOp({
  names: ["VariableV2", "Variable", "VarHandleOp"],
  to: [],
  structure: "its value in the checkpoint, as a constant",
});
export const readVariable = defineTfOp({
  names: ["ReadVariableOp", "_ReadVariablesOp"],
  to: [],
  why: "the variable's value",
  lower: (n) => {
    const [v] = n.ins;
    if (v?.kind === "variable") return v.value;
    // A frozen graph's handle is the value itself.
    return n.in(0);
  },
});
const call = "inlined";
export const calls = defineTfOp({ names: ["PartitionedCall", "StatefulPartitionedCall"], to: [], structure: call });
const branch = "one body of If; chosen at compile time where the condition is a constant";
export const conditional = defineTfOp({ names: ["If", "StatelessIf"], to: ["If"], structure: branch });
export const cases = defineTfOp({ names: ["Case", "StatelessCase"], to: ["If", "Equal"], structure: "nested If" });
export const loops = defineTfOp({ names: ["While", "StatelessWhile"], to: ["Loop"], structure: "the body of a Loop" });
export const switches = defineTfOp({
  names: ["Switch", "RefSwitch"],
  outs: ["output_false", "output_true"],
  to: ["If"],
  structure: branch,
});
export const merges = defineTfOp({ names: ["Merge", "RefMerge"], outs: ["output", "value_index"], to: ["If"], structure: branch });
const frame = "a part of a Loop";
export const frames = defineTfOp({
  names: ["Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "RefNextIteration", "LoopCond"],
  to: ["Loop"],
  structure: frame,
});
