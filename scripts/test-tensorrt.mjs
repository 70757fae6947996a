// `npm run test:tensorrt`: TensorRT at length. With --full nothing may be skipped for want of a library, data or a GPU: the first thing that is missing
// is said, and nothing runs. What was measured is in .cache/tensorrt/results.json, or in the file that PARTITA_TENSORRT_RESULTS names.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const args = process.argv.slice(2);
const full = args.includes("--full");
if (full) {
  const missing = [
    ["PARTITA_TENSORRT_DIR", "the folder of TensorRT's libraries"],
    ["PARTITA_TEST_DATA", "the folder of the test data"],
  ].find(([name]) => !existsSync(process.env[name] ?? ""));
  const gpu = spawnSync("nvidia-smi", ["--query-gpu=name,driver_version", "--format=csv,noheader"], { encoding: "utf8" });
  const why =
    missing !== undefined
      ? `${missing[0]} does not name ${missing[1]}`
      : gpu.status !== 0
        ? `nvidia-smi finds no GPU: ${gpu.error?.message ?? gpu.stderr.trim()}`
        : undefined;
  if (why !== undefined) {
    process.stderr.write(`test:tensorrt --full: ${why}\n`);
    process.exit(3);
  }
}
const rest = args.filter((a) => a !== "--full");
const { status } = spawnSync(
  process.execPath,
  [join(root, "node_modules/vitest/vitest.mjs"), "run", "--config", "vitest.tensorrt.config.ts", ...rest],
  { cwd: root, stdio: "inherit" },
);
process.exit(status ?? 1);
