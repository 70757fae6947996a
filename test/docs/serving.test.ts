/** The page on serving: its blocks run in order, in a folder whose node_modules has this package; its tables are those of the server. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseText, problems } from "../support/pbtxt.js";
import { ask, calibrationFiles, cliFile, jsonOf, serverFile } from "../support/serving.js";

const root = join(import.meta.dirname, "../..");
const text = readFileSync(join(root, "docs/serving.md"), "utf8");
const blocks = new Map(
  [...text.matchAll(/```(?:sh|js) ([a-z]+)\n([\s\S]*?)```/g)].map(([, name, code]) => [name as string, code as string]),
);
const folder = mkdtempSync(join(tmpdir(), "partita-serving-"));
let port = 0;
let server: ChildProcess | undefined;
let log = "";

afterAll(() => {
  server?.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});
beforeAll(async () => {
  // A port that was free a moment ago stands for the page's.
  port = await new Promise<number>((resolve) => {
    const s = createServer().listen(0, "127.0.0.1", () => {
      const { port: found } = s.address() as { port: number };
      s.close(() => resolve(found));
    });
  });
  mkdirSync(join(folder, "bin"));
  writeFileSync(join(folder, "bin/npx"), `#!/bin/sh\nshift\nexec "${process.execPath}" "${cliFile()}" "$@"\n`, { mode: 0o755 });
  mkdirSync(join(folder, "node_modules"));
  const built = join(dirname(serverFile()), "../..");
  cpSync(join(root, "examples/digits"), join(built, "examples/digits"), { recursive: true });
  symlinkSync(built, join(folder, "node_modules/partita"));
  calibrationFiles(folder);
}, 60_000);

const env = () => ({ ...process.env, NO_COLOR: "1", PATH: `${join(folder, "bin")}${delimiter}${process.env["PATH"]}` });
const codeOf = (name: string): string => (blocks.get(name) ?? "").replaceAll("8080", String(port));
function shell(name: string): string {
  const { status, stdout, stderr } = spawnSync("/bin/sh", ["-e", "-c", codeOf(name)], { cwd: folder, encoding: "utf8", env: env() });
  expect([status, stderr], name).toEqual([0, expect.any(String)]);
  return stdout;
}
function script(name: string, print = ""): Promise<string> {
  writeFileSync(join(folder, `${name}.mjs`), `${codeOf(name)}\n${print}`);
  const child = spawn(process.execPath, [`${name}.mjs`], { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (c) => (output += c));
  child.stderr.on("data", (c) => (output += c));
  return new Promise((resolve) =>
    child.once("close", (code) => {
      expect([code, output], name).toEqual([0, expect.any(String)]);
      resolve(output);
    }),
  );
}

describe("docs/serving.md", () => {
  it("has the blocks that are run here; two are run elsewhere, or by nobody", () => {
    expect([...blocks.keys()]).toEqual(["install", "compile", "serve", "ask", "client", "own", "triton", "shards", "kubernetes"]);
    // `npm run check:install` installs the same; the last needs a cluster, and names files that must exist.
    for (const [, file] of (blocks.get("kubernetes") ?? "").matchAll(/-f (\S+)/g))
      expect(existsSync(join(root, file as string))).toBe(true);
  });
  it("compiles, serves and answers", async () => {
    shell("compile");
    const [command = "", ...args] = codeOf("serve").trim().split(" ");
    server = spawn(command, args, { cwd: folder, env: env(), stdio: ["ignore", "pipe", "pipe"] });
    server.stdout?.on("data", (c) => (log += c));
    server.stderr?.on("data", (c) => (log += c));
    for (let i = 0; i < 400 && !log.includes('"msg":"ready"') && server.exitCode === null; i++)
      await new Promise((resolve) => setTimeout(resolve, 25));
    expect(log).toContain('"msg":"ready"');
    if (spawnSync("curl", ["--version"]).status === 0) {
      const said = shell("ask");
      expect(said).toMatch(/^\{"ready":true\}\{"name":"digits",.*\}# HELP /);
    }
    expect(await script("client")).toMatch(/^\[ 4, 10 \] \[\n/);
  }, 60_000);
  it("its metrics are the server's", async () => {
    const page = [...text.matchAll(/^\| (`partita_[^|]*) \|/gm)].flatMap(([, names]) =>
      [...(names as string).matchAll(/`(\w+)`/g)].map(([, n]) => n),
    );
    const given = [...String((await ask(port, "/metrics")).body).matchAll(/^# TYPE (partita_\w+) /gm)].map(([, n]) => n);
    expect(page.sort()).toEqual(given.sort());
  });
  it("its flags are the server's", () => {
    const usage = /USAGE = `([^`]*)`/.exec(readFileSync(serverFile(), "utf8"))?.[1] ?? "";
    const flags = (s: string): string[] => [...new Set([...s.matchAll(/--[a-z-]+/g)].map(([f]) => f))].sort();
    const table = [...text.matchAll(/^\| (`--[^|]*) \|/gm)].map(([, f]) => f).join(" ");
    expect(flags(table)).toEqual(flags(usage));
  });
  it("a server of one's own: queue, batches, deadline", async () => {
    const found = JSON.parse(
      await script("own", "console.log(JSON.stringify({ dims: logits.dims, refused: refused.length, completed, rejected, batches }));"),
    ) as Record<string, number>;
    expect(found).toMatchObject({ dims: [1, 10], rejected: found["refused"] });
    expect([found["completed"], found["batches"]]).toEqual([201 - (found["refused"] as number), expect.any(Number)]);
    expect(found["refused"]).toBeGreaterThan(0);
    expect(found["batches"]).toBeGreaterThan(0);
  });
  it("the Triton repository has the names, types and dims that the server has", async () => {
    shell("triton");
    const config = readFileSync(join(folder, "models/digits/config.pbtxt"), "utf8");
    expect(problems(parseText(config))).toEqual([]);
    expect(existsSync(join(folder, "models/digits/1/model.onnx"))).toBe(true);
    const { inputs, outputs } = jsonOf(await ask(port, "/v2/models/digits")) as Record<
      "inputs" | "outputs",
      { name: string; datatype: string; shape: number[] }[]
    >;
    for (const { name, datatype, shape } of [...(inputs ?? []), ...(outputs ?? [])])
      expect(config.replace(/\s+/g, " ")).toContain(`name: "${name}" data_type: TYPE_${datatype} dims: [ ${shape.join(", ")} ]`);
  });
  it("shards are merged and compiled with", () => {
    expect(shell("shards")).toContain("1 tensors over 64 feeds");
    expect(existsSync(join(folder, "model.partita/manifest.json"))).toBe(true);
  }, 60_000);
  it("ends with 0", async () => {
    const exited = new Promise((resolve) => server?.once("exit", resolve));
    server?.kill("SIGTERM");
    expect(await exited).toBe(0);
    expect(log).not.toMatch(/"level":(50|60)/);
  });
});
