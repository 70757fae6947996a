/**
 * The example server under load, in a process of its own on the loopback address: 60,000 requests of every kind, or 90 s of them, then more than it can
 * do, then its end under load. No answer is wrong, memory stays flat, a full queue is 503 and passes.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { Agent } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compile } from "../../src/compile.js";
import { readNpz } from "../../src/npz.js";
import { generator } from "../../src/runtime/measure.js";
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
  startServer,
} from "../support/serving.js";

const REQUESTS = Number(process.env["PARTITA_SOAK_REQUESTS"] ?? 60_000);
const SECONDS = 90;
const CLIENTS = 32;
const folder = mkdtempSync(join(tmpdir(), "partita-soak-"));
const agent = new Agent({ keepAlive: true, maxSockets: 256 });
let server: RunningServer;
/** Images and the logits that a session in this process gives for each, alone. */
let images: readonly Float32Array[];
let logits: readonly Float32Array[];

beforeAll(async () => {
  const program = await compile(DIGITS, { target: "host" });
  const digits = join(folder, "digits.partita");
  await program.save(digits);
  const x = readNpz(join(DIGITS, "../samples.npz")).get("x") as Tensor<"float32">;
  images = Array.from({ length: x.dims[0] as number }, (_, i) => x.data.slice(i * 256, (i + 1) * 256));
  await using session = await program.createSession({ threads: 1 });
  const alone: Float32Array[] = [];
  for (const image of images)
    alone.push((await session.run({ x: new Tensor("float32", image, [1, 1, 16, 16]) }))["logits"]?.data as Float32Array);
  logits = alone;
  const pair = await bundleOf(
    folder,
    "pair",
    `graph "pair" opset {"": 18} (%a: float32[N, 2], %b: float32[N, 1]) -> (%sum, %product) {\n%sum = Add(%a, %b)\n%product = Mul(%a, %b)\n}`,
  );
  server = await startServer({ digits, pair, slow: await bundleOf(folder, "slow", SLOW) }, [
    "--threads",
    "1",
    "--max-queue",
    "64",
    "--max-batch",
    "16",
    "--max-delay-ms",
    "1",
  ]);
});
afterAll(() => {
  server?.child.kill("SIGKILL");
  agent.destroy();
  rmSync(folder, { recursive: true, force: true });
});

const json = (value: unknown): Asked => ({ body: JSON.stringify(value), headers: { "content-type": "application/json" } });
const infer = (model: string, asked: Asked): Promise<Answer> => ask(server.port, `/v2/models/${model}/infer`, { ...asked, agent });
const slow = (n: number): Promise<Answer> => infer("slow", json({ inputs: [{ name: "n", shape: [1], datatype: "INT64", data: [n] }] }));

