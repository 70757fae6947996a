/** Runs a range of mutants in child processes, replaces those that die or hang, and sums up. */
import { fork, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { transpiled } from "../support/transpile.js";
import type { Job, Outcome } from "./types.js";

export interface FuzzOptions {
  readonly kind: Job["kind"];
  readonly count: number;
  readonly seed: number;
  /** First mutant. Default 0. */
  readonly from?: number | undefined;
  readonly processes: number;
  readonly data?: string | undefined;
  readonly onOutcome?: ((o: Outcome) => void) | undefined;
}
export interface FuzzResult {
  /** How many mutants ended how. */
  readonly counts: ReadonlyMap<string, number>;
  readonly failures: readonly Outcome[];
  readonly slowest: Outcome | undefined;
  readonly hungriest: Outcome | undefined;
  /** Deaths and hangs of ONNX Runtime on the file as it is, with no part of Partita running. */
  readonly referenceDeaths: readonly Outcome[];
  /** Deaths of a process that did not repeat when the mutant at hand was run in one of its own. */
  readonly deaths: readonly Outcome[];
  readonly ms: number;
}

/** No mutant may take longer. */
export const HANG_MS = 10_000;
export const MEMORY_LIMIT = 2 ** 30;

export async function fuzz(options: FuzzOptions): Promise<FuzzResult> {
  const start = performance.now();
  const script = join(transpiled("test/fuzz", "test/support"), "test/fuzz/child.js");
  const folder = mkdtempSync(join(tmpdir(), "partita-fuzz-parent-"));
  const all: Outcome[] = [];
  const deaths: Outcome[] = [];
  try {
    await Promise.all(
      Array.from({ length: options.processes }, (_, p) =>
        lane(
          script,
          options,
          p,
          join(folder, `marker${p}`),
          (o) => {
            all.push(o);
            options.onOutcome?.(o);
          },
          (o) => void deaths.push(o),
        ),
      ),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const counts = new Map<string, number>();
  for (const o of all) counts.set(o.kind, (counts.get(o.kind) ?? 0) + 1);
  const most = (f: (o: Outcome) => number): Outcome | undefined =>
    all.reduce<Outcome | undefined>((a, o) => (a === undefined || f(o) > f(a) ? o : a), undefined);
  return {
    counts: new Map([...counts].sort(([, a], [, b]) => b - a)),
    failures: all.filter((o) => o.kind === "FAIL" || (o.peak > MEMORY_LIMIT && !o.phase.includes("reference"))),
    slowest: most((o) => o.ms),
    hungriest: most((o) => o.peak),
    referenceDeaths: all.filter((o) => o.kind.startsWith("ONNX Runtime alone")),
    deaths,
    ms: performance.now() - start,
  };
}

/** One lane of mutants, in as many processes one after another as it takes. */
async function lane(
  script: string,
  options: FuzzOptions,
  index: number,
  marker: string,
  report: (o: Outcome) => void,
  onDeath: (o: Outcome) => void,
): Promise<void> {
  const end = (options.from ?? 0) + options.count;
  let next = (options.from ?? 0) + index;
  // A process that dies may have been brought down by what earlier mutants left behind in ONNX Runtime's threads: the mutant at hand is run once
  // more in a process of its own, and fails when that one dies too.
  let suspect: number | undefined;
  while (next < end) {
    const from = next;
    let died: Outcome | undefined;
    next = await oneProcess(
      script,
      { kind: options.kind, seed: options.seed, from, to: end, step: options.processes, data: options.data, marker },
      (o) => {
        const death = o.kind === "FAIL" && o.what?.startsWith("the process ended by") === true;
        if (death && suspect !== o.i) died = o;
        else report(o);
      },
    );
    if (died === undefined) continue;
    suspect = died.i;
    next = died.i;
    onDeath(died);
  }
}

/** Processor time of a process so far, all threads; infinite where the system does not say. */
function cpuMs(pid: number | undefined): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ")[1]?.split(" ") ?? [];
    // Ticks of 10 ms: utime and stime, fields 14 and 15 of the whole line.
    return 10 * (Number(fields[11]) + Number(fields[12]));
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

/** Returns the mutant to go on with. */
function oneProcess(script: string, job: Job, report: (o: Outcome) => void): Promise<number> {
  return new Promise((resolve) => {
    const child = fork(script, [], {
      execArgv: ["--max-old-space-size=512"],
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      serialization: "advanced",
    });
    // A mutant that asks for all memory must not take the machine's: address space ends at 16 GB.
    if (process.platform === "linux" && child.pid !== undefined) spawnSync("prlimit", ["--pid", String(child.pid), "--as=16000000000"]);
    let stderr = "";
    child.stderr?.on("data", (d) => {
      stderr = (stderr + String(d)).slice(-4000);
    });
    let next = job.from;
    let hung = false;
    let lastAt = performance.now();
    let lastCpu = 0;
    // The first mutant also waits for the start of the process.
    let limit = HANG_MS + 20_000;
    const watch = setInterval(() => {
      const waited = performance.now() - lastAt;
      // On a busy machine a process may wait without doing anything: one that had little of the processor gets more time, not without end.
      if (hung || waited < limit || (cpuMs(child.pid) - lastCpu < HANG_MS / 2 && waited < 4 * limit)) return;
      hung = true;
      child.kill("SIGKILL");
    }, 200);
    const progress = (): void => {
      lastAt = performance.now();
      lastCpu = cpuMs(child.pid);
      limit = HANG_MS;
    };
    child.on("message", (m: Outcome | "prepared") => {
      if (m !== "prepared") {
        report(m);
        next = m.i + job.step;
      }
      progress();
    });
    child.on("exit", (code, signal) => {
      clearInterval(watch);
      const [at, ...step] = existsSync(job.marker) ? readFileSync(job.marker, "latin1").trim().split(" ") : [];
      const phase = step.join(" ");
      const finished = at === "done" || code === 0;
      if (!finished) {
        const what = hung
          ? `no answer within ${HANG_MS} ms`
          : `the process ended by ${signal ?? `exit code ${code}`}: ${stderr.trim().slice(-1500)}`;
        const reference = phase.includes("reference");
        report({
          i: next,
          kind: reference ? `ONNX Runtime alone ${hung ? "hangs" : "ends the process"}` : "FAIL",
          phase,
          what,
          base: "",
          how: "",
          ms: performance.now() - lastAt,
          peak: 0,
        });
        next += job.step;
      }
      resolve(next);
    });
    child.on("error", () => {});
    child.send(job);
  });
}

/** The result as lines for a person. */
export function summary(r: FuzzResult): string {
  const total = [...r.counts.values()].reduce((a, b) => a + b, 0);
  const lines = [`${total} mutants in ${(r.ms / 1000).toFixed(0)} s`];
  for (const [kind, n] of r.counts) lines.push(`${String(n).padStart(7)}  ${kind}`);
  if (r.slowest !== undefined)
    lines.push(`slowest: mutant ${r.slowest.i}, ${r.slowest.ms.toFixed(0)} ms (${r.slowest.base}; ${r.slowest.how}; ${r.slowest.kind})`);
  if (r.hungriest !== undefined)
    lines.push(
      `most memory: mutant ${r.hungriest.i}, ${(r.hungriest.peak / 2 ** 20).toFixed(0)} MiB (${r.hungriest.base}; ${r.hungriest.how}; ${r.hungriest.kind})`,
    );
  for (const o of r.deaths) lines.push(`a process died near mutant ${o.i}: ${o.what?.slice(0, 300)}`);
  for (const o of r.failures.slice(0, 40))
    lines.push(`FAILED mutant ${o.i} (${o.base}; ${o.how}) at ${o.phase}, ${(o.peak / 2 ** 20).toFixed(0)} MiB: ${o.what}`);
  return lines.join("\n");
}
