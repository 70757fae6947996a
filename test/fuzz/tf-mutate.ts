/** Seeded mutations of TensorFlow's messages: hostile ones, and harmless ones that must not change a result. Each says in a word what it did. */
import { allTfOps } from "../../src/ops/tf/registry.js";
import {
  copyOf,
  type Field,
  fieldsOf,
  intField,
  type Message,
  type MessageKind,
  messageField,
  messagesOf,
  textField,
  textOf,
  walk,
} from "./proto.js";

export type Random = () => number;
export const below = (next: Random, n: number): number => Math.floor(next() * n);
export const pick = <T>(next: Random, list: readonly T[]): T | undefined => list[below(next, list.length)];

const STRANGE: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  7n,
  19n,
  255n,
  65_536n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 40n,
  2n ** 53n,
  2n ** 63n - 1n,
  -1n,
  -2n,
  -(2n ** 31n),
  -(2n ** 63n),
];
const strange = (next: Random): bigint => (next() < 0.6 ? (pick(next, STRANGE) ?? 0n) : BigInt(below(next, 40) - 10));
const TEXTS = ["", "x", "__proto__", "a\0b", "^x", "x:1", "x:99999999999", "SAME", "VALID", "NHWC", "NCHW", "é".repeat(300)] as const;
const OPERATORS = allTfOps().map(([name]) => name);

const all = (m: Message, kind: MessageKind): Message[] => walk(m).filter((x) => x.kind === kind);
const nodesOf = (m: Message): Message[] => all(m, "tfNode");
const nameOf = (node: Message): string => textOf(fieldsOf(node, 1)[0]);
const opOf = (node: Message): string => textOf(fieldsOf(node, 2)[0]);
function set(m: Message, field: Field): void {
  m.fields = [...m.fields.filter((f) => f.number !== field.number), field];
}
function dropOne(next: Random, m: Message | undefined, number: number): void {
  const victim = m === undefined ? undefined : pick(next, fieldsOf(m, number));
  if (m !== undefined && victim !== undefined) m.fields.splice(m.fields.indexOf(victim), 1);
}
/** The graph or function body that a node stands in. */
const ownerOf = (m: Message, node: Message): Message | undefined => walk(m).find((x) => x.fields.some((f) => f.value === node));
const siblings = (m: Message, node: Message): Message[] => {
  const owner = ownerOf(m, node);
  return owner === undefined ? [] : messagesOf(owner, owner.kind === "tfFunction" ? 3 : 1).filter((x) => x.kind === "tfNode");
};
/** How a node of the same graph or body is read: `name`, `name:1`, `^name`, `name:output:0`. */
function reference(m: Message, node: Message, next: Random): string {
  const other = pick(next, siblings(m, node));
  const name = other === undefined ? "x" : nameOf(other);
  if (ownerOf(m, node)?.kind === "tfFunction") return `${name}:${pick(next, ["output", "y", "z", "value", "product"])}:${below(next, 2)}`;
  return next() < 0.6 ? name : next() < 0.8 ? `${name}:${below(next, 4)}` : `^${name}`;
}
const attribute = (name: string, ...value: readonly Field[]): Field =>
  messageField(5, "tfAttr", textField(1, name), messageField(2, "tfValue", ...value));
const functionAttribute = (name: string, f: string): Field => attribute(name, messageField(10, "tfFunc", textField(1, f)));
const withInput = (next: Random, m: Message): Message | undefined =>
  pick(
    next,
    nodesOf(m).filter((n) => fieldsOf(n, 3).length > 0),
  );

/** A chain of functions, each of which calls the one before `wide` times. */
function tower(depth: number, wide: number): Field[] {
  return Array.from({ length: depth }, (_, i) =>
    messageField(
      1,
      "tfFunction",
      messageField(
        1,
        "tfOpDef",
        textField(1, `tower${i}`),
        messageField(2, "tfArg", textField(1, "a"), intField(3, 1)),
        messageField(3, "tfArg", textField(1, "r"), intField(3, 1)),
      ),
      ...Array.from({ length: wide }, (__, k) =>
        messageField(
          3,
          "tfNode",
          textField(1, `n${k}`),
          textField(2, i === 0 ? "Neg" : `tower${i - 1}`),
          textField(3, k === 0 ? "a" : i === 0 ? `n${k - 1}:y:0` : `n${k - 1}:r:0`),
          attribute("T", intField(6, 1)),
        ),
      ),
      messageField(4, "tfRet", textField(1, "r"), textField(2, i === 0 ? `n${wide - 1}:y:0` : `n${wide - 1}:r:0`)),
    ),
  );
}

