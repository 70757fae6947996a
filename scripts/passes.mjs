// Makes docs/passes.md of the sources: src/passes/pipeline.ts says the order, each pass's own file its name, its reason and what it recognises.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export const file = "docs/passes.md";
const folder = join(dirname(fileURLToPath(import.meta.url)), "../src/passes");

const treeOf = (path) => ts.createSourceFile(path, readFileSync(join(folder, path), "utf8"), ts.ScriptTarget.Latest, true);
function* nodesOf(node) {
  yield node;
  for (const child of node.getChildren()) yield* nodesOf(child);
}
/** The string that a property of an object literal holds. */
function stringOf(object, name) {
  const p = object.properties.find((x) => ts.isPropertyAssignment(x) && x.name.getText() === name);
  return p !== undefined && ts.isStringLiteralLike(p.initializer) ? p.initializer.text : undefined;
}

/** Every pass in the order of the pipeline: { name, why, source, patterns }. */
export function passes() {
  const tree = treeOf("pipeline.ts");
  const sources = new Map();
  let order = [];
  for (const node of nodesOf(tree)) {
    if (ts.isImportDeclaration(node) && node.importClause?.namedBindings !== undefined)
      for (const e of node.importClause.namedBindings.elements ?? [])
        sources.set(e.name.text, node.moduleSpecifier.text.replace(/^\.\//, "").replace(/\.js$/, ".ts"));
    if (ts.isVariableDeclaration(node) && node.name.getText() === "pipeline") order = node.initializer.elements.map((e) => e.getText());
  }
  return order.map((name) => {
    const source = sources.get(name);
    const all = [...nodesOf(treeOf(source))];
    const definition = all.find((n) => ts.isVariableDeclaration(n) && n.name.getText() === name)?.initializer.arguments[0];
    const rules = all.filter((n) => ts.isObjectLiteralExpression(n) && n.properties.some((p) => p.name?.getText() === "pattern"));
    return {
      name: stringOf(definition, "name"),
      why: stringOf(definition, "why"),
      source: `src/passes/${source}`,
      patterns: [...new Set(rules.map((r) => stringOf(r, "name")))],
    };
  });
}
/** The operators that lowering can spell out again. */
export function lowerable() {
  const spellings = [...nodesOf(treeOf("lower.ts"))].find((n) => ts.isVariableDeclaration(n) && n.name.getText() === "spellings");
  return spellings.initializer.properties.map((p) => p.name.getText());
}

export function render() {
  const all = passes();
  const lines = [
    "# Passes",
    "",
    "<!-- Made by scripts/passes.mjs of src/passes: run `npm run docs` after a change. -->",
    "",
    "A pass is a named function from graph to graph with its reason. They run in this order, once each, on the graph and on the bodies of its",
    "`If`, `Loop` and `Scan` nodes; a second run changes nothing. `partita inspect MODEL --ir --after PASS` shows the graph behind one of them.",
    "[add-a-pass.md](add-a-pass.md) is a worked example.",
    "",
    "| | pass | why |",
    "|---|---|---|",
    ...all.map((p, i) => `| ${i + 1} | [\`${p.name}\`](../${p.source}) | ${p.why} |`),
    "",
    "## Raising",
    "",
    "Exporters spell functions out. These passes recognise the spellings of PyTorch (both exporters), TensorFlow and Keras, Hugging Face and ONNX",
    "Runtime's tools, in float32 and float16, and put the operator of ai.onnx in their place:",
    "",
    ...all
      .filter((p) => p.patterns.length > 0)
      .map((p) => `- \`${p.name}\`: ${p.patterns.join(", ").replace("LayerNorm", "LayerNorm (InstanceNorm, where the axes say so)")}`),
    "- `raise-attention`: scaled dot-product attention; scales on Q, K or the scores, masks added, chosen, per window (Swin) or causal, grouped heads,",
    "  a cache of past keys and values, float32 softmax inside float16",
    "",
    "The node that made the expression's result keeps its name and output; its `origin` lists the nodes of the user's graph that went into it. An",
    "expression stays when somebody reads a value inside it, or when its constants, axes or dims do not fit; a remark then says which and why",
    "(`onRemark`, or `partita inspect`). Constants are compared to the precision of their type: a few units in the last place.",
    "",
    "Three things differ where the spelled-out form overflows or is undefined: `log(1 + exp(x))` is infinite in float32 above 88 and Softplus is x;",
    "a vector of zeros divided by its own norm, without a guard, is NaN and LpNormalization gives 0;",
    "a softmax over scores that are all `-inf` is NaN and Attention gives 0, as PyTorch's guarded form does.",
    "",
    "## Lowering",
    "",
    `An engine says which raised operators it wants (\`Engine.keeps\`, and its verdicts). The others are spelled out again by \`lower\`: ${lowerable()
      .map((o) => `\`${o}\``)
      .join(", ")}.`,
    "That happens before partitioning for operators that none of the engines asked for takes whole, and once more for each segment before it is",
    "built, in the forms that ONNX Runtime's own fusions know. So a segment on the host is as fast and as exact as the user's own graph.",
    "",
    "Operators that ONNX Runtime's tools joined are taken apart in the same way: those of its optimiser ([fused.ts](../src/passes/fused.ts)), and quantized ones, which become",
    "DequantizeLinear, the float operator and QuantizeLinear ([quantized.ts](../src/passes/quantized.ts), [why](decisions/quantized-models.md)). On the host they stay whole.",
  ];
  return `${lines.join("\n")}\n`;
}
