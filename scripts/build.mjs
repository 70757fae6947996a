// Builds dist/: TypeScript compiled, plain JavaScript of worker threads copied. Skips when dist is newer than every source (`--force` builds anyway).
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const stamp = join(root, "dist/.built");

function newest(folder) {
  let time = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    time = Math.max(time, entry.isDirectory() ? newest(path) : statSync(path).mtimeMs);
  }
  return time;
}

export function build({ force = false } = {}) {
  if (!force && existsSync(stamp) && statSync(stamp).mtimeMs > newest(join(root, "src"))) return;
  rmSync(join(root, "dist"), { recursive: true, force: true });
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  const result = spawnSync(process.execPath, [tsc, "-p", join(root, "tsconfig.build.json")], { stdio: "inherit" });
  if (result.status !== 0) process.exit(result.status ?? 1);
  copyPlain(join(root, "dist"));
  writeFileSync(stamp, "");
}

/** Copies what the compiler leaves out, the plain JavaScript of worker threads with its types, to where the sources were compiled to. */
export function copyPlain(out) {
  const sources = join(root, "src");
  for (const file of readdirSync(sources, { recursive: true }).map(String)) {
    if (!/\.(mjs|d\.mts)$/.test(file)) continue;
    mkdirSync(dirname(join(out, file)), { recursive: true });
    copyFileSync(join(sources, file), join(out, file));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) build({ force: process.argv.includes("--force") });
