#!/usr/bin/env bash
# compute-sanitizer over a sample of every operator, every template and three models (test/gpu/sanitize.test.ts).
#   bash scripts/gpu-sanitize.sh [tool ...]       memcheck racecheck initcheck synccheck when none is named, side by side
# Leaves sanitizer.json (what was run, errors, seconds, by tool) and a log for each tool in the folder that OUT names, else in .cache/sanitizer.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-.cache/sanitizer}
mkdir -p "$out" .cache
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer /opt/cuda/bin/compute-sanitizer 2> /dev/null | head -1)
[ -n "$sanitizer" ] || { echo "gpu-sanitize: compute-sanitizer is not there" >&2; exit 2; }
tools=("$@")
[ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck initcheck synccheck)
export PARTITA_REQUIRE_GPU=1 NO_COLOR=1 UV_THREADPOOL_SIZE=${UV_THREADPOOL_SIZE:-8}

run() {
  local tool=$1 start=$SECONDS code
  PARTITA_SANITIZER=$tool timeout "${LIMIT:-240}" "$sanitizer" --tool "$tool" --target-processes all --report-api-errors no --error-exitcode 9 --print-limit 20 \
    node node_modules/vitest/vitest.mjs run --config vitest.gpu.config.ts test/gpu/sanitize.test.ts > "$out/sanitize-$tool.log" 2>&1
  code=$?
  echo "$tool $code $((SECONDS - start))" > "$out/sanitize-$tool.done"
}
for tool in "${tools[@]}"; do run "$tool" & done
wait
node - "$out" "$sanitizer" "${tools[@]}" << 'JS'
const { readFileSync, writeFileSync, rmSync } = require("node:fs");
const { execFileSync } = require("node:child_process");
const [out, sanitizer, ...tools] = process.argv.slice(2);
const say = (command, ...args) => execFileSync(command, args, { encoding: "utf8" }).trim();
const results = tools.map((tool) => {
  const log = readFileSync(`${out}/sanitize-${tool}.log`, "utf8");
  const [, code, seconds] = readFileSync(`${out}/sanitize-${tool}.done`, "utf8").trim().split(" ").map(Number);
  rmSync(`${out}/sanitize-${tool}.done`);
  // One summary a process; racecheck counts hazards.
  const errors = [...log.matchAll(/(?:ERROR|RACECHECK) SUMMARY: (\d+)/g)].reduce((n, m) => n + Number(m[1]), 0);
  const tests = /Tests\s+(.*)/.exec(log)?.[1]?.trim() ?? "the suite did not end";
  return { tool, errors, tests, exit: code, seconds };
});
const [gpu = "", driver = ""] = say("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").split(", ");
const version = /Version (\S+)/.exec(say(sanitizer, "--version"))?.[1];
const written = { gpu, driver, sanitizer: version, date: new Date().toISOString().slice(0, 10), suite: "test/gpu/sanitize.test.ts", results };
writeFileSync(`${out}/sanitizer.json`, `${JSON.stringify(written, null, 2)}\n`);
console.log(JSON.stringify(written, null, 1));
process.exit(results.every((r) => r.errors === 0 && r.exit === 0) ? 0 : 1);
JS
