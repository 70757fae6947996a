/**
 * One stream's share of a plan: arena, inputs, outputs, pinned staging, and the CUDA graph that copies in, computes, and copies out. Inputs that are not small
 * are not in the graph: they cross before it, in pieces, while the next pieces are being staged.
 */
import type { DeviceTensor } from "../engine.js";
import { portBytes } from "./check.js";
import { Owned } from "./device.js";
import { badPlan, gpuError } from "./errors.js";
import type { LoadedPlan } from "./loaded.js";
import type { EventHandle, GraphHandle, HostArray, HostCopy, MemoryHandle, PinnedHandle, StreamHandle, Upload } from "./native.js";
import { packParameters } from "./parameters.js";
import type { Arg, Buffer, Launch, Operation, PortSpec } from "./plan.js";
import { Runner, SMALL } from "./runner.js";

/** Up to this, inputs are copied into the graph's pinned memory on the event loop. A larger one goes to the device before the graph, from where it lies if it is page-locked. */
const IN_GRAPH = 1 << 16;
const ALIGNMENT = 256;
/** Graphs over memory of others that an instance keeps. */
const RESIDENT_GRAPHS = 8;

const dataTypes = { uint8: 0, float16: 6, float32: 7, bfloat16: 9 } as const;
const swizzles = { 0: 0, 32: 1, 64: 2, 128: 3 } as const;
/** CU_TENSOR_MAP_L2_PROMOTION_L2_128B. */
const L2_PROMOTION = 2;

interface Staged {
  readonly port: PortSpec;
  readonly bytes: number;
  /** In the pinned memory. */
  readonly offset: number;
}

export class Instance {
  readonly stream: StreamHandle;
  readonly pinnedBytes: number;
  readonly #loaded: LoadedPlan;
  readonly #owned: Owned;
  readonly #memories: readonly (MemoryHandle | undefined)[];
  readonly #runner: Runner;
  readonly #pinned: { readonly handle: PinnedHandle; readonly buffer: ArrayBuffer };
  readonly #inputs: readonly Staged[];
  readonly #outputs: readonly Staged[];
  /** What a run is, with the copies in of small inputs alone; and with those of all. */
  readonly #graph: GraphHandle;
  #whole: GraphHandle | undefined;
  #compute: GraphHandle | undefined;
  /** The whole with an event before, between and after its copies and operations. */
  #marked: { readonly graph: GraphHandle; readonly events: readonly EventHandle[] } | undefined;
  /** Memory of others that stands in for a buffer while a graph is captured. */
  #instead: ReadonlyMap<number, MemoryHandle> = new Map();
  /** Graphs over memory of others, by its handles; the one used last stands last. */
  readonly #resident = new Map<string, GraphHandle>();

