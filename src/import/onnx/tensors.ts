/** TensorProto and SparseTensorProto: payloads are views of the file, ranges of it, or read when asked for. */
import { byteLength, dtypeBits, dtypeFromOnnx } from "../../ir/dtypes.js";
import { elementCount } from "../../ir/payload.js";
import type { Constant, DType, Payload } from "../../ir/types.js";
import { badTensorProto, Fields } from "./fields.js";
import type { NameId } from "./names.js";
import { BYTES, Cursor } from "./wire.js";

/** Marks, in the skeleton of a file read by ranges, a raw_data that stayed in the file: 16 bytes, offset and length. */
export const RANGE_FIELD = 300_001;

export class TensorDecoder extends Fields {
  protected sparse(c: Cursor): { name: NameId; constant: Constant } {
    const start = c.at;
    let values: { name: NameId; constant: Constant } | undefined;
    let indices: Constant | undefined;
    const dims: number[] = [];
    while (c.next()) {
      if (c.field === 1) values = this.tensor(c.message());
      else if (c.field === 2) indices = this.tensor(c.message()).constant;
      else if (c.field === 3) this.ints(c, dims as (number | bigint)[]);
      else c.step();
    }
    const where = { file: this.file, offset: start, value: values === undefined ? undefined : this.names.text(values.name) };
    const size = elementCount(dims);
    const nnz = values?.constant.dims[0] ?? 0;
    if (values === undefined || indices === undefined || size === undefined)
      throw badTensorProto({ what: "a sparse tensor lacks its values, its indices or legal dims" }, where);
    const rank = indices.dims.length;
    const fits = indices.dtype === "int64" && indices.dims[0] === nnz && (rank === 1 || (rank === 2 && indices.dims[1] === dims.length));
    if (values.constant.dims.length !== 1 || !fits || nnz > size || size > 2 ** 31)
      throw badTensorProto(
        {
          what: `a sparse tensor of dims [${dims}] has values [${values.constant.dims}] and indices ${indices.dtype}[${indices.dims}], which are int64`,
        },
        where,
      );
    if (dtypeBits(values.constant.dtype) < 8)
      throw badTensorProto({ what: `a sparse tensor has ${values.constant.dtype} elements, which have no bytes of their own` }, where);
    return {
      name: values.name,
      constant: { dtype: values.constant.dtype, dims, data: { kind: "sparse", values: values.constant, indices } },
    };
  }

  protected tensor(c: Cursor): { name: NameId; constant: Constant } {
    const start = c.at;
    const end = c.end;
    let name: NameId = 0;
    let number = 0;
    const dims: (number | bigint)[] = [];
    let raw: Payload | undefined;
    let fields = false;
    let strings: Uint8Array[] | undefined;
    let external: Map<string, string> | undefined;
    let location = 0;
    while (c.next()) {
      switch (c.field) {
        case 1:
          this.ints(c, dims);
          break;
        case 2:
          number = this.number(c);
          break;
        case 6:
          (strings ??= []).push(c.view());
          break;
        case 8:
          name = this.name(c);
          break;
        case 9:
          raw = { kind: "bytes", bytes: c.view() };
          break;
        case 13: {
          const [pair] = this.entry(c.message(), undefined);
          if (pair !== undefined) (external ??= new Map()).set(pair[0], pair[1]);
          break;
        }
        case 14:
          location = this.number(c);
          break;
        case 4:
        case 5:
        case 7:
        case 10:
        case 11:
          fields = true;
          c.step();
          break;
        case RANGE_FIELD:
          if (this.ranges !== undefined) {
            const v = c.view();
            if (v.length !== 16) c.fail(`field ${RANGE_FIELD} is not ONNX's`);
            const view = new DataView(v.buffer, v.byteOffset, 16);
            raw = {
              kind: "file",
              path: this.ranges,
              offset: Number(view.getBigUint64(0, true)),
              length: Number(view.getBigUint64(8, true)),
            };
          } else c.step();
          break;
        default:
          c.step();
      }
    }
    const where = { file: this.file, offset: start, value: name === 0 ? undefined : this.names.text(name) };
    const dtype = dtypeFromOnnx(number);
    if (dtype === undefined) throw badTensorProto({ what: `its element type ${number} is unknown` }, where);
    const shape = dims.map(Number);
    const count = elementCount(shape);
    if (count === undefined)
      throw badTensorProto({ what: `its dims [${dims.join(", ")}] are not natural numbers with a representable product` }, where);
    const done = (data: Payload): { name: NameId; constant: Constant } => ({ name, constant: { dtype, dims: shape, data } });
    if (dtype === "string") {
      const values = strings ?? [];
      if (values.length !== count)
        throw badTensorProto({ what: `dims [${shape}] ask for ${count} strings, ${values.length} are there` }, where);
      return done({ kind: "strings", values });
    }
    const needs = byteLength(dtype, count);
    if (location === 1) return done(this.external(external ?? new Map(), needs, this.names.text(name)));
    if (raw !== undefined) {
      const has = raw.kind === "bytes" ? raw.bytes.length : raw.kind === "file" ? raw.length : 0;
      if (has !== needs)
        throw badTensorProto({ what: `a ${dtype} tensor of dims [${shape}] needs ${needs} bytes, raw_data has ${has}` }, where);
      return done(raw);
    }
    if (count === 0) return done({ kind: "bytes", bytes: new Uint8Array(0) });
    if (!fields) throw badTensorProto({ what: `a ${dtype} tensor of dims [${shape}] has no data` }, where);
    return done(this.typedFields(c.bytes, start, end, dtype, count, where));
  }

