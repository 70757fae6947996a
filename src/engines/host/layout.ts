/**
 * Outputs as ONNX Runtime's convolutions leave them. On x64 these work on blocks of channels (NCHWc), and every output that one of them
 * computes is put back in order by a ReorderOutput of its own; where nobody cares about the order that work is left out. ONNX Runtime says
 * itself what it makes of a model: it optimizes it once, the reorderings before outputs go, and the rest is loaded as it is.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeOnnx } from "../../import/onnx/export.js";
import { importOnnx } from "../../import/onnx/index.js";
import { Editor } from "../../ir/edit.js";
import { producersOf, valueAt } from "../../ir/graph.js";
import type { HostWorker } from "./pool.js";
import { sessionOptions } from "./stream.js";

/** The blocks have 8 or 16 channels; a tensor of whole blocks holds its own elements alone. */
const BLOCK = 16;

/** The optimized model (`without`: optimizers that are left out), to be loaded at level "disabled"; undefined where there is nothing to gain. */
export async function inKernelsLayout(
  model: Uint8Array,
  unordered: ReadonlySet<string>,
  worker: HostWorker,
  without?: string,
): Promise<Uint8Array | undefined> {
  const folder = mkdtempSync(join(tmpdir(), "partita-layout-"));
  try {
    const options = sessionOptions(1, "all", without);
    const { model: bytes } = await worker.call<{ model: Uint8Array }>({ op: "optimize", model, folder, options });
    const optimized = importOnnx(bytes);
    const producers = producersOf(optimized);
    const draft = new Editor(optimized);
    let left = 0;
    const outputs = optimized.outputs.map((v) => {
      const p = producers[v];
      const channels = p?.attrs["channels"];
      const { name } = valueAt(optimized, v);
      if (p?.op !== "ReorderOutput" || p.domain !== "com.microsoft.nchwc" || channels?.kind !== "int" || !unordered.has(name)) return v;
      const [blocked] = p.ins;
      if (blocked === undefined || Number(channels.value) % BLOCK !== 0 || optimized.outputs.includes(blocked)) return v;
      draft.rename(v, draft.freshName(`${name}/ordered`));
      draft.rename(blocked, name);
      left++;
      return blocked;
    });
    if (left === 0) return undefined;
    draft.setOutputs(outputs);
    const unused = producers.flatMap((p) => (p !== undefined && p.op === "ReorderOutput" ? [p] : []));
    for (const p of new Set(unused))
      if (p.outs.every((v) => v === undefined || (!outputs.includes(v) && draft.uses(v).length === 0))) draft.remove(p.id);
    return encodeOnnx(draft.finish());
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
