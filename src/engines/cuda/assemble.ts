/** Kernels and buffers to a plan: the order of the launches, addresses in the arena and the weights, sources by translation unit. */
import type { DType } from "../../ir/types.js";
import type { Kernel } from "./loops.js";
import { type Life, planMemory } from "./memory.js";
import type { Arg, KernelPlan, Operation, Buffer as PlanBuffer, PortSpec, TensorMap, Translation } from "./plan.js";
import { PRELUDE } from "./storage.js";
import type { BufferName } from "./view.js";

export interface Lowered {
  readonly plan: KernelPlan;
  readonly weights: Uint8Array;
}
export interface BufferSize {
  readonly kind: PlanBuffer["kind"];
  readonly bytes: number;
}

/** A whole buffer, an address inside one (bytes), or a tensor map over it. */
export type Address = BufferName | { readonly buffer: BufferName; readonly offset: number; readonly map?: TensorMap | undefined };

/** One operation of the plan before buffers have addresses. */
export interface Step {
  readonly writes: readonly BufferName[];
  readonly reads: readonly BufferName[];
  readonly scratch: readonly { readonly name: BufferName; readonly bytes: number; readonly zero: boolean }[];
  readonly kernel: Pick<Kernel, "name" | "grid" | "block" | "shared"> & {
    readonly cluster?: readonly [number, number, number] | undefined;
  };
  readonly args: readonly Address[];
  readonly source: { readonly kind: "loop"; readonly text: string } | { readonly kind: "whole"; readonly text: string };
  readonly nodes: readonly string[];
}

/** Everything a plan is made of. Ports' buffers are called `input NAME` and `output NAME`. */
export interface Parts {
  readonly steps: readonly Step[];
  readonly buffers: ReadonlyMap<BufferName, BufferSize>;
  /** The bytes of each buffer of weights. */
  readonly weights: ReadonlyMap<BufferName, () => Uint8Array>;
  readonly inputs: readonly { readonly name: string; readonly dims: readonly number[]; readonly dtype: DType }[];
  readonly outputs: Parts["inputs"];
  readonly arch: string;
}

export function assemble(parts: Parts): Lowered {
  const steps = ordered(parts.steps);
  const lives: Life[] = [];
  const span = new Map<BufferName, { from: number; to: number }>();
  const touch = (name: BufferName, at: number): void => {
    const known = span.get(name);
    if (known === undefined) span.set(name, { from: at, to: at });
    else known.to = at;
  };
  for (const [i, s] of steps.entries()) {
    for (const name of [...s.reads, ...s.writes, ...s.scratch.map((x) => x.name)]) touch(name, i);
  }
  for (const [name, { kind, bytes }] of parts.buffers) {
    const own = span.get(name);
    if (kind === "arena" && own !== undefined) lives.push({ name, bytes, ...own });
  }
  const arena = planMemory(lives);
  const blob = blobOf(parts);
  const buffers: PlanBuffer[] = [];
  const numbers = new Map<BufferName, number>();
  for (const [name, { kind, bytes }] of parts.buffers) {
    const offset = kind === "arena" ? arena.offsets.get(name) : kind === "weights" ? blob.offsets.get(name) : 0;
    if (offset === undefined) continue;
    numbers.set(name, buffers.length);
    buffers.push({ kind, offset, bytes });
  }
  const number = (name: BufferName): number => {
    const found = numbers.get(name);
    if (found === undefined) throw new Error(`buffer '${name}' has no place`);
    return found;
  };
  const operations: Operation[] = [];
  for (const s of steps) {
    for (const z of s.scratch) if (z.zero) operations.push({ kind: "clear", buffer: number(z.name), offset: 0, bytes: z.bytes });
    const args = s.args.map(
      (a): Arg =>
        typeof a === "string"
          ? { kind: "buffer", buffer: number(a), offset: 0 }
          : a.map === undefined
            ? { kind: "buffer", buffer: number(a.buffer), offset: a.offset }
            : { kind: "tensorMap", buffer: number(a.buffer), offset: a.offset, map: a.map },
    );
    const { name, grid, block, shared, cluster } = s.kernel;
    operations.push({ kind: "launch", launch: { kernel: name, grid, block, shared, cluster, args, nodes: s.nodes } });
  }
  const ports = (list: Parts["inputs"], kind: "input" | "output"): readonly PortSpec[] =>
    list.map((p) => ({ ...p, buffer: number(`${kind} ${p.name}`) }));
  return {
    plan: {
      schema: "partita.cuda/1",
      inputs: ports(parts.inputs, "input"),
      outputs: ports(parts.outputs, "output"),
      buffers,
      arenaBytes: arena.bytes,
      weightsBytes: blob.bytes.length,
      operations,
      sources: translations(steps),
      arch: parts.arch,
    },
    weights: blob.bytes,
  };
}

/** Steps after those that write what they read. */
function ordered(steps: readonly Step[]): readonly Step[] {
  const writer = new Map(steps.flatMap((s) => s.writes.map((w) => [w, s] as const)));
  const done = new Set<Step>();
  const order: Step[] = [];
  const visit = (start: Step): void => {
    const stack: { step: Step; next: number }[] = [{ step: start, next: 0 }];
    done.add(start);
    for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
      const name = top.step.reads[top.next++];
      if (name === undefined) {
        order.push(top.step);
        stack.pop();
        continue;
      }
      const before = writer.get(name);
      if (before !== undefined && !done.has(before)) {
        done.add(before);
        stack.push({ step: before, next: 0 });
      }
    }
  };
  for (const s of steps) if (!done.has(s)) visit(s);
  return order;
}

function blobOf({ buffers, weights }: Parts): { readonly bytes: Uint8Array; readonly offsets: ReadonlyMap<BufferName, number> } {
  const offsets = new Map<BufferName, number>();
  let size = 0;
  for (const [name, { kind, bytes }] of buffers) {
    if (kind !== "weights") continue;
    offsets.set(name, size);
    size += Math.ceil(bytes / 256) * 256;
  }
  const bytes = new Uint8Array(size);
  for (const [name, offset] of offsets) bytes.set((weights.get(name) as () => Uint8Array)(), offset);
  return { bytes, offsets };
}

/** Loops share translation units of a few kernels, so that they compile side by side; templates bring their own. */
const PER_UNIT = 8;
function translations(steps: readonly Step[]): readonly Translation[] {
  const units: Translation[] = [];
  const loops = steps.filter((s) => s.source.kind === "loop");
  for (let i = 0; i < loops.length; i += PER_UNIT) {
    const part = loops.slice(i, i + PER_UNIT);
    units.push({ kernels: part.map((s) => s.kernel.name), source: `${PRELUDE}\n${part.map((s) => s.source.text).join("\n\n")}\n` });
  }
  for (const s of steps) if (s.source.kind === "whole") units.push({ kernels: [s.kernel.name], source: s.source.text });
  return units;
}
