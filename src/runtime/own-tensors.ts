/** Tensors that a session makes for its callers: page-locked memory on the host, from which a GPU reads without a copy, and memory of its GPUs. */
import * as threads from "node:worker_threads";
import { openDevice } from "../engines/cuda/device.js";
import type { NativeAddon, PinnedHandle } from "../engines/cuda/native.js";
import { ResidentPool, upload } from "../engines/cuda/resident.js";
import type { DeviceTensor } from "../engines/engine.js";
import { badTensor, isTensorDType, listOfDims, type NumericDType, Tensor, type TensorLike, typedArrayOf } from "../tensor.js";
import { badSession } from "./errors.js";

export class OwnTensors {
  /** GPUs of the session. */
  readonly #devices: readonly number[];
  readonly #pinned: { readonly addon: NativeAddon; readonly handle: PinnedHandle; readonly buffer: ArrayBuffer }[] = [];
  readonly #pools = new Map<number, ResidentPool>();
  readonly #uploaded = new Set<DeviceTensor>();

  constructor(devices: readonly number[]) {
    this.#devices = devices;
  }

  /** Zeros, in page-locked memory where there is a GPU. Throws P3130, P3101, P2104. */
  allocate<T extends NumericDType>(type: T, given: readonly number[]): Tensor<T> {
    const Kind = typedArrayOf(demandNumbers(type));
    const dims = listOfDims(given);
    const plain = (length: number): Tensor<T> => new Tensor(type, new Kind(length) as never, dims);
    const count = dims.reduce((a, d) => a * d, 1);
    // What is wrong with dims is told with the tensor.
    if (!(count > 0 && Number.isInteger(count))) return plain(0);
    const bytes = count * Kind.BYTES_PER_ELEMENT;
    const [ordinal] = this.#devices;
    try {
      if (ordinal === undefined || !Number.isSafeInteger(bytes)) return plain(count);
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      throw badTensor(
        { what: `dims [${dims.join(", ")}] take ${bytes} bytes, which cannot be had here`, fix: "give smaller dims" },
        {},
        cause,
      );
    }
    const device = openDevice(ordinal);
    const { handle, buffer } = device.pin("pinned memory for a tensor", bytes);
    this.#pinned.push({ addon: device.addon, handle, buffer });
    // It ends with the session, whoever has it. Versions of Node.js that can tell mark such memory themselves; marked once more it could not end.
    if (!("isMarkedAsUntransferable" in threads)) threads.markAsUntransferable(buffer);
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
    const { type, dims, data } = new Tensor(demandNumbers(tensor?.type), tensor.data as never, tensor.dims);
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
    // What was moved into another array all the same is left to that: freed memory must not be read.
    for (const { addon, handle, buffer } of this.#pinned) if (buffer.byteLength > 0) addon.release(handle);
    this.#pinned.length = 0;
  }
}

function demandNumbers(type: string | undefined): NumericDType {
  if (type !== undefined && isTensorDType(type) && type !== "string") return type;
  throw badSession({ name: "the type of a tensor", what: `is ${String(type)}`, fix: "give a type of numbers" });
}
