import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PartitaError } from "../../../src/diagnostics.js";
import { checkPlan } from "../../../src/engines/cuda/check.js";
import { packParameters, parameterBytes, parameterLayout } from "../../../src/engines/cuda/parameters.js";
import type { Arg, KernelPlan, TensorMap } from "../../../src/engines/cuda/plan.js";
import { affinePlan, launchOf } from "./plans.js";

const plan = affinePlan(1000);
const buffer = (index: number, offset = 0): Arg => ({ kind: "buffer", buffer: index, offset });
const oneLaunch = (change: object): KernelPlan => affinePlan(1000, { operations: [launchOf({ kernel: "add", ...change })] });
const tile: TensorMap = {
  mode: "tiled",
  dtype: "float32",
  dims: [32, 8],
  strides: [128],
  box: [32, 8],
  elementStrides: [1, 1],
  swizzle: 128,
};
const withMap = (change: Partial<TensorMap>, offset = 0): KernelPlan =>
  oneLaunch({ args: [{ kind: "tensorMap", buffer: 2, offset, map: { ...tile, ...change } }] });
const ports = (change: object): KernelPlan => affinePlan(1000, { outputs: [{ ...plan.outputs[0], ...change }] as never });
const buffers = (at: number, change: object): KernelPlan =>
  affinePlan(1000, { buffers: plan.buffers.map((b, i) => (i === at ? { ...b, ...change } : b)) });

