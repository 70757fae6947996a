/**
 * Images as calibration feeds, decoded by sharp where it is installed. The preprocessing is stated, and part of a calibration's key: ranges
 * of differently prepared images are different ranges.
 */
import { defineError } from "../diagnostics.js";
import { Tensor } from "../tensor.js";
import type { FeedPort, Feeds } from "./types.js";

export const sharpMissing = defineError<{ why: string }>(
  "P1606",
  "images cannot be decoded",
  ({ why }) => ({
    what: `the package sharp does not load: ${why}`,
    why: "images are decoded by it, and it is not installed with Partita",
    fix: "npm install sharp, or give the images as arrays in an .npz",
  }),
  3,
);
export const badImages = defineError<{ what: string; fix: string }>("P1607", "images cannot be made feeds", ({ what, fix }) => ({
  what,
  fix,
}));

export const IMAGE_EXTENSIONS: readonly string[] = [".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".avif"];

/** How an image becomes an input: resized, cut, then (pixel / divide - mean) / std by channel. uint8 inputs take the pixels themselves. */
export interface Preprocessing {
  /** Height and width of the input, where the graph leaves them open. */
  readonly size?: readonly [height: number, width: number] | undefined;
  /** "crop": the image covers size / 0.875, and its centre is taken; "stretch": both sides become the input's. Default "crop". */
  readonly fit?: "crop" | "stretch" | undefined;
  /** Order of the channels. Default "rgb". */
  readonly order?: "rgb" | "bgr" | undefined;
  /** Default 255. */
  readonly divide?: number | undefined;
  /** By channel, after `divide`, red first. Default [0.485, 0.456, 0.406], or [0] for grey images. */
  readonly mean?: readonly number[] | undefined;
  /** By channel. Default [0.229, 0.224, 0.225], or [1] for grey images. */
  readonly std?: readonly number[] | undefined;
}

/** Everything a preprocessing says, defaults included, as a calibration's key holds it. */
export function preprocessingText(p: Preprocessing = {}, grey = false): string {
  const { fit, order, divide, mean, std } = settled(p, grey ? 1 : 3);
  const numbers = (list: readonly number[]): string => list.join(" ");
  return `image ${p.size === undefined ? "" : `${p.size.join("x")} `}${fit} ${order} (x / ${divide} - [${numbers(mean)}]) / [${numbers(std)}]`;
}

const settled = (p: Preprocessing, channels: 1 | 3) => ({
  fit: p.fit ?? "crop",
  order: p.order ?? "rgb",
  divide: p.divide ?? 255,
  mean: p.mean ?? (channels === 1 ? [0] : [0.485, 0.456, 0.406]),
  std: p.std ?? (channels === 1 ? [1] : [0.229, 0.224, 0.225]),
});

/** What is used of sharp. */
interface Image {
  resize(width: number, height: number, options: { fit: "cover" | "fill"; kernel: string }): Image;
  extract(box: { left: number; top: number; width: number; height: number }): Image;
  removeAlpha(): Image;
  toColourspace(space: "srgb" | "b-w"): Image;
  raw(): Image;
  toBuffer(options: { resolveWithObject: true }): Promise<{ data: Uint8Array; info: { width: number; height: number; channels: number } }>;
}
type Sharp = (file: string) => Image;

async function loadSharp(): Promise<Sharp> {
  const name = "sharp";
  try {
    return ((await import(name)) as { default: Sharp }).default;
  } catch (cause) {
    throw sharpMissing({ why: cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause) }, {}, cause);
  }
}

/** One feed an image. Throws P1606 without sharp, P1607 for a graph that takes no images, for an odd preprocessing, for a file that is no image. */
export async function* imageFeeds(
  files: readonly string[],
  ports: readonly FeedPort[],
  preprocessing: Preprocessing = {},
  load: () => Promise<Sharp> = loadSharp,
): AsyncGenerator<Feeds> {
  const plan = planOf(ports, preprocessing);
  const sharp = await load();
  for (const file of files) {
    let pixels: Uint8Array;
    try {
      pixels = await decode(sharp, file, plan);
    } catch (cause) {
      throw badImages(
        { what: `it cannot be decoded: ${cause instanceof Error ? cause.message : cause}`, fix: "leave it out" },
        { file },
        cause,
      );
    }
    yield { [plan.name]: inputOf(pixels, plan) };
  }
}

