/** The queue before the engines: order, limits, back-pressure, cancellation, deadlines, the end; and the options of a session and of a run. */
import { channel } from "node:diagnostics_channel";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { QueueEvent } from "../../src/channels.js";
import { compile } from "../../src/compile.js";
import type { PartitaError } from "../../src/diagnostics.js";
import type { Place } from "../../src/engines/engine.js";
import { parse } from "../../src/ir/parse.js";
import { Pace } from "../../src/runtime/pace.js";
import { RunQueue, type Ticket } from "../../src/runtime/queue.js";
import type { SessionOptions } from "../../src/runtime/settings.js";
import { Tensor } from "../../src/tensor.js";

/** A queue whose jobs end when they are told to. */
function gated({ concurrency = 1, maxQueue = 4 } = {}) {
  const begun: Ticket<string, string>[] = [];
  const gates = new Map<string, () => void>();
  const queue = new RunQueue<string, string>({
    concurrency: () => concurrency,
    maxQueue,
    work: async ([ticket]) => {
      if (ticket === undefined) return;
      begun.push(ticket);
      await new Promise<void>((resolve) => gates.set(ticket.job, resolve));
      if (ticket.job.startsWith("bad")) ticket.reject(new Error(ticket.job));
      else ticket.resolve(ticket.job.toUpperCase());
    },
  });
  const end = async (job: string): Promise<void> => {
    gates.get(job)?.();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { queue, begun, end, jobs: () => begun.map((t) => t.job) };
}
const codeOf = async (p: Promise<unknown>): Promise<string | undefined> =>
  await p.then(
    () => undefined,
    (e: unknown) => (e as PartitaError).code,
  );
const messageOf = async (p: Promise<unknown>): Promise<string | undefined> =>
  await p.then(
    () => undefined,
    (e: unknown) => (e as Error).message,
  );

describe("the queue", () => {
  it("starts runs in the order they came, so many at once", async () => {
    const { queue, end, jobs } = gated({ concurrency: 2 });
    const all = ["a", "b", "c", "d"].map((j) => queue.submit(j));
    expect(jobs()).toEqual(["a", "b"]);
    expect(queue.stats).toMatchObject({ queued: 2, running: 2 });
    await end("b");
    expect(jobs()).toEqual(["a", "b", "c"]);
    await end("a");
    await end("c");
    await end("d");
    expect(await Promise.all(all)).toEqual(["A", "B", "C", "D"]);
    expect(queue.stats).toEqual({ queued: 0, running: 0, completed: 4, failed: 0, cancelled: 0, rejected: 0, expired: 0 });
  });
  it("refuses with P3106 what may not wait, and says when there is room again", async () => {
    const { queue, end } = gated({ maxQueue: 1 });
    const [a, b] = [queue.submit("a"), queue.submit("b")];
    expect(await messageOf(queue.submit("c"))).toBe(
      "P3106 1 runs are under way and 1 wait, as many as may: runs come in faster than they are done. Await session.whenReady() before the next run, refuse work upstream, or raise maxQueue.",
    );
    let ready = false;
    const room = queue.whenReady().then(() => {
      ready = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(ready).toBe(false);
    await end("a");
    await room;
    const d = queue.submit("d");
    await end("b");
    await end("d");
    expect(await Promise.all([a, b, d])).toEqual(["A", "B", "D"]);
    expect(queue.stats.rejected).toBe(1);
    await queue.whenReady();
  });
  it("with no room to wait still takes what can start", async () => {
    const { queue, end } = gated({ maxQueue: 0 });
    const a = queue.submit("a");
    expect(await codeOf(queue.submit("b"))).toBe("P3106");
    await end("a");
    expect(await a).toBe("A");
    const b = queue.submit("b");
    await end("b");
    expect(await b).toBe("B");
  });
  it("an error is that run's alone", async () => {
    const { queue, end } = gated();
    const [bad, good] = [messageOf(queue.submit("bad")), queue.submit("good")];
    await end("bad");
    await end("good");
    expect([await bad, await good]).toEqual(["bad", "GOOD"]);
    expect(queue.stats).toMatchObject({ completed: 1, failed: 1 });
  });
});

describe("runs that are held for the calling thread", () => {
  /** A queue that holds runs as places say, one for each that is asked for; what it does, in order. */
  function holding(places: Place[], { maxQueue = 4 } = {}) {
    const seen: string[] = [];
    const queue = new RunQueue<string, string>({
      concurrency: () => 1,
      maxQueue,
      place: () => "engine",
      work: async ([ticket]) => {
        seen.push(`engine ${ticket?.job}`);
        ticket?.resolve(`${ticket.job}'s`);
      },
    });
    const hold = (job: string): Promise<string> | undefined =>
      queue.hold({
        place: (waiting) => {
          seen.push(`${job} of ${waiting}`);
          return places.shift() ?? "here";
        },
        here: () => {
          if (job.startsWith("bad")) throw new Error(job);
          return job.toUpperCase();
        },
        engine: () => queue.submit(job),
      });
    return { queue, hold, seen };
  }
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

  it("go in the next turn, in their order and before those that wait; one that may go on waiting does, and so do those behind it", async () => {
    const { queue, hold, seen } = holding(["here", "later", "engine", "here"]);
    const all = [hold("a"), hold("b"), hold("bad"), queue.submit("q")];
    expect([seen, queue.stats.queued, queue.busy, queue.open]).toEqual([[], 4, true, false]);
    await turn();
    expect(seen).toEqual(["a of 3", "b of 2"]);
    expect(await Promise.allSettled(all)).toMatchObject([{ value: "A" }, { value: "b's" }, { reason: new Error("bad") }, { value: "q's" }]);
    expect(seen.slice(2)).toEqual(["b of 2", "bad of 1", "engine q", "engine b"]);
    expect(queue.stats).toMatchObject({ queued: 0, running: 0, completed: 3, failed: 1 });
    expect([queue.busy, queue.open]).toEqual([false, true]);
  });
  it("are as many as may wait, together with the others; room is told of", async () => {
    const { queue, hold } = holding([], { maxQueue: 2 });
    const held = [hold("a"), hold("b")];
    expect(hold("c")).toBeUndefined();
    const last = queue.submit("d");
    expect(await codeOf(queue.submit("e"))).toBe("P3106");
    await queue.whenReady();
    expect(await Promise.all([...held, last, queue.submit("f")])).toEqual(["A", "B", "d's", "f's"]);
  });
  it("are waited for by the end, which sends them nowhere else", async () => {
    const { queue, hold, seen } = holding(["later", "later", "engine", "here"]);
    const held = [hold("a"), hold("b")];
    const over = queue.close();
    expect(hold("c")).toBeUndefined();
    await over;
    expect(await Promise.all(held)).toEqual(["A", "B"]);
    expect(seen).toEqual(["a of 2", "a of 2", "a of 2", "b of 1"]);
  });
});

describe("cancelled runs", () => {
  const reason = new Error("enough");
  it("that wait never start; that run are answered at once, and their result goes nowhere", async () => {
    const { queue, end, jobs, begun } = gated();
    const [first, second] = [new AbortController(), new AbortController()];
    const a = queue.submit("a", { signal: first.signal }).catch((e: unknown) => e);
    const b = queue.submit("b", { signal: second.signal }).catch((e: unknown) => e);
    const c = queue.submit("c");
    second.abort(reason);
    expect(await b).toBe(reason);
    first.abort(reason);
    expect(await a).toBe(reason);
    // The engine still works on it: nothing else starts yet, and the engine is told.
    expect(jobs()).toEqual(["a"]);
    expect(begun[0]?.signal?.aborted).toBe(true);
    expect(queue.stats).toMatchObject({ queued: 1, running: 1, cancelled: 2 });
    await end("a");
    expect(jobs()).toEqual(["a", "c"]);
    await end("c");
    expect(await c).toBe("C");
    expect(queue.stats).toMatchObject({ queued: 0, running: 0, completed: 1, cancelled: 2 });
  });
  it("are refused when they were cancelled before", async () => {
    const { queue, jobs } = gated();
    expect(await queue.submit("a", { signal: AbortSignal.abort(reason) }).catch((e: unknown) => e)).toBe(reason);
    expect(jobs()).toEqual([]);
  });
  it("leave no listener on their signal", async () => {
    const { queue, end } = gated();
    const { signal } = new AbortController();
    const [added, removed] = [vi.spyOn(signal, "addEventListener"), vi.spyOn(signal, "removeEventListener")];
    const all = [queue.submit("a", { signal }), queue.submit("b", { signal, deadlineMs: 10_000 })];
    await end("a");
    await end("b");
    await Promise.all(all);
    expect(added).toHaveBeenCalledTimes(2);
    expect(removed.mock.calls.map((c) => c[1])).toEqual(added.mock.calls.map((c) => c[1]));
  });
});

describe("deadlines", () => {
  it("refuse what waits and drop what runs, with P3107", async () => {
    const { queue, end, jobs, begun } = gated();
    const a = messageOf(queue.submit("a", { deadlineMs: 20 }));
    const b = messageOf(queue.submit("b", { deadlineMs: 10 }));
    expect(await b).toBe(
      "P3107 there was no result after 10 ms: the run still waited, and was not started. Give it more time (deadlineMs), or send fewer runs at once.",
    );
    expect(await a).toMatch(/^P3107 there was no result after 20 ms: the run was still under way, and its result is dropped/);
    expect(begun[0]?.signal?.aborted).toBe(true);
    await end("a");
    expect(jobs()).toEqual(["a"]);
    expect(queue.stats).toMatchObject({ queued: 0, running: 0, expired: 2, completed: 0 });
  });
  it("do nothing to a run that is in time, and do not keep its signal", async () => {
    const { queue, end } = gated();
    const controller = new AbortController();
    const a = queue.submit("a", { deadlineMs: 5000, signal: controller.signal });
    await end("a");
    expect(await a).toBe("A");
    controller.abort();
    expect(queue.stats).toMatchObject({ completed: 1, cancelled: 0, expired: 0 });
  });
});

describe("the end", () => {
  it("runs what was taken in, refuses what comes after with P3105, and waits for both", async () => {
    const { queue, end } = gated();
    const [a, b] = [queue.submit("a"), queue.submit("b")];
    let over = false;
    const closed = queue.close().then(() => {
      over = true;
    });
    expect(await codeOf(queue.submit("c"))).toBe("P3105");
    await end("a");
    expect(over).toBe(false);
    await end("b");
    await closed;
    expect([await a, await b]).toEqual(["A", "B"]);
    await queue.close();
  });
  it("comes also when the last that waited is cancelled", async () => {
    const { queue, end } = gated();
    const controller = new AbortController();
    const a = queue.submit("a");
    const b = codeOf(queue.submit("b", { signal: controller.signal }));
    const closed = queue.close();
    controller.abort();
    await b;
    await end("a");
    await Promise.all([a, closed]);
  });
});

describe("events", () => {
  const seen: QueueEvent[] = [];
  const listen = (e: unknown): void => void seen.push(e as QueueEvent);
  afterEach(() => {
    channel("partita:queue").unsubscribe(listen);
    seen.length = 0;
  });
  it("tell of every run that is taken in, refused, cancelled or late", async () => {
    channel("partita:queue").subscribe(listen);
    const { queue, end } = gated({ maxQueue: 2 });
    const controller = new AbortController();
    const a = queue.submit("a");
    const b = codeOf(queue.submit("b", { signal: controller.signal }));
    const late = codeOf(queue.submit("late", { deadlineMs: 5 }));
    await codeOf(queue.submit("c"));
    controller.abort();
    await Promise.all([b, late]);
    await end("a");
    await a;
    expect(seen.map((e) => [e.event, e.waiting, e.running])).toEqual([
      ["admit", 0, 1],
      ["reject", 2, 1],
      ["cancel", 1, 1],
      ["deadline", 0, 1],
    ]);
  });
});

describe("how many runs are inside", () => {
  it("as many as engines take of long ones, more of short ones, never more than 32 for each", () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    const pace = new Pace(() => 2);
    const many = (ms: number): number => {
      for (let i = 0; i < 600; i++) {
        pace.started();
        vi.advanceTimersByTime(ms);
        pace.ended();
      }
      return pace.depth;
    };
    expect(many(100)).toBe(2);
    expect(many(0.5)).toBe(8);
    expect(many(0.001)).toBe(64);
    expect(many(10)).toBe(2);
    vi.useRealTimers();
  });
});

describe("options", () => {
  const g = () => parse(`graph "g" opset {"": 18} (%x: float32[N]) -> (%y) { %y = Relu(%x) }`);
  it.each<[SessionOptions | Record<string, unknown>, string]>([
    [{ maxConcurency: 1 }, "P3130 maxConcurency is no option of a session. Did you mean maxConcurrency?"],
    [{ nothing: 1 }, "P3130 nothing is no option of a session. The options are streams, threads, devices, "],
    [{ streams: 0 }, "P3130 streams is 0. Give a whole number from 1 to 1024."],
    [{ threads: 1e6 }, "P3130 threads is 1000000. Give a whole number from 0 to 1024."],
    [{ devices: [] }, "P3130 devices is []. List at least one device, each once."],
    [{ devices: [0, 0] }, "P3130 devices is [0,0]. List at least one device, each once."],
    [{ devices: [-1] }, "P3130 devices is -1. Give a whole number from 0."],
    [{ maxConcurrency: 1.5 }, "P3130 maxConcurrency is 1.5. Give a whole number from 1."],
    [{ maxQueue: -1 }, "P3130 maxQueue is -1. Give a whole number from 0."],
    [{ batching: { maxBatch: 1 } }, "P3130 batching.maxBatch is 1. Give a whole number from 2."],
    [{ batching: { maxBatch: 8, maxDelayMs: -1 } }, "P3130 batching.maxDelayMs is -1. Give a number from 0 to 2147483647."],
    [{ gpuMemoryFraction: 1.1 }, "P3130 gpuMemoryFraction is 1.1. Give a number from just above 0 to 1."],
  ])("%j is refused", async (options, message) => {
    expect(await messageOf((await compile(g(), { target: "host" })).createSession(options as SessionOptions))).toContain(message);
  });
  it("of runs, profiles and streams are as strict", async () => {
    const s = await (await compile(g(), { target: "host" })).createSession({ threads: 1 });
    const feeds = { x: new Tensor("float32", [1]) };
    const run = (options: unknown) => messageOf(s.run(feeds, options as never));
    expect(await run({ output: ["y"] })).toBe("P3130 output is no option of a run. Did you mean outputs?");
    expect(await run({ timeout: 5 })).toBe("P3130 timeout is no option of a run. The options are outputs, signal, transfer, deadlineMs.");
    expect(await run(5)).toBe("P3130 the options of a run are a number. Give an object of options, or leave it out.");
    expect(await run(null)).toMatch(/^P3130 the options of a run are null\./);
    expect((await s.run(feeds, { outputs: ["y"], transfer: false, deadlineMs: 1e6 }))["y"]?.dims).toEqual([1]);
    const profile = (options: unknown) => messageOf((async () => await s.profile(options as never))());
    expect(await profile({ detail: "nods" })).toBe(`P3130 detail is 'nods'. Give "segments" or "nodes".`);
    expect(await profile({ detail: "nodes", run: 3 })).toBe("P3130 run is no option of a profile. Did you mean runs?");
    expect(await profile({ detail: "nodes", runs: 0 })).toBe("P3130 runs is 0. Give a whole number from 1.");
    expect(await profile({ runs: 3 })).toBe(`P3130 runs is of a profile by nodes. Give detail: "nodes" too, or leave it out.`);
    expect(await profile(null)).toMatch(/^P3130 the options of a profile are null\./);
    expect(s.profile({ detail: "segments" })).toEqual(s.profile());
    expect(() => s.stream({ cary: {} } as never)).toThrow("P3130 cary is no option of a stream. Did you mean carry?");
    await s.dispose();
  });
  it("a deadline is a positive number of milliseconds", async () => {
    const s = await (await compile(g(), { target: "host" })).createSession({ threads: 1 });
    for (const deadlineMs of [0, -1, Number.NaN, 2 ** 31])
      expect(await messageOf(s.run({ x: new Tensor("float32", [1]) }, { deadlineMs }))).toMatch(/^P3130 deadlineMs is /);
    await s.dispose();
  });
  it("devices are told to be of no use where nothing runs on one", async () => {
    const remarks: string[] = [];
    const s = await (await compile(g(), { target: "host" })).createSession({ devices: [0, 1], onRemark: (r) => remarks.push(r.text) });
    expect(remarks).toEqual(["the session was given devices, and no segment of the program runs on one"]);
    await s.dispose();
  });
});
