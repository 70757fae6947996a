/** Commands and their options. Everything goes through the public API; results to stdout, progress and errors to stderr. */
import { createRequire } from "node:module";
import { Command, CommanderError, Option } from "commander";
import { defineError, PartitaError } from "../diagnostics.js";
import { badOption } from "../options.js";
import { type BenchFlags, bench } from "./bench.js";
import { addCalibrate } from "./calibrate.js";
import { compileCommand, doctorCommand, exportBundle, inspect, type RunFlags, reportCommand, runCommand } from "./commands.js";
import { isCompiled } from "./files.js";
import { collect, compileOptions, type ModelFlags } from "./flags.js";
import { type Io, Terminal } from "./terminal.js";
import { type VerifyFlags, verifyCommand } from "./verify.js";

export const internalError = defineError<{ what: string }>(
  "P9001",
  "Partita itself failed",
  ({ what }) => ({ what, why: "this is an error of Partita, not of the model", fix: "report it with the command and the model" }),
  70,
);

export const wrongUsage = defineError<{ what: string; fix: string }>(
  "P4006",
  "a command line cannot be read",
  ({ what, fix }) => ({ what, fix }),
  2,
);

/** Exit codes: 0 done, 1 the model or the options are at fault, 2 usage, 3 the machine lacks what was asked for, 70 internal error. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  const terminal = new Terminal(io);
  const program = commands(terminal);
  try {
    await program.parseAsync(argv, { from: "user" });
    return terminal.exitCode;
  } catch (error) {
    // Help and the version have been written.
    if (error instanceof CommanderError && (error.exitCode === 0 || error.code === "commander.help")) return error.exitCode === 0 ? 0 : 2;
    terminal.done();
    const coded =
      error instanceof CommanderError
        ? usageError(error, program, argv)
        : error instanceof PartitaError
          ? error
          : internalError({ what: error instanceof Error ? (error.stack ?? error.message) : String(error) }, {}, error);
    if (argv.includes("--json")) terminal.json({ schema: "partita.error/1", error: coded.toJSON() });
    terminal.error(coded.message);
    return coded.exit;
  }
}

/** What commander says of a command line, with the place where what it takes is told. */
function usageError({ message }: CommanderError, program: Command, argv: readonly string[]): PartitaError {
  const [said = "", near] = message.replace(/^error: /, "").split(/\s*\(Did you mean (.*)\?\)\s*$/);
  const command = program.commands.find((c) => argv.includes(c.name()))?.name();
  const help = `see partita ${command === undefined ? "" : `${command} `}--help`;
  return wrongUsage({ what: said.trim().replace(/\.$/, ""), fix: near === undefined ? help : `did you mean ${near}?` });
}

/** What was compiled already takes no flags of compiling. Throws P1001 for the first of them. */
function demandModel(paths: readonly (string | undefined)[], self: Command, compiling: ReadonlySet<string>): void {
  if (paths.some((path) => path !== undefined && !isCompiled(path))) return;
  const stray = self.options.find((o) => compiling.has(o.attributeName()) && self.getOptionValueSource(o.attributeName()) === "cli");
  if (stray !== undefined)
    throw badOption({
      name: stray.long ?? stray.flags,
      what: `is of compiling, and '${paths[0]}' is compiled already`,
      fix: "leave it out, or name the model",
    });
}