interface ImagePlan extends ReturnType<typeof settled> {
  readonly name: string;
  readonly type: "float32" | "uint8";
  readonly height: number;
  readonly width: number;
  readonly channels: 1 | 3;
  readonly channelsLast: boolean;
}

function planOf(ports: readonly FeedPort[], p: Preprocessing): ImagePlan {
  const [port] = ports;
  const dims = port?.dims;
  if (ports.length !== 1 || port === undefined || dims?.length !== 4 || (port.type !== "float32" && port.type !== "uint8"))
    throw badImages({
      what: `the graph's inputs are ${ports.map((q) => `${q.name}: ${q.type}[${q.dims?.join(", ") ?? "?"}]`).join(", ")}`,
      fix: "images feed one float32 or uint8 input of 4 dims; give other inputs as .npz",
    });
  const where = { value: port.name };
  const channelsLast = dims[1] !== 1 && dims[1] !== 3;
  const channels = channelsLast ? dims[3] : dims[1];
  if (channels !== 1 && channels !== 3)
    throw badImages(
      { what: `neither dim 1 nor dim 3 of [${dims.join(", ")}] is 1 or 3 channels`, fix: "give the feeds as an .npz" },
      where,
    );
  const side = (i: number): number => {
    const d = dims[i + (channelsLast ? 1 : 2)];
    const size = typeof d === "number" ? d : p.size?.[i];
    if (size === undefined || !Number.isSafeInteger(size) || size < 1 || size > 65_535)
      throw badImages(
        { what: `the graph leaves the image's size open: [${dims.join(", ")}]`, fix: "give `size` (--image-size 224x224)" },
        where,
      );
    return size;
  };
  const rest = settled(p, channels);
  for (const [name, list] of [
    ["mean", rest.mean],
    ["std", rest.std],
  ] as const)
    if (list.length !== channels || !list.every((x) => Number.isFinite(x) && (name === "mean" || x !== 0)))
      throw badImages({ what: `${name} [${list.join(", ")}] does not fit ${channels} channels`, fix: `give ${channels} numbers` }, where);
  if (!(Number.isFinite(rest.divide) && rest.divide !== 0))
    throw badImages({ what: `divide is ${rest.divide}`, fix: "give a number that is not 0" }, where);
  return { ...rest, name: port.name, type: port.type, height: side(0), width: side(1), channels, channelsLast };
}

/** Pixels [height, width, channels], 8 bits each. */
async function decode(sharp: Sharp, file: string, { height, width, channels, fit }: ImagePlan): Promise<Uint8Array> {
  const base = sharp(file)
    .removeAlpha()
    .toColourspace(channels === 1 ? "b-w" : "srgb");
  const grown = (n: number): number => Math.round(n / 0.875);
  const sized =
    fit === "stretch"
      ? base.resize(width, height, { fit: "fill", kernel: "linear" })
      : base.resize(grown(width), grown(height), { fit: "cover", kernel: "linear" }).extract({
          left: Math.floor((grown(width) - width) / 2),
          top: Math.floor((grown(height) - height) / 2),
          width,
          height,
        });
  const { data, info } = await sized.raw().toBuffer({ resolveWithObject: true });
  if (info.width !== width || info.height !== height || info.channels !== channels)
    throw new Error(`it became ${info.height}x${info.width} with ${info.channels} channels`);
  return data;
}

/** The input tensor of one image's pixels. */
export function inputOf(pixels: Uint8Array, plan: ImagePlan): Tensor {
  const { height, width, channels, channelsLast, order, divide, mean, std } = plan;
  const area = height * width;
  const dims = channelsLast ? [1, height, width, channels] : [1, channels, height, width];
  const out = plan.type === "uint8" ? new Uint8Array(area * channels) : new Float32Array(area * channels);
  for (let c = 0; c < channels; c++) {
    const [m, s] = [mean[c] ?? 0, std[c] ?? 1];
    const to = order === "bgr" ? channels - 1 - c : c;
    for (let i = 0; i < area; i++) {
      const x = pixels[i * channels + c] ?? 0;
      out[channelsLast ? i * channels + to : to * area + i] = plan.type === "uint8" ? x : (x / divide - m) / s;
    }
  }
  return new Tensor(plan.type, out as never, dims);
}
