/** Every option: what it takes, what it refuses and in which words; defaults; shapes on the command line. */

import { describe, expect, it } from "vitest";
import { parseNumber, parseShape } from "../src/cli/syntax.js";
import { compile } from "../src/compile.js";
import type { PartitaError } from "../src/diagnostics.js";
import { parse } from "../src/ir/parse.js";
import { type CompileOptions, optionNames, settle } from "../src/options.js";
import { Tensor } from "../src/tensor.js";
import { refusal } from "./support/refusal.js";

describe("options", () => {
  it("have defaults", () => {
    expect(settle({})).toMatchObject({
      targets: ["host"],
      auto: true,
      precision: "fp32",
      minimumSegmentSize: 3,
      shapes: {},
      signature: "serving_default",
      maxWorkspaceSizeBytes: 2 ** 30,
      maximumCachedEngines: 8,
      pin: [],
      strict: false,
      verify: false,
    });
    expect(settle({ precision: undefined, strict: undefined })).toEqual(expect.objectContaining({ precision: "fp32", strict: false }));
  });
  it.each([
    ["target", "tensorr", "did you mean 'tensorrt'?"],
    ["target", [], "is empty"],
    ["target", ["auto"], "'target.0' is \"auto\"; it takes host, cuda, tensorrt"],
    ["target", ["host", "cdua"], "'target.1' is \"cdua\"; it takes host, cuda, tensorrt (did you mean 'cuda'?)"],
    ["target", 1, "it takes auto, host, cuda, tensorrt, or a list of engines"],
    ["computeCapability", "sm_90", 'is "sm_90", which is not a compute capability such as 8.9'],
    ["computeCapability", "0.0", "is not a compute capability such as 8.9"],
    ["computeCapability", "8", "is not a compute capability such as 8.9"],
    ["calibration", { data: 5 }, "'calibration.data' is neither feeds to iterate over nor a path"],
    ["calibration", { datta: [] }, "'calibration.datta' does not exist (did you mean 'data'?)"],
    ["tensorrt", { optimizationLevl: 3 }, "'tensorrt.optimizationLevl' does not exist (did you mean 'optimizationLevel'?)"],
    ["dynamic", { bucket: {} }, "'dynamic.bucket' does not exist (did you mean 'buckets'?)"],
    ["dynamic", "yes", 'is "yes"; it takes true, or { onMiss, buckets, masked, padding }'],
    ["precision", "fp61", "did you mean 'fp16'?"],
    ["precision", "FP16", "it takes fp32, tf32, fp16, bf16, int8"],
    ["minimumSegmentSize", 0, "is below 1"],
    ["minimumSegmentSize", 1.5, "is not a whole number"],
    ["minimumSegmentSize", "3", "is not a number"],
    ["minimumSegmentSize", Number.NaN, "is not a number"],
    ["shapes", [1, 2], "P1001"],
    ["shapes", { x: "8x3" }, "neither a list of dims (whole, not negative) nor { min, opt, max }"],
    ["shapes", { x: [1, -1] }, "'shapes.x' has a negative dim"],
    ["shapes", { x: [1, 2.5] }, "'shapes.x' has a dim that is not a whole number"],
    ["shapes", { x: { min: [1], opt: [2] } }, "neither a list of dims (whole, not negative) nor { min, opt, max }"],
    ["shapes", { x: { min: [4], opt: [2], max: [8] } }, "min [4], opt [2], max [8], which are not in order"],
    ["shapes", { x: { min: [1, 1], opt: [2], max: [8] } }, "Give the three one rank"],
    ["outputs", "y", "is not a list of names"],
    ["outputs", [], "is empty"],
    ["outputs", [1], "holds something that is no name"],
    ["signature", 7, "is not a name"],
    ["maxWorkspaceSizeBytes", -1, "is below 0"],
    ["maxWorkspaceSizeBytes", 2 ** 60, "is not a whole number"],
    ["maximumCachedEngines", 0, "is below 1"],
    ["pin", { match: "x", to: "host" }, "is not a list of { match, to }"],
    ["pin", [{ match: 1, to: "host" }], "has a match that is neither text nor a RegExp"],
    ["pin", [{ match: "x", to: "hots" }], "did you mean 'host'?"],
    ["pin", [{ match: "x" }], "'pin.0' has something that is not { match, to }"],
    ["pin", [{ match: "x", to: "host", why: 1 }], "'pin.0' has something that is not { match, to }"],
    ["whatIf", "cuda", "is not an object of engines by operator"],
    ["whatIf", { Conv: "gpu" }, "it takes host, cuda, tensorrt"],
    ["strict", "yes", "is not true or false"],
    ["verify", 1, "is not true or false"],
    ["onProgress", "log", "is not a function"],
    ["onRemark", {}, "is not a function"],
    ["signal", {}, "is not an AbortSignal"],
  ])("%s: %j is refused with P1001", (name, value, says) => {
    const error = refusal(() => settle({ [name]: value } as CompileOptions));
    expect(error.code).toBe("P1001");
    expect(error.message).toContain(name);
    expect(error.message).toContain(says);
    expect(error.message).not.toMatch(/Invalid|Expected|Received/);
    expect(error.exit).toBe(2);
  });
  it.each([null, 3, "host", []])("%j is no object of options", (options) => {
    expect(refusal(() => settle(options as never)).message).toMatch(
      /^P1001 option 'options' is (null|a number|a string|a list)\. Give an object/,
    );
  });
  it("that do not exist are refused with P1002 and a suggestion", () => {
    for (const name of optionNames) {
      const misspelt = `${name.slice(0, 2)}${name.slice(3)}`;
      const error = refusal(() => settle({ [misspelt]: 1 } as CompileOptions));
      expect(error.code).toBe("P1002");
      expect(error.fix).toBe(`did you mean '${name}'?`);
    }
    expect(refusal(() => settle({ zzz: 1 } as CompileOptions)).fix).toContain(optionNames.join(", "));
    expect(refusal(() => settle({ toString: 1 } as never)).code).toBe("P1002");
  });
  it("that name values are checked against the graph: P1003", async () => {
    const g = parse(
      'graph "g" opset {"": 18} (%images: float32[N, 2]) -> (%probabilities) { %logits = Neg(%images)\n %probabilities = Softmax(%logits) }',
    );
    const wrong = async (o: CompileOptions): Promise<PartitaError> =>
      await compile(g, o).then(
        () => refusal(() => {}),
        (e: PartitaError) => e,
      );
    expect(await wrong({ outputs: ["logit"] })).toMatchObject({ code: "P1003", fix: "did you mean 'logits'?" });
    expect(await wrong({ shapes: { image: [1, 2] } })).toMatchObject({ code: "P1003", fix: "did you mean 'images'?" });
    const cut = await compile(g, { outputs: ["logits"], shapes: { images: { min: [1, 2], opt: [4, 2], max: [8, 2] } } });
    expect(cut.outputs.map((p) => p.name)).toEqual(["logits"]);
  });
  it("cut the graph at `inputs` and `outputs`", async () => {
    const g = parse(
      `graph "g" opset {"": 18} (%a: float32[N, 2], %b: float32[N, 2]) -> (%y, %h) {
        const %w = float32[2] [1.0, 2.0]
        %h = Mul(%a, %w) @"front"
        %k = Add(%h, %b) @"middle"
        %y = Neg(%k) @"back"
      }`,
    );
    const ports = async (o: CompileOptions) => {
      const { inputs, outputs } = await compile(g, o);
      return [inputs.map((p) => `${p.name} ${p.type}[${p.dims}]`), outputs.map((p) => p.name)];
    };
    expect(await ports({ inputs: ["k"], outputs: ["y"] })).toEqual([["k float32[N,2]"], ["y"]]);
    expect(await ports({ inputs: ["k"] })).toEqual([
      ["k float32[N,2]", "a float32[N,2]"],
      ["y", "h"],
    ]);
    // A constant may be fed as well, and an output that is cut off is what is fed.
    expect(await ports({ inputs: ["w", "h"] })).toEqual([
      ["w float32[2]", "h float32[N,2]", "b float32[N,2]"],
      ["y", "h"],
    ]);
    const x = new Tensor("float32", [1, 2], [1, 2]);
    await using session = await (await compile(g, { inputs: ["h"] })).createSession();
    const out = await session.run({ h: x, b: x });
    expect([Array.from(out["y"]?.data as Float32Array), Array.from(out["h"]?.data as Float32Array)]).toEqual([
      [-2, -4],
      [1, 2],
    ]);
  });
  it("tell progress from 0 to 1 and stop at the signal", async () => {
    const g = parse('graph "g" opset {"": 18} (%x: float32[2]) -> (%y) { %y = Relu(%x) }');
    const fractions: number[] = [];
    const stages: string[] = [];
    await compile(g, {
      onProgress: (e) => {
        fractions.push(e.fraction);
        stages.push(e.stage);
      },
    });
    expect(fractions[0]).toBe(0);
    expect(fractions.at(-1)).toBe(1);
    expect([...fractions].sort((a, b) => a - b)).toEqual(fractions);
    expect(stages).toEqual(expect.arrayContaining(["import", "infer", "partition", "build host_0", "done"]));
    const stop = new AbortController();
    const reason = new Error("enough");
    await expect(compile(g, { signal: stop.signal, onProgress: (e) => e.stage === "partition" && stop.abort(reason) })).rejects.toBe(
      reason,
    );
  });
});