  /** Data in the typed repeated fields: packed floats and doubles are views, varints are decoded when asked for. */
  protected typedFields(
    bytes: Uint8Array,
    start: number,
    end: number,
    dtype: DType,
    count: number,
    where: { file: string | undefined; offset: number; value: string | undefined },
  ): Payload {
    const field = typedField(dtype);
    const fail = (has: number): never => {
      throw badTensorProto({ what: `its dims ask for ${count} ${dtype} elements, ${has} are in the data field` }, where);
    };
    // One packed run of fixed-size numbers is already the payload.
    const runs: Uint8Array[] = [];
    let elements = 0;
    const c = new Cursor(bytes, start, end, this.file);
    while (c.next()) {
      if (c.field !== field) {
        c.step();
        continue;
      }
      if (c.type === BYTES) {
        const run = c.view();
        runs.push(run);
        elements += field === 4 ? run.length / 4 : field === 10 ? run.length / 8 : varints(run);
      } else {
        const from = c.at;
        c.step();
        runs.push(bytes.subarray(from, c.at));
        elements++;
      }
    }
    const perEntry = dtype === "complex64" || dtype === "complex128" ? 2 : 1;
    // 4-bit and 2-bit elements: each int32 entry holds one packed byte.
    const expected = dtypeIsPacked(dtype) ? byteLength(dtype, count) : count * perEntry;
    if (elements !== expected) fail(elements);
    const [only] = runs;
    if (runs.length === 1 && only !== undefined && (field === 4 || field === 10)) return { kind: "bytes", bytes: only };
    const length = byteLength(dtype, count);
    return { kind: "lazy", length, read: () => decodeRuns(runs, field, dtype, length) };
  }
}

function dtypeIsPacked(d: DType): boolean {
  return d === "int4" || d === "uint4" || d === "float4e2m1" || d === "int2" || d === "uint2";
}
/** TensorProto field that holds a dtype's elements when raw_data does not. */
function typedField(d: DType): number {
  switch (d) {
    case "float32":
    case "complex64":
      return 4;
    case "int64":
      return 7;
    case "float64":
    case "complex128":
      return 10;
    case "uint32":
    case "uint64":
      return 11;
    default:
      return 5;
  }
}
function varints(run: Uint8Array): number {
  let n = 0;
  for (const b of run) if (b < 128) n++;
  return n;
}
function decodeRuns(runs: readonly Uint8Array[], field: number, dtype: DType, length: number): Uint8Array {
  const out = new Uint8Array(length);
  if (field === 4 || field === 10) {
    let at = 0;
    for (const r of runs) {
      out.set(r, at);
      at += r.length;
    }
    return out;
  }
  const view = new DataView(out.buffer);
  const width = dtypeIsPacked(dtype)
    ? 1
    : dtype === "int64" || dtype === "uint64"
      ? 8
      : dtype === "int32" || dtype === "uint32"
        ? 4
        : dtype.endsWith("16")
          ? 2
          : 1;
  let at = 0;
  for (const r of runs) {
    const c = new Cursor(r, 0, r.length, undefined);
    while (c.at < c.end) {
      const x = c.int64();
      if (width === 8) view.setBigInt64(at, BigInt.asIntN(64, BigInt(x)), true);
      else if (width === 4) view.setInt32(at, Number(BigInt.asIntN(32, BigInt(x))), true);
      else if (width === 2) view.setUint16(at, Number(BigInt.asUintN(16, BigInt(x))), true);
      else view.setUint8(at, Number(BigInt.asUintN(8, BigInt(x))));
      at += width;
    }
  }
  return out;
}
