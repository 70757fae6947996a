/** Parts of a benchmark with deadlines: whatever one does, the others run, and every row that there was is written. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";

it("a part that throws, spins, stays or ends the process is told of, with what was under way", () => {
  const folder = mkdtempSync(join(tmpdir(), "partita-parts-"));
  try {
    const file = join(folder, "rows.jsonl");
    const child = spawnSync(process.execPath, [join(import.meta.dirname, "../support/parts-child.mjs"), file], {
      encoding: "utf8",
      timeout: 25_000,
      killSignal: "SIGKILL",
    });
    expect([child.stderr, child.signal, child.status]).toEqual(["", null, 0]);
    const rows = readFileSync(file, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(rows).toMatchObject([
      { part: "fine", figure: 1 },
      { part: "fine", figure: 2 },
      { part: "throws", failed: expect.stringMatching(/^Error: no such figure/) },
      { part: "spins", figure: 3 },
      { part: "spins", overran: 1.5, underWay: "turning round" },
      { part: "stays", overran: 1.5, underWay: "the end of the process" },
      { part: "ends", failed: "exit code 3", underWay: "leaving", said: "out of here\n" },
      { part: "last", figure: 4 },
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
