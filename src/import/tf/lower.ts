/**
 * Lowers a TensorFlow graph from its outputs backwards: every node that an output needs becomes canonical nodes, once per scope. A scope is
 * the graph, an inlined function, a branch or a loop body; values of enclosing scopes are captured by the builder.
 */
import { defineError, didYouMean, PartitaError } from "../../diagnostics.js";
import type { Attrs, ValueType } from "../../ir/types.js";
import type { Operator } from "../../ops/javascript.js";
import type { TfAttr, TfValue } from "../../ops/tf/define.js";
import { lookupTf } from "../../ops/tf/registry.js";
import { dtypeFromTf, tfTypeName } from "../../ops/tf/types.js";
import { inferredTypes } from "../operators.js";
import { type Builder, refused, type Shared, tooDeep, tooMany } from "./builder.js";
import { controlError, lowerIf, lowerLoop } from "./control.js";
import { Frames } from "./frames.js";
import { ARGUMENT, malformed, type RawFunction, type RawGraph, type RawModel, type RawNode, type Ref, refText } from "./graph.js";
import { NodeView } from "./node-view.js";
import { handleOf, State } from "./state.js";

export const cyclic = defineError<{ nodes: readonly string[] }>("P1305", "a TensorFlow graph has a cycle", ({ nodes }) => ({
  what: `these nodes wait for each other: ${nodes.map((n) => `'${n}'`).join(", ")}`,
  why: "only NextIteration may lead back",
  fix: "freeze or save the model again; the graph was edited by hand",
}));
export const badFunction = defineError<{ what: string }>("P1306", "a function cannot be inlined", ({ what }) => ({
  what,
  fix: "save the model again with its function library, without recursion",
}));

export const strange = defineError<{ what: string }>("P1335", "an operator's operands make no sense together", ({ what }) => ({
  what: `its operands cannot be read: ${what}`,
  fix: "freeze or save the model again; if TensorFlow runs it, report this as a defect",
}));

/** Variables of TensorFlow 1: what takes one reads it. */
const REFERENCES: ReadonlySet<string> = new Set(["Variable", "VariableV2"]);
const READS: ReadonlySet<string> = new Set(["ReadVariableOp", "_ReadVariablesOp", "ResourceGather", "ResourceGatherNd"]);
const MAX_CALLS = 50;
/** Scopes inside each other, one evaluation waiting for the next. */
const MAX_DEPTH = 400;
/** Lowered TensorFlow nodes per node of the file: functions that call each other many times over stop here. */
const GROWTH = 100;
const SLACK = 20_000;

/** Where nodes are lowered: their builder, their names, and whose values they may see. */
export interface Scope {
  readonly graph: RawGraph;
  readonly builder: Builder;
  /** The scope of the same graph around this one, for nodes that do not belong here. */
  readonly outer: Scope | undefined;
  readonly belongs: ((node: string) => boolean) | undefined;
  readonly values: Map<string, readonly (TfValue | undefined)[]>;
  readonly open: Set<string>;
  /** The attributes of the call, for a function's placeholders. */
  readonly attrs: ReadonlyMap<string, TfAttr> | undefined;
  /** Functions being inlined, outermost first. */
  readonly calls: readonly string[];
  /** Names of the nodes that called them. */
  readonly path: string;
  /** Branch of a Switch: its predicate. */
  readonly predicate?: string | undefined;
}

export interface Inputs {
  /** The value of an input node, or of a cut tensor (`node:port`), made on first use. */
  readonly placeholder: (node: RawNode, view: NodeView) => TfValue;
  readonly variable: (node: RawNode, view: NodeView) => TfValue;
  /** The results that are asked for; port -1 means all of a node's. */
  readonly roots: readonly Ref[];
  /** The operator that the user supplies for nodes of a name: they are kept for that. */
  readonly supplied: (op: string) => Operator | undefined;
  /** Replaced results by node name. */
  readonly cuts: ReadonlyMap<string, ReadonlyMap<number, TfValue>>;
}

