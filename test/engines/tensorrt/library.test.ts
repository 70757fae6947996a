/** Where TensorRT is looked for, what is made of several, and what doctor says. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { tensorRtFacts } from "../../../src/engines/tensorrt/doctor.js";
import { unknownVersion } from "../../../src/engines/tensorrt/failures.js";
import { chooseLibrary, findLibraries, type LibraryFiles } from "../../../src/engines/tensorrt/library.js";
import type { Probe } from "../../../src/engines/tensorrt/probe.js";
import { versionOf } from "../../../src/engines/tensorrt/versions.js";

const root = mkdtempSync(join(tmpdir(), "partita-libraries-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let made = 0;
/** A tree of empty files; `a -> b` is a link. */
function tree(...files: readonly string[]): string {
  const folder = join(root, String(made++));
  for (const file of files) {
    const [path = "", to] = file.split(" -> ");
    mkdirSync(join(folder, path, ".."), { recursive: true });
    if (to === undefined) writeFileSync(join(folder, path), "");
    else symlinkSync(to, join(folder, path));
  }
  return folder;
}
const pip = "lib/python3.12/site-packages";
const maven = `.javacpp/cache/tensorrt-11.2-1.5.14-linux-x86_64-redist.jar/org/bytedeco/tensorrt/${process.arch === "arm64" ? "linux-arm64" : "linux-x86_64"}`;
const rtx = (folder: string): string[] => [`${folder}/libtensorrt_rtx.so.1`, `${folder}/libtensorrt_onnxparser_rtx.so.1`];
const proper = (folder: string, major = 11): string[] => [`${folder}/libnvinfer.so.${major}`, `${folder}/libnvonnxparser.so.${major}`];

describe("libraries of TensorRT", () => {
  it("are found by the loader's path, in pip's folders and in JavaCPP's cache, the newest TensorRT first", () => {
    const system = tree(
      "libnvinfer.so.10 -> libnvinfer.so.10.13.2",
      "libnvinfer.so.10.13.2",
      "libnvonnxparser.so.10",
      "libnvinfer_plugin.so.10",
    );
    const venv = tree(...rtx(`${pip}/tensorrt_rtx_libs`));
    const home = tree(...proper(maven));
    const found = findLibraries({ LD_LIBRARY_PATH: system, VIRTUAL_ENV: venv, HOME: home });
    expect(found.map((f) => [f.flavor, f.named, f.source, f.parser !== undefined])).toEqual([
      ["tensorrt", "11", "maven", true],
      ["tensorrt", "10.13.2", "system", true],
      ["rtx", "1", "pip", true],
    ]);
    expect(found[1]?.plugins).toBe(join(system, "libnvinfer_plugin.so.10"));
  });

  it("one that two paths lead to is listed once; a builder's resource tells the version", () => {
    const folder = tree("libnvinfer.so.11", "libnvonnxparser.so.11", "libnvinfer_builder_resource_ptx.so.11.2.1");
    expect(findLibraries({ LD_LIBRARY_PATH: `${folder}:${folder}/.` })).toHaveLength(1);
    expect(findLibraries({ LD_LIBRARY_PATH: folder })[0]?.named).toBe("11.2.1");
  });

  it("PARTITA_TENSORRT_DIR is the only place when it is set, whichever folder of an installation it names", () => {
    const elsewhere = tree(...proper("."));
    for (const inside of ["", "lib", "tensorrt_rtx_libs"]) {
      const folder = tree(...rtx(inside === "" ? "." : inside));
      const found = findLibraries({ PARTITA_TENSORRT_DIR: folder, LD_LIBRARY_PATH: elsewhere });
      expect(found.map((f) => [f.flavor, f.source])).toEqual([["rtx", "PARTITA_TENSORRT_DIR"]]);
    }
    expect(findLibraries({ PARTITA_TENSORRT_DIR: join(root, "nowhere"), LD_LIBRARY_PATH: elsewhere })).toEqual([]);
  });

  const both = () => findLibraries({ LD_LIBRARY_PATH: tree(...proper("."), ...rtx(".")) });
  it.each([
    ["no GPU: only TensorRT-RTX builds without one", { sm: 89, device: undefined }, "rtx", /no GPU here/],
    ["the GPU that is there: TensorRT", { sm: 90, device: 90 }, "tensorrt", /preferred .* does not serve compute capability 9\.0/],
    ["another GPU: TensorRT-RTX", { sm: 120, device: 90 }, "rtx", /12\.0, this GPU has 9\.0/],
    ["what was asked for", { sm: 90, device: 90, flavor: "rtx" as const }, "rtx", /asked for/],
  ] as const)("two present, %s", (_, wanted, flavor, why) => {
    const choice = chooseLibrary(both(), { flavor: undefined, ...wanted });
    expect(choice?.files.flavor).toBe(flavor);
    expect(choice?.why).toMatch(why);
  });

  it("one without its parser is passed over", () => {
    const folder = tree("libnvinfer.so.11", ...proper(".", 10));
    expect(chooseLibrary(findLibraries({ LD_LIBRARY_PATH: folder }), { sm: 90, device: 90 })?.files.major).toBe(10);
    expect(chooseLibrary([], { sm: 90, device: 90 })).toBeUndefined();
  });
});

