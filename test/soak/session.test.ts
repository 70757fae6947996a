/**
 * 100,000 runs of a session by 64 callers at once, and as many before to warm up, with random shapes, cancellations and deadlines; each kind of session
 * in a process of its own. PARTITA_SOAK_RUNS sets their number.
 */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { transpiled } from "../support/transpile.js";

const CALLERS = 64;
const RUNS = Number(process.env["PARTITA_SOAK_RUNS"] ?? 100_000);

describe.each(["single", "joined"])("a session whose runs are %s", (mode) => {
  // Whatever else the machine does shows in the delays: a second look tells.
  it(`answers ${RUNS} runs right, forgets what is cancelled, and neither grows nor blocks the event loop`, { retry: 2 }, () => {
    const script = join(transpiled("test/soak", "test/support"), "test/soak/callers.js");
    const child = spawnSync(process.execPath, [script, String(RUNS), String(CALLERS), mode], {
      encoding: "utf8",
      timeout: 170_000,
      // glibc keeps free memory by thread, and those pools fill for hours; of one pool, what is lost shows at once.
      env: { ...process.env, MALLOC_ARENA_MAX: "1" },
    });
    expect(child.stderr).toBe("");
    const found = JSON.parse(child.stdout);
    process.stdout.write(`${mode}: ${child.stdout}`);
    expect(found.failed).toEqual([]);
    expect(found.unhandled).toEqual([]);
    expect(found.wrong).toBe(0);
    expect(found.right + found.cancelled + found.expired).toBe(2 * RUNS);
    expect(found.stats.completed + found.stats.cancelled + found.stats.expired).toBe(2 * RUNS);
    // Cancellations and deadlines did come to pass, and most runs were answered.
    expect(found.cancelled).toBeGreaterThan(RUNS / 100);
    expect(found.right).toBeGreaterThan(RUNS / 2);
    expect(found.stats).toMatchObject({ queued: 0, running: 0, failed: 0, rejected: 0, retriedBatches: 0 });
    if (mode === "joined") expect(found.stats.batchedRuns).toBeGreaterThan(RUNS / 4);
    expect(found.rss.after / found.rss.before).toBeLessThan(1.05);
    expect(found.loopDelayP99Ms).toBeLessThan(20);
  });
});
