/** What a library's answers depend on besides the question: a hash of it is the name under which they are kept. */
import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { gpuVerdict, openDevice } from "../cuda/device.js";
import { list } from "../cuda/libraries.js";
import { native } from "../cuda/native.js";
import type { OpenOptions } from "./native.js";

/** 32 hexadecimal digits, of the files, the addon, the driver, the GPU, and the variables that choose among them. */
export function libraryIdentity({ library, parser }: OpenOptions, device = gpuVerdict().ok ? openDevice() : undefined): string {
  const hash = createHash("sha256").update(native().addon.sourceHash);
  // What the builder opens besides: a folder that was copied in part, or a loader's path that lacked it, are found right once they are.
  const beside = library.includes("/") ? list(dirname(library)).filter((n) => n.includes("builder_resource")) : [];
  const resources = beside.sort().map((n) => join(dirname(library), n));
  for (const path of [library, parser ?? "", ...resources, "/proc/driver/nvidia/version"]) {
    hash.update(`\0${path}\0`);
    try {
      const { size, mtimeMs } = statSync(path);
      hash.update(path.startsWith("/proc/") ? readFileSync(path) : `${size} ${mtimeMs}`);
    } catch {
      // A name for the loader, or no driver.
    }
  }
  const { name, sm } = device?.properties ?? { name: "", sm: 0 };
  for (const variable of ["CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"]) hash.update(`\0${process.env[variable] ?? ""}`);
  return hash.update(`\0${name} ${sm}`).digest("hex").slice(0, 32);
}
