/** The passes in their order. */
import { cancelViews } from "./cancel-views.js";
import { commonSubexpressions } from "./common-subexpressions.js";
import { deadCode } from "./dead-code.js";
import { foldBatchNorm } from "./fold-batchnorm.js";
import { foldConstants } from "./fold-constants.js";
import { foldScales } from "./fold-scales.js";
import { foldShapes } from "./fold-shapes.js";
import { inlineIf } from "./inline-if.js";
import { layout } from "./layout.js";
import { noOps } from "./no-ops.js";
import type { Pass } from "./pass.js";
import { raiseActivations } from "./raise/activations.js";
import { raiseAttention } from "./raise/attention.js";
import { raiseNormalizations } from "./raise/normalizations.js";

/** Every pass once, in the order of its first use; docs and `inspect --after` name them. */
export const pipeline: readonly Pass[] = [
  inlineIf,
  foldShapes,
  foldConstants,
  noOps,
  layout,
  cancelViews,
  raiseNormalizations,
  raiseActivations,
  raiseAttention,
  foldBatchNorm,
  foldScales,
  commonSubexpressions,
  deadCode,
];