describe("doctor on TensorRT", () => {
  const env = { LD_LIBRARY_PATH: tree(...proper("."), ...rtx(".")) };
  const yes = { ok: true } as const;
  const works = async ({ flavor }: LibraryFiles): Promise<Probe> => ({
    version: versionOf(flavor === "rtx" ? 10_701 : 110_201),
    family: flavor === "rtx" ? "rtx-1.5" : "11",
    parser: yes,
    builder: yes,
    runtime: yes,
  });
  it("says what each can do with this GPU, and which is taken and why", async () => {
    const [first, second] = await tensorRtFacts(90, env, works);
    expect(first).toMatchObject({ name: "TensorRT", ok: true });
    expect(first?.detail).toMatch(
      /^11\.2\.1, .*libnvinfer\.so\.11 in the system's folders; builds and runs plans on this GPU \(compute capability 9\.0\); this one is taken: /,
    );
    expect(second?.detail).toMatch(
      /^1\.7\.1, .*; builds plans for compute capability 7\.5, 8\.0, .* and runs none on this GPU \(compute capability 9\.0\)$/,
    );
  });
  it("and without one", async () => {
    const [first, second] = await tensorRtFacts(undefined, env, works);
    expect(first?.detail).toMatch(/builds and runs nothing without a GPU$/);
    expect(second?.detail).toMatch(/without a GPU, and runs none here; this one is taken: there is no GPU here/);
    expect((await tensorRtFacts(89, env, works))[1]?.detail).toContain("and runs those for this GPU (compute capability 8.9)");
  });
  it("names an unknown version, a missing parser, what does not work, nothing at all, and a packed archive", async () => {
    const refused = await tensorRtFacts(90, env, async () => {
      throw unknownVersion({ found: "TensorRT 8.6.1", library: "libnvinfer.so.8" });
    });
    expect(refused[0]).toMatchObject({
      ok: false,
      detail: expect.stringContaining("is TensorRT 8.6.1, whose binary interface is not known"),
    });
    const [alone] = await tensorRtFacts(90, { PARTITA_TENSORRT_DIR: tree("libnvinfer.so.11") }, works);
    expect(alone).toMatchObject({ ok: false, detail: expect.stringContaining("its ONNX parser is missing") });
    expect(await tensorRtFacts(90, { PARTITA_TENSORRT_DIR: root }, works)).toEqual([
      expect.objectContaining({ name: "TensorRT", ok: false, remedy: expect.stringContaining("pip install tensorrt-rtx-cu13-libs") }),
    ]);
    const broken = async (f: LibraryFiles): Promise<Probe> => ({ ...(await works(f)), builder: { ok: false, why: "no sm_90 library" } });
    expect((await tensorRtFacts(90, env, broken))[0]).toMatchObject({
      ok: false,
      detail: expect.stringContaining("it builds no plan here: no sm_90 library"),
    });
    expect((await tensorRtFacts(undefined, env, broken))[0]?.ok).toBe(true);
    const layout = process.arch === "arm64" ? "linux-arm64" : "linux-x86_64";
    const home = tree(`.m2/repository/org/bytedeco/tensorrt/11.2-1.5.14/tensorrt-11.2-1.5.14-${layout}-redist.jar`);
    const [packed] = await tensorRtFacts(90, { HOME: home }, works);
    // Where the machine itself has one, that is what is found.
    if (packed?.ok === false) expect(packed.remedy).toContain("unpack the archive");
  });
});
