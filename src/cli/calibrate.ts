/** `partita calibrate`: a calibration file of a model and data, shards of one, and their merge. */
import { existsSync, rmSync } from "node:fs";
import { basename } from "node:path";
import { type Command, Option } from "commander";
import { replaceFile } from "../atomic.js";
import { calibrate } from "../calibrate.js";
import { badOption, type CompileOptions } from "../options.js";
import { mergeCalibrations, readCalibration, writeCalibration } from "../quantize/calibration.js";
import type { Preprocessing } from "../quantize/images.js";
import { rangesOf } from "../quantize/ranges.js";
import { RANGE_METHODS } from "../quantize/scales.js";
import { tableText } from "../quantize/table.js";
import type { RangeMethod } from "../quantize/types.js";
import { demandPlace } from "./files.js";
import { collect, namesOf, once } from "./flags.js";
import { parseBind, parseNumber, parseShape } from "./syntax.js";
import type { Terminal } from "./terminal.js";

interface CalibrateFlags {
  readonly data?: string;
  readonly output?: string;
  readonly shard?: string;
  readonly batch: string;
  readonly threads?: string;
  readonly restart?: boolean;
  readonly table?: string;
  readonly method: RangeMethod | "auto";
  readonly imageSize?: string;
  readonly imageFit?: "crop" | "stretch";
  readonly imageOrder?: "rgb" | "bgr";
  readonly imageDivide?: string;
  readonly imageMean?: string;
  readonly imageStd?: string;
  readonly shape: readonly string[];
  readonly bind: readonly string[];
  readonly inputs?: string;
  readonly outputs?: string;
  readonly signature: string;
  readonly json?: boolean;
}

/** Adds the command and its subcommand to the program. */
export function addCalibrate(program: Command, terminal: Terminal): void {
  const command = program
    .command("calibrate <model>")
    .description("observe a model's tensors over data, for --precision int8; goes on where it was interrupted")
    .option("--data <path>", "feeds: .npz, .npy, a folder of these, or a folder of images")
    .option("-o, --output <file>", "where the calibration goes (default: the model's name with .calibration.json)")
    .option("--shard <i/n>", "only every n-th feed from the i-th on; merge the n files")
    .option("--batch <n>", "rows of one feed where an array is cut into feeds", "1")
    .option("--threads <n>", "runs at once (default: the machine's threads)")
    .option("--restart", "do not go on from an interrupted calibration")
    .option("--table <file>", "write a TensorRT calibration table too")
    .addOption(new Option("--method <method>", "how the table's ranges are taken").choices(["auto", ...RANGE_METHODS]).default("auto"))
    .option("--image-size <HxW>", "for images: the input's height and width, where the graph leaves them open")
    .addOption(
      new Option("--image-fit <how>", "for images: the centre of one that covers size / 0.875, or both sides stretched").choices([
        "crop",
        "stretch",
      ]),
    )
    .addOption(new Option("--image-order <order>", "for images: order of the channels").choices(["rgb", "bgr"]))
    .option("--image-divide <x>", "for images: pixels are divided by this (255)")
    .option("--image-mean <list>", "for images: subtracted by channel, red first (0.485,0.456,0.406)")
    .option("--image-std <list>", "for images: divided by, by channel (0.229,0.224,0.225)")
    .option("--shape <name=dims>", "an input's shape, as for compile; may be repeated", collect, [])
    .option("--bind <name=value>", "an input's value, as for compile; may be repeated", collect, [])
    .option("--inputs <names>", "feed these values, as for compile")
    .option("--outputs <names>", "only what these values need, as for compile")
    .option("--signature <name>", "SavedModel signature", "serving_default")
    .option("--json", "machine-readable result")
    .action(async (path: string, flags: CalibrateFlags) => await calibrateCommand(terminal, path, flags));
  command
    .command("merge <files...>")
    .description("join the calibrations of shards, or of different data; the order does not matter")
    .option("-o, --output <file>", "where the calibration goes")
    .option("--json", "machine-readable result")
    // The command above has options of the same names, and takes them wherever they stand.
    .action((files: readonly string[], _: unknown, self: Command) => merge(terminal, files, self.optsWithGlobals()));
}