describe("shapes as text", () => {
  it("are dims, or min:opt:max; names may hold '='", () => {
    expect(parseShape("x=8x3x224x224")).toEqual(["x", [8, 3, 224, 224]]);
    expect(parseShape("x=1x3:8x3:32x3")).toEqual(["x", { min: [1, 3], opt: [8, 3], max: [32, 3] }]);
    expect(parseShape("x=scalar")).toEqual(["x", []]);
    expect(parseShape("a=b:0=7")).toEqual(["a=b:0", [7]]);
  });
  it.each(["x", "=1", "x=", "x=1x", "x=1,2", "x=-1", "x=1x2:3", "x=1:2:3:4", "x=0x10x"])("%j is refused", (text) => {
    expect(refusal(() => parseShape(text)).message).toMatch(
      /^P1001 option '--shape' '.*' is not NAME=DIMS\. Write it as input=8x3x224x224/,
    );
  });
});

describe("numbers as text", () => {
  it.each([
    ["7", 7],
    [" 8 ", 8],
    ["1e3", 1000],
  ])("%j", (text, x) => expect(parseNumber("--n", text, { least: 1, whole: true })).toBe(x));
  it.each(["", " ", "x", "0", "-1", "1.5", "Infinity", "1e400", "NaN"])("%j is no whole number of at least 1", (text) => {
    expect(refusal(() => parseNumber("--n", text, { least: 1, whole: true })).message).toMatch(
      /^P1001 option '--n' is '.*'\. Give a whole number of at least 1\.$/,
    );
  });
});
