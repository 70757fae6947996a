/** Opens a TensorRT library in this process and asks it things: plans, the parser's opinion, engines. */
import { realpathSync } from "node:fs";
import { basename, resolve } from "node:path";
import { addon, type LibraryId, type NativeComplaint, type NativeEvent } from "./addon.js";
import { loadEngine } from "./engine.js";
import {
  buildFailed,
  isMemory,
  libraryFailed,
  nativeText,
  noParser,
  notCreated,
  otherLoaded,
  parserRefused,
  rejection,
  sentence,
  tensorRtMemory,
  unknownOption,
} from "./failures.js";
import type {
  BuildOptions,
  BuildResult,
  Family,
  LibraryVersion,
  LogMessage,
  OnnxModel,
  OpenOptions,
  ParserError,
  Progress,
  Support,
  TensorRt,
  TensorRtFailure,
} from "./native.js";
import { requireFamily, versionOf } from "./versions.js";

const SEVERITIES = ["internal", "error", "warning", "info", "verbose"] as const;
const HARDWARE = { none: 0, "ampere-plus": 1, "same-compute-capability": 2 } as const;
const VERBOSITY = { names: 0, none: 1, detailed: 2 } as const;
/** onnx-tensorrt's ErrorCode. */
const PARSER_CODES = [
  "success",
  "internal error",
  "out of memory",
  "model is no ONNX",
  "invalid value",
  "invalid graph",
  "invalid node",
  "unsupported graph",
  "unsupported node",
  "unsupported node attribute",
  "unsupported node input",
  "unsupported node type",
  "unsupported dynamic node",
  "unsupported node shape",
  "refit failed",
];
const PARSER_MEMORY = 2;
/** Reports of the parser about its own work that is not one node's. */
const parserErrors = (list: readonly NativeComplaint[]): readonly ParserError[] =>
  list.map(({ code, ...rest }) => ({ ...rest, code: PARSER_CODES[code] ?? `code ${code}` }));

/** By file name: the loader takes a library whose soname is loaded for the one asked for, wherever that lies. */
const loaded = new Map<string, string>();

/** Where the library really is; a name that the loader is to find stays a name. */
function placeOf(library: string): string {
  try {
    return library.includes("/") ? realpathSync(library) : library;
  } catch {
    return resolve(library);
  }
}
function once(library: string): void {
  const name = basename(library);
  const path = placeOf(library);
  const other = loaded.get(name);
  if (other !== undefined && other !== path) throw otherLoaded({ library: path, loaded: other });
}
const remember = (library: string): void => {
  loaded.set(basename(library), placeOf(library));
};

/**
 * Loads the library and, when named, its parser; they stay loaded for the life of the process. A library that was never tried on this machine is
 * better tried in a child process first (probe.ts). Throws P2102, P2210, P2211, P2222.
 */
export function openTensorRt({ library, parser }: OpenOptions): TensorRt {
  once(library);
  if (parser !== undefined) once(parser);
  const native = addon().tensorrt;
  let opened: ReturnType<typeof native.open>;
  try {
    opened = native.open(library, parser);
  } catch (error) {
    const failure = rejection(error);
    if (failure === undefined) throw error;
    throw libraryFailed({ library, why: failure.message }, {}, error);
  }
  const version = versionOf(opened.version);
  const family = requireFamily(version, library);
  native.bind(opened.id, family);
  remember(library);
  if (parser !== undefined) remember(parser);
  return new Library(opened.id, version, family, library, parser);
}

/** A builder that has had nothing to do for so long is ended: it holds a gigabyte of kernels. */
const IDLE_MS = 60_000;

class Library implements TensorRt {
  readonly #id: LibraryId;
  #calls = 0;
  #idle: NodeJS.Timeout | undefined;
  readonly version: LibraryVersion;
  readonly family: Family;
  readonly library: string;
  readonly parser: string | undefined;

