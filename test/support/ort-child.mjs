// ONNX Runtime by itself in a process of its own: it ends the process on results of types that JavaScript lacks.
// Answers types and dims, and the elements of small tensors.
import * as ort from "onnxruntime-node";

async function run({ model, feeds }) {
  const session = await ort.InferenceSession.create(model, { graphOptimizationLevel: "basic", logSeverityLevel: 4, intraOpNumThreads: 1 });
  try {
    const out = await session.run(
      Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, new ort.Tensor(t.type, t.data, t.dims)])),
    );
    return Object.fromEntries(
      Object.entries(out).flatMap(([name, t]) => {
        if (!("dims" in t)) return [];
        const numeric = t.type !== "string" && t.type !== "float16" && t.data.length <= 1024;
        return [[name, { type: t.type, dims: [...t.dims], data: numeric ? Array.from(t.data, Number) : undefined }]];
      }),
    );
  } finally {
    await session.release();
  }
}

process.on("message", (message) => {
  run(message).then(
    (result) => process.send({ id: message.id, result }),
    (error) => process.send({ id: message.id, error: String(error?.message ?? error) }),
  );
});
