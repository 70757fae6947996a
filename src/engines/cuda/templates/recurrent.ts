/** Recurrent layers: all steps of an LSTM, GRU or RNN in one launch, over input projections that a product has made before. */
import type { DeviceModel } from "./tactics.js";
import { constantsText, instantiate, type KernelText } from "./text.js";

export interface RecurrentProblem {
  readonly kind: "LSTM" | "GRU" | "RNN";
  readonly steps: number;
  readonly batch: number;
  readonly directions: 1 | 2;
  readonly hidden: number;
  /** The only direction runs from the last step to the first. */
  readonly reverse: boolean;
  /** GRU: the reset gate is applied to the product rather than to the state. */
  readonly linearBeforeReset: boolean;
  /** LSTM: the forget gate is one minus the input gate. */
  readonly coupled: boolean;
  readonly clip: number | undefined;
  /** C expressions of `x` by direction: gates (f), candidate (g), output (h). */
  readonly activations: readonly (readonly [f: string, g: string, h: string])[];
  /** Element type of R in memory. */
  readonly weights: "f32" | "f16" | "bf16";
  readonly has: Readonly<Record<"bias" | "lengths" | "h0" | "c0" | "peephole", boolean>>;
  /** Element types of the results in memory; undefined for what nobody reads. Final states are dense. */
  readonly y: { readonly dtype: StateType; readonly strides: readonly [t: number, d: number, b: number, h: number] } | undefined;
  readonly yh: StateType | undefined;
  readonly yc: StateType | undefined;
}
export type StateType = "f32" | "f16" | "bf16";

export const gatesOf: Readonly<Record<RecurrentProblem["kind"], number>> = { LSTM: 4, GRU: 3, RNN: 1 };
const elementBytes = (t: StateType): number => (t === "f32" ? 4 : 2);

/** How the work is spread: blocks that share the hidden units of a tile of rows, and threads within a block. */
interface Spread {
  readonly cluster: number;
  readonly tile: number;
  readonly unitThreads: number;
  readonly slices: number;
  readonly rShared: boolean;
  readonly shared: number;
}
function spreadOf(p: RecurrentProblem, device: DeviceModel): Spread {
  const gates = gatesOf[p.kind];
  const choose = (cluster: number, keep: boolean): Spread | undefined => {
    if (p.hidden % cluster !== 0) return undefined;
    const units = p.hidden / cluster;
    const wanted = Math.ceil((p.batch * p.directions * cluster) / device.multiprocessors);
    for (let tile = Math.min(8, wanted, p.batch); tile >= 1; tile--) {
      const threads = gates * tile > 16 ? 512 : 1024;
      const unitThreads = Math.min(units, threads);
      let slices = 1;
      while (slices * 2 * unitThreads <= threads && p.hidden / (slices * 2) >= 4) slices *= 2;
      for (; slices >= 1; slices = Math.floor(slices / 2)) {
        const floats = 2 * tile * p.hidden + (p.kind === "GRU" ? tile * p.hidden : 0) + slices * tile * gates * units + 2 * tile * units;
        const shared = floats * 4 + (keep ? p.hidden * gates * units * elementBytes(p.weights) : 0);
        if (shared <= device.sharedPerBlock) return { cluster, tile, unitThreads, slices, rShared: keep, shared };
      }
    }
    return undefined;
  };
  // The fewest blocks whose shared memory holds R; where none does, the most, which read it from the cache.
  const clusters =
    device.arch.startsWith("sm_9") || device.arch.startsWith("sm_1") ? [1, 2, 4, 8].filter((c) => c === 1 || p.hidden / c >= 16) : [1];
  for (const c of clusters) {
    const found = choose(c, true);
    if (found !== undefined) return found;
  }
  for (const c of [...clusters].reverse()) {
    const found = choose(c, false);
    if (found !== undefined) return found;
  }
  throw new RangeError(`a recurrent layer of ${p.hidden} units does not fit a block`);
}
/** Hidden units up to which a state fits a block's shared memory on every architecture. */
export const MOST_UNITS = 2048;

const cType: Readonly<Record<StateType, string>> = { f32: "float", f16: "unsigned short", bf16: "unsigned short" };
const narrow: Readonly<Record<StateType, string>> = {
  f32: "return x;",
  f16: 'unsigned short h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h;',
  bf16: 'unsigned short h; asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x)); return h;',
};

