/** ONNX Runtime for calibration and for the comparison of quantized graphs: whole graphs, several runs at once, one thread each. */
import { randomUUID } from "node:crypto";
import { availableParallelism, totalmem } from "node:os";
import { payloadLength } from "../../ir/payload.js";
import type { Graph } from "../../ir/types.js";
import { lower } from "../../passes/lower.js";
import type { Feeds, OpenGraph, ReducerModule, Reduction, Runner } from "../../quantize/types.js";
import type { TensorLike } from "../../tensor.js";
import type { Artifact } from "../engine.js";
import { hostEngine } from "./index.js";
import { keeps } from "./keeps.js";
import { inKernelsLayout } from "./layout.js";
import { type HostWorker, pickWorker, SessionLost, workerDied } from "./pool.js";
import { sessionOptions } from "./stream.js";

export interface RunnerOptions {
  /** Threads over all runs; those of the machine by default. */
  readonly threads?: number | undefined;
}

/** "int8" lets ONNX Runtime use its integer kernels where a graph carries Q/DQ; it changes nothing for other graphs. */
const TARGET = { sm: 0, tensorrt: 0, precision: "int8" } as const;

/**
 * Runs of one thread each, as many at once as there are threads: no thread waits for another, and results do not depend on the number of
 * threads. Every one of them holds the weights; when these are large there are fewer.
 */
export function hostRunner(options: RunnerOptions = {}): Runner {
  const streamsFor = (g: Graph): number => {
    let weights = 0;
    for (const c of g.constants.values()) weights += payloadLength(c.data);
    const most = Math.max(1, Math.floor(totalmem() / 4 / Math.max(1, weights)));
    return Math.min(most, options.threads ?? availableParallelism());
  };
  return {
    async open(graph): Promise<OpenGraph> {
      const artifact = await hostEngine.build(lower(graph, keeps), { target: TARGET });
      const executable = await hostEngine.open(artifact, { streams: streamsFor(graph), threads: 1 });
      return {
        async run(feeds) {
          const outs = await executable.run(artifact.inputs.map((name) => feeds[name] as TensorLike));
          return Object.fromEntries(artifact.outputs.map((name, i) => [name, outs[i] as TensorLike]));
        },
        dispose: () => executable.dispose(),
      };
    },
    async reduce(graph, reducer): Promise<Reduction> {
      const artifact = await hostEngine.build(lower(graph, keeps), { target: TARGET });
      const optimized = await unorderedModel(artifact, reducer.unordered);
      const streams: ReducingStream[] = [];
      const dispose = async (): Promise<void> => void (await Promise.all(streams.map((s) => s.dispose())));
      try {
        for (let i = streamsFor(graph); i > 0; i--)
          streams.push(
            await ReducingStream.open(
              artifact,
              optimized,
              reducer,
              streams.map((s) => s.worker),
            ),
          );
      } catch (error) {
        await dispose();
        throw error;
      }
      return {
        streams: streams.length,
        run: async (feeds) => await streams.reduce((a, b) => (b.worker.load < a.worker.load ? b : a)).run(feeds),
        collect: async () => await Promise.all(streams.map((s) => s.collect())),
        dispose,
      };
    },
  };
}

/** The model with unordered outputs in ONNX Runtime's own layout; what it makes of a model is loaded from memory, so a model in files stays. */
async function unorderedModel(artifact: Artifact, unordered: ReadonlySet<string>): Promise<Uint8Array | undefined> {
  const [file] = artifact.files;
  if (file === undefined || "path" in file || !artifact.outputs.some((name) => unordered.has(name))) return undefined;
  return await inKernelsLayout(file.bytes, unordered, pickWorker(), artifact.settings?.["without"]);
}

/** A session on one worker together with what takes in its outputs there. It does not outlive the worker: what was seen is lost with it. */
class ReducingStream {
  readonly worker: HostWorker;
  readonly #artifact: Artifact;
  readonly #id = randomUUID();
  #generation = -1;

  private constructor(artifact: Artifact, worker: HostWorker) {
    this.#artifact = artifact;
    this.worker = worker;
  }

  static async open(
    artifact: Artifact,
    optimized: Uint8Array | undefined,
    reducer: ReducerModule,
    except: readonly HostWorker[],
  ): Promise<ReducingStream> {
    const stream = new ReducingStream(artifact, pickWorker(except));
    stream.worker.sessions++;
    try {
      const [file] = artifact.files;
      if (file === undefined) throw new Error("a host artifact without its model");
      const model = optimized ?? ("path" in file ? file.path : file.bytes);
      const options = sessionOptions(1, optimized === undefined ? "all" : "disabled", artifact.settings?.["without"]);
      const { inputs, outputs } = artifact;
      await stream.worker.call({ op: "create", session: stream.#id, model, options, inputs, outputs });
      stream.#generation = stream.worker.generation;
      await stream.#call({ op: "reducer", module: reducer.module.href, settings: reducer.settings });
    } catch (error) {
      await stream.dispose();
      throw error;
    }
    return stream;
  }

  async run(feeds: Feeds): Promise<void> {
    const list = this.#artifact.inputs.map((name) => {
      const t = feeds[name] as TensorLike;
      return [name, t.type, t.data, t.dims];
    });
    await this.#call({ op: "reduce", feeds: list });
  }

  async collect(): Promise<unknown> {
    return (await this.#call<{ seen: unknown }>({ op: "collect" })).seen;
  }

  async #call<T>(message: Readonly<Record<string, unknown>>): Promise<T> {
    try {
      return await this.worker.call<T>({ ...message, session: this.#id, reducer: this.#id }, { generation: this.#generation });
    } catch (error) {
      throw error instanceof SessionLost ? workerDied({ why: "it was replaced, and what it had seen is lost" }) : error;
    }
  }

  async dispose(): Promise<void> {
    this.worker.sessions--;
    // A worker that died has nothing left to release.
    if (this.#generation === this.worker.generation) await this.#call({ op: "dispose" });
  }
}
