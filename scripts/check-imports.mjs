// The import direction: a folder of src/ may import from itself and from what stands before it. Prints every breach; exits 1 on any.
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** What each part may import besides itself. Files directly in src/ go by their own name. */
const base = ["atomic", "diagnostics", "channels", "tensor", "npz", "ir"];
const core = [...base, "ops"];
const planned = [...core, "passes", "partition"];
const everything = [
  ...planned,
  "import",
  "quantize",
  "report",
  "engines",
  "runtime",
  "options",
  "prepare",
  "auto",
  "build",
  "compile",
  "calibrate",
  "verify",
];
export const allowed = {
  atomic: [],
  diagnostics: [],
  channels: [],
  tensor: ["diagnostics"],
  npz: ["atomic", "diagnostics", "tensor"],
  ir: ["diagnostics", "tensor", "npz"],
  ops: base,
  passes: core,
  import: core,
  partition: [...core, "passes"],
  quantize: planned,
  report: [...planned, "quantize"],
  engines: [...planned, "import", "quantize"],
  runtime: [...planned, "import", "quantize", "engines", "report"],
  options: [...core, "partition", "quantize", "engines"],
  prepare: [...planned, "import", "engines", "options"],
  auto: ["diagnostics", "ops", "engines"],
  build: [...planned, "import", "quantize", "report", "engines", "runtime", "options"],
  calibrate: everything.filter((part) => part !== "compile"),
  compile: everything,
  verify: everything,
  index: everything,
  "ir.ts": everything,
  testing: everything,
  tftrt: [...everything, "index"],
  cli: [...everything, "index"],
};

/** Breaches as `file imports target: reason`. */
export function breaches(src) {
  const found = [];
  const partOf = (path) => {
    const [first, ...rest] = relative(src, path).split(sep);
    if (rest.length > 0) return first;
    const name = first.replace(/\.(ts|mts|mjs|js)$/, "");
    return name === "ir" ? "ir.ts" : name;
  };
  for (const entry of readdirSync(src, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/\.(ts|mjs)$/.test(entry.name)) continue;
    const file = join(entry.parentPath ?? entry.path, entry.name);
    const from = partOf(file);
    const may = allowed[from];
    if (may === undefined) {
      found.push(
        `${relative(src, file)} lies in '${from}', which the import direction does not know: give it a place in scripts/check-imports.mjs`,
      );
      continue;
    }
    // Specifiers of import and export declarations and of import() calls; text in comments and strings does not look like one.
    for (const [, named, called] of readFileSync(file, "utf8").matchAll(
      /^(?:import|export)\b[^"';]*?["'](\.[^"']+)["']|\bimport\(\s*["'](\.[^"']+)["']\s*\)/gm,
    )) {
      const target = resolve(dirname(file), named ?? called);
      const to = partOf(target);
      if (to !== from && !may.includes(to))
        found.push(`${relative(src, file)} imports '${to}': '${from}' may import ${may.length === 0 ? "nothing" : may.join(", ")}`);
    }
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const found = breaches(join(dirname(fileURLToPath(import.meta.url)), "../src"));
  for (const line of found) console.error(line);
  if (found.length > 0) process.exitCode = 1;
}
