/** Writes small TensorFlow graphs, SavedModels and checkpoints for tests: protobuf by field number, tables with their checksums. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Writer } from "../../src/import/onnx/wire.js";
import { crc32c, masked } from "../../src/import/tf/crc32c.js";

export const FLOAT = 1;
export const INT32 = 3;
export const STRING = 7;
export const INT64 = 9;
export const BOOL = 10;
export const RESOURCE = 20;
export const VARIANT = 21;

/** Writes one message, or one attribute value. */
export type Write = (w: Writer) => void;
export interface NodeSpec {
  readonly name: string;
  readonly op: string;
  readonly inputs?: readonly string[];
  readonly attrs?: Readonly<Record<string, Write>>;
}
export interface FunctionSpec {
  readonly name: string;
  readonly args: readonly (readonly [name: string, type: number])[];
  readonly results: readonly (readonly [name: string, type: number, from: string])[];
  readonly nodes: readonly NodeSpec[];
}

export const bytesOf = (write: Write): Uint8Array => {
  const w = new Writer();
  write(w);
  return Buffer.concat(w.chunks().map((c) => (c instanceof Uint8Array ? c : new Uint8Array(0))));
};

// ---- attributes ----------------------------------------------------------------------------------------------------------------------

export const type =
  (t: number): Write =>
  (w) =>
    w.uint(6, t);
export const int =
  (x: number): Write =>
  (w) =>
    w.int64(3, x);
export const float =
  (x: number): Write =>
  (w) =>
    w.float(4, x);
export const bool =
  (x: boolean): Write =>
  (w) =>
    w.uint(5, x ? 1 : 0);
export const text =
  (s: string): Write =>
  (w) =>
    w.string(2, s);
const shapeFields =
  (dims: readonly number[] | undefined): Write =>
  (w) => {
    if (dims === undefined) w.uint(3, 1);
    else for (const d of dims) w.message(2, () => w.int64(1, d));
  };
export const shape =
  (dims: readonly number[] | undefined): Write =>
  (w) =>
    w.message(7, () => shapeFields(dims)(w));
/** A list of integers. */
export const ints =
  (...values: readonly number[]): Write =>
  (w) =>
    w.message(1, () => {
      for (const x of values) w.int64(3, x);
    });
/** A list of floats. */
export const floats =
  (...values: readonly number[]): Write =>
  (w) =>
    w.message(1, () => {
      for (const x of values) w.float(4, x);
    });
/** A list of strings. */
export const texts =
  (...values: readonly string[]): Write =>
  (w) =>
    w.message(1, () => {
      for (const s of values) w.string(2, s);
    });
export const func =
  (name: string): Write =>
  (w) =>
    w.message(10, () => w.string(1, name));
export const funcs =
  (...names: readonly string[]): Write =>
  (w) =>
    w.message(1, () => {
      for (const name of names) w.message(9, () => w.string(1, name));
    });
/** `values` are written packed in the field of the type, fewer than the shape asks for included. */
export const tensorFields =
  (dtype: number, dims: readonly number[], values: readonly (number | string)[]): Write =>
  (w) => {
    w.uint(1, dtype);
    w.message(2, () => shapeFields(dims)(w));
    if (dtype === STRING) for (const s of values) w.bytes(8, Buffer.from(String(s)));
    else if (dtype === FLOAT)
      w.message(5, () => {
        for (const x of values) w.floatBits(Number(x));
      });
    else
      w.message(dtype === INT64 ? 10 : dtype === BOOL ? 11 : 7, () => {
        for (const x of values) w.signed(Number(x));
      });
  };
export const tensor =
  (dtype: number, dims: readonly number[], values: readonly (number | string)[]): Write =>
  (w) =>
    w.message(8, () => tensorFields(dtype, dims, values)(w));

// ---- nodes ---------------------------------------------------------------------------------------------------------------------------

export const placeholder = (name: string, dtype: number, dims: readonly number[] | undefined): NodeSpec => ({
  name,
  op: "Placeholder",
  attrs: { dtype: type(dtype), shape: shape(dims) },
});
export const constant = (name: string, dtype: number, dims: readonly number[], values: readonly (number | string)[]): NodeSpec => ({
  name,
  op: "Const",
  attrs: { dtype: type(dtype), value: tensor(dtype, dims, values) },
});
export const node = (name: string, op: string, inputs: readonly string[], attrs: Readonly<Record<string, Write>> = {}): NodeSpec => ({
  name,
  op,
  inputs,
  attrs,
});

