/** Real networks on the CUDA engine: nearly all of their arithmetic, in few segments; what stays on the host is what no GPU decides. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { report } from "../../src/index.js";
import { readNpz } from "../../src/npz.js";
import { dataDir, NO_DATA } from "../support/data.js";

interface Model {
  readonly title: string;
  readonly file: string;
  readonly io: string | undefined;
}
function models(set: string, take: (name: string) => boolean): readonly Model[] {
  const root = dataDir(set);
  if (root === undefined) return [];
  return readdirSync(root)
    .filter((name) => take(name) && existsSync(join(root, name, "io.npz")))
    .map((name) => {
      const folder = join(root, name);
      const file = readdirSync(folder).find((f) => f.endsWith(".onnx") || f.endsWith("saved_model") || f.endsWith(".pb")) ?? "";
      return { title: `${set}/${name}`, file: join(folder, file), io: join(folder, "io.npz") };
    });
}
const all: readonly Model[] = [
  ...models("torch", () => true),
  ...models("tf", (name) => !name.startsWith("tf1_")),
  ...["digits"].flatMap((set) => {
    const root = dataDir(set);
    return root === undefined
      ? []
      : readdirSync(root)
          .filter((f) => f.endsWith(".onnx"))
          .map((f) => ({ title: `${set}/${f}`, file: join(root, f), io: undefined }));
  }),
];

describe.skipIf(all.length === 0)(all.length === 0 ? `networks on the CUDA engine (${NO_DATA})` : "networks on the CUDA engine", () => {
  it.each(all)("$title", async ({ title, file, io }) => {
    const open = await report(file, { target: "cuda" });
    const shapes: Record<string, readonly number[]> = {};
    if (io !== undefined) {
      const recorded = readNpz(io);
      open.data.model.inputs.forEach((p, i) => {
        const t = recorded.get(`in_${i}`) ?? recorded.get(`in|${p.name}`) ?? recorded.get(`in|${p.name.replace(/:0$/, "")}`);
        if (t !== undefined) shapes[p.name] = t.dims;
      });
    }
    const { data } = await report(file, { target: "cuda", shapes });
    const { flopsCovered, engineSegments, segments } = data.quality;
    console.log(`${title}: ${(flopsCovered * 100).toFixed(3)} % of FLOPs, ${engineSegments} CUDA segments of ${segments}`);
    expect(flopsCovered).toBeGreaterThanOrEqual(0.99);
    expect(engineSegments).toBeLessThanOrEqual(2);
  });
});
