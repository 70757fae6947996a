/** Launches that overlap: what is put in front of kernels, and which launches start early. */
import { describe, expect, it } from "vitest";
import { canOverlap, inTurn, overlapped } from "../../../src/engines/cuda/overlap.js";
import type { Arg, KernelPlan, Operation } from "../../../src/engines/cuda/plan.js";

const launch = (kernel: string, args: readonly Arg[]): Operation => ({
  kind: "launch",
  launch: { kernel, grid: [3, 1, 2], block: [64, 1, 1], shared: 0, args, nodes: [kernel] },
});
const at = (buffer: number): Arg => ({ kind: "buffer", buffer, offset: 0 });
const plan: KernelPlan = {
  schema: "partita.cuda/1",
  inputs: [],
  outputs: [],
  buffers: [
    { kind: "weights", offset: 0, bytes: 131_072 },
    { kind: "weights", offset: 131_072, bytes: 256 },
    { kind: "arena", offset: 0, bytes: 1 << 20 },
  ],
  arenaBytes: 1 << 20,
  weightsBytes: 131_328,
  operations: [
    launch("first", [at(2), at(0), at(1)]),
    launch("second", [at(2)]),
    { kind: "clear", buffer: 2, offset: 0, bytes: 4 },
    launch("third", [at(2)]),
  ],
  sources: [
    {
      kernels: ["first"],
      source:
        'extern "C" __global__ void __launch_bounds__(64, 2)\nfirst(float* __restrict__ x, const float* __restrict__ w, const float* b) {\n  x[0] = 1;\n}\n',
    },
    {
      kernels: ["second", "third"],
      source:
        'extern "C" __global__ void __launch_bounds__(64) second(float* x) {\n}\nextern "C" __global__ void __launch_bounds__(64) third(float* x) {\n}\n',
    },
  ],
  arch: "sm_90a",
};

const block = "(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x";
const thread = "(threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x";

describe("overlapping launches", () => {
  const made = overlapped(plan);
  it("start early behind a launch, not behind anything else", () => {
    expect(made.operations.map((o) => (o.kind === "launch" ? o.launch.dependent === true : undefined))).toEqual([
      false,
      true,
      undefined,
      false,
    ]);
  });
  it("do not start early when their kernel cannot be made to wait", () => {
    const odd = {
      ...plan,
      sources: plan.sources.map((s) => ({ ...s, source: s.source.replace("second(float* x) {", "second(float* x)\n{") })),
    };
    expect(overlapped(odd).operations.some((o) => o.kind === "launch" && o.launch.kernel === "second" && o.launch.dependent === true)).toBe(
      false,
    );
  });
  it("wait before they do anything but ask for large weights", () => {
    const [first = "", rest = ""] = made.sources.map((s) => s.source);
    const lines = first.split("\n").map((l) => l.trim());
    expect(lines.slice(2)).toEqual([
      "#if __CUDA_ARCH__ >= 900",
      `for (int at = (${block}) * 64 + ${thread}; at < 1024; at += 384)`,
      'asm volatile("prefetch.global.L2 [%0];" ::"l"((const char*)w + at * 128ll));',
      'asm volatile("griddepcontrol.wait;" ::: "memory");',
      'asm volatile("griddepcontrol.launch_dependents;" ::: "memory");',
      "#endif",
      "x[0] = 1;",
      "}",
      "",
    ]);
    expect(rest.match(/griddepcontrol\.wait/g)).toHaveLength(2);
    expect(rest).not.toContain("prefetch");
  });
  it("wait where their template says that they have set up", () => {
    const settled = "  // From here on what earlier launches wrote is read and written.";
    const source = plan.sources[0]?.source.replace("  x[0] = 1;", `  setUp();\n${settled}\n  x[0] = 1;`) ?? "";
    const rest = plan.sources[1]?.source ?? "";
    const [unit] = overlapped({ ...plan, sources: [{ kernels: ["first", "second", "third"], source: source + rest }] }).sources;
    expect(unit?.source.split("\n").map((l) => l.trim().slice(0, 32))).toEqual([
      'extern "C" __global__ void __lau',
      "first(float* __restrict__ x, con",
      "#if __CUDA_ARCH__ >= 900",
      "for (int at = ((blockIdx.z * gri",
      'asm volatile("prefetch.global.L2',
      "#endif",
      "setUp();",
      "#if __CUDA_ARCH__ >= 900",
      'asm volatile("griddepcontrol.wai',
      'asm volatile("griddepcontrol.lau',
      "#endif",
      "x[0] = 1;",
      "}",
      ...["second", "third"].flatMap(() => [
        'extern "C" __global__ void __lau',
        "#if __CUDA_ARCH__ >= 900",
        'asm volatile("griddepcontrol.wai',
        'asm volatile("griddepcontrol.lau',
        "#endif",
        "}",
      ]),
      "",
    ]);
  });
  it("ask for weights behind a tensor map box by box", () => {
    const map = {
      mode: "tiled",
      dtype: "float16",
      dims: [256, 2, 4, 4, 8],
      strides: [512, 4096, 1024, 16_384],
      box: [64, 2, 4, 4, 2],
      elementStrides: [1, 1, 1, 1, 1],
      swizzle: 128,
    } as const;
    const operation = launch("first", [{ kind: "tensorMap", buffer: 0, offset: 0, map }]);
    const source = 'extern "C" __global__ void __launch_bounds__(64)\nfirst(const __grid_constant__ TensorMap b) {\n}\n';
    const [unit] = overlapped({ ...plan, operations: [operation], sources: [{ kernels: ["first"], source }] }).sources;
    expect(unit?.source.split("\n").slice(3, 5)).toEqual([
      `  for (int at = (${block}) * 64 + ${thread}; at < 16; at += 384)`,
      '    asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global.tile [%0, {%1, %2, %3, %4, %5}];" ::"l"(&b), "r"(at / 1 % 4 * 64), "r"(0), "r"(0), "r"(0), "r"(at / 4 % 4 * 2) : "memory");',
    ]);
  });
  it("need an architecture that can; in turn nothing starts early", () => {
    expect(inTurn(made).operations.some((o) => o.kind === "launch" && o.launch.dependent === true)).toBe(false);
    expect(["sm_80", "sm_89", "sm_90", "sm_90a", "sm_100"].map(canOverlap)).toEqual([false, false, true, true, true]);
  });
});