const writeNode =
  (n: NodeSpec): Write =>
  (w) => {
    w.string(1, n.name);
    w.string(2, n.op);
    for (const i of n.inputs ?? []) w.string(3, i);
    for (const [key, value] of Object.entries(n.attrs ?? {}))
      w.message(5, () => {
        w.string(1, key);
        w.message(2, () => value(w));
      });
  };
const argument =
  (name: string, t: number): Write =>
  (w) => {
    w.string(1, name);
    w.uint(3, t);
  };
const writeFunction =
  (f: FunctionSpec): Write =>
  (w) => {
    w.message(1, () => {
      w.string(1, f.name);
      for (const [name, t] of f.args) w.message(2, () => argument(name, t)(w));
      for (const [name, t] of f.results) w.message(3, () => argument(name, t)(w));
    });
    for (const n of f.nodes) w.message(3, () => writeNode(n)(w));
    for (const [name, , from] of f.results)
      w.message(4, () => {
        w.string(1, name);
        w.string(2, from);
      });
  };
const writeGraph =
  (nodes: readonly NodeSpec[], functions: readonly FunctionSpec[] = []): Write =>
  (w) => {
    for (const n of nodes) w.message(1, () => writeNode(n)(w));
    if (functions.length > 0)
      w.message(2, () => {
        for (const f of functions) w.message(1, () => writeFunction(f)(w));
      });
  };
export const graphDef = (nodes: readonly NodeSpec[], functions: readonly FunctionSpec[] = []): Uint8Array =>
  bytesOf(writeGraph(nodes, functions));

/** A tensor of a signature: its name alone, or with what a writer says of it; no name: a sparse one. */
export type SignatureTensor = string | { readonly name?: string; readonly dtype: number; readonly dims: readonly number[] };
export interface SignatureSpec {
  readonly inputs: Readonly<Record<string, SignatureTensor>>;
  readonly outputs: Readonly<Record<string, SignatureTensor>>;
}
const writeMetaGraph =
  (
    nodes: readonly NodeSpec[],
    functions: readonly FunctionSpec[],
    signatures: Readonly<Record<string, SignatureSpec>>,
    tag: string,
  ): Write =>
  (w) => {
    w.message(1, () => w.string(4, tag));
    w.message(2, () => writeGraph(nodes, functions)(w));
    for (const [key, s] of Object.entries(signatures))
      w.message(5, () => {
        w.string(1, key);
        w.message(2, () => {
          const side = (field: number, tensors: Readonly<Record<string, SignatureTensor>>): void => {
            for (const [name, t] of Object.entries(tensors))
              w.message(field, () => {
                w.string(1, name);
                w.message(2, () => {
                  if (typeof t === "string") return w.string(1, t);
                  if (t.name !== undefined) w.string(1, t.name);
                  w.uint(2, t.dtype);
                  w.message(3, () => shapeFields(t.dims)(w));
                });
              });
          };
          side(1, s.inputs);
          side(2, s.outputs);
        });
      });
  };
export const metaGraph = (nodes: readonly NodeSpec[], signatures: Readonly<Record<string, SignatureSpec>> = {}): Uint8Array =>
  bytesOf(writeMetaGraph(nodes, [], signatures, "serve"));
/** Writes a SavedModel into a folder. */
export function writeSavedModel(
  folder: string,
  m: {
    readonly nodes: readonly NodeSpec[];
    readonly functions?: readonly FunctionSpec[];
    readonly signatures?: Readonly<Record<string, SignatureSpec>>;
    readonly variables?: readonly VariableSpec[];
    readonly tag?: string;
  },
): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, "saved_model.pb"),
    bytesOf((w) => {
      w.uint(1, 1);
      w.message(2, () => writeMetaGraph(m.nodes, m.functions ?? [], m.signatures ?? {}, m.tag ?? "serve")(w));
    }),
  );
  if (m.variables !== undefined) writeBundle(join(folder, "variables", "variables"), m.variables);
}

