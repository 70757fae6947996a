/** Kernel plans that tests start from. */
import type { KernelPlan, Launch, Operation } from "../../../src/engines/cuda/plan.js";

export const launchOf = (launch: Partial<Launch> & { readonly kernel: string }): Operation => ({
  kind: "launch",
  launch: { grid: [1, 1, 1], block: [256, 1, 1], shared: 0, args: [], nodes: [], ...launch },
});
/** y = (a + w) * 2 over n floats: two kernels, weights, an arena, a clear. */
export function affinePlan(n: number, change: Partial<KernelPlan> = {}): KernelPlan {
  const bytes = n * 4;
  const grid = [Math.max(1, Math.ceil(n / 256)), 1, 1] as const;
  return {
    schema: "partita.cuda/1",
    inputs: [{ name: "a", dtype: "float32", dims: [n], buffer: 0 }],
    outputs: [{ name: "y", dtype: "float32", dims: [n], buffer: 3 }],
    buffers: [
      { kind: "input", offset: 0, bytes },
      { kind: "weights", offset: 256, bytes },
      { kind: "arena", offset: 512, bytes },
      { kind: "output", offset: 0, bytes },
    ],
    arenaBytes: 512 + bytes,
    weightsBytes: 256 + bytes,
    operations: [
      { kind: "clear", buffer: 2, offset: 0, bytes },
      launchOf({
        kernel: "add",
        grid,
        args: [
          { kind: "buffer", buffer: 0, offset: 0 },
          { kind: "buffer", buffer: 1, offset: 0 },
          { kind: "buffer", buffer: 2, offset: 0 },
          { kind: "i32", value: n },
        ],
        nodes: ["/add"],
      }),
      launchOf({
        kernel: "scale",
        grid,
        args: [
          { kind: "buffer", buffer: 2, offset: 0 },
          { kind: "buffer", buffer: 3, offset: 0 },
          { kind: "f32", value: 2 },
          { kind: "i32", value: n },
        ],
        nodes: ["/mul"],
        dependent: true,
      }),
    ],
    sources: [{ kernels: ["add", "scale"], source: affineSource }],
    arch: "sm_90a",
    ...change,
  };
}
export const affineSource = `extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
extern "C" __global__ void scale(const float* x, float* y, float f, int n) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * f;
}
`;
export function affineWeights(n: number): Uint8Array {
  const blob = new Uint8Array(256 + n * 4);
  new Float32Array(blob.buffer, 256).forEach((_, i, w) => {
    w[i] = i;
  });
  return blob;
}
