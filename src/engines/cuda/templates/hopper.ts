/** Emits the Hopper kernels: wgmma fed by TMA, persistent, for products and for convolutions as im2col maps. */
import type { TensorMap } from "../plan.js";
import { isPointwise } from "./contraction.js";
import {
  type ConvProblem,
  convDepth,
  convRows,
  elementBytes,
  type GemmProblem,
  type Operand,
  type Precision,
  storageType,
} from "./problem.js";
import type { DeviceModel, HopperTactic } from "./tactics.js";
import {
  constantsText,
  type EpilogueText,
  epilogueFunction,
  epilogueVector,
  instantiate,
  type KernelArgument,
  type KernelText,
  type TileStore,
  templateText,
} from "./text.js";

const ceilDiv = (a: number, b: number) => Math.ceil(a / b);
const product = (values: readonly number[]) => values.reduce((a, b) => a * b, 1);

/** A product or convolution whose operands TMA can fetch. */
export interface HopperForm {
  readonly M: number;
  readonly N: number;
  readonly batches: number;
  readonly nBase: number;
  readonly dtype: Precision;
  /** Bytes of a shared-memory row: 128, or 64 where channels demand it. */
  readonly kb: 64 | 128;
  readonly blocksK: number;
  /** Whether rows of B may come in the order that gives a thread `held` neighbouring columns. */
  interleaves(held: number): boolean;
  /** Body of the producer's per-tile state, and the maps for a tile of given rows and columns. */
  walk(bm: number, bn: number, held: number): { readonly text: string; readonly a: TensorMap; readonly b: TensorMap };
}

const mapType: Readonly<Record<Precision, TensorMap["dtype"]>> = {
  f16: "float16",
  bf16: "bfloat16",
  tf32: "float32",
  f32: "float32",
  s8: "uint8",
};

/** A load instruction for a map of the given rank; `coordinates` are C expressions, fastest first. */
const tiledLoad = (to: string, map: string, coordinates: readonly string[]) =>
  `asm volatile("cp.async.bulk.tensor.${coordinates.length}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {${coordinates.map((_, i) => `%${i + 3}`).join(", ")}}], [%2];" ::"r"(${to}), "l"(${map}), "r"(barrier)${coordinates.map((c) => `, "r"(${c})`).join("")} : "memory");`;

/** A matrix operand as a tiled map: [k, rows, batch digits that move it]. Undefined where TMA cannot address it. */
function matrixMap(o: Operand, rows: number, K: number, batch: readonly number[], dtype: Precision, kb: number) {
  const bytes = elementBytes[dtype];
  const moving = batch.map((extent, i) => ({
    extent,
    stride: o.batchStride?.[i] ?? 0,
    below: product(batch.slice(i + 1)),
    above: product(batch.slice(0, i)),
  }));
  const kept = moving.filter((d) => d.extent > 1 && d.stride !== 0).reverse();
  const rowStride = rows === 1 ? ceilDiv(K * bytes, 16) * 16 : o.rowStride * bytes;
  const strides = [rowStride, ...kept.map((d) => d.stride * bytes)];
  if ((K > 1 && o.colStride !== 1) || (o.align ?? 16) % 16 !== 0 || kept.length > 3) return undefined;
  if (strides.some((s) => s % 16 !== 0 || s <= 0 || s >= 2 ** 40)) return undefined;
  const digits = kept.map((d) => {
    const shifted = d.below === 1 ? "batch" : `batch / ${d.below}`;
    return d.above === 1 ? shifted : `${d.below === 1 ? "batch" : `(${shifted})`} % ${d.extent}`;
  });
  return {
    digits,
    map: (boxRows: number): TensorMap => ({
      mode: "tiled",
      dtype: mapType[dtype],
      dims: [K, rows, ...kept.map((d) => d.extent)],
      strides,
      box: [kb / bytes, boxRows, ...kept.map(() => 1)],
      elementStrides: [1, 1, ...kept.map(() => 1)],
      swizzle: kb as 64 | 128,
    }),
  };
}

