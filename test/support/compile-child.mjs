// The whole line in a process of its own: compile, save, load, run. argv[2] is the folder of the built package.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { compile, load, Tensor } = await import(pathToFileURL(join(process.argv[2], "index.js")).href);
const scratch = mkdtempSync(join(tmpdir(), "partita-conformance-"));
process.on("disconnect", () => {
  rmSync(scratch, { recursive: true, force: true });
  process.exit();
});

const textOf = (error) => (error instanceof Error ? error.message : String(error));
const plain = (t) => ({ type: t.type, data: t.data, dims: [...t.dims] });

/** `model`: a path or bytes; `runs`: feeds by input name. The answer: outputs by name, a run each. */
async function wholeLine({ id, model, runs, options }) {
  const program = await compile(model, { ...options });
  const bundle = join(scratch, `${id}.partita`);
  try {
    await program.save(bundle);
    const session = await (await load(bundle)).createSession({ threads: 1 });
    try {
      const results = [];
      for (const feeds of runs) {
        const out = await session.run(
          Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, new Tensor(t.type, t.data, t.dims)])),
        );
        results.push(Object.fromEntries(Object.entries(out).map(([name, t]) => [name, plain(t)])));
      }
      return results;
    } finally {
      await session.dispose();
    }
  } finally {
    rmSync(bundle, { recursive: true, force: true });
  }
}

process.on("message", (message) => {
  wholeLine(message).then(
    (result) => process.send({ id: message.id, result }),
    (error) => process.send({ id: message.id, error: textOf(error) }),
  );
});
