/** The example server, over HTTP on the loopback address: the protocol, what it refuses, overload, deadlines, clients that leave, its metrics and its end. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Metrics } from "../../examples/server/metrics.js";
import { publishBatch, publishCache } from "../../src/channels.js";
import { compile, load } from "../../src/compile.js";
import { readNpz } from "../../src/npz.js";
import { Tensor } from "../../src/tensor.js";
import {
  type Answer,
  type Asked,
  ask,
  binaryBody,
  bundleOf,
  DIGITS,
  jsonOf,
  parts,
  type RunningServer,
  SLOW,
  serverFile,
  startServer,
} from "../support/serving.js";

const TYPES = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "string"];
const folder = mkdtempSync(join(tmpdir(), "partita-server-"));
const children: RunningServer[] = [];
let models: Readonly<Record<"digits" | "types" | "slow" | "pair" | "fails", string>>;
let server: RunningServer;

beforeAll(async () => {
  const digits = join(folder, "digits.partita");
  await (await compile(DIGITS, { target: "host" })).save(digits);
  const ports = (prefix: string, typed: boolean): string => TYPES.map((t) => `%${prefix}${t}${typed ? `: ${t}[N]` : ""}`).join(", ");
  models = {
    digits,
    types: await bundleOf(
      folder,
      "types",
      `graph "types" opset {"": 18} (${ports("", true)}) -> (${ports("y_", false)}) {\n${TYPES.map((t) => `%y_${t} = Identity(%${t})`).join("\n")}\n}`,
    ),
    slow: await bundleOf(folder, "slow", SLOW),
    fails: await bundleOf(
      folder,
      "fails",
      `graph "fails" opset {"": 18} (%x: float32[N], %shape: int64[R]) -> (%y) { %y = Reshape(%x, %shape) }`,
    ),
    pair: await bundleOf(
      folder,
      "pair",
      `graph "pair" opset {"": 18} (%a: float32[N, 2], %b: float32[]) -> (%sum, %root) {\n%sum = Add(%a, %b)\n%root = Sqrt(%a)\n}`,
    ),
  };
  server = await started(models, [
    "--threads",
    "1",
    "--max-queue",
    "4",
    "--max-body-bytes",
    "200000",
    "--max-json-bytes",
    "50000",
    "--max-bytes-in-flight",
    "500000",
    "--max-elements",
    "40000",
  ]);
}, 60_000);
afterAll(() => {
  for (const { child } of children) child.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});
async function started(...args: Parameters<typeof startServer>): Promise<RunningServer> {
  const s = await startServer(...args);
  children.push(s);
  return s;
}
const infer = (model: string, asked: Asked): Promise<Answer> => ask(server.port, `/v2/models/${model}/infer`, asked);
const json = (value: unknown): Asked => ({ body: JSON.stringify(value), headers: { "content-type": "application/json" } });
const slow = (n: number, extra: Asked = {}): Promise<Answer> => {
  const asked = json({ inputs: [{ name: "n", shape: [1], datatype: "INT64", data: [n] }] });
  return infer("slow", { ...asked, ...extra, headers: { ...asked.headers, ...extra.headers } });
};
const metric = async (line: string): Promise<number> => {
  const text = String((await ask(server.port, "/metrics")).body);
  return Number(
    text
      .split("\n")
      .find((l) => l.startsWith(`${line} `))
      ?.split(" ")
      .at(-1) ?? 0,
  );
};
const until = async (condition: () => Promise<boolean>): Promise<void> => {
  for (let i = 0; i < 200; i++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  throw new Error("it did not come to be");
};

describe("metadata and health", () => {
  it("says what it is, that it lives, that it is ready", async () => {
    expect(jsonOf(await ask(server.port, "/v2"))).toMatchObject({
      name: "partita",
      version: expect.any(String),
      extensions: ["binary_tensor_data"],
    });
    for (const [path, body] of [
      ["/v2/health/live", { live: true }],
      ["/v2/health/ready", { ready: true }],
      ["/v2/models/digits/ready", { name: "digits", ready: true }],
    ] as const) {
      const a = await ask(server.port, path);
      expect([a.status, jsonOf(a)]).toEqual([200, body]);
    }
  });
  it("says what a model takes and gives; open dims are -1", async () => {
    expect(jsonOf(await ask(server.port, "/v2/models/digits"))).toEqual({
      name: "digits",
      platform: "partita",
      inputs: [{ name: "x", datatype: "FP32", shape: [-1, 1, 16, 16] }],
      outputs: [{ name: "logits", datatype: "FP32", shape: [-1, 10] }],
    });
  });
  it.each(["/v2/models/nothing", "/v2/models/nothing/ready", "/v2/models/__proto__", "/", "/v2/models/digits/versions/1"])(
    "%s: 404 with an error",
    async (path) => {
      const a = await ask(server.port, path);
      expect([a.status, typeof jsonOf(a)["error"]]).toEqual([404, "string"]);
    },
  );
});

describe("inference", () => {
  it("digits: JSON, nested or flat, and binary, give what a session gives", async () => {
    const x = readNpz(join(DIGITS, "../samples.npz")).get("x") as Tensor<"float32">;
    const one = x.data.slice(0, 256);
    await using session = await (await load(models.digits)).createSession({ threads: 1 });
    const { logits } = await session.run({ x: new Tensor("float32", one, [1, 1, 16, 16]) });
    const expected = Array.from(logits?.data as Float32Array);
    const input = { name: "x", shape: [1, 1, 16, 16], datatype: "FP32" };
    const rows = Array.from({ length: 16 }, (_, r) => Array.from(one.subarray(r * 16, r * 16 + 16)));
    for (const data of [Array.from(one), [[rows]]]) {
      const a = await infer("digits", json({ id: "a-1", inputs: [{ ...input, data }] }));
      expect([a.status, a.headers["content-type"]]).toEqual([200, "application/json"]);
      expect(jsonOf(a)).toEqual({
        model_name: "digits",
        id: "a-1",
        outputs: [{ name: "logits", shape: [1, 10], datatype: "FP32", data: expected }],
      });
    }
    const binary = { ...input, parameters: { binary_data_size: 1024 } };
    const a = await infer("digits", binaryBody({ inputs: [binary], parameters: { binary_data_output: true } }, one));
    const { header, blobs } = parts(a);
    expect(header).toEqual({
      model_name: "digits",
      outputs: [{ name: "logits", shape: [1, 10], datatype: "FP32", parameters: { binary_data_size: 40 } }],
    });
    expect(Array.from(new Float32Array(blobs.get("logits")?.buffer ?? new ArrayBuffer(0)))).toEqual(expected);
  });
  it("every type comes back as it was, as JSON and as binary data", async () => {
    const values: Readonly<Record<string, readonly [array: ArrayBufferView, plain: readonly unknown[] | undefined]>> = {
      bool: [Uint8Array.of(1, 0), [true, false]],
      uint8: [Uint8Array.of(0, 255), [0, 255]],
      uint16: [Uint16Array.of(1, 65535), [1, 65535]],
      uint32: [Uint32Array.of(1, 4294967295), [1, 4294967295]],
      uint64: [BigUint64Array.of(1n, 2n ** 53n - 1n), [1, Number.MAX_SAFE_INTEGER]],
      int8: [Int8Array.of(-128, 127), [-128, 127]],
      int16: [Int16Array.of(-32768, 1), [-32768, 1]],
      int32: [Int32Array.of(-2147483648, 1), [-2147483648, 1]],
      int64: [BigInt64Array.of(-1n, 1n - 2n ** 53n), [-1, Number.MIN_SAFE_INTEGER]],
      float16: [Uint16Array.of(0x3c00, 0x7e01), undefined],
      float32: [Float32Array.of(0.1, -1e38), Array.from(Float32Array.of(0.1, -1e38))],
      float64: [Float64Array.of(0.1, 1e300), [0.1, 1e300]],
      string: [Buffer.from("\x03\0\0\0a\u00e9\x04\0\0\0\u{1f600}"), ["a\u00e9", "\u{1f600}"]],
    };
    const inputs = TYPES.map((name) => {
      const [array, plain] = values[name] as (typeof values)[string];
      const datatype = { bool: "BOOL", string: "BYTES" }[name] ?? name.toUpperCase().replace("FLOAT", "FP");
      const start = { name, shape: [2], datatype };
      return {
        binary: { ...start, parameters: { binary_data_size: array.byteLength } },
        plain: plain === undefined ? undefined : { ...start, data: plain },
      };
    });
    const arrays = TYPES.map((t) => (values[t] as (typeof values)[string])[0]);
    const all = parts(
      await infer("types", binaryBody({ inputs: inputs.map((i) => i.binary), parameters: { binary_data_output: true } }, ...arrays)),
    );
    for (const [i, t] of TYPES.entries())
      expect(all.blobs.get(`y_${t}`), t).toEqual(
        Buffer.from((arrays[i] as Uint8Array).buffer, arrays[i]?.byteOffset, arrays[i]?.byteLength),
      );
    // Half floats have no JSON: they stay binary in a request that is JSON otherwise.
    const half = inputs[TYPES.indexOf("float16")]?.binary;
    const a = await infer(
      "types",
      binaryBody(
        {
          inputs: inputs.map((i) => i.plain ?? half),
          outputs: TYPES.map((t) => ({ name: `y_${t}`, parameters: { binary_data: t === "float16" } })),
        },
        values["float16"]?.[0] as Uint16Array,
      ),
    );
    const { header, blobs } = parts(a);
    expect(blobs.get("y_float16")).toEqual(Buffer.from(Uint16Array.of(0x3c00, 0x7e01).buffer));
    for (const o of header["outputs"] as { name: string; data?: unknown }[]) expect(o.data, o.name).toEqual(values[o.name.slice(2)]?.[1]);
  });
  it("whole numbers beyond 2^53 are written out in JSON, not rounded", async () => {
    const big = BigInt64Array.of(2n ** 62n + 1n);
    const rest = TYPES.filter((t) => t !== "int64" && t !== "string").map((name) => ({ name, size: { 1: 1 }[name] ?? 8 }));
    expect(rest.length).toBe(11);
    const sizes: Readonly<Record<string, number>> = {
      bool: 1,
      uint8: 1,
      int8: 1,
      uint16: 2,
      int16: 2,
      float16: 2,
      uint32: 4,
      int32: 4,
      float32: 4,
    };
    const all = TYPES.map((name) => ({ name, bytes: name === "int64" ? big : new Uint8Array(name === "string" ? 4 : (sizes[name] ?? 8)) }));
    const inputs = all.map(({ name, bytes }) => ({
      name,
      shape: [1],
      datatype: { bool: "BOOL", string: "BYTES" }[name] ?? name.toUpperCase().replace("FLOAT", "FP"),
      parameters: { binary_data_size: bytes.byteLength },
    }));
    const a = await infer("types", binaryBody({ inputs, outputs: [{ name: "y_int64" }] }, ...all.map((i) => i.bytes)));
    expect(String(a.body)).toContain('"data":[4611686018427387905]');
  });
  it("outputs are those asked for, in that order; scalars have no dims", async () => {
    const a = await infer(
      "pair",
      json({
        inputs: [
          { name: "b", shape: [], datatype: "FP32", data: [1] },
          {
            name: "a",
            shape: [2, 2],
            datatype: "FP32",
            data: [
              [1, 4],
              [9, 16],
            ],
          },
        ],
        outputs: [{ name: "root" }, { name: "sum" }],
      }),
    );
    expect(jsonOf(a)["outputs"]).toEqual([
      { name: "root", shape: [2, 2], datatype: "FP32", data: [1, 2, 3, 4] },
      { name: "sum", shape: [2, 2], datatype: "FP32", data: [2, 5, 10, 17] },
    ]);
  });
  it("what JSON cannot hold is refused, and given as binary data", async () => {
    const inputs = [
      { name: "a", shape: [1, 2], datatype: "FP32", data: [-1, 4] },
      { name: "b", shape: [], datatype: "FP32", data: [0] },
    ];
    const refused = await infer("pair", json({ inputs }));
    expect([refused.status, jsonOf(refused)["error"]]).toEqual([422, expect.stringContaining("'root' holds a NaN")]);
    const { blobs } = parts(await infer("pair", json({ inputs, outputs: [{ name: "root", parameters: { binary_data: true } }] })));
    expect(Array.from(new Float32Array(blobs.get("root")?.buffer ?? new ArrayBuffer(0)))).toEqual([Number.NaN, 2]);
  });
});

describe("requests that are refused", () => {
  const a = { name: "a", shape: [1, 2], datatype: "FP32", data: [1, 2] };
  const b = { name: "b", shape: [], datatype: "FP32", data: [1] };
  const withA = (change: object): unknown => ({ inputs: [{ ...a, ...change }, b] });
  const cases: readonly (readonly [what: string, request: unknown, message: string, status?: number])[] = [
    ["no JSON", "{", "not valid JSON"],
    ["no object", "[]", "must be object"],
    ["null", "null", "must be object"],
    ["nesting without end", "[".repeat(40_000), "not valid JSON"],
    ["no inputs", {}, "must have required property 'inputs'"],
    ["an unknown key", { inputs: [a, b], output: [] }, "must NOT have additional properties"],
    ["a prototype", '{"__proto__": {"inputs": []}}', "required property 'inputs'"],
    ["a shape of text", withA({ shape: ["1", 2] }), "must be integer"],
    ["a fraction as a dim", withA({ shape: [1.5, 2] }), "must be integer"],
    ["a negative dim", withA({ shape: [-1, 2] }), "has a dim of -1"],
    ["no rows", withA({ shape: [0, 2], data: [] }), "has a dim of 0"],
    ["a dim past all bounds", withA({ shape: [1e15, 2] }), "has a dim of 1000000000000000"],
    ["too many elements", withA({ shape: [30_000, 2] }), "more than 40000 elements"],
    ["another rank", withA({ shape: [1, 2, 1] }), "the model takes [-1,2]"],
    ["another dim", withA({ shape: [1, 3], data: [1, 2, 3] }), "the model takes [-1,2]"],
    ["another type", withA({ datatype: "FP64" }), "is FP64, the model takes FP32"],
    ["a type that is none", withA({ datatype: "FLOAT" }), "must be equal to one of the allowed values"],
    ["too few values", withA({ data: [1] }), "has 1 values, its shape wants 2"],
    ["text for a number", withA({ data: [1, "2"] }), `holds "2", which is no FP32`],
    ["null for a number", withA({ data: [1, null] }), "holds null"],
    ["beyond float32", withA({ data: [1, 1e39] }), "holds 1e+39"],
    ["nested otherwise", withA({ shape: [2, 2], data: [[1, 2, 3], [4]] }), "not nested as its shape"],
    ["nested too deep", withA({ data: [[[1, 2]]] }), "not nested as its shape"],
    ["neither data nor binary data", { inputs: [{ name: "a", shape: [1, 2], datatype: "FP32" }, b] }, "needs either 'data' or"],
    [
      "binary data that is not there",
      withA({ data: undefined, parameters: { binary_data_size: 8 } }),
      "claims 8 bytes of binary data, 0 are left",
    ],
    ["an input twice", { inputs: [a, a, b] }, "comes twice"],
    ["an input that is none", { inputs: [a, b, { ...b, name: "c" }] }, "there is no input 'c'; the inputs are 'a', 'b'"],
    ["an input of the prototype", { inputs: [a, b, { ...b, name: "constructor" }] }, "there is no input 'constructor'"],
    ["an input left out", { inputs: [a] }, "input 'b' is missing"],
    ["an output that is none", { inputs: [a, b], outputs: [{ name: "c" }] }, "there is no output 'c'"],
    ["an output twice", { inputs: [a, b], outputs: [{ name: "sum" }, { name: "sum" }] }, "wanted twice"],
    ["JSON that is too long", withA({ data: new Array(20_000).fill(1.5) }), "more than 50000", 413],
  ];
  for (const [what, request, message, status = 400] of cases)
    it(what, async () => {
      const answer = await infer("pair", typeof request === "string" ? { body: request } : json(request));
      expect([answer.status, jsonOf(answer)["error"]]).toEqual([status, expect.stringContaining(message)]);
    });
  const two = Float32Array.of(1, 2);
  const binary = { name: "a", shape: [1, 2], datatype: "FP32", parameters: { binary_data_size: 8 } };
  it.each([
    ["too few bytes", { ...binary, shape: [2, 2] }, two, "has 8 bytes, its shape wants 16"],
    ["bytes behind the last", binary, new Float32Array(3), "4 bytes of binary data belong to no input"],
  ])("binary: %s", async (_, input, bytes, message) => {
    const answer = await infer("pair", binaryBody({ inputs: [input, b] }, bytes));
    expect([answer.status, jsonOf(answer)["error"]]).toEqual([400, expect.stringContaining(message)]);
  });
  it.each(["-1", "1e3", "99999999", "0x10", "1, 2"])("binary: a JSON part of %s bytes", async (length) => {
    const { body } = binaryBody({ inputs: [binary, b] }, two);
    const answer = await infer("pair", { body, headers: { "inference-header-content-length": length } });
    expect([answer.status, jsonOf(answer)["error"]]).toEqual([400, expect.stringContaining("Inference-Header-Content-Length is")]);
  });
  it.each([
    ["a string behind the end", "\x09\0\0\0ab", "ends behind its data"],
    ["strings that are too few", "\x02\0\0\0ab", "does not hold 2 strings"],
    ["a string that is no UTF-8", Buffer.of(1, 0, 0, 0, 0xff, 0, 0, 0, 0), "not UTF-8"],
  ])("binary: %s", async (_, text, message) => {
    const bytes = typeof text === "string" ? Buffer.from(text) : (text as Buffer);
    const input = { name: "string", shape: [2], datatype: "BYTES", parameters: { binary_data_size: bytes.length } };
    const answer = await infer("types", binaryBody({ inputs: [input] }, bytes));
    expect([answer.status, jsonOf(answer)["error"]]).toEqual([400, expect.stringContaining(message)]);
  });
  it.each([
    ["another content type", { body: "{}", headers: { "content-type": "text/plain" } }, 415],
    ["a compressed body", { body: "{}", headers: { "content-encoding": "gzip" } }, 415],
    ["a model that is none", { body: "{}" }, 404],
    ["a body that is too large", { body: Buffer.alloc(300_000), headers: { "content-type": "application/octet-stream" } }, 413],
    ["a deadline that is none", { ...json({ inputs: [a, b] }), headers: { "x-request-timeout-ms": "soon" } }, 400],
  ])("%s", async (what, asked: Asked, status) => {
    const answer = await infer(what === "a model that is none" ? "constructor" : "pair", asked);
    expect([answer.status, typeof jsonOf(answer)["error"]]).toEqual([status, "string"]);
  });
  it("a body without a length ends where the limit is", async () => {
    const answer = await new Promise<string>((resolve, reject) => {
      const socket = connect(server.port, "127.0.0.1");
      let text = "";
      socket.on("data", (c) => (text += c));
      socket.on("error", reject);
      socket.on("close", () => resolve(text));
      socket.write("POST /v2/models/pair/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
      const chunk = Buffer.alloc(0x10000, 0x20);
      for (let i = 0; i < 5; i++) socket.write(Buffer.concat([Buffer.from("10000\r\n"), chunk, Buffer.from("\r\n")]));
    });
    expect(answer).toContain("413 Payload Too Large");
  });
  it("after all of that it serves, and has said nothing of unhandled errors", async () => {
    expect((await infer("pair", json({ inputs: [a, b] }))).status).toBe(200);
    expect(server.output()).not.toMatch(/unhandled|"level":(50|60)/i);
  });
});

describe("more than it can do", () => {
  it("a full queue is 503 with Retry-After, and it recovers", async () => {
    const before = await metric('partita_queue_events_total{model="slow",event="reject"}');
    const answers = await Promise.all(Array.from({ length: 16 }, () => slow(4000)));
    const refused = answers.filter((r) => r.status === 503);
    expect(answers.every((r) => r.status === 200 || r.status === 503)).toBe(true);
    // One runs, four wait.
    expect(answers.length - refused.length).toBeGreaterThanOrEqual(5);
    expect(refused.length).toBeGreaterThan(0);
    for (const r of refused)
      expect([r.headers["retry-after"], jsonOf(r)["error"]]).toEqual(["1", expect.stringMatching(/queue is full|P3106/)]);
    expect((await slow(64)).status).toBe(200);
    expect(await metric('partita_requests_total{model="slow",code="503"}')).toBe(refused.length);
    expect(await metric('partita_queue_events_total{model="slow",event="reject"}')).toBeGreaterThanOrEqual(before);
  });
  it("more bytes than may be under way are 503, before they are sent", async () => {
    const silent = Array.from({ length: 3 }, () => connect(server.port, "127.0.0.1"));
    for (const s of silent) s.write("POST /v2/models/pair/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 150000\r\n\r\n{");
    await until(async () => (await metric("partita_requests_in_flight")) === 3);
    const refused = await infer("pair", { body: " ".repeat(100_000) });
    expect([refused.status, refused.headers["retry-after"], jsonOf(refused)["error"]]).toEqual([
      503,
      "1",
      expect.stringContaining("too many bytes"),
    ]);
    for (const s of silent) s.destroy();
    await until(async () => (await metric("partita_requests_in_flight")) === 0);
    expect((await infer("pair", { body: " ".repeat(100_000) })).status).toBe(413);
  });
  it("a deadline is 504", async () => {
    const first = slow(16_000);
    const late = await slow(64, { headers: { "x-request-timeout-ms": "30" } });
    expect([late.status, jsonOf(late)["error"]]).toEqual([504, expect.stringContaining("P3107")]);
    expect((await first).status).toBe(200);
    expect(await metric('partita_queue_events_total{model="slow",event="deadline"}')).toBe(1);
  });
  it("a client that goes away takes its run along", async () => {
    const gone = new AbortController();
    const first = slow(16_000);
    const waiting = slow(64, { signal: gone.signal });
    await until(async () => (await metric('partita_queue_waiting{model="slow"}')) === 1);
    gone.abort();
    await expect(waiting).rejects.toThrow();
    await until(async () => (await metric('partita_requests_total{model="slow",code="499"}')) === 1);
    expect(await metric('partita_queue_events_total{model="slow",event="cancel"}')).toBe(1);
    expect((await first).status).toBe(200);
  });
});

describe("a model that fails on its inputs", () => {
  it("is 500 with the error's code; the log has the reason, and the next request is served", async () => {
    const asked = (rows: number): Asked =>
      json({
        inputs: [
          { name: "x", shape: [4], datatype: "FP32", data: [1, 2, 3, 4] },
          { name: "shape", shape: [2], datatype: "INT64", data: [rows, 2] },
        ],
      });
    const failed = await infer("fails", asked(3));
    expect([failed.status, jsonOf(failed)]).toEqual([
      500,
      { error: expect.stringMatching(/^P20\d\d: the model could not be run on these inputs$/) },
    ]);
    await until(async () => /"level":50,.*P20\d\d/.test(server.output()));
    expect(jsonOf(await infer("fails", asked(2)))["outputs"]).toEqual([{ name: "y", shape: [2, 2], datatype: "FP32", data: [1, 2, 3, 4] }]);
  });
});

describe("metrics", () => {
  it("count requests and runs, by model, segment and engine", async () => {
    const runs = await metric('partita_run_duration_seconds_count{model="pair"}');
    expect(runs).toBeGreaterThanOrEqual(3);
    expect(await metric('partita_segment_duration_seconds_count{model="pair",segment="host_0",engine="host"}')).toBeGreaterThanOrEqual(3);
    expect(await metric('partita_requests_total{model="pair",code="400"}')).toBeGreaterThanOrEqual(30);
    expect(await metric("partita_requests_in_flight")).toBe(0);
    expect(await metric("process_resident_memory_bytes")).toBeGreaterThan(1e6);
  });
  it("count the engine cache's events, and batches, and stop when they are closed", async () => {
    const metrics = new Metrics({ process: false });
    metrics.add({ name: "m", session: { id: 7, stats: () => ({ queued: 3, running: 2 }) } as never });
    const cache = { segment: "cuda_1", key: "k", dims: { x: [4, 3] } };
    const tell = (): void => {
      publishCache(() => ({ event: "miss", ...cache }));
      publishCache(() => ({ event: "built", ms: 2500, ...cache }));
      publishBatch(() => ({ session: 7, batch: 1, runs: [2, 3], requests: 2, items: 5, waitedMs: 4 }));
      publishBatch(() => ({ session: 8, batch: 4, runs: [5, 6], requests: 2, items: 5, waitedMs: 4 }));
    };
    tell();
    const text = await metrics.text();
    for (const line of [
      'partita_engine_cache_events_total{segment="cuda_1",event="miss"} 1',
      'partita_engine_cache_events_total{segment="cuda_1",event="built"} 1',
      'partita_engine_build_seconds_sum{segment="cuda_1"} 2.5',
      'partita_batch_requests_sum{model="m"} 2',
      'partita_batch_wait_seconds_sum{model="m"} 0.004',
      'partita_queue_waiting{model="m"} 3',
      'partita_queue_running{model="m"} 2',
    ])
      expect(text.split("\n")).toContain(line);
    metrics.close();
    tell();
    expect(await metrics.text()).toBe(text);
  });
});

describe("its end", () => {
  it("SIGTERM: not ready, what was taken in is answered, exit code 0", async () => {
    const s = await started({ slow: models.slow }, ["--threads", "1", "--grace-ms", "200"]);
    const body = JSON.stringify({ inputs: [{ name: "n", shape: [1], datatype: "INT64", data: [20_000] }] });
    const running = ask(s.port, "/v2/models/slow/infer", { body });
    await new Promise((resolve) => setTimeout(resolve, 50));
    s.child.kill("SIGTERM");
    await until(async () => (await ask(s.port, "/v2/health/ready")).status === 503);
    expect((await ask(s.port, "/v2/health/live")).status).toBe(200);
    expect((await running).status).toBe(200);
    expect(await s.exited).toBe(0);
    await expect(ask(s.port, "/v2/health/live")).rejects.toThrow("ECONNREFUSED");
    expect(s.output()).not.toMatch(/unhandled|"level":(50|60)/i);
  });
  it("what outlasts the drain is answered with 503, a client that sends nothing is cut off, exit code 0", async () => {
    const s = await started({ slow: models.slow }, ["--threads", "1", "--drain-ms", "100"]);
    const silent = connect(s.port, "127.0.0.1");
    silent.on("error", () => {});
    silent.write("POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{");
    const body = JSON.stringify({ inputs: [{ name: "n", shape: [1], datatype: "INT64", data: [60_000] }] });
    const running = ask(s.port, "/v2/models/slow/infer", { body });
    await new Promise((resolve) => setTimeout(resolve, 50));
    s.child.kill("SIGTERM");
    expect((await running).status).toBe(503);
    expect(await s.exited).toBe(0);
    silent.destroy();
  });
  it("wrong options are 2, a bundle that is none is 1", () => {
    const run = (...args: string[]): number | null => spawnSync(process.execPath, [serverFile(), ...args]).status;
    expect(run("--model", "x=y", "--port", "many")).toBe(2);
    expect(run("--port", "0", "--model", `x=${join(folder, "nothing.partita")}`)).toBe(1);
  });
});
