/** What ONNX Runtime takes as a fed tensor, and gives as a result. */
export interface NativeTensor {
  readonly type: string;
  readonly data: unknown;
  readonly dims: readonly number[];
}
/** A session whose runs block the thread that calls them, and are over when the call returns. */
export class NativeSession {
  /** `base` is the URL of a module that finds onnxruntime-node. Throws what ONNX Runtime says of the model: a path, or its bytes. */
  constructor(base: string, model: string | Uint8Array, options: Readonly<Record<string, unknown>>);
  /** Milliseconds that loading the model took. */
  readonly loadedMs: number;
  /** An output that the binding does not make an array of. There is no session then. */
  readonly refused?: { readonly name: string; readonly type: string };
  /** `fetches` has a key for each output that is wanted: null, or a tensor to write it to. */
  run(feeds: Readonly<Record<string, unknown>>, fetches: Readonly<Record<string, unknown>>): Readonly<Record<string, NativeTensor>>;
  release(): void;
}
/** The keys of `run`'s fetches for outputs by name. */
export function fetchesOf(names: readonly string[]): Readonly<Record<string, null>>;
/** A run's results in the order of `names`. Throws where one holds no tensor. */
export function tensorsOf(results: Readonly<Record<string, NativeTensor>>, names: readonly string[]): readonly NativeTensor[];
/** A tensor for `run`'s feeds, over memory that is not shared. */
export function fed(type: string, data: unknown, dims: readonly number[]): unknown;
