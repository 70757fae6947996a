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
  for (const file of ["engines/host/worker.mjs", "engines/host/packing.mjs", "engines/host/packing.d.mts", "quantize/reducer.mjs"]) {
    mkdirSync(dirname(join(root, "dist", file)), { recursive: true });
    copyFileSync(join(root, "src", file), join(root, "dist", file));
  }
  writeFileSync(stamp, "");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) build({ force: process.argv.includes("--force") });
