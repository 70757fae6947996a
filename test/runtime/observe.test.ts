/** What can be seen of a running program: events on the channels, profiles, traces, NVTX ranges. */
import { spawnSync } from "node:child_process";
import { channel, tracingChannel } from "node:diagnostics_channel";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import type { BatchEvent, QueueEvent, RunEvent, SegmentEvent } from "../../src/channels.js";
import { compile } from "../../src/compile.js";
import { openPlan } from "../../src/engines/cuda/executable.js";
import type { Artifact, Engine, Executable } from "../../src/engines/engine.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";
import { defineOperator } from "../../src/ops/javascript.js";
import { nvtxRanges } from "../../src/runtime/nvtx.js";
import { profileText } from "../../src/runtime/profile.js";
import { Program } from "../../src/runtime/program.js";
import type { Session } from "../../src/runtime/session.js";
import { record, type Trace, type TraceEvent } from "../../src/runtime/trace.js";
import { Tensor } from "../../src/tensor.js";
import { affinePlan, affineWeights } from "../engines/cuda/plans.js";
import { craftCubin, useFakeDriver } from "../support/fake-cuda.js";

const noDriver = useFakeDriver();
const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "partita-observe-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const CONV = `graph "net" opset {"": 18} (%x: float32[N, 3, 16, 16]) -> (%y) {
  const %w = float32[16, 3, 3, 3] [${Array.from({ length: 432 }, (_, i) => (((i * 31) % 19) / 19 - 0.5).toFixed(3)).join(", ")}]
  const %v = float32[16, 16, 3, 3] [${Array.from({ length: 2304 }, (_, i) => (((i * 29) % 23) / 230 - 0.05).toFixed(4)).join(", ")}]
  %a = Conv(%x, %w) {pads = [1, 1, 1, 1]} @"stem/conv"
  %b = Relu(%a) @"stem/relu"
  %c = Conv(%b, %v) {pads = [1, 1, 1, 1]} @"block/conv"
  %d = Add(%c, %b) @"block/add"
  %e = Relu(%d) @"block/relu"
  %y = GlobalAveragePool(%e) @"pool"
}`;
const x = (n: number): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: n * 768 }, (_, i) => (i % 13) / 13),
    [n, 3, 16, 16],
  );

const open: Session[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((s) => s.dispose()));
});
async function session(options: Parameters<Program["createSession"]>[0] = {}): Promise<Session> {
  const made = await (await compile(encodeOnnx(parse(CONV)), { target: "host" })).createSession(options);
  open.push(made);
  return made;
}

/** Slices of every track, in the file's order, must nest; times must not go back. */
function checkTrace(trace: Trace): readonly TraceEvent[] {
  const read = JSON.parse(JSON.stringify(trace)) as Trace;
  let last = 0;
  const stacks = new Map<number, number[]>();
  for (const e of read.traceEvents) {
    expect(["X", "i", "M"]).toContain(e.ph);
    expect(Number.isInteger(e.pid) && Number.isInteger(e.tid) && Number.isFinite(e.ts) && e.ts >= 0).toBe(true);
    if (e.ph === "M") continue;
    expect(e.ts).toBeGreaterThanOrEqual(last);
    last = e.ts;
    if (e.ph === "i") {
      expect(e.s).toBe("t");
      continue;
    }
    const end = e.ts + (e.dur ?? Number.NaN);
    expect(end).toBeGreaterThanOrEqual(e.ts);
    const stack = stacks.get(e.tid) ?? [];
    stacks.set(e.tid, stack);
    while (stack.length > 0 && (stack.at(-1) as number) <= e.ts + 1e-3) stack.pop();
    if (stack.length > 0) expect(end).toBeLessThanOrEqual((stack.at(-1) as number) + 1e-3);
    stack.push(end);
  }
  const named = new Set(read.traceEvents.filter((e) => e.name === "thread_name").map((e) => e.tid));
  expect(read.traceEvents.filter((e) => e.ph !== "M").every((e) => named.has(e.tid))).toBe(true);
  return read.traceEvents;
}

describe("channels", () => {
  it("tell of runs, segments, batches and the queue, and of failures", async () => {
    const s = await session({ batching: { maxBatch: 4, maxDelayMs: 5 } });
    const seen: string[] = [];
    const runs: RunEvent[] = [];
    const segments: SegmentEvent[] = [];
    const batches: BatchEvent[] = [];
    const queue: QueueEvent[] = [];
    const nothing = () => {};
    const onRun = {
      start: (e: RunEvent) => {
        runs.push(e);
        seen.push("run");
      },
      end: nothing,
      asyncStart: nothing,
      asyncEnd: () => void seen.push("run over"),
      error: () => void seen.push("failed"),
    };
    const onSegment = {
      start: (e: SegmentEvent) => {
        segments.push(e);
        seen.push("segment");
      },
      end: nothing,
      asyncStart: nothing,
      asyncEnd: () => void seen.push("segment over"),
      error: nothing,
    };
    const onBatch = (e: unknown) => void batches.push(e as BatchEvent);
    const onQueue = (e: unknown) => void queue.push(e as QueueEvent);
    tracingChannel<RunEvent, RunEvent>("partita:run").subscribe(onRun);
    tracingChannel<SegmentEvent, SegmentEvent>("partita:segment").subscribe(onSegment);
    channel("partita:batch").subscribe(onBatch);
    channel("partita:queue").subscribe(onQueue);
    try {
      await Promise.all([s.run({ x: x(1) }), s.run({ x: x(2) })]);
      const stop = new AbortController();
      const cancelled = s.run({ x: x(1) }, { signal: stop.signal });
      stop.abort(new Error("enough"));
      await expect(cancelled).rejects.toThrow("enough");
    } finally {
      tracingChannel<RunEvent, RunEvent>("partita:run").unsubscribe(onRun);
      tracingChannel<SegmentEvent, SegmentEvent>("partita:segment").unsubscribe(onSegment);
      channel("partita:batch").unsubscribe(onBatch);
      channel("partita:queue").unsubscribe(onQueue);
    }
    expect(runs.map((r) => [r.session, r.inputs, r.batch])).toEqual([
      [s.id, { x: [1, 3, 16, 16] }, 1],
      [s.id, { x: [2, 3, 16, 16] }, 2],
      [s.id, { x: [1, 3, 16, 16] }, 1],
    ]);
    expect(batches).toMatchObject([{ session: s.id, requests: 2, items: 3, runs: [runs[0]?.run, runs[1]?.run] }]);
    expect(segments[0]).toMatchObject({ run: batches[0]?.batch, session: s.id, engine: "host" });
    expect(seen).toContain("failed");
    expect(queue.filter((q) => q.event === "admit").map((q) => q.run)).toEqual(expect.arrayContaining([runs[0]?.run, runs[1]?.run]));
    expect(queue.find((q) => q.event === "cancel")?.run).toBe(runs[2]?.run);
  });
});

describe("profile", () => {
  it("by node of ONNX Runtime, as nodes of the user's; times add up", async () => {
    const s = await session();
    await s.run({ x: x(1) });
    expect(s.profile()).toMatchObject([{ runs: 1 }]);
    const p = await s.profile({ detail: "nodes", feeds: { x: x(2) }, runs: 5 });
    expect(p).toMatchObject({ schema: "partita.profile/1", runs: 5, segments: [{ engine: "host" }] });
    const [host] = p.segments;
    if (host === undefined) throw new Error("no segment");
    expect(p.us).toBeCloseTo(host.us, 6);
    const sum = host.layers.reduce((n, l) => n + (l.us ?? 0), 0);
    expect(sum + host.betweenUs).toBeCloseTo(host.computeUs, 6);
    expect(host.computeUs + host.otherUs).toBeCloseTo(host.us, 6);
    expect(host.betweenUs).toBeGreaterThanOrEqual(0);
    // ONNX Runtime fuses and renames; every node of the model is behind one of its own, each once.
    expect(host.layers.flatMap((l) => l.origin).sort()).toEqual([
      "block/add",
      "block/conv",
      "block/relu",
      "pool",
      "stem/conv",
      "stem/relu",
    ]);
    const stem = host.layers.find((l) => l.origin.includes("stem/conv"));
    expect(stem?.origin).toContain("stem/relu");
    expect(stem?.op).toMatch(/Conv/);
    expect(profileText(p, 2)).toMatch(
      /^one run: .* us, the mean of 5\n.*host_0 \(host\)\n.*\n.*\n.*more layers\n.*between layers\n.*copies, waiting, threads$/,
    );
  });
  it("of segments without an inside: JavaScript operators", async () => {
    const twice = defineOperator({
      domain: "my",
      name: "Twice",
      infer: ([t]) => [t ?? { type: "float32" }],
      run: ([t]) => [
        new Tensor(
          "float32",
          Float32Array.from(t?.data as Float32Array, (v) => 2 * v),
          t?.dims ?? [],
        ),
      ],
    });
    const model = encodeOnnx(
      parse(`graph "g" opset {"": 18, "my": 1} (%x: float32[4]) -> (%y) {
  %a = Tanh(%x) @"before"
  %b: float32[4] = "my"."Twice"(%a) @"twice"
  %y = Tanh(%b) @"after"
}`),
    );
    const made = await (await compile(model, { target: "host", operators: [twice] })).createSession();
    open.push(made);
    const p = await made.profile({ detail: "nodes", runs: 2 });
    expect(p.segments.map((s) => s.layers.flatMap((l) => l.origin))).toEqual([["before"], [], ["after"]]);
    expect(p.segments[1]?.computeUs).toBe(p.segments[1]?.us);
  });
});

describe("trace", () => {
  it("holds runs that overlap on tracks of their own, their queueing, their segments", async () => {
    const s = await session({ maxConcurrency: 1 });
    const other = await session();
    const recording = s.trace();
    await Promise.all([s.run({ x: x(1) }), s.run({ x: x(2) }), s.run({ x: x(1) }), other.run({ x: x(1) })]);
    const stop = new AbortController();
    const cancelled = s.run({ x: x(1) }, { signal: stop.signal });
    stop.abort();
    await cancelled.catch(() => undefined);
    const trace = recording.stop();
    expect(recording.stop()).toBe(trace);
    await s.run({ x: x(1) });
    const events = checkTrace(trace);
    const runs = events.filter((e) => e.cat === "runs" && e.name.startsWith("run "));
    expect(runs.map((r) => r.args?.["inputs"])).toHaveLength(4);
    expect(new Set(runs.slice(0, 3).map((r) => r.tid)).size).toBe(3);
    expect(runs.at(-1)?.args?.["error"]).toMatch(/abort/i);
    // The second and third waited for the first.
    expect(events.filter((e) => e.name === "queue" && (e.dur ?? 0) > 0).length).toBeGreaterThanOrEqual(2);
    const segments = events.filter((e) => e.cat === "host_0 (host)" && e.name === "host_0");
    expect(segments.slice(0, 3).map((e) => e.args?.["run"])).toEqual(runs.slice(0, 3).map((r) => r.args?.["run"]));
    expect(trace).toMatchObject({ displayTimeUnit: "ms", otherData: { schema: "partita.trace/1", dropped: 0 } });
  });
  it("holds what the engine cache did", () => {
    const recording = record();
    const event = { segment: "cuda_0", key: "k", dims: { x: [1] } };
    channel("partita:cache").publish({ ...event, event: "miss" });
    channel("partita:cache").publish({ ...event, event: "built", ms: 5 });
    const events = checkTrace(recording.stop());
    expect(events.filter((e) => e.cat === "engine cache").map((e) => [e.name, e.ph])).toEqual(
      expect.arrayContaining([
        ["miss cuda_0", "i"],
        ["built cuda_0", "X"],
      ]),
    );
  });

  it.skipIf(noDriver !== undefined)(
    `holds transfers and layers of the CUDA engine${noDriver === undefined ? "" : ` (skipped: ${noDriver})`}`,
    async () => {
      const N = 1000;
      const plan = {
        inputs: [{ name: "x", type: "float32", dims: [N] }],
        outputs: [{ name: "y", type: "float32", dims: [N] }],
        steps: [{ segment: "cuda_0", inputs: ["x"], outputs: ["y"] }],
        direct: {},
      };
      const engine = {
        name: "cuda",
        open: async (): Promise<Executable> => await openPlan(affinePlan(N), [craftCubin()], affineWeights(N)),
      } as unknown as Engine;
      const artifact = { engine: "cuda", key: "", inputs: ["x"], outputs: ["y"], files: [] } as Artifact;
      const { report } = await compile(encodeOnnx(parse(CONV)), { target: "host" });
      const s = await new Program({ plan, artifacts: [artifact], engines: () => engine, report }).createSession();
      open.push(s);
      const feeds = { x: new Tensor("float32", new Float32Array(N).fill(3), [N]) };
      const untraced = await s.run(feeds);
      const recording = s.trace();
      const traced = await s.run(feeds);
      const events = checkTrace(recording.stop());
      expect(traced["y"]?.data).toEqual(untraced["y"]?.data);
      const track = events.filter((e) => e.cat === "cuda_0 (cuda 0)").map((e) => e.name);
      expect(track.slice(0, 4)).toEqual(["cuda_0", "wait", "copy in", "compute"]);
      expect(track.at(-1)).toBe("copy out");
      expect(track.length).toBeGreaterThan(6);
      const p = await s.profile({ detail: "nodes", feeds, runs: 2 });
      const [cuda] = p.segments;
      expect(cuda?.layers.length).toBeGreaterThan(1);
      expect(cuda?.layers.every((l) => (l.us ?? -1) >= 0)).toBe(true);
      expect((cuda?.layers.reduce((n, l) => n + (l.us ?? 0), 0) ?? 0) + (cuda?.betweenUs ?? 0)).toBeCloseTo(cuda?.computeUs ?? 0, 6);
    },
  );
});

const profiler = join(folder, "profiler.so");
const told = join(folder, "ranges.txt");
const compiled = spawnSync("cc", ["-shared", "-fPIC", "-o", profiler, join(here, "../support/fake-nvtx.c")]);
describe.skipIf(compiled.status !== 0)(`NVTX${compiled.status === 0 ? "" : " (skipped: no C compiler)"}`, () => {
  it("hands runs and segments to the profiler that NVTX_INJECTION64_PATH names", async () => {
    process.env["NVTX_INJECTION64_PATH"] = profiler;
    process.env["FAKE_NVTX"] = told;
    // From the first session on, without being asked: a profiler has started the process.
    const s = await session();
    await s.run({ x: x(1) });
    const lines = readFileSync(told, "utf8").trim().split("\n");
    expect(lines.map((l) => l.trimEnd())).toEqual([
      expect.stringMatching(/^start 1 partita run \d+$/),
      "start 2 partita host_0 (host)",
      "end 2",
      "end 1",
    ]);
    const ranges = nvtxRanges();
    if (!("stop" in ranges)) throw new Error(ranges.missing);
    expect(ranges.way).toBe(profiler);
    ranges.stop();
  });
});