type Mutation = (m: Message, next: Random) => void;
const hostileMutations: Readonly<Record<string, Mutation>> = {
  "redirect an input": (m, next) => {
    const n = withInput(next, m);
    const f = n === undefined ? undefined : pick(next, fieldsOf(n, 3));
    if (n !== undefined && f !== undefined) f.value = textField(3, reference(m, n, next)).value;
  },
  "dangling input": (m, next) => {
    const n = withInput(next, m);
    const f = n === undefined ? undefined : pick(next, fieldsOf(n, 3));
    if (f !== undefined) f.value = textField(3, `${textOf(f)}${pick(next, ["x", ":7", ":-1", ":output:0", ":0:0:0"])}`).value;
  },
  "drop an input": (m, next) => dropOne(next, withInput(next, m), 3),
  "add an input": (m, next) => {
    const n = pick(next, nodesOf(m));
    n?.fields.push(textField(3, reference(m, n, next)));
  },
  "swap inputs": (m, next) => {
    const [a, b] = fieldsOf(withInput(next, m) ?? m, 3);
    if (a !== undefined && b !== undefined) [a.value, b.value] = [b.value, a.value];
  },
  cycle: (m, next) => {
    const n = withInput(next, m);
    const from = n === undefined ? undefined : pick(next, fieldsOf(n, 3));
    if (n === undefined) return;
    const before = siblings(m, n).find((x) => textOf(from).split(":")[0] === nameOf(x));
    const back = before === undefined ? undefined : pick(next, fieldsOf(before, 3));
    if (back !== undefined) back.value = textField(3, nameOf(n)).value;
    else before?.fields.push(textField(3, nameOf(n)));
  },
  "control flow loses a node": (m, next) => {
    const kinds = ["NextIteration", "Enter", "Exit", "LoopCond", "Switch", "Merge"];
    const n = pick(
      next,
      nodesOf(m).filter((x) => kinds.includes(opOf(x))),
    );
    if (n !== undefined) set(n, textField(2, next() < 0.7 ? "Identity" : (pick(next, kinds) ?? "")));
  },
  "other operator": (m, next) => {
    const n = pick(next, nodesOf(m));
    if (n !== undefined) set(n, textField(2, next() < 0.95 ? (pick(next, OPERATORS) ?? "") : "NobodyKnows"));
  },
  "rename a node": (m, next) => {
    const n = pick(next, nodesOf(m));
    if (n === undefined) return;
    const other = pick(next, siblings(m, n));
    set(n, textField(1, next() < 0.5 && other !== undefined ? nameOf(other) : (pick(next, TEXTS) ?? "")));
  },
  "drop a node": (m, next) => {
    const n = pick(next, nodesOf(m));
    const owner = n === undefined ? undefined : ownerOf(m, n);
    if (owner !== undefined) owner.fields = owner.fields.filter((f) => f.value !== n);
  },
  "repeat a node": (m, next) => {
    const n = pick(next, nodesOf(m));
    const owner = n === undefined ? undefined : ownerOf(m, n);
    const f = owner?.fields.find((x) => x.value === n);
    if (n !== undefined && f !== undefined) owner?.fields.push({ ...f, value: copyOf(n) });
  },
  "drop an attribute": (m, next) => dropOne(next, pick(next, nodesOf(m)), 5),
  "strange attribute": (m, next) => {
    const v = pick(next, all(m, "tfValue"));
    if (v === undefined) return;
    const kind = pick(next, [
      () => intField(6, next() < 0.8 ? BigInt(below(next, 35)) : strange(next)),
      () => intField(3, strange(next)),
      () => intField(5, BigInt(below(next, 2))),
      () => textField(2, pick(next, TEXTS) ?? ""),
      () =>
        messageField(7, "tfShape", ...Array.from({ length: below(next, 6) }, () => messageField(2, "tfDim", intField(1, strange(next))))),
      () => messageField(1, "tfList", ...Array.from({ length: below(next, 9) }, () => intField(3, strange(next)))),
      () =>
        messageField(
          10,
          "tfFunc",
          textField(
            1,
            pick(
              next,
              all(m, "tfOpDef").map((o) => textOf(fieldsOf(o, 1)[0])),
            ) ?? "none",
          ),
        ),
    ]);
    v.fields = kind === undefined ? [] : [kind()];
  },
  "unknown element type": (m, next) => {
    const t = pick(next, all(m, "tfTensor"));
    if (t !== undefined) set(t, intField(1, next() < 0.7 ? BigInt(below(next, 35)) : strange(next)));
  },
  "wrong dims": (m, next) => {
    const s = pick(next, all(m, "tfShape"));
    if (s === undefined) return;
    const dim = pick(next, messagesOf(s, 2));
    if (dim !== undefined && next() < 0.7) set(dim, intField(1, strange(next)));
    else if (next() < 0.5) s.fields.push(messageField(2, "tfDim", intField(1, strange(next))));
    else s.fields = next() < 0.5 ? [] : [intField(3, 1)];
  },
  "tensor bytes cut or grown": (m, next) => {
    const f = pick(
      next,
      all(m, "tfTensor").flatMap((t) => t.fields.filter((x) => x.value instanceof Uint8Array)),
    );
    if (!(f?.value instanceof Uint8Array)) return;
    f.value = next() < 0.6 ? f.value.slice(0, below(next, f.value.length)) : new Uint8Array(Buffer.concat([f.value, f.value]));
  },
  "function calls itself": (m, next) => {
    const f = pick(next, all(m, "tfFunction"));
    const [signature] = f === undefined ? [] : messagesOf(f, 1);
    const n = f === undefined ? undefined : pick(next, messagesOf(f, 3));
    if (signature === undefined || n === undefined) return;
    const own = textOf(fieldsOf(signature, 1)[0]);
    if (next() < 0.5) set(n, textField(2, own));
    else {
      set(n, textField(2, pick(next, ["PartitionedCall", "StatefulPartitionedCall", "While", "If"]) ?? ""));
      n.fields.push(...["f", "cond", "body", "then_branch", "else_branch"].map((key) => functionAttribute(key, own)));
    }
  },
  "functions in a tower": (m, next) => {
    const g = pick(next, all(m, "tfGraph"));
    const n = pick(next, nodesOf(m));
    if (g === undefined || n === undefined) return;
    const depth = pick(next, [1, 3, 20, 48, 60, 300]) ?? 1;
    g.fields.push(messageField(2, "tfLibrary", ...tower(depth, next() < 0.5 ? 1 : 4)));
    set(n, textField(2, `tower${depth - 1}`));
  },
  "function without something": (m, next) => {
    const f = pick(next, all(m, "tfFunction"));
    if (f !== undefined) dropOne(next, next() < 0.5 ? messagesOf(f, 1)[0] : f, pick(next, [1, 2, 3, 4]) ?? 1);
  },
  "function results from elsewhere": (m, next) => {
    const r = pick(next, all(m, "tfRet"));
    if (r !== undefined) set(r, textField(2, pick(next, ["a", "x:y:0", "x:y:9", "", ":", "x:y:z:0"]) ?? ""));
  },
  "library without a function": (m, next) => dropOne(next, pick(next, all(m, "tfLibrary")), 1),
  "strange text anywhere": (m, next) => {
    const f = pick(
      next,
      walk(m).flatMap((x) => x.fields.filter((y) => y.value instanceof Uint8Array && y.wire === 2)),
    );
    if (f !== undefined) f.value = textField(1, pick(next, TEXTS) ?? "").value;
  },
  "strange number anywhere": (m, next) => {
    const f = pick(
      next,
      walk(m).flatMap((x) => x.fields.filter((y) => typeof y.value === "bigint")),
    );
    if (f !== undefined) f.value = strange(next);
  },
  "drop a field anywhere": (m, next) => {
    const owner = pick(
      next,
      walk(m).filter((x) => x.fields.length > 0),
    );
    owner?.fields.splice(below(next, owner.fields.length), 1);
  },
  "attributes nested deep": (m, next) => {
    const v = pick(next, all(m, "tfValue"));
    if (v === undefined) return;
    let inner: Field = intField(3, 1);
    for (let d = pick(next, [3, 40, 70, 500]) ?? 1; d > 0; d--)
      inner = messageField(
        10,
        "tfFunc",
        textField(1, "f"),
        messageField(2, "tfAttr", textField(1, "k"), messageField(2, "tfValue", inner)),
      );
    v.fields = [inner];
  },
  "strange version": (m, next) => {
    for (const g of all(m, "tfGraph")) set(g, messageField(4, "tfVersions", intField(1, strange(next)), intField(2, strange(next))));
  },
};

