/** `partita calibrate` and `calibrate merge`: files, shards, tables, JSON, what is refused. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { run } from "../../src/cli/program.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";
import { npzBytes } from "../../src/npz.js";
import { Tensor } from "../../src/tensor.js";

const folder = mkdtempSync(join(tmpdir(), "partita-cli-calibrate-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

async function partita(...argv: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ["", ""];
  const code = await run(argv, {
    stdout: { write: (s) => void (out += s) },
    stderr: { write: (s) => void (err += s) },
    env: {},
  });
  return { code, out: out.replaceAll(folder, ""), err: err.replaceAll(folder, "") };
}

const weights = Array.from({ length: 32 * 16 }, (_, i) => ((i * 37) % 19) / 10 - 0.9).join(", ");
writeFileSync(
  at("net.onnx"),
  encodeOnnx(
    parse(`graph "net" opset {"": 18} (%x: float32[N, 32]) -> (%y) {
    const %w = float32[32, 16] [${weights}]
    %h = MatMul(%x, %w) @"fc"
    %y = Relu(%h) @"act"
  }`),
  ),
);
const rows = Float32Array.from({ length: 64 * 32 }, (_, i) => Math.sin(i * i));
writeFileSync(at("data.npz"), npzBytes([["x", new Tensor("float32", rows, [64, 32])]]));
const calibrate = (...more: readonly string[]) => partita("calibrate", at("net.onnx"), "--data", at("data.npz"), ...more);

it("writes a calibration and a table, and leaves nothing else", async () => {
  const done = await calibrate("-o", at("c.json"), "--table", at("t.cache"), "--method", "max");
  expect(done).toMatchObject({ code: 0, out: "1 tensors over 64 feeds\ncalibration: /c.json\n" });
  expect(done.err).toMatch(/\ncalibrate: feed 1 of 64, \d+ s left\n/);
  expect(readFileSync(at("t.cache"), "utf8")).toMatch(/^TRT-8601-EntropyCalibration2\nx: 3c01[0-9a-f]{4}\n$/);
  expect(readdirSync(folder).sort()).toEqual(["c.json", "data.npz", "net.onnx", "t.cache"]);
  const json = JSON.parse((await calibrate("-o", at("c.json"), "--json", "--batch", "8")).out) as Record<string, unknown>;
  expect(json).toMatchObject({ schema: "partita.calibrate/1", calibration: "/c.json", feeds: 8, tensors: 1, shards: null });
});

it("shards merge to the bytes of the whole", async () => {
  await calibrate("-o", at("c.json"));
  for (const i of [1, 2, 3]) {
    const { out } = await calibrate("-o", at(`s${i}.json`), "--shard", `${i}/3`);
    expect(out).toBe(`1 tensors over ${i === 1 ? 22 : 21} feeds, shard ${i} of 3\ncalibration: /s${i}.json\n`);
  }
  const some = await partita("calibrate", "merge", at("s3.json"), at("s1.json"), "-o", at("some.json"));
  expect(some.out).toBe("1 tensors over 43 feeds; shards 1, 3 of 3, the others are missing\ncalibration: /some.json\n");
  const all = await partita("calibrate", "merge", at("some.json"), at("s2.json"), "-o", at("all.json"), "--json");
  expect(JSON.parse(all.out)).toMatchObject({ schema: "partita.calibrate/1", feeds: 64, shards: null });
  expect(readFileSync(at("all.json"), "utf8")).toBe(readFileSync(at("c.json"), "utf8"));
  const twice = await partita("calibrate", "merge", at("s1.json"), at("s1.json"), "-o", at("no.json"));
  expect(twice.code).toBe(1);
  expect(twice.err).toMatch(/^error: P1612 \/s1\.json: shard 1\/3 is in '\/s1\.json' too/);
  expect(existsSync(at("no.json"))).toBe(false);
});

it("shards beyond the last feed are empty, and change nothing in the merge", async () => {
  const few = Float32Array.from({ length: 3 * 32 }, (_, i) => Math.sin(i * i));
  writeFileSync(at("few.npz"), npzBytes([["x", new Tensor("float32", few, [3, 32])]]));
  const shard = (i: number, ...more: readonly string[]) =>
    partita("calibrate", at("net.onnx"), "--data", at("few.npz"), "-o", at(`few${i}.json`), "--shard", `${i}/5`, ...more);
  await partita("calibrate", at("net.onnx"), "--data", at("few.npz"), "-o", at("few.json"));
  for (const i of [1, 2, 3]) await shard(i);
  const empty = await shard(4, "--table", at("few4.cache"));
  expect(empty).toMatchObject({ code: 0, out: "1 tensors over 0 feeds, shard 4 of 5\ncalibration: /few4.json\n" });
  expect(empty.err).toContain(
    "warning: shard 4 of 5 holds no feed: the data makes 3 feeds for 5 shards; its calibration is empty, and merges like any other\n",
  );
  expect(existsSync(at("few4.cache"))).toBe(false);
  expect((await shard(5)).code).toBe(0);
  const files = [5, 1, 4, 3, 2].map((i) => at(`few${i}.json`));
  expect(await partita("calibrate", "merge", ...files, "-o", at("few-all.json"))).toMatchObject({ code: 0, err: "" });
  expect(readFileSync(at("few-all.json"), "utf8")).toBe(readFileSync(at("few.json"), "utf8"));
  // No data at all is still an error, whatever the shard.
  writeFileSync(at("none.npz"), npzBytes([["x", new Tensor("float32", new Float32Array(0), [0, 32])]]));
  const none = await partita("calibrate", at("net.onnx"), "--data", at("none.npz"), "-o", at("none.json"), "--shard", "2/2");
  expect(none.code).toBe(1);
  expect(none.err).toMatch(/P1601 .*the calibration data is empty/);
});

it("refuses what cannot serve, with the exit code of usage", async () => {
  const refused = async (...argv: readonly string[]): Promise<string> => {
    const { code, err } = await partita("calibrate", ...argv);
    expect(code).toBe(2);
    return err;
  };
  expect(await refused(at("net.onnx"))).toMatch(/P1001 option '--data' is missing/);
  expect(await refused("merge", at("c.json"))).toMatch(/P1001 option '--output' is missing/);
  const data = [at("net.onnx"), "--data", at("data.npz")];
  expect(await refused(...data, "--shard", "3/2")).toMatch(/P1001 option '--shard' is '3\/2'\. Write i\/n/);
  expect(await refused(...data, "--image-size", "224")).toMatch(/P1001 option '--image-size' is '224'/);
  expect(await refused(...data, "--image-mean", "1,,2")).toMatch(/P1001 option '--image-mean' is '1,,2'/);
  expect(await refused(...data, "--threads", "0")).toMatch(/P1001/);
});
