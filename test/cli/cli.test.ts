/** The command line: every command, JSON, exit codes, suggestions, where output goes. Runs in the process; once as the installed program. */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { run } from "../../src/cli/program.js";
import { Terminal } from "../../src/cli/terminal.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { importOnnx } from "../../src/import/onnx/index.js";
import { parse } from "../../src/ir/parse.js";
import { npyBytes, npzBytes, readNpz, writeNpz } from "../../src/npz.js";
import { reportFromJSON } from "../../src/report/report.js";
import type { BenchResult } from "../../src/runtime/bench-result.js";
import { loadBundle, saveBundle } from "../../src/runtime/bundle.js";
import { joined, nodeFact } from "../../src/runtime/doctor.js";
import { Tensor } from "../../src/tensor.js";
import { violations } from "../support/json-schema.js";
import { FLOAT, graphDef, node, placeholder, type } from "../support/tf-graph.js";
import { transpiled } from "../support/transpile.js";

const folder = mkdtempSync(join(tmpdir(), "partita-cli-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  /** stdout as JSON. */
  json(): Record<string, unknown>;
}
async function partita(argv: readonly string[], io: { tty?: boolean; env?: Record<string, string> } = {}): Promise<Ran> {
  let [out, err] = ["", ""];
  const stream = (write: (s: string) => void) => ({ write, isTTY: io.tty === true, columns: 100 });
  const code = await run(argv, {
    stdout: stream((s) => void (out += s)),
    stderr: stream((s) => void (err += s)),
    env: io.env ?? {},
  });
  return { code, out, err, json: () => JSON.parse(out) as Record<string, unknown> };
}

const NET = `graph "net" opset {"": 18} (%x: float32[N, 3]) -> (%y, %total) {
  const %w = float32[3, 2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
  %h = MatMul(%x, %w) @"fc"
  %y = Relu(%h) @"act"
  %total = ReduceSum(%y) @"sum"
}`;
const net = at("net.onnx");
const bundle = at("net.partita");
const x = new Tensor("float32", [1, 2, 3, 4, 5, 6], [2, 3]);
beforeAll(async () => {
  writeFileSync(net, encodeOnnx(parse(NET)));
  writeFileSync(
    at("two.onnx"),
    encodeOnnx(parse('graph "two" opset {"": 18} (%a: float32[2], %b: float32[2]) -> (%c) { %c = Add(%a, %b) @"sum" }')),
  );
  writeFileSync(at("in.npz"), npzBytes([["x", x]]));
  writeFileSync(at("in.npy"), npyBytes(x));
  expect((await partita(["compile", net, "-o", bundle])).code).toBe(0);
});

describe("compile", () => {
  it("writes a bundle and tells where; progress goes to stderr", async () => {
    const r = await partita(["compile", net, "-o", at("a.partita"), "--report", at("a.html")]);
    expect(r.code).toBe(0);
    expect(r.out).toMatch(/^Partita report: net\.onnx\n[\s\S]*\nbundle: .*a\.partita\n$/);
    expect(r.err).toMatch(/^import\ninfer\n/);
    expect(r.err).not.toMatch(/error/);
    expect(readdirSync(at("a.partita")).sort()).toEqual(["host", "manifest.json", "report.json"]);
    expect(readFileSync(at("a.html"), "utf8")).toMatch(/^<!doctype html>/);
  });
  it("--json", async () => {
    const r = await partita(["compile", net, "-o", at("b.partita"), "--json"]);
    expect(r.json()).toMatchObject({ schema: "partita.compile/1", bundle: at("b.partita"), report: { schema: "partita.report/1" } });
  });
  it("takes shapes, outputs, pins and a precision", async () => {
    const r = await partita([
      "compile",
      net,
      "-o",
      at("c.partita"),
      "--shape",
      "x=4x3",
      "--outputs",
      "y",
      "--pin",
      "fc=host",
      "--precision",
      "fp16",
      "--json",
    ]);
    expect(r.code).toBe(0);
    expect(r.json()["report"]).toMatchObject({
      options: { precision: "fp16", shapes: { x: [4, 3] } },
      model: { outputs: [{ name: "y", type: "float32[4, 2]" }] },
    });
  });
  it.each([
    [".json", (text: string) => reportFromJSON(JSON.parse(text)).data.model.name],
    [".txt", (text: string) => /^Partita report: (.*)$/m.exec(text)?.[1]],
  ])("writes the report as %s", async (extension, nameIn) => {
    expect((await partita(["compile", net, "-o", at("d.partita"), "--report", at(`d${extension}`)])).code).toBe(0);
    expect(nameIn(readFileSync(at(`d${extension}`), "utf8"))).toBe("net.onnx");
  });
});

describe("report", () => {
  it("of a model for an engine that is not here builds nothing", async () => {
    const r = await partita(["report", net, "--target", "cuda", "--min-segment-size", "1"]);
    expect(r.code).toBe(0);
    expect(r.out).toMatch(/engine segment/);
    expect(r.out).toMatch(/cuda_0/);
  });
  it("of a bundle is the one it was compiled with", async () => {
    const r = await partita(["report", bundle, "--json"]);
    expect(r.json()).toEqual(JSON.parse(readFileSync(join(bundle, "report.json"), "utf8")));
  });
  it("--html, --rows, --diff", async () => {
    expect((await partita(["report", net, "--html", at("r")])).code).toBe(0);
    expect(readFileSync(at("r.html"), "utf8")).toMatch(/<title>Partita report: net\.onnx/);
    expect((await partita(["report", net, "--rows", "1"])).code).toBe(0);
    const r = await partita(["report", net, "--diff", at("two.onnx"), "--json"]);
    expect(r.code).toBe(0);
    expect(String(r.json()["schema"])).toMatch(/^partita\./);
  });
  it("--why", async () => {
    const r = await partita(["report", net, "--target", "cuda", "--why", "fc"]);
    expect(r.code).toBe(0);
    expect(r.out).toMatch(/MatMul 'fc'/);
    expect((await partita(["report", net, "--target", "cuda", "--why", "fc", "--json"])).json()["schema"]).toMatch(/^partita\.why\//);
  });
});

describe("run", () => {
  it("takes from an archive what the graph takes, and names what is there where an input is missing", async () => {
    const labels = new Tensor("int64", [1n, 2n], [2]);
    const archive = at("labelled.npz");
    writeFileSync(
      archive,
      npzBytes([
        ["labels", labels],
        ["x", x],
      ]),
    );
    for (const command of ["run", "verify"]) expect(await partita([command, net, "--input", archive])).toMatchObject({ code: 0 });
    writeFileSync(archive, npzBytes([["labels", labels]]));
    expect((await partita(["run", net, "--input", archive])).err).toMatch(/P3103 .*'labels'/);
  });
  it("a model or a bundle, on .npz, .npy or name=file", async () => {
    for (const [path, input] of [
      [net, at("in.npz")],
      [bundle, at("in.npy")],
      [bundle, `x=${at("in.npy")}`],
    ] as const) {
      const r = await partita(["run", path, "--input", input, "--output", at("out.npz")]);
      expect(r.code).toBe(0);
      expect(r.out).toBe("y: float32[2, 2] = 22, 28, 49, 64\ntotal: float32[1, 1] = 163\n");
      const out = readNpz(at("out.npz"));
      expect([...out.keys()]).toEqual(["y", "total"]);
      expect(out.get("y")?.data).toEqual(Float32Array.of(22, 28, 49, 64));
    }
  });
  it("--json", async () => {
    const r = await partita(["run", bundle, "--input", at("in.npz"), "--json"]);
    expect(r.json()).toEqual({
      schema: "partita.run/1",
      outputs: [
        { name: "y", type: "float32", dims: [2, 2], first: [22, 28, 49, 64] },
        { name: "total", type: "float32", dims: [1, 1], first: [163] },
      ],
    });
  });
});

describe("run --profile", () => {
  it("says where the time of a run goes, as text and as data", async () => {
    const text = await partita(["run", net, "--input", at("in.npz"), "--profile", "--trace", at("trace.json")]);
    expect(text.out).toMatch(
      /^y: .*\ntotal: .*\none run: .* us, the mean of 20\n.* host_0 \(host\)\n(.*\n)*.* between layers\n.* copies, waiting, threads\n$/,
    );
    expect(text.out).toMatch(/fc/);
    expect(JSON.parse(readFileSync(at("trace.json"), "utf8"))).toHaveProperty("traceEvents");
    const j = await partita(["run", bundle, "--input", at("in.npz"), "--profile", "--json"]);
    expect(j.json()).toMatchObject({
      schema: "partita.run/1",
      profile: { schema: "partita.profile/1", segments: [{ segment: "host_0" }] },
    });
    const bad = await partita(["run", net, "--input", at("in.npz"), "--trace", at("no/such/folder.json")]);
    expect([bad.code, bad.err]).toEqual([2, expect.stringMatching(/P4001/)]);
  });
});

describe("verify", () => {
  it("compares with ONNX Runtime and says so", async () => {
    const r = await partita(["verify", net, "--input", at("in.npz")]);
    expect(r.code).toBe(0);
    expect(r.out).toMatch(/^ok {5}host_0 \(host\)\n.*\n.*\noutput y: max error 0\.00e\+0 .*SQNR exact\noutput total: .*\nverified\n$/);
    const j = await partita(["verify", net, "--json"]);
    expect(j.json()).toMatchObject({ schema: "partita.verify/2", ok: true, tolerance: 1e-3 });
  });
  it("fails with exit code 1 when results are further apart than allowed", async () => {
    // The passes fold the scale into the weights: not the same rounding, bit for bit.
    writeFileSync(
      at("rounding.onnx"),
      encodeOnnx(
        parse(`graph "r" opset {"": 18} (%x: float32[1, 3, 5, 5]) -> (%y) {
          const %w = float32[2, 3, 3, 3] [${Array.from({ length: 54 }, (_, i) => Math.sin(i).toFixed(5)).join(", ")}]
          const %s = float32[2] [0.3333333, 1.7]
          const %b = float32[2] [0.1, 0.7]
          const %m = float32[2] [0.3, -0.2]
          const %v = float32[2] [0.77, 3.3]
          %c = Conv(%x, %w) @"conv"
          %y = BatchNormalization(%c, %s, %b, %m, %v) @"bn"
        }`),
      ),
    );
    const strict = await partita(["verify", at("rounding.onnx"), "--tolerance", "0"]);
    expect(strict.code).toBe(1);
    expect(strict.out).toMatch(/NOT within 0\n$/);
    expect((await partita(["verify", at("rounding.onnx")])).code).toBe(0);
  });
});

describe("a part of a model", () => {
  it("lies between --inputs and --outputs, for ONNX and TensorFlow alike", async () => {
    writeFileSync(
      at("chain.onnx"),
      encodeOnnx(parse('graph "c" opset {"": 18} (%x: float32[2]) -> (%z) { %h = Neg(%x)\n %y = Abs(%h)\n %z = Sqrt(%y) }')),
    );
    const T = type(FLOAT);
    writeFileSync(
      at("chain.pb"),
      graphDef([
        placeholder("x", FLOAT, [2]),
        node("h", "Neg", ["x"], { T }),
        node("y", "Abs", ["h"], { T }),
        node("z", "Sqrt", ["y"], { T }),
      ]),
    );
    for (const [file, port] of [
      ["chain.onnx", ""],
      ["chain.pb", ":0"],
    ] as const) {
      writeNpz(at("h.npz"), [[`h${port}`, new Tensor("float32", [-4, 9], [2])]]);
      const r = await partita(["run", at(file), "--inputs", "h", "--outputs", "y", "--input", at("h.npz"), "--json"]);
      expect(r.json()).toMatchObject({ outputs: [{ name: `y${port}`, first: [4, 9] }] });
      expect((await partita(["verify", at(file), "--inputs", "h", "--outputs", "y"])).out).toMatch(/verified\n$/);
      expect((await partita(["verify", at(file)])).out).toMatch(/verified\n$/);
    }
  });
});

describe("bench", () => {
  it("measures both, for each batch, as data of the published schema", async () => {
    writeFileSync(at("labels.npy"), npyBytes(new Tensor("int64", [1n, 1n], [2])));
    const r = await partita([
      "bench",
      net,
      "--batch",
      "1,2",
      "--seconds",
      "0.05",
      "--json",
      "--input",
      at("in.npz"),
      "--labels",
      at("labels.npy"),
    ]);
    expect(r.code).toBe(0);
    const result = r.json() as unknown as BenchResult;
    expect(violations(JSON.parse(readFileSync("docs/bench.schema.json", "utf8")) as Record<string, unknown>, result)).toEqual([]);
    expect(result.load).toEqual({ kind: "closed", concurrency: 1 });
    expect(result.rows.map((row) => [row.batch, row.contender])).toEqual([
      [1, "partita"],
      [1, "onnxruntime-node"],
      [2, "partita"],
      [2, "onnxruntime-node"],
    ]);
    for (const row of result.rows) {
      expect(row.runs).toBeGreaterThan(0);
      expect(row.latencyUs.p99).toBeGreaterThanOrEqual(row.latencyUs.p50);
      expect(row.accuracy).toMatchObject({ share: 1, rows: 2 });
      expect(row.joulesPerItem).toHaveProperty("missing");
    }
    expect(result.rows[0]?.difference).toMatchObject({ maxError: 0 });
    expect(result.comparison.map((c) => c.batch)).toEqual([1, 2]);
  });
  it("is a table for people; of bundles too; under open load", async () => {
    const text = await partita(["bench", bundle, "--seconds", "0.02"]);
    expect(text.out).toMatch(/^net\.partita, 1 at once, .*\nbatch {2}contender .*\n {4}1 {2}partita /);
    expect(text.out).not.toContain("onnxruntime-node");
    const open = await partita(["bench", bundle, "--model", net, "--rate", "500", "--seconds", "0.1"]);
    expect(open.code).toBe(0);
    expect(open.out).toMatch(/500 arrivals a second/);
    expect(open.out).toMatch(/times the throughput of onnxruntime-node \(95 %: /);
    expect(open.out).toMatch(/energy: not available: no segment runs on a GPU/);
  });
  it.each([
    [["--rate", "5", "--concurrency", "2"], /P1001 option '--rate'/],
    [["--rate", "0"], /P1001 option '--rate' is '0'/],
    [["--max-delay", "1"], /P1001 option '--max-delay'/],
  ])("refuses %s", async (flags, message) => {
    const r = await partita(["bench", net, ...flags]);
    expect([r.code, r.err]).toEqual([2, expect.stringMatching(message)]);
  });
});

describe("inspect", () => {
  it("counts operators, prints the text form, applies passes", async () => {
    expect((await partita(["inspect", net])).out).toMatch(/^net: 3 nodes, 1 constants, opset 18\n {6}1 {2}MatMul\n/);
    const ir = await partita(["inspect", net, "--ir"]);
    expect(parse(ir.out).nodes.map((n) => n.op)).toEqual(["MatMul", "Relu", "ReduceSum"]);
    // P1701 sends people here for the names of nodes.
    for (const name of ["fc", "act", "sum"]) expect(ir.out).toContain(`@"${name}"`);
    expect((await partita(["inspect", net, "--after", "all", "--json"])).json()).toMatchObject({
      schema: "partita.inspect/1",
      nodes: 3,
      operators: { MatMul: 1 },
    });
  });
});

describe("export", () => {
  it("gives back an ONNX model", async () => {
    const r = await partita(["export", bundle, "onnx", "-o", at("exported"), "--json"]);
    expect(r.json()).toEqual({ schema: "partita.export/1", files: [at("exported/model.onnx")] });
    expect(importOnnx(at("exported/model.onnx")).nodes.map((n) => n.op)).toEqual(["MatMul", "Relu", "ReduceSum"]);
  });
  it("of what has no host part is refused", async () => {
    const one = at("one.partita");
    await partita(["compile", at("two.onnx"), "--target", "host", "-o", one]);
    const made = await loadBundle(one);
    await saveBundle(at("device.partita"), { ...made, artifacts: made.artifacts.map((a) => ({ ...a, engine: "cuda" as const })) });
    const r = await partita(["export", at("device.partita"), "onnx", "-o", at("exported-two")]);
    expect(r.code).toBe(2);
    expect(r.err).toMatch(/error: P4001 .*device\.partita: nothing of it runs on the host\. Compile the model with --target host/);
  });
  it("into a place that cannot be is refused", async () => {
    const r = await partita(["export", bundle, "onnx", "-o", join(net, "below")]);
    expect(r.code).toBe(2);
    expect(r.err).toMatch(/error: P4001 .*below: it cannot be written: ENOTDIR/);
  });
});

describe("doctor", () => {
  it("says what is there and how to get what is missing", async () => {
    const r = await partita(["doctor", "--json"]);
    expect(r.code).toBe(0);
    const facts = r.json()["facts"] as { name: string; ok: boolean; detail: string; remedy?: string }[];
    expect(facts.map((f) => f.name)).toEqual(expect.arrayContaining(["Node.js", "ONNX Runtime", "TensorRT"]));
    for (const f of facts) if (!f.ok) expect(f.remedy).toBeTruthy();
    const { out } = await partita(["doctor"]);
    expect(out).toMatch(/^found {4}Node\.js/);
    // Why the driver is missing is told once, for all who need it.
    const driver = facts.find((f) => f.name === "GPU driver");
    if (driver?.ok === false) {
      expect(out.split(driver.detail)).toHaveLength(2);
      expect(facts.find((f) => f.name === "GPU")?.detail).toBe("as for the GPU driver");
    }
    const [a, b] = ["liba.so: cannot open it: no file", "libb.so: cannot open it: no file"];
    expect(joined(`${a}; ${b}`)).toBe("liba.so, libb.so: cannot open it: no file");
    expect(joined(`${a}; libb.so: too old`)).toBe(`${a}; libb.so: too old`);
    expect(joined("the driver shows no device")).toBe("the driver shows no device");
  });
  it("asks for the version of Node.js that package.json and README name", () => {
    const { engines } = JSON.parse(readFileSync("package.json", "utf8")) as { engines: { node: string } };
    expect(engines.node).toBe(">=20.15");
    expect(readFileSync("README.md", "utf8")).toContain("Node.js 20.15 or later");
    const ok = (version: string): boolean => nodeFact(version).ok;
    expect(["20.15.0", "20.20.2", "22.0.0", "24.1.0"].filter((v) => !ok(v))).toEqual([]);
    expect(["18.20.4", "20.0.0", "20.14.9", "19.99.0"].filter(ok)).toEqual([]);
    expect(nodeFact("20.0.0").remedy).toBe("install Node.js 20.15 or later");
  });
});

describe("feeds from files", () => {
  it("whose names hold what separates names from files", async () => {
    for (const name of ["a=b.npz", "ü, no=.npy"]) {
      writeFileSync(at(name), readFileSync(at(name.endsWith(".npz") ? "in.npz" : "in.npy")));
      expect(await partita(["run", net, "--input", at(name)])).toMatchObject({ code: 0 });
      if (name.endsWith(".npy")) expect(await partita(["run", net, "--input", `x=${at(name)}`])).toMatchObject({ code: 0 });
    }
  });
});

describe("exit codes and errors", () => {
  it.each([
    ["no command", [], 2, /Usage: partita/],
    ["help", ["--help"], 0, /Usage: partita/],
    ["the version", ["--version"], 0, /^\d+\.\d+\.\d+\s$/],
    ["a misspelt command", ["complie", "x"], 2, /unknown command 'complie'[\s\S]*Did you mean compile\?/],
    ["a misspelt flag", ["compile", net, "--precison", "fp16"], 2, /unknown option '--precison'[\s\S]*Did you mean --precision\?/],
    ["a missing argument", ["run"], 2, /^error: P4006 missing required argument 'model'\. See partita run --help\.\n$/],
    [
      "an argument too many",
      ["doctor", "me"],
      2,
      /P4006 too many arguments for 'doctor'\. Expected 0 arguments but got 1\. See partita doctor --help\./,
    ],
    ["why and diff", ["report", net, "--why", "fc", "--diff", net], 2, /P1001 option '--why' is of one report, --diff of two/],
    ["a batch of one", ["bench", net, "--max-batch", "1"], 2, /P1001 option '--max-batch' is '1'\. Give a whole number of at least 2/],
    ["a precision", ["report", net, "--precision", "fp61"], 2, /fp61[\s\S]*fp32, tf32, fp16, bf16, int8/],
    ["a target", ["report", net, "--target", "gpu"], 2, /P1001 option 'target'/],
    ["a shape", ["report", net, "--shape", "x:4"], 2, /P1001 option '--shape' 'x:4' is not NAME=DIMS/],
    ["a shape of no input", ["report", net, "--shape", "xx=4x3"], 1, /P1003 .*no value 'xx'\. Did you mean 'x'\?/],
    ["a pin", ["report", net, "--pin", "fc"], 2, /P1001 option '--pin' 'fc' is not MATCH=ENGINE/],
    [
      "a signature of ONNX",
      ["report", net, "--signature", "nosuch"],
      2,
      /P1001 option 'signature' is 'nosuch', and an ONNX model has none\. Leave it out/,
    ],
    ["a signature that is the default", ["report", net, "--signature", "serving_default", "--target", "host"], 0, /net\.onnx/],
    ["a what-if", ["report", net, "--what-if", "Conv"], 2, /P1001 option '--what-if'/],
    ["a segment size", ["report", net, "--min-segment-size", "few"], 2, /P1001 option '--min-segment-size' is 'few'/],
    ["rows", ["report", net, "--rows", "0"], 2, /P1001 option '--rows' is '0'/],
    ["a tolerance", ["verify", net, "--tolerance", "-1"], 2, /P1001 option '--tolerance' is '-1'/],
    ["a batch", ["bench", net, "--batch", "1,x"], 2, /P1001 option '--batch' is 'x'/],
    ["seconds", ["bench", net, "--seconds", "0"], 2, /P1001 option '--seconds' is '0'/],
    ["a model that is not there", ["compile", at("none.onnx")], 1, /P1105 .*none\.onnx: the file does not exist/],
    ["a feed that is not there", ["run", net, "--input", at("none.npz")], 1, /P1110 .*none\.npz: it cannot be read/],
    ["a file for two inputs", ["run", at("two.onnx"), "--input", at("in.npy")], 2, /P4001 .*in\.npy: .*this one has 2/],
    ["a missing feed", ["run", net], 1, /P3102 .*'x' is missing/],
    [
      "a feed of another type",
      ["run", at("two.onnx"), "--input", `a=${at("in.npy")}`, "--input", `b=${at("in.npy")}`],
      1,
      /P3104 .*float32\[2, 3\]/,
    ],
    [
      "a place for results that is not there",
      ["run", net, "--input", at("in.npz"), "--output", at("no/where.npz")],
      2,
      /P4001 .*there is no folder/,
    ],
    ["a report's place", ["compile", net, "-o", at("never.partita"), "--report", at("no/where.html")], 2, /P4001 .*there is no folder/],
    ["an empty place", ["compile", net, "-o", ""], 1, /P3005 the path is empty/],
    [
      "compiling what is compiled",
      ["run", bundle, "--input", at("in.npz"), "--precision", "fp16"],
      2,
      /P1001 option '--precision' is of compiling/,
    ],
    [
      "a bundle's report for another engine",
      ["report", bundle, "--target", "cuda"],
      2,
      /P1001 option '--target' is of compiling, and '.*' is compiled/,
    ],
    ["labels of nothing", ["bench", net, "--labels", at("in.npy")], 2, /P1001 option '--labels' are of the rows of --input/],
    ["an option of TensorRT", ["report", net, "--trt", "speed=9"], 2, /P1001 option '--trt' has no option 'speed'/],
    ["a bundle to verify", ["verify", bundle], 2, /P3110 .*does not hold the untouched model/],
    ["a bundle to compile", ["compile", bundle], 1, /P1104 .*this is a compiled bundle/],
    ["a pass", ["inspect", net, "--after", "dead-cod"], 2, /P4003 .*Did you mean 'dead-code'\?/],
    ["a node", ["report", net, "--why", "fcc"], 1, /P4002 .*Did you mean 'fc'\?/],
    ["a format", ["export", bundle, "coreml", "-o", at("o")], 2, /P4004 .*'coreml'\. Use onnx, epcontext or triton\./],
    ["a format, before a place", ["export", bundle, "tritn"], 2, /P4004 .*'tritn'\. Did you mean 'triton'\?/],
    ["an export to no place", ["export", bundle, "onnx"], 2, /P1001 option '--output' is missing\. Say where the files go: -o onnx/],
    ["an export of a model", ["export", net, "onnx", "-o", at("o")], 2, /P4001 .*net\.onnx: it is a model, and bundles are exported/],
    ["an export of nothing", ["export", at("none"), "onnx", "-o", at("o")], 1, /P1105 .*none: the file does not exist/],
    [
      "a batch of a fixed dim",
      ["bench", at("two.onnx"), "--batch", "1,4"],
      2,
      /P1001 option '--batch' is 1, and dim 0 of every input is fixed: a \[2\], b \[2\]/,
    ],
    ["a shape twice", ["report", net, "--shape", "x=1x3", "--shape", "x=2x3"], 2, /P1001 option '--shape' is given twice for 'x'/],
    ["a value twice", ["report", net, "--bind", "x=1", "--bind", "x=2"], 2, /P1001 option '--bind' is given twice for 'x'/],
    [
      "a pin to an engine that is no target",
      ["report", net, "--target", "cuda", "--pin", "fc=tensorrt"],
      2,
      /P1001 option 'pin' sends 'fc' to tensorrt, and the target is cuda\. Add tensorrt to the target \(--target cuda,tensorrt\)/,
    ],
    [
      "a what-if of an engine that is no target",
      ["report", net, "--target", "host", "--what-if", "Relu=cuda"],
      2,
      /P1001 option 'whatIf' sends 'Relu' to cuda, and the target is host\. Add cuda to the target \(--target cuda\)/,
    ],
    ["an engine that is not here", ["compile", net, "--target", "tensorrt", "--min-segment-size", "1", "-o", at("t.partita")], 3, /P2201/],
    ["strict", ["report", net, "--target", "cuda", "--strict", "--pin", "fc=host"], 1, /P170\d/],
  ] as const)("%s", async (_, argv, code, message) => {
    const r = await partita(argv);
    expect(r.err + r.out).toMatch(message);
    expect(r.code).toBe(code);
    // Failures write nothing that could be taken for a result.
    if (code !== 0 && argv.length > 0) expect(r.out).toBe("");
  });
  it("--json tells errors as data, on stdout, those of the command line among them", async () => {
    const { out, err, code } = await partita(["compile", net, "--precison", "fp16", "--json"]);
    expect(JSON.parse(out)).toEqual({
      schema: "partita.error/1",
      error: { code: "P4006", what: "unknown option '--precison'", fix: "did you mean --precision?", where: {} },
    });
    expect([err, code]).toEqual(["error: P4006 unknown option '--precison'. Did you mean --precision?\n", 2]);
    const r = await partita(["run", net, "--json"]);
    expect(r.code).toBe(1);
    expect(r.json()).toMatchObject({
      schema: "partita.error/1",
      error: { code: "P3102", where: { value: "x" }, fix: "feed all of 'x' (--input NAME=FILE)" },
    });
  });
  it("a failed compilation leaves no bundle", async () => {
    expect((await partita(["compile", net, "--outputs", "nope", "-o", at("never.partita")])).code).toBe(1);
    expect(existsSync(at("never.partita"))).toBe(false);
  });
});

describe("terminals", () => {
  it("get a line for a long stage now and then, and how it ended", () => {
    let [now, err] = [0, ""];
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now);
    const stderr = { write: (s: string) => void (err += s) };
    const terminal = new Terminal({ stdout: stderr, stderr, env: {} });
    terminal.progress("import", 0);
    for (let i = 1; i <= 30; i++) {
      now += 1000;
      terminal.progress("calibrate", 0.3, `trial ${i}, best so far 'max'`);
    }
    terminal.progress("partition", 0.5);
    clock.mockRestore();
    const line = (i: number): string => `calibrate: trial ${i}, best so far 'max'`;
    expect(err.split("\n")).toEqual(["import", "calibrate", line(11), line(21), line(30), "partition", ""]);
  });
  const CLEAR = "\u001b[2K";
  const painted = (text: string): boolean => text.includes("\u001b");
  it("a bar on a terminal, lines elsewhere", async () => {
    const plain = await partita(["report", net]);
    expect(painted(plain.err)).toBe(false);
    expect(plain.err).not.toMatch(/\r/);
    const tty = await partita(["report", net], { tty: true });
    expect(tty.err.split(CLEAR)).toEqual(expect.arrayContaining([expect.stringMatching(/^\[#*\.*\] infer\r$/)]));
    expect(tty.err.endsWith(CLEAR)).toBe(true);
  });
  it("NO_COLOR is honoured, and JSON has no colours", async () => {
    const colours = await partita(["report", net], { tty: true, env: {} });
    const none = await partita(["report", net], { tty: true, env: { NO_COLOR: "1" } });
    expect(painted(none.out)).toBe(false);
    expect(colours.out.length).toBeGreaterThanOrEqual(none.out.length);
    expect(painted((await partita(["report", net, "--json"], { tty: true })).out)).toBe(false);
  });
  it("remarks go to stderr", async () => {
    const text = 'graph "g" opset {"": 18} (%x: float32[2]) -> (%y) { %y: float32[3] = Relu(%x) @"act" }';
    writeFileSync(at("remark.onnx"), encodeOnnx(parse(text)));
    const r = await partita(["report", at("remark.onnx"), "--target", "host", "--json"]);
    expect(r.err).toMatch(/^warning: 'y' is declared float32\[3\]; Relu makes it float32\[2\], which holds$/m);
    expect(r.json()["remarks"]).toHaveLength(1);
  });
});

describe("the program itself", () => {
  const main = (): string => join(transpiled(), "src/cli/main.js");
  it("writes its result, ends, and exits with the code", async () => {
    mkdirSync(at("cwd"), { recursive: true });
    const ran = await promisify(execFile)(process.execPath, [main(), "run", bundle, "--input", at("in.npz"), "--json"], { cwd: at("cwd") });
    expect(JSON.parse(ran.stdout)).toMatchObject({ schema: "partita.run/1" });
    await expect(promisify(execFile)(process.execPath, [main(), "compile", "none.onnx"], { cwd: at("cwd") })).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^import\nerror: P1105 none\.onnx: the file does not exist\. Check the path\.\n$/) as string,
    });
  }, 120_000);
  it("ends its work though nobody reads on, and tells that a disk is full", async () => {
    const shell = (line: string) => promisify(execFile)("sh", ["-c", line, "sh", process.execPath, main(), net, at("piped.partita")]);
    const { stderr } = await shell('{ "$1" "$2" compile "$3" -o "$4"; echo "exit $?" >&2; } | true');
    expect(stderr).toMatch(/\nexit 0\n$/);
    expect(existsSync(at("piped.partita/manifest.json"))).toBe(true);
    if (existsSync("/dev/full"))
      await expect(shell('exec "$1" "$2" inspect "$3" > /dev/full')).rejects.toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^error: the output cannot be written: ENOSPC/) as string,
      });
  }, 120_000);
});
