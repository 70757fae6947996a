/** TypeProto and ValueInfoProto. */
import { symbol, UNKNOWN } from "../../ir/dims.js";
import type { Dim, DType, ValueType } from "../../ir/types.js";
import { MAX_DEPTH, tooDeep } from "./fields.js";
import type { NameId } from "./names.js";
import { TensorDecoder } from "./tensors.js";
import type { Cursor } from "./wire.js";

export class TypeDecoder extends TensorDecoder {
  protected valueInfo(c: Cursor): { name: NameId; type: ValueType } {
    let name: NameId = 0;
    let type: ValueType = { kind: "unknown" };
    while (c.next()) {
      if (c.field === 1) name = this.name(c);
      else if (c.field === 2) type = this.type(c.message(), 0);
      else c.step();
    }
    return { name, type };
  }

  protected type(c: Cursor, depth: number): ValueType {
    if (depth > MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, { file: this.file, offset: c.at });
    let type: ValueType = { kind: "unknown" };
    while (c.next()) {
      switch (c.field) {
        case 1:
        case 8: {
          const kind = c.field === 1 ? "tensor" : "sparse";
          const t = this.tensorType(c.message());
          type = t === undefined ? { kind: "unknown" } : { kind, ...t };
          break;
        }
        case 4:
          type = { kind: "sequence", of: this.elementType(c.message(), depth) };
          break;
        case 9:
          type = { kind: "optional", of: this.elementType(c.message(), depth) };
          break;
        case 5: {
          const sub = c.message();
          let key: DType = "int64";
          let of: ValueType = { kind: "unknown" };
          while (sub.next()) {
            if (sub.field === 1) key = this.dtype(sub) ?? "int64";
            else if (sub.field === 2) of = this.type(sub.message(), depth + 1);
            else sub.step();
          }
          type = { kind: "map", key, of };
          break;
        }
        case 7: {
          const sub = c.message();
          let [domain, name] = ["", ""];
          while (sub.next()) {
            if (sub.field === 1) domain = this.text(sub);
            else if (sub.field === 2) name = this.text(sub);
            else sub.step();
          }
          type = { kind: "opaque", domain, name };
          break;
        }
        default:
          c.step();
      }
    }
    return type;
  }
  protected elementType(c: Cursor, depth: number): ValueType {
    let of: ValueType = { kind: "unknown" };
    while (c.next()) {
      if (c.field === 1) of = this.type(c.message(), depth + 1);
      else c.step();
    }
    return of;
  }
  protected tensorType(c: Cursor): { dtype: DType; shape: readonly Dim[] | undefined } | undefined {
    let dtype: DType | undefined;
    let shape: Dim[] | undefined;
    while (c.next()) {
      if (c.field === 1) dtype = this.dtype(c);
      else if (c.field === 2) {
        shape = [];
        const dims = c.message();
        while (dims.next()) {
          if (dims.field !== 1) {
            dims.step();
            continue;
          }
          const d = dims.message();
          let dim: Dim = UNKNOWN;
          while (d.next()) {
            if (d.field === 1) {
              const n = this.number(d);
              // Exporters write -1 (and TensorFlow's converters 0) for "unknown"; only negatives are taken so.
              dim = n < 0 ? UNKNOWN : n;
            } else if (d.field === 2) {
              // Some exporters write numbers as text.
              dim = symbol(this.text(d));
              if (typeof dim === "number" && dim < 0) dim = UNKNOWN;
            } else d.step();
          }
          shape.push(dim);
        }
      } else c.step();
    }
    return dtype === undefined ? undefined : { dtype, shape };
  }
}