export class Lowering {
  readonly model: RawModel;
  readonly shared: Shared;
  readonly #inputs: Inputs;
  readonly #frames = new Map<RawGraph, Frames>();
  readonly #names = new Map<string, string>();
  readonly #taken: Set<string>;
  readonly #counters = new Map<string, number>();
  readonly #ports = new Map<string, string[]>();
  readonly refusals: PartitaError[] = [];
  readonly #state: State;
  /** Variables that a remark has named. */
  readonly #told = new Set<string>();
  #lowered = 0;
  #depth = 0;
  readonly #limit: number;

  constructor(model: RawModel, shared: Shared, inputs: Inputs) {
    this.model = model;
    this.shared = shared;
    this.#inputs = inputs;
    this.#state = new State(model);
    this.#taken = new Set(model.nodes.keys());
    let total = model.nodes.size;
    for (const f of model.functions.values()) total += f.nodes.size;
    this.#limit = total * GROWTH + SLACK;
  }

  frames(graph: RawGraph): Frames {
    let f = this.#frames.get(graph);
    if (f === undefined) {
      const roots = graph === this.model ? this.#inputs.roots : (graph as RawFunction).rets;
      f = new Frames(graph, roots, this.shared.file);
      this.#frames.set(graph, f);
    }
    return f;
  }

  /** The value a reference stands for. */
  value(scope: Scope, ref: Ref): TfValue {
    this.#demand(scope, [ref.node]);
    return this.#result(scope, ref);
  }
  values(scope: Scope, refs: readonly Ref[]): readonly TfValue[] {
    this.#demand(
      scope,
      refs.map((r) => r.node),
    );
    return refs.map((r) => this.#result(scope, r));
  }
  /** All results of a node. */
  results(scope: Scope, node: string): readonly (TfValue | undefined)[] {
    this.#demand(scope, [node]);
    return scope.values.get(node) ?? [];
  }

  #result(scope: Scope, ref: Ref): TfValue {
    const results = scope.values.get(ref.node) ?? [];
    const v = results[this.#port(scope, ref)];
    if (v === undefined)
      throw malformed(
        { what: `'${refText(ref)}' is read, and '${ref.node}' has ${results.length} results` },
        { file: this.shared.file, node: ref.node },
      );
    return v;
  }

