/** The worked examples of docs/extend.md: a pass, an operator and an engine, as they stand on the page. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
type Example = { testPass(): Promise<void>; testOperator(): Promise<void>; testEngine(): Promise<void> };

describe("docs/extend.md", () => {
  let example: Example;
  beforeAll(async () => {
    const text = readFileSync(join(root, "docs/extend.md"), "utf8");
    const blocks = [...text.matchAll(/```ts ([a-z-]+)\n([\s\S]*?)```/g)];
    expect(blocks.map(([, title]) => title)).toEqual(["pass", "pass-test", "operator", "operator-test", "engine", "engine-test"]);
    const entry: Readonly<Record<string, string>> = { partita: "index", "partita/ir": "ir", "partita/testing": "testing" };
    const source = blocks
      .map(([, , code]) => code ?? "")
      .join("\n")
      .replace(/from "(partita[a-z/]*)"/g, (_, name: string) => `from ${JSON.stringify(join(root, "src", `${entry[name]}.ts`))}`);
    const folder = join(root, ".cache/docs");
    mkdirSync(folder, { recursive: true });
    const file = join(folder, "extend.ts");
    writeFileSync(file, source);
    example = (await import(file)) as Example;
  });
  it("the pass changes what it should and nothing else", async () => await example.testPass());
  it("the operator is what ONNX Runtime computes", async () => await example.testOperator());
  it("the engine gives ONNX Runtime's results", async () => await example.testEngine());
});
