/** Seeded mutations of ONNX models: of the bytes, and of the structure. Each says in a word what it did. */
import {
  copyOf,
  type Field,
  fieldsOf,
  intField,
  isMessage,
  type Message,
  type MessageKind,
  messageField,
  messagesOf,
  readMessage,
  textField,
  textOf,
  walk,
  writeMessage,
} from "./proto.js";

export type Random = () => number;
export interface Mutant {
  readonly bytes: Uint8Array;
  /** What was done, for reports. */
  readonly how: string;
}

const below = (next: Random, n: number): number => Math.floor(next() * n);
const pick = <T>(next: Random, list: readonly T[]): T | undefined => list[below(next, list.length)];
const INTERESTING: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  7n,
  8n,
  16n,
  64n,
  127n,
  128n,
  255n,
  256n,
  1000n,
  65_535n,
  65_536n,
  2n ** 24n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 31n + 1n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 33n,
  2n ** 40n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 62n,
  2n ** 63n - 1n,
  -(2n ** 63n),
  -1n,
  -2n,
  -3n,
  -7n,
  -(2n ** 31n),
  -(2n ** 31n) - 1n,
  -(2n ** 32n),
  -(2n ** 62n),
];
const strangeInteger = (next: Random): bigint => (next() < 0.7 ? (pick(next, INTERESTING) ?? 0n) : BigInt(below(next, 40) - 20));
const NAMES = [
  "",
  "x",
  "y",
  "input",
  "output",
  "__proto__",
  "constructor",
  "a\0b",
  "../../etc/passwd",
  "%",
  "'",
  "é".repeat(300),
  "\ufeff",
  "node:0",
];

// ---- bytes -------------------------------------------------------------------------------------------------------------------------------

/** Length-delimited fields that lie in the message, by the place of their length. */
function lengthsIn(bytes: Uint8Array): number[] {
  const places: number[] = [];
  const scan = (from: number, to: number, depth: number): boolean => {
    let at = from;
    const found: number[] = [];
    const inner: [number, number][] = [];
    const read = (): number => {
      let value = 0;
      let scale = 1;
      for (let i = 0; i < 10 && at < to; i++) {
        const b = bytes[at++] as number;
        value += (b & 127) * scale;
        if (b < 128) return value;
        scale *= 128;
      }
      return -1;
    };
    while (at < to) {
      const tag = read();
      if (tag < 8) return false;
      const wire = tag & 7;
      if (wire === 0) {
        if (read() < 0) return false;
      } else if (wire === 1) at += 8;
      else if (wire === 5) at += 4;
      else if (wire === 2) {
        found.push(at);
        const length = read();
        if (length < 0 || at + length > to) return false;
        inner.push([at, at + length]);
        at += length;
      } else return false;
      if (at > to) return false;
    }
    places.push(...found);
    if (depth < 8 && places.length < 3000) for (const [a, b] of inner) scan(a, b, depth + 1);
    return true;
  };
  scan(0, bytes.length, 0);
  return places;
}

