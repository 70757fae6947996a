// Dumps kernels for a machine with a GPU: `node scripts/gpu-kernels.mjs OUT [--dist DIR] [--set NAME] [--tactics N]` writes OUT/<case>.<tactic>.cu and OUT/cases.json,
// which test/gpu/kernels_check.py compiles, checks against PyTorch and times. Runs without a GPU.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { caseSets, epilogueFor } from "./gpu-cases.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dist: { type: "string" },
    set: { type: "string" },
    tactics: { type: "string" },
    arch: { type: "string" },
    only: { type: "string" },
  },
});
const out = positionals[0];
if (out === undefined) {
  console.error(
    "usage: node scripts/gpu-kernels.mjs OUT [--dist DIR] [--set NAME[,NAME]] [--tactics N] [--arch h200|a100] [--only TEMPLATE]",
  );
  process.exit(2);
}
const dist = resolve(values.dist ?? join(root, "dist"));
const t = await import(pathToFileURL(join(dist, "engines/cuda/templates/index.js")));
const device = values.arch === "a100" ? t.a100 : t.h200;
mkdirSync(out, { recursive: true });
const sets = caseSets();
const wanted = values.set === undefined ? Object.keys(sets) : values.set.split(",");
const records = [];
for (const set of wanted) {
  for (const c of sets[set]) {
    const epilogue = epilogueFor(c);
    const list = {
      gemm: () => t.gemmTactics(c.problem, device),
      conv: () => t.convTactics(c.problem, device),
      depthwise: () => t.depthwiseTactics(c.problem, device),
      attention: () => t.attentionTactics(c.problem, device),
    }
      [c.kind]()
      .filter((tactic) => values.only === undefined || tactic.template === values.only);
    const count = Math.min(list.length, values.tactics === undefined ? (c.tactics ?? 1) : Number(values.tactics));
    for (let i = 0; i < count; i++) {
      const name = `${c.name}_${values.only ?? ""}${i}`.replaceAll(/[^A-Za-z0-9_]/g, "_");
      const kernel = {
        gemm: () => t.gemmKernel(c.problem, list[i], epilogue, name, device),
        conv: () => t.convKernel(c.problem, list[i], epilogue, name, device),
        depthwise: () => t.depthwiseKernel(c.problem, list[i], epilogue, name),
        attention: () => t.attentionKernel(c.problem, list[i], name),
      }[c.kind]();
      const { source, ...launch } = kernel;
      writeFileSync(join(out, `${name}.cu`), source);
      records.push({
        set,
        case: c.name,
        kind: c.kind,
        problem: c.problem,
        fused: c.fused ?? {},
        rank: i,
        tactic: t.tacticName(list[i]),
        ...launch,
      });
    }
  }
}
writeFileSync(join(out, "cases.json"), JSON.stringify(records));
console.log(`${records.length} kernels in ${out}`);
