/** The part of a graph between the values that a user names: those become its inputs and outputs, what nothing needs any more goes. */
import { defineError, didYouMean } from "../diagnostics.js";
import { Editor } from "../ir/edit.js";
import { readsOf, valueAt } from "../ir/graph.js";
import type { Graph, ValueId, ValueType } from "../ir/types.js";
import { inferGraph } from "../ops/infer.js";

export const unknownOutput = defineError<{ name: string; near: string | undefined }>(
  "P1003",
  "an option names a value that the graph does not have",
  ({ name, near }) => ({
    what: `the graph has no value '${name}'`,
    fix: near === undefined ? "list the values with `partita inspect --ir`" : `did you mean '${near}'?`,
  }),
);
export const untypedInput = defineError<Record<never, never>>("P1004", "a graph is cut at a value of unknown type", () => ({
  what: "the graph is to be cut here, and the element type of the value is not known",
  why: "an input has to say what may be fed",
  fix: "cut it at a value whose type the model says, or add a Cast behind it where the model is made",
}));

/** The value of a name, an alias, or the node that makes it. Throws P1003. */
export function valueNamed(g: Graph, name: string): ValueId {
  const alias = g.extra?.aliases?.[name] ?? g.extra?.aliases?.[`${name}:0`];
  const found = g.values.find((v) => v !== undefined && (v.name === name || v.name === `${name}:0` || v.name === alias));
  if (found !== undefined) return found.id;
  throw unknownOutput(
    { name, near: didYouMean(name, g.values.flatMap((v) => (v === undefined ? [] : [v.name])).slice(0, 20_000)) },
    { file: g.extra?.file, value: name },
  );
}

/** `inputs` come first, then the graph's own that are still needed. Throws P1003 and P1004. */
export function cut(g: Graph, inputs: readonly string[] | undefined, outputs: readonly string[] | undefined): Graph {
  if (inputs === undefined && outputs === undefined) return g;
  const e = new Editor(g);
  if (outputs !== undefined) e.setOutputs(outputs.map((name) => valueNamed(g, name)));
  const given: ValueId[] = [];
  if (inputs !== undefined) {
    const ids = [...new Set(inputs.map((name) => valueNamed(g, name)))];
    const typed = ids.some((v) => !g.inputs.includes(v)) ? inferGraph(g).graph : g;
    for (const v of ids) given.push(g.inputs.includes(v) ? v : fed(e, v, valueAt(typed, v).type));
  }
  const needed = new Set<ValueId>(e.outputs);
  for (const n of e.nodes().toReversed())
    if (n.outs.some((v) => v !== undefined && needed.has(v))) for (const v of readsOf(n)) needed.add(v);
    else e.remove(n.id);
  e.setInputs([...given, ...g.inputs.filter((v) => needed.has(v) && !given.includes(v))]);
  return e.finish();
}

/** A fresh input in the place of a value, under its name. */
function fed(e: Editor, v: ValueId, type: ValueType): ValueId {
  const { name } = e.value(v);
  if (type.kind === "unknown") throw untypedInput({}, { value: name });
  e.rename(v, `${name}/uncut`);
  const input = e.addInput(name, type);
  // An output that is cut off is what is fed.
  const outputs = e.outputs.map((o) => (o === v ? input : o));
  e.setOutputs(outputs.filter((o) => o !== v));
  e.replaceUses(v, input);
  e.setOutputs(outputs);
  return input;
}
