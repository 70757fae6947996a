// Loads damaged plans, one after another, and says of each what came of it: arguments are the addon, the library, its family, the plan, a seed, and
// the first and the last damage. A library that dies of one takes this process along, not the test.
import { readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { damage } from "./tensorrt-damage.mjs";

const [addon, library, family, file, seed, from, to] = process.argv.slice(2);
const { tensorrt, release } = createRequire(import.meta.url)(addon);
const plan = readFileSync(file);

const { id } = tensorrt.open(library, undefined);
tensorrt.bind(id, family);
for (let i = Number(from); i < Number(to); i++) {
  const bytes = damage(plan, Number(seed), i);
  let outcome = "same";
  if (!bytes.equals(plan))
    try {
      const engine = await tensorrt.deserialize(id, bytes, undefined, false);
      release(engine.handle);
      outcome = "loaded";
    } catch (error) {
      outcome = `${error.call ?? error.name}`;
    }
  writeSync(1, `${i} ${outcome}\n`);
}