  constructor(id: LibraryId, version: LibraryVersion, family: Family, library: string, parser: string | undefined) {
    this.#id = id;
    this.version = version;
    this.family = family;
    this.library = library;
    this.parser = parser;
  }
  get #name(): string {
    return `${this.version.product} ${this.version.text}`;
  }

  async build(model: OnnxModel, options: BuildOptions = {}): Promise<BuildResult> {
    const { signal } = options;
    signal?.throwIfAborted();
    if (this.parser === undefined) throw noParser({});
    this.#check(options);
    const listener = new Listener(options);
    const { promise, cancel } = addon().tensorrt.build(this.#id, model, request(options), listener.wanted ? listener.take : undefined);
    signal?.addEventListener("abort", cancel, { once: true });
    listener.cancel = cancel;
    try {
      const { plan, timingCache, log, parseMs, buildMs } = await this.#working(promise);
      signal?.throwIfAborted();
      listener.throwIfFailed();
      return { plan, timingCache, log, parseMs, buildMs };
    } catch (error) {
      signal?.throwIfAborted();
      listener.throwIfFailed();
      throw this.#failed(error);
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  async supports(...[model, context]: Parameters<TensorRt["supports"]>): Promise<Support> {
    if (this.parser === undefined) throw noParser({});
    try {
      const { supported, subgraphs, errors, log } = await this.#working(addon().tensorrt.supports(this.#id, model, context));
      return { supported, subgraphs, errors: parserErrors(errors), log };
    } catch (error) {
      throw this.#failed(error);
    }
  }

  async rest(): Promise<void> {
    clearTimeout(this.#idle);
    await addon().tensorrt.rest(this.#id);
  }
  /** The addon keeps the builder of a call for the next one; here is when to end it. */
  async #working<T>(call: Promise<T>): Promise<T> {
    this.#calls++;
    clearTimeout(this.#idle);
    try {
      return await call;
    } finally {
      this.#calls--;
      if (this.#calls === 0) {
        const rest = (): void => void addon().tensorrt.rest(this.#id);
        this.#idle = setTimeout(rest, IDLE_MS).unref();
      }
    }
  }

  deserialize(...[plan, options]: Parameters<TensorRt["deserialize"]>): ReturnType<TensorRt["deserialize"]> {
    return loadEngine(this.#id, plan, options);
  }

  #check(options: BuildOptions): void {
    const refuse = (option: string, fix: string): never => {
      throw unknownOption({ option, version: this.#name, fix });
    };
    if (options.computeCapabilities !== undefined && this.version.product === "TensorRT")
      refuse("computeCapabilities", "leave it out: TensorRT builds for the GPU that is there; TensorRT-RTX builds for others");
    if (options.stronglyTyped === false && (this.family === "11" || this.family === "rtx-1.5"))
      refuse("stronglyTyped: false", "leave it out: networks are strongly typed");
    if (
      options.optimizationLevel !== undefined &&
      !(Number.isInteger(options.optimizationLevel) && options.optimizationLevel >= 0 && options.optimizationLevel <= 5)
    )
      refuse(`optimizationLevel ${options.optimizationLevel}`, "use a whole number from 0 to 5");
  }

  #failed(error: unknown): unknown {
    const failure = rejection(error);
    if (failure === undefined) return error;
    const parser = parserErrors(failure.parser as unknown as readonly NativeComplaint[]);
    Object.assign(failure, { parser });
    if (failure.call === "parse") return parserFailure(failure, parser);
    const why = nativeText(failure);
    if (isMemory(failure)) return tensorRtMemory({ call: failure.call, why }, {}, failure);
    if (/^create(?:Infer|Nv|Network|Builder)/.test(failure.call)) return notCreated({ call: failure.call, why }, {}, failure);
    return buildFailed({ why }, {}, failure);
  }
}

function parserFailure(failure: TensorRtFailure, errors: readonly ParserError[]): Error {
  const first = errors.find((e) => e.nodeName !== "" || e.op !== "") ?? errors[0];
  if (errors.some((e) => e.code === PARSER_CODES[PARSER_MEMORY]))
    return tensorRtMemory({ call: "the parser", why: nativeText(failure) }, {}, failure);
  const why = errors.length === 0 ? nativeText(failure) : [...new Set(errors.map((e) => `${e.code}: ${sentence(e.text)}`))].join("; ");
  return parserRefused({ why }, { node: first?.nodeName || undefined, op: first?.op || undefined }, failure);
}

function request(options: BuildOptions): Parameters<ReturnType<typeof addon>["tensorrt"]["build"]>[2] {
  const { hardwareCompatibility, profilingVerbosity, refit, logLevel, onLog: _, onProgress: __, signal: ___, ...rest } = options;
  return {
    ...rest,
    stronglyTyped: options.stronglyTyped !== false,
    hardwareCompatibility: hardwareCompatibility === undefined ? undefined : HARDWARE[hardwareCompatibility],
    profilingVerbosity: profilingVerbosity === undefined ? undefined : VERBOSITY[profilingVerbosity],
    refit: refit === "all" ? true : undefined,
    refitIdentical: refit === "identical" ? true : undefined,
    logLevel: logLevel === undefined ? undefined : SEVERITIES.indexOf(logLevel),
  };
}

/** Calls the caller's functions; an exception of theirs ends the build and is what it rejects with. */
class Listener {
  readonly #log: ((message: LogMessage) => void) | undefined;
  readonly #progress: ((progress: Progress) => void) | undefined;
  readonly #phases = new Map<string, { readonly parent: string | undefined; readonly steps: number }>();
  #failure: { readonly error: unknown } | undefined;
  cancel: () => void = () => undefined;

  constructor({ onLog, onProgress }: BuildOptions) {
    this.#log = onLog;
    this.#progress = onProgress;
  }
  get wanted(): boolean {
    return this.#log !== undefined || this.#progress !== undefined;
  }
  readonly take = (events: readonly NativeEvent[]): void => {
    for (const event of events) {
      if (this.#failure !== undefined) return;
      try {
        if ("severity" in event) this.#log?.(event);
        else this.#step(event);
      } catch (error) {
        this.#failure = { error };
        this.cancel();
      }
    }
  };
  #step(event: Exclude<NativeEvent, LogMessage>): void {
    const { phase } = event;
    if ("steps" in event) this.#phases.set(phase, { parent: event.parent === "" ? undefined : event.parent, steps: event.steps });
    const { parent, steps } = this.#phases.get(phase) ?? { parent: undefined, steps: 0 };
    const step = "steps" in event ? 0 : "step" in event ? event.step + 1 : undefined;
    if (step === undefined) this.#phases.delete(phase);
    this.#progress?.({ phase, parent, step, steps });
  }
  throwIfFailed(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}
