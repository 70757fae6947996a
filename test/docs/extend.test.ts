/** The worked examples of docs/extend.md: a pass, an operator and an engine, as they stand on the page. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
type Example = {
  total(model: Uint8Array, bundle: string): Promise<number>;
  testPass(): Promise<void>;
  testOperator(): Promise<void>;
  testEngine(): Promise<void>;
};

describe("docs/extend.md", () => {
  let example: Example;
  beforeAll(async () => {
    const text = readFileSync(join(root, "docs/extend.md"), "utf8");
    const blocks = [...text.matchAll(/```ts ([a-z-]+)\n([\s\S]*?)```/g)];
    expect(blocks.map(([, title]) => title)).toEqual([
      "javascript",
      "pass",
      "pass-test",
      "operator",
      "operator-test",
      "engine",
      "engine-test",
    ]);
    const entry: Readonly<Record<string, string>> = { partita: "index", "partita/ir": "ir", "partita/testing": "testing" };
    const source = (wanted: (title: string) => boolean): string =>
      blocks
        .filter(([, title = ""]) => wanted(title))
        .map(([, , code]) => code ?? "")
        .join("\n")
        .replace(/from "(partita[a-z/]*)"/g, (_, name: string) => `from ${JSON.stringify(join(root, "src", `${entry[name]}.ts`))}`);
    const folder = join(root, ".cache/docs");
    mkdirSync(folder, { recursive: true });
    // The first example stands for a program of its own.
    writeFileSync(
      join(folder, "javascript.ts"),
      source((title) => title === "javascript"),
    );
    writeFileSync(
      join(folder, "extend.ts"),
      source((title) => title !== "javascript"),
    );
    example = { ...((await import(join(folder, "extend.ts"))) as Example), ...((await import(join(folder, "javascript.ts"))) as Example) };
  });
  it("the JavaScript operator computes its nodes, from a bundle too", async () => {
    const g = parse(
      'graph "g" opset {"": 18, "shop": 1} (%text: string[N]) -> (%sum) { %n = "shop"."ParseNumbers"(%text) {most = 3} @"parse"\n %sum = ReduceSum(%n) {keepdims = 0} }',
    );
    const folder = mkdtempSync(join(tmpdir(), "partita-extend-"));
    try {
      expect(await example.total(encodeOnnx(g), join(folder, "total.partita"))).toBe(12);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
  it("the pass changes what it should and nothing else", async () => await example.testPass());
  it("the operator is what ONNX Runtime computes", async () => await example.testOperator());
  it("the engine gives ONNX Runtime's results", async () => await example.testEngine());
});
