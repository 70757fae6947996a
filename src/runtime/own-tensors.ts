/** Tensors that a session makes for its callers: page-locked memory on the host, from which a GPU reads without a copy, and memory of its GPUs. */
import { markAsUntransferable } from "node:worker_threads";
import { Owned, openDevice } from "../engines/cuda/device.js";
import { ResidentPool, upload } from "../engines/cuda/resident.js";
import type { DeviceTensor } from "../engines/engine.js";
import { isTensorDType, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import { badSession } from "./errors.js";

export class OwnTensors {
  /** GPUs of the session. */
  readonly #devices: readonly number[];
  #pinned: Owned | undefined;
  readonly #pools = new Map<number, ResidentPool>();
  readonly #uploaded = new Set<DeviceTensor>();

  constructor(devices: readonly number[]) {
    this.#devices = devices;
  }

  /** Zeros, in page-locked memory where there is a GPU. Throws P3130, P3101, P2104. */
  allocate<T extends NumericDType>(type: T, dims: readonly number[]): Tensor<T> {
    const Kind = typedArrayOf(demandNumbers(type));
    const count = dims.reduce((a, d) => a * d, 1);
    const [ordinal] = this.#devices;
    // What is wrong with dims is told with the tensor.
    if (ordinal === undefined || !Number.isSafeInteger(count) || count <= 0)
      return new Tensor(type, new Kind(Number.isSafeInteger(count) && count > 0 ? count : 0) as never, dims);
    const device = openDevice(ordinal);
    const { handle, buffer } = device.pin("pinned memory for a tensor", count * Kind.BYTES_PER_ELEMENT);
    this.#pinned ??= new Owned(device.addon);
    this.#pinned.own(handle);
    // It ends with the session, whoever has it.
    markAsUntransferable(buffer);
    new Uint8Array(buffer).fill(0);
    return new Tensor(type, new Kind(buffer) as never, dims);
  }

  /** A copy on a GPU of the session, the first when none is named. Throws P3130, P3101, P2104, P2105. */
  async upload(tensor: TensorLike, ordinal = this.#devices[0]): Promise<DeviceTensor> {
    if (ordinal === undefined || !this.#devices.includes(ordinal))
      throw badSession({
        name: "the device of a tensor",
        what: ordinal === undefined ? "is to be a GPU, and the session uses none" : `is ${ordinal}`,
        fix: this.#devices.length === 0 ? "feed the tensor as it is" : `give one of the session's: ${this.#devices.join(", ")}`,
      });
    const { type, dims, data } = new Tensor(demandNumbers(tensor.type), tensor.data as never, tensor.dims);
    const device = openDevice(ordinal);
    const pool = this.#pools.get(ordinal) ?? new ResidentPool(device, "memory for a tensor on the GPU");
    this.#pools.set(ordinal, pool);
    const there = pool.take(type, dims);
    try {
      await upload(device, there.memory, new Uint8Array(data.buffer, data.byteOffset, data.byteLength), "copying a tensor to the GPU");
    } catch (error) {
      there.release();
      throw error;
    }
    this.#uploaded.add(there);
    return there;
  }

  /** Frees all of it: arrays over pinned memory become empty. */
  end(): void {
    for (const t of this.#uploaded) t.release();
    for (const pool of this.#pools.values()) pool.end();
    this.#pinned?.release();
  }
}

function demandNumbers(type: string): NumericDType {
  if (isTensorDType(type) && type !== "string") return type;
  throw badSession({ name: "the type of a tensor", what: `is ${String(type)}`, fix: "give a type of numbers" });
}
