// Runs the partitioner's benchmark that `tsc -p bench/tsconfig.json` has compiled; what it reads besides JavaScript is put beside it.
import { execFileSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { copyPlain } from "./build.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = join(root, "node_modules/.cache/partita-bench");
copyPlain(join(out, "src"));
execFileSync(process.execPath, [join(out, "bench/partition/main.js"), ...process.argv.slice(2)], { stdio: "inherit" });
