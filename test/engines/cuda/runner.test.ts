/** Who looks after a run on a GPU: the event loop or a thread. The addon is a stand-in whose runs end when the test says so. */
import { performance } from "node:perf_hooks";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Device } from "../../../src/engines/cuda/device.js";
import type { HostCopy } from "../../../src/engines/cuda/native.js";
import { Runner } from "../../../src/engines/cuda/runner.js";

function standIn({ quick = true } = {}) {
  const calls: string[] = [];
  /** Of each run, what ends it; a run that a thread waits for ends with its promise. */
  const ends: ((error?: Error) => void)[] = [];
  const over = new Map<number, Error | undefined>();
  const onThread = (what: string): Promise<void> => {
    calls.push(what);
    return new Promise((resolve, reject) => ends.push((error) => (error === undefined ? resolve() : reject(error))));
  };
  const addon = {
    execute: () => onThread("execute"),
    begin: () => {
      if (!quick) return undefined;
      calls.push("begin");
      const run = calls.length;
      ends.push((error) => over.set(run, error));
      return run;
    },
    ended: (run: number) => {
      const error = over.get(run);
      if (error !== undefined) throw error;
      return over.has(run);
    },
    wait: () => onThread("wait"),
  };
  const device = { addon, underWay: 0 };
  const runner = (): Runner => new Runner(device as unknown as Device, 1 as never);
  return { calls, ends, device, runner };
}
/** Milliseconds. */
let now = 0;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const none: readonly HostCopy[] = [];
const run = (r: Runner): Promise<void> => r.execute(undefined, none, none);

describe("who looks after a run", () => {
  beforeEach(() => {
    vi.spyOn(performance, "now").mockImplementation(() => now);
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });
  it("the event loop, of one that is alone; other work goes on meanwhile", async () => {
    const { calls, ends, device, runner } = standIn();
    const running = run(runner());
    expect([calls, device.underWay]).toEqual([["begin"], 1]);
    for (let i = 0; i < 50; i++) await turn();
    ends[0]?.();
    await running;
    expect([calls, device.underWay]).toEqual([["begin"], 0]);
  });
  it("threads, of those that crowd, on whichever stream", async () => {
    const { calls, ends, runner } = standIn();
    const runs = [run(runner()), run(runner()), run(runner())];
    expect(calls).toEqual(["begin", "execute", "execute"]);
    for (const end of ends) end();
    await Promise.all(runs);
  });
  it("a thread, of one that has something to wait for before it is on the stream", async () => {
    const { calls, ends, device, runner } = standIn({ quick: false });
    const running = run(runner());
    ends[0]?.();
    await running;
    expect([calls, device.underWay]).toEqual([["execute"], 0]);
  });
  it("a thread, of one that turns out to be long, and of the next on its stream until one was short", async () => {
    const { calls, ends, runner } = standIn();
    const r = runner();
    const long = run(r);
    await turn();
    expect(calls).toEqual(["begin"]);
    now += 3;
    await turn();
    expect(calls).toEqual(["begin", "wait"]);
    ends[1]?.();
    await long;
    const next = run(r);
    ends[2]?.();
    await next;
    const third = run(r);
    ends[3]?.();
    await third;
    expect(calls).toEqual(["begin", "wait", "execute", "begin"]);
  });
  it("what fails is told, wherever it does, and the next run is as alone as before", async () => {
    const { calls, ends, device, runner } = standIn();
    const r = runner();
    for (const i of [0, 1]) {
      const failing = run(r);
      ends[i]?.(new Error("an illegal address"));
      await expect(failing).rejects.toThrow("an illegal address");
      expect(device.underWay).toBe(0);
    }
    expect(calls).toEqual(["begin", "begin"]);
    device.addon.begin = () => {
      throw new Error("no context");
    };
    await expect(run(r)).rejects.toThrow("no context");
    expect(device.underWay).toBe(0);
  });
});