  /** Throws P2104 and P2105; nothing stays behind then. */
  constructor(loaded: LoadedPlan) {
    this.#loaded = loaded;
    const { device, plan } = loaded;
    this.#owned = new Owned(device.addon);
    try {
      this.stream = this.#owned.own(device.addon.streamCreate(device.context));
      this.#runner = new Runner(device, this.stream);
      const arena =
        plan.arenaBytes === 0 ? undefined : this.#owned.own(device.allocate("memory for intermediate results", plan.arenaBytes));
      this.#memories = plan.buffers.map((b) => {
        if (b.kind === "arena") return arena;
        if (b.kind === "weights") return loaded.weights;
        return this.#owned.own(device.allocate(`memory for an ${b.kind}`, b.bytes));
      });
      let end = 0;
      const stage = (port: PortSpec): Staged => {
        const bytes = portBytes(port);
        const offset = end;
        end += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
        return { port, bytes, offset };
      };
      this.#inputs = plan.inputs.map(stage);
      this.#outputs = plan.outputs.map(stage);
      this.pinnedBytes = end;
      this.#pinned = device.pin("pinned memory for inputs and outputs", end);
      this.#owned.own(this.#pinned.handle);
      this.#graph = this.#captured(this.#inputs.filter(isInGraph));
    } catch (error) {
      this.#owned.release();
      throw error;
    }
  }

  /** Frees everything of this stream; the first failure comes back. */
  release(): unknown {
    return this.#owned.release();
  }

  /** Captures what `issue` calls put on the stream. The graph lives as long as this. */
  capture(body: () => void): GraphHandle {
    const { addon } = this.#loaded.device;
    try {
      addon.captureBegin(this.stream);
    } catch (error) {
      throw gpuError(error, "beginning a CUDA graph");
    }
    try {
      body();
    } catch (error) {
      // The stream must leave capture mode, and whatever it holds is of no use.
      try {
        addon.release(addon.captureEnd(this.stream));
      } catch {}
      throw error;
    }
    try {
      return this.#owned.own(addon.captureEnd(this.stream));
    } catch (error) {
      throw gpuError(error, "building a CUDA graph");
    }
  }

  /** The operations alone, without copies. */
  computeGraph(): GraphHandle {
    this.#compute ??= this.capture(() => {
      for (const o of this.#loaded.plan.operations) this.issue(o);
    });
    return this.#compute;
  }
  /** With the copies of all inputs: it takes them from where `runWhole` puts them. */
  wholeGraph(): GraphHandle {
    this.#whole ??= this.#inputs.every(isInGraph) ? this.#graph : this.#captured(this.#inputs);
    return this.#whole;
  }
  #captured(inputs: readonly Staged[]): GraphHandle {
    return this.capture(() => {
      for (const s of inputs) this.#copy(s, true);
      for (const o of this.#loaded.plan.operations) this.issue(o);
      for (const s of this.#outputs) this.#copy(s, false);
    });
  }

  /** Puts one operation on the stream; `dependent: false` takes programmatic dependent launch away from it. */
  issue(o: Operation, options: { readonly dependent?: boolean } = {}): void {
    const { addon } = this.#loaded.device;
    if (o.kind === "clear") {
      if (o.bytes === 0) return;
      const { memory, base } = this.#at(o.buffer);
      try {
        addon.fill(this.stream, memory, base + o.offset, o.bytes, 0);
      } catch (error) {
        throw gpuError(error, "clearing memory");
      }
      return;
    }
    this.#launch(o.launch, options.dependent ?? o.launch.dependent === true);
  }

  #launch(l: Launch, dependent: boolean): void {
    const { addon } = this.#loaded.device;
    const f = this.#loaded.functions.get(l.kernel);
    if (f === undefined) throw badPlan({ what: `kernel '${l.kernel}' was not loaded` });
    try {
      const parameters = packParameters(
        l.args,
        {
          address: (buffer) => {
            const { memory, base } = this.#at(buffer);
            return addon.memAddress(memory) + BigInt(base);
          },
          encode: (arg) => this.#encode(arg),
        },
        f.parameters,
      );
      addon.launch(this.stream, f.handle, l.grid, l.block, l.shared, parameters, l.cluster, dependent);
    } catch (error) {
      throw gpuError(error, `launching kernel '${l.kernel}'${l.nodes.length === 0 ? "" : ` (${l.nodes.slice(0, 4).join(", ")})`}`);
    }
  }

  #at(index: number): { readonly memory: MemoryHandle; readonly base: number } {
    const buffer: Buffer | undefined = this.#loaded.plan.buffers[index];
    const other = this.#instead.get(index);
    if (buffer !== undefined && other !== undefined) return { memory: other, base: 0 };
    const memory = this.#memories[index];
    if (buffer === undefined || memory === undefined) throw badPlan({ what: `buffer ${index} has no memory` });
    return { memory, base: buffer.offset };
  }

  #encode(arg: Arg & { readonly kind: "tensorMap" }): Uint8Array {
    const { addon } = this.#loaded.device;
    const { memory, base } = this.#at(arg.buffer);
    const { map } = arg;
    const [type, swizzle, at] = [dataTypes[map.dtype], swizzles[map.swizzle], base + arg.offset];
    if (map.mode === "tiled")
      return addon.tensorMapTiled(memory, at, type, map.dims, map.strides, map.box, map.elementStrides, 0, swizzle, L2_PROMOTION, 0);
    const [channels = 0, pixels = 0] = map.box;
    const { lowerCorner = [], upperCorner = [] } = map;
    return addon.tensorMapIm2col(
      memory,
      at,
      type,
      map.dims,
      map.strides,
      lowerCorner,
      upperCorner,
      channels,
      pixels,
      map.elementStrides,
      0,
      swizzle,
      L2_PROMOTION,
      0,
    );
  }

  #copy(s: Staged, up: boolean): void {
    if (s.bytes === 0) return;
    const { addon } = this.#loaded.device;
    const { memory, base } = this.#at(s.port.buffer);
    try {
      if (up) addon.copy(this.stream, memory, base, this.#pinned.handle, s.offset, s.bytes);
      else addon.copy(this.stream, this.#pinned.handle, s.offset, memory, base, s.bytes);
    } catch (error) {
      throw gpuError(error, `copying '${s.port.name}'`);
    }
  }

  #withMarks(): { readonly graph: GraphHandle; readonly events: readonly EventHandle[] } {
    if (this.#marked !== undefined) return this.#marked;
    const { device, plan } = this.#loaded;
    const events: EventHandle[] = [];
    const mark = (): void => {
      const event = this.#owned.own(device.addon.eventCreate(device.context));
      events.push(event);
      try {
        device.addon.eventRecord(this.stream, event, true);
      } catch (error) {
        throw gpuError(error, "recording an event");
      }
    };
    const graph = this.capture(() => {
      mark();
      for (const s of this.#inputs) this.#copy(s, true);
      mark();
      for (const o of plan.operations) {
        this.issue(o, { dependent: false });
        mark();
      }
      for (const s of this.#outputs) this.#copy(s, false);
      mark();
    });
    this.#marked = { graph, events };
    return this.#marked;
  }

  /** As `run`; also milliseconds on the device from its start: when the copies in were over, each operation, the copies out. No launch overlaps another then. */
  async runMarked(inputs: readonly Uint8Array[]): Promise<{ readonly results: readonly ArrayBuffer[]; readonly marks: readonly number[] }> {
    const { graph, events } = this.#withMarks();
    const results = await this.runWhole(inputs, graph);
    const [from, ...rest] = events;
    const { addon } = this.#loaded.device;
    return { results, marks: from === undefined ? [] : rest.map((e) => addon.eventElapsed(from, e)) };
  }

  /** One inference: `inputs[i]` holds the bytes of input i; gives back those of the outputs, each in a buffer of its own. */
  run(inputs: readonly Uint8Array[]): Promise<readonly ArrayBuffer[]> {
    return this.#run(this.#graph, this.#fed(this.#inputs.map((s, i) => [s, inputs[i]])));
  }
  /** As `run`, by a graph that copies all inputs in: their bytes are in the pinned memory then, and stay there. */
  runWhole(inputs: readonly Uint8Array[], graph: GraphHandle = this.wholeGraph()): Promise<readonly ArrayBuffer[]> {
    const into = this.#inputs.flatMap((s, i): HostCopy[] => {
      const bytes = inputs[i];
      return bytes === undefined || s.bytes === 0 ? [] : [[this.#pinned.handle, s.offset, own(bytes)]];
    });
    return this.#run(graph, into);
  }
  async #run(graph: GraphHandle, into: readonly (HostCopy | Upload)[]): Promise<readonly ArrayBuffer[]> {
    const out: HostCopy[] = [];
    const results = this.#outputs.map((s) => this.#fetched(s, out));
    try {
      await this.#runner.execute(graph, into, out);
    } catch (error) {
      throw gpuError(error, "running the kernels");
    }
    return results.map((result) => result());
  }
  /** Puts small arrays into the pinned memory, from where a graph takes them, and says how others go to the device before it. */
  #fed(arrays: readonly (readonly [Staged, Uint8Array | undefined])[]): Upload[] {
    return arrays.flatMap(([s, bytes]): Upload[] => {
      if (bytes === undefined || s.bytes === 0) return [];
      if (isInGraph(s)) {
        new Uint8Array(this.#pinned.buffer, s.offset, s.bytes).set(bytes);
        return [];
      }
      const { memory, base } = this.#at(s.port.buffer);
      return [[memory, base, own(bytes), this.#pinned.handle, s.offset]];
    });
  }
  /** An output's bytes when the run is over: a large one is copied by another thread, by way of `out`. */
  #fetched(s: Staged, out: HostCopy[]): () => ArrayBuffer {
    if (s.bytes <= SMALL) return () => this.#pinned.buffer.slice(s.offset, s.offset + s.bytes);
    const buffer = new ArrayBuffer(s.bytes);
    out.push([this.#pinned.handle, s.offset, buffer]);
    return () => buffer;
  }

  /**
   * One inference where tensors lie in memory of others: `from[i]` is input i, as bytes or on the device; `to[i]` is where output i goes, with the room of
   * its buffer, or undefined for bytes. Reads and writes in place (an input without the room of its buffer is copied): a graph is captured for each set of
   * memories, and some are kept.
   */
  async runResident(
    from: readonly (Uint8Array | Pick<DeviceTensor, "memory" | "room">)[],
    to: readonly (MemoryHandle | undefined)[],
  ): Promise<readonly (ArrayBuffer | undefined)[]> {
    const inputs = this.#inputs.map((s, i) => ({ s, there: from[i] }));
    const staged = inputs.flatMap(({ s, there }) => (there instanceof Uint8Array ? [{ s, bytes: there }] : []));
    const fetched = this.#outputs.filter((_, i) => to[i] === undefined);
    const instead = new Map<number, MemoryHandle>();
    const copied = new Map<Staged, MemoryHandle>();
    for (const { s, there } of inputs) {
      if (there === undefined || there instanceof Uint8Array) continue;
      const whole = there.room >= (this.#loaded.plan.buffers[s.port.buffer]?.bytes ?? 0);
      if (whole) instead.set(s.port.buffer, there.memory);
      else copied.set(s, there.memory);
    }
    // An output that is an input, weights, or another output as well is copied: its buffer cannot lie in two places.
    const given = new Map<Staged, MemoryHandle>();
    this.#outputs.forEach((s, i) => {
      const there = to[i];
      if (there === undefined) return;
      const own =
        this.#loaded.plan.buffers[s.port.buffer]?.kind === "output" &&
        this.#outputs.every((o) => o === s || o.port.buffer !== s.port.buffer);
      if (own) instead.set(s.port.buffer, there);
      else given.set(s, there);
    });
    const graph = this.#residentGraph(instead, { into: copied, out: given }, staged.map((x) => x.s).filter(isInGraph), fetched);
    const into = this.#fed(staged.map(({ s, bytes }) => [s, bytes]));
    const out: HostCopy[] = [];
    const results = this.#outputs.map((s, i) => (to[i] === undefined ? this.#fetched(s, out) : undefined));
    try {
      await this.#runner.execute(graph, into, out);
    } catch (error) {
      throw gpuError(error, "running the kernels");
    }
    return results.map((result) => result?.());
  }

  #residentGraph(
    instead: ReadonlyMap<number, MemoryHandle>,
    copies: { readonly into: ReadonlyMap<Staged, MemoryHandle>; readonly out: ReadonlyMap<Staged, MemoryHandle> },
    up: readonly Staged[],
    down: readonly Staged[],
  ): GraphHandle {
    const { addon } = this.#loaded.device;
    const named = (list: Iterable<readonly [Staged, MemoryHandle]>): string => [...list].map(([s, m]) => `${s.port.buffer}=${m}`).join();
    const key = `${[...instead].map((pair) => pair.join(":")).join()} ${named(copies.into)} ${named(copies.out)}`;
    const known = this.#resident.get(key);
    this.#resident.delete(key);
    if (known !== undefined) {
      this.#resident.set(key, known);
      return known;
    }
    this.#instead = instead;
    let graph: GraphHandle;
    try {
      graph = this.capture(() => {
        for (const s of up) this.#copy(s, true);
        for (const [s, memory] of copies.into) {
          const own = this.#at(s.port.buffer);
          if (s.bytes > 0) addon.copy(this.stream, own.memory, own.base, memory, 0, s.bytes);
        }
        for (const o of this.#loaded.plan.operations) this.issue(o);
        for (const [s, memory] of copies.out) {
          const own = this.#at(s.port.buffer);
          if (s.bytes > 0) addon.copy(this.stream, memory, 0, own.memory, own.base, s.bytes);
        }
        for (const s of down) this.#copy(s, false);
      });
    } finally {
      this.#instead = new Map();
    }
    const [oldest] = this.#resident;
    if (this.#resident.size >= RESIDENT_GRAPHS && oldest !== undefined) {
      this.#resident.delete(oldest[0]);
      this.#owned.drop(oldest[1]);
    }
    this.#resident.set(key, graph);
    return graph;
  }

  /** Milliseconds of each of `count` replays of a graph of this instance, after `warmup` more. */
  async time(graph: GraphHandle, warmup: number, count: number): Promise<Float64Array> {
    try {
      return await this.#loaded.device.addon.timeGraph(this.stream, graph, warmup, count);
    } catch (error) {
      throw gpuError(error, "timing a CUDA graph");
    }
  }

  /** Frees a graph made by `capture` before the rest. */
  drop(graph: GraphHandle): void {
    this.#loaded.device.addon.release(graph);
  }
}

const isInGraph = (s: Staged): boolean => s.bytes <= IN_GRAPH;
/** The addon takes no shared memory. */
const own = (bytes: Uint8Array): HostArray => (bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : bytes.slice());
