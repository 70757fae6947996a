// A process with two GPUs of the stand-in driver: sessions on one, on both, on one again, with more callers than streams; streams whose state stays on the
// device; runs that are called off; disposal in between. It says what it found, and ends by itself. argv: folder of the built sources; the plan comes as
// JSON on standard input.
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const from = (file) => import(pathToFileURL(join(folder, "src", file)).href);
const { Tensor } = await from("tensor.js");
const { openPlan } = await from("engines/cuda/executable.js");
const { native } = await from("engines/cuda/native.js");
const { Lane } = await from("runtime/lane.js");
const { Session } = await from("runtime/session.js");

const { plan, cubin, weights } = JSON.parse(await text(process.stdin));
const [n] = plan.inputs[0].dims;
const STREAMS = 3;
const port = (name) => ({ name, type: "float32", dims: [n] });
const steps = { inputs: [port("a")], outputs: [port("y")], steps: [{ segment: "cuda_0", inputs: ["a"], outputs: ["y"] }], direct: {} };
const open = async (devices) => {
  const lanes = [];
  for (const device of devices) {
    const executable = await openPlan(plan, [Buffer.from(cubin, "base64")], Buffer.from(weights, "base64"), { device, streams: STREAMS });
    lanes.push(new Lane(steps, [executable], { engines: ["cuda"], device }));
  }
  return { lanes, session: new Session(steps, lanes, { parallel: STREAMS * devices.length }) };
};
const feed = (seed) => {
  const data = new Float32Array(n);
  for (let i = 0; i < n; i++) data[i] = (i + seed) % 97;
  return new Tensor("float32", data, [n]);
};
// y = (a + w) * 2, with w the index.
const right = (seed, { data }) => [0, 1, n >> 1, n - 1].every((i) => data[i] === (((i + seed) % 97) + i) * 2);

const found = { wrong: 0, right: 0, cancelled: 0, runs: [], held: [] };
for (const devices of [[0], [0, 1], [0]]) {
  const { lanes, session } = await open(devices);
  await Promise.all(
    Array.from({ length: (STREAMS + 1) * devices.length }, async (_, caller) => {
      for (let i = 0; i < 6; i++) {
        const seed = 10 * caller + i;
        const stop = i === 3 ? new AbortController() : undefined;
        const run = session.run({ a: feed(seed) }, { signal: stop?.signal });
        if (caller % 2 === 0) stop?.abort();
        try {
          found[right(seed, (await run).y) ? "right" : "wrong"]++;
        } catch (error) {
          if (error !== stop?.signal.reason) throw error;
          found.cancelled++;
        }
      }
    }),
  );
  const streams = devices.map(() => session.stream({ carry: { a: "y" } }));
  const states = streams.map(async (stream, k) => {
    await stream.run({ a: feed(k) });
    await stream.run({});
    const { a } = await stream.state();
    const twice = (i) => ((((i + k) % 97) + i) * 2 + i) * 2;
    found[[0, 1, n - 1].every((i) => a.data[i] === twice(i)) ? "right" : "wrong"]++;
  });
  await Promise.all(states);
  // The end comes while runs are under way, and a stream is open.
  const last = Array.from({ length: 2 * STREAMS }, (_, i) => session.run({ a: feed(i) }));
  const disposed = session.dispose();
  for (const [i, run] of last.entries()) found[right(i, (await run).y) ? "right" : "wrong"]++;
  await disposed;
  found.runs.push(lanes.map((l) => l.times[0].runs));
  const { context: _, ...held } = native().addon.live();
  found.held.push(Object.values(held).reduce((a, b) => a + b, 0));
}
process.stdout.write(`${JSON.stringify(found)}\n`);
