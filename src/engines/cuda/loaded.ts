/** A kernel plan on a GPU, before any run: modules and functions checked against the launches, weights uploaded. Shared by all streams. */
import { inspectCubin } from "./cubin.js";
import { type Device, Owned } from "./device.js";
import { badPlan, gpuError } from "./errors.js";
import type { FunctionProperties, MemoryHandle } from "./native.js";
import { parameterLayout } from "./parameters.js";
import type { KernelPlan, Launch } from "./plan.js";
import { upload } from "./resident.js";

export class LoadedPlan {
  readonly device: Device;
  readonly plan: KernelPlan;
  /** By name; launched kernels only. */
  readonly functions: ReadonlyMap<string, LoadedFunction>;
  readonly weights: MemoryHandle | undefined;
  readonly #owned: Owned;

  private constructor(
    device: Device,
    plan: KernelPlan,
    owned: Owned,
    functions: ReadonlyMap<string, LoadedFunction>,
    weights: MemoryHandle | undefined,
  ) {
    this.device = device;
    this.plan = plan;
    this.#owned = owned;
    this.functions = functions;
    this.weights = weights;
  }

  /** `plan` has been checked; `cubins[i]` is of `plan.sources[i]`. Throws P2104, P2105, P2108, P2109, P2110; nothing stays behind then. */
  static async load(device: Device, plan: KernelPlan, cubins: readonly Uint8Array[], weights: Uint8Array): Promise<LoadedPlan> {
    if (cubins.length !== plan.sources.length)
      throw badPlan({ what: `it has ${plan.sources.length} sources and ${cubins.length} compiled ones` });
    if (weights.byteLength !== plan.weightsBytes)
      throw badPlan({ what: `its weights should have ${plan.weightsBytes} bytes, they have ${weights.byteLength}` });
    const owned = new Owned(device.addon);
    try {
      const functions = loadFunctions(device, plan, cubins, owned);
      const memory = plan.buffers.some((b) => b.kind === "weights")
        ? owned.own(device.allocate("memory for the weights", plan.weightsBytes))
        : undefined;
      if (memory !== undefined && weights.byteLength > 0) await upload(device, memory, weights, "uploading the weights");
      return new LoadedPlan(device, plan, owned, functions, memory);
    } catch (error) {
      owned.release();
      throw error;
    }
  }

  /** Frees the modules and the weights; the first failure comes back. */
  release(): unknown {
    return this.#owned.release();
  }
}

function loadFunctions(device: Device, plan: KernelPlan, cubins: readonly Uint8Array[], owned: Owned): ReadonlyMap<string, LoadedFunction> {
  const launches = new Map<string, Launch[]>();
  for (const o of plan.operations) {
    if (o.kind !== "launch") continue;
    const known = launches.get(o.launch.kernel);
    if (known === undefined) launches.set(o.launch.kernel, [o.launch]);
    else known.push(o.launch);
  }
  const functions = new Map<string, LoadedFunction>();
  plan.sources.forEach((source, i) => {
    const cubin = cubins[i];
    const wanted = source.kernels.filter((k) => launches.has(k));
    if (cubin === undefined || wanted.length === 0) return;
    const module = owned.own(device.load(cubin, wanted));
    const info = inspectCubin(cubin);
    for (const name of wanted) {
      const uses = launches.get(name) ?? [];
      const shared = Math.max(...uses.map((l) => l.shared));
      let f: FunctionProperties;
      try {
        f = device.addon.functionGet(module, name, shared);
      } catch (error) {
        throw gpuError(error, `preparing kernel '${name}' with ${shared} bytes of shared memory`);
      }
      const parameters = f.parameters ?? info.kernels.find((k) => k.name === name)?.parameters ?? [];
      for (const l of uses) checkUse(device, l, { ...f, parameters });
      functions.set(name, { ...f, parameters });
    }
  });
  return functions;
}

/** A kernel on the GPU, its parameters from the driver or, where that is too old to say, from the cubin. */
export type LoadedFunction = FunctionProperties & { readonly parameters: readonly (readonly [number, number])[] };

/** What only the compiled kernel and the GPU can tell: parameters, threads, shared memory, clusters. */
function checkUse(device: Device, l: Launch, f: LoadedFunction): void {
  const fail = (what: string): never => {
    throw badPlan({ what: `kernel '${l.kernel}': ${what}` });
  };
  const threads = l.block[0] * l.block[1] * l.block[2];
  if (threads > f.maxThreads) fail(`${threads} threads a block, it can run with ${f.maxThreads}`);
  const shared = f.sharedBytes + l.shared;
  if (shared > device.properties.sharedPerBlockBytes)
    fail(`${shared} bytes of shared memory a block, the GPU has ${device.properties.sharedPerBlockBytes}`);
  if (l.cluster !== undefined && device.properties.sm < 90) fail("clusters need compute capability 9.0");
  const { parameters } = f;
  const given = parameterLayout(l.args);
  const text = (layout: readonly (readonly [number, number])[]): string =>
    layout.map(([at, bytes]) => `${bytes} at ${at}`).join(", ") || "none";
  // The kernel says where its parameters lie; their sizes and order are the plan's.
  const apart = parameters.every(
    ([at], i) =>
      at >= (i === 0 ? 0 : (parameters[i - 1] as readonly [number, number])[0] + (parameters[i - 1] as readonly [number, number])[1]),
  );
  if (given.length !== parameters.length || !apart || given.some(([, bytes], i) => parameters[i]?.[1] !== bytes))
    fail(`its parameters take ${text(parameters)}, the plan gives ${text(given)}`);
}