/** What must not change a result: `kept` are the names of nodes that a user speaks of. */
const harmlessMutations: Readonly<Record<string, (g: Message, next: Random, kept: ReadonlySet<string>) => void>> = {
  "nodes in another order": (g, next) => {
    for (let i = g.fields.length - 1; i > 0; i--) {
      const j = below(next, i + 1);
      const [a, b] = [g.fields[i], g.fields[j]];
      if (a !== undefined && b !== undefined) [g.fields[i], g.fields[j]] = [b, a];
    }
  },
  "other names": (g, next, kept) => {
    const names = new Map(
      messagesOf(g, 1)
        .map(nameOf)
        .filter((n) => !kept.has(n))
        .map((n, i) => [n, `${pick(next, ["scope/", "a_", ""])}n${i}`]),
    );
    for (const n of messagesOf(g, 1)) {
      const own = names.get(nameOf(n));
      if (own !== undefined) set(n, textField(1, own));
      for (const f of fieldsOf(n, 3)) {
        const [, mark = "", name = "", port = ""] = /^(\^?)([^:]*)(.*)$/s.exec(textOf(f)) ?? [];
        f.value = textField(3, `${mark}${names.get(name) ?? name}${port}`).value;
      }
    }
  },
  "Identity in between": (g, next) => {
    const readers = messagesOf(g, 1).filter((n) => !CONTROL.test(opOf(n)));
    for (let k = 1 + below(next, 4); k > 0; k--) {
      const f = pick(
        next,
        readers.flatMap((n) => fieldsOf(n, 3).filter((x) => !textOf(x).startsWith("^"))),
      );
      if (f === undefined) return;
      const name = `between_${k}_${below(next, 1e9)}`;
      g.fields.push(messageField(1, "tfNode", textField(1, name), textField(2, "Identity"), { ...f, value: f.value }));
      f.value = textField(3, name).value;
    }
  },
  "unknown fields": (g, next) => {
    for (const m of walk(g)) if (next() < 0.3) m.fields.push(textField(1000 + below(next, 1000), "later version"));
  },
  "nodes that nobody reads": (g, next) => {
    const name = nameOf(pick(next, messagesOf(g, 1)) ?? g);
    g.fields.push(messageField(1, "tfNode", textField(1, "nobody/reads"), textField(2, "NobodyKnows"), textField(3, name)));
  },
  "devices and hints": (g) => {
    for (const n of messagesOf(g, 1)) n.fields.push(textField(4, "/job:worker/GPU:3"), attribute("_grappler", intField(3, 7)));
  },
};
/** What stands beside these has to be their own node: the frame is found by it. */
const CONTROL = /^(Ref)?(Enter|Exit|Merge|Switch|NextIteration|LoopCond)$/;

