/**
 * NVIDIA's Python bindings against the stand-ins: they were compiled against NVIDIA's own headers, one wheel a version, and need no GPU. What they
 * call lies where native/tensorrt/slots.txt says, or the stand-in ends the process. PARTITA_TENSORRT_BINDINGS names a folder of unpacked wheels
 * (tensorrt_cu12_bindings, tensorrt_cu13_bindings, tensorrt_rtx_cu13_bindings in folders of any name).
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { familyOf, versionOf } from "../../src/engines/tensorrt/versions.js";
import { compileStandIn, generator } from "../support/fake-tensorrt.js";
import { layer, layerValues } from "../support/tensorrt-models.js";

const folder = mkdtempSync(join(tmpdir(), "partita-bindings-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Wheel {
  readonly title: string;
  readonly version: string;
  readonly object: string;
  readonly module: string;
}
/** `<folder>/<any>/tensorrt_bindings/tensorrt.so` with its dist-info beside. */
function wheels(top: string): readonly Wheel[] {
  return readdirSync(top).flatMap((name) => {
    const inside = join(top, name);
    const info = readdirSync(inside).find((n) => n.endsWith("bindings.dist-info") || /_bindings-[\d.]+.*\.dist-info$/.test(n));
    const version = /-([\d.]+?)(\.post\d+)?\.dist-info$/.exec(info ?? "")?.[1];
    const found = [
      { object: join(inside, "tensorrt_bindings/tensorrt.so"), module: "tensorrt" },
      { object: join(inside, "tensorrt_rtx_bindings/tensorrt_rtx.so"), module: "tensorrt_rtx" },
    ].find((w) => existsSync(w.object));
    return found === undefined || version === undefined ? [] : [{ ...found, version, title: `${found.module} ${version}` }];
  });
}
const top = process.env["PARTITA_TENSORRT_BINDINGS"] ?? "";
const found = top === "" ? [] : wheels(top);
const python = spawnSync("python3", ["--version"]).error === undefined;
const why =
  top === ""
    ? "PARTITA_TENSORRT_BINDINGS is not set"
    : found.length === 0
      ? `no wheels in '${top}'`
      : python
        ? undefined
        : "there is no python3";

describe.skipIf(why !== undefined)(`NVIDIA's bindings${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  it.each(found)("$title: finds everything in its place", ({ version, object, module }) => {
    const [major = 0, minor = 0, patch = 0] = version.split(".").map(Number);
    const number = major * 10_000 + minor * 100 + patch;
    const family = familyOf(versionOf(number));
    if (family === undefined) throw new Error(`${version} is not known`);
    const standIn = compileStandIn(family, { version: number });
    if (typeof standIn === "string") throw new Error(standIn);
    const place = mkdtempSync(join(folder, "libraries-"));
    const names = module === "tensorrt" ? ["nvinfer", "nvonnxparser", "nvinfer_plugin"] : ["tensorrt_rtx", "tensorrt_onnxparser_rtx"];
    for (const name of names) symlinkSync(standIn.library, join(place, `lib${name}.so.${major}`));
    writeFileSync(join(place, "model.onnx"), layer());
    const child = spawnSync(
      "python3",
      ["-W", "ignore", join(import.meta.dirname, "bindings.py"), object, module, join(place, "model.onnx"), join(place, "result.json")],
      { encoding: "utf8", env: { ...process.env, LD_LIBRARY_PATH: place } },
    );
    expect(`${child.stdout}${child.stderr}`.trim(), `status ${child.status}, signal ${child.signal}`).toBe("");
    expect(child.status).toBe(0);
    const result = JSON.parse(readFileSync(join(place, "result.json"), "utf8")) as Record<string, unknown>;
    const column = generator.families.indexOf(family);
    const value = (name: string): number =>
      generator.readSlots().find((s) => s.kind === "E" && s.name === name)?.cells[column]?.value ?? -1;
    expect(result).toEqual({
      odd: false,
      subgraphs: [
        [true, [0, 1]],
        [false, [2]],
      ],
      error: [8, "no importer registered for op: Erfc", 2, "relu", "Erfc"],
      parsed: true,
      profile: 0,
      plan: "FAKEPLAN",
      flags: [value("BuilderFlag_refit"), value("BuilderFlag_sparseWeights"), value("BuilderFlag_refitIdentical")],
      named: [value("BuilderFlag_refit"), value("BuilderFlag_sparseWeights"), value("BuilderFlag_refitIdentical")],
      others: [value("BuilderFlag_tf32"), value("BuilderFlag_versionCompatible"), value("BuilderFlag_stripPlan")],
      strong: value("NetworkFlag_stronglyTyped"),
      cache: "FAKECACHE3",
      monitor: [
        ["start", "Building Engine", null, 3],
        ["start", "Timing", "Building Engine", 3],
        ...[0, 1, 2].map((i) => ["step", "Timing", i]),
        ["finish", "Timing"],
        ["finish", "Building Engine"],
      ],
      logged: 100,
      refused: true,
      recorded: [1, "Error Code 1: IRuntime::deserializeCudaEngine: Serialization (header.magicTag == kEXPECTED_MAGIC_TAG failed)"],
      engine: [3, 1, true, 2, 4096],
      io: [
        ["x", [-1, 3], 0, 0, 1],
        ["y", [-1, 3], 0, 0, 2],
      ],
      range: [
        [1, 3],
        [4, 3],
        [8, 3],
      ],
      inspector: { Layers: ["product", "bias", "relu"], Verbosity: 2 },
      chosen: true,
      shape: true,
      missing: [],
      result: [2, 3],
      addresses: [true, true],
      run: true,
      y: Array.from(layerValues(Float32Array.from([1, 2, 3, -1, -2, -3]))),
      layers: ["product", "bias", "relu"],
      // The stand-in keeps the rows that do not begin with zero: one of the two.
      allocator: [true, true],
      allocated: [
        ["memory", "y", 12, 512],
        ["dims", "y", [1, 3]],
      ],
      decided: Array.from(layerValues(Float32Array.from([-1, -2, -3]))),
      weights: [["b", "w"], []],
      from_model: [true, 0],
      refit: true,
    });
  });
});
