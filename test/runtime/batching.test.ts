/** Joined runs: which are joined, that each gets its own rows, what becomes of errors and cancellations, and which graphs allow it at all. */
import { channel } from "node:diagnostics_channel";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { BatchEvent } from "../../src/channels.js";
import { compile, load } from "../../src/compile.js";
import type { PartitaError } from "../../src/diagnostics.js";
import type { Executable } from "../../src/engines/engine.js";
import { parse } from "../../src/ir/parse.js";
import { Lane } from "../../src/runtime/lane.js";
import type { Plan } from "../../src/runtime/ports.js";
import { Session } from "../../src/runtime/session.js";
import { Tensor, type TensorLike } from "../../src/tensor.js";

const scratch = mkdtempSync(join(tmpdir(), "partita-batching-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const port = (name: string, dims: readonly (number | string)[]) => ({ name, type: "float32", dims });
const PLAN: Plan = {
  inputs: [port("x", ["N", "M"]), port("k", ["N"])],
  outputs: [port("y", ["N", "M"]), port("s", ["N"]), port("k", ["N"])],
  steps: [{ segment: "host_0", inputs: ["x", "k"], outputs: ["y", "s"] }],
  direct: { k: { input: "k" } },
  joins: "",
};
/** y = x + 1, s = k times the sum of x's row; fails when a value is negative. */
function adder({ short = false } = {}) {
  const batches: number[] = [];
  const gates: (() => void)[] = [];
  const executable: Executable = {
    async run([x, k]) {
      const [n = 0, m = 0] = x?.dims ?? [];
      batches.push(n);
      await new Promise<void>((resolve) => gates.push(resolve));
      const data = x?.data as Float32Array;
      if (data.some((v) => v < 0)) throw new Error(`negative among ${n}`);
      const sums = Float32Array.from(
        { length: n },
        (_, r) => data.slice(r * m, (r + 1) * m).reduce((a, v) => a + v, 0) * Number(k?.data[r]),
      );
      const y = new Tensor(
        "float32",
        data.map((v) => v + 1),
        [n, m],
      );
      return [y, short && n > 1 ? new Tensor("float32", sums.slice(1), [n - 1]) : new Tensor("float32", sums, [n])];
    },
    async dispose() {},
  };
  /** Lets everything that runs and will run go on. */
  const flow = async (rounds = 12): Promise<void> => {
    for (let i = 0; i < rounds; i++) {
      for (const g of gates.splice(0)) g();
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  return { executable, batches, flow };
}
const feeds = (rows: number, width: number, from: number) => ({
  x: new Tensor(
    "float32",
    Float32Array.from({ length: rows * width }, (_, i) => from + i),
    [rows, width],
  ),
  k: new Tensor(
    "float32",
    Float32Array.from({ length: rows }, (_, i) => i + 1),
    [rows],
  ),
});
const answer = ({ x }: ReturnType<typeof feeds>) => {
  const [n = 0, m = 0] = x.dims;
  return {
    y: [...x.data].map((v) => v + 1),
    s: Array.from({ length: n }, (_, r) => [...x.data].slice(r * m, (r + 1) * m).reduce((a, v) => a + v, 0) * (r + 1)),
  };
};
const listed = (r: Record<string, Tensor>) => Object.fromEntries(Object.entries(r).map(([n, t]) => [n, [...(t.data as Float32Array)]]));

describe("runs that wait", () => {
  it("are joined where their other dims agree, up to maxBatch items, and each gets its own rows", async () => {
    const { executable, batches, flow } = adder();
    const events: BatchEvent[] = [];
    const listen = (e: unknown): void => void events.push(e as BatchEvent);
    channel("partita:batch").subscribe(listen);
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 6 } });
    const all = [feeds(1, 2, 0), feeds(2, 2, 10), feeds(1, 3, 20), feeds(3, 2, 30), feeds(1, 2, 40), feeds(9, 2, 50)];
    const running = all.map((f) => session.run(f));
    await flow();
    const results = await Promise.all(running);
    channel("partita:batch").unsubscribe(listen);
    results.forEach((r, i) => {
      const f = all[i] as ReturnType<typeof feeds>;
      expect(listed(r)).toEqual({ ...answer(f), k: [...f.k.data] });
      // An output that is an input is the caller's own tensor.
      expect(r["k"]).toBe(f.k);
      expect(r["y"]?.dims).toEqual(f.x.dims);
    });
    // A full batch goes first, then what came first; what is larger than a batch goes alone.
    expect(batches).toEqual([6, 1, 1, 9]);
    expect(events).toMatchObject([{ session: session.id, requests: 3, items: 6 }]);
    expect(session.stats()).toMatchObject({ completed: 6, batches: 1, batchedRuns: 3, retriedBatches: 0 });
    await session.dispose();
  });
  it.each([false, true])("are joined in memory that serves the next batch of that size, unless results lie in it: %s", async (inPlace) => {
    const plan: Plan = {
      inputs: [port("x", ["N", 2])],
      outputs: [port("y", ["N", 2])],
      steps: [{ segment: "host_0", inputs: ["x"], outputs: ["y"] }],
      direct: {},
      joins: "",
    };
    const buffers = new Set<unknown>();
    const executable: Executable = {
      async run([x]) {
        const data = x?.data as Float32Array;
        buffers.add(data.buffer);
        return [new Tensor("float32", inPlace ? data : data.slice(), x?.dims)];
      },
      async dispose() {},
    };
    const session = new Session(plan, [new Lane(plan, [executable])], { batching: { maxBatch: 2 } });
    const results: (readonly [number, Tensor | undefined])[] = [];
    for (let i = 0; i < 6; i += 2) {
      const pair = [i, i + 1].map(async (v) => [v, (await session.run({ x: new Tensor("float32", [v, -v], [1, 2]) }))["y"]] as const);
      results.push(...(await Promise.all(pair)));
    }
    for (const [v, y] of results) expect(y?.data).toEqual(Float32Array.of(v, -v));
    expect([session.stats().batches, buffers.size]).toEqual([3, inPlace ? 3 : 1]);
    await session.dispose();
  });
  it("keep the outputs that each asked for, and views of one buffer hold them", async () => {
    const { executable, flow } = adder();
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 8 } });
    const running = [
      session.run(feeds(1, 2, 0), { outputs: ["s"] }),
      session.run(feeds(2, 2, 5), { outputs: ["y"] }),
      session.run(feeds(1, 2, 9)),
    ];
    await flow();
    const [a, b, c] = await Promise.all(running);
    expect([a, b, c].map((r) => Object.keys(r ?? {}))).toEqual([["s"], ["y"], ["y", "s", "k"]]);
    const bufferOf = (r: Record<string, Tensor> = {}): unknown => (r["y"] as Tensor<"float32">).data.buffer;
    expect(bufferOf(b)).toBe(bufferOf(c));
    expect(listed(b ?? {})).toEqual({ y: [6, 7, 8, 9] });
    await session.dispose();
  });
  it("wait for others as long as they may, and no longer when the batch is full", async () => {
    const { executable, batches, flow } = adder();
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 3, maxDelayMs: 30 } });
    const first = session.run(feeds(1, 2, 0));
    await flow(3);
    expect(batches).toEqual([]);
    const others = [session.run(feeds(1, 2, 1)), session.run(feeds(1, 2, 2))];
    await flow(3);
    expect(batches).toEqual([3]);
    await flow();
    await Promise.all([first, ...others]);
    const late = session.run(feeds(1, 2, 3));
    await new Promise((resolve) => setTimeout(resolve, 40));
    expect(batches).toEqual([3, 1]);
    await flow();
    await late;
    await session.dispose();
  });
  it("dispose lets a batch go that still waits for others", async () => {
    const { executable, flow } = adder();
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 8, maxDelayMs: 60_000 } });
    const running = session.run(feeds(1, 2, 0));
    const disposed = session.dispose();
    await flow();
    await disposed;
    expect(listed(await running)["y"]).toEqual([1, 2]);
  });
  it("are shared by engines that are free, where each has processors of its own", async () => {
    const [a, b] = [adder(), adder()];
    const session = new Session(
      PLAN,
      [a, b].map((x) => new Lane(PLAN, [x.executable])),
      { batching: { maxBatch: 8 }, spread: true },
    );
    const running = Array.from({ length: 8 }, (_, i) => session.run(feeds(1, 2, i)));
    for (let i = 0; i < 12; i++) await Promise.all([a.flow(1), b.flow(1)]);
    await Promise.all(running);
    expect([a.batches, b.batches]).toEqual([[4], [4]]);
    await session.dispose();
  });
});