/** Source and launch: (const float* xw, const T* r, operands and results that there are). Operands are called as in kernels/recurrent.cu. */
export function recurrentKernel(p: RecurrentProblem, device: DeviceModel, name: string): KernelText {
  const s = spreadOf(p, device);
  const operands: readonly (readonly [string, string, boolean])[] = [
    ["bias", "const float", p.has.bias],
    ["lengths", "const int", p.has.lengths],
    ["h0", "const float", p.has.h0],
    ["c0", "const float", p.has.c0],
    ["peephole", "const float", p.has.peephole],
    ["y", cType[p.y?.dtype ?? "f32"], p.y !== undefined],
    ["yh", cType[p.yh ?? "f32"], p.yh !== undefined],
    ["yc", cType[p.yc ?? "f32"], p.yc !== undefined],
  ];
  const there = operands.filter(([, , has]) => has);
  const [yT, yD, yB, yH] = p.y?.strides ?? [0, 0, 0, 0];
  const constants = [
    `using T = ${cType[p.weights]};`,
    constantsText({
      KIND: { LSTM: 0, GRU: 1, RNN: 2 }[p.kind],
      GATES: gatesOf[p.kind],
      STEPS: p.steps,
      BATCH: p.batch,
      DIRECTIONS: p.directions,
      HIDDEN: p.hidden,
      UNITS: p.hidden / s.cluster,
      UNIT_THREADS: s.unitThreads,
      SLICES: s.slices,
      TILE: s.tile,
      CLUSTER: s.cluster,
      PRECISION: { f16: 0, bf16: 1, f32: 3 }[p.weights],
      Y_T: yT,
      Y_D: yD,
      Y_B: yB,
      Y_H: yH,
      R_SHARED: s.rShared,
      REVERSE_FIRST: p.reverse,
      LINEAR_BEFORE_RESET: p.linearBeforeReset,
      COUPLED: p.coupled,
      HAS_BIAS: p.has.bias,
      HAS_LENGTHS: p.has.lengths,
      HAS_H0: p.has.h0,
      HAS_C0: p.has.c0,
      HAS_PEEPHOLE: p.has.peephole,
      STORE_Y: p.y !== undefined,
      STORE_H: p.yh !== undefined,
      STORE_C: p.yc !== undefined,
    }),
    ...operands.flatMap(([operand, type, has]) => (has ? [] : [`constexpr ${type}* ${operand} = nullptr;`])),
    ...(["y", "yh", "yc"] as const).map((o, i) => {
      const type = [p.y?.dtype, p.yh, p.yc][i] ?? "f32";
      return `__device__ __forceinline__ ${cType[type]} narrow_${["y", "h", "c"][i]}(float x) { ${narrow[type]} }${o === "y" ? "" : ""}`;
    }),
  ];
  const activation = (which: "f" | "g" | "h", i: 0 | 1 | 2): string => {
    const [first = "x", second] = p.activations.map((a) => a[i]);
    const value = second === undefined || second === first ? first : `direction == 0 ? ${first} : ${second}`;
    return `__device__ __forceinline__ float activate_${which}(int direction, float x) { return ${value}; }`;
  };
  const bound = p.clip === undefined ? undefined : `${Math.fround(p.clip)}`.replace(/^(-?\d+)$/, "$1.0").concat("f");
  const activations = [
    activation("f", 0),
    activation("g", 1),
    activation("h", 2),
    `__device__ __forceinline__ float clipped(float x) { return ${bound === undefined ? "x" : `fminf(fmaxf(x, -${bound}), ${bound})`}; }`,
  ];
  return {
    name,
    source: instantiate("recurrent.cu", {
      name,
      constants: constants.join("\n"),
      scratchParams: there.map(([operand, type]) => `${type}* __restrict__ ${operand}`),
      more: { activations: activations.join("\n") },
    }),
    arch: s.cluster > 1 ? "sm_90a" : "sm_80",
    grid: [s.cluster, p.directions, Math.ceil(p.batch / s.tile)],
    block: [s.unitThreads * s.slices, 1, 1],
    shared: s.shared,
    ...(s.cluster > 1 ? { cluster: [s.cluster, 1, 1] as const } : {}),
    arguments: ["xw", "r", ...there.map(([operand]) => operand)].map((operand) => ({ kind: "operand" as const, operand })),
  };
}
