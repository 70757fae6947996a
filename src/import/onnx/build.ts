/**
 * Turns decoded records into a graph: names become values, old spellings the canonical one (by the registry's readings), local functions
 * are inlined, control-flow bodies become graphs with captures, Constant nodes become constants.
 */
import { defineError, didYouMean } from "../../diagnostics.js";
import { Editor, type NodeSpec } from "../../ir/edit.js";
import { NO_ATTRS } from "../../ir/graph.js";
import { int64Constant, makeConstant } from "../../ir/payload.js";
import type { Attr, Attrs, Body, Constant, Graph, ValueId, ValueType, Verbatim } from "../../ir/types.js";
import type { RawNode, Rewriter } from "../../ops/define.js";
import { readingOf } from "../../ops/registry.js";
import { MAX_DEPTH, tooDeep } from "./fields.js";
import { type NameId, type Names, NameTable } from "./names.js";
import type { RawAttr, RawFunction, RawGraph, RawModel, RawNodeProto } from "./records.js";

export const undefinedValue = defineError<{ name: string; near: string | undefined }>(
  "P1210",
  "a node reads a value that nothing defines",
  ({ name, near }) => ({
    what: `'${name}' is read and no node, input or initializer defines it`,
    fix:
      near === undefined
        ? "define the value, or drop the input, where the model is made"
        : `did the model mean '${near}'? Mend it where the model is made`,
  }),
);
export const definedTwice = defineError<{ name: string }>("P1211", "a value is defined twice", ({ name }) => ({
  what: `'${name}' is defined more than once`,
  why: "ONNX graphs are in static single assignment form",
  fix: "give each output, input and initializer a name of its own",
}));
export const endlessFunction = defineError<{ name: string; why: string }>(
  "P1212",
  "a model's local functions cannot be inlined",
  ({ name, why }) => ({
    what: `function '${name}' ${why}`,
    fix: "break the recursion, or inline the functions where the model is made",
  }),
);
export const namelessOperator = defineError<Record<never, never>>("P1213", "a node names no operator", () => ({
  what: "its op_type is empty",
  fix: "export the model again",
}));
export const noGraph = defineError<Record<never, never>>("P1214", "a model has no graph", () => ({
  what: "the model holds no graph",
  fix: "check that this is an ONNX model file and that it is whole",
}));
export const badOpset = defineError<{ domain: string; version: number }>(
  "P1215",
  "an operator set is missing or out of range",
  ({ domain, version }) => ({
    what:
      version === 0
        ? `the model imports no operator set for domain '${domain === "" ? "ai.onnx" : domain}'`
        : `operator set ${version} of domain '${domain === "" ? "ai.onnx" : domain}' does not exist`,
    fix: "export the model with a released operator set (ai.onnx 1 to 28)",
  }),
);
export const badAttribute = defineError<{ what: string }>("P1216", "an attribute is malformed", ({ what }) => ({
  what,
  fix: "export the model again",
}));

/** ai.onnx operator sets that are read. */
const NEWEST_OPSET = 28;
/**
 * Inlining may make this much, counted in nodes and the values and attributes they name, and this many times what the file holds: more is an
 * attack or a mistake (functions can double at every level).
 */
const MAX_INLINED = 2 ** 20;
const MAX_GROWTH = 8;
const MAX_CALLS = 100;
/** Characters that a name in a function, and those of the calls in front of it, keep at most: every call writes them again. */
const LONG_NAME = 1000;

interface Scope {
  readonly editor: Editor;
  /** A name bound to nothing is an absent input of a function. */
  readonly names: NameTable<ValueId> | Map<NameId, ValueId | undefined>;
  /** The enclosing graph of a body; undefined at the top and inside a function. */
  readonly parent: Scope | undefined;
  /** Values of `parent` that this scope's graph captures, in order of `editor.captures`. */
  readonly captured: ValueId[];
  readonly opsets: ReadonlyMap<string, number>;
  /** In front of names and node names, inside an inlined function. */
  readonly prefix: string;
  /** The outermost call, by its own name, that an inlined node comes from. */
  readonly origin: readonly string[] | undefined;
  /** Bodies around this one, those around the calls of inlined functions among them. */
  readonly depth: number;
  /** The calling node's attributes, for attribute references inside a function. */
  readonly attributes: ReadonlyMap<string, RawAttr> | undefined;
  readonly calls: readonly string[];
}

