/**
 * Time estimates, from a roofline: max(operations / peak, bytes / bandwidth) per node plus a launch. They rank and explain; measured times
 * replace them where a device is at hand (`measured` of `PartitionOptions`). GPU figures: an H200 (132 SMs), measured: 4 TB/s copy, FP16
 * wgmma 956 TFLOP/s, TF32 466, INT8 1903 TOP/s, a graph node 0.5 us. Host figures: two AVX2 cores, of the order of 100 GFLOP/s and 20 GB/s.
 * Between host and device: PCIe 5 x16 at 50 GB/s and 8 us a copy. A segment's own start: a call into ONNX Runtime 15 us, a CUDA graph launch
 * with its synchronisation 6 us, a TensorRT enqueue 8 us; of the order only.
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
/** Bytes of a float32 element at the engine's precision, as a share of 4. */
const widthOf = (engine: EngineName, precision: string): number =>
  engine === "host" ? 1 : precision === "int8" ? 0.25 : precision === "fp16" || precision === "bf16" ? 0.5 : 1;

/** Microseconds of one node on an engine; the cost's bytes are taken as float32 and scaled to the precision. Nodes without work cost nothing. */
export function nodeUs(engine: EngineName, cost: Cost, precision: string): number {
  if (cost.flops === 0 && cost.bytes === 0) return 0;
  const m = machineOf(engine, precision);
  return m.launchUs + Math.max(cost.flops / m.flopsPerUs, (cost.bytes * widthOf(engine, precision)) / m.bytesPerUs);
}

const START_US: Readonly<Record<EngineName, number>> = { host: 15, cuda: 6, tensorrt: 8 };
/** What one more segment costs, whatever is in it, microseconds. */
export const startUs = (engine: EngineName): number => START_US[engine];

/** Microseconds of a tensor's way between host and device. */
export const transferUs = (bytes: number): number => 8 + bytes / 50e3;

/** Microseconds to change a tensor's element type or layout at an engine's border: one pass over it in device memory. */
export function convertUs(bytes: number, precision: string): number {
  const width = widthOf("cuda", precision);
  return width === 1 ? 0 : 0.5 + (bytes * (1 + width)) / 4e6;
}
