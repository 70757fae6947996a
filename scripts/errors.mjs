// Makes docs/errors.md of the definitions in the sources: every `defineError(code, title, describe, exit)`.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

export const file = "docs/errors.md";
const root = join(dirname(fileURLToPath(import.meta.url)), "..");

const AREAS = [
  ["P10", "Options and usage"],
  ["P11", "Files and weights"],
  ["P12", "ONNX import"],
  ["P13", "TensorFlow import"],
  ["P14", "Graphs and their text form"],
  ["P15", "Operators"],
  ["P16", "Passes"],
  ["P17", "Partition"],
  ["P18", "Quantization"],
  ["P20", "Host engine"],
  ["P21", "CUDA engine"],
  ["P22", "TensorRT engine"],
  ["P30", "Bundles"],
  ["P31", "Sessions and feeds"],
  ["P40", "Reports and the command line"],
  ["P90", "Internal"],
];
const EXITS = {
  1: "the model or the options are at fault",
  2: "usage",
  3: "the machine lacks what was asked for",
  70: "an error of Partita itself",
};

function sources(folder) {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((e) => (e.isDirectory() ? sources(join(folder, e.name)) : e.name.endsWith(".ts") ? [join(folder, e.name)] : []))
    .sort();
}

/** The words of a message: what is filled in stands in angle brackets, alternatives are set apart by a bar. */
function words(node) {
  if (ts.isParenthesizedExpression(node)) return words(node.expression);
  if (ts.isStringLiteralLike(node)) return node.text;
  if (ts.isTemplateExpression(node)) return node.head.text + node.templateSpans.map((s) => words(s.expression) + s.literal.text).join("");
  if (ts.isConditionalExpression(node)) {
    const [a, b] = [words(node.whenTrue), words(node.whenFalse)];
    return a === "" ? `[${b}]` : b === "" ? `[${a}]` : `[${a} | ${b}]`;
  }
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.QuestionQuestionToken)
    return `[${words(node.right)} | ${words(node.left)}]`;
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) return words(node.left) + words(node.right);
  if (ts.isIdentifier(node)) return node.text === "undefined" ? "" : `<${node.text.replace(/_$/, "")}>`;
  if (ts.isPropertyAccessExpression(node)) return `<${node.name.text}>`;
  // A call such as known.join(", ") or limit.toFixed(2): named by what it is called on.
  if (ts.isCallExpression(node) && ts.isPropertyAccessExpression(node.expression)) return words(node.expression.expression);
  return "<...>";
}

/** What a describe function returns, as far as it is an object literal. */
function explained(fn) {
  if (fn === undefined || !ts.isArrowFunction(fn)) return {};
  let body = fn.body;
  if (ts.isBlock(body)) body = body.statements.find(ts.isReturnStatement)?.expression ?? body;
  while (ts.isParenthesizedExpression(body)) body = body.expression;
  const out = {};
  if (!ts.isObjectLiteralExpression(body)) return out;
  for (const p of body.properties) {
    if (ts.isPropertyAssignment(p)) out[p.name.getText()] = words(p.initializer);
    else if (ts.isShorthandPropertyAssignment(p)) out[p.name.text] = `<${p.name.text}>`;
  }
  return out;
}

/** Every definition: { code, title, exit, what, why, fix, source }, by code. */
export function definitions() {
  const found = [];
  for (const path of sources(join(root, "src"))) {
    const text = readFileSync(path, "utf8");
    if (!text.includes("defineError")) continue;
    const tree = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
    const visit = (node) => {
      if (ts.isCallExpression(node) && node.expression.getText() === "defineError") {
        const [code, title, describe, exit] = node.arguments;
        if (code !== undefined && ts.isStringLiteralLike(code))
          found.push({
            code: code.text,
            title: title === undefined ? "" : words(title),
            exit: exit === undefined ? 1 : Number(exit.getText()),
            ...explained(describe),
            source: relative(root, path).split("\\").join("/"),
          });
      }
      ts.forEachChild(node, visit);
    };
    visit(tree);
  }
  return found.sort((a, b) => (a.code < b.code ? -1 : 1));
}

const sentence = (s) => (s === undefined || s === "" ? "" : s.charAt(0).toUpperCase() + s.slice(1));

export function render() {
  const all = definitions();
  const lines = [
    "# Errors",
    "",
    "<!-- Made by scripts/errors.mjs of the definitions in src/: run `npm run docs` after a change. -->",
    "",
    "Everything that fails on purpose throws a `PartitaError`. Its `message` is complete for a person: the code, the place (file, node,",
    "attribute, value), what was found, why that is wrong, and what to do. For programs it has the fields `code`, `where`, `what`, `why`, `fix`",
    "and `exit`, the exit code of the command line:",
    "",
    ...Object.entries(EXITS).map(([code, meaning]) => `- \`${code}\`: ${meaning}`),
    "",
    "Below, `<name>` is filled in, and `[one | other]` are alternatives.",
  ];
  for (const [prefix, title] of AREAS) {
    const some = all.filter((e) => e.code.startsWith(prefix));
    if (some.length === 0) continue;
    lines.push("", `## ${title}`);
    for (const e of some) {
      lines.push("", `### ${e.code}: ${e.title}`, "", "```text", `${sentence(e.what ?? "<what>")}${e.why ? `: ${e.why}` : ""}.`);
      lines.push(`${sentence(e.fix ?? "<fix>")}.`, "```", "", `Exit code ${e.exit}. Defined in \`${e.source}\`.`);
    }
  }
  return `${lines.join("\n")}\n`;
}
