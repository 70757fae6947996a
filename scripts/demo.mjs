// The demo: a small trained model is compiled, its partition shown, real samples are classified, the bundle is saved, loaded and gives the same.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "./build.mjs";

build();
const { compile, load, readNpz, report, Tensor } = await import("../dist/index.js");

const folder = join(dirname(fileURLToPath(import.meta.url)), "../examples/digits");
const model = join(folder, "resnet.onnx");
const color = process.stdout.isTTY === true && !process.env.NO_COLOR;
const say = (text) => process.stdout.write(`${text}\n`);

say("1. The partition for the CUDA engine (a plan: nothing is built, no GPU is needed)\n");
say((await report(model, { target: "cuda", shapes: { x: [100, 1, 16, 16] } })).toText({ color }));
say("2. Compiled for the host\n");
const program = await compile(model, { target: "host" });
say(program.report.toText({ color, rows: 5 }));

const data = readNpz(join(folder, "samples.npz"));
const [images, labels] = [data.get("x"), data.get("labels")];
const classify = async (p) => {
  const session = await p.createSession();
  const { logits } = await session.run({ x: new Tensor("float32", images.data, images.dims) });
  await session.dispose();
  return logits;
};
const winners = (logits) =>
  Array.from({ length: logits.dims[0] }, (_, i) => {
    const row = logits.data.subarray(i * 10, i * 10 + 10);
    return row.indexOf(Math.max(...row));
  });
const logits = await classify(program);
const right = winners(logits).filter((digit, i) => BigInt(digit) === labels.data[i]).length;
say(`3. Classified ${labels.size} real digits: ${right} right\n`);
draw(images.data, 3);

const temporary = mkdtempSync(join(tmpdir(), "partita-demo-"));
try {
  const bundle = join(temporary, "digits.partita");
  await program.save(bundle);
  const again = await classify(await load(bundle));
  const same = again.data.every((x, i) => Object.is(x, logits.data[i]));
  say(`4. Saved as a bundle, loaded again without the model: ${same ? "the same values, bit for bit" : "DIFFERENT values"}`);
  if (!same || right < 95) process.exitCode = 1;
} finally {
  rmSync(temporary, { recursive: true, force: true });
}

/** The first images, side by side, with what the model says. */
function draw(pixels, n) {
  const shades = " .:-=+*#%@";
  const [low, high] = [Math.min(...pixels.subarray(0, 256 * n)), Math.max(...pixels.subarray(0, 256 * n))];
  for (let y = 0; y < 16; y += 2) {
    let line = "   ";
    for (let k = 0; k < n; k++) {
      for (let x = 0; x < 16; x++) line += shades[Math.round(((pixels[k * 256 + y * 16 + x] - low) / (high - low)) * 9)];
      line += "   ";
    }
    say(line);
  }
  say(
    `   ${winners(logits)
      .slice(0, n)
      .map((d) => `-> ${d}`.padEnd(19))
      .join("")}\n`,
  );
}
