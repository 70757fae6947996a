/** Sessions: segments in order and at once, outputs that no segment makes, failures in between, release, engines that are not here. */
import { describe, expect, it, vi } from "vitest";
import { compile, report } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import type { Executable } from "../../src/engines/engine.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { parse } from "../../src/ir/parse.js";
import { inferGraph } from "../../src/ops/infer.js";
import { extractSegment } from "../../src/partition/extract.js";
import { Lane } from "../../src/runtime/lane.js";
import { planOf } from "../../src/runtime/plan.js";
import type { Plan } from "../../src/runtime/ports.js";
import { Session } from "../../src/runtime/session.js";
import { Tensor } from "../../src/tensor.js";
import { segmented } from "../support/segments.js";

const port = (name: string) => ({ name, type: "float32", dims: ["N"] });
const DIAMOND: Plan = {
  inputs: [port("x")],
  outputs: [port("y"), port("x"), port("k")],
  steps: [
    { segment: "host_0", inputs: ["x"], outputs: ["a"] },
    { segment: "cuda_1", inputs: ["a"], outputs: ["b"] },
    { segment: "cuda_2", inputs: ["a"], outputs: ["c"] },
    { segment: "host_3", inputs: ["b", "c"], outputs: ["y"] },
  ],
  direct: { x: { input: "x" }, k: { constant: new Tensor("float32", [7], [1]) } },
};
const x = new Tensor("float32", [1, 2], [2]);

