/** Differences of two reports, answers to "why", and the published schema. */
import { describe, expect, it } from "vitest";
import { report } from "../../src/compile.js";
import { parse } from "../../src/ir/parse.js";
import { diffReports, diffText } from "../../src/report/diff.js";
import { renderDiffHtml } from "../../src/report/html-diff.js";
import { layoutOf, NODE } from "../../src/report/layout.js";
import { reportFromJSON } from "../../src/report/report.js";
import { whyText } from "../../src/report/why.js";
import { generator } from "../../src/runtime/measure.js";
import { largeGraph } from "./models.js";

const chain = (...ops: readonly string[]): string =>
  `graph "g" opset {"": 18} (%v0: float32[400000]) -> (%v${ops.length}) {\n${ops.map((op, i) => `%v${i + 1}: float32[400000] = ${op}(%v${i})${op === "BitCast" ? " {to = 1}" : ""} @"${op.toLowerCase()}"`).join("\n")}\n}`;
const reportOf = async (text: string, target: "cuda" | "host" = "cuda") => await report(parse(text), { target, minimumSegmentSize: 1 });

describe("difference of two reports", () => {
  it("names what moved, came and went, with the reason", async () => {
    const [a, b] = [await reportOf(chain("Relu", "Exp", "Neg")), await reportOf(chain("Relu", "BitCast", "Neg"))];
    const d = a.diff(b);
    expect(d.schema).toBe("partita.diff/1");
    expect(d.added).toEqual([{ node: "bitcast", op: "BitCast", engine: "host" }]);
    expect(d.removed).toEqual([{ node: "exp", op: "Exp", engine: "cuda" }]);
    expect(d.moved).toEqual([]);
    expect(d.reasons).toEqual([{ engine: "cuda", why: "a reinterpretation of bits is not emitted", before: 0, after: 1 }]);
    expect(d.quality.find((q) => q.figure === "engineSegments")).toEqual({ figure: "engineSegments", before: 1, after: 2 });
  });
  it("of two targets tells every node that changed sides", async () => {
    const text = chain("Relu", "BitCast", "Neg");
    const d = diffReports((await reportOf(text)).data, (await reportOf(text, "host")).data);
    expect(d.moved.map((m) => `${m.node} ${m.before} -> ${m.after}: ${m.why}`)).toEqual([
      "relu cuda -> host: its engine was not asked for",
      "neg cuda -> host: its engine was not asked for",
    ]);
    expect(diffText(d)).toContain("Nodes that moved: 2\n  Relu 'relu': cuda -> host (its engine was not asked for)");
    expect(renderDiffHtml(d)).toContain("<td>Relu</td><td>relu</td><td>cuda</td><td>host</td>");
  });
  it("with what is no report is P4005", async () => {
    const r = await reportOf(chain("Relu"));
    const diff = (other: unknown) => () => r.diff(other as never);
    expect(diff({})).toThrow(
      "P4005 a report differs from another report; this is an object that is none. Give program.report of another program, or what report(model) resolves to; report --diff compares with a report's JSON.",
    );
    expect(diff(undefined)).toThrow("P4005 a report differs from another report; this is undefined. ");
    expect(diff(r.toJSON())).toThrow("P4005");
  });
  it("of a report with itself is empty", async () => {
    const r = await reportOf(chain("Relu", "BitCast", "Neg"));
    const d = r.diff(r);
    expect([d.moved, d.added, d.removed, d.reasons, d.passes].flat()).toEqual([]);
    expect(d.quality.every((q) => q.before === q.after)).toBe(true);
  });
});

describe("why", () => {
  it("gives verdict, remedy and gain", async () => {
    const r = await reportOf(chain("Relu", "BitCast", "Neg"));
    expect(whyText(r.why("relu"))).toBe(
      "Relu 'relu' runs in cuda_0; float32[400000]; 400 kFLOP, 3.2 MB\n  the first engine asked for takes it\n".replace(
        "3.2 MB",
        "3.20 MB",
      ),
    );
    expect(whyText(r.why("bitcast"))).toMatch(
      /^BitCast 'bitcast' runs in host_1; .*\n {2}not on cuda: a reinterpretation of bits is not emitted\n(.*\n)* {4}without this reason a run would take \S+ \S+ less by the estimate\n$/,
    );
    expect(r.why("nothing")).toEqual([]);
  });
});