const byteMutations: Readonly<Record<string, (b: Uint8Array, next: Random, other: Uint8Array) => Uint8Array>> = {
  truncate: (b, next) => b.slice(0, below(next, b.length)),
  "flip bits": (b, next) => {
    const out = b.slice();
    for (let i = 1 + below(next, 8); i > 0; i--) {
      const at = below(next, out.length);
      out[at] = (out[at] as number) ^ (1 << below(next, 8));
    }
    return out;
  },
  "overwrite bytes": (b, next) => {
    const out = b.slice();
    const at = below(next, out.length);
    for (let i = 0; i < 1 + below(next, 16) && at + i < out.length; i++) out[at + i] = next() < 0.3 ? 255 : below(next, 256);
    return out;
  },
  "delete bytes": (b, next) => {
    const at = below(next, b.length);
    return new Uint8Array(Buffer.concat([b.subarray(0, at), b.subarray(at + 1 + below(next, 32))]));
  },
  "insert bytes": (b, next) => {
    const at = below(next, b.length);
    return new Uint8Array(
      Buffer.concat([b.subarray(0, at), Uint8Array.from({ length: 1 + below(next, 32) }, () => below(next, 256)), b.subarray(at)]),
    );
  },
  "repeat bytes": (b, next) => {
    const at = below(next, b.length);
    const piece = b.subarray(at, at + 1 + below(next, 200));
    return new Uint8Array(Buffer.concat([b.subarray(0, at), piece, b.subarray(at)]));
  },
  "splice another model": (b, next, other) => {
    const at = below(next, b.length);
    const from = below(next, other.length);
    return new Uint8Array(Buffer.concat([b.subarray(0, at), other.subarray(from, from + below(next, 2000)), b.subarray(at)]));
  },
  "corrupt a length": (b, next) => {
    const places = lengthsIn(b);
    const at = pick(next, places);
    if (at === undefined) return b.slice(1);
    let end = at;
    while ((b[end] as number) > 127) end++;
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, strangeInteger(next));
    while (rest >= 128n) {
      bytes.push(Number(rest & 127n) | 128);
      rest >>= 7n;
    }
    bytes.push(Number(rest));
    // Sometimes the same number of bytes, so that what follows stays in place.
    if (next() < 0.3) {
      const out = b.slice();
      out[at] = (out[at] as number) ^ (1 << below(next, 7));
      return out;
    }
    return new Uint8Array(Buffer.concat([b.subarray(0, at), Uint8Array.from(bytes), b.subarray(end + 1)]));
  },
};

// ---- structure ---------------------------------------------------------------------------------------------------------------------------

/** Fields that hold text, per message. */
const TEXT: Partial<Record<MessageKind, readonly number[]>> = {
  graph: [2],
  node: [1, 2, 3, 4, 7, 8],
  attribute: [1, 4, 21],
  function: [1, 4, 5, 6, 10, 13],
  info: [1],
  tensor: [8],
  entry: [1, 2],
  dim: [2],
  opset: [1],
};

const all = (m: Message, kind: MessageKind): Message[] => walk(m).filter((x) => x.kind === kind);
const replaceText = (f: Field, s: string): void => void (f.value = new Uint8Array(Buffer.from(s, "utf8")));
const removeOne = (next: Random, m: Message, number: number): void => {
  const victim = pick(next, fieldsOf(m, number));
  if (victim !== undefined) m.fields.splice(m.fields.indexOf(victim), 1);
};
const attributesOf = (m: Message): Message[] => all(m, "node").flatMap((n) => messagesOf(n, 5));
/** A graph's own names: inputs, initializers, results. */
const namesOf = (g: Message): string[] => [
  ...messagesOf(g, 1).flatMap((n) => fieldsOf(n, 2).map(textOf)),
  ...messagesOf(g, 5).map((t) => textOf(fieldsOf(t, 8)[0])),
  ...messagesOf(g, 11).map((i) => textOf(fieldsOf(i, 1)[0])),
];
const setInt = (m: Message, number: number, x: bigint): void => {
  const f = fieldsOf(m, number)[0];
  if (f === undefined) m.fields.push(intField(number, x));
  else f.value = x;
};

