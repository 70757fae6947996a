/**
 * What one run needs for itself: an execution context, a stream, device memory for every input and output, pinned memory by way of which their arrays cross,
 * and a CUDA graph of the dims that came last, once they came twice.
 */
import { Tensor, type TensorDType, type TensorLike, typedArrayOf } from "../../tensor.js";
import { type Device, Owned } from "../cuda/device.js";
import { gpuError } from "../cuda/errors.js";
import type { GraphHandle, HostArray, HostCopy, MemoryHandle, PinnedHandle, StreamHandle, Upload } from "../cuda/native.js";
import { isResident, type ResidentPool } from "../cuda/resident.js";
import { Runner, SMALL } from "../cuda/runner.js";
import type { DeviceTensor } from "../engine.js";
import { badInput, planIncomplete } from "./errors.js";
import type { Context, Engine, InputBinding, IoTensor, IoType, LayerTime, OutputBinding, RunRequest, RunResult } from "./native.js";

/** Rows of dims whose outputs' dims are remembered. */
const REMEMBERED = 64;

const tensorTypes: Partial<Record<IoType, Exclude<TensorDType, "string">>> = {
  float32: "float32",
  float16: "float16",
  bfloat16: "bfloat16",
  int8: "int8",
  int32: "int32",
  int64: "int64",
  uint8: "uint8",
  bool: "bool",
};
/** The tensor type of an engine's input or output. Throws P2203 for one that tensors do not have. */
export function tensorTypeOf(t: IoTensor): Exclude<TensorDType, "string"> {
  const type = tensorTypes[t.dtype];
  if (type === undefined) throw planIncomplete({ what: `'${t.name}' of the plan is of type ${t.dtype}, which no tensor has` });
  return type;
}

interface Room {
  readonly memory: MemoryHandle;
  readonly bytes: number;
}
interface Pinned {
  readonly handle: PinnedHandle;
  readonly buffer: ArrayBuffer;
}
interface Captured {
  readonly key: string;
  readonly graph: GraphHandle;
}

export interface SlotParts {
  readonly engine: Engine;
  readonly context: Context;
  readonly device: Device;
  /** The engine's inputs and outputs in the artifact's order. */
  readonly inputs: readonly IoTensor[];
  readonly outputs: readonly IoTensor[];
  /** Whether enqueueV3 is captured as a CUDA graph once dims come again. */
  readonly graphs: boolean;
}

export class Slot {
  readonly #parts: SlotParts;
  readonly #owned: Owned;
  readonly #stream: StreamHandle;
  readonly #runner: Runner;
  readonly #room = new Map<string, Room>();
  readonly #pinned = new Map<string, Pinned>();
  readonly #outputDims = new Map<string, readonly (readonly number[])[]>();
  #captured: Captured | undefined;
  #lastKey: string | undefined;
  #graphs: boolean;

  /** Throws P2105. */
  constructor(parts: SlotParts) {
    this.#parts = parts;
    this.#owned = new Owned(parts.device.addon);
    // A shape tensor's elements are baked into a graph.
    this.#graphs = parts.graphs && [...parts.inputs, ...parts.outputs].every((t) => t.location === "device");
    try {
      this.#stream = this.#owned.own(parts.device.addon.streamCreate(parts.device.context));
      this.#runner = new Runner(parts.device, this.#stream);
    } catch (error) {
      throw gpuError(error, "creating a stream");
    }
  }

