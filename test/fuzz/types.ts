/** What parent and children of the fuzz suite tell each other. */

/** Mutants `from`, `from + step`, ... below `to`. */
export interface Job {
  readonly kind: "models" | "bundles" | "tensorflow";
  readonly seed: number;
  readonly from: number;
  readonly to: number;
  readonly step: number;
  /** Folder of test data. */
  readonly data: string | undefined;
  /** File that says which step of which mutant runs. */
  readonly marker: string;
}
export interface Outcome {
  readonly i: number;
  /** `FAIL`, or the category the mutant falls into. */
  readonly kind: string;
  readonly phase: string;
  readonly what: string;
  readonly base: string;
  readonly how: string;
  readonly ms: number;
  /** Peak resident memory while the mutant was tried, bytes. */
  readonly peak: number;
  /** The process should be replaced: something in it still runs. */
  readonly recycle?: boolean;
}
