/** The stand-in for libcuda (fake-cuda.c), compiled once a test file where a C compiler is at hand, and cubins for it. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Compiles the library and makes it the driver of this process; the reason when that is not possible. Call it before anything opens a GPU. */
export function useFakeDriver(
  options: { readonly memory?: number; readonly devices?: number; readonly sm?: number } = {},
  defines: readonly string[] = [],
): string | undefined {
  for (const [name, value] of Object.entries(options)) process.env[`FAKE_CUDA_${name.toUpperCase()}`] = String(value);
  const folder = mkdtempSync(join(tmpdir(), "partita-fake-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  const library = join(folder, "libcuda.so.1");
  const source = join(dirname(fileURLToPath(import.meta.url)), "fake-cuda.c");
  const made = spawnSync("cc", ["-shared", "-fPIC", "-O1", ...defines.map((d) => `-D${d}`), "-o", library, source, "-lpthread"], {
    encoding: "utf8",
  });
  if (made.error !== undefined) return `no C compiler: ${made.error.message}`;
  if (made.status !== 0) return made.stderr;
  process.env["PARTITA_CUDA_DRIVER"] = library;
  return undefined;
}

export interface CraftedKernel {
  readonly name: string;
  /** [offset, bytes]. */
  readonly parameters: readonly (readonly [number, number])[];
  readonly registers?: number;
  readonly shared?: number;
}
/** The kernels that fake-cuda.c has. */
export const fakeKernels: readonly CraftedKernel[] = [
  {
    name: "add",
    parameters: [
      [0, 8],
      [8, 8],
      [16, 8],
      [24, 4],
    ],
  },
  {
    name: "scale",
    parameters: [
      [0, 8],
      [8, 8],
      [16, 4],
      [20, 4],
    ],
  },
  { name: "fault", parameters: [[0, 8]] },
  { name: "slow", parameters: [[0, 8]] },
  {
    name: "map",
    parameters: [
      [0, 128],
      [128, 8],
    ],
  },
  { name: "none", parameters: [] },
];

/** A cubin with headers, symbols and attributes as NVRTC 13 writes them, and no code. */
export function craftCubin(kernels: readonly CraftedKernel[] = fakeKernels, sm = 90): Uint8Array {
  const names: string[] = [];
  const strings = (list: readonly string[]): { bytes: Buffer; at: (name: string) => number } => {
    const bytes = Buffer.from(`\0${list.map((n) => `${n}\0`).join("")}`);
    return { bytes, at: (name) => bytes.indexOf(`\0${name}\0`) + 1 };
  };
  const symbolNames = strings(kernels.map((k) => k.name));
  const symbols = Buffer.alloc(24 * (kernels.length + 1));
  const registers: Buffer[] = [];
  const sections: { name: string; type: number; link: number; entry: number; bytes: Buffer; size?: number }[] = [];
  const attribute = (id: number, ...words: number[]): Buffer => {
    const b = Buffer.alloc(4 + words.length * 4);
    b.set([4, id, words.length * 4, 0]);
    words.forEach((w, i) => b.writeUInt32LE(w >>> 0, 4 + i * 4));
    return b;
  };
  kernels.forEach((k, i) => {
    const at = 24 * (i + 1);
    symbols.writeUInt32LE(symbolNames.at(k.name), at);
    symbols.writeUInt8(0x12, at + 4);
    registers.push(attribute(0x2f, i + 1, k.registers ?? 16), attribute(0x11, i + 1, 0));
    const parameters = k.parameters.map(([offset, bytes], p) => attribute(0x17, 0, p | (offset << 16), (bytes << 18) | 0x1f000));
    sections.push({
      name: `.nv.info.${k.name}`,
      type: 0x70000000,
      link: 0,
      entry: 0,
      bytes: Buffer.concat([Buffer.from([3, 0x1b, 0xff, 0]), ...parameters.reverse()]),
    });
    if (k.shared !== undefined)
      sections.push({ name: `.nv.shared.${k.name}`, type: 8, link: 0, entry: 0, bytes: Buffer.alloc(0), size: k.shared });
  });
  const all = [
    { name: "", type: 0, link: 0, entry: 0, bytes: Buffer.alloc(0) },
    { name: ".shstrtab", type: 3, link: 0, entry: 0, bytes: Buffer.alloc(0) },
    { name: ".strtab", type: 3, link: 0, entry: 0, bytes: symbolNames.bytes },
    { name: ".symtab", type: 2, link: 2, entry: 24, bytes: symbols },
    { name: ".nv.info", type: 0x70000000, link: 3, entry: 0, bytes: Buffer.concat(registers) },
    ...sections,
  ];
  names.push(...all.map((s) => s.name).filter((n) => n !== ""));
  const sectionNames = strings(names);
  const header = Buffer.alloc(64);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0x41, 8]);
  header.writeUInt16LE(2, 16);
  header.writeUInt16LE(190, 18);
  header.writeUInt32LE(0x06000004 | (sm << 8), 48);
  const bodies: Buffer[] = [];
  let end = 64;
  const table = Buffer.alloc(64 * all.length);
  all.forEach((s: (typeof all)[number] & { size?: number }, i) => {
    const bytes = s.name === ".shstrtab" ? sectionNames.bytes : s.bytes;
    const at = i * 64;
    table.writeUInt32LE(s.name === "" ? 0 : sectionNames.at(s.name), at);
    table.writeUInt32LE(s.type, at + 4);
    table.writeBigUInt64LE(BigInt(end), at + 24);
    table.writeBigUInt64LE(BigInt(s.size ?? bytes.length), at + 32);
    table.writeUInt32LE(s.link, at + 40);
    table.writeBigUInt64LE(BigInt(s.entry), at + 56);
    bodies.push(bytes);
    end += bytes.length;
  });
  header.writeBigUInt64LE(BigInt(end), 40);
  header.writeUInt16LE(64, 58);
  header.writeUInt16LE(all.length, 60);
  header.writeUInt16LE(1, 62);
  return new Uint8Array(Buffer.concat([header, ...bodies, table]));
}
