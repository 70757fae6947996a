/** Finds the test models: PARTITA_TEST_DATA is a folder that holds the sets unpacked, or their .tar.xz archives (unpacked once into .cache/data). */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";

/** Top-level folder of each archive. */
const archives: Readonly<Record<string, string>> = {
  "onnx-backend": "onnx-backend",
  real: "real",
  real_tf: "real",
  torch: "zoo-onnx",
  tf: "zoo-tf",
  "tf-cases": "tf-cases",
  digits: "digits",
};

/** Why a test that needs data is skipped. */
export const NO_DATA = "PARTITA_TEST_DATA is not set";

/** The folder of a data set (`onnx-backend`, `real`, `real_tf`, `torch`, `tf`, `tf-cases`, `digits`), or undefined when there is none. */
export function dataDir(set: string): string | undefined {
  const root = process.env["PARTITA_TEST_DATA"];
  if (root === undefined || root === "") return undefined;
  if (existsSync(join(root, set))) return join(root, set);
  const archive = join(root, `${archives[set] ?? set}.tar.xz`);
  if (!existsSync(archive)) return undefined;
  const cache = join(import.meta.dirname, "../../.cache/data");
  const target = join(cache, set);
  if (existsSync(target)) return target;
  mkdirSync(cache, { recursive: true });
  const staging = join(cache, `.${set}.${process.pid}`);
  mkdirSync(staging, { recursive: true });
  try {
    execFileSync("tar", ["xJf", archive, "-C", staging, set]);
    renameSync(join(staging, set), target);
  } catch (error) {
    // Another process may have unpacked it meanwhile.
    if (!existsSync(target)) throw error;
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
  return target;
}

/** A file that describes the data sets (models.json, ...): in their folder, beside it, or in a folder `shared/data` beside it; or undefined. */
export function dataFile(name: string): string | undefined {
  const root = process.env["PARTITA_TEST_DATA"];
  if (root === undefined || root === "") return undefined;
  return [root, join(root, ".."), join(root, "../shared/data")].map((folder) => join(folder, name)).find((path) => existsSync(path));
}
