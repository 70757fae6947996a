/** Where output goes: results to stdout; progress, remarks and errors to stderr. Colour only on a terminal, and never under NO_COLOR. */
import { styleText } from "node:util";

export interface Stream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}
export interface Io {
  readonly stdout: Stream;
  readonly stderr: Stream;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** Least time between two lines of progress within a stage, milliseconds. */
const LINE_MS = 10_000;

export class Terminal {
  readonly #io: Io;
  #line = false;
  #stage = "";
  /** When a line of progress was written, and the last that was not. */
  #told = 0;
  #untold = "";
  exitCode = 0;

  constructor(io: Io) {
    this.#io = io;
  }
  get color(): boolean {
    return this.#io.stdout.isTTY === true && (this.#io.env["NO_COLOR"] ?? "") === "";
  }
  get width(): number {
    return this.#io.stdout.columns ?? 100;
  }
  /** Whether somebody watches progress. */
  get watched(): boolean {
    return this.#io.stderr.isTTY === true;
  }
  out(text: string): void {
    this.done();
    this.#io.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  }
  json(value: unknown): void {
    this.out(JSON.stringify(value, (_, x) => (typeof x === "bigint" ? String(x) : x), 1));
  }
  err(text: string): void {
    this.done();
    this.#io.stderr.write(text.endsWith("\n") ? text : `${text}\n`);
  }
  error(text: string): void {
    const label = this.#io.stderr.isTTY === true && (this.#io.env["NO_COLOR"] ?? "") === "" ? styleText("red", "error") : "error";
    this.err(`${label}: ${text}`);
  }
  remark(severity: string, text: string): void {
    this.err(`${severity}: ${text}`);
  }
  /** A bar on a terminal; elsewhere a line per stage, and of a long one how far it is, now and then and at its end. */
  progress(stage: string, fraction: number, detail?: string): void {
    const { stderr } = this.#io;
    const text = detail === undefined ? stage : `${stage}: ${detail}`;
    if (stderr.isTTY === true) {
      const cells = Math.round(fraction * 24);
      // A line that wraps could not be taken back.
      const room = Math.max(0, (stderr.columns ?? 80) - 28);
      stderr.write(`\r\u001b[2K[${"#".repeat(cells)}${".".repeat(24 - cells)}] ${text.slice(0, room)}`);
      this.#line = true;
      if (fraction >= 1) this.done();
      return;
    }
    if (stage !== this.#stage) {
      stderr.write(`${this.#untold}${stage}\n`);
      this.#stage = stage;
      this.#untold = "";
      this.#told = performance.now();
    }
    if (detail === undefined) return;
    this.#untold = `${text}\n`;
    if (performance.now() - this.#told < LINE_MS) return;
    stderr.write(this.#untold);
    this.#untold = "";
    this.#told = performance.now();
  }
  /** Ends a progress line. */
  done(): void {
    if (!this.#line) return;
    this.#io.stderr.write("\r\u001b[2K");
    this.#line = false;
  }
}
