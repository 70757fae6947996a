// Writes until it is killed: SRC FOLDER FIRST CUDA, SRC the folder of the sources as JavaScript. Two states of everything in turn, from number FIRST on:
// bundles, calibrations, feeds, entries of the cache on disk, and with CUDA=1 what a compilation leaves there. Says a line when it begins and after
// each round.
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [src, folder, first, cuda] = process.argv.slice(2);
const from = (file) => import(pathToFileURL(join(src, file)).href);
const { compile } = await from("compile.js");
const { calibrate } = await from("calibrate.js");
const { parse } = await from("ir/parse.js");
const { writeNpz } = await from("npz.js");
const { Tensor } = await from("tensor.js");
const { writeCalibration } = await from("quantize/calibration.js");
const { DiskCache } = await from("engines/disk-cache.js");

/** Gives `scale` times its input's sum of rows; the weights are large enough to take time to write. */
const net = (scale) => `graph "net" opset {"": 18} (%x: float32[32, 64]) -> (%y) {
  const %w = float32[64, 64] [${Array.from({ length: 4096 }, () => `${scale}.0`).join(", ")}]
  %a = MatMul(%x, %w)
  %y = Relu(%a)
}`;
const programs = await Promise.all([1, 2].map((scale) => compile(parse(net(scale)), { target: "host" })));
const feeds = () => [{ x: new Tensor("float32", new Float32Array(2048).fill(1), [32, 64]) }];
const calibrations = await Promise.all([1, 2].map(async (scale) => (await calibrate(parse(net(scale)), { data: feeds() })).calibration));
const cache = new DiskCache(join(folder, "entries"));
process.stdout.write("ready\n");
for (let i = Number(first); ; i++) {
  const which = i % 2;
  await programs[which].save(join(folder, "net.partita"));
  writeCalibration(join(folder, "calibration.json"), calibrations[which]);
  writeNpz(join(folder, "feeds.npz"), [["x", new Tensor("float32", new Float32Array(1 << 16).fill(which + 1), [1 << 16])]]);
  const key = randomBytes(32).toString("hex");
  await cache.once(key, async () => [Buffer.alloc(1 << 18, which + 1)]);
  if (cuda === "1") await compile(parse(net(3 + i)), { target: "cuda", computeCapability: 9, minimumSegmentSize: 1, tune: "none" });
  process.stdout.write("round\n");
}
