/**
 * The soundness of a kernel plan, before the GPU sees any of it: plans come out of bundles, which anyone may have written. Every index, offset, size and
 * launch dimension is checked; what a kernel does with the addresses it is given cannot be.
 */
import * as v from "valibot";
import { byteLength, dtypeBits, isDType } from "../../ir/dtypes.js";
import type { DType } from "../../ir/types.js";
import { isTensorDType, type NumericDType } from "../../tensor.js";
import { badPlan } from "./errors.js";
import { parameterBytes } from "./parameters.js";
import type { Arg, Buffer, KernelPlan, Launch, PortSpec, TensorMap } from "./plan.js";

const whole = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const triple = v.tuple([whole, whole, whole]);
const wholes = v.pipe(v.array(whole), v.maxLength(5));
const corner = v.pipe(v.array(v.pipe(v.number(), v.safeInteger())), v.maxLength(3));
const tensorMap = v.strictObject({
  mode: v.picklist(["tiled", "im2col"]),
  dtype: v.picklist(["uint8", "float16", "bfloat16", "float32"]),
  dims: wholes,
  strides: wholes,
  box: wholes,
  elementStrides: wholes,
  lowerCorner: v.optional(corner),
  upperCorner: v.optional(corner),
  swizzle: v.picklist([0, 32, 64, 128]),
});
const arg = v.variant("kind", [
  v.strictObject({ kind: v.literal("buffer"), buffer: whole, offset: whole }),
  v.strictObject({ kind: v.literal("i32"), value: v.pipe(v.number(), v.integer(), v.minValue(-(2 ** 31)), v.maxValue(2 ** 31 - 1)) }),
  v.strictObject({ kind: v.literal("f32"), value: v.number() }),
  v.strictObject({ kind: v.literal("tensorMap"), buffer: whole, offset: whole, map: tensorMap }),
]);
const launch = v.strictObject({
  kernel: v.string(),
  grid: triple,
  block: triple,
  shared: whole,
  cluster: v.optional(triple),
  dependent: v.optional(v.boolean()),
  args: v.array(arg),
  nodes: v.array(v.string()),
});
const port = v.strictObject({
  name: v.string(),
  dtype: v.custom<DType>((d) => typeof d === "string" && isDType(d), "is no element type"),
  dims: v.pipe(v.array(whole), v.maxLength(64)),
  buffer: whole,
});
const schema = v.strictObject({
  schema: v.literal("partita.cuda/1"),
  inputs: v.array(port),
  outputs: v.array(port),
  buffers: v.array(v.strictObject({ kind: v.picklist(["weights", "arena", "input", "output"]), offset: whole, bytes: whole })),
  arenaBytes: whole,
  weightsBytes: whole,
  operations: v.array(
    v.variant("kind", [
      v.strictObject({ kind: v.literal("launch"), launch }),
      v.strictObject({ kind: v.literal("clear"), buffer: whole, offset: whole, bytes: whole }),
    ]),
  ),
  sources: v.array(v.strictObject({ kernels: v.array(v.string()), source: v.string() })),
  arch: v.string(),
});

/** Nothing that exists has more; a larger number is a mistake, not a request. */
const MAX_BYTES = 2 ** 48;
const ALIGNMENT = 256;
/** Of compute capability 9.0 and 10.0 with opt-in. */
const MAX_SHARED = 227 * 1024;
const MAX_PARAMETERS = 4096;
/** Without a kernel's consent to more. */
const MAX_CLUSTER = 8;

/** A plan that is sound, or P2108 with the first thing that is not. */
export function checkPlan(raw: unknown): KernelPlan {
  const parsed = v.safeParse(schema, raw);
  if (!parsed.success) {
    const path = v.getDotPath(parsed.issues[0]);
    throw badPlan({ what: `${path === null ? "" : `'${path}': `}${parsed.issues[0].message}` });
  }
  const plan: KernelPlan = parsed.output;
  if (!/^sm_\d{2,3}[af]?$/.test(plan.arch)) throw badPlan({ what: `'${plan.arch}' is no architecture` });
  checkBuffers(plan);
  checkPorts(plan);
  const kernels = checkSources(plan);
  plan.operations.forEach((operation, i) => {
    const fail = (what: string): never => {
      throw badPlan({ what: `operation ${i}${operation.kind === "launch" ? ` (${operation.launch.kernel})` : ""}: ${what}` });
    };
    if (operation.kind === "clear") {
      const b = bufferAt(plan, operation.buffer, fail);
      if (b.kind === "weights") fail("it clears weights");
      if (operation.bytes > b.bytes || operation.offset > b.bytes - operation.bytes)
        fail(`it clears bytes outside buffer ${operation.buffer}`);
    } else checkLaunch(plan, operation.launch, kernels, fail);
  });
  return plan;
}

