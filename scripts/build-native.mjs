// Builds the Node-API addon with cmake-js into build/Release (needs cmake and a C++17 compiler; nothing of NVIDIA's).
//   --prebuilt  also puts a stripped copy into prebuilds/<platform>-<arch>/, which is committed and shipped
//   --asan      builds with AddressSanitizer into build/asan instead
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** SHA-256 over names and bytes of the addon's sources; the addon built from them reports it as `sourceHash`. */
export function sourceHash() {
  const hash = createHash("sha256");
  for (const folder of ["native/src", "native/tensorrt"])
    for (const name of readdirSync(join(root, folder)).sort())
      if (/\.(cc|h)$/.test(name)) hash.update(`${name}\0`).update(readFileSync(join(root, folder, name)));
  return hash.digest("hex").slice(0, 32);
}

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
  if (result.error !== undefined || result.status !== 0) {
    process.stderr.write(`${command} ${args.join(" ")}: ${result.error?.message ?? `exit ${result.status}`}\n`);
    process.exit(result.status || 1);
  }
}

export function buildNative({ prebuilt = false, asan = false } = {}) {
  const out = join(root, asan ? "build/asan" : "build");
  const options = [`--CDPARTITA_SOURCE_HASH=${sourceHash()}`, `--CDPARTITA_ASAN=${asan ? "ON" : "OFF"}`];
  // "build" alone would keep the options of the last time.
  for (const step of ["configure", "build"])
    run(process.execPath, [join(root, "node_modules/cmake-js/bin/cmake-js"), step, "--directory", root, "--out", out, ...options]);
  const built = join(out, "Release/partita_native.node");
  if (prebuilt) {
    const folder = join(root, "prebuilds", `${process.platform}-${process.arch}`);
    const file = join(folder, "partita_native.node");
    mkdirSync(folder, { recursive: true });
    copyFileSync(built, file);
    run("strip", ["--strip-unneeded", file]);
    chmodSync(file, 0o644);
    process.stdout.write(`${file}: ${statSync(file).size} bytes\n`);
  } else process.stdout.write(`${built}: ${statSync(built).size} bytes\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  buildNative({ prebuilt: process.argv.includes("--prebuilt"), asan: process.argv.includes("--asan") });
