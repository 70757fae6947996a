/**
 * Launches that overlap (programmatic dependent launch, sm_90 and up): a kernel starts while the one before it still runs, asks for its weights to
 * be brought to L2, and waits there until everything before it has ended. Every kernel waits before it touches anything but weights, so memory is used
 * as it would be without.
 */
import type { KernelPlan, Launch, Operation } from "./plan.js";

/** Weights worth asking for, bytes: less comes soon enough, more would push out what is in use. */
const [LEAST, MOST] = [65_536, 16_777_216];
/** Bytes that one prefetch brings. */
const LINE = 128;

/** Whether kernels for this architecture can wait for one another. */
export const canOverlap = (arch: string): boolean => Number(/\d+/.exec(arch)?.[0] ?? 0) >= 90;

/** The same plan with every launch that follows another one starting early, when its kernel can wait. */
export function overlapped(plan: KernelPlan): KernelPlan {
  const launches = new Map(plan.operations.flatMap((o) => (o.kind === "launch" ? [[o.launch.kernel, o.launch] as const] : [])));
  const waiting = new Set<string>();
  const sources = plan.sources.map((s) => ({
    ...s,
    source: eachKernel(s.source, (name, parameters, head, rest) => {
      waiting.add(name);
      const launch = launches.get(name);
      const first = launch === undefined ? [] : prefetches(plan, launch, parameters.split(",").map(nameOf));
      if (!rest.includes(SETTLED)) return [head, ...guarded([...first, ...WAIT]), rest].join("\n");
      return [head, ...guarded(first), rest.replace(SETTLED, guarded(WAIT).join("\n"))].join("\n");
    }),
  }));
  const operations = plan.operations.map((o, i): Operation => {
    const early = o.kind === "launch" && plan.operations[i - 1]?.kind === "launch" && waiting.has(o.launch.kernel);
    return early ? { kind: "launch", launch: { ...o.launch, dependent: true } } : o;
  });
  return { ...plan, sources, operations };
}
/** The same plan for an architecture that cannot: its kernels wait for nothing there. */
export const inTurn = (plan: KernelPlan): KernelPlan => ({
  ...plan,
  operations: plan.operations.map((o) => (o.kind === "launch" ? { kind: "launch", launch: { ...o.launch, dependent: false } } : o)),
});
const WAIT = ['  asm volatile("griddepcontrol.wait;" ::: "memory");', '  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");'];

/** Where a template says that its kernel has touched nothing but its parameters, weights and shared memory so far; elsewhere that is at its head. */
const SETTLED = "  // From here on what earlier launches wrote is read and written.";
const guarded = (lines: readonly string[]): readonly string[] =>
  lines.length === 0 ? [] : ["#if __CUDA_ARCH__ >= 900", ...lines, "#endif"];

/** A source with each kernel's head, and what follows up to the next one's, put anew. */
function eachKernel(source: string, put: (name: string, parameters: string, head: string, rest: string) => string): string {
  const found = [...source.matchAll(KERNEL)];
  const texts = found.map((m, i) => {
    const end = m.index + m[0].length;
    return put(m[1] ?? "", m[2] ?? "", m[0], source.slice(end, found[i + 1]?.index).replace(/^\n/, ""));
  });
  return [source.slice(0, found[0]?.index), ...texts].join("");
}
/** A kernel's head up to its body, its name and its parameters. */
const KERNEL = /extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(([^{]*)\) \{/g;
const nameOf = (parameter: string): string => /(\w+)\s*$/.exec(parameter)?.[1] ?? "";

/** Threads of the whole grid share the lines of each weight, or the boxes of its tensor map. */
function prefetches(plan: KernelPlan, l: Launch, parameters: readonly string[]): readonly string[] {
  const threads = l.block.reduce((a, b) => a * b, 1);
  const total = threads * l.grid.reduce((a, b) => a * b, 1);
  const block = "(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x";
  const thread = "(threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x";
  return l.args.flatMap((a, i) => {
    if (a.kind !== "buffer" && a.kind !== "tensorMap") return [];
    const { kind, bytes = 0 } = plan.buffers[a.buffer] ?? {};
    if (kind !== "weights" || bytes < LEAST || bytes > MOST) return [];
    const each = (count: number): string => `  for (int at = (${block}) * ${threads} + ${thread}; at < ${count}; at += ${total})`;
    if (a.kind === "buffer")
      return [
        each(Math.ceil(bytes / LINE)),
        `    asm volatile("prefetch.global.L2 [%0];" ::"l"((const char*)${parameters[i]} + at * ${LINE}ll));`,
      ];
    if (a.map.mode !== "tiled") return [];
    let boxes = 1;
    const coordinates = a.map.dims.map((d, k) => {
      const box = a.map.box[k] as number;
      const steps = Math.ceil(d / box);
      const at = steps === 1 ? "0" : `at / ${boxes} % ${steps} * ${box}`;
      boxes *= steps;
      return at;
    });
    const places = coordinates.map((_, k) => `%${k + 1}`).join(", ");
    return [
      each(boxes),
      `    asm volatile("cp.async.bulk.prefetch.tensor.${coordinates.length}d.L2.global.tile [%0, {${places}}];" ::"l"(&${parameters[i]}), ${coordinates.map((c) => `"r"(${c})`).join(", ")} : "memory");`,
    ];
  });
}