function bufferAt(plan: KernelPlan, index: number, fail: (what: string) => never): Buffer {
  return plan.buffers[index] ?? fail(`there is no buffer ${index}`);
}

function checkBuffers(plan: KernelPlan): void {
  const limits = { arena: plan.arenaBytes, weights: plan.weightsBytes };
  for (const [name, bytes] of Object.entries(limits)) if (bytes > MAX_BYTES) throw badPlan({ what: `its ${name} have ${bytes} bytes` });
  plan.buffers.forEach((b, i) => {
    if (b.offset % ALIGNMENT !== 0) throw badPlan({ what: `buffer ${i} begins at ${b.offset}, which is no multiple of ${ALIGNMENT}` });
    if (b.bytes > MAX_BYTES) throw badPlan({ what: `buffer ${i} has ${b.bytes} bytes` });
    if (b.kind === "input" || b.kind === "output") {
      if (b.offset !== 0) throw badPlan({ what: `buffer ${i} is an ${b.kind} and begins at ${b.offset}, not at 0` });
    } else if (b.offset + b.bytes > limits[b.kind])
      throw badPlan({ what: `buffer ${i} ends at ${b.offset + b.bytes}, outside the ${b.kind} of ${limits[b.kind]} bytes` });
  });
}

/** Bytes of a port's tensor on the host; that of a checked plan fits its buffer. */
export function portBytes(p: PortSpec): number {
  // Any zero makes the tensor empty, however large the other dims are.
  if (p.dims.includes(0)) return 0;
  return byteLength(
    p.dtype,
    p.dims.reduce((n, d) => n * d, 1),
  );
}
export const portType = (p: PortSpec): NumericDType => p.dtype as NumericDType;

function checkPorts(plan: KernelPlan): void {
  const fed = new Set<number>();
  for (const [side, ports] of [
    ["input", plan.inputs],
    ["output", plan.outputs],
  ] as const) {
    const names = new Set<string>();
    for (const p of ports) {
      const fail = (what: string): never => {
        throw badPlan({ what: `${side} '${p.name}': ${what}` });
      };
      if (names.has(p.name)) fail("the name is given twice");
      names.add(p.name);
      if (!isTensorDType(p.dtype) || p.dtype === "string") fail(`the host has no tensors of ${p.dtype}`);
      const b = bufferAt(plan, p.buffer, fail);
      if (side === "input") {
        if (b.kind !== "input") fail(`buffer ${p.buffer} is ${b.kind}, not input`);
        if (fed.has(p.buffer)) fail(`buffer ${p.buffer} has two inputs`);
        fed.add(p.buffer);
      }
      if (!(portBytes(p) <= b.bytes)) fail(`[${p.dims.join(", ")}] of ${p.dtype} does not fit the ${b.bytes} bytes of buffer ${p.buffer}`);
    }
  }
}

function checkSources(plan: KernelPlan): ReadonlySet<string> {
  const kernels = new Set<string>();
  for (const s of plan.sources)
    for (const name of s.kernels) {
      if (!/^[A-Za-z_]\w{0,255}$/.test(name)) throw badPlan({ what: `'${name}' is no name of a kernel` });
      if (kernels.has(name)) throw badPlan({ what: `two sources have a kernel '${name}'` });
      kernels.add(name);
    }
  return kernels;
}

