/** Runs that are shorter than the way to another thread: they stay on the calling thread, and nothing else about them is different. */
import { channel } from "node:diagnostics_channel";
import { performance } from "node:perf_hooks";
import { setImmediate as turn } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { afterEach, describe, expect, it, vi } from "vitest";
import { type QueueEvent, type SegmentEvent, segmentChannel } from "../../src/channels.js";
import { compile } from "../../src/compile.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { learn, Paces } from "../../src/engines/host/paces.js";
import { parse } from "../../src/ir/parse.js";
import type { Feeds } from "../../src/runtime/ports.js";
import type { Session } from "../../src/runtime/session.js";
import type { SessionOptions } from "../../src/runtime/settings.js";
import { Tensor, type TensorDType } from "../../src/tensor.js";

const open: Session[] = [];
const sent = vi.spyOn(Worker.prototype, "postMessage");
afterEach(async () => {
  await Promise.all(open.splice(0).map((s) => s.dispose()));
});
const messages = (): number => sent.mock.calls.length;

/** A session whose runs on such feeds have come to this thread. */
async function warm(text: string, feeds: Feeds, options: SessionOptions = {}): Promise<Session> {
  const s = await (await compile(parse(text), { target: "host" })).createSession({ threads: 1, ...options });
  open.push(s);
  // The first runs are measured elsewhere; a machine that is busy may need a few.
  for (let i = 0; i < 200; i++) {
    const before = messages();
    await s.run(feeds);
    if (messages() === before) return s;
    await turn();
  }
  throw new Error("runs never came to this thread");
}
const ADD = `graph "g" opset {"": 18} (%x: float32[N]) -> (%y) { %y = Add(%x, %x) }`;
const x = (...values: number[]): Feeds => ({ x: new Tensor("float32", values, [values.length]) });

describe("short runs", () => {
  it("send nothing to other threads, and each result has memory of its own", async () => {
    const s = await warm(ADD, x(1, 2));
    const fed = new Tensor("float32", [3, 4], [2]);
    const feeds = { x: fed };
    let results: Float32Array[] = [];
    let before = { sent: -1, completed: 0, runs: 0 };
    // A run that the machine interrupts is measured as a long one, and a few go elsewhere then.
    for (let tries = 0; tries < 50 && before.sent !== messages(); tries++) {
      before = { sent: messages(), completed: s.stats().completed, runs: s.profile()[0]?.runs ?? 0 };
      results = [];
      for (let i = 0; i < 20; i++) results.push((await s.run(feeds))["y"]?.data as Float32Array);
    }
    expect(messages()).toBe(before.sent);
    fed.data.fill(0);
    results[0]?.fill(9);
    for (const r of results.slice(1)) expect(r).toEqual(Float32Array.of(6, 8));
    expect(new Set(results.map((r) => r.buffer)).size).toBe(20);
    expect(s.stats()).toMatchObject({ completed: before.completed + 20, queued: 0, running: 0 });
    expect(s.profile()).toMatchObject([{ runs: before.runs + 20 }]);
  });

  it.each<[TensorDType, readonly (number | bigint)[]]>([
    ["float64", [1.5, -0, 1e300]],
    ["float16", [0x3c00, 0x8000, 0x7bff]],
    ["bfloat16", [0x3f80, 0x8000, 0x7f7f]],
    ["int8", [-128, 0, 127]],
    ["int64", [-(2n ** 63n), 0n, 2n ** 63n - 1n]],
    ["uint8", [0, 1, 255]],
    ["bool", [0, 1, 1]],
  ])("%s goes through unchanged", async (type, values) => {
    const t = new Tensor(type as "float32", values as number[], [3]);
    const s = await warm(`graph "g" opset {"": 18} (%x: ${type}[N]) -> (%y) { %y = Concat(%x, %x) {axis = 0} }`, { x: t });
    const { y } = await s.run({ x: t });
    expect([y?.type, y?.dims, y?.data.constructor]).toEqual([type, [6], t.data.constructor]);
    expect(Array.from(y?.data as ArrayLike<unknown>, String)).toEqual([...t.data, ...t.data].map(String));
  });

  it("take inputs and give outputs by name, shared memory too, in whatever order they are fed", async () => {
    const text = `graph "g" opset {"": 18} (%a: float32[N], %b: float32[N]) -> (%sum, %less) { %less = Sub(%a, %b)\n %sum = Add(%a, %b) }`;
    const shared = new Float32Array(new SharedArrayBuffer(8));
    shared.set([1, 2]);
    const feeds = { b: { type: "float32", data: shared, dims: [2] }, a: new Tensor("float32", [5, 5], [2]) };
    const s = await warm(text, feeds);
    const { sum, less } = await s.run(feeds);
    expect([sum?.data, less?.data]).toEqual([Float32Array.of(6, 7), Float32Array.of(4, 3)]);
    expect(Object.keys(await s.run(feeds, { outputs: ["less"] }))).toEqual(["less"]);
    await expect(s.run({ a: feeds.a })).rejects.toMatchObject({ code: "P3102" });
    await expect(s.run({ ...feeds, c: feeds.a })).rejects.toMatchObject({ code: "P3103" });
    await expect(s.run({ ...feeds, a: new Tensor("float32", [5], [1]) })).rejects.toMatchObject({ code: "P3104" });
  });

  it("fail with P2002, and the next is right", async () => {
    const text = `graph "g" opset {"": 18} (%x: float32[5], %i: int64[N]) -> (%y) { %y = Gather(%x, %i) }`;
    const feeds = (i: bigint): Feeds => ({ x: new Tensor("float32", [0, 1, 2, 3, 4], [5]), i: new Tensor("int64", [i], [1]) });
    const s = await warm(text, feeds(1n));
    const before = messages();
    await expect(s.run(feeds(17n))).rejects.toMatchObject({ code: "P2002" });
    expect((await s.run(feeds(3n)))["y"]?.data).toEqual(Float32Array.of(3));
    expect(messages()).toBe(before);
    expect(s.stats().failed).toBe(1);
  });

  it("can be called off until they start, and keep deadlines", async () => {
    const s = await warm(ADD, x(1));
    const stop = new AbortController();
    const run = s.run(x(1), { signal: stop.signal });
    stop.abort(new Error("not any more"));
    await expect(run).rejects.toThrow("not any more");
    expect(s.stats()).toMatchObject({ cancelled: 1, queued: 0, running: 0 });
    expect((await s.run(x(2), { deadlineMs: 10_000, signal: new AbortController().signal }))["y"]?.data).toEqual(Float32Array.of(4));
  });

  it("leave the event loop its turns, however many callers there are", async () => {
    const s = await warm(ADD, x(1));
    let turns = 0;
    let over = false;
    const end = performance.now() + 200;
    const count = (): void => {
      turns++;
      if (!over) setImmediate(count);
    };
    setImmediate(count);
    let wrong = 0;
    await Promise.all(
      Array.from({ length: 64 }, async (_, caller) => {
        while (performance.now() < end) if ((await s.run(x(caller)))["y"]?.data[0] !== 2 * caller) wrong++;
      }),
    );
    over = true;
    expect(wrong).toBe(0);
    // Where the loop never turns there is none, and on a busy machine there are few.
    expect(turns).toBeGreaterThan(2);
  });

  it.each([true, false])(
    "that wait for the next turn, with a signal: %s, are bounded in number, and waited for by dispose",
    async (signals) => {
      const s = await warm(ADD, x(1), { maxQueue: 1000 });
      // A signal takes a run through the queue.
      const signal = (): AbortSignal | undefined => (signals ? new AbortController().signal : undefined);
      const all = Array.from({ length: 2500 }, (_, i) =>
        s.run(x(i), { signal: signal() }).then(
          (r) => r["y"]?.data[0],
          (e: { code: string }) => e.code,
        ),
      );
      const disposed = s.dispose();
      await expect(s.run(x(1))).rejects.toMatchObject({ code: "P3105" });
      const answers = await Promise.all(all);
      await disposed;
      const refused = answers.filter((a) => a === "P3106").length;
      expect(refused).toBeGreaterThan(0);
      expect(answers.slice(0, 2500 - refused)).toEqual(Array.from({ length: 2500 - refused }, (_, i) => 2 * i));
    },
  );

  it("tell whoever listens of the same as others", async () => {
    const s = await warm(ADD, x(1));
    const seen: string[] = [];
    const onQueue = (e: unknown): void => void seen.push((e as QueueEvent).event);
    const onSegment = { start: (e: SegmentEvent) => void seen.push(`${e.segment} starts`), asyncEnd: () => void seen.push("ends") };
    const ignored = { end: () => undefined, asyncStart: () => undefined, error: () => undefined };
    channel("partita:queue").subscribe(onQueue);
    segmentChannel.subscribe({ ...ignored, ...onSegment });
    const recording = s.trace();
    await s.run(x(1));
    expect(seen).toEqual(["admit", "host_0 starts", "ends"]);
    expect(
      recording
        .stop()
        .traceEvents.filter((e) => e.ph === "X")
        .map((e) => e.name),
    ).toEqual(expect.arrayContaining(["host_0"]));
    channel("partita:queue").unsubscribe(onQueue);
  });
});