type Columns = NonNullable<ReturnType<typeof matrixMap>>;
/**
 * B as its tiles are fetched: rows in memory order for 2 `held` columns, for more in the order of wgmma.cu: row `held` q + 2 h + i of every 4 `held` comes
 * as row 8 h + 2 q + i, which is the map's order of [i, q, h, group].
 */
function columnsMap(b: Columns, n: string, depth: number, bn: number, held: number) {
  const map = b.map(bn);
  const load = (at: readonly string[]) => tiledLoad("to", "b", [`kb * ${depth}`, ...at]);
  if (held <= 2) return { load: load([n, ...b.digits]), map };
  const [inner = 0, rows = 0] = map.dims;
  const [row = 0] = map.strides;
  const group = 4 * held;
  return {
    load: load(["0", "0", "0", `(${n}) / ${group}`]),
    map: {
      ...map,
      dims: [inner, 2, 4, held / 2, rows / group],
      strides: [row, held * row, 2 * row, group * row],
      box: [map.box[0] as number, 2, 4, held / 2, bn / group],
      elementStrides: [1, 1, 1, 1, 1],
    },
  };
}
const interleaves = (b: Columns, N: number) => (held: number) => held <= 2 || (N % (4 * held) === 0 && b.digits.length === 0);

/** A product in TMA's terms, or undefined: FP32, or strides that are no multiples of 16 bytes, or k not contiguous. */
export function hopperGemm(p: GemmProblem): HopperForm | undefined {
  const { M, N, K, batch, dtype } = p;
  if (dtype === "f32") return undefined;
  const bytes = elementBytes[dtype];
  const kb = K * bytes <= 64 ? 64 : 128;
  const a = matrixMap(p.a, M, K, batch, dtype, kb);
  const b = matrixMap(p.b, N, K, batch, dtype, kb);
  if (a === undefined || b === undefined) return undefined;
  const depth = kb / bytes;
  return {
    M,
    N,
    batches: product(batch),
    nBase: 0,
    dtype,
    kb,
    blocksK: ceilDiv(K, depth),
    interleaves: interleaves(b, N),
    walk: (bm, bn, held) => {
      const columns = columnsMap(b, "n", depth, bn, held);
      return {
        text: `struct Walk {
  int m, n, batch;
  __device__ __forceinline__ Walk(const Place& place) : m(place.m), n(place.n), batch(place.batch) {}
  __device__ __forceinline__ void load_a(u32 to, const TensorMap* a, u32 barrier, int kb) {
    ${tiledLoad("to", "a", [`kb * ${depth}`, "m", ...a.digits])}
  }
  __device__ __forceinline__ void load_b(u32 to, const TensorMap* b, u32 barrier, int kb) const {
    ${columns.load}
  }
};`,
        a: a.map(bm),
        b: columns.map,
      };
    },
  };
}