const structureMutations: Readonly<Record<string, (m: Message, next: Random) => void>> = {
  "delete a field": (m, next) => {
    const owner = pick(
      next,
      walk(m).filter((x) => x.fields.length > 0),
    );
    if (owner !== undefined) owner.fields.splice(below(next, owner.fields.length), 1);
  },
  "duplicate a field": (m, next) => {
    const owner = pick(
      next,
      walk(m).filter((x) => x.fields.length > 0),
    );
    const f = owner === undefined ? undefined : pick(next, owner.fields);
    if (owner !== undefined && f !== undefined)
      owner.fields.splice(below(next, owner.fields.length + 1), 0, { ...f, value: isMessage(f.value) ? copyOf(f.value) : f.value });
  },
  "swap two fields": (m, next) => {
    const owner = pick(
      next,
      walk(m).filter((x) => x.fields.length > 1),
    );
    if (owner === undefined) return;
    const [i, j] = [below(next, owner.fields.length), below(next, owner.fields.length)];
    const [a, b] = [owner.fields[i] as Field, owner.fields[j] as Field];
    [owner.fields[i], owner.fields[j]] = [b, a];
  },
  "change a field's number": (m, next) => {
    const owner = pick(
      next,
      walk(m).filter((x) => x.fields.length > 0),
    );
    const f = owner === undefined ? undefined : pick(next, owner.fields);
    if (f !== undefined) f.number = 1 + below(next, 26);
  },
  "change an integer": (m, next) => {
    const f = pick(
      next,
      walk(m).flatMap((x) => x.fields.filter((y) => y.wire === 0)),
    );
    if (f !== undefined) f.value = strangeInteger(next);
  },
  "change a name": (m, next) => {
    const fields = walk(m).flatMap((x) =>
      x.fields.filter((f) => f.value instanceof Uint8Array && TEXT[x.kind]?.includes(f.number) === true),
    );
    const f = pick(next, fields);
    if (f === undefined) return;
    const other = pick(next, fields);
    replaceText(f, next() < 0.6 && other !== undefined ? textOf(other) : (pick(next, NAMES) ?? ""));
  },
  "name that is not UTF-8": (m, next) => {
    const f = pick(
      next,
      walk(m).flatMap((x) => x.fields.filter((y) => y.value instanceof Uint8Array && TEXT[x.kind]?.includes(y.number) === true)),
    );
    if (f !== undefined) f.value = Uint8Array.from([0xc3, 0x28, 0xff, 0xfe]);
  },
  "rewire an input": (m, next) => {
    const g = pick(next, all(m, "graph"));
    const n = g === undefined ? undefined : pick(next, messagesOf(g, 1));
    const f = n === undefined ? undefined : pick(next, fieldsOf(n, 1));
    if (g !== undefined && f !== undefined) replaceText(f, next() < 0.85 ? (pick(next, namesOf(g)) ?? "") : "nowhere");
  },
  "make a cycle": (m, next) => {
    const nodes = all(m, "node");
    const [a, b] = [pick(next, nodes), pick(next, nodes)];
    const from = a === undefined ? undefined : pick(next, fieldsOf(a, 2));
    const to = b === undefined ? undefined : pick(next, fieldsOf(b, 1));
    if (from !== undefined && to !== undefined) replaceText(to, textOf(from));
  },
  "define a value twice": (m, next) => {
    const g = pick(next, all(m, "graph"));
    const n = g === undefined ? undefined : pick(next, messagesOf(g, 1));
    const f = n === undefined ? undefined : pick(next, fieldsOf(n, 2));
    if (g !== undefined && f !== undefined) replaceText(f, pick(next, namesOf(g)) ?? "");
  },
  "reverse the nodes": (m, next) => {
    const g = pick(next, all(m, "graph"));
    if (g === undefined) return;
    const nodes = fieldsOf(g, 1).reverse();
    g.fields = [...nodes, ...g.fields.filter((f) => f.number !== 1)];
  },
  "drop an input or output of a node": (m, next) => {
    const n = pick(next, all(m, "node"));
    if (n !== undefined) removeOne(next, n, next() < 0.5 ? 1 : 2);
  },
  "add an input or output to a node": (m, next) => {
    const g = pick(next, all(m, "graph"));
    const n = g === undefined ? undefined : pick(next, messagesOf(g, 1));
    if (g !== undefined && n !== undefined)
      n.fields.push(textField(next() < 0.5 ? 1 : 2, next() < 0.7 ? (pick(next, namesOf(g)) ?? "") : `more${below(next, 3)}`));
  },
  "change an operator": (m, next) => {
    const nodes = all(m, "node");
    const n = pick(next, nodes);
    const f = n === undefined ? undefined : fieldsOf(n, 4)[0];
    if (f === undefined) return;
    const ops = [
      "Add",
      "MatMul",
      "Conv",
      "Reshape",
      "Gather",
      "Slice",
      "Concat",
      "Loop",
      "If",
      "Split",
      "Resize",
      "LSTM",
      "Cast",
      "TopK",
      "Einsum",
      "Nope",
      "Identity",
      "ConstantOfShape",
      "Expand",
      "Tile",
      "Range",
      "Pad",
      "Softmax",
      "SequenceAt",
      "Scan",
      "ScatterND",
      "NonZero",
      "BatchNormalization",
      "MaxPool",
    ];
    replaceText(f, next() < 0.8 ? (pick(next, ops) ?? "") : textOf(fieldsOf(pick(next, nodes) ?? { kind: "node", fields: [] }, 4)[0]));
  },
  "change a domain": (m, next) => {
    const n = pick(next, all(m, "node"));
    if (n === undefined) return;
    n.fields = n.fields.filter((f) => f.number !== 7);
    n.fields.push(textField(7, pick(next, ["ai.onnx", "com.microsoft", "ai.onnx.ml", "own", "ai.onnx.preview.training", ""]) ?? ""));
  },
  "change an operator set": (m, next) => {
    const o = pick(next, all(m, "opset"));
    if (o !== undefined) setInt(o, 2, next() < 0.6 ? BigInt(1 + below(next, 28)) : strangeInteger(next));
  },
  "change an attribute's integers": (m, next) => {
    const a = pick(
      next,
      attributesOf(m).filter((x) => fieldsOf(x, 3).length + fieldsOf(x, 8).length > 0),
    );
    if (a === undefined) return;
    for (const f of a.fields) if ((f.number === 3 || f.number === 8) && f.wire === 0 && next() < 0.7) f.value = strangeInteger(next);
  },
  "lengthen or shorten an attribute's list": (m, next) => {
    const a = pick(
      next,
      attributesOf(m).filter((x) => fieldsOf(x, 8).length + fieldsOf(x, 7).length + fieldsOf(x, 9).length > 0),
    );
    if (a === undefined) return;
    const number = pick(next, a.fields)?.number ?? 8;
    if (next() < 0.5) removeOne(next, a, number);
    else {
      const f = fieldsOf(a, number)[0];
      if (f !== undefined) for (let i = 1 + below(next, 5); i > 0; i--) a.fields.push({ ...f });
    }
  },
  "change an attribute's type": (m, next) => {
    const a = pick(next, attributesOf(m));
    if (a !== undefined) setInt(a, 20, next() < 0.8 ? BigInt(below(next, 15)) : strangeInteger(next));
  },
  "rename an attribute": (m, next) => {
    const attributes = attributesOf(m);
    const [a, b] = [pick(next, attributes), pick(next, attributes)];
    const [f, g] = [a === undefined ? undefined : fieldsOf(a, 1)[0], b === undefined ? undefined : fieldsOf(b, 1)[0]];
    if (f !== undefined)
      replaceText(
        f,
        next() < 0.6
          ? textOf(g)
          : (pick(next, ["axis", "axes", "perm", "to", "then_branch", "body", "kernel_shape", "strides", "pads"]) ?? ""),
      );
  },
  "change an attribute's float": (m, next) => {
    const a = pick(
      next,
      attributesOf(m).filter((x) => fieldsOf(x, 2).length > 0),
    );
    const f = a === undefined ? undefined : fieldsOf(a, 2)[0];
    if (f === undefined) return;
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, pick(next, [Number.NaN, Number.POSITIVE_INFINITY, -1, 0, 1e30, -0, 1e-40]) ?? 0, true);
    f.value = bytes;
  },
  "change an element type": (m, next) => {
    const t = pick(next, [...all(m, "tensor").map((x) => [x, 2] as const), ...all(m, "tensorType").map((x) => [x, 1] as const)]);
    if (t !== undefined) setInt(t[0], t[1], next() < 0.8 ? BigInt(below(next, 27)) : strangeInteger(next));
  },
  "change a tensor's dims": (m, next) => {
    const t = pick(next, all(m, "tensor"));
    if (t === undefined) return;
    if (next() < 0.3) removeOne(next, t, 1);
    else if (next() < 0.4) t.fields.push(intField(1, next() < 0.5 ? 1n : strangeInteger(next)));
    else {
      const f = pick(next, fieldsOf(t, 1));
      if (f !== undefined && f.wire === 0) f.value = strangeInteger(next);
      else if (f?.value instanceof Uint8Array && f.value.length > 0) f.value = Uint8Array.from([below(next, 128), ...f.value.slice(1)]);
    }
  },
  "change a tensor's values": (m, next) => {
    const t = pick(next, all(m, "tensor"));
    if (t === undefined) return;
    for (const f of t.fields) {
      if (f.number === 9 && f.value instanceof Uint8Array && f.value.length > 0) {
        const out = f.value.slice();
        for (let i = 1 + below(next, 4); i > 0; i--)
          out[below(next, out.length)] = pick(next, [0, 255, 127, 128, 1, below(next, 256)]) ?? 0;
        f.value = out;
      }
    }
  },
  "fill an integer tensor with absurd values": (m, next) => {
    const t = pick(
      next,
      all(m, "tensor").filter((x) => fieldsOf(x, 2)[0]?.value === 7n && (fieldsOf(x, 9)[0]?.value as Uint8Array | undefined)?.length),
    );
    const f = t === undefined ? undefined : fieldsOf(t, 9)[0];
    if (!(f?.value instanceof Uint8Array)) return;
    const out = f.value.slice();
    const view = new DataView(out.buffer);
    for (let at = 0; at + 8 <= out.length; at += 8) if (next() < 0.6) view.setBigInt64(at, BigInt.asIntN(64, strangeInteger(next)), true);
    f.value = out;
  },
  "change a tensor's bytes' length": (m, next) => {
    const t = pick(
      next,
      all(m, "tensor").filter((x) => fieldsOf(x, 9).length > 0),
    );
    const f = t === undefined ? undefined : fieldsOf(t, 9)[0];
    if (f?.value instanceof Uint8Array)
      f.value =
        next() < 0.5
          ? f.value.slice(0, below(next, f.value.length + 1))
          : new Uint8Array(Buffer.concat([f.value, Buffer.alloc(1 + below(next, 64))]));
  },
  "make a tensor external": (m, next) => {
    const t = pick(next, all(m, "tensor"));
    if (t === undefined) return;
    t.fields = t.fields.filter((f) => ![4, 5, 6, 7, 9, 10, 11, 13, 14].includes(f.number));
    const entry = (k: string, v: string): Field => messageField(13, "entry", textField(1, k), textField(2, v));
    t.fields.push(intField(14, 1), entry("location", pick(next, EXTERNAL_LOCATIONS) ?? ""));
    if (next() < 0.5)
      t.fields.push(entry("offset", pick(next, ["0", "8", "-1", "9007199254740993", "1e3", "0x10", "9223372036854775807"]) ?? "0"));
    if (next() < 0.5) t.fields.push(entry("length", pick(next, ["0", "64", "-1", "4294967296", "9223372036854775807", " 64"]) ?? "0"));
  },
  "change a declared shape": (m, next) => {
    const s = pick(next, all(m, "shape"));
    if (s === undefined) return;
    if (next() < 0.3) s.fields.splice(below(next, s.fields.length), 1);
    else if (next() < 0.4) s.fields.push(messageField(1, "dim", intField(1, strangeInteger(next))));
    else {
      const d = pick(next, messagesOf(s, 1));
      if (d !== undefined)
        d.fields = [
          next() < 0.7
            ? intField(1, strangeInteger(next))
            : textField(2, pick(next, ["N", "", "batch+1", "N*N", "-1", "?", "9999999999999999999999"]) ?? ""),
        ];
    }
  },
  "nest bodies deep": (m, next) => {
    const g = fieldsOf(m, 7)[0];
    if (g === undefined || !isMessage(g.value)) return;
    let inner: Message = copyOf(g.value);
    const depth = pick(next, [2, 30, 63, 64, 65, 200, 500]) ?? 2;
    for (let i = 0; i < depth; i++)
      inner = {
        kind: "graph",
        fields: [
          messageField(
            1,
            "node",
            textField(1, "c"),
            textField(2, "r"),
            textField(4, "If"),
            messageField(5, "attribute", textField(1, "then_branch"), { number: 6, wire: 2, value: inner }, intField(20, 5)),
            messageField(
              5,
              "attribute",
              textField(1, "else_branch"),
              { number: 6, wire: 2, value: { kind: "graph", fields: [textField(2, "e")] } },
              intField(20, 5),
            ),
          ),
          textField(2, "g"),
        ],
      };
    g.value = inner;
  },
  "nest types deep": (m, next) => {
    const i = pick(next, all(m, "info"));
    const f = i === undefined ? undefined : fieldsOf(i, 2)[0];
    if (f === undefined || !isMessage(f.value)) return;
    let type: Message = f.value;
    const kind = next() < 0.5 ? 4 : 9;
    for (let d = pick(next, [1, 3, 63, 65, 500, 1500]) ?? 1; d > 0; d--)
      type = { kind: "type", fields: [messageField(kind, "element", { number: 1, wire: 2, value: type })] };
    f.value = type;
  },
  "nest functions": (m, next) => {
    const depth = pick(next, [1, 2, 20, 120]) ?? 1;
    const wide = next() < 0.4 ? 8 : 1;
    for (let i = 0; i < depth; i++) {
      const call = i === 0 ? (next() < 0.5 ? "F0" : "Neg") : `F${i - 1}`;
      const nodes: Field[] = [];
      for (let k = 0; k < wide; k++)
        nodes.push(
          messageField(
            7,
            "node",
            textField(1, k === 0 ? "a" : `t${k - 1}`),
            textField(2, k === wide - 1 ? "b" : `t${k}`),
            textField(4, call),
            textField(7, call === "Neg" ? "" : "f"),
          ),
        );
      m.fields.push(
        messageField(
          25,
          "function",
          textField(1, `F${i}`),
          textField(4, "a"),
          textField(5, "b"),
          ...nodes,
          messageField(9, "opset", intField(2, 18)),
          messageField(9, "opset", textField(1, "f"), intField(2, 1)),
          textField(10, "f"),
        ),
      );
    }
    m.fields.push(messageField(8, "opset", textField(1, "f"), intField(2, 1)));
    const n = pick(
      next,
      all(m, "node").filter((x) => fieldsOf(x, 1).length === 1),
    );
    if (n === undefined) return;
    n.fields = [...n.fields.filter((f) => f.number === 1 || f.number === 2), textField(4, `F${depth - 1}`), textField(7, "f")];
  },
  "move a node into a body": (m, next) => {
    const g = fieldsOf(m, 7)[0];
    if (g === undefined || !isMessage(g.value)) return;
    const victim = pick(next, fieldsOf(g.value, 1));
    if (victim === undefined || !isMessage(victim.value)) return;
    const inner = copyOf(victim.value);
    const outs = fieldsOf(inner, 2).map(textOf);
    const body: Message = {
      kind: "graph",
      fields: [{ number: 1, wire: 2, value: inner }, textField(2, "b"), ...outs.map((o) => messageField(12, "info", textField(1, o)))],
    };
    const branch = (name: string): Field =>
      messageField(5, "attribute", textField(1, name), { number: 6, wire: 2, value: copyOf(body) }, intField(20, 5));
    const condition = messageField(
      1,
      "node",
      textField(2, "cond!"),
      textField(4, "Constant"),
      messageField(
        5,
        "attribute",
        textField(1, "value"),
        messageField(5, "tensor", intField(2, 9), { number: 9, wire: 2, value: Uint8Array.from([1]) }),
        intField(20, 4),
      ),
    );
    victim.value = {
      kind: "node",
      fields: [
        textField(1, "cond!"),
        ...outs.map((o) => textField(2, next() < 0.5 ? o : `${o}.`)),
        textField(4, "If"),
        branch("then_branch"),
        branch("else_branch"),
      ],
    };
    g.value.fields.unshift(condition);
  },
  "change the graph's outputs": (m, next) => {
    const g = pick(next, all(m, "graph"));
    if (g === undefined) return;
    const names = [...namesOf(g), "nothing"];
    g.fields.push(messageField(12, "info", textField(1, pick(next, names) ?? "")));
    if (next() < 0.3) removeOne(next, g, 12);
  },
  "drop an initializer": (m, next) => {
    const g = pick(
      next,
      all(m, "graph").filter((x) => fieldsOf(x, 5).length > 0),
    );
    if (g !== undefined) removeOne(next, g, 5);
  },
  "initializer becomes an input": (m, next) => {
    const g = pick(
      next,
      all(m, "graph").filter((x) => fieldsOf(x, 5).length > 0),
    );
    const victim = g === undefined ? undefined : pick(next, fieldsOf(g, 5));
    if (g === undefined || victim === undefined || !isMessage(victim.value)) return;
    g.fields.splice(g.fields.indexOf(victim), 1);
    const name = textOf(fieldsOf(victim.value, 8)[0]);
    const dims = fieldsOf(victim.value, 1).flatMap((f) => (typeof f.value === "bigint" ? [f.value] : []));
    const type = fieldsOf(victim.value, 2)[0]?.value;
    const shape = messageField(
      2,
      "shape",
      ...dims.map((d) => messageField(1, "dim", next() < 0.5 ? intField(1, d) : textField(2, `s${d}`))),
    );
    g.fields.push(
      messageField(
        11,
        "info",
        textField(1, name),
        messageField(2, "type", messageField(1, "tensorType", intField(1, typeof type === "bigint" ? type : 1n), shape)),
      ),
    );
  },
};

