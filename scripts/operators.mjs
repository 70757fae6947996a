// Makes docs/operators.md of the registries of src/ops and src/ops/tf, compiled: what is read, as what, and what each engine says of it.
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "./build.mjs";

export const file = "docs/operators.md";
const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Text in a table's cell. */
const cell = (text) => text.replaceAll("|", "\\|").replaceAll("<", "&lt;").replaceAll("\n", " ");
const code = (name) => `\`${name}\``;

/** Operator sets that a definition reads, oldest first: `1, 11`; other spellings with their names: `Upsample 1`. */
function spellings(def) {
  const own = def.reads.onnx.filter((r) => r.op === undefined).map((r) => r.since);
  const others = def.reads.onnx.filter((r) => r.op !== undefined).map((r) => `${code(r.op)} ${r.since}`);
  return [...others, own.join(", ")].filter((s) => s !== "").join(", ");
}
const verdict = (lowering) =>
  "absent" in lowering ? `no: ${lowering.absent}` : lowering.when === undefined ? "yes" : `yes: ${lowering.when}`;
function int8(rule) {
  if ("absent" in rule) return `no: ${rule.absent}`;
  if ("passes" in rule) return "passes its input's scale on";
  return `yes: weights by axis ${rule.axis}, sums in ${rule.accumulate}`;
}

/** `ops`: definitions of src/ops/registry.ts; `tfOps`: [name, definition] of src/ops/tf/registry.ts. */
export function page(ops, tfOps) {
  const tensorflow = new Map();
  for (const [name, def] of tfOps) {
    for (const op of def.to) {
      const { direct, parts } = tensorflow.get(op) ?? { direct: [], parts: 0 };
      // A lowering into many operators spells the first one listed, with the help of the others.
      tensorflow.set(op, def.to.length <= 3 || def.to[0] === op ? { direct: [...direct, name], parts } : { direct, parts: parts + 1 });
    }
  }
  const domains = new Map();
  for (const def of ops) domains.set(def.domain ?? "", [...(domains.get(def.domain ?? "") ?? []), def]);
  const lines = [
    "# Operators",
    "",
    "<!-- Made by scripts/operators.mjs of src/ops: run `npm run docs` after a change. -->",
    "",
    "What Partita knows of each operator. *Read from*: the operator sets whose spelling is read, an older or newer one being rewritten into the one",
    "that Partita keeps. *TensorFlow*: the operators whose lowering makes this one. *Role*: only `compute` counts towards `minimumSegmentSize`.",
    "*cuda* and *tensorrt*: whether the engine takes it, beyond what holds for all operators: operands are tensors of float32, float16, bfloat16,",
    "int8, int32, int64 or bool (cuda: uint8 too; tensorrt: at most 8 dims), of known rank, with no dim that only a run reveals.",
    "Everything goes to the host as it stands, and so does an operator that is not listed.",
  ];
  for (const [domain, defs] of [...domains].sort(([a], [b]) => (a < b ? -1 : 1))) {
    lines.push(
      "",
      `## ${domain === "" ? "ai.onnx" : domain} (${defs.length})`,
      "",
      "| operator | what it computes | read from | TensorFlow | role | cuda | tensorrt | int8 |",
      "|---|---|---|---|---|---|---|---|",
    );
    for (const def of defs) {
      const name = domain === "" ? def.name : `${domain}.${def.name}`;
      const { direct = [], parts = 0 } = tensorflow.get(name) ?? {};
      const sources = [...direct.map(code), ...(parts === 0 ? [] : [`a part of ${parts} more`])].join(", ");
      const cells = [
        code(def.name),
        def.doc,
        spellings(def),
        sources,
        def.role,
        verdict(def.on.cuda),
        verdict(def.on.tensorrt),
        int8(def.int8),
      ];
      lines.push(`| ${cells.map(cell).join(" | ")} |`);
    }
  }
  const becomes = (def) => {
    if (def.rule.kind === "absent") return `not read: ${def.rule.why}${def.rule.fix === undefined ? "" : `; ${def.rule.fix}`}`;
    const to = def.to.map(code).join(", ");
    return def.rule.kind === "structure"
      ? `${def.rule.what}${to === "" ? "" : ` (${to})`}`
      : `${to}${def.why === undefined ? "" : `; ${def.why}`}`;
  };
  lines.push(
    "",
    `## TensorFlow (${tfOps.length})`,
    "",
    "What each operator of a GraphDef becomes.",
    "",
    "| operator | becomes |",
    "|---|---|",
  );
  for (const [name, def] of tfOps) lines.push(`| ${code(name)} | ${cell(becomes(def))} |`);
  return `${lines.join("\n")}\n`;
}

export async function render() {
  build();
  const load = async (path) => await import(pathToFileURL(join(root, "dist/ops", path)).href);
  const { allOps } = await load("registry.js");
  const tf = existsSync(join(root, "dist/ops/tf/registry.js")) ? (await load("tf/registry.js")).allTfOps() : [];
  return page(allOps(), tf);
}
