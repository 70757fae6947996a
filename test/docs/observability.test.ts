/** The blocks of docs/observability.md: its commands and its TypeScript, as they stand on the page. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run } from "../../src/cli/program.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { load, type Profile, type Session, Tensor } from "../../src/index.js";
import { parse } from "../../src/ir/parse.js";
import { npzBytes } from "../../src/npz.js";
import type { Trace } from "../../src/runtime/trace.js";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const text = readFileSync(join(root, "docs/observability.md"), "utf8");
const blocks = new Map(
  [...text.matchAll(/```(ts|sh) ([a-z-]+)\n([\s\S]*?)```/g)].map(([, kind, title, code]) => [`${kind} ${title}`, code ?? ""]),
);
const folder = mkdtempSync(join(tmpdir(), "partita-observability-"));
const before = process.cwd();
const x = new Tensor("float32", [1, 2, 3, 4], [2, 2]);

interface Page {
  firstWrongNode(path: string): Promise<string>;
  slowest(bundle: string, feeds: Record<string, Tensor>): Promise<Profile>;
  traced(session: Session, feeds: Record<string, Tensor>, file: string): Promise<void>;
  counts: { runs: number; failed: number; refused: number; ms: number };
}
let page: Page;

/** Every command of a block, in the folder of the model. */
async function shell(title: string): Promise<string> {
  let out = "";
  for (const line of (blocks.get(`sh ${title}`) ?? "").trim().split("\n")) {
    const argv = line.split(" ").slice(2);
    expect(line).toMatch(/^npx partita /);
    const sink = { write: (s: string) => void (out += s) };
    let err = "";
    const code = await run(argv, { stdout: sink, stderr: { write: (s: string) => void (err += s) }, env: {} });
    expect([line, code, err.split("\n").filter((l) => l.startsWith("error"))]).toEqual([line, 0, []]);
  }
  return out;
}

beforeAll(async () => {
  process.chdir(folder);
  const net = `graph "net" opset {"": 18} (%x: float32[N, 2]) -> (%y) {
  const %w = float32[2, 2] [1.0, 2.0, 3.0, 4.0]
  %h = MatMul(%x, %w) @"fc"
  %y = Tanh(%h) @"act"
}`;
  writeFileSync("model.onnx", encodeOnnx(parse(net)));
  writeFileSync("in.npz", npzBytes([["x", x]]));
  const cache = join(root, ".cache/docs");
  mkdirSync(cache, { recursive: true });
  const parts: object[] = [];
  for (const [title, source] of blocks) {
    if (!title.startsWith("ts ")) continue;
    const file = join(cache, `observability-${title.slice(3)}.ts`);
    writeFileSync(file, source.replaceAll('from "partita"', `from ${JSON.stringify(join(root, "src/index.ts"))}`));
    parts.push((await import(file)) as object);
  }
  page = Object.assign({}, ...parts) as Page;
});
afterAll(() => {
  process.chdir(before);
  rmSync(folder, { recursive: true, force: true });
});

describe("docs/observability.md", () => {
  it("has the blocks that are tested here", () => {
    expect([...blocks.keys()]).toEqual(["sh verify", "ts verify", "sh bench", "ts profile", "sh trace", "ts trace", "ts events"]);
  });
  it("verifies a model and a bundle", async () => {
    expect(await shell("verify")).toMatch(/verified\n(.*\n)*verified\n$/);
    expect(await page.firstWrongNode("model.onnx")).toMatch(/^right: y within \d/);
  });
  it("measures under both kinds of load", async () => {
    const out = await shell("bench");
    expect(out).toMatch(/times the throughput of onnxruntime-node/);
    expect(out).toContain('"kind": "open"');
  });
  it("profiles, traces and counts", async () => {
    await shell("trace");
    for (const file of ["run.json", "load.json"])
      expect((JSON.parse(readFileSync(file, "utf8")) as Trace).traceEvents.length).toBeGreaterThan(3);
    const { runs } = page.counts;
    expect(runs).toBeGreaterThan(0);
    expect((await page.slowest("model.partita", { x })).segments[0]?.layers.flatMap((l) => l.origin).sort()).toEqual(["act", "fc"]);
    const session = await (await load("model.partita")).createSession();
    await page.traced(session, { x }, "mine.json");
    await session.dispose();
    expect(existsSync("mine.json")).toBe(true);
    expect(page.counts).toMatchObject({ runs: runs + 2, failed: 0, refused: 0 });
    expect(page.counts.ms).toBeGreaterThan(0);
  });
});
