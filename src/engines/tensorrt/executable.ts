/** Runs a deserialized engine: a pool of slots for runs that overlap, each with an execution context of its own. */
import { performance } from "node:perf_hooks";
import type { Tensor, TensorLike } from "../../tensor.js";
import type { Device } from "../cuda/device.js";
import { ResidentPool } from "../cuda/resident.js";
import type { Executable, LayerFacts, RunOptions } from "../engine.js";
import { planIncomplete } from "./errors.js";
import type { Engine, IoTensor } from "./native.js";
import { Pool } from "./pool.js";
import { Slot, tensorTypeOf } from "./slot.js";

export interface OpenEngineOptions {
  readonly device: Device;
  /** Names in the artifact's order; the engine must have just these. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Runs that may be under way at once. */
  readonly streams: number;
  readonly graphs: boolean;
}

export interface TensorRtExecutable extends Executable {
  /** TensorRT's inspector, parsed. */
  inspect(): unknown;
  /** Bytes of activations of one context, and how many there are. */
  readonly memory: { readonly activations: number; readonly contexts: number };
}

/** Takes the engine over: `dispose` ends it. Throws P2203, P2105, P2216, P2221; the engine is the caller's then. */
export async function openEngine(engine: Engine, options: OpenEngineOptions): Promise<TensorRtExecutable> {
  const { device, graphs } = options;
  const port = (name: string, mode: IoTensor["mode"]): IoTensor => {
    const found = engine.io.find((t) => t.name === name && t.mode === mode);
    if (found === undefined) throw planIncomplete({ what: `the plan has no ${mode} '${name}'` });
    tensorTypeOf(found);
    return found;
  };
  const inputs = options.inputs.map((name) => port(name, "input"));
  const outputs = options.outputs.map((name) => port(name, "output"));
  const extra = engine.io.find((t) => !inputs.includes(t) && !outputs.includes(t));
  if (extra !== undefined) throw planIncomplete({ what: `the plan has an ${extra.mode} '${extra.name}' that the bundle does not name` });
  const slots: Slot[] = [];
  try {
    for (let i = 0; i < Math.max(1, Math.floor(options.streams)); i++)
      slots.push(new Slot({ engine, context: await engine.createContext(), device, inputs, outputs, graphs }));
  } catch (error) {
    for (const s of slots) await s.release();
    throw error;
  }
  const pool = new Pool(slots);
  const kept = new ResidentPool(device, "memory for results that stay on the GPU");
  return {
    memory: { activations: engine.deviceMemoryBytes, contexts: slots.length },
    run: (feeds: readonly TensorLike[], { signal, phases }: RunOptions = {}) => {
      const called = performance.now();
      return pool.using(async (s) => {
        const start = performance.now();
        const results = await s.run(feeds);
        // Copies are inside: a run's graph holds them.
        phases?.push({ name: "wait", startMs: called, endMs: start }, { name: "compute", startMs: start, endMs: performance.now() });
        return results;
      }, signal) as Promise<readonly Tensor[]>;
    },
    runResident: (feeds, keep, { signal } = {}) => pool.using((s) => s.run(feeds, keep, kept), signal),
    async timeUs(feeds) {
      const samples = await pool.using((s) => s.time(feeds, 5, 50));
      return samples === undefined ? undefined : 1000 * (samples.toSorted()[samples.length >> 1] as number);
    },
    async layers(feeds): Promise<readonly LayerFacts[]> {
      return (await pool.using((s) => s.profile(feeds))).map(({ name, ms }) => ({ name, us: 1000 * ms }));
    },
    inspect: () => engine.inspect(),
    async dispose() {
      await pool.end((s) => s.release());
      kept.end();
      await engine.dispose();
    },
  };
}