export function hostile(m: Message, next: Random): string {
  const hows: string[] = [];
  for (let i = next() < 0.75 ? 1 : 2 + below(next, 3); i > 0; i--) {
    const how = pick(next, Object.keys(hostileMutations)) ?? "";
    hostileMutations[how]?.(m, next);
    hows.push(how);
  }
  return hows.join(" + ");
}
export function harmless(g: Message, next: Random, kept: ReadonlySet<string>): string {
  const hows = Object.keys(harmlessMutations).filter(() => next() < 0.35);
  if (hows.length === 0) hows.push("nodes in another order");
  for (const how of hows) harmlessMutations[how]?.(g, next, kept);
  return hows.join(" + ");
}

/** Changes bytes, drops some, repeats some, cuts the end off. */
export function scramble(base: Uint8Array, next: Random): Uint8Array {
  let out = Uint8Array.prototype.slice.call(base);
  for (let k = 1 + below(next, 4); k > 0 && out.length > 0; k--) {
    const at = below(next, out.length);
    const how = below(next, 5);
    if (how === 0) out[at] = below(next, 256);
    else if (how === 1) out[at] = (out[at] ?? 0) ^ (1 << below(next, 8));
    else if (how === 2) out = new Uint8Array(Buffer.concat([out.subarray(0, at), out.subarray(at + 1 + below(next, 8))]));
    else if (how === 3)
      out = new Uint8Array(Buffer.concat([out.subarray(0, at), out.subarray(Math.max(0, at - below(next, 40)), at), out.subarray(at)]));
    else out = next() < 0.3 ? out.slice(0, at) : out;
  }
  return out;
}
