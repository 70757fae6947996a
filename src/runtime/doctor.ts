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
  const driver = asked("GPU driver", () => {
    const { version, library } = openDriver();
    return `CUDA ${version}, ${library}`;
  });
  // What fails for the same reason says no more than that.
  const beyond = (fact: MachineFact): MachineFact =>
    !driver.ok && fact.detail === driver.detail ? { ...fact, detail: "as for the GPU driver" } : fact;
  return [
    nodeFact(process.versions.node),
    onnxRuntime(),
    asked("CUDA addon", () => native().path),
    { ...driver, detail: joined(driver.detail) },
    beyond(
      asked("GPU", () =>
        listDevices()
          .map((d) => `${d.name} (sm_${d.sm}, ${d.multiprocessors} multiprocessors, ${(d.memoryBytes / 2 ** 30).toFixed(1)} GiB)`)
          .join(", "),
      ),
    ),
    asked("CUDA compiler", () => {
      const { kind, version, path, archs } = probeCompiler();
      return `${kind === "nvrtc" ? "NVRTC" : "nvcc"} ${version}, ${path}${archs.length === 0 ? "" : `, sm_${archs[0]} to sm_${archs.at(-1)}`}`;
    }),
    beyond(energyFact()),
    ...(await tensorRtFacts(presentGpu()?.properties.sm, env, ({ library, parser }) => probeTensorRt({ library, parser }))),
  ];
}

/** Whether a version of Node.js is one that the package asks for. */
export function nodeFact(version: string): MachineFact {
  const { engines } = createRequire(import.meta.url)("partita/package.json") as { engines: { node: string } };
  const least = engines.node.replace(">=", "");
  const [wanted = [], found = []] = [least, version].map((text) => text.split(".").map((x) => Number.parseInt(x, 10)));
  const at = wanted.findIndex((n, i) => n !== (found[i] ?? 0));
  const ok = at < 0 || (found[at] ?? 0) > (wanted[at] as number);
  return {
    name: "Node.js",
    ok,
    detail: `${version}, ${process.platform}-${process.arch}, ${availableParallelism()} cores`,
    ...(ok ? {} : { remedy: `install Node.js ${least} or later` }),
  };
}

/** `a: why; b: why` as `a, b: why`. */
export function joined(reasons: string): string {
  const parts = reasons.split("; ").map((text) => /^(\S+): (.+)$/.exec(text));
  const whys = new Set(parts.map((p) => p?.[2]));
  const [why] = whys;
  return why === undefined || whys.size > 1 ? reasons : `${parts.map((p) => p?.[1]).join(", ")}: ${why}`;
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
