// A process of its own at the disk cache: SRC KIND ARGS, SRC the folder of the sources as JavaScript. Says what it did as one line of JSON.
//   once FOLDER KEY LOG    an entry of 4 MiB, made unless it is there; a line in LOG for every time it is made
//   hold FOLDER KEY        holds the right to make an entry until it is killed
//   compile MODEL          compiles for the cuda engine, as the environment says; the cache's events, a hash of all files
import { createHash } from "node:crypto";
import { channel } from "node:diagnostics_channel";
import { appendFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";

const [src, kind, a, b, c] = process.argv.slice(2);
const from = (file) => import(pathToFileURL(join(src, file)).href);

async function once(folder, key, log) {
  const { DiskCache } = await from("engines/disk-cache.js");
  const { pieces, found } = await new DiskCache(folder).once(key, async () => {
    appendFileSync(log, `${process.pid}\n`);
    await sleep(150);
    return [Buffer.alloc(4 << 20, 7), Buffer.from("end")];
  });
  return { found, right: pieces.length === 2 && pieces[0].every((x) => x === 7) && Buffer.from(pieces[1]).toString() === "end" };
}
async function hold(folder, key) {
  const { DiskCache } = await from("engines/disk-cache.js");
  setInterval(() => {}, 1000);
  await new DiskCache(folder).once(key, async () => {
    process.stdout.write("held\n");
    return await new Promise(() => {});
  });
}
async function compiled(model) {
  const { compile } = await from("compile.js");
  const { parse } = await from("ir/parse.js");
  const events = [];
  channel("partita:cache").subscribe((e) => events.push(e.event));
  const program = await compile(parse(model), { target: "cuda", computeCapability: 9, minimumSegmentSize: 1, tune: "none" });
  const hash = createHash("sha256");
  for (const s of program.report.toJSON().segments) hash.update(s.source ?? "");
  return { events, hash: hash.digest("hex"), engines: program.report.toJSON().segments.map((s) => s.engine) };
}

const work = { once, hold, compile: compiled }[kind];
console.log(JSON.stringify(await work(a, b, c)));
process.exit();
