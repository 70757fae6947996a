/** A protobuf message as a tree of its fields, by ONNX's or TensorFlow's schema of which fields are messages: read, changed and written with nothing lost. */

/** Message kinds, and the kinds of their fields that are messages. */
const MESSAGES = {
  model: { 7: "graph", 8: "opset", 14: "entry", 25: "function" },
  graph: { 1: "node", 5: "tensor", 11: "info", 12: "info", 13: "info", 15: "sparse", 16: "entry" },
  node: { 5: "attribute", 9: "entry" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse", 23: "sparse" },
  function: { 7: "node", 9: "opset", 11: "attribute", 12: "info", 14: "entry" },
  info: { 2: "type" },
  type: { 1: "tensorType", 4: "element", 5: "map", 8: "tensorType", 9: "element" },
  tensorType: { 2: "shape" },
  element: { 1: "type" },
  map: { 2: "type" },
  shape: { 1: "dim" },
  tensor: { 13: "entry" },
  sparse: { 1: "tensor", 2: "tensor" },
  dim: {},
  opset: {},
  entry: {},
  // ---- TensorFlow
  tfSavedModel: { 2: "tfMeta" },
  tfMeta: { 2: "tfGraph", 5: "tfNamedSignature" },
  tfNamedSignature: { 2: "tfSignatureDef" },
  tfSignatureDef: { 1: "tfNamedInfo", 2: "tfNamedInfo" },
  tfNamedInfo: { 2: "tfInfo" },
  tfInfo: { 3: "tfShape" },
  tfGraph: { 1: "tfNode", 2: "tfLibrary", 4: "tfVersions" },
  tfVersions: {},
  tfNode: { 5: "tfAttr" },
  tfAttr: { 2: "tfValue" },
  tfValue: { 1: "tfList", 7: "tfShape", 8: "tfTensor", 10: "tfFunc" },
  tfList: { 7: "tfShape", 8: "tfTensor", 9: "tfFunc" },
  tfFunc: { 2: "tfAttr" },
  tfShape: { 2: "tfDim" },
  tfDim: {},
  tfTensor: { 2: "tfShape" },
  tfLibrary: { 1: "tfFunction" },
  tfFunction: { 1: "tfOpDef", 3: "tfNode", 4: "tfRet", 5: "tfAttr" },
  tfOpDef: { 2: "tfArg", 3: "tfArg" },
  tfArg: {},
  tfRet: {},
  tfBundleHeader: {},
  tfBundleEntry: { 2: "tfShape" },
} as const satisfies Record<string, Readonly<Record<number, string>>>;
export type MessageKind = keyof typeof MESSAGES;

export interface Message {
  kind: MessageKind;
  fields: Field[];
}
export interface Field {
  number: number;
  /** Varint, 8 bytes, length-delimited, 4 bytes. */
  wire: 0 | 1 | 2 | 5;
  value: bigint | Uint8Array | Message;
}
export const isMessage = (v: Field["value"]): v is Message => typeof v === "object" && "fields" in v;

function readVarint(bytes: Uint8Array, at: number): [bigint, number] {
  let value = 0n;
  for (let i = 0; i < 10; i++) {
    const b = bytes[at + i];
    if (b === undefined) break;
    value |= BigInt(b & 127) << BigInt(7 * i);
    if (b < 128) return [value, at + i + 1];
  }
  throw new Error("a base model is not well formed");
}

/** Bytes that are no message of their kind (models with a fault in them serve as bases too) stay bytes. */
function subMessage(view: Uint8Array, kind: MessageKind | undefined): Message | Uint8Array {
  try {
    return kind === undefined ? view.slice() : readMessage(view, kind);
  } catch {
    return view.slice();
  }
}

export function readMessage(bytes: Uint8Array, kind: MessageKind): Message {
  const fields: Field[] = [];
  const kinds: Readonly<Record<number, string>> = MESSAGES[kind];
  for (let at = 0; at < bytes.length; ) {
    const [tag, next] = readVarint(bytes, at);
    const number = Number(tag >> 3n);
    const wire = Number(tag & 7n);
    at = next;
    if (wire === 0) {
      const [value, end] = readVarint(bytes, at);
      fields.push({ number, wire, value });
      at = end;
    } else if (wire === 1 || wire === 5) {
      const width = wire === 1 ? 8 : 4;
      fields.push({ number, wire, value: bytes.slice(at, at + width) });
      at += width;
    } else if (wire === 2) {
      const [length, start] = readVarint(bytes, at);
      at = start + Number(length);
      const view = bytes.subarray(start, at);
      fields.push({ number, wire, value: subMessage(view, kinds[number] as MessageKind | undefined) });
    } else throw new Error("a base model is not well formed");
  }
  return { kind, fields };
}

function varint(x: bigint, out: number[]): void {
  let rest = BigInt.asUintN(64, x);
  while (rest >= 128n) {
    out.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  out.push(Number(rest));
}

export function writeMessage(m: Message): Uint8Array {
  const parts: Uint8Array[] = [];
  for (const f of m.fields) {
    const head: number[] = [];
    varint(BigInt(f.number) * 8n + BigInt(f.wire), head);
    if (typeof f.value === "bigint") {
      varint(f.value, head);
      parts.push(Uint8Array.from(head));
      continue;
    }
    const body = isMessage(f.value) ? writeMessage(f.value) : f.value;
    if (f.wire === 2) varint(BigInt(body.length), head);
    parts.push(Uint8Array.from(head), body);
  }
  return new Uint8Array(Buffer.concat(parts));
}

/** A message and all below it, from the top; a list, as mutants may be deep. */
export function walk(m: Message): Message[] {
  const all = [m];
  for (let i = 0; i < all.length; i++) for (const f of (all[i] as Message).fields) if (isMessage(f.value)) all.push(f.value);
  return all;
}
export const copyOf = (m: Message): Message => ({
  kind: m.kind,
  fields: m.fields.map((f) => ({ ...f, value: isMessage(f.value) ? copyOf(f.value) : f.value })),
});

// ---- making fields -----------------------------------------------------------------------------------------------------------------------

export const textField = (number: number, s: string): Field => ({ number, wire: 2, value: new Uint8Array(Buffer.from(s, "utf8")) });
export const intField = (number: number, x: bigint | number): Field => ({ number, wire: 0, value: BigInt(x) });
export const messageField = (number: number, kind: MessageKind, ...fields: readonly Field[]): Field => ({
  number,
  wire: 2,
  value: { kind, fields: [...fields] },
});
export const textOf = (f: Field | undefined): string => (f?.value instanceof Uint8Array ? Buffer.from(f.value).toString("utf8") : "");
export const fieldsOf = (m: Message, number: number): Field[] => m.fields.filter((f) => f.number === number);
export const messagesOf = (m: Message, number: number): Message[] =>
  fieldsOf(m, number).flatMap((f) => (isMessage(f.value) ? [f.value] : []));
