/** Runs models on ONNX Runtime in a process of its own, for it ends the process on output types that it cannot hand to JavaScript. */
import * as ort from "onnxruntime-node";

const tensorOf = (t) => new ort.Tensor(t.type, t.data, t.dims);
process.on("message", async ({ id, model, runs }) => {
  try {
    const session = await ort.InferenceSession.create(model, {
      graphOptimizationLevel: "basic",
      logSeverityLevel: 4,
      intraOpNumThreads: 1,
      interOpNumThreads: 1,
    });
    const results = [];
    for (const feeds of runs) {
      const out = await session.run(Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, tensorOf(t)])));
      const one = {};
      for (const [name, t] of Object.entries(out)) one[name] = "dims" in t ? { type: t.type, data: t.data, dims: [...t.dims] } : undefined;
      results.push(one);
    }
    await session.release();
    process.send({ id, results });
  } catch (error) {
    process.send({ id, error: String(error?.message ?? error) });
  }
});
