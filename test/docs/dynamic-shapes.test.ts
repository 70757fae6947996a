/** The page on dynamic shapes: its blocks run as they stand, on small nets with the dims it speaks of. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ModelInput, Program, Session } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { Tensor } from "../../src/tensor.js";
import { maskedAttention } from "../support/masked.js";

const root = join(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "partita-dynamic-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const blocks = new Map(
  [...readFileSync(join(root, "docs/dynamic-shapes.md"), "utf8").matchAll(/```ts (\w+)\n([\s\S]*?)```/g)].map(([, name, text]) => [
    name ?? "",
    text ?? "",
  ]),
);
interface Page {
  readonly bucketed: (model: ModelInput) => Promise<Program>;
  readonly sequences: (model: ModelInput) => Promise<Program>;
  readonly served: (bundle: string) => Promise<{ session: Session; counters: () => { hits: number; builds: number } }>;
  readonly heard: readonly string[];
}
let page: Page;
beforeAll(async () => {
  const cache = join(root, ".cache/docs");
  mkdirSync(cache, { recursive: true });
  const parts: object[] = [];
  for (const [name, source] of blocks) {
    const file = join(cache, `dynamic-${name}.ts`);
    writeFileSync(file, source.replaceAll('from "partita"', `from ${JSON.stringify(join(root, "src/index.ts"))}`));
    parts.push((await import(file)) as object);
  }
  page = Object.assign({}, ...parts) as Page;
});

const NET: Graph = parse(`graph "net" opset {"": 18} (%x: float32[batch, 2]) -> (%y) {
  const %w = float32[2, 2] [1.0, 2.0, 3.0, 4.0]
  %h = MatMul(%x, %w)
  %y = Relu(%h)
}`);
const WORDS = maskedAttention("words", 1, "sequence", 2);
const floats = (dims: readonly number[], at: (i: number) => number): Tensor =>
  new Tensor(
    "float32",
    Float32Array.from({ length: dims.reduce((a, d) => a * d, 1) }, (_, i) => at(i)),
    dims,
  );

describe("docs/dynamic-shapes.md", () => {
  it("has the blocks that are tested here", () => {
    expect([...blocks.keys()]).toEqual(["buckets", "masked", "misses", "events"]);
  });
  it("buckets: built beforehand, saved, served from the bundle, and told of", async () => {
    const path = join(folder, "net.partita");
    await (await page.bucketed(NET)).save(path);
    const { session, counters } = await page.served(path);
    for (const n of [1, 5, 32]) expect((await session.run({ x: floats([n, 2], (i) => i) }))["y"]?.dims).toEqual([n, 2]);
    expect(counters()).toMatchObject({ hits: 3, builds: 0 });
    await session.run({ x: floats([40, 2], (i) => i) });
    expect(page.heard).toContain('hit host_0 {"batch":[5]}');
    expect(page.heard.at(-1)).toBe('built host_0 {"batch":[40]}');
    await session.dispose();
  });
  it("a masked sequence gives what the model gives at that length", async () => {
    const session = await (await page.sequences(WORDS)).createSession();
    const one = await session.run({ x: floats([1, 1, 2], (i) => i + 1), mask: floats([1, 1], () => 1) });
    // One place weighs itself alone.
    expect([...(one["y"]?.data ?? [])]).toEqual([1, 2]);
    const three = await session.run({ x: floats([1, 3, 2], () => 1), mask: floats([1, 3], () => 1) });
    expect(three["y"]?.dims).toEqual([1, 3, 2]);
    for (const v of three["y"]?.data ?? []) expect(v).toBeCloseTo(1, 6);
    await session.dispose();
  });
});
