/** What this machine has. NVIDIA's driver and NVRTC are loaded through the addon and asked; TensorRT's libraries too, in a process of their own. */
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { PartitaError } from "../diagnostics.js";
import { probeCompiler } from "../engines/cuda/compiler.js";
import { listDevices, openDriver } from "../engines/cuda/device.js";
import type { Environment } from "../engines/cuda/libraries.js";
import { native } from "../engines/cuda/native.js";
import { tensorRtFacts } from "../engines/tensorrt/doctor.js";
import { presentGpu } from "../engines/tensorrt/load.js";
import { probeTensorRt } from "../engines/tensorrt/probe.js";

import { energyMeter } from "./energy.js";

export interface MachineFact {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly remedy?: string | undefined;
}

export async function doctor(env: Environment = process.env): Promise<readonly MachineFact[]> {
  const [major = 0] = process.versions.node.split(".").map(Number);
  return [
    {
      name: "Node.js",
      ok: major >= 20,
      detail: `${process.versions.node}, ${process.platform}-${process.arch}, ${availableParallelism()} cores`,
      ...(major >= 20 ? {} : { remedy: "install Node.js 20 or later" }),
    },
    onnxRuntime(),
    asked("CUDA addon", () => native().path),
    asked("GPU driver", () => {
      const { version, library } = openDriver();
      return `CUDA ${version}, ${library}`;
    }),
    asked("GPU", () =>
      listDevices()
        .map((d) => `${d.name} (sm_${d.sm}, ${d.multiprocessors} multiprocessors, ${(d.memoryBytes / 2 ** 30).toFixed(1)} GiB)`)
        .join(", "),
    ),
    asked("CUDA compiler", () => {
      const { kind, version, path, archs } = probeCompiler();
      return `${kind === "nvrtc" ? "NVRTC" : "nvcc"} ${version}, ${path}${archs.length === 0 ? "" : `, sm_${archs[0]} to sm_${archs.at(-1)}`}`;
    }),
    energyFact(),
    ...(await tensorRtFacts(presentGpu()?.properties.sm, env, ({ library, parser }) => probeTensorRt({ library, parser }))),
  ];
}

/** Whether a benchmark can tell the GPU's energy. */
function energyFact(): MachineFact {
  const meter = energyMeter();
  return "how" in meter
    ? { name: "Energy", ok: true, detail: meter.how }
    : {
        name: "Energy",
        ok: false,
        detail: meter.missing,
        remedy: "install NVIDIA's driver (it brings libnvidia-ml.so.1), for joules in partita bench",
      };
}

/** What `find` says, or the coded error's reason and remedy. */
function asked(name: string, find: () => string): MachineFact {
  try {
    return { name, ok: true, detail: find() };
  } catch (error) {
    if (!(error instanceof PartitaError)) throw error;
    return { name, ok: false, detail: error.why ?? error.what, remedy: error.fix };
  }
}

function onnxRuntime(): MachineFact {
  try {
    const entry = createRequire(import.meta.url).resolve("onnxruntime-node");
    let folder = dirname(entry);
    while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
    const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
    const binary = join(folder, "bin/napi-v6", process.platform, process.arch);
    return existsSync(binary)
      ? { name: "ONNX Runtime", ok: true, detail: `onnxruntime-node ${version}` }
      : {
          name: "ONNX Runtime",
          ok: false,
          detail: `onnxruntime-node ${version} has no binary for ${process.platform}-${process.arch}`,
          remedy: "use a supported platform",
        };
  } catch {
    return {
      name: "ONNX Runtime",
      ok: false,
      detail: "onnxruntime-node is not installed",
      remedy: "npm install --ignore-scripts onnxruntime-node",
    };
  }
}
