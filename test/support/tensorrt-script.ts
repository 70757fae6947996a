/** One script of calls and what comes of it, the same for a stand-in and for NVIDIA's TensorRT-RTX: it keeps the former honest. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PartitaError } from "../../src/diagnostics.js";
import type { Progress, TensorRt } from "../../src/engines/tensorrt/native.js";
import { batch, layer } from "./tensorrt-models.js";

/** What each step ends in: a result's facts, or an error's code and the part of its text that both libraries share. */
export const expected: Readonly<Record<string, string>> = {
  "the parser takes the layer": "true 0,1,2",
  "the parser refuses a node": "false 1 'the odd one' OddOp",
  "a plan for 8.9": "plan",
  "a plan for 12.0": "plan",
  "a plan for both": "plan",
  "none for 9.0": "P2214 Compute capability is invalid or not supported",
  "no profile": "P2214 no optimization profile has been defined",
  "a profile of another input": "P2214 Dynamic input tensor x is missing dimensions in profile 0",
  "two profiles": "plan",
  "a node that the parser refuses": "P2213 'the odd one' (OddOp)",
  "bytes that are no model": "P2213 model is no ONNX: ",
  "a model cut short": "P2213 model is no ONNX: ",
  "a model from a file": "plan",
  "a file that is not there": "P2213 Input file cannot be found",
  "every option": "plan",
  "progress begins and ends": "true",
  "an abort while it builds": "the reason",
  "a timing cache": "bytes",
  "a timing cache that is none": "plan",
  "eight at once": "plan plan plan plan plan plan plan plan",
  "a plan that is none": "P2216 header.magicTag == kEXPECTED_MAGIC_TAG failed",
  "a plan cut short": "P2216 plan.header.size == blobSize failed",
};

export async function script(trt: TensorRt): Promise<Readonly<Record<string, string>>> {
  const folder = mkdtempSync(join(tmpdir(), "partita-script-"));
  const file = join(folder, "layer.onnx");
  writeFileSync(file, layer());
  const profiles = [[batch(1, 4, 8)]];
  const odd = layer({ name: "the odd one", op: "OddOp" });
  let plan = new Uint8Array(0);
  const build = async (options: Parameters<TensorRt["build"]>[1] = {}, model: Uint8Array | string = layer()): Promise<string> => {
    const built = await trt.build(model, { profiles, computeCapabilities: [89], ...options });
    plan = Uint8Array.from(built.plan);
    return plan.length > 100 ? "plan" : "nothing";
  };
  const steps: Readonly<Record<keyof typeof expected, () => Promise<string>>> = {
    "the parser takes the layer": async () => {
      const { supported, subgraphs } = await trt.supports(layer());
      return `${supported} ${subgraphs.map((s) => s.nodes.join(",")).join(" ")}`;
    },
    "the parser refuses a node": async () => {
      const { supported, errors } = await trt.supports(odd);
      return `${supported} ${errors.map((e) => `${e.node} '${e.nodeName}' ${e.op}`).join("; ")}`;
    },
    "a plan for 8.9": () => build(),
    "a plan for 12.0": () => build({ computeCapabilities: [120] }),
    "a plan for both": () => build({ computeCapabilities: [89, 120] }),
    "none for 9.0": () => build({ computeCapabilities: [90] }),
    "no profile": () => build({ profiles: [] }),
    "a profile of another input": () => build({ profiles: [[batch(1, 4, 8, "z")]] }),
    "two profiles": () => build({ profiles: [[batch(1, 4, 8)], [batch(9, 16, 32)]] }),
    "a node that the parser refuses": () => build({}, odd),
    "bytes that are no model": () => build({}, new Uint8Array(100).fill(255)),
    "a model cut short": () => build({}, layer().subarray(0, 60)),
    "a model from a file": () => build({}, file),
    "a file that is not there": () => build({}, join(folder, "none.onnx")),
    "every option": () =>
      build({
        ...{ workspaceBytes: 1 << 28, optimizationLevel: 2, hardwareCompatibility: "none", tf32: false, sparseWeights: true },
        ...{ maxAuxiliaryStreams: 1, profilingVerbosity: "detailed", logLevel: "verbose" },
      }),
    "progress begins and ends": async () => {
      const seen: Progress[] = [];
      await build({ onProgress: (p) => seen.push(p) });
      const [begun, ended] = [seen.filter((p) => p.step === 0).length, seen.filter((p) => p.step === undefined).length];
      return String(begun > 0 && begun === ended && seen.some((p) => (p.step ?? 0) > 0));
    },
    "an abort while it builds": async () => {
      const controller = new AbortController();
      return await build({ signal: controller.signal, onProgress: () => controller.abort(new Error("the reason")) });
    },
    "a timing cache": async () => {
      const { timingCache } = await trt.build(layer(), { profiles, computeCapabilities: [89], timingCache: new Uint8Array(0) });
      return (timingCache?.length ?? 0) > 0 ? "bytes" : "nothing";
    },
    "a timing cache that is none": () => build({ timingCache: new Uint8Array(100).fill(7) }),
    "eight at once": async () => (await Promise.all(Array.from({ length: 8 }, () => build()))).join(" "),
    "a plan that is none": async () => String(await trt.deserialize(new Uint8Array(1000))),
    "a plan cut short": async () => {
      await build();
      return String(await trt.deserialize(plan.subarray(0, 200)));
    },
  };
  const outcomes: Record<string, string> = {};
  for (const [name, step] of Object.entries(steps))
    try {
      outcomes[name] = await step();
    } catch (error) {
      outcomes[name] = outcome(error, expected[name] ?? "");
    }
  rmSync(folder, { recursive: true, force: true });
  return outcomes;
}

/** The error's code, and what is expected of its text if it is there. */
function outcome(error: unknown, wanted: string): string {
  if (!(error instanceof PartitaError)) return error instanceof Error ? error.message : String(error);
  const [code = "", ...rest] = wanted.split(" ");
  const text = rest.join(" ");
  return error.code === code && error.message.includes(text) ? wanted : error.message;
}