export class ModelBuilder {
  readonly #model: RawModel;
  readonly #names: Names;
  readonly #file: string | undefined;
  readonly #functions = new Map<string, RawFunction>();
  #inlined = 0;
  readonly #mayInline: number;
  /** The editor of the top graph. */
  #top: Editor | undefined;

  constructor(model: RawModel, file: string | undefined) {
    this.#model = model;
    this.#names = model.names;
    this.#file = file;
    const sizeOf = (f: RawFunction): number => f.nodes.reduce((a, n) => a + nodeSize(n), callSize(f));
    const written = model.functions.reduce((a, f) => a + sizeOf(f), 4 * (model.graph?.nodes.length ?? 0));
    this.#mayInline = MAX_INLINED + MAX_GROWTH * written;
    for (const f of model.functions) this.#functions.set(functionKey(f), f);
  }

  build(): Graph {
    const m = this.#model;
    if (m.graph === undefined) throw noGraph({}, { file: this.#file });
    const opset = m.opsets.get("") ?? (m.opsets.size === 0 && m.irVersion < 3 ? 1 : 0);
    if (opset > NEWEST_OPSET || opset < 0) throw badOpset({ domain: "", version: opset }, { file: this.#file });
    const opsets = new Map(m.opsets);
    if (opset > 0) opsets.set("", opset);
    const verbatim = keep(m.doc === "" ? undefined : m.doc, m.metadata, m.unknown);
    const initialized = new Set(m.graph.initializers.map((i) => i.name));
    const overridden = m.irVersion < 4 ? [] : m.graph.inputs.map((i) => i.name).filter((name) => initialized.has(name));
    const overridable = overridden.map((name) => this.#names.text(name));
    const editor = new Editor({
      name: m.graph.name,
      opsets: Object.fromEntries([...opsets].sort(([a], [b]) => (a < b ? -1 : 1))),
      extra: {
        ...verbatim,
        irVersion: m.irVersion,
        ...(overridable.length === 0 ? {} : { overridable }),
        producer: m.producer,
        ...(m.domain === "" ? {} : { modelDomain: m.domain }),
        ...(m.version === 0 ? {} : { modelVersion: m.version }),
        ...(this.#file === undefined ? {} : { file: this.#file }),
      },
    });
    this.#top = editor;
    this.#fill(
      {
        editor,
        names: new NameTable(),
        parent: undefined,
        captured: [],
        opsets,
        prefix: "",
        origin: undefined,
        depth: 0,
        attributes: undefined,
        calls: [],
      },
      m.graph,
    );
    return editor.finish();
  }

  #fill(scope: Scope, g: RawGraph): void {
    const { editor, names } = scope;
    const define = (name: NameId, type: ValueType | undefined): ValueId => {
      if (names.has(name)) throw definedTwice({ name: this.#names.text(name) }, { file: this.#file, value: this.#names.text(name) });
      const id = editor.declareUnique(this.#names.text(name), type);
      names.set(name, id);
      return id;
    };
    const constants = new Set<NameId>();
    for (const { name, constant } of g.initializers) {
      if (name === 0) throw undefinedValue({ name: "", near: undefined }, { file: this.#file });
      constants.add(name);
      editor.setConstant(define(name, undefined), constant);
    }
    // Up to IR version 3 every initializer is listed among the inputs; later ones list it to let callers override it. It is a constant here.
    const inputs = g.inputs.filter(({ name }) => !constants.has(name));
    editor.setInputs(inputs.map(({ name, type }) => define(name, type)));
    for (const name of g.nodes.outputs()) if (name !== 0) define(name, g.valueInfo.get(name));
    for (const n of g.nodes) this.#node(scope, n);
    const given = new Set([...editor.inputs, ...editor.captures]);
    editor.setOutputs(
      g.outputs.map(({ name, type }) => {
        const id = this.#resolve(scope, name, undefined);
        if (id === undefined) throw undefinedValue({ name: "", near: undefined }, { file: this.#file, value: this.#names.text(name) });
        if (type.kind !== "unknown" && editor.constant(id) === undefined && !given.has(id)) editor.setType(id, type);
        return id;
      }),
    );
  }

  /** The value a name stands for here; captures it from the enclosing graphs when needed. `undefined`: an absent optional input. */
  #resolve(scope: Scope, name: NameId, node: RawNodeProto | undefined): ValueId | undefined {
    if (name === 0) return undefined;
    const known = scope.names.get(name);
    if (known !== undefined || scope.names.has(name)) return known;
    const outer = scope.parent === undefined ? undefined : this.#find(scope.parent, name);
    if (outer === undefined || scope.parent === undefined) {
      const text = this.#names.text(name);
      const near =
        this.#names.count > 5000
          ? undefined
          : didYouMean(
              text,
              Array.from(scope.names.keys(), (k) => this.#names.text(k)),
            );
      throw undefinedValue({ name: text, near }, { ...(node === undefined ? { file: this.#file } : this.#where(node)), value: text });
    }
    return this.#capture(scope, scope.parent, name, outer);
  }
  #capture(scope: Scope, parent: Scope, name: NameId, outer: ValueId): ValueId {
    const id = scope.editor.addCapture(this.#names.text(name), parent.editor.type(outer));
    scope.names.set(name, id);
    scope.captured.push(outer);
    return id;
  }
  #find(scope: Scope, name: NameId): ValueId | undefined {
    if (scope.names.has(name)) return scope.names.get(name);
    if (scope.parent === undefined) return undefined;
    const outer = this.#find(scope.parent, name);
    return outer === undefined ? undefined : this.#capture(scope, scope.parent, name, outer);
  }

  /** A node as errors name it. */
  #where(n: RawNodeProto): { readonly file: string | undefined; readonly node: string | undefined; readonly op: string } {
    const [first] = n.outs;
    return { file: this.#file, node: n.name === "" ? (first === undefined ? undefined : this.#names.text(first)) : n.name, op: n.op };
  }

  /** Counts what inlining makes. Throws P1212 when it is too much. */
  #spend(scope: Scope, size: number, at: RawNodeProto): void {
    if (scope.calls.length === 0) return;
    this.#inlined += size;
    if (this.#inlined > this.#mayInline)
      throw endlessFunction(
        {
          name: scope.calls[0]?.split("\0")[1] ?? at.op,
          why: `would, with the others, become more than ${this.#mayInline} nodes and values`,
        },
        this.#where(at),
      );
  }

  #node(scope: Scope, n: RawNodeProto): void {
    this.#spend(scope, nodeSize(n), n);
    if (n.op === "") throw namelessOperator({}, this.#where(n));
    const called =
      this.#functions.size === 0
        ? undefined
        : (this.#functions.get(functionKey({ domain: n.domain, name: n.op, overload: n.overload })) ??
          this.#functions.get(functionKey({ domain: n.domain, name: n.op, overload: "" })));
    if (called !== undefined) {
      this.#inline(scope, n, called);
      return;
    }
    const { editor } = scope;
    let given = n.ins.length;
    while (given > 0 && n.ins[given - 1] === 0) given--;
    const ins = new Array<ValueId | undefined>(given);
    for (let i = 0; i < given; i++) ins[i] = this.#resolve(scope, n.ins[i] ?? 0, n);
    const outs = n.outs.map((name) => (name === 0 ? undefined : scope.names.get(name)));
    const attrs = this.#attributes(scope, n);
    const opset = scope.opsets.get(n.domain);
    if (opset === undefined && n.domain === "") throw badOpset({ domain: n.domain, version: 0 }, this.#where(n));
    if (n.domain === "" && n.op === "Constant" && outs[0] !== undefined) {
      const c = constantOfAttributes(attrs);
      if (c === undefined) throw badAttribute({ what: "a Constant has none of the value attributes" }, this.#where(n));
      editor.setConstant(outs[0], c);
      return;
    }
    const name = n.name === "" ? "" : within(scope.prefix, n.name);
    const { origin } = scope;
    const spec: NodeSpec = {
      op: n.op,
      domain: n.domain,
      name,
      ins,
      outs,
      attrs,
      origin,
      overload: n.overload === "" ? undefined : n.overload,
      extra: keep(n.doc === "" ? undefined : n.doc, n.metadata, n.unknown),
    };
    const found = readingOf(n.domain, n.op, opset ?? 1);
    if (found === undefined) editor.add(spec);
    else if (found.reading.adapt === undefined) editor.add(found.def.name === n.op ? spec : { ...spec, op: found.def.name });
    else {
      const raw: RawNode = { op: n.op, name, ins, outs, attrs, opset: opset ?? 1 };
      found.reading.adapt(
        raw,
        this.#rewriter(editor, raw, origin, () => editor.add(spec), this.#where(n)),
      );
    }
  }

  #rewriter(
    editor: Editor,
    raw: RawNode,
    origin: readonly string[] | undefined,
    asItIs: () => void,
    where: { node: string | undefined },
  ): Rewriter {
    const stem = raw.name === "" ? (where.node ?? raw.op.toLowerCase()) : raw.name;
    return {
      emit: (op, ins, attrs, outs, domain) => {
        const spec =
          typeof outs === "object"
            ? outs
            : Array.from({ length: outs ?? 1 }, (_, i) => editor.declare(`${stem}/${op.toLowerCase()}${i === 0 ? "" : `:${i}`}`));
        const node = editor.add({ op, domain: domain ?? "", name: raw.name, ins, outs: spec, attrs: attrs ?? NO_ATTRS, origin });
        return node.outs.map((v) => v as ValueId);
      },
      constant: (c) => editor.addConstant(`${stem}/const`, c),
      int64: (values) => editor.addConstant(`${stem}/const`, int64Constant(values)),
      constantOf: (v) => editor.constant(v),
      typeOf: (v) => (v === undefined ? { kind: "unknown" } : editor.type(v)),
      keep: asItIs,
    };
  }

  #inline(scope: Scope, call: RawNodeProto, f: RawFunction): void {
    const key = functionKey(f);
    const where = this.#where(call);
    if (scope.calls.includes(key)) throw endlessFunction({ name: f.name, why: "calls itself" }, where);
    if (scope.calls.length >= MAX_CALLS) throw endlessFunction({ name: f.name, why: `is called more than ${MAX_CALLS} deep` }, where);
    const [first] = call.outs;
    const stem = call.name !== "" ? call.name : first === undefined ? f.name : this.#names.text(first);
    const names = new Map<NameId, ValueId | undefined>();
    f.ins.forEach((name, i) => names.set(name, this.#resolve(scope, call.ins[i] ?? 0, call)));
    const results = new Map<NameId, ValueId>();
    f.outs.forEach((name, i) => {
      const target = call.outs[i];
      const id = target === undefined || target === 0 ? undefined : scope.names.get(target);
      if (id !== undefined && !results.has(name)) results.set(name, id);
    });
    const attributes = new Map(f.defaults.map((a) => [a.name, a]));
    for (const a of call.attrs ?? []) {
      // What the caller was not given either is not given here: the function's own default holds.
      const given = this.#referred(scope, call, a);
      if (given !== undefined) attributes.set(a.name, given);
    }
    // The operators of a function are those of its own sets, whether the model imports them too or not.
    for (const [domain, version] of f.opsets)
      if (domain !== "" && version > (this.#top?.opsets[domain] ?? 0)) this.#top?.setOpset(domain, version);
    const prefix = scope.prefix.length + stem.length < LONG_NAME ? `${scope.prefix}${stem}/` : scope.prefix;
    const origin = scope.origin ?? [stem];
    const inner: Scope = {
      editor: scope.editor,
      names,
      parent: undefined,
      captured: [],
      opsets: f.opsets.size > 0 ? f.opsets : scope.opsets,
      prefix,
      origin,
      depth: scope.depth,
      attributes,
      calls: [...scope.calls, key],
    };
    this.#spend(inner, callSize(f), call);
    for (const n of f.nodes) {
      for (const name of n.outs) {
        if (name === 0) continue;
        const text = this.#names.text(name);
        if (names.has(name)) throw definedTwice({ name: text }, { ...where, value: text });
        names.set(name, results.get(name) ?? scope.editor.declare(within(prefix, text)));
      }
    }
    for (const n of f.nodes) this.#node(inner, n);
    // An output that is one of the function's inputs (or asked for twice) has no node of its own.
    f.outs.forEach((name, i) => {
      const target = call.outs[i];
      const id = target === undefined || target === 0 ? undefined : scope.names.get(target);
      const source = this.#resolve(inner, name, call);
      if (id !== undefined && source !== undefined && id !== source)
        scope.editor.add({ op: "Identity", ins: [source], outs: [id], name: stem, origin });
    });
  }

  // ---- attributes -------------------------------------------------------------------------------------------------------------------------

  #attributes(scope: Scope, n: RawNodeProto): Attrs {
    if (n.attrs === undefined) return NO_ATTRS;
    const attrs: Record<string, Attr> = {};
    for (const raw of n.attrs) {
      const a = this.#referred(scope, n, raw);
      if (a === undefined) continue;
      if (a.name in attrs && Object.hasOwn(attrs, a.name))
        throw badAttribute({ what: "it is given twice" }, { ...this.#where(n), attribute: a.name });
      const value = this.#attribute(scope, n, a);
      // "__proto__" and its like are ordinary names to ONNX.
      if (a.name in attrs) Object.defineProperty(attrs, a.name, { value, enumerable: true, configurable: true, writable: true });
      else attrs[a.name] = value;
    }
    return attrs;
  }

  /** The attribute itself, or the one of the function's call that it refers to; undefined when the call gives none. */
  #referred(scope: Scope, n: RawNodeProto, a: RawAttr): RawAttr | undefined {
    if (a.ref === undefined || a.ref === "") return a;
    if (scope.attributes === undefined)
      throw badAttribute(
        { what: `it refers to a function's attribute '${a.ref}', and the node is in no function` },
        { ...this.#where(n), attribute: a.name },
      );
    const given = scope.attributes.get(a.ref);
    return given === undefined ? undefined : { ...given, name: a.name };
  }

  #attribute(scope: Scope, n: RawNodeProto, a: RawAttr): Attr {
    const fail = (what: string): never => {
      throw badAttribute({ what }, { ...this.#where(n), attribute: a.name });
    };
    const type = a.type !== 0 ? a.type : guessType(a);
    switch (type) {
      case 1:
        return { kind: "float", value: a.f ?? 0 };
      case 2:
        return { kind: "int", value: a.i ?? 0 };
      case 3:
        return { kind: "string", value: utf8(a.s ?? new Uint8Array(0)) };
      case 4:
        return { kind: "tensor", value: a.t ?? fail("it is of type TENSOR and holds none") };
      case 5:
        return { kind: "graph", value: this.#body(scope, n, a.g ?? fail("it is of type GRAPH and holds none")) };
      case 6:
        return { kind: "floats", value: a.floats ?? [] };
      case 7:
        return { kind: "ints", value: a.ints ?? [] };
      case 8:
        return { kind: "strings", value: a.strings ?? [] };
      case 9:
        return { kind: "tensors", value: a.tensors ?? [] };
      case 10:
        return { kind: "graphs", value: (a.graphs ?? []).map((g) => this.#body(scope, n, g)) };
      case 11:
        return { kind: "tensor", value: a.sparse ?? fail("it is of type SPARSE_TENSOR and holds none") };
      case 13:
        return { kind: "type", value: a.tp ?? fail("it is of type TYPE_PROTO and holds none") };
      case 14:
        return { kind: "types", value: a.types ?? [] };
      default:
        return fail(type === 0 ? "it holds no value" : `its type ${type} is unknown`);
    }
  }

  #body(scope: Scope, n: RawNodeProto, g: RawGraph): Body {
    // What is decoded is within the limit; functions put bodies into bodies.
    if (scope.depth >= MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, this.#where(n));
    this.#spend(scope, 4 * g.initializers.length + g.inputs.length + g.outputs.length, n);
    const verbatim = keep(g.doc, g.metadata, g.unknown);
    const editor = new Editor({ name: g.name, opsets: {}, ...(verbatim === undefined ? {} : { extra: verbatim }) });
    const inner: Scope = {
      editor,
      names: new Map(),
      parent: scope,
      captured: [],
      opsets: scope.opsets,
      prefix: scope.prefix,
      origin: scope.origin,
      depth: scope.depth + 1,
      attributes: scope.attributes,
      calls: scope.calls,
    };
    this.#fill(inner, g);
    return { graph: editor.finish(), captures: inner.captured };
  }
}

/** A name of a function's inside, as it stands in the graph. */
const within = (prefix: string, name: string): string => (prefix === "" ? name : prefix + name.slice(0, LONG_NAME));

/** What a node, or a call of a function without its nodes, counts for when it is inlined. */
const nodeSize = (n: RawNodeProto): number => 1 + n.ins.length + n.outs.length + (n.attrs?.length ?? 0);
const callSize = (f: RawFunction): number => 1 + f.ins.length + f.outs.length + f.defaults.length;

const functionKey = (f: { readonly domain: string; readonly name: string; readonly overload: string }): string =>
  `${f.domain}\0${f.name}\0${f.overload}`;

function keep(
  doc: string | undefined,
  metadata: readonly [string, string][] | undefined,
  unknown: Uint8Array | undefined,
): Verbatim | undefined {
  if (doc === undefined && metadata === undefined && unknown === undefined) return undefined;
  return {
    ...(doc === undefined ? {} : { doc }),
    ...(metadata === undefined ? {} : { metadata }),
    ...(unknown === undefined ? {} : { unknown }),
  };
}

/** Old files leave out the type; the field that is there says it. */
function guessType(a: RawAttr): number {
  if (a.f !== undefined) return 1;
  if (a.i !== undefined) return 2;
  if (a.s !== undefined) return 3;
  if (a.t !== undefined) return 4;
  if (a.g !== undefined) return 5;
  if (a.floats !== undefined) return 6;
  if (a.ints !== undefined) return 7;
  if (a.strings !== undefined) return 8;
  if (a.tensors !== undefined) return 9;
  if (a.graphs !== undefined) return 10;
  if (a.sparse !== undefined) return 11;
  if (a.tp !== undefined) return 13;
  return 0;
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** Attribute strings are bytes; what is UTF-8 becomes text. */
function utf8(bytes: Uint8Array): string | Uint8Array {
  try {
    return decoder.decode(bytes);
  } catch {
    return bytes;
  }
}

/** The tensor a Constant node's attributes say, in any of their forms. */
function constantOfAttributes(attrs: Attrs): Constant | undefined {
  const a = attrs["value"] ?? attrs["sparse_value"];
  if (a?.kind === "tensor") return a.value;
  const text = (s: string | Uint8Array): Uint8Array => (typeof s === "string" ? Buffer.from(s, "utf8") : s);
  for (const [key, v] of Object.entries(attrs)) {
    if (key === "value_int" && v.kind === "int") return makeConstant("int64", [], [v.value]);
    if (key === "value_ints" && v.kind === "ints") return makeConstant("int64", [v.value.length], v.value);
    if (key === "value_float" && v.kind === "float") return makeConstant("float32", [], [v.value]);
    if (key === "value_floats" && v.kind === "floats") return makeConstant("float32", [v.value.length], v.value);
    if (key === "value_string" && v.kind === "string")
      return { dtype: "string", dims: [], data: { kind: "strings", values: [text(v.value)] } };
    if (key === "value_strings" && v.kind === "strings")
      return { dtype: "string", dims: [v.value.length], data: { kind: "strings", values: v.value.map(text) } };
  }
  return undefined;
}
