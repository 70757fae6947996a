/** One stand-in GPU for tests of TensorRT: a context, streams and buffers of the CUDA addon. */
import { type ContextHandle, type MemoryHandle, type NativeAddon, native, type StreamHandle } from "../../src/engines/cuda/native.js";
import type { Engine, RunRequest } from "../../src/engines/tensorrt/native.js";

export class Gpu {
  readonly addon: NativeAddon = native().addon;
  readonly context: ContextHandle;

  constructor() {
    this.addon.open([process.env["PARTITA_CUDA_DRIVER"] ?? ""]);
    this.context = this.addon.contextCreate(0);
  }
  stream(): StreamHandle {
    return this.addon.streamCreate(this.context);
  }
  memory(bytes: number): MemoryHandle {
    return this.addon.memAlloc(this.context, bytes);
  }
  /** A request that runs `x` of [rows, 3] into `y`, with memory and a stream of its own. */
  request(x: Float32Array, most = x.length / 3): { readonly request: RunRequest; readonly y: Float32Array; release(): void } {
    const y = new Float32Array(x.length);
    const stream = this.stream();
    const [input, output] = [this.memory(most * 12), this.memory(most * 12)];
    return {
      request: {
        stream,
        inputs: [{ name: "x", dims: [x.length / 3, 3], memory: input, host: x as Float32Array<ArrayBuffer> }],
        outputs: [{ name: "y", memory: output, host: y }],
      },
      y,
      release: () => {
        for (const h of [stream, input, output]) this.addon.release(h);
      },
    };
  }
  async run(engine: Engine, x: Float32Array, profile = 0): Promise<Float32Array> {
    const context = await engine.createContext({ profile });
    const { request, y, release } = this.request(x);
    try {
      await context.run(request);
      return y;
    } finally {
      await context.dispose();
      release();
    }
  }
}
export const ramp = (rows: number, from = 0): Float32Array => Float32Array.from({ length: rows * 3 }, (_, i) => ((i + from) % 11) - 5);
