/** Files that commands read and write: models or bundles, feeds, results. */
import { existsSync, statSync } from "node:fs";
import { dirname, extname } from "node:path";
import { replaceFile } from "../atomic.js";
import { compile, load } from "../compile.js";
import { defineError } from "../diagnostics.js";
import { detect } from "../import/index.js";
import { readNpy, readNpz } from "../npz.js";
import type { CompileOptions } from "../options.js";
import type { Port } from "../runtime/ports.js";
import type { Program } from "../runtime/program.js";
import type { Tensor } from "../tensor.js";

export const badFile = defineError<{ what: string; fix: string }>(
  "P4001",
  "a file named on the command line does not serve",
  ({ what, fix }) => ({ what, fix }),
  2,
);
export const isBundle = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isDirectory() === true && detect(path) === "bundle";
/** Whether a path is of something compiled: a bundle, or a report's JSON. */
export const isCompiled = (path: string): boolean => isBundle(path) || extname(path) === ".json";
export const open = async (path: string, options: CompileOptions): Promise<Program> =>
  isBundle(path) ? await load(path) : await compile(path, options);

/** Finds out before long work whether a file can lie where it is to go: its folder is there. */
export function demandPlace(path: string): void {
  const folder = dirname(path);
  if (statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw badFile({ what: `there is no folder '${folder}'`, fix: "make it first, or name another place" }, { file: path });
}
export function write(path: string, text: string): void {
  try {
    replaceFile(path, text);
  } catch (cause) {
    throw badFile(
      { what: `it cannot be written: ${cause instanceof Error ? cause.message : cause}`, fix: "check the folder" },
      { file: path },
      cause,
    );
  }
}
/** Where the name in `name=file` ends: both may hold "=" themselves. Negative where the text is a file alone. */
function equalsIn(text: string, inputs: readonly Port[]): number {
  const named = inputs.find((p) => text.startsWith(`${p.name}=`));
  return named !== undefined ? named.name.length : existsSync(text) ? -1 : text.indexOf("=");
}
/** Feeds from `--input` files: .npz by name, .npy for the only input, name=file. */
export function readFeeds(inputs: readonly Port[], files: readonly string[]): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  const kept = new Set<string>();
  for (const text of files) {
    const at = equalsIn(text, inputs);
    if (at > 0) feeds[text.slice(0, at)] = readNpy(text.slice(at + 1));
    else if (text.endsWith(".npz")) {
      for (const [name, tensor] of readNpz(text)) {
        feeds[name] = tensor;
        kept.add(name);
      }
    } else {
      const [only] = inputs;
      if (inputs.length !== 1 || only === undefined)
        throw badFile(
          { what: `a bare file feeds a graph with one input; this one has ${inputs.length}`, fix: "write name=file.npy, or use an .npz" },
          { file: text },
        );
      feeds[only.name] = readNpy(text);
    }
  }
  // An archive may hold more, such as labels; where an input is missing, the names that are there help to find out why.
  if (inputs.every((p) => feeds[p.name] !== undefined))
    for (const name of kept) if (!inputs.some((p) => p.name === name)) delete feeds[name];
  return feeds;
}
