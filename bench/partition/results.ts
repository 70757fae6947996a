/** What bench/results/partition.json holds. */
import type { Bounds } from "./bounds.js";
import type { Figures } from "./measure.js";

export interface Row extends Figures {
  readonly graph: string;
  readonly nodes: number;
  readonly method: string;
  /** Least wall time of several runs. */
  readonly ms: number;
  /** Least processor time of several runs, all threads of the process: what the wall time is on an idle machine, and a little more. */
  readonly cpuMs: number;
  readonly peakMb: number;
  readonly lowerBound?: number | undefined;
}
export interface ModelRow {
  readonly model: string;
  readonly verdicts: string;
  readonly nodes: number;
  readonly methods: Readonly<Record<string, Figures>>;
  /** What no partition can undercut that covers the work that Partita's covers. */
  readonly least: Bounds;
}
export interface Results {
  readonly machine: { readonly cpu: string; readonly cores: number; readonly memoryGb: number; readonly node: string };
  readonly settings: { readonly unsupported: number; readonly minimumSize: number; readonly seed: number };
  readonly graphs: readonly Row[];
  /** What took longer than PATIENCE_MS. */
  readonly unfinished: readonly { readonly graph: string; readonly nodes: number; readonly method: string }[];
  readonly models: readonly ModelRow[];
  readonly unread: readonly { readonly model: string; readonly why: string }[];
}