/** A convolution in TMA's terms, or undefined: channels of a group that fill no 64-byte rows, three dimensions, or offsets beyond a map's range. */
export function hopperConv(p: ConvProblem): HopperForm | undefined {
  const { dtype, groups } = p;
  if (dtype === "f32") return undefined;
  const bytes = elementBytes[dtype];
  const K = convDepth(p);
  const M = convRows(p);
  const N = p.k / groups;
  const channels = p.c / groups;
  const pixel = p.pixelStride ?? p.c;
  const weightStride = p.weightStride ?? K;
  const weights: Operand = { rowStride: weightStride, colStride: 1 };
  if (isPointwise(p) && groups === 1)
    return hopperGemm({ M, N, K, batch: [], dtype, a: { rowStride: pixel, colStride: 1, align: p.align }, b: weights });
  const row = channels * bytes;
  const line = p.lineStride ?? p.w * pixel;
  const kb = row % 128 === 0 ? 128 : 64;
  if (p.depth !== undefined || row % kb !== 0 || (pixel * bytes) % 16 !== 0 || (line * bytes) % 16 !== 0 || (p.align ?? 16) % 16 !== 0)
    return undefined;
  const [strideH = 1, strideW = 1] = p.stride;
  const [dilationH = 1, dilationW = 1] = p.dilation;
  const [padH = 0, padW = 0] = p.pad;
  const upperH = (p.p - 1) * strideH - padH - (p.h - 1);
  const upperW = (p.q - 1) * strideW - padW - (p.w - 1);
  const corners = [-padH, -padW, upperH, upperW];
  if (corners.some((v) => v < -128 || v > 127) || strideH > 8 || strideW > 8) return undefined;
  if ((p.r - 1) * dilationH > 255 || (p.s - 1) * dilationW > 255) return undefined;
  const b = matrixMap(weights, p.k, K, [], dtype, kb);
  if (b === undefined) return undefined;
  const depth = kb / bytes;
  const perTap = channels / depth;
  return {
    M,
    N,
    batches: groups,
    nBase: groups > 1 ? N : 0,
    dtype,
    kb,
    blocksK: p.r * p.s * perTap,
    interleaves: interleaves(b, N),
    walk: (bm, bn, held) => {
      const columns = columnsMap(b, "n", depth, bn, held);
      return {
        text: `struct Walk {
  int image, h, w, r, s, c, n, first;
  __device__ __forceinline__ Walk(const Place& place) : r(0), s(0), c(0) {
    const int rest = place.m % ${p.p * p.q};
    image = place.m / ${p.p * p.q}, h = rest / ${p.q} * ${strideH} - ${padH}, w = rest % ${p.q} * ${strideW} - ${padW};
    n = place.n + place.batch * ${N}, first = place.batch * ${channels};
  }
  __device__ __forceinline__ void load_a(u32 to, const TensorMap* a, u32 barrier, int) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(to), "l"(a),
                 "r"(barrier), "r"(first + c * ${depth}), "r"(w), "r"(h), "r"(image), "h"((u16)(s * ${dilationW})), "h"((u16)(r * ${dilationH})) : "memory");
    if (++c == ${perTap}) {
      c = 0;
      if (++s == ${p.s}) s = 0, r++;
    }
  }
  __device__ __forceinline__ void load_b(u32 to, const TensorMap* b, u32 barrier, int kb) const {
    ${columns.load}
  }
};`,
        a: {
          mode: "im2col",
          dtype: mapType[dtype],
          dims: [p.c, p.w, p.h, p.n],
          strides: [pixel * bytes, line * bytes, p.h * line * bytes],
          box: [depth, bm],
          elementStrides: [1, strideW, strideH, 1],
          lowerCorner: [-padW, -padH],
          upperCorner: [upperW, upperH],
          swizzle: kb,
        },
        b: columns.map,
      };
    },
  };
}

const chunkColumns = (bn: number) => (bn % 64 === 0 ? 64 : 32);
/** Rows of a block's tile. */
export const hopperRows = (t: HopperTactic): number => (t.pingPong ? t.rows : t.rows * t.warpgroups);

/** Dynamic shared memory, bytes, of a tactic over `blocksK` blocks of k. `slotBytes`: of a warp's chunks on their way out. */
export function hopperShared(t: HopperTactic, { kb, blocksK }: Pick<HopperForm, "kb" | "blocksK">, slotBytes = 0): number {
  const warps = t.warpgroups * 4;
  const ring = t.stages * hopperRows(t) * kb + (t.weightsStay ? blocksK : t.stages) * t.bn * kb;
  return 1024 + ring + warps * slotBytes + (2 * t.stages + t.warpgroups + warps * 4 + 1) * 8;
}

