/** Device memory of a session, known before any of it is taken. */
import { defineError } from "../diagnostics.js";
import { openDevice } from "../engines/cuda/device.js";
import type { Artifact, Engine } from "../engines/engine.js";

export const memoryExceeded = defineError<{ device: number; needed: number; allowed: number; total: number; fraction: number }>(
  "P3109",
  "a session needs more device memory than it may take",
  ({ device, needed, allowed, total, fraction }) => ({
    what: `it needs ${megabytes(needed)} of GPU ${device}, and may take ${megabytes(allowed)}: gpuMemoryFraction ${fraction} of ${megabytes(total)}`,
    fix: "open fewer streams, compile for smaller shapes, or raise gpuMemoryFraction",
  }),
  3,
);
const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 3 : 0)} MiB`;

/** Bytes that the artifacts take on one device, opened with so many streams; engines that cannot tell before they open one count for nothing. */
export function memoryOf(artifacts: readonly Artifact[], engines: (name: Artifact["engine"]) => Engine, streams: number): number {
  return artifacts.reduce((n, a) => {
    const plan = engines(a.engine).memory?.(a);
    return plan === undefined ? n : n + plan.sharedBytes + streams * plan.streamBytes;
  }, 0);
}

/** Throws P3109. */
export function demandMemory(
  program: { readonly artifacts: readonly Artifact[]; readonly engines: (name: Artifact["engine"]) => Engine },
  { streams, devices, fraction }: { readonly streams: number; readonly devices: readonly number[]; readonly fraction: number },
): void {
  const needed = memoryOf(program.artifacts, program.engines, streams);
  for (const device of devices) {
    const total = openDevice(device).properties.memoryBytes;
    const allowed = Math.floor(fraction * total);
    if (needed > allowed) throw memoryExceeded({ device, needed, allowed, total, fraction });
  }
}
