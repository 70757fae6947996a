/** Tensors that stay on the GPU between two segments: memory that a producer takes from its pool, a consumer reads in place, and the session gives back. */
import { isTensorDType, Tensor, typedArrayOf } from "../../tensor.js";
import type { DeviceTensor } from "../engine.js";
import type { Device } from "./device.js";
import { gpuError } from "./errors.js";
import type { MemoryHandle } from "./native.js";

/** Pieces kept for the next run, at least; as many more as were once out together. */
const KEPT = 16;
/** Pieces are whole pages: a consumer whose kernels read whole tiles then has the room for that. */
const PAGE = 4096;

export class ResidentPool {
  readonly #device: Device;
  readonly #what: string;
  #free: { readonly memory: MemoryHandle; readonly bytes: number }[] = [];
  #ended = false;
  /** Pieces that are out, and the most there were. */
  #out = 0;
  #most = KEPT;

  /** `what` names the memory in an error. */
  constructor(device: Device, what: string) {
    this.#device = device;
    this.#what = what;
  }

  /** Memory of a tensor, the smallest free piece that holds it and `atLeast` bytes. Throws P2104. */
  take(type: string, dims: readonly number[], atLeast = 0): DeviceTensor {
    const width = isTensorDType(type) && type !== "string" ? typedArrayOf(type).BYTES_PER_ELEMENT : 4;
    const bytes = Math.max(
      dims.reduce((a, d) => a * d, width),
      atLeast,
    );
    const needed = Math.max(1, Math.ceil(bytes / PAGE)) * PAGE;
    // A piece twice as large would be wasted on a small tensor.
    const fits = this.#free.filter((p) => p.bytes >= needed && p.bytes <= 2 * needed).sort((a, b) => a.bytes - b.bytes)[0];
    const piece = fits ?? { memory: this.#device.allocate(this.#what, needed), bytes: needed };
    this.#free = this.#free.filter((p) => p !== piece);
    this.#most = Math.max(this.#most, ++this.#out);
    let given = true;
    return {
      type,
      dims,
      memory: piece.memory,
      room: piece.bytes,
      device: this.#device.ordinal,
      get released() {
        return !given;
      },
      fetch: () => fetch(this.#device, piece.memory, type, dims),
      release: () => {
        if (!given) return;
        given = false;
        this.#out--;
        if (this.#ended || this.#free.length >= this.#most) this.#device.addon.release(piece.memory);
        else this.#free.push(piece);
      },
    };
  }
  /** Frees what is not in use; the rest goes as it comes back. */
  end(): void {
    this.#ended = true;
    for (const p of this.#free) this.#device.addon.release(p.memory);
    this.#free = [];
  }
}

/** Copies a tensor of numbers to the host. Throws P2105. */
async function fetch(device: Device, memory: MemoryHandle, type: string, dims: readonly number[]): Promise<Tensor> {
  if (!isTensorDType(type) || type === "string") throw new Error(`a ${type} on the device`);
  const data = new (typedArrayOf(type))(dims.reduce((a, d) => a * d, 1));
  const { addon } = device;
  const stream = addon.streamCreate(device.context);
  try {
    if (data.byteLength > 0) await addon.execute(stream, undefined, [], [[memory, 0, data]]);
  } catch (error) {
    throw gpuError(error, "copying a result to the host");
  } finally {
    addon.release(stream);
  }
  return new Tensor(type, data as never, dims);
}

/** Fills memory of the device from its start; `doing` says so in an error. Throws P2105. */
export async function upload(device: Device, memory: MemoryHandle, bytes: Uint8Array, doing: string): Promise<void> {
  if (bytes.byteLength === 0) return;
  const { addon } = device;
  const stream = addon.streamCreate(device.context);
  // The addon takes no shared memory.
  const own = bytes.buffer instanceof ArrayBuffer ? (bytes as Uint8Array<ArrayBuffer>) : new Uint8Array(bytes);
  try {
    await addon.execute(stream, undefined, [[memory, 0, own]], []);
  } catch (error) {
    throw gpuError(error, doing);
  } finally {
    addon.release(stream);
  }
}

export const isResident = (t: unknown): t is DeviceTensor => typeof t === "object" && t !== null && "memory" in t && "release" in t;