  /** Function bodies name results by output argument; graphs count them. */
  #port(scope: Scope, ref: Ref): number {
    if (ref.argument === undefined) return ref.port;
    const op = scope.graph.nodes.get(ref.node)?.op ?? "";
    const def = lookupTf(op);
    const f = this.model.functions.get(op);
    const outs = this.#inputs.supplied(op)?.outputs ?? def?.outs ?? f?.retNames;
    if (outs !== undefined) {
      const at = outs.indexOf(ref.argument);
      if (at < 0)
        throw malformed(
          { what: `'${refText(ref)}' is read, and ${op} has no result '${ref.argument}'` },
          { file: this.shared.file, node: ref.node },
        );
      return at + ref.port;
    }
    if (def !== undefined) return ref.port;
    // An operator nobody knows: its results are numbered as they are first asked for.
    const key = `${ref.node}|${op}`;
    const seen = this.#ports.get(key) ?? [];
    this.#ports.set(key, seen);
    const name = `${ref.argument}:${ref.port}`;
    if (!seen.includes(name)) seen.push(name);
    return seen.indexOf(name);
  }

  /** Lowers `roots` and what they need, without recursion over the graph's depth. */
  #demand(scope: Scope, roots: readonly string[]): void {
    if (++this.#depth > MAX_DEPTH) throw tooDeep({ limit: MAX_DEPTH }, scope.builder.place);
    try {
      this.#demandAll(scope, roots);
    } finally {
      this.#depth--;
    }
  }
  #demandAll(scope: Scope, roots: readonly string[]): void {
    /** Nodes that this call waits for; an open one that is not among them waits for this call. */
    const started = new Set<string>();
    const stack = [...roots].reverse();
    for (let name = stack[stack.length - 1]; name !== undefined; name = stack[stack.length - 1]) {
      if (scope.values.has(name)) {
        stack.pop();
        continue;
      }
      const node = scope.graph.nodes.get(name);
      if (node === undefined) throw this.#dangling(scope, name);
      if (scope.open.has(name) && !started.has(name)) throw cyclic({ nodes: [name] }, { file: this.shared.file, node: name, op: node.op });
      if (!started.has(name)) {
        if (scope.outer !== undefined && scope.belongs?.(name) === false) {
          scope.values.set(name, this.results(scope.outer, name));
          continue;
        }
        scope.open.add(name);
        started.add(name);
        const pending = this.#needs(scope, node).filter((n) => !scope.values.has(n));
        if (pending.length > 0) {
          for (const p of pending) {
            if (scope.open.has(p)) throw cyclic({ nodes: [p, name] }, { file: this.shared.file, node: name, op: node.op });
            stack.push(p);
          }
          continue;
        }
      }
      const results = this.#lower(scope, node);
      scope.values.set(name, results);
      scope.open.delete(name);
      stack.pop();
    }
  }

  /** The nodes whose values a node's lowering will ask for in this scope. */
  #needs(scope: Scope, node: RawNode): readonly string[] {
    if (this.#inputs.cuts.has(node.name) && scope.calls.length === 0) return [];
    switch (node.op) {
      case "Exit":
      case "RefExit":
        return this.frames(scope.graph)
          .loop(node)
          .enters.map((e) => e.ins[0]?.node ?? "");
      case "Merge":
      case "RefMerge":
        return this.frames(scope.graph).branch(node).needs;
      case "Switch":
      case "RefSwitch":
        return node.ins.slice(0, 1).map((r) => r.node);
      default:
        return node.ins.map((r) => r.node);
    }
  }

  #dangling(scope: Scope, name: string): PartitaError {
    const near = scope.graph.nodes.size > 5000 ? undefined : didYouMean(name, scope.graph.nodes.keys());
    return malformed(
      { what: `'${name}' is read and no node has that name${near === undefined ? "" : `; '${near}' is near`}` },
      { file: this.shared.file, value: name },
    );
  }

  /** A node's name as reports show it: its own; in a function called more than once, below the caller's. */
  display(scope: Scope, node: RawNode): string {
    if (scope.calls.length === 0) return node.name;
    const key = `${scope.path}|${node.name}`;
    const known = this.#names.get(key);
    if (known !== undefined) return known;
    let name = node.name;
    if (this.#taken.has(name)) name = `${scope.path}/${node.name}`;
    const stem = name;
    // Counting goes on where it stopped: functions inlined thousands of times would search thousands of names each.
    for (let i = this.#counters.get(stem) ?? 1; this.#taken.has(name); i++) {
      name = `${stem}_${i}`;
      this.#counters.set(stem, i + 1);
    }
    this.#taken.add(name);
    this.#names.set(key, name);
    return name;
  }

  #lower(scope: Scope, node: RawNode): readonly (TfValue | undefined)[] {
    if (++this.#lowered > this.#limit) throw tooMany({ limit: this.#limit }, { file: this.shared.file, node: node.name });
    const cut = scope.calls.length === 0 ? this.#inputs.cuts.get(node.name) : undefined;
    if (cut !== undefined) return Array.from({ length: Math.max(...cut.keys()) + 1 }, (_, i) => cut.get(i));
    const b = scope.builder;
    const name = this.display(scope, node);
    const before = [b.node, b.op_, b.origin] as const;
    [b.node, b.op_, b.origin] = [name, node.op, [name]];
    try {
      const results = this.#rule(scope, node, name);
      b.finish(results, name);
      return results;
    } catch (error) {
      if (!(error instanceof PartitaError) || !RECOVERABLE.has(error.code)) throw error;
      return this.#keep(scope, node, name, error);
    } finally {
      [b.node, b.op_, b.origin] = before;
    }
  }

  #rule(scope: Scope, node: RawNode, name: string): readonly (TfValue | undefined)[] {
    const b = scope.builder;
    const view = (ins: readonly TfValue[]): NodeView => new NodeView(node, name, ins, scope.attrs, this.shared.file);
    const operands = (): readonly TfValue[] => node.ins.map((r, i) => this.#handed(scope, node, i, this.value(scope, r)));
    switch (node.op) {
      case "Placeholder":
      case "PlaceholderV2":
        return [this.#inputs.placeholder(node, view([]))];
      case "VariableV2":
      case "Variable":
      case "VarHandleOp":
        return [this.#inputs.variable(node, view([]))];
      case "Exit":
      case "RefExit":
        return [this.frames(scope.graph).exit(this, scope, node)];
      case "Merge":
      case "RefMerge":
        return this.frames(scope.graph).merge(this, scope, node);
      case "Switch":
      case "RefSwitch": {
        // On a branch both ports are the data; a Switch without Merge gives what TensorFlow gives where it gives anything.
        const [data] = node.ins;
        if (data === undefined) throw malformed({ what: "a Switch has no data" }, b.place);
        const v = this.value(scope, data);
        return [v, v];
      }
      case "Enter":
      case "RefEnter":
      case "NextIteration":
      case "RefNextIteration":
      case "LoopCond":
        return operands().slice(0, 1);
      case "PartitionedCall":
      case "StatefulPartitionedCall": {
        const v = view(operands());
        const f = v.func("f");
        return this.call(scope, f.name, v.ins, b, f.attrs, name);
      }
      case "If":
      case "StatelessIf": {
        const [test, ...rest] = operands();
        const v = view([]);
        const branch = (key: string) => (inner: Builder) => {
          const f = v.func(key);
          return this.call(scope, f.name, rest, inner, f.attrs, name);
        };
        return lowerIf(b, test, { yes: branch("then_branch"), no: branch("else_branch") });
      }
      case "Case":
      case "StatelessCase":
        return this.#case(scope, view(operands()), name);
      case "While":
      case "StatelessWhile":
        return this.#while(scope, view(operands()), name);
      default:
        return this.#operator(scope, node, view(operands()), name);
    }
  }

  /** An operand; that of a variable which the graph changes says so to whom it is handed, and is refused where it is read afterwards. */
  #handed(scope: Scope, node: RawNode, i: number, v: TfValue): TfValue {
    const changes = this.#state.changes(scope.graph, scope.graph === this.model ? this.frames(this.model).needed() : undefined);
    const before = v.kind === "variable" ? v.changed : undefined;
    if (before === undefined && changes.size === 0) return v;
    const direct = scope.graph.nodes.get(node.ins[i]?.node ?? "");
    const reference = direct !== undefined && REFERENCES.has(direct.op);
    if (v.kind !== "variable" && !reference) return v;
    let changed = before;
    for (const c of changes.get(handleOf(scope.graph, direct?.name) ?? "") ?? [])
      changed = { by: c.by.name, stale: changed?.stale === true || c.after.has(node.name) };
    if (changed === undefined) return v;
    if (reference || (i === 0 && READS.has(node.op))) {
      const variable = v.kind === "variable" ? v.name : (direct?.name ?? "");
      if (changed.stale)
        throw refused(
          {
            why: `it reads variable '${variable}' after '${changed.by}' has changed it; here variables are constants`,
            fix: "export the model for inference, without what changes its variables",
          },
          scope.builder.place,
        );
      if (!this.#told.has(variable))
        this.shared.remarks({
          severity: "warning",
          text: `in TensorFlow '${changed.by}' changes variable '${variable}' in every run; here every run begins with the value that was saved`,
          where: scope.builder.place,
          fix: "where that matters, make the state an input and an output of the model, and carry it with `session.stream`",
        });
      this.#told.add(variable);
    }
    return v.kind === "variable" ? { ...v, changed } : v;
  }

  #operator(scope: Scope, node: RawNode, view: NodeView, name: string): readonly (TfValue | undefined)[] {
    const b = scope.builder;
    if (this.#inputs.supplied(node.op) !== undefined) return this.#leave(scope, node, view, undefined);
    const def = lookupTf(node.op);
    if (def === undefined) {
      if (this.model.functions.has(node.op)) {
        const attrs = new Map<string, TfAttr>();
        for (const key of node.attrs.keys()) {
          const a = view.attr(key);
          if (a !== undefined) attrs.set(key, a);
        }
        return this.call(scope, node.op, view.ins, b, attrs, name);
      }
      return view.refuse(`operator ${node.op} is not known`);
    }
    if (def.rule.kind === "absent") return view.refuse(`${node.op}: ${def.rule.why}`, def.rule.fix);
    if (def.rule.kind === "structure") throw controlError({ what: `${node.op} stands where it has no meaning` }, b.place);
    let results: TfValue | readonly TfValue[];
    try {
      results = def.rule.lower(view, b);
    } catch (error) {
      if (error instanceof PartitaError) throw error;
      // A rule that stumbles has met operands that TensorFlow would refuse as well.
      throw strange({ what: error instanceof Error ? error.message : String(error) }, b.place, error);
    }
    return Array.isArray(results) ? (results as readonly TfValue[]) : [results as TfValue];
  }

  /** Inlines a function and gives its results. */
  call(
    scope: Scope,
    name: string,
    args: readonly TfValue[],
    b: Builder,
    attrs: ReadonlyMap<string, TfAttr>,
    caller: string,
  ): readonly TfValue[] {
    const f = this.#function(scope, name, b);
    const inner = this.#enter(scope, f, args, b, attrs, caller);
    return this.values(inner, f.rets);
  }
  #function(scope: Scope, name: string, b: Builder): RawFunction {
    const f = this.model.functions.get(name);
    if (f === undefined) throw badFunction({ what: `function '${name}' is called, and the library does not have it` }, b.place);
    if (scope.calls.includes(name)) throw badFunction({ what: `function '${name}' calls itself` }, b.place);
    if (scope.calls.length >= MAX_CALLS) throw badFunction({ what: `functions are nested more than ${MAX_CALLS} deep` }, b.place);
    return f;
  }
  #enter(scope: Scope, f: RawFunction, args: readonly TfValue[], b: Builder, attrs: ReadonlyMap<string, TfAttr>, caller: string): Scope {
    const values = new Map<string, readonly TfValue[]>();
    const lists = f.args.some((a) => (a.number_attr ?? a.type_list_attr ?? "") !== "");
    if (!lists && args.length < f.args.length)
      throw badFunction({ what: `function '${f.name}' takes ${f.args.length} arguments, ${args.length} are given` }, b.place);
    let at = 0;
    for (const a of f.args) {
      let width = 1;
      if ((a.number_attr ?? "") !== "") {
        const n = attrs.get(a.number_attr ?? "");
        width = n?.kind === "int" ? Number(n.value) : 1;
      } else if ((a.type_list_attr ?? "") !== "") {
        const n = attrs.get(a.type_list_attr ?? "");
        width = n?.kind === "list" ? n.types.length : args.length - at;
      }
      values.set(a.name ?? "", args.slice(at, at + width));
      at += width;
    }
    return {
      graph: f,
      builder: b,
      outer: undefined,
      belongs: undefined,
      values,
      open: new Set(),
      attrs,
      calls: [...scope.calls, f.name],
      path: caller,
    };
  }

  #while(scope: Scope, view: NodeView, name: string): readonly TfValue[] {
    const [cond, body] = [view.func("cond"), view.func("body")];
    const f = this.#function(scope, body.name, scope.builder);
    return lowerLoop(scope.builder, {
      initials: view.ins,
      invariant: view.ins.map((_, i) => isArgument(f, i)),
      cond: (b, vars) => this.#one(this.call(scope, cond.name, vars, b, cond.attrs, `${name}/cond`), b),
      body: (b, vars) => this.call(scope, body.name, vars, b, body.attrs, name),
    });
  }
  #one(values: readonly TfValue[], b: Builder): TfValue {
    const [v] = values;
    if (v === undefined) throw controlError({ what: "a loop's condition has no result" }, b.place);
    return v;
  }

  #case(scope: Scope, view: NodeView, name: string): readonly TfValue[] {
    const list = view.attr("branches");
    const branches = list?.kind === "list" ? list.funcs : [];
    const index = scope.builder.cast(view.in(0), "int64");
    const args = view.ins.slice(1);
    // An index out of range means the last branch.
    const from = (at: number, b: Builder): readonly TfValue[] => {
      const f = branches[at];
      if (f === undefined) throw controlError({ what: "a Case has no branches" }, b.place);
      const run = (inner: Builder): readonly TfValue[] => this.call(scope, f.name, args, inner, f.attrs, name);
      if (at === branches.length - 1) return run(b);
      return lowerIf(b, b.op("Equal", [index, b.int64(at)]), { yes: run, no: (inner) => from(at + 1, inner) });
    };
    return from(0, scope.builder);
  }

  /** A node without lowering stays as it is, with the reason; nothing runs it, and what does not need it does not care. */
  #keep(scope: Scope, node: RawNode, name: string, error: PartitaError): readonly (TfValue | undefined)[] {
    this.refusals.push(error);
    const ins: TfValue[] = [];
    for (const r of node.ins) {
      const v = scope.values.get(r.node)?.[this.#port(scope, r)];
      if (v?.kind === "tensor") ins.push(v);
    }
    return this.#leave(scope, node, new NodeView(node, name, ins, scope.attrs, this.shared.file), error.what);
  }
  #leave(scope: Scope, node: RawNode, view: NodeView, why: string | undefined): readonly (TfValue | undefined)[] {
    const b = scope.builder;
    const [ins, attrs, operator] = [view.list(0), plainAttrs(view, node), this.#inputs.supplied(node.op)];
    const ports = Math.max(1, this.frames(scope.graph).ports(node.name), operator?.outputs?.length ?? 0);
    const inputs = ins.map((v) => v.fact.type);
    const said = operator === undefined ? [] : inferredTypes(operator, inputs, attrs, b.place);
    const guess = guessedType(view);
    const types = Array.from({ length: ports }, (_, i) => said[i] ?? guess);
    return b.verbatim(node.op, ins, attrs, types, why);
  }
}

