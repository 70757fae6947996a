// A worker thread that loads a bundle and runs it, and a kernel plan on the GPU where it is given one. workerData: `folder` of the built sources.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parentPort, workerData } from "node:worker_threads";

const { folder, bundle, rows, plan, cubin, weights } = workerData;
const from = (file) => import(pathToFileURL(join(folder, "src", file)).href);
const { load, Tensor } = await from("index.js");
const session = await (await load(bundle)).createSession({ threads: 1 });
const answers = [];
for (const row of rows) answers.push([...Object.values(await session.run({ x: new Tensor("float32", row, [1, row.length]) }))[0].data]);
await session.dispose();
let kernels;
if (plan !== undefined) {
  const { openPlan } = await from("engines/cuda/executable.js");
  const executable = await openPlan(plan, [cubin], weights);
  kernels = [];
  for (const row of rows) kernels.push([...(await executable.run([new Tensor("float32", row, [row.length])]))[0].data]);
  await executable.dispose();
}
parentPort.postMessage({ answers, kernels });
