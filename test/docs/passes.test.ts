/** docs/passes.md is what the sources say, and the worked example of docs/add-a-pass.md works as it stands. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { lowerable as documented, passes, render } from "../../scripts/passes.mjs";
import { parse } from "../../src/ir/parse.js";
import type { Graph } from "../../src/ir/types.js";
import { lowerable } from "../../src/passes/lower.js";
import { pipeline } from "../../src/passes/pipeline.js";
import type { Program } from "../../src/runtime/program.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");

describe("docs/passes.md", () => {
  it("is what scripts/passes.mjs makes (run `npm run docs`)", () => {
    expect(readFileSync(join(root, "docs/passes.md"), "utf8")).toBe(render());
  });
  it("names every pass in its order, with its reason", () => {
    expect(passes().map(({ name, why }) => ({ name, why }))).toEqual(pipeline.map(({ name, why }) => ({ name, why })));
    expect(documented()).toEqual(lowerable);
  });
});

describe("docs/add-a-pass.md", () => {
  it("works as it stands", async () => {
    const text = readFileSync(join(root, "docs/add-a-pass.md"), "utf8");
    const blocks = [...text.matchAll(/```ts ([a-z-]+)\n([\s\S]*?)```/g)];
    expect(blocks.map(([, title]) => title)).toEqual(["before-after", "pattern", "pass", "tests", "use"]);
    const entry: Readonly<Record<string, string>> = { partita: "index", "partita/ir": "ir", "partita/testing": "testing" };
    const source = blocks
      .map(([, , code]) => code ?? "")
      .join("\n")
      .replace(/from "(partita[a-z/]*)"/g, (_, name: string) => `from ${JSON.stringify(join(root, "src", `${entry[name]}.ts`))}`);
    const folder = join(root, ".cache/docs");
    mkdirSync(folder, { recursive: true });
    const file = join(folder, "add-a-pass.ts");
    writeFileSync(file, source);
    const example = (await import(file)) as { readonly before: string; tests(): Promise<void>; use(g: Graph): Promise<Program> };
    await example.tests();
    const program = await example.use(parse(example.before));
    expect(program.outputs.map((o) => o.name)).toEqual(["y"]);
  });
});
