/**
 * What target "auto" stands for on a machine: the CUDA engine where a usable GPU and a CUDA compiler are there, beside it TensorRT where one was seen to
 * build and load plans for this GPU, so that segments can be timed on both; the host alone otherwise, and why.
 */
import type { Remarks, Verdict } from "./diagnostics.js";
import { cudaEngine } from "./engines/cuda/index.js";
import type { Engine } from "./engines/engine.js";
import { servesThisGpu } from "./engines/tensorrt/load.js";
import type { EngineName } from "./ops/define.js";

export interface Machine {
  readonly cuda?: Pick<Engine, "available">["available"] | undefined;
  readonly tensorrt?: (() => Promise<Verdict>) | undefined;
}

/**
 * Engines to plan for, besides the host, which always is; a remark says what kept the CUDA engine out. `timed`: whether segments will be measured, without
 * which nothing decides between the two.
 */
export async function machineTargets(remarks: Remarks, timed: boolean, machine: Machine = {}): Promise<readonly EngineName[]> {
  const { cuda = () => cudaEngine.available(), tensorrt = servesThisGpu } = machine;
  const verdict = await cuda();
  if (verdict.ok) return timed && (await tensorrt()).ok ? ["cuda", "tensorrt", "host"] : ["cuda", "host"];
  remarks({
    severity: "note",
    text: `target auto is the host on this machine: ${verdict.why}`,
    fix: "see `partita doctor`; compile with target cuda to build for a GPU elsewhere",
  });
  return ["host"];
}