describe("a joined run that fails", () => {
  it("is run again one by one: the error reaches the run whose it is, and no other", async () => {
    const { executable, batches, flow } = adder();
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 8 } });
    const running = [feeds(1, 2, 0), feeds(1, 2, -5), feeds(2, 2, 7)].map((f) => session.run(f).catch((e: Error) => e.message));
    await flow();
    const [a, b, c] = await Promise.all(running);
    expect(b).toBe("negative among 1");
    expect([listed(a as never)["y"], listed(c as never)["y"]]).toEqual([
      [1, 2],
      [8, 9, 10, 11],
    ]);
    expect(batches).toEqual([4, 1, 1, 2]);
    expect(session.stats()).toMatchObject({ completed: 2, failed: 1, batches: 1, retriedBatches: 1 });
    await session.dispose();
  });
  it("so is one whose results are of fewer items than went in", async () => {
    const { executable, batches, flow } = adder({ short: true });
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 8 } });
    const running = [0, 3].map((from) => session.run(feeds(1, 2, from)));
    await flow();
    expect((await Promise.all(running)).map((r) => listed(r)["s"])).toEqual([[1], [7]]);
    expect(batches).toEqual([2, 1, 1]);
    await session.dispose();
  });
  it("a member that is cancelled leaves the others as they are", async () => {
    const { executable, batches, flow } = adder();
    const session = new Session(PLAN, [new Lane(PLAN, [executable])], { batching: { maxBatch: 8 } });
    const [waits, runs] = [new AbortController(), new AbortController()];
    const running = [undefined, waits.signal, runs.signal, undefined].map((signal, i) =>
      session.run(feeds(1, 2, i), { signal }).catch((e: Error) => e.name),
    );
    waits.abort();
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    runs.abort();
    await flow();
    const [a, b, c, d] = await Promise.all(running);
    expect([b, c]).toEqual(["AbortError", "AbortError"]);
    expect([listed(a as never)["y"], listed(d as never)["y"]]).toEqual([
      [1, 2],
      [4, 5],
    ]);
    expect(batches).toEqual([3]);
    await session.dispose();
  });
});

