// `npm run test:tensorrt`: TensorRT at length. With --full also what only a complete TensorRT and a GPU can show, into one result file
// (.cache/tensorrt/results.json, or the file that PARTITA_TENSORRT_RESULTS names), which a report of a fault should hold; nothing may be missing then: the first thing that is
// is said, and nothing runs. Its checks are shared among processes (PARTITA_TENSORRT_WORKERS of them), those that measure time come last and alone.
// A run that was ended goes on where PARTITA_TENSORRT_RUN names a folder that both were given.
// --full --dry-run makes the same checks over stand-ins for the library and the GPU, to prove the run itself.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const args = process.argv.slice(2);
const [full, dry] = [args.includes("--full"), args.includes("--dry-run")];
const rest = args.filter((a) => a !== "--full" && a !== "--dry-run");
const FULL = "test/tensorrt/full.test.ts";
const vitest = (more) => [join(root, "node_modules/vitest/vitest.mjs"), "run", "--config", "vitest.tensorrt.config.ts", ...more];

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

const children = new Set();
/** One process of the run: its marks of checks as they come, everything that it said where it failed. */
function part(run, phase, index, more) {
  const name = `${phase}-${index}-${process.pid}`;
  const env = {
    ...process.env,
    PARTITA_TENSORRT_FULL: dry ? "dry" : "gpu",
    PARTITA_TENSORRT_RUN: run,
    PARTITA_TENSORRT_PHASE: phase,
    PARTITA_TENSORRT_RESULTS: join(run, "results", `${name}.json`),
  };
  const child = spawn(process.execPath, vitest([FULL, ...more]), { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  let said = "";
  let line = "";
  const take = (data) => {
    said += data;
    const lines = `${line}${data}`.split("\n");
    line = lines.pop() ?? "";
    for (const l of lines) if (/^\s*(?:\S*\[\d+m)*[✓×]/.test(l)) process.stdout.write(`${l}\n`);
  };
  child.stdout.setEncoding("utf8").on("data", take);
  child.stderr.setEncoding("utf8").on("data", take);
  return new Promise((done) => {
    child.once("close", (code, signal) => {
      children.delete(child);
      const failed = said.indexOf("Failed Tests");
      if (code !== 0 && signal === null) process.stdout.write(`${failed < 0 ? said : said.slice(failed)}\n`);
      done(code ?? 1);
    });
  });
}

/** Checks that an earlier process began and did not end are anybody's again. */
function begin(run) {
  mkdirSync(join(run, "results"), { recursive: true });
  mkdirSync(join(run, "claims"), { recursive: true });
  const ended = new Set(
    readdirSync(join(run, "results"))
      .filter((n) => n.endsWith(".json"))
      .flatMap((n) => JSON.parse(readFileSync(join(run, "results", n), "utf8")).checks.map((c) => c.name)),
  );
  for (const n of readdirSync(join(run, "claims"))) if (!ended.has(decodeURIComponent(n))) rmSync(join(run, "claims", n));
}

/** The parts' files as one, in the order of the checks. A check that was begun and has no outcome took its process with it. */
function merge(run, file) {
  const folder = join(run, "results");
  const parts = (existsSync(folder) ? readdirSync(folder) : [])
    .filter((n) => n.endsWith(".json"))
    .map((n) => JSON.parse(readFileSync(join(folder, n), "utf8")));
  const [first] = parts;
  if (first === undefined) return false;
  const order = [...new Set(parts.flatMap((p) => p.order ?? []))];
  const outcomes = new Map(parts.flatMap((p) => p.checks).map((c) => [c.name, c]));
  const begun = new Set(existsSync(join(run, "claims")) ? readdirSync(join(run, "claims")).map(decodeURIComponent) : []);
  const checks = order.flatMap((name) => {
    const lost = { name, outcome: "failed", ms: 0, error: { message: "its process ended before it did" } };
    return outcomes.has(name) ? [outcomes.get(name)] : begun.has(name) ? [lost] : [];
  });
  const count = (outcome) => checks.filter((c) => c.outcome === outcome).length;
  const { order: _, checks: __, ...head } = { ...first, ...Object.assign({}, ...parts.filter((p) => p.library !== undefined)) };
  const whole = {
    ...head,
    date: new Date().toISOString(),
    summary: { passed: count("passed"), failed: count("failed"), leftOut: count("left out") },
    checks,
  };
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, `${JSON.stringify(whole, undefined, 1)}\n`);
  renameSync(`${file}.new`, file);
  return true;
}

async function everything(more) {
  const kept = process.env.PARTITA_TENSORRT_RUN;
  const run = kept ?? mkdtempSync(join(tmpdir(), "partita-tensorrt-"));
  begin(run);
  const file = resolve(root, process.env.PARTITA_TENSORRT_RESULTS ?? ".cache/tensorrt/results.json");
  const wanted = Number(process.env.PARTITA_TENSORRT_WORKERS ?? (dry ? 2 : Math.min(8, availableParallelism() >> 1)));
  const workers = Number.isInteger(wanted) && wanted > 1 ? wanted : 1;
  const finish = () => {
    if (merge(run, file)) process.stdout.write(`test:tensorrt --full: ${process.env.PARTITA_TENSORRT_RESULTS ?? file}\n`);
    if (kept === undefined) rmSync(run, { recursive: true, force: true });
  };
  for (const signal of ["SIGINT", "SIGTERM"])
    process.once(signal, () => {
      for (const child of children) child.kill("SIGKILL");
      finish();
      process.exit(130);
    });
  // What there is so far outlives whatever ends this process.
  const timer = setInterval(() => merge(run, file), 5000);
  try {
    const together = await Promise.all(Array.from({ length: workers }, (_, i) => part(run, "together", i, more)));
    const alone = await part(run, "alone", 0, more);
    return Math.max(...together, alone);
  } finally {
    clearInterval(timer);
    finish();
  }
}

if (dry && !full) {
  process.stderr.write("test:tensorrt: --dry-run is of --full\n");
  process.exit(2);
}
let status = 0;
if (full) {
  const why = missing();
  if (why !== undefined) {
    process.stderr.write(`test:tensorrt --full: ${why}\n`);
    process.exit(3);
  }
  status = await everything(rest.filter((a) => a !== FULL));
}
// The other suites, unless the run was of the full one's checks alone.
if (!full || (!dry && rest.length === 0)) {
  const others = spawnSync(process.execPath, vitest(rest), { cwd: root, stdio: "inherit" });
  status = Math.max(status, others.status ?? 1);
}
process.exit(status);
