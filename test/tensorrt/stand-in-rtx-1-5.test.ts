/** The addon against the stand-in for TensorRT-RTX 1.7. */
import { suite } from "../support/tensorrt-suite.js";

suite("rtx-1.5");