async function calibrateCommand(t: Terminal, path: string, flags: CalibrateFlags): Promise<void> {
  const { data } = flags;
  if (data === undefined)
    throw badOption({ name: "--data", what: "is missing", fix: "name the calibration data: --data feeds.npz, or a folder" });
  const shard = shardOf(flags.shard);
  const suffix = shard === undefined ? "" : `.${shard.index}-of-${shard.of}`;
  const output = flags.output ?? `${basename(path).replace(/\.(onnx|pb|pbtxt)$/, "")}${suffix}.calibration.json`;
  for (const file of [output, flags.table]) if (file !== undefined) demandPlace(file);
  const checkpoint = `${output}.partial`;
  if (flags.restart === true) rmSync(checkpoint, { force: true });
  const options: CompileOptions = {
    shapes: once("--shape", flags.shape.map(parseShape)),
    bind: once("--bind", flags.bind.map(parseBind)),
    inputs: namesOf(flags.inputs),
    outputs: namesOf(flags.outputs),
    signature: flags.signature,
    onProgress: (event) => t.progress(event.stage, event.fraction),
    onRemark: (remark) => t.remark(remark.severity, remark.text),
  };
  let shown = Number.NEGATIVE_INFINITY;
  const interrupt = new AbortController();
  const onSignal = (): void => interrupt.abort(new Error("interrupted"));
  process.once("SIGINT", onSignal).once("SIGTERM", onSignal);
  try {
    const { calibration, graph, resumed } = await calibrate(
      path,
      {
        data,
        batch: parseNumber("--batch", flags.batch, { least: 1, whole: true }),
        preprocessing: preprocessingOf(flags),
        shard,
        threads: flags.threads === undefined ? undefined : parseNumber("--threads", flags.threads, { least: 1, whole: true }),
        checkpoint,
        onProgress: ({ done, total, secondsLeft }) => {
          // A log gets a line now and then, a terminal what the eye can follow.
          if (performance.now() - shown < (t.watched ? 100 : 10_000)) return;
          shown = performance.now();
          const left = secondsLeft === undefined ? "" : `, ${duration(secondsLeft)} left`;
          t.progress(
            `calibrate: feed ${done}${total === undefined ? "" : ` of ${total}`}${left}`,
            total === undefined ? 0 : Math.min(1, done / total),
          );
        },
      },
      { ...options, signal: interrupt.signal },
    );
    writeCalibration(output, calibration);
    rmSync(checkpoint, { force: true });
    // An empty shard has no ranges to write.
    if (flags.table !== undefined && calibration.feeds > 0)
      replaceFile(flags.table, tableText(rangesOf(graph, calibration.observations, flags.method)));
    const { feeds, observations, shards, keys } = calibration;
    if (flags.json === true)
      t.json({
        schema: "partita.calibrate/1",
        calibration: output,
        feeds,
        resumed,
        tensors: observations.size,
        shards: shards ?? null,
        keys,
      });
    else {
      if (resumed > 0) t.out(`went on behind ${resumed} feeds of an interrupted calibration`);
      t.out(
        `${observations.size} tensors over ${feeds} feeds${shards === undefined ? "" : `, shard ${shards.have.join(", ")} of ${shards.of}`}`,
      );
      t.out(`calibration: ${output}`);
    }
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    t.err(existsSync(checkpoint) ? `interrupted; what was seen is in ${checkpoint}: the same command goes on from there` : "interrupted");
    t.exitCode = 130;
  } finally {
    process.off("SIGINT", onSignal).off("SIGTERM", onSignal);
  }
}

function merge(t: Terminal, files: readonly string[], flags: { readonly output?: string; readonly json?: boolean }): void {
  const { output } = flags;
  if (output === undefined)
    throw badOption({ name: "--output", what: "is missing", fix: "say where the merged calibration goes: -o calibration.json" });
  const merged = mergeCalibrations(files.map((file) => ({ calibration: readCalibration(file), file })));
  writeCalibration(output, merged);
  const { feeds, shards, observations } = merged;
  if (flags.json === true)
    t.json({
      schema: "partita.calibrate/1",
      calibration: flags.output,
      feeds,
      tensors: observations.size,
      shards: shards ?? null,
      keys: merged.keys,
    });
  else {
    t.out(
      `${observations.size} tensors over ${feeds} feeds${shards === undefined ? "" : `; shards ${shards.have.join(", ")} of ${shards.of}, the others are missing`}`,
    );
    t.out(`calibration: ${output}`);
  }
}

function shardOf(text: string | undefined): { index: number; of: number } | undefined {
  if (text === undefined) return undefined;
  const found = /^([1-9]\d{0,6})\/([1-9]\d{0,6})$/.exec(text);
  const [index, of] = [Number(found?.[1]), Number(found?.[2])];
  if (found === null || index > of) throw badOption({ name: "--shard", what: `is '${text}'`, fix: "write i/n, i from 1 to n" });
  return { index, of };
}

function preprocessingOf(flags: CalibrateFlags): Preprocessing | undefined {
  const list = (name: string, text: string | undefined): number[] | undefined => {
    const numbers = text?.split(",").map((x) => (x.trim() === "" ? Number.NaN : Number(x)));
    if (numbers?.some((x) => !Number.isFinite(x)))
      throw badOption({ name, what: `is '${text}'`, fix: "give numbers with commas between them" });
    return numbers;
  };
  const size = flags.imageSize === undefined ? undefined : /^([1-9]\d{0,4})x([1-9]\d{0,4})$/.exec(flags.imageSize);
  if (size === null) throw badOption({ name: "--image-size", what: `is '${flags.imageSize}'`, fix: "write HEIGHTxWIDTH, as in 224x224" });
  const [divide] = list("--image-divide", flags.imageDivide) ?? [];
  const given: Preprocessing = {
    ...(size === undefined ? {} : { size: [Number(size[1]), Number(size[2])] as const }),
    ...(flags.imageFit === undefined ? {} : { fit: flags.imageFit }),
    ...(flags.imageOrder === undefined ? {} : { order: flags.imageOrder }),
    ...(divide === undefined ? {} : { divide }),
    ...(flags.imageMean === undefined ? {} : { mean: list("--image-mean", flags.imageMean) }),
    ...(flags.imageStd === undefined ? {} : { std: list("--image-std", flags.imageStd) }),
  };
  return Object.keys(given).length === 0 ? undefined : given;
}

const duration = (seconds: number): string =>
  seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
