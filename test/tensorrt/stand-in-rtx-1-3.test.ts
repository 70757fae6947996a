/** The addon against the stand-in for TensorRT-RTX 1.4. */
import { suite } from "../support/tensorrt-suite.js";

suite("rtx-1.3");
