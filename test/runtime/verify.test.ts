/** Bisection of wrong outputs: engines that compute one operator wrongly, alone or in company, graphs that were rewritten wrongly, bundles. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import type { Engine } from "../../src/engines/engine.js";
import { hostEngine } from "../../src/engines/host/index.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { Editor } from "../../src/ir/edit.js";
import { valueAt } from "../../src/ir/graph.js";
import { parse } from "../../src/ir/parse.js";
import { makeConstant } from "../../src/ir/payload.js";
import type { Graph, Node } from "../../src/ir/types.js";
import type { Verification } from "../../src/runtime/verify.js";
import { verify } from "../../src/verify.js";
import { type Change, sabotaged, swapped, verifiedOn } from "../support/sabotage.js";

const folder = mkdtempSync(join(tmpdir(), "partita-verify-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const model = join(folder, "net.onnx");

/** Two engine segments around a node that only the host has (Hardmax). */
const NET = `graph "net" opset {"": 18} (%x: float32[4, 8]) -> (%y) {
  const %w = float32[8, 8] [${Array.from({ length: 64 }, (_, i) => (((i * 37) % 17) / 17 - 0.45).toFixed(3)).join(", ")}]
  %a = MatMul(%x, %w) @"first/fc"
  %b = Sigmoid(%a) @"first/gate"
  %c = Mul(%a, %b) @"first/mul"
  %m = Hardmax(%c) {axis = 1} @"mask"
  %d = Add(%c, %m) @"second/add"
  %e = Tanh(%d) @"second/tanh"
  %f = MatMul(%e, %w) @"second/fc"
  %y = Softsign(%f) @"second/out"
}`;

const verified = (engine: Engine, rewrite?: Change, tolerance?: number): Promise<Verification> =>
  verifiedOn(model, engine, rewrite, tolerance, { pin: [{ match: "mask", to: "host" }] });

beforeAll(() => writeFileSync(model, encodeOnnx(parse(NET))));

it("refuses what it does not know", async () => {
  await expect(verify(model, { tolerence: 1 } as never)).rejects.toThrow("P1002 there is no option 'tolerence'. Did you mean 'tolerance'?");
  await expect(verify(undefined as never)).rejects.toThrow("P1001 option 'path' is undefined. Give a path or a file: URL.");
});

