// docs/cli.md, made from the command line's own definitions.
import { build } from "./build.mjs";

export const file = "docs/cli.md";

const EXITS = [
  ["0", "done"],
  ["1", "the model or the options are at fault, or a comparison failed"],
  ["2", "usage"],
  ["3", "the machine lacks what was asked for"],
  ["70", "an internal error"],
];
const cell = (text) => text.replaceAll("|", "\\|");

export async function render() {
  build();
  const { commands } = await import("../dist/cli/program.js");
  const { Terminal } = await import("../dist/cli/terminal.js");
  const sink = { write: () => true };
  const program = commands(new Terminal({ stdout: sink, stderr: sink, env: {} }));
  const lines = [
    "# Command line",
    "",
    "Generated from the definitions in `src/cli` by `npm run docs`.",
    "",
    "Results go to stdout, progress and errors to stderr. `--json` makes the result machine-readable; it names its schema and version.",
    "`NO_COLOR` is honoured. A misspelt command or option gets a suggestion.",
    "",
    "| exit code | meaning |",
    "|---|---|",
    ...EXITS.map(([code, meaning]) => `| ${code} | ${meaning} |`),
  ];
  for (const c of program.commands) {
    const args = c.registeredArguments.map((a) => (a.required ? `<${a.name()}>` : `[${a.name()}]`)).join(" ");
    lines.push("", `## partita ${c.name()}${args === "" ? "" : ` ${args}`}`, "", `${c.description()}.`);
    if (c.options.length === 0) continue;
    lines.push("", "| option | meaning | default |", "|---|---|---|");
    for (const o of c.options) {
      const choices = o.argChoices === undefined ? "" : ` (${o.argChoices.join(", ")})`;
      const value =
        o.defaultValue === undefined || (Array.isArray(o.defaultValue) && o.defaultValue.length === 0) ? "" : `\`${o.defaultValue}\``;
      lines.push(`| \`${cell(o.flags)}\` | ${cell(o.description)}${choices} | ${value} |`);
    }
  }
  return `${lines.join("\n")}\n`;
}
