/** What `doctor` advises where a builder does not find its kernels. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { tensorRtFacts } from "../../../src/engines/tensorrt/doctor.js";
import { versionOf } from "../../../src/engines/tensorrt/versions.js";

it("names LD_LIBRARY_PATH where the kernels lie beside the library, and the folder where they do not", async () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-doctor-"));
  const resource = "libnvinfer_builder_resource.so.10.6.0";
  const facts = async (why: string) =>
    await tensorRtFacts(90, { PARTITA_TENSORRT_DIR: folder }, async () => ({
      version: versionOf(100_600),
      family: "10",
      parser: { ok: true },
      builder: { ok: false, why },
      runtime: { ok: true },
    }));
  const lost = `createInferBuilder: Error Code 6: API Usage Error (Unable to load library: ${resource}: cannot open shared object file)`;
  try {
    for (const name of ["libnvinfer.so.10", "libnvonnxparser.so.10"]) writeFileSync(join(folder, name), "");
    expect(await facts(lost)).toMatchObject([
      { ok: false, remedy: `put this TensorRT's libnvinfer_builder_resource library into '${folder}': the installation is not whole` },
    ]);
    writeFileSync(join(folder, resource), "");
    expect(await facts(lost)).toMatchObject([{ ok: false, remedy: `set LD_LIBRARY_PATH to '${folder}' before the process starts` }]);
    expect(await facts("out of memory")).toMatchObject([
      { ok: false, remedy: "install the whole of this TensorRT, and the driver it asks for" },
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