describe("which runs are short", () => {
  const settings = async (text: string) =>
    (await hostEngine.build(parse(text), { target: { sm: 0, tensorrt: 0, precision: "fp32" } })).settings;
  it("those alone whose work follows from the dims of their inputs", async () => {
    expect(await settings(ADD)).toHaveProperty("byDims");
    const byValue = [
      `graph "g" opset {"": 18} (%x: float32[N]) -> (%y) { %y = NonZero(%x) }`,
      `graph "g" opset {"": 18} (%x: float32[1], %n: int64[1]) -> (%y) { %y = Expand(%x, %n) }`,
      `graph "g" opset {"": 18} (%x: float32[2], %n: int64) -> (%y) {
        %go = Constant() {value_ints = [1]}
        %c = Cast(%go) {to = 9}
        %s = Squeeze(%c)
        %y = Loop(%n, %s, %x) { body = graph "b" (%i: int64, %c: bool, %s: float32[2]) -> (%c, %t) { %t = Tanh(%s) } }
      }`,
    ];
    for (const text of byValue) expect(await settings(text)).not.toHaveProperty("byDims");
  });
  it("paces go by dims; what is faster is believed at once, what is slower when it lasts", () => {
    const paces = new Paces();
    const [a, b] = [paces.of([new Tensor("float32", [1, 2], [1, 2])]), paces.of([new Tensor("float32", [1, 2], [2, 1])])];
    expect(a).not.toBe(b);
    expect(paces.of([new Tensor("int64", [1n, 2n], [1, 2])])).toBe(a);
    learn(a, 1);
    learn(a, 0.01);
    expect(a.ms).toBe(0.01);
    learn(a, 50);
    expect(a.ms).toBeLessThan(0.012);
    for (let i = 0; i < 200; i++) learn(a, 50);
    expect(a.ms).toBeGreaterThan(49);
  });
});
