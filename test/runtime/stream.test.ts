/** Streams of runs with a state: on the host with dims that grow, on the device without a copy to the host; lanes on several devices, and their memory. */
import { beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import type { PartitaError } from "../../src/diagnostics.js";
import { openDevice } from "../../src/engines/cuda/device.js";
import { openPlan } from "../../src/engines/cuda/executable.js";
import { native } from "../../src/engines/cuda/native.js";
import { type Artifact, defineEngine, type Engine, type Executable } from "../../src/engines/engine.js";
import { parse } from "../../src/ir/parse.js";
import type { Plan } from "../../src/runtime/ports.js";
import { Program } from "../../src/runtime/program.js";
import type { Session } from "../../src/runtime/session.js";
import { Tensor } from "../../src/tensor.js";
import { affinePlan } from "../engines/cuda/plans.js";
import { craftCubin, useFakeDriver } from "../support/fake-cuda.js";

const messageOf = async (p: Promise<unknown>): Promise<string> =>
  await p.then(
    () => "none",
    (e: Error) => e.message,
  );
const floats = (t: Tensor | undefined): number[] => [...((t?.data ?? []) as Float32Array)];

describe("a decoder with a cache that grows", () => {
  /** One head of attention over all that came: past and present differ in length. */
  const DECODER = `graph "g" opset {"": 18} (%ids: int64[B, S], %past_k: float32[B, P, 4], %past_v: float32[B, P, 4]) -> (%logits, %k, %v) {
    const %table = float32[5, 4] [0.1, -0.4, 0.9, 0.2, -0.7, 0.3, 0.5, 1.1, 0.8, -0.2, -0.6, 0.4, -0.3, 0.7, 0.1, -0.9, 0.6, 0.2, -0.5, 0.3]
    const %out = float32[4, 5] [0.5, -0.1, 0.7, 0.2, -0.6, 0.3, 0.8, -0.4, 0.1, 0.9, -0.2, 0.6, 0.4, -0.7, 0.1, 0.2, -0.3, 0.5, 0.8, -0.5]
    %x = Gather(%table, %ids)
    %k = Concat(%past_k, %x) {axis = 1}
    %n = Neg(%x)
    %v = Concat(%past_v, %n) {axis = 1}
    %kt = Transpose(%k) {perm = [0, 2, 1]}
    %s = MatMul(%x, %kt)
    %p = Softmax(%s) {axis = -1}
    %m = MatMul(%p, %v)
    %logits = MatMul(%m, %out)
  }`;
  const carry = { past_k: "k", past_v: "v" };
  let session: Session;
  beforeAll(async () => {
    session = await (await compile(parse(DECODER), { target: "host" })).createSession({ threads: 1 });
    return () => session.dispose();
  });
  const ids = (...tokens: number[]) => ({ ids: new Tensor("int64", tokens.map(BigInt), [1, tokens.length]) });
  const best = (logits: Tensor | undefined): number => {
    const last = floats(logits).slice(-5);
    return last.indexOf(Math.max(...last));
  };

  it("generates what whole runs generate, from an empty cache", async () => {
    const stream = session.stream({ carry });
    const [tokens, whole] = [[2], [2]];
    for (let i = 0; i < 12; i++) {
      const result = await stream.run(ids(tokens.at(-1) as number));
      expect(Object.keys(result)).toEqual(["logits"]);
      tokens.push(best(result["logits"]));
      // The same without a stream: the cache goes in and out.
      const empty = new Tensor("float32", [], [1, 0, 4]);
      let state: Record<string, Tensor> = { k: empty, v: empty };
      for (const t of whole) state = await session.run({ ...ids(t), past_k: state["k"] as Tensor, past_v: state["v"] as Tensor });
      whole.push(best(state["logits"]));
    }
    expect(tokens).toEqual(whole);
    expect(new Set(tokens).size).toBeGreaterThan(1);
    expect((await stream.state())["past_k"]?.dims).toEqual([1, 12, 4]);
    await stream.dispose();
    expect(await messageOf(stream.run(ids(1)))).toMatch(/^P3105/);
  });
  it("runs that are asked for at once go one after the other", async () => {
    const [a, b] = [session.stream({ carry }), session.stream({ carry })];
    const tokens = [1, 4, 0, 3, 2];
    const together = await Promise.all(tokens.map((t) => a.run(ids(t))));
    for (const [i, t] of tokens.entries()) expect(floats(together[i]?.["logits"])).toEqual(floats((await b.run(ids(t)))["logits"]));
    await Promise.all([a.dispose(), b.dispose()]);
  });
  it("a run that fails or is cancelled leaves the state as it was", async () => {
    const stream = session.stream({ carry });
    await stream.run(ids(1));
    const before = await stream.state();
    expect(await messageOf(stream.run(ids(17)))).toMatch(/^P2002/);
    expect(await messageOf(stream.run(ids(1), { signal: AbortSignal.abort(new Error("no more")) }))).toBe("no more");
    const controller = new AbortController();
    const running = messageOf(stream.run(ids(1), { signal: controller.signal }));
    setImmediate(() => controller.abort(new Error("enough")));
    expect(["enough", "none"]).toContain(await running);
    expect(await messageOf(stream.run({}))).toMatch(/^P3102 .*input 'ids' is missing/);
    if ((await running) === "enough") expect(await stream.state()).toEqual(before);
    await stream.dispose();
  });
  it("starts from the state it is given, takes another in a run, and gives carried outputs where asked", async () => {
    const state = { past_k: new Tensor("float32", [1, 2, 3, 4], [1, 1, 4]), past_v: new Tensor("float32", [4, 3, 2, 1], [1, 1, 4]) };
    const stream = session.stream({ carry, initial: state });
    const expected = await session.run({ ...ids(3), ...state });
    const found = await stream.run(ids(3), { outputs: ["k", "logits"] });
    expect(Object.fromEntries(Object.entries(found).map(([n, t]) => [n, floats(t)]))).toEqual({
      k: floats(expected["k"]),
      logits: floats(expected["logits"]),
    });
    expect(floats((await stream.run({ ...ids(3), ...state }))["logits"])).toEqual(floats(expected["logits"]));
    await stream.dispose();
  });
  it.each([
    [{ carry: {} }, /^P3130 carry names nothing/],
    [undefined as never, /^P3130 carry names nothing/],
    [{ carry: { past: "k" } }, /^P3103 .*did you mean|^P3103/i],
    [{ carry: { past_k: "z" } }, /^P3103/],
    [{ carry: { ids: "k" } }, /^P3130 carry makes 'k', which is float32\[B, P \+ S, 4\], the input 'ids', which is int64\[B, S\]/],
    [{ carry, initial: { ids: new Tensor("float32", [1], [1, 1]) } }, /^P3130 initial has 'ids', which is not carried/],
  ])("%j is refused", (options, message) => {
    expect(() => session.stream(options)).toThrow(message);
  });
  it("takes no option of a run that it has not", async () => {
    const stream = session.stream({ carry });
    expect(await messageOf(stream.run(ids(1), { transfer: true } as never))).toBe(
      "P3130 transfer is no option of a stream's run. The options are outputs, signal, deadlineMs.",
    );
    await stream.dispose();
  });
  it("ends with its session", async () => {
    const own = await (await compile(parse(DECODER), { target: "host" })).createSession({ threads: 1 });
    const stream = own.stream({ carry });
    const last = stream.run(ids(1));
    await own.dispose();
    expect((await last)["logits"]?.dims).toEqual([1, 1, 5]);
    expect(await messageOf(stream.run(ids(1)))).toMatch(/^P3105/);
    expect(() => own.stream({ carry })).toThrow(/^P3105/);
  });
});

const N = 12;
const missing = useFakeDriver({ memory: 1 << 20, devices: 2 });
describe.skipIf(missing !== undefined)(`on devices${missing === undefined ? "" : ` (skipped: ${missing})`}`, () => {
  const weights = new Uint8Array(256 + N * 4);
  new Float32Array(weights.buffer, 256).set(Array.from({ length: N }, (_, i) => i));
  const port = (name: string) => ({ name, type: "float32", dims: [N] });
  /** y = (a + i) * 2, twice. */
  const PLAN: Plan = {
    inputs: [port("a")],
    outputs: [port("y"), port("m")],
    steps: [
      { segment: "cuda_0", inputs: ["a"], outputs: ["m"] },
      { segment: "cuda_1", inputs: ["m"], outputs: ["y"] },
    ],
    direct: {},
  };
  const step = (x: readonly number[]): number[] => x.map((v, i) => (v + i) * 2);
  const log: string[] = [];
  let gate: Promise<void> | undefined;
  const engine: Engine = defineEngine({
    name: "cuda",
    available: async () => ({ ok: true }) as const,
    build: () => Promise.reject(new Error("nothing to build")),
    memory: () => ({ sharedBytes: 1000, streamBytes: 50_000 }),
    async open(artifact, { device = 0, streams }): Promise<Executable> {
      const e = await openPlan(affinePlan(N), [craftCubin()], weights, { device, streams });
      return {
        run: async (...all) => {
          log.push(`${artifact.key} on ${device} by way of the host`);
          await gate;
          return await e.run(...all);
        },
        runResident: async (inputs, keep, options) => {
          log.push(
            `${artifact.key} on ${device}, ${inputs.map((t) => ("memory" in t ? `there on ${t.device}` : "fed"))}, ${keep.map((k) => (k ? "kept" : "fetched"))}`,
          );
          return (await e.runResident?.(inputs, keep, options)) ?? [];
        },
        dispose: () => e.dispose(),
      };
    },
  });
  const artifact = (key: string): Artifact => ({ engine: "cuda", key, inputs: [], outputs: [], files: [] });
  const program = new Program({
    plan: PLAN,
    artifacts: [artifact("first"), artifact("second")],
    engines: () => engine,
    report: {} as never,
  });
  const a = new Tensor(
    "float32",
    Array.from({ length: N }, (_, i) => i / 2),
    [N],
  );

  // Contexts stay open for the life of the process.
  beforeAll(() => {
    for (const device of [0, 1]) openDevice(device);
  });

  it("a stream's state stays there, and only what is asked for crosses", async () => {
    const { addon } = native();
    const start = addon.live();
    const session = await program.createSession();
    const stream = session.stream({ carry: { a: "y" }, initial: { a } });
    log.length = 0;
    let expected = floats(a);
    for (let i = 0; i < 6; i++) {
      const { m } = await stream.run({});
      expect(floats(m)).toEqual(step(expected));
      expected = step(step(expected));
    }
    expect(log.slice(0, 2)).toEqual(["first on 0 by way of the host", "second on 0, fed, kept"]);
    expect(new Set(log.slice(2))).toEqual(new Set(["first on 0, there on 0, fetched", "second on 0, fed, kept"]));
    expect(floats((await stream.state())["a"])).toEqual(expected);
    expect(floats((await stream.run({}, { outputs: ["y"] }))["y"])).toEqual(step(step(expected)));
    await session.dispose();
    expect(addon.live()).toEqual(start);
  });
  it("a tensor that the caller put there is the caller's: streams begin with it, and leave it as it is", async () => {
    const { addon } = native();
    const start = addon.live();
    const session = await program.createSession();
    const there = await session.upload(a);
    for (let i = 0; i < 2; i++) {
      const stream = session.stream({ carry: { a: "y" }, initial: { a: there } });
      await stream.run({});
      await stream.run({});
      await stream.run({ a: there });
      expect(floats((await stream.state())["a"])).toEqual(step(step(floats(a))));
      await stream.dispose();
      expect(there.released).toBe(false);
    }
    expect(floats(await there.fetch())).toEqual(floats(a));
    await session.dispose();
    expect(addon.live()).toEqual(start);
  });
  it("a run that waits for others is given up at once, its deadline counting from the call", async () => {
    const session = await program.createSession();
    const stream = session.stream({ carry: { a: "y" }, initial: { a } });
    let open = (): void => {};
    gate = new Promise((resolve) => {
      open = resolve;
    });
    log.length = 0;
    const first = stream.run({});
    const controller = new AbortController();
    const [cancelled, late] = [messageOf(stream.run({}, { signal: controller.signal })), messageOf(stream.run({}, { deadlineMs: 20 }))];
    const last = stream.run({}, { deadlineMs: 60_000, signal: controller.signal });
    const ended = messageOf(last);
    controller.abort(new Error("enough"));
    expect(await cancelled).toBe("enough");
    expect(await late).toMatch(/^P3107 there was no result after 20 ms: the run still waited, and was not started/);
    expect(await ended).toBe("enough");
    open();
    gate = undefined;
    await first;
    expect(floats((await stream.state())["a"])).toEqual(step(step(floats(a))));
    expect(log.filter((line) => line.startsWith("first"))).toHaveLength(1);
    await session.dispose();
  });
  it("a cancelled run gives back what it held", async () => {
    const { addon } = native();
    const start = addon.live();
    const session = await program.createSession();
    const stream = session.stream({ carry: { a: "y" }, initial: { a } });
    for (let i = 0; i < 20; i++) {
      const controller = new AbortController();
      const running = messageOf(stream.run({}, { signal: controller.signal }));
      if (i % 2 === 0) setImmediate(() => controller.abort(new Error("enough")));
      await running;
    }
    await session.dispose();
    expect(addon.live()).toEqual(start);
  });
  it("runs go to the least busy, streams to the one with fewest, and tensors never change over", async () => {
    const session = await program.createSession({ devices: [0, 1] });
    log.length = 0;
    let open = (): void => {};
    gate = new Promise((resolve) => {
      open = resolve;
    });
    const running = Array.from({ length: 4 }, () => session.run({ a }));
    await new Promise((resolve) => setImmediate(resolve));
    open();
    gate = undefined;
    for (const { y } of await Promise.all(running)) expect(floats(y)).toEqual(step(step(floats(a))));
    expect(log.slice(0, 2).sort()).toEqual(["first on 0 by way of the host", "first on 1 by way of the host"]);
    const streams = Array.from({ length: 4 }, () => session.stream({ carry: { a: "y" }, initial: { a } }));
    log.length = 0;
    for (let i = 0; i < 3; i++) await Promise.all(streams.map((s) => s.run({})));
    const used = log.map((l) => /on (\d)/.exec(l)?.[1]);
    expect(used.filter((d) => d === "0").length).toBe(used.filter((d) => d === "1").length);
    for (const line of log) if (line.includes("there")) expect(line).toMatch(/on (\d), there on \1/);
    await session.dispose();
  });
  it("a device that is not there is refused, and what was opened is closed again", async () => {
    const { addon } = native();
    const start = addon.live();
    expect(await messageOf(program.createSession({ devices: [0, 7] }))).toMatch(/^P2103 .*GPU 7 was asked for, the driver shows 2/);
    expect(addon.live()).toEqual(start);
  });
  it("a session that needs more memory than it may take does not open: P3109, before anything is taken", async () => {
    const { addon } = native();
    const start = addon.live();
    const error = (await program.createSession({ streams: 4, gpuMemoryFraction: 0.25 }).catch((e: unknown) => e)) as PartitaError;
    expect(error).toMatchObject({ code: "P3109", exit: 3 });
    expect(error.message).toBe(
      "P3109 it needs 0.383 MiB of GPU 0, and may take 0.250 MiB: gpuMemoryFraction 0.25 of 1 MiB. Open fewer streams, compile for smaller shapes, or raise gpuMemoryFraction.",
    );
    expect(addon.live()).toEqual(start);
    await (await program.createSession({ streams: 1, gpuMemoryFraction: 0.25 })).dispose();
  });
});
