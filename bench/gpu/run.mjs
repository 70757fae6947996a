// Networks on the CUDA engine: right against ONNX Runtime at batch 1, then timed as CUDA graphs, a profile by launch for the slowest. One JSON line each.
import { appendFileSync } from "node:fs";
import { plan } from "../../dist/compile.js";
import { cudaEngine } from "../../dist/engines/cuda/index.js";
import { hostEngine } from "../../dist/engines/host/index.js";
import { extractSegment } from "../../dist/partition/extract.js";
import { lower } from "../../dist/passes/lower.js";
import { randomFeeds } from "../../dist/runtime/measure.js";
import { bert, resnet50 } from "./networks.mjs";

const cases = {
  "resnet50-1": () => resnet50(1),
  "resnet50-8": () => resnet50(8),
  "resnet50-32": () => resnet50(32),
  "resnet50-128": () => resnet50(128),
  "bert-base-1": () => bert(1, 128),
  "bert-base-32": () => bert(32, 128),
};
const [, , names = Object.keys(cases).join(","), precisions = "fp16", out] = process.argv;

for (const name of names.split(",")) {
  for (const precision of precisions.split(",")) {
    const row = { name, precision };
    try {
      const graph = cases[name]();
      const start = performance.now();
      const { partition, inferred } = await plan(graph, { target: "cuda", precision });
      row.segments = partition.segments.map((s) => `${s.name} ${s.nodes.length}`);
      const segment = partition.segments.find((s) => s.engine === "cuda");
      const part = lower(extractSegment(inferred.graph, segment), cudaEngine.keeps);
      const tune = process.env.TUNE ?? "quick";
      const artifact = await cudaEngine.build(part, { target: { sm: 90, tensorrt: 0, precision }, tune });
      row.tune = tune;
      row.compileSeconds = (performance.now() - start) / 1000;
      const executable = await cudaEngine.open(artifact, { streams: 1, threads: 1 });
      const ports = part.inputs.map((v) => ({
        name: part.values[v].name,
        type: part.values[v].type.dtype,
        dims: part.values[v].type.shape,
      }));
      const feeds = randomFeeds(ports, 1, 7);
      const inputs = ports.map((p) => {
        const t = feeds[p.name];
        // Token ids stay inside the vocabulary; the mask is open.
        if (p.type === "int64") for (let i = 0; i < t.data.length; i++) t.data[i] = p.name.includes("mask") ? 1n : BigInt(i * 37) % 30000n;
        return t;
      });
      const [result] = await executable.run(inputs);
      if (name.endsWith("-1")) {
        const host = await hostEngine.open(
          await hostEngine.build(lower(part, hostEngine.keeps), { target: { sm: 0, tensorrt: 0, precision: "fp32" } }),
          { streams: 1, threads: 0 },
        );
        const [expected] = await host.run(inputs);
        await host.dispose();
        let [difference, largest] = [0, 0];
        for (let i = 0; i < expected.data.length; i++) {
          largest = Math.max(largest, Math.abs(expected.data[i]));
          const d = Math.abs(result.data[i] - expected.data[i]);
          if (!(d <= difference)) difference = d;
        }
        row.error = difference / largest;
      }
      const timing = await executable.timeGraph({ copies: false });
      row.ms = { median: timing.median, min: timing.min };
      const profile = await executable.profile();
      row.launches = profile.length;
      row.profile = profile;
      await executable.dispose();
    } catch (error) {
      row.failed = String(error?.message ?? error).slice(0, 1500);
    }
    const { profile, ...head } = row;
    console.log(JSON.stringify(head));
    if (out !== undefined) appendFileSync(out, `${JSON.stringify(row)}\n`);
    if (profile !== undefined)
      for (const p of [...profile].sort((a, b) => cost(b) - cost(a)).slice(0, 14))
        console.log("   ", `${(p.ms * 1000).toFixed(2)} us ${p.name} ${p.nodes.join(" ").slice(0, 60)}`);
  }
}
function cost(p) {
  return p.ms;
}
