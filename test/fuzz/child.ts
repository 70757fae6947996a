/**
 * The process that tries mutants, so that a crash, a hang or a leak stays in it. It writes down what it is about to do before it does it
 * (the parent reads that when it died) and sends one message per mutant.
 */
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { generator, randomFeeds } from "../../src/runtime/measure.js";
import type { Session } from "../../src/runtime/session.js";
import type { TensorLike } from "../../src/tensor.js";
import { ownBases, realBases } from "./bases.js";
import { bundleMutant, prepareBundles, tryBundle } from "./bundles.js";
import { mutantOf, seedOf } from "./mutants.js";
import { describeDifference, referenceOf } from "./reference.js";
import { prepareTensorFlow, tensorflowMutant, tryTensorFlow } from "./tensorflow.js";
import type { Job, Outcome } from "./types.js";

const RUN_LIMIT_MS = 6000;
/** Elements a feed may have: beyond this a mutant is only compiled. */
const FEED_LIMIT = 1 << 20;

const folder = mkdtempSync(join(tmpdir(), "partita-fuzz-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Marks the step that runs now; one short pwrite, so that it is there after a crash. */
function marker(path: string): (text: string) => void {
  const fd = openSync(path, "w");
  return (text) => void writeSync(fd, text.padEnd(200), 0, "latin1");
}

/** Peak resident memory since the last reset, bytes. */
function resetPeak(): void {
  try {
    writeFileSync("/proc/self/clear_refs", "5");
  } catch {
    // Not Linux, or not allowed: the peak is then that of the whole process.
  }
}
function peak(): number {
  try {
    return Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "latin1"))?.[1] ?? 0) * 1024;
  } catch {
    return process.resourceUsage().maxRSS * 1024;
  }
}

/** Of the largest value: where optimizers round half precision otherwise, a few thousandths are nobody's fault. */
const BEYOND_ROUNDING = 2e-2;

/** Peak of the current mutant's part that is Partita's own, once that part is over. */
const own: { peak: number | undefined } = { peak: undefined };

/** The folder a hostile model lies in: what it may name, and what it may not. */
function prepareModelFolder(): string {
  const inside = join(folder, "outer", "model");
  mkdirSync(join(inside, "sub"), { recursive: true });
  const weights = Buffer.alloc(64);
  for (let i = 0; i < 16; i++) weights.writeFloatLE(i / 4, i * 4);
  writeFileSync(join(inside, "inside.bin"), weights);
  writeFileSync(join(folder, "outer", "secret.bin"), Buffer.alloc(1 << 16, 42));
  symlinkSync("../secret.bin", join(inside, "link.bin"));
  symlinkSync("..", join(inside, "linkdir"));
  try {
    execFileSync("mkfifo", [join(inside, "fifo")]);
  } catch {
    // No fifo here; the others remain.
  }
  return inside;
}

function feedable(session: Session): boolean {
  const size = session.inputs.map((p) => (p.dims ?? []).reduce<number>((a, d) => a * (typeof d === "number" ? d : 3), 1));
  return (
    size.every((n) => n <= FEED_LIMIT) && session.inputs.every((p) => p.type !== "sequence" && p.type !== "optional" && p.type !== "map")
  );
}

/** Everything below the temporary folder, for finding files that should not be there. */
function listing(at: string, prefix = ""): string[] {
  return readdirSync(at, { withFileTypes: true }).flatMap((e) =>
    e.isDirectory() ? [`${prefix}${e.name}/`, ...listing(join(at, e.name), `${prefix}${e.name}/`)] : [`${prefix}${e.name}`],
  );
}