describe("on the host engine", () => {
  it("gives what single runs give, strings, half floats and int64 too, loaded from a bundle", async () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[N, 3], %h: float16[N], %i: int64[N, 2], %t: string[N]) -> (%y, %z, %j, %u) {
      const %w = float32[3, 2] [1.0, -2.0, 3.0, 0.5, 0.25, -1.0]
      %p = MatMul(%x, %w)
      %y = Softmax(%p)
      %z = Neg(%h)
      %j = Neg(%i)
      %u = Identity(%t)
    }`);
    const path = join(scratch, "joined.partita");
    await (await compile(g, { target: "host" })).save(path);
    const program = await load(path);
    const [plain, joined] = [
      await program.createSession({ threads: 1 }),
      await program.createSession({ threads: 1, batching: { maxBatch: 16 } }),
    ];
    const rows = (n: number, seed: number): Record<string, TensorLike> => ({
      x: new Tensor(
        "float32",
        Array.from({ length: 3 * n }, (_, i) => Math.sin(i + seed)),
        [n, 3],
      ),
      h: new Tensor(
        "float16",
        Array.from({ length: n }, (_, i) => 0x3c00 + i),
        [n],
      ),
      i: new Tensor(
        "int64",
        Array.from({ length: 2 * n }, (_, i) => BigInt(i * seed)),
        [n, 2],
      ),
      t: new Tensor("string", Array.from({ length: n }, (_, i) => `${seed}.${i}`) as never, [n]),
    });
    const all = Array.from({ length: 20 }, (_, i) => rows(1 + (i % 4), i));
    const [expected, found] = await Promise.all([plain, joined].map((s) => Promise.all(all.map((f) => s.run(f)))));
    expect(
      found?.map((r) => Object.fromEntries(Object.entries(r).map(([n, t]) => [n, [t.type, [...t.dims], [...(t.data as never)]]]))),
    ).toEqual(
      expected?.map((r) => Object.fromEntries(Object.entries(r).map(([n, t]) => [n, [t.type, [...t.dims], [...(t.data as never)]]]))),
    );
    expect(joined.stats().batches).toBeGreaterThan(0);
    await Promise.all([plain.dispose(), joined.dispose()]);
  });
});

describe("with engines by shape", () => {
  it("joined runs fill buckets, and each gets its own rows", async () => {
    const g = parse(`graph "g" opset {"": 18} (%x: float32[N, 3]) -> (%y) {
      const %w = float32[3, 2] [1.0, -2.0, 3.0, 0.5, 0.25, -1.0]
      %p = MatMul(%x, %w)
      %y = Softmax(%p)
    }`);
    const program = await compile(g, { target: "host", dynamic: { buckets: { N: [4, 8] }, padding: true } });
    const session = await program.createSession({ threads: 1, batching: { maxBatch: 8 }, maxConcurrency: 1 });
    const rows = (n: number, seed: number) => ({
      x: new Tensor(
        "float32",
        Array.from({ length: 3 * n }, (_, i) => Math.sin(i + seed)),
        [n, 3],
      ),
    });
    const all = Array.from({ length: 14 }, (_, i) => rows(1 + (i % 3), i));
    const found = await Promise.all(all.map((f) => session.run(f)));
    const plain = await (await compile(g, { target: "host" })).createSession({ threads: 1 });
    for (const [i, f] of all.entries()) expect(listed(found[i] ?? {})).toEqual(listed(await plain.run(f)));
    const { cache, batches, retriedBatches } = session.stats();
    // The buckets' engines were built beforehand; every batch found one.
    expect(batches).toBeGreaterThan(1);
    expect({ ...cache, hits: cache.hits >= batches, retriedBatches }).toEqual({
      hits: true,
      misses: 0,
      builds: 0,
      evictions: 0,
      fallbacks: 0,
      retriedBatches: 0,
    });
    await Promise.all([session.dispose(), plain.dispose()]);
  });
});

describe("graphs whose runs cannot be joined: P3108", () => {
  const refusal = async (text: string): Promise<string> =>
    await (await compile(parse(text), { target: "host" })).createSession({ batching: { maxBatch: 4 } }).then(
      () => "none",
      (e: PartitaError) => `${e.code} ${e.what}`,
    );
  it.each([
    [`graph "g" opset {"": 18} (%x: float32[4]) -> (%y) { %y = Relu(%x) }`, "input 'x' has 4 for its first dim, not an open one"],
    [`graph "g" opset {"": 18} (%x: float32[]) -> (%y) { %y = Relu(%x) }`, "input 'x' has no dims"],
    [
      `graph "g" opset {"": 18} (%x: float32[N, 2], %k: float32[M, 2]) -> (%y) { %y = Concat(%x, %k) {axis = 0} }`,
      "input 'k' has 'M' for its first dim, input 'x' has 'N'",
    ],
    [`graph "g" opset {"": 18} (%x: float32[N, N]) -> (%y) { %y = Relu(%x) }`, "input 'x' has 'N' in another dim as well"],
    [
      `graph "g" opset {"": 18} (%x: float32[N, M]) -> (%y) { %y = Transpose(%x) {perm = [1, 0]} }`,
      "output 'y' has 'M' for its first dim, input 'x' has 'N'",
    ],
    [
      `graph "g" opset {"": 18} (%x: float32[N, 2]) -> (%y) { %y = Softmax(%x) {axis = 0} @"mix" }`,
      "node 'mix' (Softmax): Softmax works along the dim",
    ],
    [
      `graph "g" opset {"": 18} (%x: float32[N, 2]) -> (%y) { const %i = int64[] [0]\n %f = Gather(%x, %i) @"first"\n %y = Sub(%x, %f) }`,
      "node 'first' (Gather): Gather picks places of the dim",
    ],
    [
      `graph "g" opset {"": 18} (%x: float32[N, 2]) -> (%y) { const %a = int64[1] [0]\n %m = ReduceMean(%x, %a) @"mean"\n %y = Sub(%x, %m) }`,
      "node 'mean' (ReduceMean): ReduceMean reduces over the dim",
    ],
  ])("%s", async (text, what) => {
    expect(await refusal(text)).toBe(`P3108 ${what}`);
  });
  it("says so in full", async () => {
    const program = await compile(parse(`graph "g" opset {"": 18} (%x: float32[4]) -> (%y) { %y = Relu(%x) }`), { target: "host" });
    const error = await program.createSession({ batching: { maxBatch: 4 } }).catch((e: PartitaError) => e);
    expect((error as PartitaError).message).toMatch(
      /^P3108 .*: runs are joined along dim 0 of all inputs .*whose places nothing mixes\. Leave batching out, or compile the graph with such a first dim/,
    );
  });
});
