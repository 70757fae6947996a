// Makes docs/cuda.md: what the CUDA engine does in short, and its measured times from bench/results/gpu-networks.json, every kind of launch next to its floor.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const file = "docs/cuda.md";
const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** TensorRT 11.2.1 on an H200 in FP16 with its portable kernels alone, ms: measured once, not in the runs of this page. A full installation is faster. */
const TENSORRT = {
  "resnet50 1": 0.365,
  "resnet50 32": 1.17,
  "resnet50 128": 3.78,
  "bert-base 1": 0.474,
  "bert-base 32": 2.31,
};
/** What the project aims at first, ms. */
const AIMS = {
  "resnet50-fp16 1": 0.3,
  "resnet50-int8 1": 0.24,
  "resnet50-fp16 128": 2.8,
  "resnet50-int8 128": 1.6,
  "bert-base-fp16 1": 0.4,
  "bert-base-fp16 32": 1.7,
};

const INTRODUCTION = `# CUDA engine

A segment becomes CUDA C++ that a person can read: templates of \`kernels/\` for matrix products, convolutions, attention and recurrent layers, written loops
for the rest, each with its dims as literals and with what stands behind it (bias, residual, activation, quantizer) fused in. NVRTC compiles it, one CUDA graph runs it.
The sources lie in the bundle beside their cubins (\`partita inspect\`). Building needs no GPU; with one, \`--tune quick\` times the ways to compute every distinct product.

- **Products and convolutions on Hopper** (\`kernels/wgmma.cu\`): wgmma fed by TMA, persistent blocks. Rows of the weights arrive in the order that leaves every thread
  neighbouring columns, so that results go from registers through the epilogue to memory.
- **First layers** (\`kernels/pooled.cu\`): a 7x7 stem takes in the max pooling behind it, where that gives the same; the input's windows are read where it lies.
- **Everything else on sm_80 and up** (\`kernels/mma.cu\`, \`simt.cu\`, \`depthwise.cu\`, \`attention.cu\`, \`recurrent.cu\`).
- **Launches overlap** (programmatic dependent launch, sm_90 and up) where the whole graph is faster so: a kernel starts while the one before it ends, brings its weights to L2 and waits.
- **INT8** computes what docs/quantization.md says, bit for bit: int32 sums, one rounding a step; division by a constant step is a multiplication by its reciprocal in two parts,
  which decides ties as the quotient does (checked for every step when the kernel is written).
- **Functions** are the accurate ones of CUDA where FP32 (or TF32) is asked for. Where results keep 11 bits or fewer (FP16, BF16, INT8), Sigmoid, Tanh, Swish, Mish and the
  Gelu of a tanh come from the units' powers of two and reciprocals, within 2^-20. No fast-math anywhere.
`;

const title = (name) => {
  const [net, precision] = [name.slice(0, name.lastIndexOf("-")), name.slice(name.lastIndexOf("-") + 1).toUpperCase()];
  return [net === "resnet50" ? "ResNet-50" : net === "bert-base" ? "BERT-base, 128 tokens" : net, precision];
};
const number = (x, digits = 3) => (x === undefined ? "" : Number(x.toPrecision(digits)).toString());
const table = (head, rows) =>
  [`| ${head.join(" | ")} |`, `|${head.map(() => "---|").join("")}`, ...rows.map((r) => `| ${r.join(" | ")} |`)].join("\n");

/** Equal layers as one line: { what, count, us, floorUs, lost }. */
function kinds(layers) {
  const by = new Map();
  for (const l of layers) {
    const k = by.get(l.what) ?? { what: l.what, count: 0, us: 0, floorUs: 0 };
    by.set(l.what, { ...k, count: k.count + 1, us: k.us + l.us, floorUs: k.floorUs + l.floorUs });
  }
  return [...by.values()].map((k) => ({ ...k, lost: k.us - k.floorUs })).sort((a, b) => b.lost - a.lost);
}

export function render() {
  const results = JSON.parse(readFileSync(join(root, "bench/results/gpu-networks.json"), "utf8"));
  const rows = [...results.rows].sort((a, b) => (a.name === b.name ? a.batch - b.batch : a.name < b.name ? -1 : 1));
  const summary = rows.map((r) => {
    const [net, precision] = title(r.name);
    const trt = precision === "FP16" ? TENSORRT[`${r.name.slice(0, r.name.lastIndexOf("-"))} ${r.batch}`] : undefined;
    const aim = AIMS[`${r.name} ${r.batch}`];
    const ratio = r.torchCompileMs === undefined ? "" : `${number(r.torchCompileMs)} (${number(r.torchCompileMs / r.ms, 2)}x)`;
    const reached = aim === undefined ? "" : `${aim}${r.ms <= aim ? "" : ` (missed by ${number((r.ms / aim - 1) * 100, 2)} %)`}`;
    return [
      `${net}${r.earlier === true ? " (earlier)" : ""}`,
      r.batch,
      precision,
      `**${number(r.ms)}**`,
      ratio,
      number(r.torchEagerGraphMs),
      number(trt),
      number(r.floorMs),
      reached,
    ];
  });
  const parts = rows.map((r) => {
    const [net, precision] = title(r.name);
    const all = kinds(r.layers);
    const lost = all.reduce((n, k) => n + Math.max(0, k.lost), 0);
    const worst = all.slice(0, 3).map((k) => `${k.what} (${number((100 * k.lost) / lost, 2)} % of what is lost)`);
    return `### ${net}, batch ${r.batch}, ${precision}${r.earlier === true ? " (earlier kernels)" : ""}

Worst offenders: ${worst.join("; ")}.

${table(
  ["launch", "times", "each, us", "floor, us", "times its floor", "lost in all, us"],
  all.map((k) => [k.what, k.count, number(k.us / k.count), number(k.floorUs / k.count), number(k.us / k.floorUs, 2), number(k.lost)]),
)}`;
  });
  return `${INTRODUCTION}
## How fast

${results.gpu}, driver ${results.driver}, ${results.date}; milliseconds: ${results.what.split("; layers")[0]}. In brackets how many times faster than torch.compile. TensorRT: FP16, portable kernels alone, from an
earlier measurement. Floor: the larger of operations at 989 TFLOP/s (INT8 1979 TOP/s) and bytes at 4.8 TB/s, every buffer once, summed over the launches.${results.note === undefined ? "" : ` ${results.note}`}

${table(["network", "batch", "", "ms", "torch.compile, FP16", "eager in a CUDA graph, FP16", "TensorRT, FP16", "floor", "first aim"], summary)}

\`node bench/gpu/run.mjs\` measures, with \`--report\` it writes bench/results/gpu-networks.json, and \`npm run docs\` this page.

### What falls short, and why

- INT8 at large batches: the 1x1 convolutions that add a residual take 1.8 to 3 times their bytes' time. They are not short of memory: about 13 instructions an element (conversions, the
  prescribed roundings, clamping, packing) issue in every second slot at best, with the two or three warps a scheduler has. The first layer with its pool waits for shared memory and arithmetic in turn.
- Single sequences and images: a launch costs 1 to 2 us whatever it does. Attention of 12 heads and products of 128 rows fill a fraction of the GPU.

## Every launch next to its floor

Each launch by itself, back to back with itself in a graph: weights and small results lie in L2 then, which is why some are faster than a floor that counts memory. Equal
layers share a line; convolutions are named by filter, stride, channels and output size, products by rows, columns and depth.

${parts.join("\n\n")}
`;
}
