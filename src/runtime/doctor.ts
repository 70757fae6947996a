/** What this machine has. Files are looked for, nothing of NVIDIA's is loaded. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";

export interface MachineFact {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
  readonly remedy?: string | undefined;
}

const LIBRARY_FOLDERS = [
  "/usr/lib/x86_64-linux-gnu",
  "/usr/lib/aarch64-linux-gnu",
  "/usr/lib64",
  "/usr/lib",
  "/usr/local/cuda/lib64",
  "/usr/local/nvidia/lib64",
  "/usr/lib/wsl/lib",
  "/usr/local/lib",
];

export function doctor(env: Readonly<Record<string, string | undefined>> = process.env): readonly MachineFact[] {
  const folders = [
    ...(env["PARTITA_TENSORRT_DIR"] === undefined ? [] : [env["PARTITA_TENSORRT_DIR"], join(env["PARTITA_TENSORRT_DIR"], "lib")]),
    ...(env["LD_LIBRARY_PATH"] ?? "").split(":").filter((p) => p !== ""),
    ...LIBRARY_FOLDERS,
  ];
  const facts: MachineFact[] = [];
  const [major = 0] = process.versions.node.split(".").map(Number);
  facts.push({
    name: "Node.js",
    ok: major >= 20,
    detail: `${process.versions.node}, ${process.platform}-${process.arch}, ${availableParallelism()} cores`,
    ...(major >= 20 ? {} : { remedy: "install Node.js 20 or later" }),
  });
  facts.push(onnxRuntime());
  facts.push(library("GPU driver", folders, /^libcuda\.so\.1$/, "install NVIDIA's driver (it brings libcuda.so.1)"));
  facts.push(
    library(
      "NVRTC",
      [...folders, ...pipFolders(env, "nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib")],
      /^libnvrtc\.so\.\d+/,
      "pip install nvidia-cuda-nvrtc, or install the CUDA toolkit",
    ),
  );
  facts.push(
    library(
      "TensorRT",
      [...folders, ...pipFolders(env, "tensorrt_libs", "tensorrt_rtx_libs")],
      /^libnvinfer\.so\.\d+|^libtensorrt_rtx\.so\.\d+/,
      "install TensorRT 10 or 11, or set PARTITA_TENSORRT_DIR to its folder",
    ),
  );
  return facts;
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

/** Library folders of pip packages in the active or user environment. */
function pipFolders(env: Readonly<Record<string, string | undefined>>, ...inside: readonly string[]): readonly string[] {
  const bases = [
    env["VIRTUAL_ENV"],
    env["CONDA_PREFIX"],
    env["HOME"] === undefined ? undefined : join(env["HOME"], ".local"),
    "/usr/local",
    "/usr",
  ].filter((p) => p !== undefined);
  const found: string[] = [];
  for (const base of bases) {
    for (const python of list(join(base, "lib")).filter((n) => /^python3/.test(n))) {
      for (const packages of ["site-packages", "dist-packages"])
        for (const sub of inside) found.push(join(base, "lib", python, packages, sub));
    }
  }
  return found;
}
function list(folder: string): readonly string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
function library(name: string, folders: readonly string[], pattern: RegExp, remedy: string): MachineFact {
  const found: string[] = [];
  for (const folder of folders) for (const file of list(folder)) if (pattern.test(file)) found.push(join(folder, file));
  const [first] = [...new Set(found)];
  return first === undefined
    ? { name, ok: false, detail: "not found", remedy }
    : { name, ok: true, detail: [...new Set(found)].slice(0, 4).join(", ") };
}
