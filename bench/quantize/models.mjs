// The models of the INT8 accuracy benchmark, with feeds for calibration and test. Digits are real data with labels. Of the other trained models'
// own data none is at hand: keyword spotting hears words that speech synthesizers say (where they are installed), CIFAR's networks see photographed
// objects in made surroundings (where a folder of them is), both with labels. Beside those, feeds are made from the digits or from a seeded
// generator, on which FP32 is often undecided itself, and only agreement with FP32 is measured.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readNpz, Tensor } from "../../dist/index.js";
import { generator as uniform } from "../../dist/runtime/measure.js";
import { photographs, pictures, STAMPS } from "./pictures.mjs";
import { spoken, synthesizers } from "./speech.mjs";

/** Uniform numbers in [0, 1), and normally distributed ones of them. */
function generator(seed) {
  const unit = uniform(seed);
  return { unit, normal: () => Math.sqrt(-2 * Math.log(1 - unit())) * Math.cos(2 * Math.PI * unit()) };
}

const rows = (t) => {
  const size = t.dims.slice(1).reduce((a, b) => a * b, 1);
  return Array.from({ length: t.dims[0] }, (_, i) => t.data.subarray(i * size, (i + 1) * size));
};
/** A plane of h0 x w0 as one of h x w, bilinear. */
function resized(x, h0, w0, h, w) {
  const out = new Float32Array(h * w);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const [y, z] = [Math.min(h0 - 1, Math.max(0, ((i + 0.5) * h0) / h - 0.5)), Math.min(w0 - 1, Math.max(0, ((j + 0.5) * w0) / w - 0.5))];
      const [y0, z0] = [Math.floor(y), Math.floor(z)];
      const [y1, z1] = [Math.min(h0 - 1, y0 + 1), Math.min(w0 - 1, z0 + 1)];
      const at = (a, b) => x[a * w0 + b];
      out[i * w + j] =
        (1 - y + y0) * ((1 - z + z0) * at(y0, z0) + (z - z0) * at(y0, z1)) + (y - y0) * ((1 - z + z0) * at(y1, z0) + (z - z0) * at(y1, z1));
    }
  return out;
}

/** 32 x 32 colour pictures: a digit in one colour over a gradient of two others, with noise; channels first, 0 to 1. */
function coloured(digit, random) {
  const shape = resized(digit, 16, 16, 32, 32);
  const colour = () => [random.unit(), random.unit(), random.unit()];
  const [front, left, right] = [colour(), colour(), colour()];
  const tilt = random.unit();
  const out = new Float32Array(3 * 1024);
  for (let c = 0; c < 3; c++)
    for (let i = 0; i < 1024; i++) {
      const across = tilt * ((i % 32) / 31) + (1 - tilt) * (Math.floor(i / 32) / 31);
      const back = left[c] * (1 - across) + right[c] * across;
      const ink = Math.min(1, Math.max(0, shape[i]));
      out[c * 1024 + i] = Math.min(1, Math.max(0, back * (1 - ink) + front[c] * ink + 0.05 * random.normal()));
    }
  return out;
}
const MEAN = [0.485, 0.456, 0.406];
const DEVIATION = [0.229, 0.224, 0.225];
const normalised = (x) => x.map((v, i) => (v - MEAN[Math.floor(i / 1024)]) / DEVIATION[Math.floor(i / 1024)]);
const channelsLast = (x, factor) => Float32Array.from({ length: 3072 }, (_, i) => factor * x[(i % 3) * 1024 + Math.floor(i / 3)]);
/** Cepstral coefficients [frames, coefficients]: every coefficient walks around the mean it has in a recording, with bursts. */
function cepstrum({ data: reference, dims: [, frames, width] }, random) {
  const out = new Float32Array(frames * width);
  for (let c = 0; c < width; c++) {
    const column = Array.from({ length: frames }, (_, t) => reference[t * width + c]);
    const mean = column.reduce((a, b) => a + b, 0) / frames;
    const spread = Math.sqrt(column.reduce((a, b) => a + (b - mean) ** 2, 0) / frames) + 0.5;
    const offset = mean + spread * random.normal();
    const [from, to, height] = [frames * random.unit(), frames * random.unit(), 2 * spread * random.normal()];
    let walk = random.normal();
    for (let t = 0; t < frames; t++) {
      walk = 0.85 * walk + 0.53 * random.normal();
      out[t * width + c] = offset + spread * walk + (t > Math.min(from, to) && t < Math.max(from, to) ? height : 0);
    }
  }
  return out;
}

const once = (make) => {
  let made;
  return () => (made ??= make());
};
// As many for calibration as the digits have; more to test on, which costs little and tells half a point.
const CALIBRATION = 179;
const TESTED = 2160;