describe("plan check", () => {
  it("takes sound plans as they are, also through JSON", () => {
    expect(checkPlan(plan)).toEqual(plan);
    expect(checkPlan(JSON.parse(JSON.stringify(plan)))).toEqual(plan);
    checkPlan(withMap({}));
    checkPlan(oneLaunch({ cluster: [2, 1, 1], grid: [4, 1, 1] }));
    checkPlan({ ...plan, inputs: [], outputs: [], operations: [] });
    checkPlan(ports({ dims: [] }));
    checkPlan(ports({ dims: [0, 2 ** 53 - 1, 2 ** 53 - 1] }));
    checkPlan(ports({ buffer: 1 }));
  });
  it.each<[string, unknown]>([
    ["P2108 the kernel plan is not sound: Invalid type: Expected Object but received 7. Compile the model again.", 7],
    ['\'schema\': Invalid type: Expected "partita.cuda/1" but received "partita.cuda/2"', { ...plan, schema: "partita.cuda/2" }],
    ["'extra': Invalid key", { ...plan, extra: 1 }],
    ["'operations.0.kind'", { ...plan, operations: [{ kind: "free" }] }],
    ["'operations.0.launch.args.0.value'", oneLaunch({ args: [{ kind: "i32", value: 2 ** 31 }] })],
    ["'arenaBytes'", { ...plan, arenaBytes: -1 }],
    ["'outputs.0.dims.0'", ports({ dims: [1.5] })],
    ["'outputs.0.dtype': is no element type", ports({ dtype: "float33" })],
    ["'sm_90;rm' is no architecture", { ...plan, arch: "sm_90;rm" }],
    ["its arena have 562949953421312 bytes", { ...plan, arenaBytes: 2 ** 49 }],
    ["buffer 1 begins at 8, which is no multiple of 256", buffers(1, { offset: 8 })],
    ["buffer 1 ends at 4512, outside the weights of 4256 bytes", buffers(1, { offset: 512 })],
    ["buffer 2 ends at 4513, outside the arena of 4512 bytes", buffers(2, { bytes: 4001 })],
    ["buffer 3 is an output and begins at 256, not at 0", buffers(3, { offset: 256 })],
    ["buffer 0 has 562949953421312 bytes", buffers(0, { bytes: 2 ** 49 })],
    ["output 'y': there is no buffer 4", ports({ buffer: 4 })],
    ["output 'y': [1001] of float32 does not fit the 4000 bytes of buffer 3", ports({ dims: [1001] })],
    ["output 'y': [9007199254740991, 9007199254740991] of float32 does not fit", ports({ dims: [2 ** 53 - 1, 2 ** 53 - 1] })],
    ["output 'y': the host has no tensors of complex64", ports({ dtype: "complex64" })],
    ["output 'y': the host has no tensors of string", ports({ dtype: "string", dims: [1] })],
    ["output 'y': the name is given twice", { ...plan, outputs: [...plan.outputs, ...plan.outputs] }],
    ["input 'a': buffer 1 is weights, not input", { ...plan, inputs: [{ ...plan.inputs[0], buffer: 1 }] }],
    ["input 'b': buffer 0 has two inputs", { ...plan, inputs: [...plan.inputs, { ...plan.inputs[0], name: "b" }] }],
    ["'add<int>' is no name of a kernel", { ...plan, sources: [{ kernels: ["add<int>"], source: "" }] }],
    ["two sources have a kernel 'add'", { ...plan, sources: [...plan.sources, { kernels: ["add"], source: "" }] }],
    ["operation 0: it clears weights", { ...plan, operations: [{ kind: "clear", buffer: 1, offset: 0, bytes: 4 }] }],
    ["operation 0: it clears bytes outside buffer 2", { ...plan, operations: [{ kind: "clear", buffer: 2, offset: 4, bytes: 4000 }] }],
    ["operation 0 (sub): no source has that kernel", oneLaunch({ kernel: "sub" })],
    ["operation 0 (add): grid [0, 1, 1] is outside", oneLaunch({ grid: [0, 1, 1] })],
    ["operation 0 (add): grid [1, 65536, 1] is outside", oneLaunch({ grid: [1, 65536, 1] })],
    ["operation 0 (add): block [32, 64, 1] is outside", oneLaunch({ block: [32, 64, 1] })],
    ["operation 0 (add): block [1, 1, 65] is outside", oneLaunch({ block: [1, 1, 65] })],
    ["operation 0 (add): 232449 bytes of shared memory", oneLaunch({ shared: 232449 })],
    ["operation 0 (add): cluster [4, 4, 1] has 16 blocks, not 1 to 8", oneLaunch({ cluster: [4, 4, 1], grid: [4, 4, 1] })],
    ["operation 0 (add): cluster [0, 1, 1] has 0 blocks", oneLaunch({ cluster: [0, 1, 1] })],
    ["operation 0 (add): grid [3, 1, 1] is no multiple of cluster [2, 1, 1]", oneLaunch({ cluster: [2, 1, 1], grid: [3, 1, 1] })],
    ["operation 0 (add): argument 0: there is no buffer 9", oneLaunch({ args: [buffer(9)] })],
    ["operation 0 (add): argument 0: offset 4001 is outside the 4000 bytes of buffer 0", oneLaunch({ args: [buffer(0, 4001)] })],
    ["operation 0 (add): its arguments take 4104 bytes, more than 4096", oneLaunch({ args: Array.from({ length: 513 }, () => buffer(0)) })],
    ["its tensor map has dims, strides", withMap({ strides: [] })],
    ["a tensor map cannot begin at 8, which is no multiple of 16", withMap({}, 8)],
    ["tensor map dims [32, 0] are outside 1..2^32", withMap({ dims: [32, 0] })],
    ["tensor map strides [120] are no multiples of 16", withMap({ strides: [120] })],
    ["tensor map element strides [1, 9] are outside 1..8", withMap({ elementStrides: [1, 9] })],
    ["tensor map box [32, 257] is outside its limits", withMap({ box: [32, 257] })],
    ["tensor map rows take 12 bytes, no multiple of 16", withMap({ box: [3, 8] })],
    ["tensor map rows of 128 bytes are longer than the swizzle of 64", withMap({ swizzle: 64 })],
    ["its tensor map spans 4096 bytes, its buffer has 4000", withMap({ dims: [32, 32] })],
    ["its tensor map spans 1024 bytes, its buffer has 976", withMap({}, 3024)],
    [
      "an im2col map has two corner entries fewer than dims",
      withMap({ mode: "im2col", dims: [8, 4, 4], strides: [32, 128], elementStrides: [1, 1, 1], box: [8, 16], swizzle: 32 }),
    ],
  ])("%s", (message, raw) => {
    expect(() => checkPlan(raw)).toThrow(PartitaError);
    expect(() => checkPlan(raw)).toThrow(message);
  });
  it("refuses or takes any plan with values exchanged, and never anything but P2108", () => {
    const paths: (readonly (string | number)[])[] = [];
    const walk = (value: unknown, path: readonly (string | number)[]): void => {
      paths.push(path);
      if (typeof value === "object" && value !== null)
        for (const [k, x] of Object.entries(value)) walk(x, [...path, Array.isArray(value) ? Number(k) : k]);
    };
    walk(plan, []);
    const odd = fc.oneof(fc.jsonValue(), fc.integer(), fc.constantFrom(-1, 0, 1, 255, 256, 2 ** 31, 2 ** 53, 1e308, "__proto__", [], {}));
    fc.assert(
      fc.property(fc.constantFrom(...paths.filter((p) => p.length > 0)), odd, (path, value) => {
        const copy = JSON.parse(JSON.stringify(plan));
        let at = copy;
        for (const key of path.slice(0, -1)) at = at[key];
        at[path.at(-1) as string] = value;
        try {
          checkPlan(copy);
        } catch (error) {
          expect((error as PartitaError).code).toBe("P2108");
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("parameters", () => {
  const args: readonly Arg[] = [
    { kind: "i32", value: -5 },
    buffer(1, 16),
    { kind: "f32", value: 1.5 },
    { kind: "tensorMap", buffer: 2, offset: 0, map: tile },
    { kind: "i32", value: 7 },
  ];
  it("lie as the ABI wants them", () => {
    expect(parameterLayout(args)).toEqual([
      [0, 4],
      [8, 8],
      [16, 4],
      [64, 128],
      [192, 4],
    ]);
    expect(parameterBytes(args)).toBe(196);
    expect(parameterBytes([])).toBe(0);
  });
  it("hold the values", () => {
    const packed = packParameters(args, { address: (b) => 0x7f0000000000n + BigInt(b), encode: () => new Uint8Array(128).fill(0xab) });
    const view = new DataView(packed.buffer);
    expect([view.getInt32(0, true), view.getBigUint64(8, true), view.getFloat32(16, true), view.getInt32(192, true)]).toEqual([
      -5,
      0x7f0000000011n,
      1.5,
      7,
    ]);
    expect(packed.subarray(64, 192).every((b) => b === 0xab)).toBe(true);
    expect(packed.subarray(20, 64).every((b) => b === 0)).toBe(true);
  });
});