/** The commander program; docs/cli.md is made from it. */
export function commands(terminal: Terminal): Command {
  const program = new Command("partita")
    .description("Compiles ONNX and TensorFlow graphs into partitioned bundles, and explains what went where.")
    .version(packageVersion(), "-v, --version", "the version of Partita")
    .exitOverride()
    .showSuggestionAfterError(true)
    .configureOutput({ writeOut: (s) => terminal.out(s), writeErr: (s) => terminal.err(s), outputError: () => {} });

  const model = (c: Command): Command =>
    c
      .option("--target <list>", "auto, host, cuda, tensorrt, or a list in order of preference", "auto")
      .addOption(
        new Option("--precision <precision>", "arithmetic of the engines")
          .choices(["fp32", "tf32", "fp16", "bf16", "int8"])
          .default("fp32"),
      )
      .option(
        "--calibration <file>",
        "for int8: feeds (.npz, .npy, a folder), a calibration file (.json) or a TensorRT table (.table, .cache)",
      )
      .option("--quantize-exclude <match>", "for int8: nodes that stay float, as in --pin; may be repeated", collect, [])
      .option("--max-drop <points>", "for int8: agreement that may be lost before layers are left float (default: 0.5)")
      .option("--max-slowdown <factor>", "for int8: leave layers float as long as the estimated time is at most this factor of all in int8")
      .option("--search-budget <seconds>", "for int8: no trial of a configuration starts later (default: 120)")
      .option("--no-search", "for int8: take the ranges as they are, with no trials")
      .option("--trials <file>", "for int8: keep the trials in a file, and go on from it")
      .addOption(
        new Option("--tune <level>", "how long the CUDA engine looks for the fastest kernels, on this machine's GPU")
          .choices(["none", "quick", "full"])
          .default("quick"),
      )
      .option("--min-segment-size <n>", "engine segments with fewer compute nodes stay on the host", "3")
      .option("--shape <name=dims>", "an input's shape: x=8x3x224x224, or min:opt:max; may be repeated", collect, [])
      .option(
        "--bind <name=value>",
        "an input's value, fixed when compiling: is_training=false, ids=1,2,3, mask=mask.npy; may be repeated",
        collect,
        [],
      )
      .addOption(
        new Option(
          "--dynamic [on-miss]",
          "engines by shape where dims are open; shapes that have none wait for one, run on the host meanwhile, or always",
        ).choices(["build", "background", "host"]),
      )
      .option("--bucket <dim=sizes>", "round a dim up to these sizes: batch=1,8,32 or input[0]=1,8,32; may be repeated", collect, [])
      .option("--masked <dims>", "dims that the model masks itself: they may be padded with zeros (comma-separated)")
      .option("--padding", "pad to the buckets on every engine, not only on those of fixed dims")
      .option("--max-cached-engines <n>", "engines kept per segment with --dynamic (default: 8, or one for each bucket)")
      .option("--max-workspace <bytes>", "scratch memory an engine may take (default: 1 GiB)")
      .option("--inputs <names>", "feed these values, and drop what computes them (comma-separated)")
      .option("--compute-capability <x.y>", "the GPU to compile for (default: this machine's)")
      .option("--trt <option=value>", "an option of TensorRT, as in docs/tensorrt.md; may be repeated", collect, [])
      .option("--outputs <names>", "compile only what these values need (comma-separated)")
      .option("--signature <name>", "SavedModel signature", "serving_default")
      .option(
        "--pin <match=engine>",
        "send nodes to an engine by name, operator, pattern with * or region a..b; may be repeated",
        collect,
        [],
      )
      .option("--times <file>", "measured microseconds by node and engine, as JSON; they replace estimates")
      .option("--strict", "fail rather than leave anything on the host")
      .option("--json", "machine-readable result");

  const compiling = new Set([...model(new Command()).options.map((o) => o.attributeName()), "whatIf"]);
  compiling.delete("json");

  model(program.command("compile <model>").description("compile a model into a bundle"))
    .option("-o, --output <folder>", "where the bundle goes (default: the model's name with .partita)")
    .option("--report <file>", "write the report too: .html, .json or .txt")
    .action(
      async (path: string, flags: ModelFlags & { output?: string; report?: string }) =>
        await compileCommand(terminal, path, compileOptions(flags, terminal), flags),
    );

  model(program.command("report <model>").description("the partition report of a model or a bundle; builds nothing"))
    .option("--html <file>", "write the report as one HTML page")
    .option("--why <node>", "why a node runs where it does, what would change it, and what that would gain")
    .option("--what-if <op=engine>", "as if an engine took an operator (=host: as if none did); may be repeated", collect, [])
    .option("--diff <other>", "what differs in another model, bundle or report (.json)")
    .option("--rows <n>", "rows of the tables", "20")
    .action(async (path: string, flags: ModelFlags & { html?: string; why?: string; diff?: string; rows: string }, self: Command) => {
      demandModel([path, flags.diff], self, compiling);
      await reportCommand(terminal, path, compileOptions(flags, terminal), flags);
    });

  model(program.command("run <model>").description("run a model or a bundle on tensors from files"))
    .option("--input <file>", "in.npz, in.npy or name=file.npy; may be repeated", collect, [])
    .option("--output <file>", "write the results as .npz")
    .option("--profile", "where the time of a run goes, by segment, layer and node")
    .option("--trace <file>", "write a trace of the run for ui.perfetto.dev or chrome://tracing (.json)")
    .action(async (path: string, flags: ModelFlags & RunFlags, self: Command) => {
      demandModel([path], self, compiling);
      await runCommand(terminal, path, compileOptions(flags, terminal), flags);
    });

  model(
    program
      .command("verify <model>")
      .description("compare a compiled model or a bundle with ONNX Runtime on the untouched model; find the first wrong segment and node"),
  )
    .option("--input <file>", "in.npz, in.npy or name=file.npy (default: seeded random feeds); may be repeated", collect, [])
    .option("--model <file>", "the untouched model, when a bundle is verified")
    .option("--batch <n>", "dynamic dims of random feeds", "1")
    .option("--tolerance <x>", "allowed error as a share of the largest value", "1e-3")
    .action(
      async (path: string, flags: ModelFlags & VerifyFlags) => await verifyCommand(terminal, path, compileOptions(flags, terminal), flags),
    );

  model(
    program
      .command("bench <model>")
      .description("throughput, latency, memory, energy and accuracy, next to bare onnxruntime-node in the same run"),
  )
    .option("--batch <list>", "sizes of dim 0 of the inputs, where it is open (default: 1)")
    .option("--seconds <s>", "seconds per measurement", "2")
    .option("--concurrency <n>", "callers at once, each of whom waits for its answer (default: 1)")
    .option("--rate <r>", "arrivals a second instead, at random (Poisson); latency counts from the moment a call was due")
    .option(
      "--streams <n>",
      "runs that may be in one engine at once (default: 1; on the host what turns out best, where --threads is left out too)",
    )
    .option("--threads <n>", "threads of one run on the host (default: all cores; where --streams is left out too, what turns out best)")
    .option("--max-batch <n>", "join runs that wait, up to so many items")
    .option("--max-delay <ms>", "how long a run waits for others to join")
    .option("--input <file>", "in.npz, in.npy or name=file.npy (default: seeded random feeds); may be repeated", collect, [])
    .option("--labels <file>", "classes of the rows of --input, .npy or .npz: top-1 accuracy")
    .option("--model <file>", "the model for the bare run, when a bundle is measured")
    .option("--trace <file>", "write a trace of some runs under that load, after the measurement")
    .action(async (path: string, flags: ModelFlags & BenchFlags, self: Command) => {
      demandModel([path], self, compiling);
      await bench(terminal, path, compileOptions(flags, terminal), flags);
    });

  addCalibrate(program, terminal);

  program
    .command("inspect <model>")
    .description("what is in a graph")
    .option("--ir", "print the graph as text")
    .option("--ops", "count the operators")
    .option("--after <pass>", "apply the passes up to this one first (`all` for every pass)")
    .option("--json", "machine-readable result")
    .action(
      async (path: string, flags: { ir?: boolean; ops?: boolean; after?: string; json?: boolean }) => await inspect(terminal, path, flags),
    );

  program
    .command("export <bundle> <format>")
    .description(
      "write a bundle in another format: onnx (its host parts), epcontext (ONNX Runtime's TensorRT providers) or triton (a model repository)",
    )
    .option("-o, --output <folder>", "where the files go")
    .option("--json", "machine-readable result")
    .action(
      async (path: string, format: string, flags: { output?: string; json?: boolean }) => await exportBundle(terminal, path, format, flags),
    );

  program
    .command("doctor")
    .description("what this machine has, what is missing, and how to get it")
    .option("--json", "machine-readable result")
    .action(async (flags: { json?: boolean }) => await doctorCommand(terminal, flags));
  return program;
}

const packageVersion = (): string => (createRequire(import.meta.url)("partita/package.json") as { version: string }).version;
