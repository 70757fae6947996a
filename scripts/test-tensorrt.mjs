// `npm run test:tensorrt`: TensorRT at length. With --full also what only a complete TensorRT and a GPU can show, into one result file
// (.cache/tensorrt/results.json, or the file that PARTITA_TENSORRT_RESULTS names), which a report of a fault should hold; nothing may be missing then: the first thing that is
// is said, and nothing runs. --full --dry-run makes the same checks over stand-ins for the library and the GPU, to prove the run itself.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const args = process.argv.slice(2);
const [full, dry] = [args.includes("--full"), args.includes("--dry-run")];

/** What keeps a full run from being one; undefined where nothing does. */
function missing() {
  const compiler = spawnSync("c++", ["--version"], { encoding: "utf8" });
  if (compiler.status !== 0) return "there is no C++ compiler (c++), which the bare loop around the plans needs";
  if (dry) return undefined;
  for (const [name, what] of [
    ["PARTITA_TENSORRT_DIR", "the folder of TensorRT's libraries"],
    ["PARTITA_TEST_DATA", "the folder of the test data"],
  ])
    if (!existsSync(process.env[name] ?? "")) return `${name} does not name ${what}`;
  const gpu = spawnSync("nvidia-smi", ["--query-gpu=name,driver_version", "--format=csv,noheader"], { encoding: "utf8" });
  return gpu.status === 0 ? undefined : `nvidia-smi finds no GPU: ${gpu.error?.message ?? gpu.stderr.trim()}`;
}

if (dry && !full) {
  process.stderr.write("test:tensorrt: --dry-run is of --full\n");
  process.exit(2);
}
if (full) {
  const why = missing();
  if (why !== undefined) {
    process.stderr.write(`test:tensorrt --full: ${why}\n`);
    process.exit(3);
  }
  process.env.PARTITA_TENSORRT_FULL = dry ? "dry" : "gpu";
}
const rest = args.filter((a) => a !== "--full" && a !== "--dry-run");
if (dry) rest.push("test/tensorrt/full.test.ts");
const { status } = spawnSync(
  process.execPath,
  [join(root, "node_modules/vitest/vitest.mjs"), "run", "--config", "vitest.tensorrt.config.ts", ...rest],
  { cwd: root, stdio: "inherit" },
);
const results = process.env.PARTITA_TENSORRT_RESULTS ?? ".cache/tensorrt/results.json";
if (full && existsSync(resolve(root, results))) process.stdout.write(`test:tensorrt --full: ${results}\n`);
process.exit(status ?? 1);