/** A node's attributes in ONNX's kinds: types by name, shapes as lists with -1, lists of one kind; functions have none. */
function plainAttrs(view: NodeView, node: RawNode): Attrs {
  const attrs: Record<string, Attrs[string]> = {};
  const utf8 = (s: Uint8Array): string => Buffer.from(s).toString("utf8");
  const typeName = (t: number): string => dtypeFromTf(t) ?? tfTypeName(t);
  for (const key of node.attrs.keys()) {
    const a = view.attr(key);
    switch (a?.kind) {
      case "int":
      case "float":
      case "tensor":
        attrs[key] = a as Attrs[string];
        break;
      case "string":
        attrs[key] = { kind: "string", value: utf8(a.value) };
        break;
      case "bool":
        attrs[key] = { kind: "int", value: a.value ? 1 : 0 };
        break;
      case "type":
        attrs[key] = { kind: "string", value: typeName(a.value) };
        break;
      case "shape":
        if (a.value !== undefined) attrs[key] = { kind: "ints", value: a.value };
        break;
      case "list":
        if (a.strings.length > 0) attrs[key] = { kind: "strings", value: a.strings.map(utf8) };
        else if (a.floats.length > 0) attrs[key] = { kind: "floats", value: a.floats };
        else if (a.types.length > 0) attrs[key] = { kind: "strings", value: a.types.map(typeName) };
        else if (a.ints.length > 0) attrs[key] = { kind: "ints", value: a.ints };
        else if (a.bools.length > 0) attrs[key] = { kind: "ints", value: a.bools.map(Number) };
        break;
      default:
    }
  }
  return attrs;
}

/** Refusals of one node: it stays in the graph as it is. */
const RECOVERABLE: ReadonlySet<string> = new Set(["P1323", "P1324", "P1330", "P1331"]);

/** The result type of an operator nobody knows, where one attribute says it. */
function guessedType(view: NodeView): ValueType {
  for (const key of ["out_type", "dtype", "Tout", "T"]) {
    const a = view.attr(key);
    const dtype = a?.kind === "type" ? dtypeFromTf(a.value) : undefined;
    if (dtype !== undefined) return { kind: "tensor", dtype, shape: undefined };
  }
  return { kind: "unknown" };
}

/** Whether a loop body gives argument `i` back as it is. */
function isArgument(f: RawFunction, i: number): boolean {
  let at: Ref | undefined = f.rets[i];
  for (let steps = 0; steps < 20 && at !== undefined; steps++) {
    const n: RawNode | undefined = f.nodes.get(at.node);
    if (n?.op === ARGUMENT) return n.index === i;
    if (n?.op !== "Identity") return false;
    at = n.ins[0];
  }
  return false;
}
