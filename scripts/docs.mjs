// Regenerates the pages of docs/ that are made from the code: every script of this folder that exports `file` and `render`. `--check` only compares.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = dirname(fileURLToPath(import.meta.url));
const root = join(folder, "..");
const current = (path) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
};
const check = process.argv.includes("--check");
for (const script of readdirSync(folder).filter((name) => name.endsWith(".mjs"))) {
  // Importing a script that does something when imported would do it here: those that generate pages say so in their text.
  if (!/^export const file = /m.test(readFileSync(join(folder, script), "utf8"))) continue;
  const { file, render } = await import(`./${script}`);
  const text = await render();
  const same = current(join(root, file)) === text;
  if (same) continue;
  if (check) {
    process.stderr.write(`${file} is out of date: run npm run docs\n`);
    process.exitCode = 1;
  } else {
    writeFileSync(join(root, file), text);
    process.stdout.write(`${file} written\n`);
  }
}
