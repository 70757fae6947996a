import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parse } from "../../src/ir/parse.js";
import { print } from "../../src/ir/print.js";
import { optionNames } from "../../src/options.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ...markdown("docs")];
function markdown(folder: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((e) =>
    e.isDirectory() ? markdown(join(folder, e.name)) : e.name.endsWith(".md") ? [join(folder, e.name)] : [],
  );
}

describe("docs", () => {
  it.each(pages)("%s links to files that exist", (page) => {
    const text = readFileSync(join(root, page), "utf8").replace(/```[\s\S]*?```/g, "");
    for (const [, target] of text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)) {
      if (target === undefined || /^[a-z]+:/.test(target)) continue;
      expect(existsSync(join(root, dirname(page), target)), `${page} links to '${target}'`).toBe(true);
    }
  });
  it.each(pages)("%s: graphs in the text form read back as they stand", (page) => {
    for (const [, block] of readFileSync(join(root, page), "utf8").matchAll(/```ir\n([\s\S]*?)```/g))
      expect(print(parse(block ?? ""))).toBe(block);
  });
  it("api.md names every option", () => {
    const text = readFileSync(join(root, "docs/api.md"), "utf8");
    for (const name of optionNames) expect(text).toContain(`\`${name}\``);
  });
});
