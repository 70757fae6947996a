/** The suite of every family under AddressSanitizer: addon and stand-ins are built with it. Whatever it finds ends the run with its report. */
import { spawn, spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { compileStandIn, generator } from "../support/fake-tensorrt.js";

const root = join(import.meta.dirname, "../..");
const addon = join(root, "build/asan/Release/partita_native.node");
const FLAGS = ["-fsanitize=address", "-fno-omit-frame-pointer", "-g"];

function missing(): string | undefined {
  if (process.platform !== "linux") return "only on Linux";
  const found = spawnSync("c++", ["-print-file-name=libasan.so"], { encoding: "utf8" });
  if (found.error !== undefined || !existsSync(found.stdout.trim())) return "there is no libasan.so";
  return spawnSync("cmake", ["--version"]).error === undefined ? undefined : "there is no cmake";
}
const why = missing();

const run = (command: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<{ code: number; text: string }> =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    let text = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (data: Buffer) => {
        text += data.toString();
      });
    child.once("error", reject);
    child.once("close", (code) => resolve({ code: code ?? 1, text }));
  });

it.skipIf(why !== undefined)(`AddressSanitizer finds nothing${why === undefined ? "" : ` (skipped: ${why})`}`, async () => {
  const built = await run(process.execPath, ["scripts/build-native.mjs", "--asan"], {});
  expect(built.code, built.text).toBe(0);
  expect(statSync(addon).size).toBeGreaterThan(0);
  // Compiled here: the compiler itself does not run under the sanitizer.
  for (const family of generator.families) expect(compileStandIn(family, { flags: FLAGS })).toMatchObject({ family });
  expect(compileStandIn("10", { flags: FLAGS, version: 100001 })).toMatchObject({ family: "10" });
  const preload = spawnSync("c++", ["-print-file-name=libasan.so"], { encoding: "utf8" }).stdout.trim();
  const { code, text } = await run(
    process.execPath,
    [
      join(root, "node_modules/vitest/vitest.mjs"),
      "run",
      "--config",
      "vitest.tensorrt.config.ts",
      "test/tensorrt/stand-in",
      "--maxWorkers=1",
    ],
    {
      LD_PRELOAD: preload,
      // Node itself leaks by design at its end.
      ASAN_OPTIONS: "detect_leaks=0:abort_on_error=0:halt_on_error=1",
      UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
      PARTITA_NATIVE: addon,
      PARTITA_STANDIN_FLAGS: FLAGS.join(" "),
      NO_COLOR: "1",
    },
  );
  expect(text).not.toMatch(/AddressSanitizer|runtime error:/);
  expect(text).toMatch(/Tests\s+\d+ passed/);
  expect(code, text).toBe(0);
});
