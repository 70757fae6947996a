/**
 * The table of slots against NVIDIA's headers, where TENSORRT_INCLUDE_DIR names them: a small program is compiled with them, in which a pointer to a
 * virtual member function tells its slot (Itanium C++ ABI: one more than eight times the slot).
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { familyOf, versionOf } from "../../src/engines/tensorrt/versions.js";
import { generator } from "../support/fake-tensorrt.js";

const folder = mkdtempSync(join(tmpdir(), "partita-headers-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const include = process.env["TENSORRT_INCLUDE_DIR"] ?? "";
const there = existsSync(join(include, "NvInferImpl.h"));
const why = include === "" ? "TENSORRT_INCLUDE_DIR is not set" : there ? undefined : `no NvInferImpl.h in '${include}'`;

/** What NVIDIA calls our names. */
const CLASSES: Readonly<Record<string, string>> = {
  Parser: "nvonnxparser::IParser",
  ParserError: "nvonnxparser::IParserError",
  ParserRefitter: "nvonnxparser::IParserRefitter",
  Logger: "nvinfer1::ILogger",
  Profiler: "nvinfer1::IProfiler",
  ProgressMonitor: "nvinfer1::IProgressMonitor",
  ErrorRecorder: "nvinfer1::IErrorRecorder",
  OutputAllocator: "nvinfer1::IOutputAllocator",
};
const ENUMERATORS: Readonly<Record<string, string>> = {
  NetworkFlag_stronglyTyped: "nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED",
  BuilderFlag_refit: "nvinfer1::BuilderFlag::kREFIT",
  BuilderFlag_tf32: "nvinfer1::BuilderFlag::kTF32",
  BuilderFlag_sparseWeights: "nvinfer1::BuilderFlag::kSPARSE_WEIGHTS",
  BuilderFlag_versionCompatible: "nvinfer1::BuilderFlag::kVERSION_COMPATIBLE",
  BuilderFlag_stripPlan: "nvinfer1::BuilderFlag::kSTRIP_PLAN",
  BuilderFlag_refitIdentical: "nvinfer1::BuilderFlag::kREFIT_IDENTICAL",
};
/** Of several functions of one name, the one that is meant. */
const OVERLOADS: Readonly<Record<string, string>> = {
  Runtime_deserializeCudaEngine: "nvinfer1::ICudaEngine* (nvinfer1::apiv::VRuntime::*)(void const*, std::size_t)",
};

function versionNumber(): number {
  const text = readFileSync(join(include, "NvInferVersion.h"), "utf8");
  const macro = (name: string): number | undefined => {
    const found = new RegExp(`#define\\s+${name}\\s+(\\d+)`).exec(text)?.[1];
    return found === undefined ? undefined : Number(found);
  };
  const part = (name: string): number => macro(`TRT_${name}_RTX`) ?? macro(`TRT_${name}_ENTERPRISE`) ?? macro(`NV_TENSORRT_${name}`) ?? 0;
  return part("MAJOR") * 10_000 + part("MINOR") * 100 + part("PATCH");
}

describe.skipIf(why !== undefined)(`NVIDIA's headers${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  it("say what the table says", () => {
    const number = versionNumber();
    const family = familyOf(versionOf(number));
    expect(family, `version ${number}`).toBeDefined();
    const column = generator.families.indexOf(family ?? "10");
    const minor = Math.floor(number / 100) % 100;
    const parser = existsSync(join(include, "NvOnnxParser.h"));
    const wanted = new Map<string, number>();
    const lines: string[] = [];
    for (const { kind, name, cells } of generator.readSlots()) {
      const cell = cells[column];
      const [owner = "", method = ""] = name.split("_");
      if (cell === undefined || cell.value < 0 || minor < cell.since || method === "delete") continue;
      if (name.startsWith("Parser") && !parser) continue;
      const of = CLASSES[owner] ?? `nvinfer1::apiv::V${owner}`;
      wanted.set(name, cell.value);
      if (kind === "E") lines.push(`tell("${name}", static_cast<int>(${ENUMERATORS[name]}));`);
      else
        lines.push(`tell("${name}", slot(${OVERLOADS[name] === undefined ? "" : `static_cast<${OVERLOADS[name]}>`}(&${of}::${method})));`);
    }
    // TensorRT's headers want two names of CUDA's.
    mkdirSync(join(folder, "cuda"));
    writeFileSync(
      join(folder, "cuda/cuda_runtime_api.h"),
      "#pragma once\ntypedef struct CUstream_st* cudaStream_t;\ntypedef struct CUevent_st* cudaEvent_t;\n",
    );
    writeFileSync(
      join(folder, "check.cc"),
      `#include <NvInfer.h>
${parser ? "#include <NvOnnxParser.h>" : ""}
#include <cstdio>
#include <cstring>
template <class F> int slot(F f) { long offset; memcpy(&offset, &f, sizeof offset); return static_cast<int>((offset - 1) / 8); }
static void tell(char const* name, int value) { printf("%s %d\\n", name, value); }
int main() {
  static_assert(sizeof(nvinfer1::Dims) == 72 && sizeof(nvinfer1::Weights) == 24, "");
  ${lines.join("\n  ")}
}
`,
    );
    const made = spawnSync(
      "c++",
      ["-std=c++17", "-w", "-I", include, "-idirafter", join(folder, "cuda"), "-o", join(folder, "check"), join(folder, "check.cc")],
      { encoding: "utf8" },
    );
    expect(made.stderr).toBe("");
    const told = spawnSync(join(folder, "check"), { encoding: "utf8" }).stdout.trim().split("\n");
    expect(new Map(told.map((line) => [line.split(" ")[0] ?? "", Number(line.split(" ")[1])]))).toEqual(wanted);
    expect(wanted.size).toBeGreaterThan(60);
  });
});