/** Whether and how results leave by tiles: as many chunks in flight as shared memory has room for beside a ring of three stages. */
function slotsOf(
  t: HopperTactic,
  form: HopperForm,
  tile: TileStore | undefined,
  V: number,
  device: DeviceModel,
): { readonly slots: number; readonly stages: number; readonly columns: number } {
  const narrow = chunkColumns(t.bn);
  const none = { slots: 0, stages: t.stages, columns: narrow };
  if (tile === undefined || form.batches !== 1 || V * tile.bytes < 4 || (tile.rowStride * tile.bytes) % 16 !== 0) return none;
  const limit = t.resident === 1 ? device.sharedPerBlock : Math.floor(233472 / t.resident) - 1024;
  // The copy engine moves a row of 128 bytes as fast as one of 64.
  for (const columns of tile.bytes === 1 && t.bn % 128 === 0 ? [128, narrow] : [narrow])
    for (let slots = tile.residual === undefined ? 2 : 4; slots >= 2; slots--)
      for (let stages = t.stages; stages >= Math.min(3, t.stages); stages--)
        if (hopperShared({ ...t, stages }, form, slots * 16 * columns * tile.bytes) <= limit) return { slots, stages, columns };
  return none;
}
const matrixOut = (
  form: HopperForm,
  m: { readonly dtype: TensorMap["dtype"]; readonly rowStride: number },
  bytes: number,
  columns: number,
): TensorMap => ({
  mode: "tiled",
  dtype: m.dtype,
  dims: [form.N, form.M],
  strides: [m.rowStride * bytes],
  box: [columns, 16],
  elementStrides: [1, 1],
  swizzle: (columns * bytes) as 32 | 64 | 128,
});
/** Where accumulators crowd the registers, the producer is a whole warpgroup that hands its own over. */
const producerGroup = (t: HopperTactic) => (t.rows / 64) * t.bn >= (t.warpgroups > 2 ? 128 : 192);
const hopperThreads = (t: HopperTactic): number => t.warpgroups * 128 + (producerGroup(t) ? 128 : 32);

/** The wgmma instruction of 64 rows and `n` columns as a function. */
export function wgmmaText(n: number, dtype: Precision): string {
  const count = n / 2;
  const [shape, constraint, type, more] = {
    f16: ["k16.f32.f16.f16", "f", "float", ", 1, 1, 0, 0"],
    bf16: ["k16.f32.bf16.bf16", "f", "float", ", 1, 1, 0, 0"],
    tf32: ["k8.f32.tf32.tf32", "f", "float", ", 1, 1"],
    s8: ["k32.s32.s8.s8", "r", "int", ""],
    f32: ["", "", "", ""],
  }[dtype] as [string, string, string, string];
  const registers = Array.from({ length: count }, (_, i) => `%${i}`).join(", ");
  const outputs = Array.from({ length: count }, (_, i) => `"+${constraint}"(d[${i}])`).join(", ");
  return `// d (64 x ${n}) = A B^T, plus d where accumulate is set.
__device__ __forceinline__ void multiply(${type} (&d)[${count}], u64 a, u64 b, int accumulate) {
  asm volatile("{\\n\\t.reg .pred p;\\n\\tsetp.ne.b32 p, %${count + 2}, 0;\\n\\twgmma.mma_async.sync.aligned.m64n${n}${shape} {${registers}}, %${count}, %${count + 1}, p${more};\\n\\t}"
               : ${outputs} : "l"(a), "l"(b), "r"(accumulate));
}`;
}

/** Blocks: as many as stay on the device together; of weights that stay, every block keeps to its columns. */
function gridOf(t: HopperTactic, tiles: number, tilesN: number, device: DeviceModel): number {
  const together = Math.min(tiles, device.multiprocessors * t.resident);
  return t.weightsStay ? Math.max(tilesN, Math.floor(together / tilesN) * tilesN) : together;
}