describe("report data", () => {
  it("is what the schema says, with weight figures, memory and the graph before the passes", async () => {
    const r = await report(
      parse(`graph "g" opset {"": 18} (%x: float32[2, 3]) -> (%y) {
        const %w = float32[3, 2] [1, -2, 0, 0, 3, 4]
        %m: float32[2, 2] = MatMul(%x, %w) @"m"
        %i: float32[2, 2] = Identity(%m) @"i"
        %y: float32[2, 2] = Relu(%i) @"r"
      }`),
      { target: "cuda" },
    );
    expect(reportFromJSON(JSON.parse(JSON.stringify(r.toJSON()))).data).toEqual(r.data);
    expect(r.data.nodes[0]?.weights).toEqual([
      { name: "w", type: "float32[3, 2]", bytes: 24, figures: { min: -2, max: 4, mean: 1, std: 2, zeros: 0.333333, sampled: 6 } },
    ]);
    expect(r.data.nodes[0]?.inputs).toEqual(["float32[2, 3]", "float32[3, 2]"]);
    expect(r.data.original?.map((n) => n.op)).toEqual(["MatMul", "Identity", "Relu"]);
    // Input (24 bytes) and product (16) together, then product and result.
    expect(r.data.memory).toEqual({ peakBytes: 40, peakNode: "m", live: [40, 32] });
    expect(r.withSources(new Map([["cuda_0", "// text"]])).data.segments.find((s) => s.name === "cuda_0")?.source).toBe(
      r.data.segments.some((s) => s.name === "cuda_0") ? "// text" : undefined,
    );
  });
});

describe("layout", () => {
  it("keeps boxes apart and nodes in their boxes, whatever the graph", () => {
    const next = generator(8);
    for (let round = 0; round < 50; round++) {
      const n = 1 + Math.floor(next() * 200);
      const count = 1 + Math.floor(next() * 12);
      const groupOf = Array.from({ length: n }, () => Math.floor(next() * count));
      const after = Array.from({ length: n }, (_, i) => (i === 0 ? [] : [Math.floor(next() * i)]));
      const { groups, x, y } = layoutOf(groupOf, count, after);
      const inside = (i: number, g: number): boolean =>
        (x[i] ?? 0) >= (groups.x[g] ?? 0) &&
        (y[i] ?? 0) >= (groups.y[g] ?? 0) &&
        (x[i] ?? 0) + NODE.w <= (groups.x[g] ?? 0) + (groups.w[g] ?? 0) &&
        (y[i] ?? 0) + NODE.h <= (groups.y[g] ?? 0) + (groups.h[g] ?? 0);
      expect(groupOf.filter((g, i) => !inside(i, g))).toEqual([]);
      const meet = (
        boxes: { readonly x: Int32Array; readonly y: Int32Array },
        w: (i: number) => number,
        h: (i: number) => number,
      ): string[] => {
        const found: string[] = [];
        const at = (row: Int32Array, i: number): number => row[i] ?? 0;
        for (let a = 0; a < boxes.x.length; a++)
          for (let b = 0; b < a; b++)
            if (
              at(boxes.x, a) < at(boxes.x, b) + w(b) &&
              at(boxes.x, b) < at(boxes.x, a) + w(a) &&
              at(boxes.y, a) < at(boxes.y, b) + h(b) &&
              at(boxes.y, b) < at(boxes.y, a) + h(a)
            )
              found.push(`${a} and ${b}`);
        return found;
      };
      expect(
        meet(
          groups,
          (g) => groups.w[g] ?? 0,
          (g) => groups.h[g] ?? 0,
        ),
      ).toEqual([]);
      expect(
        meet(
          { x, y },
          () => NODE.w,
          () => NODE.h,
        ),
      ).toEqual([]);
    }
  });
  it("folds a long chain into a page", () => {
    const n = 3000;
    const { groups } = layoutOf(
      new Array<number>(n).fill(0),
      1,
      Array.from({ length: n }, (_, i) => (i === 0 ? [] : [i - 1])),
    );
    const aspect = (groups.w[0] ?? 0) / (groups.h[0] ?? 1);
    expect(aspect).toBeGreaterThan(1);
    expect(aspect).toBeLessThan(3);
  });
  it("holds a large graph's report to some hundred bytes a node", async () => {
    const r = await report(largeGraph(3000), { target: "cuda" });
    expect(r.toHTML().length / 3000).toBeLessThan(400);
  });
});
