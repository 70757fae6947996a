/** Copies of a model on the host: those that were asked for, and, where nobody says, one for a caller alone and more once runs overlap. */
import { availableParallelism } from "node:os";
import { afterEach, describe, expect, it, vi } from "vitest";
import { compile } from "../../src/compile.js";
import type { Remark } from "../../src/diagnostics.js";
import { HostWorker } from "../../src/engines/host/pool.js";
import { parse } from "../../src/ir/parse.js";
import type { Feeds } from "../../src/runtime/ports.js";
import type { Session } from "../../src/runtime/session.js";
import type { SessionOptions } from "../../src/runtime/settings.js";
import { Tensor } from "../../src/tensor.js";

const cores = availableParallelism();
const open: Session[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  await Promise.all(open.splice(0).map((s) => s.dispose()));
});
/** x·x·x·... : long enough for another thread to be worth its while, and too long for the calling one. */
const POWERS = `graph "g" opset {"": 18} (%x: float32[N, 96, 96]) -> (%y) {
  %a = MatMul(%x, %x)
  %b = MatMul(%a, %x)
  %c = MatMul(%b, %x)
  %y = MatMul(%c, %x)
}`;
const N = 8;
/** A permutation to its fifth power: of length 5, it is 1 again. */
function feeds(shift: number): Feeds {
  const data = new Float32Array(N * 96 * 96);
  for (let n = 0; n < N; n++) for (let i = 0; i < 96; i++) data[(n * 96 + i) * 96 + ((i + shift) % 96)] = 1;
  return { x: new Tensor("float32", data, [N, 96, 96]) };
}
const right = (shift: number, y: Tensor | undefined): boolean => y?.data[(5 * shift) % 96] === 1;

async function session(options: SessionOptions = {}): Promise<Session> {
  const s = await (await compile(parse(POWERS), { target: "host" })).createSession(options);
  open.push(s);
  return s;
}
const threads = (s: Session): readonly number[] => s.stats().host["host_0"]?.threads ?? [];
/** Whether all results of so many rounds of 32 runs at once are right; ends once there are copies. */
async function crowd(s: Session, rounds: number): Promise<boolean> {
  for (let round = 0; round < rounds && threads(s).length === 1; round++) {
    const all = await Promise.all(Array.from({ length: 32 }, (_, i) => s.run(feeds(i))));
    if (!all.every(({ y }, i) => right(i, y))) return false;
  }
  return true;
}

describe("copies of a model", () => {
  it.each<[SessionOptions, readonly number[]]>([
    [{}, [cores]],
    [{ threads: 1 }, [1]],
    [{ streams: 2 }, [cores, cores]],
    [{ streams: 3, threads: 2 }, [2, 2, 2]],
  ])("with %j: threads %j", async (options, expected) => {
    const s = await session(options);
    expect(threads(s)).toEqual(expected);
    expect(right(3, (await s.run(feeds(3)))["y"])).toBe(true);
  });

  it("stay one for a caller alone, however many its runs", async () => {
    const s = await session();
    for (let i = 0; i < 40; i++) expect(right(i, (await s.run(feeds(i)))["y"])).toBe(true);
    expect(s.stats().host).toEqual({ host_0: { threads: [cores], callingThread: false } });
  });

  it("stay as many as were asked for when runs overlap", async () => {
    const s = await session({ threads: 1 });
    expect(await crowd(s, 3)).toBe(true);
    expect(threads(s)).toEqual([1]);
  });

  it.skipIf(cores < 2)("become one more for each core when runs overlap, and each gets its own result before and after", async () => {
    const s = await session();
    expect(await crowd(s, 100)).toBe(true);
    expect(threads(s)).toEqual([cores, ...Array.from({ length: cores }, () => 1)]);
    const all = await Promise.all(Array.from({ length: 64 }, (_, i) => s.run(feeds(i))));
    expect(all.every(({ y }, i) => right(i, y))).toBe(true);
  });

  it.skipIf(cores < 2)("joined runs that overlap add them too", async () => {
    const s = await session({ batching: { maxBatch: 4 * N } });
    expect(await crowd(s, 100)).toBe(true);
    expect(threads(s).length).toBe(1 + cores);
    expect(s.stats().retriedBatches).toBe(0);
  });

  it.skipIf(cores < 2)("that cannot be loaded are told of, and runs go on", async () => {
    const remarks: Remark[] = [];
    const s = await session({ onRemark: (r) => void remarks.push(r) });
    const call = HostWorker.prototype.call;
    vi.spyOn(HostWorker.prototype, "call").mockImplementation(function (this: HostWorker, message, options) {
      return message["op"] === "create" ? Promise.reject(new Error("no memory left")) : call.call(this, message, options);
    } as typeof call);
    expect(await crowd(s, 4)).toBe(true);
    expect(threads(s)).toEqual([cores]);
    expect(remarks.map((r) => r.text)).toEqual(["runs at once share one copy of the model, as more could not be loaded: no memory left"]);
  });
});
