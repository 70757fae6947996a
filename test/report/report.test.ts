/** The report as data: its schema, its text form, what it says of the graph, that it does not depend on the order in a file, and its page. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { describe, expect, it } from "vitest";
import { jsonSchema, text as schemaText } from "../../scripts/report-schema.mjs";
import { compile, report } from "../../src/compile.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { Editor } from "../../src/ir/edit.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { REPORT_SCHEMA, reportSchema } from "../../src/report/data.js";
import { reportFromJSON } from "../../src/report/report.js";
import { generator } from "../../src/runtime/measure.js";
import { violations } from "../support/json-schema.js";
import { info, model } from "../support/onnx-model.js";

const TEXT = `graph "small" opset {"": 18} (%x: float32[N, 4]) -> (%y, %s) {
  const %w = float32[4, 4] [${Array.from({ length: 16 }, (_, i) => `${i}.5`).join(", ")}]
  %h = MatMul(%x, %w) @"fc"
  %r = Relu(%h) @"act"
  %e = Exp(%r) @"exp"
  %s = NonZero(%e) @"where"
  %t = Tanh(%e) @"tanh"
  %n = Neg(%t) @"neg"
  %y = Abs(%n) @"abs"
}`;
const small = (): Graph => parse(TEXT);
const options = { target: "cuda", shapes: { x: [8, 4] }, minimumSegmentSize: 2 } as const;

describe("the report's data", () => {
  it("fits its schema, and the published JSON Schema", async () => {
    const published = JSON.parse(readFileSync(join(import.meta.dirname, "../../docs/report.schema.json"), "utf8")) as Record<
      string,
      unknown
    >;
    for (const o of [options, { target: "host" }, { target: ["tensorrt", "cuda"] }, { ...options, whatIf: { NonZero: "cuda" } }] as const) {
      const data = JSON.parse(JSON.stringify(await report(small(), o))) as unknown;
      expect(v.safeParse(reportSchema, data).issues).toBeUndefined();
      expect(violations(published, data)).toEqual([]);
      expect(reportFromJSON(data).toJSON()).toEqual(data);
    }
  });
  it("docs/report.schema.json is what scripts/report-schema.mjs makes (run `npm run docs`)", () => {
    expect(readFileSync(join(import.meta.dirname, "../../docs/report.schema.json"), "utf8")).toBe(schemaText(reportSchema, REPORT_SCHEMA));
  });
  it("the JSON Schema refuses what the schema refuses", async () => {
    const published = jsonSchema(reportSchema);
    const good = (await report(small(), options)).toJSON();
    for (const bad of [
      { ...good, schema: "partita.report/2" },
      { ...good, more: 1 },
      { ...good, segments: [{ ...good.segments[0], nodes: -1 }] },
      { ...good, model: { ...good.model, opset: 1.5 } },
      { ...good, nodes: "none" },
    ]) {
      expect(v.safeParse(reportSchema, bad).success).toBe(false);
      expect(violations(published, bad).length).toBeGreaterThan(0);
    }
  });
  it("says of each node where it runs and why not elsewhere", async () => {
    const r = await report(small(), options);
    const { data } = r;
    expect(data.segments.map((s) => s.engine)).toContain("cuda");
    const [where] = r.find("where");
    expect(data.segments[where?.segment ?? -1]?.engine).toBe("host");
    expect(where?.notOn).toMatchObject([{ engine: "cuda" }]);
    expect(where?.notOn[0]?.why).not.toBe("");
    expect(data.reasons[0]).toMatchObject({ engine: "cuda", ops: ["NonZero"], nodes: 1 });
    expect(r.find("nowhere")).toEqual([]);
    expect(data.model).toMatchObject({ name: "small", opset: 18, nodes: 7, weightsBytes: 64 });
    expect(data.quality.nodes).toBe(data.nodes.length);
    // 2 * 8 * 4 * 4 multiply-adds of the MatMul at the shape given.
    expect(r.find("fc")[0]?.flops).toBe(256);
    expect(data.segments.reduce((a, s) => a + s.nodes, 0)).toBe(data.nodes.length);
  });
});

describe("remarks", () => {
  // A MatMul of [2, 3] and [3, 4] whose result the file declares as [2, 5].
  const declaring = (dims: readonly number[]): Uint8Array =>
    model({
      nodes: [
        { op: "MatMul", ins: ["a", "b"], outs: ["m"], name: "mm" },
        { op: "Relu", ins: ["m"], outs: ["y"], name: "act" },
      ],
      inputs: [info("a", [2, 3]), info("b", [3, 4])],
      outputs: [info("y")],
      infos: [info("m", dims)],
    });
  it("a declared shape that does not hold is remarked, and the inferred one counts", async () => {
    const remarks: string[] = [];
    const r = await report(declaring([2, 5]), { target: "host", onRemark: (m) => remarks.push(m.text) });
    expect(remarks).toEqual(["'m' is declared float32[2, 5]; MatMul makes it float32[2, 4], which holds"]);
    expect(r.data.remarks).toEqual([
      { severity: "warning", text: remarks[0], fix: "mend the declared shape where the model is made", node: "mm", value: "m" },
    ]);
    expect(r.find("mm")[0]?.output).toBe("float32[2, 4]");
    expect(r.toText()).toContain("Remarks\n  warning: 'm' is declared float32[2, 5]");
  });
  it("one that holds, or is less exact, is not; nor are those that given shapes made old", async () => {
    expect((await report(declaring([2, 4]), { target: "host" })).data.remarks).toBeUndefined();
    expect((await report(declaring([2, 5]), { target: "host", shapes: { a: [7, 3] } })).data.remarks).toBeUndefined();
  });
});

describe("the text form", () => {
  it("of a small graph", async () => {
    const r = await report(small(), options);
    // Figures of time and gain belong to the cost model's own tests.
    const shown = r
      .toText({ width: 100 })
      .replace(/\d+(\.\d+)? (us|ms|s)\b/g, "TIME")
      .replace(/[ \t]+$/gm, "");
    expect(shown.split("\n").slice(0, 4)).toEqual([
      "Partita report: small",
      expect.stringMatching(/^7 nodes, \d after passes; [\d.]+ k?FLOP; weights 64 B; opset 18; precision fp32$/),
      "  in   x: float32[8, 4]",
      "  out  y: float32[8, 4]",
    ]);
    expect(shown).toContain(
      "100.0 % of the FLOPs and 85.7 % of the nodes in 1 engine segment (lower bound 1); the rest in 1 host\n  part.",
    );
    expect(shown).toContain("2 tensors cross (256 B a run), at most 1 change of side on a path.");
    expect(shown).toMatch(/^Segments\n {2}segment +nodes +FLOPs/m);
    expect(shown).toMatch(/^ {2}cuda_\d +\d/m);
    expect(shown).toMatch(/On the host, and why\n {2}1 node, [\d.]+ \w?FLOP \(NonZero\), not on cuda: /);
    expect(shown.split("\n").every((line) => line.length <= 100)).toBe(true);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are escape sequences.
    expect(shown).not.toMatch(/\u001b/);
  });
  it("cuts long tables short and says so", async () => {
    const e = new Editor({ name: "many", opsets: { "": 18 } });
    const type = { kind: "tensor", dtype: "float32", shape: [4] } as const;
    let x = e.addInput("x", type);
    for (let i = 0; i < 60; i++) x = e.add({ op: i % 2 === 0 ? "Relu" : "NonZero", name: `n${i}`, ins: [x], outs: 1 }).outs[0] ?? x;
    e.setOutputs([x]);
    const r = await report(e.finish(), { target: "cuda", minimumSegmentSize: 1 });
    if (r.data.segments.length > 5) expect(r.toText({ rows: 5 })).toMatch(/\.\.\. and \d+ smaller ones/);
    expect(r.toText({ rows: 5 }).length).toBeLessThanOrEqual(r.toText({ rows: 500 }).length);
  });
  it("tells figures as people do", async () => {
    const { human } = await import("../../src/report/text.js");
    expect([0, 7, 999, 1000, 1234, 12_345, 123_456, 1_234_567, 5e9, 5e16].map((x) => human(x, "B"))).toEqual([
      "0 B",
      "7 B",
      "999 B",
      "1 kB",
      "1.23 kB",
      "12.3 kB",
      "123 kB",
      "1.23 MB",
      "5 GB",
      "50 PB",
    ]);
  });
});

describe("the same model gives the same report, byte for byte", () => {
  /** The same nodes in another order, with other ids. */
  function shuffled(seed: number): Uint8Array {
    const next = generator(seed);
    const lines = TEXT.split("\n");
    const [head, last] = [lines.slice(0, 2), lines.slice(-1)];
    const body = lines.slice(2, -1);
    for (let i = body.length - 1; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [body[i], body[j]] = [body[j] as string, body[i] as string];
    }
    return encodeOnnx(parse([...head, ...body, ...last].join("\n")));
  }
  it("twice, from a graph and from its file, and with the nodes in any order", async () => {
    const first = JSON.stringify((await report(encodeOnnx(small()), options)).toJSON());
    expect(JSON.stringify((await report(encodeOnnx(small()), options)).toJSON())).toBe(first);
    for (let seed = 1; seed <= 5; seed++) expect(JSON.stringify((await report(shuffled(seed), options)).toJSON())).toBe(first);
  });
  it("compiling builds what the report says", async () => {
    const host = { target: "host" } as const;
    expect(JSON.stringify((await compile(small(), host)).report)).toBe(JSON.stringify(await report(small(), host)));
  });
});

