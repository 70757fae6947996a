// Pictures of 32 x 32 as CIFAR's networks see them: photographs of animals and vehicles with transparent surroundings (the stamps of Tux Paint,
// Debian package tuxpaint-stamps-default, or any folder of such PNG files) in front of a made sky, wall, road or meadow. The label is what the
// file's name or folder says, where it is one of CIFAR-10's ten.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inflateSync } from "node:zlib";

export const STAMPS = "/usr/share/tuxpaint/stamps";
/** By class: what a path holds. */
const CLASSES = [
  /747|f22|planes/,
  /sedan|sportscar|beetle|indycar/,
  /birds\//,
  /cats\//,
  /deer\//,
  /dogs\//,
  /frog/,
  /equines\//,
  /ship|junk|boat/i,
  /truck|dumper/,
];
const SIZE = 32;
const DETAIL = 128;

/** { width, height, channels, data } of a PNG with 8 bits a channel, not interlaced; undefined for others. */
function decoded(bytes) {
  const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  const [depth, colour, interlaced] = [bytes[24], bytes[25], bytes[28]];
  const channels = { 2: 3, 6: 4 }[colour];
  if (depth !== 8 || channels === undefined || interlaced !== 0) return undefined;
  const parts = [];
  for (let at = 8; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    if (bytes.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const raw = inflateSync(Buffer.concat(parts));
  const stride = width * channels;
  const out = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    for (let i = 0; i < stride; i++) {
      const left = i < channels ? 0 : out[y * stride + i - channels];
      const up = y === 0 ? 0 : out[(y - 1) * stride + i];
      const corner = i < channels || y === 0 ? 0 : out[(y - 1) * stride + i - channels];
      const p = left + up - corner;
      const [a, b, c] = [Math.abs(p - left), Math.abs(p - up), Math.abs(p - corner)];
      const guess = [0, left, up, (left + up) >> 1, a <= b && a <= c ? left : b <= c ? up : corner][filter];
      out[y * stride + i] = raw[y * (stride + 1) + 1 + i] + guess;
    }
  }
  return { width, height, channels, data: out };
}

/** The object alone, transparent around: RGBA in 0..1 with the colours weighed by alpha, at most DETAIL pixels wide and high. */
function cut({ width, height, channels, data }) {
  const alpha = (x, y) => (channels < 4 ? 1 : data[(y * width + x) * 4 + 3] / 255);
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (alpha(x, y) > 0.5)
        [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
  const step = Math.max(1, Math.max(right - left, bottom - top) / DETAIL);
  const [w, h] = [Math.floor((right - left) / step), Math.floor((bottom - top) / step)];
  const out = new Float32Array(w * h * 4);
  const counts = new Float32Array(w * h);
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++) {
      const to = Math.min(h - 1, Math.floor((y - top) / step)) * w + Math.min(w - 1, Math.floor((x - left) / step));
      const a = alpha(x, y);
      counts[to]++;
      for (let c = 0; c < 3; c++) out[to * 4 + c] += (a * data[(y * width + x) * channels + c]) / 255;
      out[to * 4 + 3] += a;
    }
  return { width: w, height: h, data: out.map((v, i) => v / counts[i >> 2]) };
}

/** Every picture below a folder that shows one of the classes, no drawings, in the order of paths. */
export function photographs(folder) {
  if (!existsSync(folder)) return [];
  const paths = readdirSync(folder, { recursive: true })
    .map(String)
    .filter((p) => p.endsWith(".png") && !/cartoon|mirror|toys/.test(p))
    .sort();
  return paths.flatMap((path) => {
    const label = CLASSES.findIndex((c) => c.test(path));
    const image = label < 0 ? undefined : decoded(readFileSync(join(folder, path)));
    return image === undefined ? [] : [{ label, image: cut(image) }];
  });
}

/** Skies and grounds. */
const ABOVE = [
  [0.55, 0.7, 0.9],
  [0.8, 0.85, 0.9],
  [0.35, 0.45, 0.35],
  [0.6, 0.58, 0.55],
];
const BELOW = [
  [0.35, 0.45, 0.2],
  [0.5, 0.5, 0.5],
  [0.5, 0.42, 0.3],
  [0.3, 0.4, 0.5],
  [0.75, 0.7, 0.6],
];
const pick = (list, random) => list[Math.floor(random.unit() * list.length)];

/** [3, 32, 32] in 0..1: the object a good part of the picture, either way round, in another light each time. */
function scene(image, random) {
  const [above, below] = [pick(ABOVE, random), pick(BELOW, random)];
  const horizon = 10 + 14 * random.unit();
  const light = 0.75 + 0.5 * random.unit();
  const turned = random.unit() < 0.5;
  const scale = ((0.9 + 0.3 * random.unit()) * SIZE) / Math.max(image.width, image.height);
  const [x0, y0] = [(SIZE - scale * image.width) * random.unit(), (SIZE - scale * image.height) * (0.4 + 0.5 * random.unit())];
  // Coarse and fine texture behind.
  const coarse = Array.from({ length: 81 }, () => 0.04 * random.normal());
  const out = new Float32Array(3 * SIZE * SIZE);
  for (let y = 0; y < SIZE; y++)
    for (let x = 0; x < SIZE; x++) {
      const share = 1 / (1 + Math.exp((y - horizon) / 1.5));
      const [i, j] = [Math.floor(y / 4), Math.floor(x / 4)];
      const [u, v] = [(y % 4) / 4, (x % 4) / 4];
      const c = (a, b) => coarse[a * 9 + b];
      const texture =
        (1 - u) * ((1 - v) * c(i, j) + v * c(i, j + 1)) + u * ((1 - v) * c(i + 1, j) + v * c(i + 1, j + 1)) + 0.015 * random.normal();
      // The mean of what the pixel covers of the photograph.
      const sum = [0, 0, 0, 0];
      const [from, to] = [(x - x0) / scale, (x + 1 - x0) / scale];
      const steps = Math.max(1, Math.min(8, Math.ceil(1 / scale)));
      for (let a = 0; a < steps; a++)
        for (let b = 0; b < steps; b++) {
          const across = from + ((b + 0.5) / steps) * (to - from);
          const px = Math.floor(turned ? image.width - across : across);
          const py = Math.floor((y - y0 + (a + 0.5) / steps) / scale);
          if (px < 0 || py < 0 || px >= image.width || py >= image.height) continue;
          for (let k = 0; k < 4; k++) sum[k] += image.data[(py * image.width + px) * 4 + k] / steps ** 2;
        }
      for (let k = 0; k < 3; k++) {
        const back = above[k] * share + below[k] * (1 - share) + texture;
        out[(k * SIZE + y) * SIZE + x] = Math.min(1, Math.max(0, light * (back * (1 - sum[3]) + sum[k])));
      }
    }
  return out;
}

/** `count` pictures and their labels, as many of one class as of another. */
export function pictures(count, photos, random) {
  const byClass = CLASSES.map((_, label) => photos.filter((p) => p.label === label)).filter((list) => list.length > 0);
  const chosen = Array.from({ length: count }, (_, i) => pick(byClass[i % byClass.length], random));
  return { labels: chosen.map((p) => p.label), images: chosen.map((p) => scene(p.image, random)) };
}
