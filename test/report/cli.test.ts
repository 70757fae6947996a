/** `partita report` with --why, --what-if, --diff and regions, as a user calls it. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../../src/cli/program.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";

const folder = mkdtempSync(join(tmpdir(), "partita-report-cli-"));
const model = join(folder, "model.onnx");
const other = join(folder, "other.onnx");
const text = (op: string): string => `graph "g" opset {"": 18} (%x: float32[400000]) -> (%y) {
  %a = Relu(%x) @"relu"
  %b = ${op} @"middle"
  %y: float32[400000] = Neg(%b) @"neg"
}`;
beforeAll(() => {
  writeFileSync(model, encodeOnnx(parse(text("CumSum(%a, %zero)").replace("%a =", "const %zero = int64[] [0]\n%a ="))));
  writeFileSync(other, encodeOnnx(parse(text("Exp(%a)"))));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function cli(...argv: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ["", ""];
  const io = { stdout: { write: (s: string) => (out += s) }, stderr: { write: (s: string) => (err += s) }, env: {} };
  const code = await run(argv, io);
  return { code, out, err };
}
const on = ["--target", "cuda", "--min-segment-size", "1", "--what-if", "CumSum=host"];

describe("partita report", () => {
  it("--times reads measured times from a file", async () => {
    const path = join(folder, "times.json");
    writeFileSync(path, JSON.stringify({ relu: { host: 70, cuda: 3 }, neg: { host: 90, cuda: 4 } }));
    const { out } = await cli("report", model, "--json", "--times", path, "--target", "cuda", "--min-segment-size", "1");
    expect(JSON.parse(out).nodes.map((n: { measuredUs?: number }) => n.measuredUs)).toEqual([3, undefined, 4]);
    writeFileSync(path, "{");
    const broken = await cli("report", model, "--times", path);
    expect(broken.code).toBe(2);
    expect(broken.err).toContain("P1001");
    expect(broken.err).toContain("names a file that cannot be read as JSON");
  });
  it("--what-if shows the partition as if, with the figures before", async () => {
    const { code, out } = await cli("report", model, ...on);
    expect(code).toBe(0);
    expect(out).toContain("What if: CumSum on no engine");
    expect(out).toMatch(/engine segments +\d+ -> 2/);
    const { out: json } = await cli("report", model, "--json", "--target", "cuda", "--what-if", "CumSum=cuda", "--what-if", "Neg=host");
    expect(JSON.parse(json).whatIf.assumed).toEqual({ CumSum: "cuda", Neg: "host" });
  });
  it("--what-if refuses engines and operators that are not there", async () => {
    expect(await cli("report", model, "--target", "cuda", "--what-if", "CumSum=gpu")).toMatchObject({
      code: 2,
      err: expect.stringContaining("P1001"),
    });
    expect(await cli("report", model, "--target", "cuda", "--what-if", "CumSun=cuda")).toMatchObject({
      code: 1,
      err: expect.stringContaining("Did you mean 'CumSum'?"),
    });
    const { compile } = await import("../../src/compile.js");
    await expect(compile(model, { whatIf: { CumSum: "host" } })).rejects.toThrow(
      "P1001 option 'whatIf' is for reports: what is only assumed cannot be built. Leave it out, or call report.",
    );
  });
  it("--why tells reason, remedy and gain, and the nearest name", async () => {
    const { out } = await cli("report", model, ...on, "--why", "middle");
    expect(out).toMatch(/^CumSum 'middle' runs in host_1; float32\[400000\]/);
    expect(out).toContain("  not on cuda: what-if: taken as unsupported\n");
    expect(out).toMatch(/without this reason a run would take \S+ (us|ms) less by the estimate/);
    const { out: json } = await cli("report", model, ...on, "--why", "middle", "--json");
    expect(JSON.parse(json)).toMatchObject({
      schema: "partita.why/1",
      nodes: [{ node: "middle", engine: "host", notOn: [{ engine: "cuda", sameReason: 1 }] }],
    });
    expect(await cli("report", model, "--why", "midle")).toMatchObject({
      code: 1,
      err: expect.stringContaining("P4002 no node or origin is named 'midle'. Did you mean 'middle'?"),
    });
  });
  it("--diff compares models and reports, as text, JSON and a page", async () => {
    const saved = join(folder, "saved.json");
    writeFileSync(saved, (await cli("report", model, ...on, "--json")).out);
    const { code, out } = await cli("report", saved, "--diff", other, "--target", "cuda", "--min-segment-size", "1");
    expect(code).toBe(0);
    expect(out).toContain("model.onnx (cuda, host) -> other.onnx (cuda, host)");
    expect(out).toMatch(/\* engine segments +2 -> +1/);
    expect(out).toContain("Nodes that moved: 1\n  Exp 'middle': host -> cuda (what-if: taken as unsupported)");
    const page = join(folder, "diff.html");
    const { out: json } = await cli("report", saved, "--diff", saved, "--json", "--html", page);
    expect(JSON.parse(json)).toMatchObject({ schema: "partita.diff/1", moved: [], added: [], removed: [] });
    expect(readFileSync(page, "utf8")).toContain("<h2>Nodes that moved</h2>");
  });
  it("--diff refuses what is no report", async () => {
    const bad = join(folder, "bad.json");
    writeFileSync(bad, '{"schema": "partita.report/1"}');
    expect(await cli("report", model, "--diff", bad)).toMatchObject({ code: 2, err: expect.stringContaining("P4001") });
  });
  it("--pin takes regions", async () => {
    const { out } = await cli("report", other, "--target", "cuda", "--min-segment-size", "1", "--pin", "middle..=host", "--json");
    expect(JSON.parse(out).segments.map((s: { ops: object }) => Object.keys(s.ops))).toEqual([["Relu"], ["Exp", "Neg"]]);
    expect(await cli("report", other, "--target", "cuda", "--pin", "nowhere..=host")).toMatchObject({
      code: 1,
      err: expect.stringContaining("P1701"),
    });
  });
});