/** Places that a hostile file may name; `inside.bin` and `link.bin` exist beside the model, `secret.bin` above it. */
export const EXTERNAL_LOCATIONS = [
  "inside.bin",
  "./inside.bin",
  "sub/../inside.bin",
  "../secret.bin",
  "sub/../../secret.bin",
  "link.bin",
  "linkdir/secret.bin",
  "/etc/passwd",
  "/dev/zero",
  "/proc/self/mem",
  "C:\\secret.bin",
  "..\\secret.bin",
  "inside.bin\0.txt",
  "",
  ".",
  "..",
  "missing.bin",
  "sub",
  "fifo",
  "x".repeat(5000),
] as const;

export const mutationNames = [...Object.keys(byteMutations), ...Object.keys(structureMutations)];

/** A base that is itself no well-formed message serves for mutations of its bytes. */
function messageOf(base: Uint8Array): Message | undefined {
  try {
    return readMessage(base, "model");
  } catch {
    return undefined;
  }
}

/** One mutant of a model. Byte and structure mutations take turns; sometimes several are laid on each other. */
export function mutate(base: Uint8Array, next: Random, other: Uint8Array): Mutant {
  const hows: string[] = [];
  let bytes = base;
  const m = next() < 0.72 ? messageOf(base) : undefined;
  if (m !== undefined) {
    for (let i = next() < 0.7 ? 1 : 2 + below(next, 3); i > 0; i--) {
      const how = pick(next, Object.keys(structureMutations)) ?? "";
      try {
        structureMutations[how]?.(m, next);
        bytes = writeMessage(m);
      } catch (error) {
        // Nested more than this process can copy: the mutant before stands.
        if (error instanceof RangeError) break;
        throw error;
      }
      hows.push(how);
      if (bytes.length > 4_000_000) break;
    }
    if (next() < 0.93) return { bytes, how: hows.join(" + ") };
  }
  const how = pick(next, Object.keys(byteMutations)) ?? "";
  bytes = bytes.length === 0 ? bytes : (byteMutations[how]?.(bytes, next, other) ?? bytes);
  hows.push(how);
  return { bytes, how: hows.join(" + ") };
}