describe("the page", () => {
  const hostile = `graph "</script><img src=x onerror=alert(1)>" opset {"": 18} (%"<b>x</b>": float32[4]) -> (%y) {
    %a = Exp(%"<b>x</b>") @"<!-- <script>alert(2)</script>"
    %y = Neg(%a) @"\\"quoted\\" & more"
  }`;
  it("is one file that asks for nothing else", async () => {
    const html = (await report(small(), options)).toHTML();
    expect(html).toMatch(/^<!doctype html>\n<html lang="en">/);
    for (const outside of [
      /<link\b/i,
      /<script[^>]+\bsrc=/i,
      /<img\b/i,
      /@import/i,
      /url\((?!['"]?(data:|#))/i,
      /\bfetch\(/,
      /XMLHttpRequest/,
      /\bimport\(/,
    ])
      expect(html).not.toMatch(outside);
    expect(
      [...html.matchAll(/\b(?:https?:)?\/\/[a-z0-9.-]+\.[a-z]{2,}/gi)].map((m) => m[0]).filter((u) => !u.includes("www.w3.org")),
    ).toEqual([]);
  });
  it("closes what it opens, and holds the data", async () => {
    const r = await report(small(), options);
    const html = r.toHTML();
    expect(unbalanced(html)).toEqual([]);
    const data = /<script type="application\/json" id="data">([\s\S]*?)<\/script>/.exec(html)?.[1] ?? "";
    const held = JSON.stringify(JSON.parse(data));
    for (const n of r.data.nodes) expect(held).toContain(JSON.stringify(n.name));
  });
  it("shows hostile names as text", async () => {
    const r = await report(parse(hostile), { target: "cuda", minimumSegmentSize: 1 });
    const html = r.toHTML();
    expect(html).not.toContain("<img src=x");
    expect(html).not.toContain("<b>x</b>");
    expect(html).not.toContain("<script>alert");
    expect(unbalanced(html)).toEqual([]);
    const data = /<script type="application\/json" id="data">([\s\S]*?)<\/script>/.exec(html)?.[1] ?? "";
    const held = JSON.stringify(JSON.parse(data));
    for (const n of r.data.nodes) expect(held).toContain(JSON.stringify(n.name));
  });
});

/** Elements that are not closed in their order; scripts and styles are skipped whole. */
function unbalanced(html: string): string[] {
  const bare = html.replace(/<(script|style)\b[^>]*>[\s\S]*?<\/\1>/g, "").replace(/<!doctype html>/, "");
  const empty = new Set(["meta", "input", "br", "hr", "link", "col", "path", "rect", "circle", "line"]);
  const stack: string[] = [];
  const wrong: string[] = [];
  for (const [, close, tag = "", self] of bare.matchAll(/<(\/?)([a-z][a-z0-9]*)\b[^>]*?(\/?)>/gi)) {
    if (empty.has(tag) || self === "/") continue;
    if (close === "") stack.push(tag);
    else if (stack.pop() !== tag) wrong.push(tag);
  }
  return [...wrong, ...stack];
}
