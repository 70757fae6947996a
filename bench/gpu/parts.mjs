// Parts of a benchmark, each in a process of its own with a deadline: one that hangs, wherever it does, costs its own time and nothing else. The process that
// started them hears rows and what is under way as they come, kills a part that overruns, says what it was at, and goes on.
import { fork } from "node:child_process";

/** The part that this process is; undefined in the one that starts them. */
export const part = process.env.BENCH_PART;

/** Hands a row of results over. Alone, as without a starter, it is printed. */
export function row(figures) {
  if (process.send === undefined) process.stdout.write(`${JSON.stringify(figures)}\n`);
  else process.send({ row: figures });
}
/** Says what begins, for the case that it does not end. */
export function underWay(text) {
  process.send?.({ underWay: text });
}
/** Runs the part that this process is, and hands over what it throws. A process that does not end by itself afterwards overruns, too. */
export async function runPart(parts) {
  try {
    await parts[part]();
  } catch (error) {
    row({ part, failed: String(error?.stack ?? error).slice(0, 2000) });
  }
  underWay("the end of the process");
  process.disconnect?.();
}

/**
 * Runs parts one after another: `seconds` by name, in their order. `tell(row, name)` gets rows of results as they come, and of a part that fails or overruns
 * one that says so: { part, failed } or { part, overran: seconds }, with what was under way.
 */
export async function inParts(file, seconds, tell) {
  for (const [name, limit] of Object.entries(seconds)) await one(file, name, limit, (figures) => tell(figures, name));
}
function one(file, name, limit, tell) {
  return new Promise((resolve) => {
    const start = performance.now();
    const child = fork(file, process.argv.slice(2), {
      env: { ...process.env, BENCH_PART: name },
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    let at = "the start";
    let said = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (text) => {
        said = (said + text).slice(-1500);
      });
    child.on("message", (message) => {
      if (message.underWay !== undefined) at = message.underWay;
      if (message.row !== undefined) tell(message.row);
    });
    const timer = setTimeout(() => {
      child.removeAllListeners();
      child.kill("SIGKILL");
      // One that the kernel does not let go either is left behind, with nothing of it waited for.
      child.on("error", () => undefined);
      if (child.connected) child.disconnect();
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      tell({ part: name, overran: limit, underWay: at, said });
      resolve();
    }, 1000 * limit);
    const over = (code, signal) => {
      clearTimeout(timer);
      const elapsed = (performance.now() - start) / 1000;
      if (code !== 0) tell({ part: name, failed: signal ?? `exit code ${code}`, seconds: elapsed, underWay: at, said });
      resolve();
    };
    // The last messages may come after the end.
    child.on("exit", (code, signal) => (child.connected ? child.once("disconnect", () => over(code, signal)) : over(code, signal)));
    child.on("error", (error) => {
      clearTimeout(timer);
      tell({ part: name, failed: String(error) });
      resolve();
    });
  });
}
/** `names` of the table, "name" or "name:seconds" each, joined by commas; all of it when absent. */
export function chosen(table, names) {
  if (names === undefined) return table;
  return Object.fromEntries(
    names.split(",").map((said) => {
      const [name, seconds = table[name]] = said.split(":");
      if (table[name] === undefined) throw new Error(`no part '${name}': the parts are ${Object.keys(table).join(", ")}`);
      return [name, Number(seconds)];
    }),
  );
}
