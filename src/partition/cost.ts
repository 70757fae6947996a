/**
 * Time estimates per engine, from a roofline: max(operations / peak, bytes / bandwidth) per node plus a launch. They rank and explain;
 * measured times replace them where a device is at hand. GPU figures: an H200 (132 SMs), measured: 4 TB/s copy, FP16 wgmma 956 TFLOP/s, TF32
 * 466, INT8 1903 TOP/s, a graph node 0.5 us. Host figures: two AVX2 cores, of the order of 100 GFLOP/s and 20 GB/s.
 */
import type { Cost, EngineName } from "../ops/define.js";

interface Machine {
  readonly flopsPerUs: number;
  readonly bytesPerUs: number;
  readonly launchUs: number;
}
const gpuFlops: Readonly<Record<string, number>> = { fp32: 60e6, tf32: 466e6, fp16: 956e6, bf16: 956e6, int8: 1903e6 };
function machineOf(engine: EngineName, precision: string): Machine {
  if (engine === "host") return { flopsPerUs: 100e3, bytesPerUs: 20e3, launchUs: 1 };
  return { flopsPerUs: gpuFlops[precision] ?? 60e6, bytesPerUs: 4e6, launchUs: 0.5 };
}

/** Microseconds of a list of nodes on an engine; the cost's bytes are taken as float32 and scaled to the precision. */
export function estimateUs(engine: EngineName, costs: readonly Cost[], precision: string): number {
  const m = machineOf(engine, precision);
  const width = engine === "host" ? 1 : precision === "int8" ? 0.25 : precision === "fp16" || precision === "bf16" ? 0.5 : 1;
  return costs.reduce(
    (t, c) => t + (c.flops === 0 && c.bytes === 0 ? 0 : m.launchUs + Math.max(c.flops / m.flopsPerUs, (c.bytes * width) / m.bytesPerUs)),
    0,
  );
}
