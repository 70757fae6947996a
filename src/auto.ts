/** What target "auto" stands for on a machine: the CUDA engine where a usable GPU and a CUDA compiler are there, the host alone otherwise, and why. */
import type { Remarks } from "./diagnostics.js";
import { cudaEngine } from "./engines/cuda/index.js";
import type { Engine } from "./engines/engine.js";
import type { EngineName } from "./ops/define.js";

/** Engines to plan for, besides the host, which always is; a remark says what kept the CUDA engine out. */
export async function machineTargets(
  remarks: Remarks,
  cuda: Pick<Engine, "available"> = cudaEngine,
): Promise<readonly Exclude<EngineName, "tensorrt">[]> {
  const verdict = await cuda.available();
  if (verdict.ok) return ["cuda", "host"];
  remarks({
    severity: "note",
    text: `target auto is the host on this machine: ${verdict.why}`,
    fix: "see `partita doctor`; compile with target cuda to build for a GPU elsewhere",
  });
  return ["host"];
}