// ---- checkpoints ---------------------------------------------------------------------------------------------------------------------

export interface VariableSpec {
  readonly key: string;
  readonly dims: readonly number[];
  readonly values: readonly number[];
  /** Written instead of the right checksum. */
  readonly crc?: number;
  readonly shard?: number;
  /** Kept in these slices of it instead: start and length by dim, and the key of each. */
  readonly slices?: readonly { readonly key: string; readonly extents: readonly (readonly [number, number])[] }[];
}

/** A float32 checkpoint with one shard. */
export function writeBundle(prefix: string, variables: readonly VariableSpec[]): void {
  mkdirSync(dirname(prefix), { recursive: true });
  const data: Uint8Array[] = [];
  let offset = 0;
  const entries: [string, Uint8Array][] = [["", bytesOf((w) => w.uint(1, 1))]];
  for (const v of [...variables].sort((a, b) => (a.key < b.key ? -1 : 1))) {
    const bytes = new Uint8Array(Float32Array.from(v.values).buffer);
    entries.push([
      v.key,
      bytesOf((w) => {
        w.uint(1, FLOAT);
        w.message(2, () => shapeFields(v.dims)(w));
        if (v.shard !== undefined) w.uint(3, v.shard);
        for (const s of v.slices ?? [])
          w.message(7, () => {
            for (const [start, length] of s.extents)
              w.message(1, () => {
                w.uint(1, start);
                if (length >= 0) w.uint(2, length);
              });
          });
        if (v.slices !== undefined) return;
        w.uint(4, offset);
        w.uint(5, bytes.length);
        const crc = new Uint8Array(4);
        new DataView(crc.buffer).setUint32(0, v.crc ?? masked(crc32c(bytes)), true);
        w.raw(Uint8Array.from([(6 << 3) | 5]));
        w.raw(crc);
      }),
    ]);
    data.push(bytes);
    offset += bytes.length;
  }
  writeFileSync(`${prefix}.data-00000-of-00001`, Buffer.concat(data));
  writeFileSync(`${prefix}.index`, table(entries));
}

const varint = (x: number): number[] => (x < 128 ? [x] : [(x & 127) | 128, ...varint(Math.floor(x / 128))]);

/** A sorted-string table with one data block; keys that begin with 0 are bytes. */
export const table = (entries: readonly (readonly [string, Uint8Array])[]): Uint8Array =>
  tableOf(entriesOf(entries.map(([k, v]) => [Buffer.from(k, k.startsWith("\0") ? "latin1" : "utf8"), v])));

/** The entries of a block, each with what its key shares with the one before. */
function entriesOf(list: readonly (readonly [Uint8Array, Uint8Array])[]): readonly number[] {
  const body: number[] = [];
  let before = new Uint8Array(0);
  for (const [key, value] of list) {
    let shared = 0;
    while (shared < key.length && shared < before.length && key[shared] === before[shared]) shared++;
    body.push(...entry(shared, key.subarray(shared), value));
    before = new Uint8Array(key);
  }
  return body;
}
export const entry = (shared: number, fresh: Uint8Array, value: Uint8Array): readonly number[] => [
  ...varint(shared),
  ...varint(fresh.length),
  ...varint(value.length),
  ...fresh,
  ...value,
];

/** A table whose data block has these entries. */
export function tableOf(entries: readonly number[]): Uint8Array {
  const out: Uint8Array[] = [];
  let at = 0;
  const block = (body: readonly number[]): number[] => {
    const bytes = Uint8Array.from([...body, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    const crc = new Uint8Array(4);
    new DataView(crc.buffer).setUint32(0, masked(crc32c(bytes)), true);
    out.push(bytes, crc);
    const handle = [...varint(at), ...varint(bytes.length - 1)];
    at += bytes.length + 4;
    return handle;
  };
  const data = block(entries);
  const meta = block([]);
  const index = block(entriesOf([[Buffer.from("~"), Uint8Array.from(data)]]));
  const footer = new Uint8Array(48);
  footer.set([...meta, ...index]);
  footer.set([0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb], 40);
  return Buffer.concat([...out, footer]);
}