describe("verify", () => {
  it("finds nothing where nothing is wrong, and looks at every segment", async () => {
    const v = await verified(hostEngine);
    expect(v.ok).toBe(true);
    expect(v.fault).toBeUndefined();
    expect(v.segments.map((s) => [s.engine, s.ok])).toEqual([
      ["cuda", true],
      ["host", true],
      ["cuda", true],
    ]);
    expect(v.segments.every((s) => s.outputs.length > 0 && s.outputs.every((o) => o.sqnrDb > 80))).toBe(true);
  });

  it.each([
    ["Tanh", "second/tanh", ["second/tanh"], "Sigmoid", "cuda_2"],
    // Sigmoid and Mul became one operator and were spelled out again for this engine: the name is new, the origin is the user's.
    ["Sigmoid", "first/mul/Sigmoid", ["first/gate", "first/mul"], "Tanh", "cuda_0"],
    ["Softsign", "second/out", ["second/out"], "Tanh", "cuda_2"],
  ])("names the %s that an engine computes wrongly, and no other node", async (op, name, origin, instead, segment) => {
    const v = await verified(sabotaged(swapped((n) => n.op === op, instead)));
    expect(v.ok).toBe(false);
    expect(v.segments.find((s) => !s.ok)?.segment).toBe(segment);
    expect(v.fault).toMatchObject({ segment, engine: "cuda", cause: "engine", node: { name, op, origin } });
    const { node } = v.fault ?? {};
    expect(node?.inputs.map((i) => [i.type, i.dims])).toEqual([["float32", [4, 8]]]);
    expect(node?.output.relative).toBeGreaterThan(0.01);
    expect(node?.output.sqnrDb).toBeLessThan(40);
    expect(node?.output.place).toHaveLength(2);
    expect(node?.alone?.maxError).toBeCloseTo(node?.output.maxError ?? 0, 4);
  });

  it("bisects where the error goes away as soon as inner values are looked at", async () => {
    // As a wrong fusion does: MatMul and Softsign together, where nobody sees what is between them.
    const hidden = (n: Node, g: Graph): boolean => {
      const [v] = n.ins;
      return n.op === "Softsign" && v !== undefined && !g.outputs.includes(v) && !g.inputs.includes(v);
    };
    const v = await verified(sabotaged(swapped(hidden, "Tanh")));
    expect(v.fault).toMatchObject({ segment: "cuda_2", cause: "fusion", node: { name: "second/out", op: "Softsign" } });
    expect(v.fault?.node?.alone?.relative).toBeLessThan(1e-6);
  });

  it("tells a wrong rewriting from a wrong engine", async () => {
    const v = await verified(
      hostEngine,
      swapped((n) => n.op === "Tanh", "Sigmoid"),
    );
    expect(v.fault).toMatchObject({ segment: "cuda_2", cause: "rewriting", node: { name: "second/tanh", op: "Sigmoid" } });
  });

  it.each([
    ["inside a segment", "d"],
    ["from segment to segment", "c"],
  ])("does not blame values that are scaled on purpose and scaled back, %s", async (_, value) => {
    // Under its own name goes twice the value, and who reads it halves it: as with channels that are scaled for quantization.
    const doubled: Change = (g) => {
      const e = new Editor(g);
      const v = g.values.find((x) => x?.name === value)?.id;
      const producer = g.nodes.find((n) => n.outs.includes(v));
      if (v === undefined || (producer === undefined && !g.inputs.includes(v))) return g;
      const { type } = valueAt(g, v);
      const two = e.addConstant("two", makeConstant("float32", [], [2]));
      if (g.nodes.some((n) => n.ins.includes(v))) {
        const back = e.declare(`${value}/back`, type);
        e.replaceUses(v, back);
        e.add({ op: "Div", name: "back", ins: [v, two], outs: [back] });
      }
      if (producer !== undefined) {
        const plain = e.declare(`${value}/plain`, type);
        e.patch(producer.id, { outs: [plain] });
        e.add({ op: "Mul", name: "double", ins: [plain, two], outs: [v] });
      }
      return e.finish();
    };
    const fine = await verified(hostEngine, doubled);
    expect(fine.outputs[0]?.relative).toBeLessThan(1e-5);
    expect(fine).toMatchObject({ ok: true });
    expect(fine.fault).toBeUndefined();
    if (value === "c") expect(fine.segments[0]?.outputs.find((o) => o.name === "c")?.against).toBe("segment");
    const v = await verified(hostEngine, (g) => swapped((n) => n.op === "Softsign", "Tanh")(doubled(g)));
    expect(v.fault).toMatchObject({ segment: "cuda_2", cause: "rewriting", node: { name: "second/out", op: "Tanh" } });
    const broken = await verified(sabotaged(swapped((n) => n.op === "Tanh", "Sigmoid")), doubled);
    expect(broken.fault).toMatchObject({ segment: "cuda_2", cause: "engine", node: { name: "second/tanh", op: "Tanh" } });
  });

  it("takes errors that only add up for what they are", async () => {
    // Every segment is off by a little, in its last node.
    const off: Change = (g) => {
      const last = g.nodes.at(-1);
      const [v] = last?.outs ?? [];
      if (last === undefined || v === undefined || !["Mul", "Softsign"].includes(last.op)) return g;
      const e = new Editor(g);
      const exact = e.declare("exact", valueAt(g, v).type);
      e.patch(last.id, { outs: [exact] });
      e.add({ op: "Mul", name: "off", ins: [exact, e.addConstant("factor", makeConstant("float32", [], [1.0007]))], outs: [v] });
      return e.finish();
    };
    const each = await verified(sabotaged(off), undefined, 0.01);
    const worst = Math.max(...each.segments.flatMap((s) => s.outputs.map((o) => o.relative)));
    expect(each.ok).toBe(true);
    const sum = each.outputs[0]?.relative ?? 0;
    expect(sum).toBeGreaterThan(worst);
    const v = await verified(sabotaged(off), undefined, (sum + worst) / 2);
    expect(v.ok).toBe(false);
    expect(v.segments.every((s) => s.ok)).toBe(true);
    expect(v.fault).toMatchObject({ segment: "cuda_2", cause: "accumulated" });
    expect(v.fault?.node).toBeUndefined();
  });

  it("looks into models and bundles alike, and asks for a bundle's model", async () => {
    expect(await verify(model)).toMatchObject({ schema: "partita.verify/2", ok: true });
    const bundle = join(folder, "net.partita");
    await (await compile(model, { target: "host" })).save(bundle);
    expect(await verify(bundle, { model })).toMatchObject({ ok: true, segments: [{ engine: "host", ok: true }] });
    await expect(verify(bundle)).rejects.toThrow(
      `P3110 ${bundle}: a bundle does not hold the untouched model to compare with. Give the model too: --model FILE, or { model }.`,
    );
    const stranger = join(folder, "stranger.onnx");
    writeFileSync(stranger, encodeOnnx(parse('graph "s" opset {"": 18} (%in: float32[4, 8]) -> (%y) { %y = Relu(%in) }')));
    await expect(verify(bundle, { model: stranger })).rejects.toThrow(
      `P3112 ${stranger}: the bundle has an input 'x', and the model has none of that name: its inputs are 'in'. Give the model that the bundle was compiled from`,
    );
    // A bundle of another model than the one it is compared with: the fault is in the graph, and so is the node.
    const other = join(folder, "other.onnx");
    writeFileSync(other, encodeOnnx(parse(NET.replace("Tanh(%d)", "Atan(%d)"))));
    const v = await verify(bundle, { model: other });
    expect(v.fault).toMatchObject({ engine: "host", cause: "rewriting", node: { name: "second/tanh", op: "Tanh" } });
  });
});