/** What a request should give: says what is wrong with an answer, or nothing. */
interface Case {
  readonly kind: string;
  readonly model: string;
  readonly asked: Asked;
  readonly wrong: (a: Answer) => string | undefined;
}
function outputOf(a: Answer, name: string): readonly number[] {
  if (a.headers["inference-header-content-length"] !== undefined) {
    const bytes = parts(a).blobs.get(name);
    return bytes === undefined ? [] : Array.from(new Float32Array(bytes.buffer));
  }
  const found = (jsonOf(a)["outputs"] as { name: string; data: number[] }[]).find((o) => o.name === name);
  return found?.data ?? [];
}
function differs(a: Answer, name: string, expected: readonly number[], tolerance: number): string | undefined {
  if (a.status !== 200) return `${a.status}: ${String(a.body).slice(0, 200)}`;
  const found = outputOf(a, name);
  if (found.length !== expected.length) return `'${name}' has ${found.length} values, not ${expected.length}`;
  const at = found.findIndex((x, i) => !(Math.abs(x - (expected[i] as number)) <= tolerance));
  return at < 0 ? undefined : `'${name}'[${at}] is ${found[at]}, not ${expected[at]}`;
}
function caseOf(next: () => number): Case {
  const draw = (n: number): number => Math.floor(next() * n);
  const kind = next();
  if (kind < 0.1) {
    const [body, message] = [
      ["{", "not valid JSON"],
      [JSON.stringify({ inputs: [] }), "is missing"],
      [JSON.stringify({ inputs: [{ name: "x", shape: [1, 1, 16, 17], datatype: "FP32", data: [] }] }), "the model takes"],
      [JSON.stringify({ inputs: [{ name: "x", shape: [1e12, 1, 16, 16], datatype: "FP32", data: [1] }] }), "has a dim of"],
    ][draw(4)] as [string, string];
    return {
      kind: "at fault",
      model: "digits",
      asked: { body },
      wrong: (a) => (a.status === 400 && String(a.body).includes(message) ? undefined : `${a.status}: ${a.body}`),
    };
  }
  const binary = next() < 0.5;
  const send = (inputs: readonly { readonly name: string; readonly shape: readonly number[]; readonly data: Float32Array }[]): Asked =>
    binary
      ? binaryBody(
          {
            inputs: inputs.map(({ data, ...rest }) => ({ ...rest, datatype: "FP32", parameters: { binary_data_size: data.byteLength } })),
            parameters: { binary_data_output: true },
          },
          ...inputs.map((i) => i.data),
        )
      : json({ inputs: inputs.map((i) => ({ ...i, datatype: "FP32", data: Array.from(i.data) })) });
  if (kind < 0.45) {
    const n = 1 + draw(8);
    const a = Float32Array.from({ length: 2 * n }, () => draw(1000));
    const b = Float32Array.from({ length: n }, () => draw(1000));
    const product = Array.from(a, (x, i) => x * (b[i >> 1] as number));
    return {
      kind: binary ? "pair, binary" : "pair, JSON",
      model: "pair",
      asked: send([
        { name: "a", shape: [n, 2], data: a },
        { name: "b", shape: [n, 1], data: b },
      ]),
      wrong: (r) =>
        differs(r, "product", product, 0) ??
        differs(
          r,
          "sum",
          Array.from(a, (x, i) => x + (b[i >> 1] as number)),
          0,
        ),
    };
  }
  const n = 1 + draw(3);
  const chosen = Array.from({ length: n }, () => draw(images.length));
  const data = new Float32Array(256 * n);
  for (const [i, k] of chosen.entries()) data.set(images[k] as Float32Array, 256 * i);
  const expected = chosen.flatMap((k) => Array.from(logits[k] as Float32Array));
  return {
    kind: binary ? "digits, binary" : "digits, JSON",
    model: "digits",
    asked: send([{ name: "x", shape: [n, 1, 16, 16], data }]),
    // Batches are summed in other orders than one alone.
    wrong: (r) => differs(r, "logits", expected, 1e-3),
  };
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
async function metrics(): Promise<ReadonlyMap<string, number>> {
  const lines = String((await ask(server.port, "/metrics")).body).split("\n");
  return new Map(
    lines
      .filter((l) => l !== "" && !l.startsWith("#"))
      .map((l) => [l.slice(0, l.lastIndexOf(" ")), Number(l.slice(l.lastIndexOf(" ") + 1))]),
  );
}
const median = (xs: readonly number[]): number => [...xs].sort((a, b) => a - b)[xs.length >> 1] ?? Number.NaN;

describe("the example server", () => {
  it(`${REQUESTS} requests from ${CLIENTS} clients: every answer right, memory flat`, async () => {
    const kinds = new Map<string, number>();
    const wrong: string[] = [];
    const count = (kind: string): void => void kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    const memory: { readonly done: number; readonly bytes: number }[] = [];
    const start = performance.now();
    let begun = 0;
    let over = false;
    const client = async (seed: number): Promise<void> => {
      const next = generator(seed);
      while (begun < REQUESTS && performance.now() - start < SECONDS * 1000) {
        begun++;
        const c = caseOf(next);
        const whim = next();
        if (whim < 0.04) {
          // Gone after 0 to 3 ms, or answered before.
          const gone = new AbortController();
          const timer = setTimeout(() => gone.abort(), next() * 3);
          const answer = await infer(c.model, { ...c.asked, signal: gone.signal }).catch(() => undefined);
          clearTimeout(timer);
          count(answer === undefined ? "gone" : c.kind);
          const fault = answer === undefined ? undefined : c.wrong(answer);
          if (fault !== undefined) wrong.push(`${c.kind}: ${fault}`);
        } else if (whim < 0.08) {
          const answer = await infer(c.model, {
            ...c.asked,
            headers: { ...c.asked.headers, "x-request-timeout-ms": String(1 + Math.floor(next() * 4)) },
          });
          count(answer.status === 504 ? "late" : c.kind);
          const fault = answer.status === 504 ? undefined : c.wrong(answer);
          if (fault !== undefined) wrong.push(`${c.kind}: ${fault}`);
        } else {
          const fault = c.wrong(await infer(c.model, c.asked));
          count(c.kind);
          if (fault !== undefined) wrong.push(`${c.kind}: ${fault}`);
        }
      }
    };
    const watch = (async () => {
      while (!over) {
        const m = await metrics();
        memory.push({ done: begun, bytes: m.get("process_resident_memory_bytes") ?? 0 });
        await sleep(500);
      }
    })();
    await Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(i + 1)));
    over = true;
    await watch;
    const seconds = (performance.now() - start) / 1000;
    const m = await metrics();
    const between = (from: number, to: number): number =>
      median(memory.filter(({ done }) => done >= from * begun && done < to * begun).map((s) => s.bytes));
    // The heap and the allocator's arenas reach their size within the first 30,000 requests.
    const [early, late] = [between(0.5, 0.65), between(0.85, 1)];
    const batches =
      (m.get('partita_batch_requests_count{model="digits"}') ?? 0) + (m.get('partita_batch_requests_count{model="pair"}') ?? 0);
    console.log(
      JSON.stringify({
        requests: begun,
        seconds: Number(seconds.toFixed(1)),
        perSecond: Math.round(begun / seconds),
        kinds: Object.fromEntries(kinds),
        wrong: wrong.length,
        batches,
        residentMiB: [0, 0.1, 0.3, 0.5, 0.7, 0.9].map((from) => Math.round(between(from, from + 0.1) / 2 ** 20)),
        eventLoopDelayP99Ms: Math.round(1000 * (m.get("nodejs_eventloop_lag_p99_seconds") ?? Number.NaN)),
      }),
    );
    expect(wrong.slice(0, 10)).toEqual([]);
    expect(begun).toBeGreaterThanOrEqual(Math.min(REQUESTS, 20_000));
    expect(batches).toBeGreaterThan(0);
    // Nothing is left behind: not in the server, nor in its queues.
    for (const [name, value] of m)
      if (/^partita_(requests_in_flight|queue_waiting|queue_running)/.test(name)) expect([name, value]).toEqual([name, 0]);
    expect(late / early).toBeLessThan(1.05);
  });

  it("overload: 503 with Retry-After, alive meanwhile, and all are served in the end", async () => {
    let [refused, served, slowest] = [0, 0, 0];
    let over = false;
    const client = async (): Promise<void> => {
      for (let i = 0; i < 8; i++) {
        const answer = await slow(1000);
        if (answer.status === 200) {
          served++;
          continue;
        }
        expect([answer.status, answer.headers["retry-after"]]).toEqual([503, "1"]);
        refused++;
        // Less patient than it was told: that keeps it overloaded.
        await sleep(100);
      }
    };
    const watch = (async () => {
      while (!over) {
        const start = performance.now();
        expect((await ask(server.port, "/v2/health/live")).status).toBe(200);
        slowest = Math.max(slowest, performance.now() - start);
        await sleep(50);
      }
    })();
    await Promise.all(Array.from({ length: 200 }, client));
    over = true;
    await watch;
    const start = performance.now();
    expect((await slow(64)).status).toBe(200);
    const recovered = performance.now() - start;
    console.log(
      JSON.stringify({ served, refused, slowestHealthCheckMs: Math.round(slowest), firstAnswerAfterwardsMs: Math.round(recovered) }),
    );
    expect(served + refused).toBe(1600);
    expect(refused).toBeGreaterThan(0);
    expect(served).toBeGreaterThan(0);
    expect(recovered).toBeLessThan(2000);
  });

  it("SIGTERM under load: what was taken in is answered right, exit code 0, no error in its log", async () => {
    const wrong: string[] = [];
    let [answered, refused, ended] = [0, 0, false];
    const client = async (seed: number): Promise<void> => {
      const next = generator(1000 + seed);
      for (let i = 0; i < 5000; i++) {
        const c = caseOf(next);
        const answer = await infer(c.model, c.asked).catch(() => undefined);
        // Nobody listens any more, or the connection was closed before the request came.
        if (answer === undefined) {
          if (!ended) wrong.push("a connection was cut before the end");
          return;
        }
        const fault = answer.status === 503 ? undefined : c.wrong(answer);
        if (answer.status === 503) refused++;
        else answered++;
        if (fault !== undefined) wrong.push(`${c.kind}: ${fault}`);
      }
    };
    const clients = Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(i)));
    await sleep(500);
    ended = true;
    const start = performance.now();
    server.child.kill("SIGTERM");
    const code = await server.exited;
    await clients;
    console.log(JSON.stringify({ answered, refused, endedAfterMs: Math.round(performance.now() - start) }));
    expect(wrong).toEqual([]);
    expect(code).toBe(0);
    expect(answered).toBeGreaterThan(0);
    expect(server.output()).not.toMatch(/unhandled|"level":(50|60)/i);
  });
});
