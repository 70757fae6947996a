/** Which versions of TensorRT the addon knows. A wrong slot is a crash, so a version that was never checked is refused. */
import { unknownVersion } from "./failures.js";
import type { Family, LibraryVersion } from "./native.js";

/** getInferLibVersion's number: major * 10000 + minor * 100 + patch; 8.x and older counted in thousands. RTX is major 1. */
export function versionOf(number: number): LibraryVersion {
  const unit = number < 10_000 ? 1000 : 10_000;
  const [major, minor, patch] = [Math.floor(number / unit), Math.floor((number % unit) / 100), number % 100];
  return { product: major === 1 && unit === 10_000 ? "TensorRT-RTX" : "TensorRT", major, minor, patch, text: `${major}.${minor}.${patch}` };
}

/** NVIDIA keeps the slots within a major version of TensorRT; RTX has moved them from one minor version to the next. */
export function familyOf({ product, major, minor }: LibraryVersion): Family | undefined {
  if (product === "TensorRT") return major === 10 ? "10" : major === 11 ? "11" : undefined;
  if (minor === 3 || minor === 4) return "rtx-1.3";
  return minor >= 5 && minor <= 7 ? "rtx-1.5" : undefined;
}

/** Throws P2211. */
export function requireFamily(version: LibraryVersion, library: string): Family {
  const family = familyOf(version);
  if (family === undefined) throw unknownVersion({ found: `${version.product} ${version.text}`, library });
  return family;
}
