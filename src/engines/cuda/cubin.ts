/**
 * What a cubin holds, read without a GPU: architecture, kernels, registers, shared and local memory, parameters. Every offset is checked, so that
 * a damaged file is an error here and never reaches the driver.
 *
 * Format: ELF64, machine 190 (EM_CUDA); `.nv.info` sections are lists of (format, attribute, value) as cuobjdump prints them.
 */
import { badCubin } from "./errors.js";

export interface CubinKernel {
  readonly name: string;
  readonly registers: number;
  /** Static. */
  readonly sharedBytes: number;
  /** Stack frame and spills, bytes a thread. */
  readonly localBytes: number;
  /** [offset, bytes] of each parameter in the parameter buffer. */
  readonly parameters: readonly (readonly [number, number])[];
}
export interface CubinInfo {
  /** Compute capability, 90 for 9.0. */
  readonly sm: number;
  readonly kernels: readonly CubinKernel[];
}

interface Section {
  readonly name: string;
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
  readonly entrySize: number;
}

const EM_CUDA = 190;
const SHT_SYMTAB = 2;
const SHT_NOBITS = 8;
const STT_FUNC = 2;
const ATTR_FRAME_SIZE = 0x11;
const ATTR_PARAMETER = 0x17;
const ATTR_REGISTERS = 0x2f;
/** A value of its own size follows; all other formats take four bytes in all. */
const FORMAT_SIZED = 4;

/** Throws P2109 for anything that is not a whole cubin. */
export function inspectCubin(cubin: Uint8Array): CubinInfo {
  const view = new DataView(cubin.buffer, cubin.byteOffset, cubin.byteLength);
  const fail = (what: string): never => {
    throw badCubin({ what: `a compiled kernel is damaged: ${what}` });
  };
  if (cubin.byteLength < 64) fail(`${cubin.byteLength} bytes are too few for an ELF header`);
  if (view.getUint32(0, false) !== 0x7f454c46 || view.getUint8(4) !== 2 || view.getUint8(5) !== 1)
    fail("it is no 64-bit little-endian ELF file");
  if (view.getUint16(18, true) !== EM_CUDA) fail(`its machine is ${view.getUint16(18, true)}, not CUDA`);
  const flags = view.getUint32(48, true);
  // From ABI version 8 the architecture is the second byte.
  const sm = view.getUint8(8) >= 8 ? (flags >> 8) & 0xff : flags & 0xff;
  const sections = readSections(view, fail);
  const kernels = readKernels(view, sections, fail);
  return { sm, kernels };
}

function readSections(view: DataView, fail: (what: string) => never): readonly Section[] {
  const size = view.byteLength;
  const table = Number(view.getBigUint64(40, true));
  const entry = view.getUint16(58, true);
  const count = view.getUint16(60, true);
  const names = view.getUint16(62, true);
  if (entry !== 64) fail(`its section headers take ${entry} bytes, not 64`);
  if (table > size || count * entry > size - table) fail("its section table lies outside the file");
  if (names >= count) fail("its section names lie in no section");
  const raw = Array.from({ length: count }, (_, i) => {
    const at = table + i * entry;
    const type = view.getUint32(at + 4, true);
    const offset = Number(view.getBigUint64(at + 24, true));
    const bytes = Number(view.getBigUint64(at + 32, true));
    if (type !== SHT_NOBITS && (offset > size || bytes > size - offset)) fail(`section ${i} lies outside the file`);
    return {
      nameAt: view.getUint32(at, true),
      type,
      offset,
      size: bytes,
      link: view.getUint32(at + 40, true),
      entrySize: Number(view.getBigUint64(at + 56, true)),
    };
  });
  const strings = raw[names];
  return raw.map(({ nameAt, ...s }) => ({ ...s, name: strings === undefined ? "" : stringAt(view, strings, nameAt, fail) }));
}

function stringAt(
  view: DataView,
  table: { readonly offset: number; readonly size: number },
  at: number,
  fail: (what: string) => never,
): string {
  if (at >= table.size) return at === 0 ? "" : fail("a name lies outside its table");
  const bytes = new Uint8Array(view.buffer, view.byteOffset + table.offset + at, table.size - at);
  const end = bytes.indexOf(0);
  return end < 0 ? fail("a name has no end") : new TextDecoder().decode(bytes.subarray(0, end));
}

function readKernels(view: DataView, sections: readonly Section[], fail: (what: string) => never): readonly CubinKernel[] {
  const symbols = sections.find((s) => s.type === SHT_SYMTAB);
  if (symbols === undefined) return [];
  if (symbols.entrySize !== 24) fail(`its symbols take ${symbols.entrySize} bytes, not 24`);
  const strings = sections[symbols.link] ?? fail("its symbol names lie in no section");
  if (strings.type === SHT_NOBITS) fail("its symbol names have no bytes");
  const registers = new Map<number, number>();
  const frames = new Map<number, number>();
  for (const s of sections.filter((x) => x.name === ".nv.info"))
    for (const { attribute, at, size } of attributes(view, s, fail)) {
      if (size !== 8) continue;
      if (attribute === ATTR_REGISTERS) registers.set(view.getUint32(at, true), view.getUint32(at + 4, true));
      if (attribute === ATTR_FRAME_SIZE) frames.set(view.getUint32(at, true), view.getUint32(at + 4, true));
    }
  const kernels: CubinKernel[] = [];
  for (let i = 0; i < Math.floor(symbols.size / 24); i++) {
    const at = symbols.offset + i * 24;
    // Kernels are global functions; device functions that were not inlined are local.
    if ((view.getUint8(at + 4) & 15) !== STT_FUNC || view.getUint8(at + 4) >> 4 === 0) continue;
    const name = stringAt(view, strings, view.getUint32(at, true), fail);
    const info = sections.find((s) => s.name === `.nv.info.${name}`);
    const parameters: (readonly [number, number])[] = [];
    if (info !== undefined)
      for (const { attribute, at: value, size } of attributes(view, info, fail))
        if (attribute === ATTR_PARAMETER && size === 12) {
          const ordinal = view.getUint16(value + 4, true);
          if (ordinal >= 4096) fail(`kernel '${name}' has parameter ${ordinal}`);
          parameters[ordinal] = [view.getUint16(value + 6, true), view.getUint32(value + 8, true) >>> 18];
        }
    for (let p = 0; p < parameters.length; p++) if (parameters[p] === undefined) fail(`kernel '${name}' lacks parameter ${p}`);
    kernels.push({
      name,
      registers: registers.get(i) ?? 0,
      sharedBytes: sections.find((s) => s.name === `.nv.shared.${name}`)?.size ?? 0,
      localBytes: frames.get(i) ?? 0,
      parameters,
    });
  }
  return kernels;
}

function* attributes(
  view: DataView,
  s: Section,
  fail: (what: string) => never,
): Generator<{ attribute: number; at: number; size: number }> {
  if (s.type === SHT_NOBITS) return;
  const end = s.offset + s.size;
  for (let at = s.offset; at + 4 <= end; ) {
    const size = view.getUint8(at) === FORMAT_SIZED ? view.getUint16(at + 2, true) : 0;
    if (size > end - at - 4) fail(`an attribute of ${s.name} reaches outside its section`);
    yield { attribute: view.getUint8(at + 1), at: at + 4, size };
    at += 4 + size;
  }
}
