/** Libraries that are opened, refused, or tried in a child process first. The other codes of the native half are pinned in native-11.test.ts. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openTensorRt } from "../../../src/engines/tensorrt/open.js";
import { probeTensorRt } from "../../../src/engines/tensorrt/probe.js";
import { familyOf, versionOf } from "../../../src/engines/tensorrt/versions.js";
import { compileStandIn, generator, type StandIn } from "../../support/fake-tensorrt.js";
import { layer } from "../../support/tensorrt-models.js";

const folder = mkdtempSync(join(tmpdir(), "partita-open-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const caught = async (work: () => unknown): Promise<Error & { readonly code?: string }> => {
  try {
    await work();
  } catch (error) {
    return error as Error;
  }
  return new Error("nothing failed");
};

describe("versions", () => {
  it("are read from the library's number", () => {
    expect(versionOf(8601)).toMatchObject({ product: "TensorRT", text: "8.6.1" });
    expect(versionOf(10701)).toMatchObject({ product: "TensorRT-RTX", text: "1.7.1" });
    expect(versionOf(101302)).toMatchObject({ product: "TensorRT", text: "10.13.2" });
    expect(versionOf(110400)).toMatchObject({ product: "TensorRT", text: "11.4.0" });
  });
  it("known majors of TensorRT, known minors of RTX, nothing else", () => {
    const families = [8601, 90300, 100001, 101602, 110000, 110401, 120000, 10200, 10300, 10400, 10500, 10701, 10800, 20000];
    expect(families.map((n) => familyOf(versionOf(n)))).toEqual([
      ...[undefined, undefined, "10", "10", "11", "11", undefined],
      ...[undefined, "rtx-1.3", "rtx-1.3", "rtx-1.5", "rtx-1.5", undefined, undefined],
    ]);
  });
});

it("slots.h is what slots.txt says (run `node scripts/tensorrt-slots.mjs`)", async () => {
  const { slotsHeader } = generator as unknown as { slotsHeader(): string };
  expect(readFileSync(join(import.meta.dirname, "../../../native/tensorrt/slots.h"), "utf8")).toBe(slotsHeader());
});

const made = compileStandIn("11");
describe.skipIf(typeof made === "string")(`opening${typeof made === "string" ? ` (skipped: ${made})` : ""}`, () => {
  const { library } = made as StandIn;
  const probe = (from: string, timeoutMs?: number): ReturnType<typeof probeTensorRt> =>
    probeTensorRt({ library: from, parser: from, folder: join(folder, "probes"), timeoutMs });

  it("P2210: what is missing, no library, or not TensorRT, is said by the loader", async () => {
    const missing = join(folder, "libnvinfer.so.11");
    const message = `P2210 '${missing}' cannot be loaded as TensorRT: dlopen: ${missing}: cannot open shared object file: No such file or directory. Name the folder of a complete installation in PARTITA_TENSORRT_DIR.`;
    expect((await caught(() => openTensorRt({ library: missing }))).message).toBe(message);
    expect((await caught(() => probe(missing))).message).toBe(message);
    const text = join(folder, "libtext.so");
    writeFileSync(text, "no library");
    expect((await caught(() => openTensorRt({ library: text }))).message).toMatch(/^P2210 .*(file too short|invalid ELF header)/);
    const other = process.platform === "linux" ? "libm.so.6" : "libm.dylib";
    expect((await caught(() => openTensorRt({ library: other }))).message).toMatch(/^P2210 .*has no getInferLibVersion/);
    expect((await caught(() => openTensorRt({ library, parser: other }))).message).toMatch(/^P2210 .*has no getNvOnnxParserVersion/);
  });
  it("P2211: a version whose interface is not known", async () => {
    const old = join(folder, "libold.so.9");
    copyFileSync(library, old);
    process.env["FAKE_TENSORRT_VERSION"] = "90300";
    const message = `P2211 '${old}' is TensorRT 9.3.0, whose binary interface is not known. Install one of TensorRT 10.x and 11.x, TensorRT-RTX 1.3 to 1.7, or a newer Partita.`;
    try {
      expect((await caught(() => openTensorRt({ library: old }))).message).toBe(message);
      expect((await caught(() => probe(old))).message).toBe(message);
    } finally {
      delete process.env["FAKE_TENSORRT_VERSION"];
    }
  });
  it("P2222: another copy of a library that the process holds; a link to it is the same", async () => {
    expect(openTensorRt({ library }).version.text).toBe("11.2.1");
    const copy = join(folder, "copy");
    const [source] = readdirSync(join(library, "..")).filter((n) => n.startsWith("libnvinfer"));
    if (source === undefined) throw new Error("no stand-in");
    mkdirSync(copy);
    copyFileSync(library, join(copy, source));
    expect((await caught(() => openTensorRt({ library: join(copy, source) }))).message).toBe(
      `P2222 '${join(copy, source)}' cannot be loaded beside '${library}': the loader would mix their parts. Use one of them in a process.`,
    );
    const link = join(folder, "link");
    mkdirSync(link);
    symlinkSync(library, join(link, source));
    expect(openTensorRt({ library: join(link, source) }).version.text).toBe("11.2.1");
  });
  it("P2223: no parser; plans need none", async () => {
    const link = join(folder, "libalone.so.11");
    copyFileSync(library, link);
    const alone = openTensorRt({ library: link });
    expect(alone.parser).toBeUndefined();
    for (const work of [() => alone.build(layer()), () => alone.supports(layer())])
      expect((await caught(work)).message).toBe(
        "P2223 there is no ONNX parser beside the TensorRT library. Install libnvonnxparser or libtensorrt_onnxparser_rtx of the same version; plans run without it.",
      );
  });

  describe("in a child process first", () => {
    it("tells what works, and remembers it", async () => {
      const found = { version: { text: "11.2.1" }, family: "11", parser: { ok: true }, builder: { ok: true }, runtime: { ok: true } };
      expect(await probe(library)).toMatchObject(found);
      const [file] = readdirSync(join(folder, "probes"));
      if (file === undefined) throw new Error("nothing is remembered");
      // What is remembered is used, and what is no memory is not.
      process.env["FAKE_TENSORRT_FAIL"] = "createInferBuilder";
      try {
        expect(await probe(library)).toMatchObject(found);
        writeFileSync(join(folder, "probes", file), "{}");
        expect(await probe(library)).toMatchObject({
          ...found,
          parser: { ok: false, why: "Unable to load library libfake_builder_resource.so" },
          builder: { ok: false },
          runtime: { ok: false, why: "there is no plan to try" },
        });
      } finally {
        delete process.env["FAKE_TENSORRT_FAIL"];
      }
      expect(await probeTensorRt({ library, parser: library, folder: join(folder, "probes"), fresh: true })).toMatchObject(found);
    });
    it("without a parser", async () => {
      expect(await probeTensorRt({ library, folder: join(folder, "none") })).toMatchObject({
        parser: { ok: false, why: "there is no ONNX parser" },
        builder: { ok: false },
      });
    });
    it("P2212: a library that ends its process does not end this one", async () => {
      const trouble = async (kind: string, timeoutMs?: number): Promise<string> => {
        process.env["FAKE_TENSORRT_FAIL"] = kind;
        try {
          return (await caught(() => probeTensorRt({ library, parser: library, folder: join(folder, kind), timeoutMs }))).message;
        } finally {
          delete process.env["FAKE_TENSORRT_FAIL"];
        }
      };
      expect(await trouble("crash")).toMatch(
        /^P2212 a process that tried '.*libnvinfer\.so\.11' died: it ended by SIG(SEGV|BUS), when it built a plan.*\. Install TensorRT again, or another version; the process that runs models did not load it\.$/,
      );
      expect(await trouble("hang", 1500)).toMatch(/^P2212 .*: it gave no answer in 1500 ms, when it built a plan\. /);
      // Nothing is remembered of either.
      expect([existsSync(join(folder, "crash")), existsSync(join(folder, "hang"))]).toEqual([false, false]);
    });
  });
});
