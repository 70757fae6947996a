/** Bundles: what is saved is what is loaded; damage, forgery, links, versions and races. */
import { createHash } from "node:crypto";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { run as commandLine } from "../../src/cli/program.js";
import { compile, load } from "../../src/compile.js";
import { PartitaError } from "../../src/diagnostics.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";
import { manifestHash } from "../../src/runtime/bundle.js";
import type { Program } from "../../src/runtime/program.js";
import { Tensor } from "../../src/tensor.js";

const root = mkdtempSync(join(tmpdir(), "partita-bundles-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let count = 0;
const fresh = (): string => {
  const at = join(root, String(count++));
  mkdirSync(at);
  return at;
};

const TEXT = `graph "net" opset {"": 18} (%x: float32[N, 3], %"odd name": int64[2]) -> (%y, %"odd name", %c) {
  const %w = float32[3, 2] [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
  const %c = float32[2] [0.5, nan]
  %h = MatMul(%x, %w) @"fc"
  %y = Relu(%h) @"act"
}`;
const feeds = {
  x: new Tensor("float32", [1, -2, 3, 4, 5, -6], [2, 3]),
  "odd name": new Tensor("int64", [7, -(2n ** 62n)], [2]),
};
async function outcome(p: Program): Promise<unknown> {
  const session = await p.createSession({ threads: 1 });
  const results = await session.run(feeds);
  await session.dispose();
  return Object.entries(results).map(([name, t]) => [name, t.type, t.dims, [...(t.data as Float32Array)].map(String)]);
}
async function refusal(p: Promise<unknown>): Promise<PartitaError> {
  const error = await p.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(PartitaError);
  return error as PartitaError;
}
const filesOf = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((e) => (e.isDirectory() ? filesOf(join(folder, e.name)) : [join(folder, e.name)]));

const hashOf = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

type Manifest = Record<string, unknown> & {
  plan: { steps: { segment: string; inputs: string[] }[]; outputs: { name: string }[] };
  artifacts: { key: string; files: { name: string; path: string; bytes: number; sha256: string }[] }[];
  report: { path: string; sha256: string };
};
/** Changes a manifest; its own hash fits again unless `sealed` is false. */
function change(bundle: string, edit: (m: Manifest) => void, sealed = true): void {
  const path = join(bundle, "manifest.json");
  const m = JSON.parse(readFileSync(path, "utf8")) as Manifest;
  edit(m);
  if (sealed) m["sha256"] = manifestHash(m);
  writeFileSync(path, JSON.stringify(m));
}

let saved: string;
let before: unknown;
beforeAll(async () => {
  const program = await compile(parse(TEXT));
  saved = join(fresh(), "net.partita");
  await program.save(saved);
  before = await outcome(program);
});
/** A copy to be spoilt. */
const copy = (): string => {
  const at = join(fresh(), "net.partita");
  cpSync(saved, at, { recursive: true });
  return at;
};

describe("saving and loading", () => {
  it("goes to a file: URL and comes from one, and nowhere else by mistake", async () => {
    const at = pathToFileURL(join(fresh(), "a b.partita"));
    const program = await compile(parse(TEXT), { target: "host" });
    await program.save(at);
    expect(await outcome(await load(at))).toEqual(await outcome(program));
    for (const wrong of [undefined, "", 7, new URL("https://example.com/net.partita")])
      expect(await refusal(load(wrong as never))).toMatchObject({ code: "P1001" });
    for (const wrong of [undefined, "", 7, new URL("https://example.com/net.partita")])
      expect(await refusal(program.save(wrong as never))).toMatchObject({ code: "P3005" });
  });
  it("gives the same interface, report and results", async () => {
    const program = await compile(parse(TEXT));
    const again = await load(saved);
    expect([again.inputs, again.outputs]).toEqual([program.inputs, program.outputs]);
    expect(again.report.toJSON()).toEqual(program.report.toJSON());
    expect(await outcome(again)).toEqual(before);
    expect(before).toEqual([
      ["y", "float32", [2, 2], ["10", "12", "0", "0"]],
      ["odd name", "int64", [2], ["7", "-4611686018427387904"]],
      ["c", "float32", [2], ["0.5", "NaN"]],
    ]);
  });
  it("writes the same bytes for the same model, and again from a loaded bundle", async () => {
    const [first, second] = [join(fresh(), "a.partita"), join(fresh(), "b.partita")];
    await (await compile(parse(TEXT))).save(first);
    await (await load(saved)).save(second);
    const content = (at: string): unknown => filesOf(at).map((f) => [relative(at, f), readFileSync(f).toString("base64")]);
    expect(content(first)).toEqual(content(saved));
    expect(content(second)).toEqual(content(saved));
  });
  it("does not need the model or the place it was saved at", async () => {
    const at = fresh();
    writeFileSync(join(at, "net.onnx"), encodeOnnx(parse(TEXT)));
    await (await compile(join(at, "net.onnx"))).save(join(at, "net.partita"));
    rmSync(join(at, "net.onnx"));
    renameSync(join(at, "net.partita"), join(at, "moved.partita"));
    expect(await outcome(await load(join(at, "moved.partita")))).toEqual(before);
  });
  it("replaces a bundle that is there, whole", async () => {
    const at = copy();
    writeFileSync(join(at, "left-over.txt"), "from before");
    await (await compile(parse(TEXT.replaceAll("Relu", "Neg")))).save(at);
    expect(existsSync(join(at, "left-over.txt"))).toBe(false);
    expect(JSON.stringify(await outcome(await load(at)))).toContain('"-10"');
  });
});

describe("what a killed save leaves beside the place", () => {
  /** No process has this number. */
  const left = (at: string, id: number): string => join(at, `.net.partita.${2 ** 22 + 1}-${String(id).padStart(12, "0")}.tmp`);
  it("is put there, the last one written and never a part of one", async () => {
    const at = fresh();
    const [older, newer, partly] = [left(at, 1), left(at, 3), left(at, 2)];
    cpSync(saved, older, { recursive: true });
    cpSync(saved, partly, { recursive: true });
    rmSync(join(partly, "manifest.json"));
    await (await compile(parse(TEXT.replaceAll("Relu", "Neg")))).save(join(at, "other"));
    renameSync(join(at, "other"), newer);
    utimesSync(join(older, "manifest.json"), 1, 1);
    expect(JSON.stringify(await outcome(await load(join(at, "net.partita"))))).toContain('"-10"');
    expect(readdirSync(at).filter((n) => n.startsWith("."))).toEqual([older, partly].map((f) => basename(f)));
  });
  it("stays where a bundle is, until it is an hour old", async () => {
    const at = fresh();
    const bundle = join(at, "net.partita");
    const [young, old] = [left(at, 1), left(at, 2)];
    for (const folder of [bundle, young, old]) cpSync(saved, folder, { recursive: true });
    utimesSync(old, Date.now() / 1000 - 3700, Date.now() / 1000 - 3700);
    await (await compile(parse(TEXT))).save(bundle);
    expect([existsSync(young), existsSync(old)]).toEqual([true, false]);
  });
});

describe("damage", () => {
  it("is found in every file, wherever a bit is flipped, and in every shortened file", async () => {
    for (const file of filesOf(saved).map((f) => relative(saved, f))) {
      const size = statSync(join(saved, file)).size;
      for (const at of [0, Math.floor(size / 3), Math.floor(size / 2), size - 2]) {
        const bundle = copy();
        const bytes = readFileSync(join(bundle, file));
        bytes[at] = (bytes[at] as number) ^ 4;
        writeFileSync(join(bundle, file), bytes);
        const error = await load(bundle).then(
          () => undefined,
          (e: unknown) => e as PartitaError,
        );
        // White space of the manifest is no content.
        if (error === undefined)
          expect(JSON.parse(readFileSync(join(bundle, file), "utf8"))).toEqual(JSON.parse(readFileSync(join(saved, file), "utf8")));
        else expect(["P3002", "P3003", "P3004"]).toContain(error.code);
      }
      const bundle = copy();
      truncateSync(join(bundle, file), size - 3);
      expect((await refusal(load(bundle))).code).toBe("P3002");
    }
  });
  it("of each hash is found", async () => {
    const other = "0".repeat(64);
    const edits: ((m: Manifest) => void)[] = [
      (m) => (((m.artifacts[0] as Manifest["artifacts"][0]).files[0] as { sha256: string }).sha256 = other),
      (m) => (m.report.sha256 = other),
    ];
    for (const edit of edits) {
      const bundle = copy();
      change(bundle, edit);
      expect((await refusal(load(bundle))).message).toMatch(/^P3002 .*does not have the content the manifest says/);
    }
    const bundle = copy();
    change(bundle, (m) => (m["sha256"] = other), false);
    expect((await refusal(load(bundle))).message).toMatch(/^P3002 .*manifest\.json: its manifest was changed after it was written/);
  });
  it("of the plan is found although nothing else covers it", async () => {
    const bundle = copy();
    change(bundle, (m) => m.plan.outputs.reverse(), false);
    expect((await refusal(load(bundle))).code).toBe("P3002");
  });
  it.each([
    ["manifest.json", /^P3001 .*no readable manifest\.json/],
    ["report.json", /^P3002 .*'report\.json' is missing/],
    ["host", /^P3002 .*'host\/[0-9a-f]{16}\/model\.onnx' is missing/],
  ])("a missing %s", async (what, message) => {
    const bundle = copy();
    rmSync(join(bundle, what), { recursive: true });
    expect((await refusal(load(bundle))).message).toMatch(message);
  });
  it.each([
    [
      "a schema to come",
      (m: Manifest) => (m["schema"] = "partita.bundle/9"),
      /^P3004 .*'partita\.bundle\/9', this version reads 'partita\.bundle\/1'/,
    ],
    ["no schema", (m: Manifest) => delete m["schema"], /^P3004 .*'missing'/],
    ["a key too much", (m: Manifest) => (m["code"] = "process.exit()"), /^P3002 .*not valid at 'code'/],
    [
      "a size that is no number",
      (m: Manifest) => ((m.artifacts[0]?.files[0] as { bytes: unknown }).bytes = "7"),
      /^P3002 .*not valid at 'artifacts\.0\.files\.0\.bytes'/,
    ],
    [
      "a step that reads nothing's result",
      (m: Manifest) => m.plan.steps[0]?.inputs.push("nowhere"),
      /^P3002 .*reads 'nowhere', which nothing before it makes/,
    ],
    [
      "an output that nothing makes",
      (m: Manifest) => m.plan.outputs.push({ name: "z", type: "float32" } as never),
      /^P3002 .*output 'z' is made by nothing/,
    ],
    ["a step too few", (m: Manifest) => m.plan.steps.pop(), /^P3002 .*(made by nothing|0 steps and 1 artifacts)/],
    ["a size that differs", (m: Manifest) => (m.artifacts[0]?.files[0] as { bytes: number }).bytes++, /^P3002 .*bytes, the manifest says/],
  ])("%s", async (_, edit, message) => {
    const bundle = copy();
    change(bundle, edit as (m: Manifest) => void);
    expect((await refusal(load(bundle))).message).toMatch(message as RegExp);
  });
  it("a manifest that is no JSON, a list, nothing, or too big", async () => {
    const text: [string, RegExp][] = [
      ["{", /^P3002 .*not JSON/],
      ["[]", /^P3004/],
      ["null", /^P3004/],
      ["", /^P3002 .*not JSON/],
      ["[".repeat(200_000), /^P3002 .*not JSON/],
    ];
    for (const [content, message] of text) {
      const bundle = copy();
      writeFileSync(join(bundle, "manifest.json"), content);
      expect((await refusal(load(bundle))).message).toMatch(message);
    }
    const bundle = copy();
    truncateSync(join(bundle, "manifest.json"), 2 ** 33);
    expect((await refusal(load(bundle))).message).toMatch(/^P3002 .*its manifest has 8589934592 bytes/);
  });
});

describe("paths", () => {
  it.each(["../secret.onnx", "/etc/hostname", "host/../../secret.onnx", "host//model.onnx", "", ".", "host\\model.onnx", "a\0b", "C:\\x"])(
    "%j is refused",
    async (path) => {
      const bundle = copy();
      writeFileSync(join(bundle, "../secret.onnx"), "secret");
      change(bundle, (m) => ((m.artifacts[0]?.files[0] as { path: string }).path = path));
      expect((await refusal(load(bundle))).message).toMatch(/^P3003 .* is not a plain path inside the bundle/);
    },
  );
  it("a file, a folder or the manifest that is a link is refused", async () => {
    for (const what of ["report.json", "host", "manifest.json"]) {
      const bundle = copy();
      renameSync(join(bundle, what), join(bundle, `../outside-${what}`));
      symlinkSync(`../outside-${what}`, join(bundle, what));
      expect((await refusal(load(bundle))).message).toMatch(/^P3003/);
    }
  });
  it("a bundle may itself be reached by a link", async () => {
    const bundle = copy();
    symlinkSync(bundle, `${bundle}.link`);
    expect(await outcome(await load(`${bundle}.link`))).toEqual(before);
  });
  it.each(["../../evil.onnx", "/tmp/evil.onnx", "", "other.onnx"])("a file named %j would be exported elsewhere: refused", async (name) => {
    const bundle = copy();
    change(bundle, (m) => ((m.artifacts[0]?.files[0] as { name: string }).name = name));
    expect((await refusal(load(bundle))).code).toBe("P3003");
  });
  it("so is a segment", async () => {
    const bundle = copy();
    change(bundle, (m) => ((m.plan.steps[0] as { segment: string }).segment = "../../evil"));
    expect((await refusal(load(bundle))).code).toBe("P3003");
    let err = "";
    const io = { stdout: { write: () => {} }, stderr: { write: (s: string) => void (err += s) }, env: {} };
    expect(await commandLine(["export", bundle, "onnx", "-o", join(bundle, "../out")], io)).toBe(1);
    expect(err).toMatch(/P3003/);
    expect(existsSync(join(bundle, "../out"))).toBe(false);
  });
});

describe("models in bundles", () => {
  it("are read before ONNX Runtime gets them, though all hashes fit", async () => {
    const bundle = copy();
    const model = filesOf(bundle).find((f) => f.endsWith(".onnx")) as string;
    writeFileSync(model, readFileSync(model).subarray(0, -20));
    change(bundle, (m) => {
      const file = m.artifacts[0]?.files[0] as { bytes: number; sha256: string };
      file.bytes = statSync(model).size;
      file.sha256 = hashOf(model);
    });
    expect((await refusal(load(bundle))).message).toMatch(/^P1201 .*model\.onnx at byte \d+/);
  });
});

describe("a save that fails", () => {
  it("leaves nothing behind, and an old bundle as it was", async () => {
    const at = copy();
    // Its model is gone: the copy fails half-way.
    const broken = await load(copy());
    for (const f of filesOf(join(root, String(count - 1)))) if (f.endsWith(".onnx")) rmSync(f);
    expect((await refusal(broken.save(at))).message).toMatch(/^P3005 .*ENOENT/);
    expect(readdirSync(join(at, ".."))).toEqual(["net.partita"]);
    expect(await outcome(await load(at))).toEqual(before);
  });
  it("because something else is in the way", async () => {
    const at = fresh();
    writeFileSync(join(at, "mine.txt"), "precious");
    writeFileSync(join(at, "file.partita"), "a file");
    const program = await load(saved);
    for (const target of [at, join(at, "file.partita"), join(at, "mine.txt/below"), join(at, "no/such/folder/x.partita")])
      expect((await refusal(program.save(target))).code).toBe("P3005");
    expect(readdirSync(at).sort()).toEqual(["file.partita", "mine.txt"]);
    expect(readdirSync(join(at, "..")).filter((f) => f.endsWith(".tmp"))).toEqual([]);
  });
  it.skipIf(process.getuid?.() === 0)("because the folder may not be written", async () => {
    const at = fresh();
    chmodSync(at, 0o500);
    expect((await refusal((await load(saved)).save(join(at, "x.partita")))).message).toMatch(/^P3005 .*EACCES/);
    chmodSync(at, 0o700);
  });
});

describe("saves at the same time", () => {
  it("to one place all succeed; one of them stands there, whole, and nothing else", async () => {
    const at = fresh();
    const programs = await Promise.all(
      ["Relu", "Neg", "Abs", "Exp", "Sin", "Cos"].map((op) => compile(parse(TEXT.replaceAll("Relu", op)))),
    );
    await Promise.all(programs.flatMap((p) => [p.save(join(at, "net.partita")), p.save(join(at, "net.partita"))]));
    expect(readdirSync(at)).toEqual(["net.partita"]);
    const found = JSON.stringify(await outcome(await load(join(at, "net.partita"))));
    const possible = await Promise.all(programs.map(async (p) => JSON.stringify(await outcome(p))));
    expect(possible).toContain(found);
  });
});
