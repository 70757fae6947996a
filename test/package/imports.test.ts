import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { breaches } from "../../scripts/check-imports.mjs";

test("imports point one way", () => {
  expect(breaches(join(import.meta.dirname, "../../src"))).toEqual([]);
});

test("a breach is found, whatever its spelling", () => {
  const src = mkdtempSync(join(tmpdir(), "partita-imports-"));
  try {
    for (const folder of ["ir", "ops", "strange"]) mkdirSync(join(src, folder));
    writeFileSync(join(src, "ir/a.ts"), 'import {\n  x,\n} from "../ops/x.js";\n');
    writeFileSync(join(src, "ir/b.ts"), 'export * from "../compile.js";\n');
    writeFileSync(join(src, "ir/c.ts"), 'const m = await import("../ops/x.js");\n// import "../ops/y.js"\n');
    writeFileSync(join(src, "ops/x.ts"), 'import { y } from "../ir/a.js";\n');
    writeFileSync(join(src, "strange/z.ts"), "export {};\n");
    expect(
      breaches(src)
        .map((line) => line.split(":")[0])
        .sort(),
    ).toEqual([
      "ir/a.ts imports 'ops'",
      "ir/b.ts imports 'compile'",
      "ir/c.ts imports 'ops'",
      "strange/z.ts lies in 'strange', which the import direction does not know",
    ]);
  } finally {
    rmSync(src, { recursive: true, force: true });
  }
});