function checkLaunch(plan: KernelPlan, l: Launch, kernels: ReadonlySet<string>, fail: (what: string) => never): void {
  if (!kernels.has(l.kernel)) fail("no source has that kernel");
  const [gx, gy, gz] = l.grid;
  if (gx < 1 || gy < 1 || gz < 1 || gx > 2 ** 31 - 1 || gy > 65535 || gz > 65535)
    fail(`grid [${l.grid.join(", ")}] is outside [1..2^31-1, 1..65535, 1..65535]`);
  const [bx, by, bz] = l.block;
  if (bx < 1 || by < 1 || bz < 1 || bx > 1024 || by > 1024 || bz > 64 || bx * by * bz > 1024)
    fail(`block [${l.block.join(", ")}] is outside [1..1024, 1..1024, 1..64] with 1024 threads in all`);
  if (l.shared > MAX_SHARED) fail(`${l.shared} bytes of shared memory are more than any GPU has`);
  if (l.cluster !== undefined) {
    const blocks = l.cluster[0] * l.cluster[1] * l.cluster[2];
    if (blocks < 1 || blocks > MAX_CLUSTER) fail(`cluster [${l.cluster.join(", ")}] has ${blocks} blocks, not 1 to ${MAX_CLUSTER}`);
    if (l.cluster.some((c, i) => (l.grid[i] ?? 0) % c !== 0))
      fail(`grid [${l.grid.join(", ")}] is no multiple of cluster [${l.cluster.join(", ")}]`);
  }
  l.args.forEach((a, i) => checkArgument(plan, a, (what) => fail(`argument ${i}: ${what}`)));
  const bytes = parameterBytes(l.args);
  if (bytes > MAX_PARAMETERS) fail(`its arguments take ${bytes} bytes, more than ${MAX_PARAMETERS}`);
}

function checkArgument(plan: KernelPlan, a: Arg, fail: (what: string) => never): void {
  if (a.kind !== "buffer" && a.kind !== "tensorMap") return;
  const b = bufferAt(plan, a.buffer, fail);
  if (a.offset > b.bytes) fail(`offset ${a.offset} is outside the ${b.bytes} bytes of buffer ${a.buffer}`);
  if (a.kind === "tensorMap") checkTensorMap(a.map, a.offset, b.bytes - a.offset, fail);
}

/** The limits of cuTensorMapEncodeTiled and cuTensorMapEncodeIm2col, and that the tensor lies in its buffer. */
function checkTensorMap(m: TensorMap, offset: number, room: number, fail: (what: string) => never): void {
  const rank = m.dims.length;
  const width = dtypeBits(m.dtype) / 8;
  const im2col = m.mode === "im2col";
  if (rank < (im2col ? 3 : 1) || m.strides.length !== rank - 1 || m.elementStrides.length !== rank || m.box.length !== (im2col ? 2 : rank))
    fail("its tensor map has dims, strides, box and element strides that do not go together");
  if (offset % 16 !== 0) fail(`a tensor map cannot begin at ${offset}, which is no multiple of 16`);
  if (m.dims.some((d) => d < 1 || d > 2 ** 32)) fail(`tensor map dims [${m.dims.join(", ")}] are outside 1..2^32`);
  if (m.strides.some((s) => s < 16 || s % 16 !== 0 || s >= 2 ** 40))
    fail(`tensor map strides [${m.strides.join(", ")}] are no multiples of 16 below 2^40`);
  if (m.elementStrides.some((s) => s < 1 || s > 8)) fail(`tensor map element strides [${m.elementStrides.join(", ")}] are outside 1..8`);
  if (m.box.some((s, i) => s < 1 || s > (im2col && i === 1 ? 1024 : 256)))
    fail(`tensor map box [${m.box.join(", ")}] is outside its limits`);
  const row = (m.box[0] ?? 0) * width;
  if (row % 16 !== 0) fail(`tensor map rows take ${row} bytes, no multiple of 16`);
  if (m.swizzle !== 0 && row > m.swizzle) fail(`tensor map rows of ${row} bytes are longer than the swizzle of ${m.swizzle}`);
  if (im2col && (m.lowerCorner?.length !== rank - 2 || m.upperCorner?.length !== rank - 2))
    fail("an im2col map has two corner entries fewer than dims");
  const end = m.strides.reduce((n, s, i) => n + s * ((m.dims[i + 1] ?? 1) - 1), (m.dims[0] ?? 1) * width);
  if (end > room) fail(`its tensor map spans ${end} bytes, its buffer has ${room}`);
}