  /** One inference. Outputs with `keep[i]` stay on the device, in memory of `pool`. Throws P2204, P2217, P2218, P2104, P2105. */
  async run(
    feeds: readonly (TensorLike | DeviceTensor)[],
    keep: readonly boolean[] = [],
    pool?: ResidentPool,
  ): Promise<readonly (Tensor | DeviceTensor)[]> {
    const inputs = this.#inputs(feeds);
    const sizes = inputs.map((i) => i.dims.join("x")).join();
    const dims = this.#dimsOf(sizes, inputs);
    const outputs = this.#outputs(dims, keep, pool);
    // A graph has neither memory nor dims to wait for.
    if (dims.some(isOpen)) this.#graphs = false;
    try {
      // A graph has the addresses of its tensors in it, and those of the weights.
      const key = [this.#parts.engine.refits, sizes, ...[...inputs, ...outputs].map((b) => b.memory)].join(" ");
      let result: RunResult | undefined;
      if (this.#captured?.key === key) await this.#replay(this.#captured.graph, inputs, outputs);
      else {
        result = await this.#parts.context.run(this.#request(inputs, outputs));
        if (this.#graphs && this.#lastKey === key) await this.#capture(key, inputs, outputs);
      }
      this.#lastKey = key;
      return outputs.map((o, i) => o.kept ?? o.tensor(result, i));
    } catch (error) {
      for (const o of outputs) o.kept?.release();
      throw error;
    }
  }

  /** One inference with the time of each layer. */
  async profile(feeds: readonly TensorLike[]): Promise<readonly LayerTime[]> {
    const inputs = this.#inputs(feeds);
    const outputs = this.#outputs(this.#dimsOf(inputs.map((i) => i.dims.join("x")).join(), inputs));
    return (await this.#parts.context.profile(this.#request(inputs, outputs))).layers;
  }

  /** Milliseconds on the device of each of `count` replays at the dims of `feeds`; undefined where no graph can be captured. */
  async time(feeds: readonly TensorLike[], warmup: number, count: number): Promise<Float64Array | undefined> {
    for (let i = 0; i < 3 && this.#captured === undefined; i++) await this.run(feeds);
    if (this.#captured === undefined) return undefined;
    try {
      return await this.#parts.device.addon.timeGraph(this.#stream, this.#captured.graph, warmup, count);
    } catch (error) {
      throw gpuError(error, "timing a TensorRT engine");
    }
  }

  async release(): Promise<void> {
    this.#drop();
    await this.#parts.context.dispose();
    this.#owned.release();
  }

  #inputs(feeds: readonly (TensorLike | DeviceTensor)[]): readonly Input[] {
    const ports = this.#parts.inputs;
    if (feeds.length !== ports.length)
      throw badInput({ what: `${feeds.length} inputs were given, the engine takes ${ports.length}`, fix: "feed every input once" });
    return ports.map((port, i) => {
      const t = feeds[i] as TensorLike | DeviceTensor;
      this.#fits(port, t);
      if (isResident(t)) return { name: port.name, dims: t.dims, memory: t.memory, host: undefined, copies: [] };
      const { data } = new Tensor(tensorTypeOf(port), t.data as never, t.dims);
      const view = data as Uint8Array;
      const host = hostArray(new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
      if (port.location === "host") return { name: port.name, dims: t.dims, memory: undefined, host, copies: [] };
      const { memory } = this.#roomFor(port.name, host.byteLength);
      const copies: Upload[] = host.byteLength === 0 ? [] : [[memory, 0, host, this.#pinnedFor(port.name, host.byteLength).handle, 0]];
      return { name: port.name, dims: t.dims, memory, host, copies };
    });
  }

  /** Type, rank and profile of one input. Throws P2204. */
  #fits(port: IoTensor, t: Pick<TensorLike, "type" | "dims">): void {
    const type = tensorTypeOf(port);
    const said = `'${port.name}' is ${t.type} [${t.dims.join(", ")}]`;
    const text = port.dims.map((d) => (d < 0 ? "?" : d)).join(", ");
    if (t.type !== type || t.dims.length !== port.dims.length || port.dims.some((d, i) => d >= 0 && d !== t.dims[i]))
      throw badInput(
        { what: `${said}, the engine takes ${type} [${text}]`, fix: "feed a tensor of that type and those dims" },
        { value: port.name },
      );
    const range = this.#parts.engine.range(port.name);
    if (range === undefined || range.values === true) return;
    const { min, max } = range;
    if (t.dims.some((d, i) => d < (min[i] ?? 0) || d > (max[i] ?? d)))
      throw badInput(
        {
          what: `${said}, the engine was built for [${min.join(", ")}] to [${max.join(", ")}]`,
          fix: "compile with a wider range of shapes for the model's inputs",
        },
        { value: port.name },
      );
  }

  #dimsOf(key: string, inputs: readonly Input[]): readonly (readonly number[])[] {
    const known = this.#outputDims.get(key);
    if (known !== undefined) return known;
    const ports = this.#parts.outputs;
    const all = inputs.every((i) => i.memory !== undefined);
    const found = this.#parts.context.outputDims(
      inputs.map((i) => ({ name: i.name, dims: i.dims, ...(i.memory === undefined ? { host: i.host } : {}) })),
    );
    const dims = ports.map((p) => {
      const own = found[p.name];
      if (own === undefined) throw planIncomplete({ what: `the plan tells no dims of output '${p.name}'` });
      return own;
    });
    // Elements of shape tensors decide dims too, and are not in the key.
    if (all) {
      if (this.#outputDims.size >= REMEMBERED) this.#outputDims.clear();
      this.#outputDims.set(key, dims);
    }
    return dims;
  }

  #outputs(dims: readonly (readonly number[])[], keep: readonly boolean[] = [], pool?: ResidentPool): readonly Output[] {
    const outputs: Output[] = [];
    try {
      for (const i of this.#parts.outputs.keys()) outputs.push(this.#output(i, dims[i] ?? [], keep[i] === true ? pool : undefined));
      return outputs;
    } catch (error) {
      for (const o of outputs) o.kept?.release();
      throw error;
    }
  }
  /** `pool`: it stays on the device. */
  #output(i: number, own: readonly number[], pool: ResidentPool | undefined): Output {
    const port = this.#parts.outputs[i] as IoTensor;
    if (isOpen(own))
      return { name: port.name, memory: undefined, host: undefined, copies: [], tensor: (found, at) => foundTensor(port, found, at) };
    if (pool !== undefined && port.location === "device") {
      const kept = pool.take(tensorTypeOf(port), own);
      const none = (): Tensor => {
        throw new Error(`'${port.name}' stays on the device`);
      };
      return { name: port.name, memory: kept.memory, host: undefined, copies: [], kept, tensor: none };
    }
    const Typed = typedArrayOf(tensorTypeOf(port));
    const bytes = own.reduce((a, d) => a * d, Typed.BYTES_PER_ELEMENT);
    const tensor = (buffer: ArrayBuffer): Tensor => new Tensor(tensorTypeOf(port), new Typed(buffer) as never, own);
    if (port.location === "host" || bytes === 0) {
      const host = new ArrayBuffer(bytes);
      const memory = port.location === "host" ? undefined : this.#roomFor(port.name, bytes).memory;
      return { name: port.name, memory, host, copies: [], tensor: () => tensor(host) };
    }
    const { memory } = this.#roomFor(port.name, bytes);
    const pinned = this.#pinnedFor(port.name, bytes);
    const view = new Uint8Array(pinned.buffer, 0, bytes);
    if (bytes <= SMALL)
      return { name: port.name, memory, host: view, copies: [[memory, 0, view]], tensor: () => tensor(view.slice().buffer) };
    const host = new ArrayBuffer(bytes);
    return {
      name: port.name,
      memory,
      host,
      copies: [
        [memory, 0, view],
        [pinned.handle, 0, host],
      ],
      tensor: () => tensor(host),
    };
  }

  #request(inputs: readonly Input[], outputs: readonly Output[]): RunRequest {
    return { stream: this.#stream, inputs: inputs.map(binding), outputs: outputs.map(binding) };
  }

  async #replay(graph: GraphHandle, inputs: readonly Input[], outputs: readonly Output[]): Promise<void> {
    try {
      await this.#runner.execute(
        graph,
        inputs.flatMap((i) => i.copies),
        outputs.flatMap((o) => o.copies),
      );
    } catch (error) {
      throw gpuError(error, "running a TensorRT engine");
    }
  }

  /** Some layers cannot be captured: the engine then runs without a graph for good. */
  async #capture(key: string, inputs: readonly Input[], outputs: readonly Output[]): Promise<void> {
    this.#drop();
    const bare = (list: readonly (Input | Output)[]): (InputBinding & OutputBinding)[] =>
      list.map((b) => binding({ ...b, host: undefined }));
    try {
      const graph = await this.#parts.context.capture({ stream: this.#stream, inputs: bare(inputs), outputs: bare(outputs) });
      this.#captured = { key, graph };
    } catch {
      this.#graphs = false;
    }
  }
  #drop(): void {
    if (this.#captured === undefined) return;
    this.#parts.device.addon.release(this.#captured.graph);
    this.#captured = undefined;
  }

  /** Device memory that holds so many bytes; a graph that was captured over smaller memory goes with it. */
  #roomFor(name: string, bytes: number): Room {
    const known = this.#room.get(name);
    const needed = Math.max(bytes, 256);
    if (known !== undefined && known.bytes >= needed) return known;
    this.#drop();
    if (known !== undefined) this.#owned.drop(known.memory);
    // Where there is no memory for the larger one, the next run must not take what is gone.
    this.#room.delete(name);
    const room = { memory: this.#owned.own(this.#parts.device.allocate(`memory for '${name}'`, needed)), bytes: needed };
    this.#room.set(name, room);
    return room;
  }
  #pinnedFor(name: string, bytes: number): Pinned {
    const known = this.#pinned.get(name);
    if (known !== undefined && known.buffer.byteLength >= bytes) return known;
    if (known !== undefined) this.#owned.drop(known.handle);
    this.#pinned.delete(name);
    const pinned = this.#parts.device.pin(`pinned memory for '${name}'`, bytes);
    this.#owned.own(pinned.handle);
    this.#pinned.set(name, pinned);
    return pinned;
  }
}

interface Input {
  readonly name: string;
  readonly dims: readonly number[];
  readonly memory: MemoryHandle | undefined;
  /** Undefined for a tensor that is on the device already. */
  readonly host: HostArray | undefined;
  /** Its array on the way to the memory, before a graph. */
  readonly copies: readonly Upload[];
}
interface Output {
  readonly name: string;
  readonly memory: MemoryHandle | undefined;
  /** Undefined for one that stays on the device. */
  readonly host: HostArray | undefined;
  /** The memory on the way to what `tensor` reads, behind a graph. */
  readonly copies: readonly HostCopy[];
  readonly kept?: DeviceTensor | undefined;
  /** `result` and the output's place in it are for those whose dims came with the run. */
  readonly tensor: (result: RunResult | undefined, at: number) => Tensor;
}

const isOpen = (dims: readonly number[]): boolean => dims.some((d) => d < 0);

/** An output whose dims the data decided. */
function foundTensor(port: IoTensor, result: RunResult | undefined, at: number): Tensor {
  const [dims, bytes] = [result?.dims[at], result?.data?.[at]];
  if (dims === undefined || bytes === undefined) throw planIncomplete({ what: `a run gave no output '${port.name}'` });
  const Typed = typedArrayOf(tensorTypeOf(port));
  return new Tensor(tensorTypeOf(port), new Typed(new Uint8Array(bytes).buffer) as never, dims);
}

/** What the addon reads of it: a key that is there must have a value. */
function binding({ name, memory, host, ...rest }: Input | Output): InputBinding & OutputBinding {
  const dims = "dims" in rest ? { dims: rest.dims } : {};
  return { name, ...dims, ...(memory === undefined ? {} : { memory }), ...(host === undefined ? {} : { host }) } as InputBinding;
}

/** The addon takes no shared memory. */
const hostArray = (bytes: Uint8Array): HostArray =>
  bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