/**
 * { name, path, options, calibration, test, labels?, data } of every model that is there, or of those with `only` in their names; feeds are
 * { [input]: Tensor } in the form's layout. `stamps` is the folder of photographs.
 */
export function models(folder, { only = "", stamps = STAMPS } = {}) {
  const digits = readNpz(join(folder, "digits/data.npz"));
  const sets = { calibration: rows(digits.get("x_val")), test: rows(digits.get("x_test")) };
  const labels = Array.from(digits.get("y_test").data, Number);
  const found = [];
  /** `feeds` gives the elements of the inputs of a set. */
  const take = (name, path, input, dims, feeds, rest) => {
    if (!existsSync(join(folder, path)) || !name.includes(only)) return;
    const tensors = (set) => feeds(set).map((x) => ({ [input]: new Tensor("float32", x, dims) }));
    found.push({ name, path: join(folder, path), options: {}, calibration: tensors("calibration"), test: tensors("test"), ...rest });
  };
  const add = (name, path, input, dims, make, rest) => {
    const random = { calibration: generator(1), test: generator(2) };
    take(name, path, input, dims, (set) => sets[set].map((digit) => make(digit, random[set])), rest);
  };
  for (const network of ["resnet", "mobilenet", "vit"]) {
    const real = { data: "digits", labels };
    for (const form of ["", "_bn", "_dynamo"])
      add(`${network}${form}.onnx`, `digits/${network}${form}.onnx`, "x", [1, 1, 16, 16], (d) => d, real);
    add(`${network}.pb`, `digits/${network}.pb`, "x", [1, 16, 16, 1], (d) => d, real);
    add(`${network}_saved_model`, `digits/${network}_saved_model`, "x", [1, 16, 16, 1], (d) => d, real);
  }
  const photos = once(() => photographs(stamps));
  const scenes = {
    calibration: once(() => pictures(CALIBRATION, photos(), generator(3))),
    test: once(() => pictures(TESTED, photos(), generator(4))),
  };
  for (const [name, path, dims, make] of [
    ["cifar_resnet20", "real/cifar_resnet20/model.onnx", [1, 3, 32, 32], normalised],
    ["mlperf_ic_resnet8", "real_tf/mlperf_ic_resnet8/frozen.pb", [1, 32, 32, 3], (x) => channelsLast(x, 255)],
  ]) {
    add(name, path, "x", dims, (d, r) => make(coloured(d, r)), { data: "made from digits" });
    if (photos().length === 0) continue;
    take(`${name} pictures`, path, "x", dims, (set) => scenes[set]().images.map(make), { data: "pictures", labels: scenes.test().labels });
  }
  const digit28 = (d) => resized(d, 16, 16, 28, 28);
  const other = { data: "made from digits" };
  add("mnist_cntk", "real/mnist_cntk/model.onnx", "Input3", [1, 1, 28, 28], (d) => digit28(d).map((v) => 255 * v), other);
  const mnist = (d) => digit28(d).map((v) => (v - 0.1307) / 0.3081);
  add("cnn_mnist_pytorch", "real/cnn_mnist_pytorch/model.onnx", "0", [1, 1, 28, 28], mnist, other);
  const uniformly = (_, r) => Float32Array.from({ length: 640 }, r.unit);
  add("mlperf_ad_autoencoder", "real_tf/mlperf_ad_autoencoder/frozen.pb", "x", [1, 640], uniformly, { data: "uniform" });
  const tools = synthesizers();
  const words = {
    calibration: once(() => spoken(CALIBRATION, tools, generator(3))),
    test: once(() => spoken(TESTED, tools, generator(4))),
  };
  for (const kind of ["CNN_S", "DS_CNN_S", "DNN_S", "CRNN_S", "GRU_S", "LSTM_S", "Basic_LSTM_S"]) {
    const [name, at] = [`kws_${kind}`, `real_tf/kws_${kind}`];
    const path = `${at}/frozen.pb`;
    if (!existsSync(join(folder, at, "io.npz"))) continue;
    const seen = [...readNpz(join(folder, at, "io.npz"))].find(([key]) => key.includes("Mfcc"))?.[1];
    const options = { inputs: ["Mfcc"], outputs: ["labels_softmax"] };
    add(name, path, "Mfcc", seen.dims, (_, r) => cepstrum(seen, r), { data: "made cepstra", options });
    if (tools.length === 0 || !`${name} spoken`.includes(only)) continue;
    const [, frames, coefficients] = seen.dims;
    const heard = { data: "spoken words", options, labels: words.test().labels };
    take(`${name} spoken`, path, "Mfcc", seen.dims, (set) => words[set]().cepstra(frames, coefficients), heard);
  }
  return found;
}