async function tryModel(
  bytes: Uint8Array,
  path: string,
  i: number,
  mark: (step: string) => void,
): Promise<Omit<Outcome, "i" | "how" | "base" | "ms" | "peak">> {
  own.peak = undefined;
  let session: Session | undefined;
  let phase = "compile";
  const cpu = process.cpuUsage();
  let ours: Record<string, TensorLike> | undefined;
  let feeds: Record<string, TensorLike> = {};
  let stopped = false;
  try {
    mark("compile");
    writeFileSync(path, bytes);
    const program = await compile(i % 3 === 0 ? path : bytes, { signal: AbortSignal.timeout(RUN_LIMIT_MS) });
    if (i % 5 === 0) {
      mark("report");
      JSON.stringify(program.report.toJSON());
      program.report.toText();
      program.report.toHTML();
    }
    if (i % 16 === 0) {
      mark("save");
      const before = listing(folder);
      await program.save(join(folder, "out.partita"));
      const strange = listing(folder).filter((f) => !before.includes(f) && !f.startsWith("out.partita/"));
      rmSync(join(folder, "out.partita"), { recursive: true, force: true });
      if (strange.length > 0) return { kind: "FAIL", phase: "save", what: `wrote ${strange.join(", ")}` };
    }
    phase = "open";
    mark("open");
    session = await program.createSession({ threads: 1 });
    if (!feedable(session)) return { kind: "compiled, too big or odd to feed", phase, what: "" };
    feeds = randomFeeds(session.inputs, 3, i);
    phase = "run";
    mark("run");
    ours = await session.run(feeds, { signal: AbortSignal.timeout(RUN_LIMIT_MS) });
  } catch (error) {
    if (error instanceof Error && error.name === "TimeoutError") {
      stopped = true;
      const used = process.cpuUsage(cpu);
      // A compile that hardly had the processor says nothing of the compiler.
      if (phase === "compile")
        return used.user + used.system > 3e6
          ? { kind: "FAIL", phase, what: "compile did not stop within its time" }
          : { kind: "compile waited for a busy machine", phase, what: "" };
    } else if (!(error instanceof PartitaError)) {
      return {
        kind: "FAIL",
        phase,
        what: `an error without a code: ${error instanceof Error ? (error.stack ?? error.message).slice(0, 1500) : String(error)}`,
      };
    } else if (error.exit === 70 && error.code !== "P1410") {
      return { kind: "FAIL", phase, what: `an internal error: ${error.message.slice(0, 800)}` };
    } else {
      if (!/^P\d{4} /.test(error.message) || error.fix === "")
        return { kind: "FAIL", phase, what: `an error without a remedy: ${error.message}` };
      // A refused file that ONNX Runtime runs is worth knowing, not a failure.
      if (error.code === "P2002" || process.env["PARTITA_FUZZ_STRICTER"] === undefined)
        return { kind: `${error.code} at ${phase}`, phase, what: error.message.slice(0, 300) };
      mark(`reference after ${error.code}`);
      const theirs = await referenceOf(bytes, path, {}, false);
      return {
        kind: `${error.code} at ${phase}${"error" in theirs ? "" : ", ONNX Runtime loads it"}`,
        phase,
        what: error.message.slice(0, 300),
      };
    }
  } finally {
    if (!stopped) await session?.dispose();
  }
  if (stopped) return { kind: "run stopped by its signal", phase, what: "", recycle: true };
  // What ONNX Runtime takes for the file as it is, in the same process, is not Partita's.
  own.peak = peak();
  mark("reference");
  const theirs = await referenceOf(bytes, path, feeds, true);
  if ("error" in theirs) return { kind: "runs, ONNX Runtime refuses the file", phase: "reference", what: theirs.error.slice(0, 300) };
  const difference = describeDifference(ours ?? {}, theirs.results);
  if (difference === undefined) return { kind: "equal", phase: "reference", what: "" };
  mark("second reference");
  // Optimisation levels of ONNX Runtime that disagree among themselves give no answer to compare with; but where only its optimizers
  // say otherwise, they are wrong, and Partita must not follow them.
  const again = await referenceOf(bytes, path, feeds, true, "all");
  const follows = "results" in again && describeDifference(ours ?? {}, again.results) === undefined;
  if ("results" in again && (follows || describeDifference(again.results, theirs.results) !== undefined)) {
    mark("third reference");
    const plain = await referenceOf(bytes, path, feeds, true, "disabled");
    const wrong = describeDifference(ours ?? {}, theirs.results, BEYOND_ROUNDING);
    if (follows && wrong !== undefined && "results" in plain && describeDifference(plain.results, theirs.results) === undefined)
      return { kind: "FAIL", phase: "reference", what: `a wrong result, which ONNX Runtime's optimizers give too: ${wrong}` };
    return { kind: "ONNX Runtime's levels disagree", phase: "reference", what: difference };
  }
  return { kind: "FAIL", phase: "reference", what: `a wrong result: ${difference}` };
}

async function main(job: Job): Promise<void> {
  const mark = marker(job.marker);
  const modelFolder = prepareModelFolder();
  const path = join(modelFolder, "model.onnx");
  const bases = job.kind === "models" ? [...ownBases(), ...(job.data === undefined ? [] : realBases(job.data))] : [];
  const bundles = job.kind === "bundles" ? await prepareBundles(join(folder, "bundles"), folder) : [];
  const tensorflow = job.kind === "tensorflow" ? await prepareTensorFlow(join(folder, "tensorflow"), job.data) : undefined;
  const send = (o: Outcome | "prepared"): Promise<void> => new Promise((resolve) => process.send?.(o, () => resolve()));
  for (let i = job.from; i < job.to; i += job.step) {
    mark(`${i} prepare`);
    let start = performance.now();
    resetPeak();
    let result: Omit<Outcome, "i" | "ms" | "peak" | "how" | "base">;
    let how: string;
    let base: string;
    if (job.kind === "models") {
      const m = mutantOf(bases, job.seed, i);
      [how, base] = [m.how, m.base.name];
      await send("prepared");
      start = performance.now();
      result = await tryModel(m.bytes, path, i, (step) => mark(`${i} ${step}`));
    } else if (tensorflow !== undefined) {
      const m = tensorflowMutant(tensorflow, generator(seedOf(job.seed, i)));
      [how, base] = [m.how, m.base];
      await send("prepared");
      start = performance.now();
      result = await tryTensorFlow(m, i, (step) => mark(`${i} ${step}`));
    } else {
      const m = bundleMutant(bundles, generator(seedOf(job.seed, i)), join(folder, "mutant.partita"));
      [how, base] = [m.how, m.base];
      await send("prepared");
      start = performance.now();
      result = await tryBundle(m, folder, (step) => mark(`${i} ${step}`));
    }
    const used = own.peak ?? peak();
    await send({ ...result, i, how, base, ms: performance.now() - start, peak: used });
    if (result.recycle === true || statSync(path, { throwIfNoEntry: false }) === null || process.memoryUsage().rss > 700 * 2 ** 20) break;
  }
  mark("done");
  process.disconnect();
  process.exit(0);
}

process.on("message", (job: Job) => void main(job));
// What nobody awaits would be lost otherwise; the parent counts the exit as a crash.
process.on("unhandledRejection", (error) => {
  process.stderr.write(`unhandled: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exit(99);
});
