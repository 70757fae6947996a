/** Models that compute what a given one does and are hard to quantize: channels apart by up to a factor, or a few that are loud. */
import type { Graph } from "../../src/ir/types.js";
import { inferGraph } from "../../src/ops/infer.js";
import { channelClasses, scaleChannels } from "../../src/quantize/channels.js";
import { generator } from "../../src/runtime/measure.js";

export type Hurt = "channels apart" | "outlier channels";

/** Every class of channels that may be scaled, scaled: by up to sqrt(1000) up and down, or 100 times for one channel in sixteen. */
export function hurt(g: Graph, how: Hurt, seed = 7): Graph {
  const random = generator(seed);
  const chosen = channelClasses(g, inferGraph(g).facts).map((of) => ({
    of,
    factors: Float64Array.from({ length: of.channels }, () =>
      how === "channels apart" ? 1000 ** (random() - 0.5) : random() < 1 / 16 ? 100 : 1,
    ),
  }));
  return scaleChannels(g, chosen);
}
