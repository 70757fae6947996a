/** The parameter buffer of a launch: arguments laid out as the kernel's parameters are, each aligned to its own size (a tensor map to 64). */
import type { Arg } from "./plan.js";

/** Bytes and alignment of each kind of argument. */
const layouts = {
  buffer: { bytes: 8, alignment: 8 },
  i32: { bytes: 4, alignment: 4 },
  f32: { bytes: 4, alignment: 4 },
  tensorMap: { bytes: 128, alignment: 64 },
} as const;

/** [offset, bytes] of each argument, as cubins and cuFuncGetParamInfo list a kernel's parameters. */
export function parameterLayout(args: readonly Arg[]): readonly (readonly [number, number])[] {
  let end = 0;
  return args.map((a) => {
    const { bytes, alignment } = layouts[a.kind];
    const at = Math.ceil(end / alignment) * alignment;
    end = at + bytes;
    return [at, bytes];
  });
}
export function parameterBytes(args: readonly Arg[]): number {
  const last = parameterLayout(args).at(-1);
  return last === undefined ? 0 : last[0] + last[1];
}

/** Where an argument's memory lies, and its tensor map's 128 bytes. */
export interface Places {
  address(buffer: number): bigint;
  encode(arg: Arg & { readonly kind: "tensorMap" }): Uint8Array;
}
/**
 * `layout` is the compiled kernel's own: the parameter space of a launch begins where it is not aligned to 64, so a kernel whose first parameter
 * is a tensor map has it 48 bytes in.
 */
export function packParameters(args: readonly Arg[], places: Places, layout = parameterLayout(args)): Uint8Array {
  const last = layout.at(-1);
  const out = new Uint8Array(last === undefined ? 0 : last[0] + last[1]);
  const view = new DataView(out.buffer);
  layout.forEach(([at], i) => {
    const a = args[i];
    if (a?.kind === "buffer") view.setBigUint64(at, places.address(a.buffer) + BigInt(a.offset), true);
    else if (a?.kind === "i32") view.setInt32(at, a.value, true);
    else if (a?.kind === "f32") view.setFloat32(at, a.value, true);
    else if (a !== undefined) out.set(places.encode(a), at);
  });
  return out;
}