/** Segments that note when they begin and end, and add up what they are given. */
function recorded(failing?: number) {
  const log: string[] = [];
  const gates: (() => void)[] = [];
  const executables: Executable[] = DIAMOND.steps.map((step, i) => ({
    async run(inputs) {
      log.push(`begin ${step.segment}`);
      await new Promise<void>((resolve) => gates.push(resolve));
      log.push(`end ${step.segment}`);
      if (i === failing) throw new Error(`${step.segment} failed`);
      const sum = Float32Array.from({ length: 2 }, (_, k) => inputs.reduce((a, t) => a + Number(t.data[k]), i));
      return [new Tensor("float32", sum, [2])];
    },
    async dispose() {
      log.push(`dispose ${step.segment}`);
    },
  }));
  const open = async (): Promise<void> => {
    for (const g of gates.splice(0)) g();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { session: new Session(DIAMOND, [new Lane(DIAMOND, executables)]), log, open };
}

describe("a plan of several segments", () => {
  it("runs independent segments at once and waits for what a segment reads", async () => {
    const { session, log, open } = recorded();
    const running = session.run({ x });
    await open();
    expect(log).toEqual(["begin host_0"]);
    await open();
    expect(log).toEqual(["begin host_0", "end host_0", "begin cuda_1", "begin cuda_2"]);
    await open();
    expect(log.slice(4)).toEqual(["end cuda_1", "end cuda_2", "begin host_3"]);
    await open();
    const { y, x: same, k } = await running;
    // ((x + 0) + 1) + ((x + 0) + 2) + 3
    expect(y?.data).toEqual(Float32Array.of(8, 10));
    expect([same?.data, k?.data]).toEqual([x.data, Float32Array.of(7)]);
    expect(session.profile().map((p) => [p.segment, p.runs])).toEqual(DIAMOND.steps.map((s) => [s.segment, 1]));
    await session.dispose();
    expect(log.slice(-4)).toEqual(DIAMOND.steps.map((s) => `dispose ${s.segment}`));
  });
  it("fails with the segment's own error, starts nothing that reads it, and can run again", async () => {
    const { session, log, open } = recorded(1);
    const running = session.run({ x }).catch((e: unknown) => e);
    for (let i = 0; i < 4; i++) await open();
    expect(await running).toMatchObject({ message: "cuda_1 failed" });
    expect(log).not.toContain("begin host_3");
    expect(log).toContain("end cuda_2");
    await session.dispose();
  });
  it("is not taken apart by dispose while it runs", async () => {
    const { session, log, open } = recorded();
    const running = session.run({ x });
    const disposed = session.dispose();
    for (let i = 0; i < 5; i++) await open();
    await running;
    await disposed;
    expect(log.indexOf("end host_3")).toBeLessThan(log.indexOf("dispose host_0"));
  });
  it("gives only the outputs asked for", async () => {
    const { session, open } = recorded();
    const running = session.run({ x }, { outputs: ["k"] });
    for (let i = 0; i < 5; i++) await open();
    expect(Object.keys(await running)).toEqual(["k"]);
  });
});

describe("segments on the host engine", () => {
  it("two branches and their join give what one segment gives", async () => {
    const g = inferGraph(
      parse(`graph "g" opset {"": 18} (%x: float32[N]) -> (%y, %a) {
        %a = Relu(%x) @"a"
        %b = Exp(%a) @"b"
        %c = Neg(%a) @"c"
        %y = Add(%b, %c) @"y"
      }`),
    ).graph;
    const segments = segmented(g, [["a"], ["b"], ["c"], ["y"]]);
    const executables = await Promise.all(
      segments.map(async (s) =>
        hostEngine.open(await hostEngine.build(extractSegment(g, s), { target: { sm: 0, tensorrt: 0, precision: "fp32" } }), {
          streams: 1,
          threads: 1,
        }),
      ),
    );
    const plan = planOf(g, segments);
    const parts = new Session(plan, [new Lane(plan, executables)]);
    const whole = await (await compile(g)).createSession({ threads: 1 });
    const [ours, theirs] = [await parts.run({ x }), await whole.run({ x })];
    expect(ours["y"]?.data).toEqual(theirs["y"]?.data);
    expect(ours["a"]?.data).toEqual(Float32Array.of(1, 2));
    await Promise.all([parts.dispose(), whole.dispose()]);
  });
});

describe("names of tensors", () => {
  it("a TensorFlow name without its port is port 0", async () => {
    const s = await (
      await compile(parse(`graph "g" opset {"": 18} (%"in:0": float32[N]) -> (%"out:0") { %"out:0" = Relu(%"in:0") }`))
    ).createSession({ threads: 1 });
    expect(Object.keys(await s.run({ in: x }))).toEqual(["out:0"]);
    expect(Object.keys(await s.run({ "in:0": x }, { outputs: ["out"] }))).toEqual(["out:0"]);
    await s.dispose();
  });
  it("an input that nothing reads is still asked for and checked", async () => {
    const s = await (
      await compile(parse(`graph "g" opset {"": 18} (%x: float32[N], %unused: int64[2]) -> (%y) { %y = Relu(%x) }`))
    ).createSession({ threads: 1 });
    await expect(s.run({ x })).rejects.toMatchObject({ code: "P3102" });
    expect(Object.keys(await s.run({ x, unused: new Tensor("int64", [1n, 2n], [2]) }))).toEqual(["y"]);
    await s.dispose();
  });
});

describe("feeds that are none", () => {
  it("are refused with a code: nothing, and dims that no tensor has", async () => {
    const s = await (
      await compile(parse(`graph "g" opset {"": 18} (%x: float32[N, M]) -> (%y) { %y = Relu(%x) }`), { target: "host" })
    ).createSession({ threads: 1 });
    for (const nothing of [undefined, null, 5]) await expect(s.run(nothing as never)).rejects.toMatchObject({ code: "P3102" });
    // Their product is the number of elements all the same.
    for (const dims of [
      [-2, -3],
      [1.5, 4],
      [Number.NaN, 6],
    ])
      await expect(s.run({ x: { type: "float32", data: new Float32Array(6), dims } })).rejects.toMatchObject({ code: "P3104" });
    await s.dispose();
  });
});

describe("engines that are not here", () => {
  const g = () => parse(`graph "g" opset {"": 18} (%x: float32[4]) -> (%y) { %a = Exp(%x)\n %b = Neg(%a)\n %y = Tanh(%b) }`);
  it("TensorRT is planned, and refused when it is to be built: P2201, exit code 3", async () => {
    expect((await report(g(), { target: "tensorrt" })).data.segments.map((s) => s.engine)).toContain("tensorrt");
    vi.stubEnv("PARTITA_TENSORRT_DIR", import.meta.dirname);
    const error = await compile(g(), { target: "tensorrt" }).catch((e: unknown) => e);
    vi.unstubAllEnvs();
    expect(error).toBeInstanceOf(PartitaError);
    expect(error).toMatchObject({ code: "P2201", exit: 3 });
  });
});
