// What npm would publish: contents and size of the tarball, publint, attw (ESM only), knip. Every check runs; exits 1 when any fails.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "./build.mjs";

const MAX_BYTES = 5_000_000;
const root = join(dirname(fileURLToPath(import.meta.url)), "..");
build();

const folder = mkdtempSync(join(tmpdir(), "partita-pack-"));
let failed = false;
const report = (name, ok, detail = "") => {
  process.stdout.write(`${ok ? "ok    " : "FAILED"} ${name}${detail === "" ? "" : `: ${detail}`}\n`);
  failed ||= !ok;
};
const tool = (name, file, args) => {
  const result = spawnSync(process.execPath, [join(root, "node_modules", file), ...args], { cwd: root, encoding: "utf8" });
  report(name, result.status === 0);
  if (result.status !== 0) process.stdout.write(`${result.stdout}${result.stderr}\n`);
};

try {
  const pack = spawnSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], { cwd: root, encoding: "utf8" });
  const [packed] = pack.status === 0 ? JSON.parse(pack.stdout) : [];
  if (packed === undefined) report("npm pack", false, pack.stderr);
  else {
    report("npm pack", packed.size <= MAX_BYTES, `${packed.size} bytes, ${packed.unpackedSize} unpacked, ${packed.entryCount} files`);
    const strangers = packed.files
      .map((f) => f.path)
      .filter((p) => !/^(dist|kernels|prebuilds|examples)\/|^(package\.json|README\.md|CHANGELOG\.md|LICENSE)$/.test(p));
    report("contents", strangers.length === 0, strangers.join(", "));
    tool("publint", "publint/src/cli.js", ["--strict", join(folder, packed.filename)]);
    tool("attw", "@arethetypeswrong/cli/dist/index.js", [join(folder, packed.filename), "--profile", "esm-only", "--format", "ascii"]);
  }
  tool("knip", "knip/bin/knip.js", ["--no-progress"]);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
if (failed) process.exitCode = 1;
