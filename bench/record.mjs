// Where a benchmark's figures go: bench/results/<name>.json, with the machine, the date and the commit that made them.
import { execFileSync } from "node:child_process";
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

export function record(name, figures) {
  const commit = execFileSync("git", ["rev-parse", "--short", "HEAD"], { cwd: root, encoding: "utf8" }).trim();
  // The load is that of the last minute, the benchmark's own included: others' shows in figures.
  const load = +loadavg()[0].toFixed(1);
  const machine = { cpu: cpus()[0]?.model ?? "unknown", cores: availableParallelism(), node: process.version, load };
  const path = join(root, "bench/results", `${name}.json`);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(
    `${path}.part`,
    `${JSON.stringify({ name, date: new Date().toISOString().slice(0, 10), commit, machine, ...figures }, null, 1)}\n`,
  );
  renameSync(`${path}.part`, path);
  process.stdout.write(`${JSON.stringify(figures, null, 1)}\n`);
}
export const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
