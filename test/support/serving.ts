/** The example server as a process of its own, small bundles for it, and a client that sends what it is told to. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { type Agent, type IncomingHttpHeaders, request } from "node:http";
import { dirname, join } from "node:path";
import { compile } from "../../src/compile.js";
import { encodeOnnx } from "../../src/import/onnx/export.js";
import { parse } from "../../src/ir/parse.js";
import { npzBytes } from "../../src/npz.js";
import { Tensor } from "../../src/tensor.js";
import { transpiled } from "./transpile.js";

const root = join(import.meta.dirname, "../..");
const SERVER = join(root, "examples/server");
export const DIGITS = join(root, "examples/digits/resnet.onnx");

let file: string | undefined;
/** The server's main.js, beside the sources as JavaScript, which are the package "partita" to it. Made once: sources may change meanwhile. */
export function serverFile(): string {
  if (file !== undefined) return file;
  const folder = transpiled();
  const { name, version, type } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  put(
    join(folder, "package.json"),
    Buffer.from(JSON.stringify({ name, version, type, exports: { ".": "./src/index.js", "./package.json": "./package.json" } })),
  );
  for (const script of readdirSync(SERVER).filter((f) => f.endsWith(".js")))
    put(join(folder, "examples/server", script), readFileSync(join(SERVER, script)));
  file = join(folder, "examples/server/main.js");
  return file;
}
/** The command line's main.js, of the same sources. */
export const cliFile = (): string => join(dirname(serverFile()), "../../src/cli/main.js");
/** Writes a file that is not as it should be, at once: another process may be reading it. */
function put(path: string, content: Buffer): void {
  if (existsSync(path) && readFileSync(path).equals(content)) return;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.${process.pid}`, content);
  renameSync(`${path}.${process.pid}`, path);
}

/** Writes model.onnx, one product, and feeds.npz, 64 rows for it: what calibration takes. */
export function calibrationFiles(folder: string): void {
  const weights = Array.from({ length: 512 }, (_, i) => ((i * 37) % 19) / 10 - 0.9).join(", ");
  const net = `graph "net" opset {"": 18} (%x: float32[N, 32]) -> (%y) {
    const %w = float32[32, 16] [${weights}]
    %y = MatMul(%x, %w)
  }`;
  writeFileSync(join(folder, "model.onnx"), encodeOnnx(parse(net)));
  const rows = Float32Array.from({ length: 64 * 32 }, (_, i) => Math.sin(i * i));
  writeFileSync(join(folder, "feeds.npz"), npzBytes([["x", new Tensor("float32", rows, [64, 32])]]));
}

/** Saves a bundle of a graph, given as text, and gives its path. */
export async function bundleOf(folder: string, name: string, graph: string): Promise<string> {
  const path = join(folder, `${name}.partita`);
  await (await compile(parse(graph), { target: "host" })).save(path);
  return path;
}
/** A model that takes the longer the larger its only number is: about 1 ms for every 64, on one thread. */
export const SLOW = `graph "slow" opset {"": 18} (%n: int64[1]) -> (%y) {
  const %columns = int64[1] [512]
  const %one = float32[] [1.0]
  const %square = int64[2] [512, 512]
  %dims = Concat(%n, %columns) {axis = 0}
  %a = Expand(%one, %dims)
  %w = Expand(%one, %square)
  %product = MatMul(%a, %w)
  %y: float32[] = ReduceMax(%product) {keepdims = 0}
}`;

export interface RunningServer {
  readonly port: number;
  readonly child: ChildProcess;
  /** What it has written so far, log lines and errors. */
  readonly output: () => string;
  /** Resolves with the exit code, or the signal that ended it. */
  readonly exited: Promise<number | NodeJS.Signals | null>;
}

/** Starts the server on a free port of the loopback address, and waits until its models are loaded (or only until it listens). */
export async function startServer(
  models: Readonly<Record<string, string>>,
  flags: readonly string[] = [],
  until: "ready" | "listening" = "ready",
  cwd = root,
): Promise<RunningServer> {
  const named = Object.entries(models).flatMap(([name, path]) => ["--model", `${name}=${path}`]);
  const child = spawn(process.execPath, [serverFile(), "--port", "0", ...named, ...flags], {
    cwd,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  let port = 0;
  const exited = new Promise<number | NodeJS.Signals | null>((resolve) => child.once("exit", (code, signal) => resolve(signal ?? code)));
  await new Promise<void>((resolve, reject) => {
    const hear = (chunk: Buffer): void => {
      output += chunk;
      port ||= Number(/listening at http:\/\/127\.0\.0\.1:(\d+)/.exec(output)?.[1] ?? 0);
      if (port !== 0 && (until === "listening" || output.includes('"msg":"ready"'))) resolve();
    };
    child.stdout?.on("data", hear);
    child.stderr?.on("data", hear);
    void exited.then((code) => reject(new Error(`the server ended with ${code}: ${output}`)));
  });
  return { port, child, output: () => output, exited };
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}
export interface Asked {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer | string;
  readonly agent?: Agent;
  readonly signal?: AbortSignal;
}
/** One request to the loopback address. */
export function ask(port: number, path: string, { method, headers = {}, body, agent, signal }: Asked = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: "127.0.0.1",
        port,
        path,
        method: method ?? (body === undefined ? "GET" : "POST"),
        headers: { ...headers, ...(body === undefined ? {} : { "content-length": Buffer.byteLength(body) }) },
        agent: agent ?? false,
        ...(signal === undefined ? {} : { signal }),
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (c: Buffer) => chunks.push(c));
        response.once("error", reject);
        response.once("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(chunks) }));
      },
    );
    sent.once("error", reject);
    sent.end(body);
  });
}
export const jsonOf = (a: Answer): Record<string, unknown> => JSON.parse(String(a.body)) as Record<string, unknown>;

/** A request's body with its tensors behind its JSON part, and the header that says where they begin. */
export function binaryBody(header: unknown, ...tensors: readonly ArrayBufferView[]): Required<Pick<Asked, "headers" | "body">> {
  const json = Buffer.from(JSON.stringify(header));
  return {
    headers: { "content-type": "application/octet-stream", "inference-header-content-length": String(json.length) },
    body: Buffer.concat([json, ...tensors.map((t) => Buffer.from(t.buffer, t.byteOffset, t.byteLength))]),
  };
}
/** The JSON part of an answer and the bytes of its binary outputs, by name. */
export function parts(a: Answer): { readonly header: Record<string, unknown>; readonly blobs: ReadonlyMap<string, Buffer> } {
  const length = Number(a.headers["inference-header-content-length"]);
  const header = JSON.parse(a.body.toString("utf8", 0, length)) as Record<string, unknown>;
  const blobs = new Map<string, Buffer>();
  let at = length;
  for (const o of header["outputs"] as { name: string; parameters?: { binary_data_size?: number } }[]) {
    const size = o.parameters?.binary_data_size;
    if (size === undefined) continue;
    // Copied: typed arrays want aligned bytes.
    blobs.set(o.name, Buffer.from(new Uint8Array(a.body.subarray(at, at + size)).buffer));
    at += size;
  }
  if (at !== a.body.length) throw new Error(`${a.body.length - at} bytes belong to no output`);
  return { header, blobs };
}
