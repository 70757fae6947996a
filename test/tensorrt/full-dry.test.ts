/** `npm run test:tensorrt -- --full` itself, over stand-ins for TensorRT and the GPU: everything holds, and what fails is in the result file with TensorRT's words. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { compileStandIn } from "../support/fake-tensorrt.js";

const root = join(import.meta.dirname, "../..");
const folder = mkdtempSync(join(tmpdir(), "partita-dry-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const made = compileStandIn("11");

interface Results {
  readonly schema: string;
  readonly mode: string;
  readonly library: { readonly text: string };
  readonly gpu: { readonly name: string };
  readonly summary: { readonly passed: number; readonly failed: number; readonly leftOut: number };
  readonly checks: readonly {
    readonly name: string;
    readonly outcome: string;
    readonly figures?: Readonly<Record<string, unknown>>;
    readonly error?: { readonly code?: string; readonly message: string };
  }[];
}
function run(name: string, env: Readonly<Record<string, string>>, args: readonly string[] = ["--full", "--dry-run"]) {
  const file = join(folder, `${name}.json`);
  const { VITEST: _, VITEST_POOL_ID: __, VITEST_WORKER_ID: ___, ...own } = process.env;
  const child = spawnSync(process.execPath, ["scripts/test-tensorrt.mjs", ...args], {
    cwd: root,
    encoding: "utf8",
    env: { ...own, PARTITA_TENSORRT_RESULTS: file, NO_COLOR: "1", ...env },
  });
  const results = (): Results => JSON.parse(readFileSync(file, "utf8")) as Results;
  return { status: child.status, said: `${child.stdout}${child.stderr}`, results };
}

describe.skipIf(typeof made === "string")(`a dry run${typeof made === "string" ? ` (skipped: ${made})` : ""}`, () => {
  it("passes, and its file has figures for everything", () => {
    const { status, said, results } = run("good", {});
    expect(status, said).toBe(0);
    const r = results();
    expect(r).toMatchObject({
      schema: "partita.tensorrt-results/2",
      mode: "dry",
      library: { text: "11.2.1" },
      gpu: { name: "Fake GPU 0" },
    });
    expect(r.summary).toEqual({ passed: r.checks.length, failed: 0, leftOut: 0 });
    expect(r.checks.length).toBeGreaterThan(12);
    const figures = (name: string): Readonly<Record<string, unknown>> => r.checks.find((c) => c.name === name)?.figures ?? {};
    // The stand-in's integers are exact, as the reference's are.
    expect(figures("mlp in int8")["int8"]).toEqual({ elements: 128, mismatchPpm: 0, maxSteps: 0 });
    expect(figures("the time of mlp in fp32")["latencyUs"]).toMatchObject({
      device: { partita: expect.any(Number), bare: expect.any(Number), graph: true },
    });
    expect(figures("1,000 runs from 8 callers; the end of a session while they run")["wrong"]).toBe(0);
  });
  it("fails where the library fails, goes on to the end, and keeps its words", () => {
    const { status, results } = run("bad", { FAKE_TENSORRT_FAIL: "createInferBuilder" });
    expect(status).toBe(1);
    const { summary, checks } = results();
    expect(summary.failed).toBeGreaterThan(10);
    expect(summary.passed + summary.failed + summary.leftOut).toBe(checks.length);
    const refit = checks.find((c) => c.name.startsWith("weights"));
    expect(refit?.error).toMatchObject({
      code: "P2224",
      message: expect.stringContaining("Unable to load library libfake_builder_resource.so"),
    });
    expect(checks.find((c) => c.name === "mlp in fp16")?.error?.message).toContain("Unable to load library");
  });
  it("says what is missing before anything runs", () => {
    const gone = { PARTITA_TENSORRT_DIR: join(folder, "none"), PARTITA_TEST_DATA: folder };
    expect(run("none", gone, ["--full"])).toMatchObject({
      status: 3,
      said: expect.stringContaining("PARTITA_TENSORRT_DIR does not name the folder"),
    });
    expect(run("alone", {}, ["--dry-run"]).status).toBe(2);
  });
});