/** Source and launch: (map a, map b, [map out, [map residual]], epilogue...). */
export function hopperKernel(form: HopperForm, t: HopperTactic, device: DeviceModel, epilogue: EpilogueText, name: string): KernelText {
  const bm = hopperRows(t);
  const tilesM = ceilDiv(form.M, bm);
  const tilesN = ceilDiv(form.N, t.bn);
  const tiles = tilesM * tilesN * form.batches;
  const threads = hopperThreads(t);
  let V = epilogueVector(epilogue, form.N);
  while (V > 2 && !(form.interleaves(V) && t.bn % (4 * V) === 0)) V = (V / 2) as typeof V;
  const held = Math.max(V, 2);
  const accumulator = form.dtype === "s8" ? "int" : "float";
  const { slots, stages, columns } = slotsOf(t, form, epilogue.tile, V, device);
  const tile = slots > 0 ? epilogue.tile : undefined;
  const residual = tile?.residual;
  const walk = form.walk(bm, t.bn, held);
  // A block starts with `share` registers a thread; the producer keeps 40.
  const share = Math.floor(65536 / threads / 8) * 8;
  const consumer = Math.floor((share * (t.warpgroups + 1) - 40) / t.warpgroups / 8) * 8;
  const constants = [
    `using T = ${storageType[form.dtype]};`,
    `using Acc = ${accumulator};`,
    constantsText({
      M: form.M,
      N: form.N,
      WARPGROUPS: t.warpgroups,
      ROWS: t.rows,
      BN: t.bn,
      KB: form.kb,
      BLOCKS_K: form.blocksK,
      STAGES: stages,
      HELD: held,
      CHUNK: columns,
      AHEAD_MOST: (t.rows / 64) * t.bn >= 256 || t.resident > 1 ? 2 : 4,
      V,
      N_BASE: form.nBase,
      TILES: tiles,
      TILES_M: tilesM,
      TILES_N: tilesN,
      BATCHES: form.batches,
      RASTER: t.weightsStay || tilesN <= 8 ? 1 : Math.min(8, tilesM),
      THREADS: threads,
      MIN_BLOCKS: t.resident,
      CONSUMER_REGISTERS: Math.min(232, consumer),
      PING_PONG: t.pingPong,
      PRODUCER_GROUP: producerGroup(t),
      RESIDENT_B: t.weightsStay,
      TILE_STORE: tile !== undefined,
      RESIDUAL: residual !== undefined,
      SLOTS: slots,
      OUT_BYTES: tile?.bytes ?? 2,
    }),
  ];
  const maps: KernelArgument[] = [];
  if (tile !== undefined) maps.push({ kind: "tensorMap", operand: "out", map: matrixOut(form, tile, tile.bytes, columns) });
  if (tile !== undefined && residual !== undefined)
    maps.push({ kind: "tensorMap", operand: "residual", map: matrixOut(form, residual, tile.bytes, columns) });
  const reading =
    residual === undefined
      ? "__device__ __forceinline__ void read_residual(Early&, const char*) {}"
      : "__device__ __forceinline__ void read_residual(Early& early, const char* at) { early.p0 = *(const decltype(early.p0)*)at; }";
  return {
    name,
    source: instantiate("wgmma.cu", {
      name,
      constants: constants.join("\n"),
      epilogue: epilogueFunction(epilogue, V, accumulator, tile),
      scratchParams: maps.map((x) => `const __grid_constant__ TensorMap ${x.kind === "tensorMap" ? x.operand : ""}_map`),
      epilogueParams: epilogue.params,
      more: {
        wgmma: wgmmaText(t.bn, form.dtype),
        walk: walk.text,
        maps: maps.map((x) => `    map_prefetch(&${x.kind === "tensorMap" ? x.operand : ""}_map);`).join("\n"),
        tile: tile === undefined ? "" : `using Out = ${tile.type};\n${reading}`,
        prefetch:
          tile === undefined
            ? ""
            : `    int slot = 0;\n    u32 slot_parity = 0;\n${residual === undefined ? "    const auto fetch = [] {};" : templateText("wgmma_prefetch.cu").trimEnd()}`,
        finish: templateText(tile === undefined ? "wgmma_direct.cu" : "wgmma_tiles.cu").trimEnd(),
      },
    }),
    arch: "sm_90a",
    grid: [gridOf(t, tiles, tilesN, device), 1, 1],
    block: [threads, 1, 1],
    shared: hopperShared({ ...t, stages }, form, tile === undefined ? 0 : slots * 16 * columns * tile.bytes),
    arguments: [
      { kind: "tensorMap", operand: "a", map: walk.a },
      { kind: "tensorMap", operand: "b", map: walk.b },
      ...maps,
      { kind: "epilogue" },
    ],
  };
}
