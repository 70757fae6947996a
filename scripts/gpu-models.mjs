// docs/gpu-models.md: what bench/results/gpu-models.json and gpu-recurrent.json hold, as tables.
import { readFileSync } from "node:fs";

export const file = "docs/gpu-models.md";
const read = (name) => JSON.parse(readFileSync(new URL(`../bench/results/${name}.json`, import.meta.url), "utf8"));
const short = (x) =>
  x === undefined ? "" : x === 0 ? "0" : Number(x) < 1e-2 ? Number(x).toExponential(1) : String(Number(Number(x).toPrecision(2)));
const escaped = (text) => text.replaceAll("|", "\\|");

export function render() {
  const { rows, gpu, driver, date } = read("gpu-models");
  const names = [...new Set(rows.map((r) => r.name))];
  const of = (name, precision) => rows.find((r) => r.name === name && r.precision === precision);
  const error = (r) => (r === undefined ? "" : r.failed !== undefined ? "failed" : `${short(r.error)}${r.ok ? "" : " (beyond)"}`);
  const segments = (r) => r.segments.map((s) => s.replace(/^(\w+?)_\d+:(\d+)$/, (_, engine, nodes) => `${engine} ${nodes}`)).join(", ");
  const right = (precision) => rows.filter((r) => r.precision === precision && r.ok).length;
  const total = (precision) => rows.filter((r) => r.precision === precision).length;
  const notes = new Map();
  for (const r of rows) if (r.note !== undefined) notes.set(r.note, [...(notes.get(r.note) ?? []), r.name]);
  const reasons = new Map();
  for (const r of rows.filter((x) => x.precision === "fp32"))
    for (const { op, why } of r.remains ?? []) {
      const ops = reasons.get(why) ?? new Map();
      ops.set(op, new Set([...(ops.get(op) ?? []), r.name]));
      reasons.set(why, ops);
    }
  const recurrent = read("gpu-recurrent");
  return `# Models on the CUDA engine

<!-- Made by scripts/gpu-models.mjs from bench/results/gpu-models.json and gpu-recurrent.json (run \`npm run docs\`). -->

Models with recorded runs of their framework, compiled with \`target: "cuda"\` and run on one ${gpu} (driver ${driver}, ${date}), untuned: \`bench/gpu/models.mjs\`.
The error is the largest difference as a share of the output's largest value. ${right("fp32")} of ${total("fp32")} are within 1e-3 in single precision, ${right("fp16")} of ${total("fp16")}
within 2e-2 in half precision; what is beyond is named below. Every model ran twice with equal results.

| model | fp32 error | fp16 error | FLOPs on the GPU | segments (nodes) |
|---|---|---|---|---|
${names
  .map((name) => {
    const [a, b] = [of(name, "fp32"), of(name, "fp16")];
    const r = a ?? b;
    return `| ${name} | ${error(a)} | ${error(b)} | ${(100 * (r.share ?? 0)).toFixed(2)} % | ${r.segments === undefined ? "" : segments(r)} |`;
  })
  .join("\n")}

## Beyond the limits, and other remarks

${[...notes].map(([note, list]) => `- ${[...new Set(list)].join(", ")}: ${note}.`).join("\n")}

## What stays on the host

| reason | operators | in |
|---|---|---|
${[...reasons]
  .map(
    ([why, ops]) =>
      `| ${escaped(why)} | ${[...ops.keys()].join(", ")} | ${[...new Set([...ops.values()].flatMap((s) => [...s]))].join(", ")} |`,
  )
  .join("\n")}

## Recurrent layers beside cuDNN

${recurrent.what[0].toUpperCase()}${recurrent.what.slice(1)} (${recurrent.gpu}, driver ${recurrent.driver}, ${recurrent.date}).

| layer | steps | rows | input | units | directions | precision | error | µs | cuDNN, µs |
|---|---|---|---|---|---|---|---|---|---|
${recurrent.rows
  .map(
    (r) =>
      `| ${r.op} | ${r.steps} | ${r.batch} | ${r.input} | ${r.hidden} | ${r.directions} | ${r.precision} | ${short(r.error)} | ${r.us ?? r.failed} | ${r.cudnnUs ?? r.cudnnFailed ?? ""} |`,
  )
  .join("\n")}

The whole recurrence is one launch in which the state's product is summed without the matrix units: layers of many rows in half precision, and of 1024 units, are\nslower than cuDNN's for it.
`;
}
