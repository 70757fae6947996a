/**
 * Model repositories against Triton's published schema: `pip install --no-deps --target <folder> tritonclient protobuf` brings it, and
 * PARTITA_TRITON_CLIENT names the folder. Plans come from a stand-in for TensorRT.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run as commandLine } from "../../src/cli/program.js";
import { compile } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import { useFakeDriver } from "../support/fake-cuda.js";
import { standInFolder } from "../support/tensorrt-folder.js";

const client = process.env["PARTITA_TRITON_CLIENT"] ?? "";
const noDriver = useFakeDriver();
const { folder: installed, missing } = standInFolder("11");
const why =
  client === ""
    ? "PARTITA_TRITON_CLIENT is not set"
    : existsSync(join(client, "tritonclient/grpc/model_config_pb2.py"))
      ? (noDriver ?? missing ?? (spawnSync("python3", ["--version"]).error === undefined ? undefined : "there is no python3"))
      : `no tritonclient in '${client}'`;

/** Two TensorRT parts with one of the host between them, a scalar, whole numbers, an input and a constant handed through. */
const NET = `graph "net" opset {"": 18} (%x: float32[N, 3], %k: float32[], %n: int64[N]) -> (%y, %h, %x, %c, %m) {
  const %w = float32[3, 3] [1.0, -2.0, 0.5, 0.0, 1.0, 1.0, -1.0, 3.0, 2.0]
  const %b = float32[3] [0.25, -0.5, 1.0]
  const %c = int64[2] [4, 5]
  %p = MatMul(%x, %w) @"product"
  %s = Add(%p, %b) @"bias"
  %o = Sigmoid(%s) @"odd"
  %h = Mul(%o, %k) @"scaled"
  %q = MatMul(%h, %w) @"second"
  %t = Add(%q, %b) @"sum"
  %y = Relu(%t) @"last"
  %m = Neg(%n) @"negative"
}`;

describe.skipIf(why !== undefined)(`Triton's schema${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-triton-"));
  const before = { ...process.env };
  beforeAll(() => {
    process.env["PARTITA_TENSORRT_DIR"] = installed;
    process.env["PARTITA_CACHE_DIR"] = join(folder, "cache");
  });
  afterAll(() => {
    process.env = before;
    rmSync(folder, { recursive: true, force: true });
  });
  const problems = (repository: string): unknown => {
    const { stdout, stderr } = spawnSync("python3", [join(import.meta.dirname, "triton.py"), client, repository], { encoding: "utf8" });
    expect(stderr).toBe("");
    return JSON.parse(stdout);
  };
  async function exported(name: string, target: "tensorrt" | "host"): Promise<string> {
    const shapes = { x: { min: [1, 3], opt: [4, 3], max: [8, 3] }, n: { min: [1], opt: [4], max: [8] } };
    const program = await compile(parse(NET), { target, minimumSegmentSize: 1, tune: "none", shapes });
    await program.save(join(folder, `${name}.partita`));
    const io = { stdout: { write: () => {} }, stderr: { write: () => {} }, env: {} };
    expect(await commandLine(["export", join(folder, `${name}.partita`), "triton", "-o", join(folder, name)], io)).toBe(0);
    return join(folder, name);
  }

  it.each(["tensorrt", "host"] as const)("a repository for %s is one, parts, versions and ensemble", async (target) => {
    expect(problems(await exported(target, target))).toEqual([]);
  });
  it("the check sees what is wrong", async () => {
    const repository = await exported("broken", "tensorrt");
    const file = join(repository, "broken/config.pbtxt");
    const good = readFileSync(file, "utf8");
    for (const [from, to, said] of [
      [/name: "broken"/, 'nam: "broken"', /no field named "nam"/],
      [/model_version: -1/, "model_version: 7", /has no version 7/],
      [/value: "s"/, 'value: "nothing"', /not made|before it is made/],
      [/TYPE_FP32/, "TYPE_FP99", /no value named TYPE_FP99|TYPE_FP99/],
    ] as const) {
      writeFileSync(file, good.replace(from, to));
      expect((problems(repository) as string[]).join("\n"), String(from)).toMatch(said);
    }
  });
});
