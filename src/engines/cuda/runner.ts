/**
 * The runs of one stream, one at a time. A message to a thread that waits for the GPU, and its answer, take some 50 us, more on processors that were put to
 * sleep meanwhile, which is longer than many networks. So the event loop itself looks after a run that nothing else of this thread's on the GPU keeps
 * company: it puts all of it on the stream, and asks once a turn whether it is over. Runs that are long, that crowd, or that copy large arrays have a thread.
 */
import { performance } from "node:perf_hooks";
import type { Device } from "./device.js";
import type { GraphHandle, HostCopy, RunNumber, StreamHandle, Upload } from "./native.js";

/** Milliseconds of a run that the event loop looks after: it rests meanwhile only if nobody asks, and what a message takes is little beside a longer one. */
const WATCHED = 2;

/** Bytes of an output up to which it is copied on the event loop: cheaper than telling another thread of it. */
export const SMALL = 1 << 20;

export class Runner {
  readonly #device: Device;
  readonly #stream: StreamHandle;
  /** Milliseconds of the run that was over last. */
  #last = 0;

  constructor(device: Device, stream: StreamHandle) {
    this.#device = device;
    this.#stream = stream;
  }

  /** Arrays copied in, the graph, arrays copied out, the wait; arrays must stay as they are until then. Throws what the addon does. */
  async execute(graph: GraphHandle | undefined, into: readonly (HostCopy | Upload)[], out: readonly HostCopy[]): Promise<void> {
    const { addon } = this.#device;
    const alone = this.#device.underWay === 0 && this.#last <= WATCHED;
    const start = performance.now();
    this.#device.underWay++;
    try {
      const run = alone ? addon.begin(this.#stream, graph, into, out) : undefined;
      if (run === undefined) await addon.execute(this.#stream, graph, into, out);
      else await this.#watched(run, start);
    } finally {
      this.#device.underWay--;
      this.#last = performance.now() - start;
    }
  }

  #watched(run: RunNumber, start: number): Promise<void> {
    const { addon } = this.#device;
    return new Promise((resolve, reject) => {
      const look = (): void => {
        try {
          if (addon.ended(run)) resolve();
          else if (performance.now() - start > WATCHED) addon.wait(run).then(resolve, reject);
          else setImmediate(look);
        } catch (error) {
          reject(error);
        }
      };
      setImmediate(look);
    });
  }
}
